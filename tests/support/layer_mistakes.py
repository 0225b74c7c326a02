"""Maps in which layers, their numbers or their parts are others than in the checkpoint.

As `advice_mistakes`: what is pasted must give the right values, where every layer has
the same shapes.
"""

from __future__ import annotations

from advice_mistakes import (
    BERT,
    LAYERS,
    RESNET,
    Advice,
    Shapes,
    advice,
    no_key,
    renamed,
)
from map_mistakes import layers, under
from repository import DATA

from tf2flax import concat, src, stack

GPT2 = DATA / "gpt2" / "model.ckpt"
OUTPUT = "bert/encoder/layer_{i}/output/dense/"
UNIT = "resnet_v1_8/block1/unit_{u}/bottleneck_v1/conv2/weights"
SQUARE = layers(3, w=(4, 4), b=(4,))
DENSE: Shapes = {
    f"net/dense{ending}/{name}": shape
    for ending in ("", "_1", "_2")
    for name, shape in (("kernel", (8, 8)), ("bias", (8,)))
}
NORMS: Shapes = {
    f"net/batch_normalization{ending}/{name}": (8,)
    for ending in ("", "_1")
    for name in ("gamma", "beta")
}
BLOCKS: Shapes = {
    f"m/block_{b}/{layer}/w": (4, 4) for b in (0, 1) for layer in ("dense", "dense_1")
}
BLOCKS_RIGHT = {
    "m/block_{i}/dense/": "p/block_{i}/dense_0/",
    "m/block_{i}/dense_1/": "p/block_{i}/dense_1/",
}
PARTS = ("query", "key", "value")
C_ATTN = "model/h{i}/attn/c_attn/"
SELF = "bert/encoder/layer_{i}/attention/self/"
EIGHT: Shapes = {
    name.replace("dense_", "dense_1").replace("dense/", "dense_10/"): shape
    for name, shape in DENSE.items()
}
COUNTED: Shapes = under("e/", layers(4, w=(4, 4), b=(4,)))
COUNTED = {name: shape for name, shape in COUNTED.items() if "layer_0" not in name}
STATS: Shapes = {
    f"net/batch_normalization{ending}/{name}": (8,)
    for ending in ("", "_1")
    for name in ("gamma", "beta", "moving_mean", "moving_variance")
}
TWO_LEVELS: Shapes = {f"m/b_{b}/l_{k}/w": (4, 4) for b in (1, 2) for k in (1, 2, 3)}
TWO_TARGET: Shapes = {f"p/b_{b}/l_{k}/w": (4, 4) for b in (0, 1) for k in (0, 1, 2)}
STACKED: Shapes = {f"e/l_{i}/{name}": (4, 6) for i in range(12) for name in "abc"}


def outputs(*numbers: int) -> Shapes:
    return {
        f"l{i}/{name}": shape
        for i in numbers
        for name, shape in (("kernel", (64, 32)), ("bias", (32,)))
    }


def dense(*numbers: int) -> Shapes:
    return {
        f"params/Dense_{i}/{name}": shape
        for i in numbers
        for name, shape in (("kernel", (8, 8)), ("bias", (8,)))
    }


def items(before: str) -> Shapes:
    return {
        f"p/{before}{i}/{name}": shape
        for i in (0, 1, 2)
        for name, shape in (("w", (4, 4)), ("b", (4,)))
    }


def stats(stem: str) -> Shapes:
    return {
        f"{collection}/{stem}_{i}/{name}": (8,)
        for i in (0, 1)
        for collection, names in (
            ("params", ("scale", "bias")), ("batch_stats", ("mean", "var")),
        )
        for name in names
    }  # fmt: skip


def blocks(stem: str) -> Shapes:
    return {f"p/block_{b}/{stem}_{k}/w": (4, 4) for b in (0, 1) for k in (0, 1)}


def slices(scope: str, value: str, width: int, *words: str) -> list[tuple[object, str]]:
    """The three parts of GPT-2's kernels and biases, and their leaves."""
    return [
        (src(f"{scope}{tensor}")[index], f"{value}{word}/{leaf}")
        for place, word in enumerate(words)
        for tensor, leaf, index in (
            ("w", "kernel", (0, ..., slice(place * width, (place + 1) * width))),
            ("b", "bias", (slice(place * width, (place + 1) * width),)),
        )
    ]


def gpt2(value: str, *words: str) -> Shapes:
    return {
        f"{value.format(i=i)}{word}/{name}": shape
        for i in (0, 1) for word in words
        for name, shape in (("kernel", (32, 32)), ("bias", (32,)))
    }  # fmt: skip


LAYER_ADVICE: dict[str, Advice] = {
    # Numbers that are shifted
    "the checkpoint counts from 0": advice(
        BERT, {OUTPUT: "l{i}/"}, outputs(1, 2),
        {OUTPUT.replace("{i}", "{i-1}"): "l{i}/"},
        "Did you mean `bert/encoder/layer_{i-1}/output/dense/`?",
    ),
    "the checkpoint counts from 1": advice(
        RESNET, {UNIT: "u{u}"}, {f"u{i}": (3, 3, 8, 8) for i in (0, 1)},
        {UNIT.replace("{u}", "{u+1}"): "u{u}"}, "unit_{u+1}/",
    ),
    "an offset too many": advice(
        BERT, {OUTPUT.replace("{i}", "{i+1}"): "l{i}/"}, outputs(0, 1),
        {OUTPUT: "l{i}/"}, f"Did you mean `{OUTPUT}`?",
    ),
    "an offset in the other direction": advice(
        BERT, {OUTPUT.replace("{i}", "{i+1}"): "l{i}/"}, outputs(1, 2),
        {OUTPUT.replace("{i}", "{i-1}"): "l{i}/"}, "The numbers differ by 2.",
    ),
    "shifted layers under a scope": advice(
        under("enc/", SQUARE), {"enc/": "params/"},
        {f"params/layer_{i}/{n}": s for i in (1, 2, 3)
         for n, s in (("w", (4, 4)), ("b", (4,)))},
        {"enc/layer_{i-1}/": "params/layer_{i}/"},
        'Add the entry `src("enc/layer_{i-1}/")` -> `params/layer_{i}/`.',
    ),
    "shifted names": advice(
        {f"w{i}": (2, 2) for i in range(3)}, {"w{i}": "v{i}"},
        {f"v{i}": (2, 2) for i in (1, 2, 3)}, {"w{i-1}": "v{i}"},
        "Did you mean `w{i-1}`?",
    ),
    "shifted, and more layers": no_key(
        BERT, {OUTPUT: "l{i}/"}, outputs(1, 2, 3), {}, LAYERS
    ),
    "padded numbers that are shifted": no_key(
        {f"b_{i:03}/w": (2, 2) for i in range(3)}, {"b_{i}/w": "b{i}"},
        {f"b{i:03}": (2, 2) for i in (1, 2, 3)}, {}, LAYERS,
    ),
    "a number that is missing between others": no_key(
        {"conv1/w": (4,), "conv3/w": (4,)}, {"conv2/w": "v"}, {"v": (4,)}, {},
        "has `conv1`, `conv3` there.",
    ),
    "another version within captures": advice(
        RESNET, {UNIT.replace("neck_v1", "neck_v2"): "u{u}"},
        {f"u{i}": (3, 3, 8, 8) for i in (1, 2)}, {UNIT: "u{u}"},
        f"Did you mean `{UNIT}`?",
    ),
    "numbers of other layers of the same model": advice(
        EIGHT, {"net/": "params/"}, dense(0, 1, 2),
        {"net/dense_{i+10}/": "params/Dense_{i}/"},
        'Add the entry `src("net/dense_{i+10}/")` -> `params/Dense_{i}/`.',
    ),
    "layers of another name": advice(
        COUNTED, {"e/": "p/"}, items("blocks_"), {"e/layer_{i+1}/": "p/blocks_{i}/"},
        'add the entry `src("e/layer_{i+1}/")` -> `p/blocks_{i}/`.',
    ),
    "layers of another name, in a list": advice(
        COUNTED, {"e/": "p/"}, items("blocks/"), {"e/layer_{i+1}/": "p/blocks/{i}/"},
        "If they are meant in this order, add the entry",
    ),
    "a list of layers": advice(
        {name.replace("layer_", "layers/"): s for name, s in COUNTED.items()},
        {"e/": "p/"}, items("layers_"), {"e/layers/{i+1}/": "p/layers_{i}/"},
        'Add the entry `src("e/layers/{i+1}/")` -> `p/layers_{i}/`.',
    ),
    "layers of two other names": no_key(
        COUNTED | {n.replace("layer", "unit"): s for n, s in COUNTED.items()},
        {"e/": "p/"}, items("blocks_"), {"e/layer_{i+1}/": "p/blocks_{i}/"},
    ),
    "two kinds of layers for one": no_key(
        COUNTED, {"e/": "p/"}, items("enc_") | items("dec_"), {},
    ),
    "layers of another name, more than there are": no_key(
        COUNTED, {"e/": "p/"}, items("blocks_") | {"p/blocks_3/w": (4, 4)}, {},
    ),
    "layers of another name and size": no_key(
        dict.fromkeys(COUNTED, (5,)), {"e/": "p/"}, items("blocks_"), {},
    ),
    "shifted layers of collections": advice(
        {f"m/bn_{i}/{n}": (8,) for i in (1, 2)
         for n in ("gamma", "beta", "moving_mean", "moving_variance")},
        {"m/": "{collection}/"}, stats("bn"), {"m/bn_{i+1}/": "{collection}/bn_{i}/"},
        'Add the entry `src("m/bn_{i+1}/")` -> `{collection}/bn_{i}/`.',
    ),
    "shifts of each block": advice(
        {f"m/block_{b}/dense_{2 * b + k}/w": (4, 4) for b in (0, 1) for k in (1, 2)},
        {"m/": "p/"}, blocks("dense"),
        {f"m/block_{b}/dense_{{i+{2 * b + 1}}}/": f"p/block_{b}/dense_{{i}}/"
         for b in (0, 1)},
        'src("m/block_1/dense_{i+3}/")` -> `p/block_1/dense_{i}/`',
    ),
    "shifts at two levels": advice(
        TWO_LEVELS, {"m/": "p/"}, TWO_TARGET, {"m/b_{b+1}/l_{k+1}/": "p/b_{b}/l_{k}/"},
        'Add the entry `src("m/b_{i+1}/l_{j+1}/")` -> `p/b_{i}/l_{j}/`.',
    ),
    "shifts at two levels, captured": advice(
        TWO_LEVELS, {"m/b_{b}/l_{k}/": "p/b_{b}/l_{k}/"}, TWO_TARGET,
        {"m/b_{b+1}/l_{k+1}/": "p/b_{b}/l_{k}/"},
        "Did you mean `m/b_{b+1}/l_{k+1}/`?", "the numbers differ at 2 levels",
    ),
    "shifts at two levels, captured leaves": advice(
        TWO_LEVELS, {"m/b_{b}/l_{k}/w": "p/b_{b}/l_{k}/w"}, TWO_TARGET,
        {"m/b_{b+1}/l_{k+1}/": "p/b_{b}/l_{k}/"},
        "Did you mean `m/b_{b+1}/l_{k+1}/w`?",
    ),
    # Layers of which TensorFlow does not number the first
    "dense to dense_1": advice(
        DENSE, {"net/": "params/"}, renamed(dense(1, 2, 3), ("Dense", "dense")),
        {"net/dense/": "params/dense_1/", "net/dense_{i-1}/": "params/dense_{i}/"},
        "If they are meant in this order, add the entries",
    ),
    # The key and the entry, of which each is half of it.
    "dense to dense_1, captured": no_key(
        DENSE, {"net/dense_{i}/": "params/dense_{i}/"},
        renamed(dense(1, 2, 3), ("Dense", "dense")),
        {"net/dense/": "params/dense_1/", "net/dense_{i-1}/": "params/dense_{i}/"},
        'the key `net/dense_{i-1}/` and add the entry `src("net/dense/")`',
    ),
    "dense and one more": no_key(
        DENSE | {"net/dense_3/x": (1,)}, {"net/": "params/"},
        renamed(dense(1, 2, 3), ("Dense", "dense")), {},
    ),
    "batch_normalization of collections": advice(
        STATS, {"net/": "{collection}/"}, stats("BatchNorm"),
        {"net/batch_normalization/": "{collection}/BatchNorm_0/",
         "net/batch_normalization_{i}/": "{collection}/BatchNorm_{i}/"},
        '`src("net/batch_normalization_1/")` -> `{collection}/BatchNorm_1/`',
    ),
    "batch_normalization of two entries": advice(
        STATS, [("net/", "params/"), (src("net/"), "batch_stats/")],
        stats("BatchNorm"),
        {"net/batch_normalization/": "{collection}/BatchNorm_0/",
         "net/batch_normalization_{i}/": "{collection}/BatchNorm_{i}/"},
        '`src("net/batch_normalization/")` -> `params/BatchNorm_0/`',
    ),
    "dense to Dense_0": advice(
        DENSE, {"net/": "params/"}, dense(0, 1, 2),
        {"net/dense/": "params/Dense_0/", "net/dense_{i}/": "params/Dense_{i}/"},
        "TensorFlow numbers layers from the second one on: `dense`, `dense_1`.",
    ),
    "dense to Dense_0, captured": advice(
        DENSE, {"net/dense_{i}/": "params/Dense_{i}/"}, dense(0, 1, 2),
        {"net/dense/": "params/Dense_0/", "net/dense_{i}/": "params/Dense_{i}/"},
        'Add the entry `src("net/dense/")` -> `params/Dense_0/`.',
    ),
    "dense to Dense_0, without enough layers": no_key(
        DENSE, {"net/": "params/"}, dense(0, 1, 2, 3), {},
    ),
    "dense to Dense_1": advice(
        DENSE, {"net/": "params/"}, dense(1, 2, 3),
        {"net/dense/": "params/Dense_1/", "net/dense_{i-1}/": "params/Dense_{i}/"},
        '`src("net/dense_{i-1}/")` -> `params/Dense_{i}/`',
    ),
    "dense to two of Dense_1": advice(
        DENSE, {"net/": "params/"}, dense(1, 2),
        {"net/dense_{i}/": "params/Dense_{i}/"},
        '`src("net/dense_{i}/")` -> `params/Dense_{i}/`',
    ),
    "dense within blocks": advice(
        BLOCKS, {"m/": "p/"}, blocks("dense"), BLOCKS_RIGHT,
        'Add the entry `src("m/block_{i}/dense/")` -> `p/block_{i}/dense_0/`.',
    ),
    "dense within blocks, captured": advice(
        BLOCKS, {"m/block_{b}/dense_{k}/": "p/block_{b}/dense_{k}/"}, blocks("dense"),
        BLOCKS_RIGHT,
        'Add the entry `src("m/block_{i}/dense/")` -> `p/block_{i}/dense_0/`.',
    ),
    "dense within blocks, captured leaves": advice(
        BLOCKS, {"m/block_{b}/dense_{k}/w": "p/block_{b}/dense_{k}/w"}, blocks("dense"),
        BLOCKS_RIGHT,
        'Add the entry `src("m/block_{i}/dense/w")` -> `p/block_{i}/dense_0/w`.',
    ),
    "dense within blocks to Dense_0": advice(
        BLOCKS, {"m/": "p/"}, blocks("Dense"),
        {key: value.replace("dense", "Dense") for key, value in BLOCKS_RIGHT.items()},
        '`src("m/block_{i}/dense_1/")` -> `p/block_{i}/Dense_1/`.',
    ),
    "dense, three levels": advice(
        {f"s{s}/{name}": shape for s in (0, 1) for name, shape in BLOCKS.items()},
        {"/": "/"},
        {f"s{s}/m{name[1:]}": shape for s in (0, 1)
         for name, shape in blocks("dense").items()},
        {"/": "/", "s{s}/m/block_{i}/dense/": "s{s}/m/block_{i}/dense_0/"},
        'Add the entry `src("s{i}/m/block_{j}/dense/")` -> `s{i}/m/block_{j}/dense_0/`',
    ),
    "dense that is stacked without the first": no_key(
        DENSE, {stack("net/dense_{i}/", over="i"): "d/"},
        {"d/kernel": (3, 8, 8), "d/bias": (3, 8)},
        {stack("net/dense/", "net/dense_1/", "net/dense_2/"): "d/"},
        "2 are stacked, and `net/dense/bias` is not among them",
    ),
    "a stack of layers without the scope around them": advice(
        under("enc/", SQUARE), {stack("layer_{i}/", over="i"): "l/"},
        {"l/w": (3, 4, 4), "l/b": (3, 4)},
        {stack("enc/layer_{i}/", over="i"): "l/"},
        'Did you mean `stack("enc/layer_{i}/", over="i", axis=0)`?',
    ),
    "a stack of layers that lie under two scopes": no_key(
        under("enc/", SQUARE) | under("dec/", SQUARE),
        {stack("layer_{i}/", over="i"): "l/"}, {"l/w": (3, 4, 4), "l/b": (3, 4)}, {},
    ),
    "dense of an entry that transposes": no_key(
        DENSE, {src("net/dense_{i}/kernel").transpose(): "d{i}"},
        {f"d{i}": (8, 8) for i in range(3)}, {},
    ),
    "batch_normalization to BatchNorm_0": advice(
        NORMS, {"net/": "params/"},
        {f"params/BatchNorm_{i}/{n}": (8,) for i in (0, 1) for n in ("scale", "bias")},
        {"net/batch_normalization/": "params/BatchNorm_0/",
         "net/batch_normalization_{i}/": "params/BatchNorm_{i}/"},
    ),
    # Captures
    "stars": advice(
        BERT, {OUTPUT.replace("{i}", "*"): "l_*/"},
        {f"l_{i}/kernel": (64, 32) for i in (0, 1)}, {OUTPUT: "l_{i}/"},
        f'`{{"{OUTPUT}": "l_{{i}}/"}}`',
    ),
    "stars, by name": advice(
        BERT, {f"{OUTPUT}kernel".replace("{i}", "*"): "l_*"},
        {f"l_{i}": (64, 32) for i in (0, 1)}, {f"{OUTPUT}kernel": "l_{i}"},
        "Names are not patterns",
    ),
    "a star in the key alone": no_key(
        BERT, {"bert/encoder/layer_*/": "params/"}, {"params/kernel": (64, 32)}, {},
        "Names are not patterns",
    ),
    "captures side by side": advice(
        under("enc/", layers(2, query_w=(4, 4), key_w=(4, 4))),
        {"enc/layer_{i}/{p}/": "{p}{i}/"},
        {f"{p}{i}/w": (4, 4) for p in ("query", "key") for i in (0, 1)},
        {"enc/layer_{i}/{p}/": "{p}{i+0}/"}, "captures side by side", "`ey0`",
    ),
    # Query, key and value
    "slices of a fused tensor": advice(
        GPT2, {C_ATTN: "a{i}/"}, gpt2("a{i}/", *"qkv"),
        slices(C_ATTN, "a{i}/", 32, *"qkv"), "three times as large",
    ),
    "slices of a fused tensor, a level away": advice(
        GPT2, {"model/": "/"}, gpt2("h{i}/attn/", *PARTS),
        slices(C_ATTN, "h{i}/attn/", 32, *PARTS),
        'src("model/h{i}/attn/c_attn/w")[0, :, :32]` -> `h{i}/attn/query/kernel`',
    ),
    "a slice of a fused tensor, by name": advice(
        GPT2, {f"{C_ATTN}w": "a{i}/k"}, {f"a{i}/k": (32, 32) for i in (0, 1)},
        {src(f"{C_ATTN}w")[0, :, 32:64]: "a{i}/k"},
        'use the key `src("model/h{i}/attn/c_attn/w")[0, :, 32:64]`',
    ),
    # Each entry gives one part; all of them are pasted in test_advice.py.
    "slices of a fused tensor, captured": advice(
        GPT2, {f"{C_ATTN}w": "a{i}/{m}/kernel", f"{C_ATTN}b": "a{i}/{m}/bias"},
        gpt2("a{i}/", *PARTS), slices(C_ATTN, "a{i}/", 32, *PARTS),
        'the entry `src("model/h{i}/attn/c_attn/w")[0, :, :32]` -> `a{i}/query/kernel`',
        solved=False,
    ),
    "slices of a fused stack, captured": advice(
        GPT2, {stack(f"{C_ATTN}w", over="i"): "a/{m}/kernel"},
        {f"a/{m}/kernel": (2, 32, 32) for m in PARTS},
        [(stack(f"{C_ATTN}w", over="i")[:, 0, :, k * 32:k * 32 + 32], f"a/{m}/kernel")
         for k, m in enumerate(PARTS)],
        "three times as large", solved=False,
    ),
    "transposed leaves beside a square one": advice(
        {"a/w": (4, 6), "b/w": (6, 6), "c/w": (5, 4)}, {"{n}/w": "{n}/k"},
        {"a/k": (6, 4), "b/k": (6, 6), "c/k": (4, 5)},
        {"b/w": "b/k", src("a/w").transpose(): "a/k", src("c/w").transpose(): "c/k"},
        'Add the entry `src("a/w").transpose()` -> `a/k`.', solved=False,
    ),
    "slices of a fused tensor, with heads": advice(
        {"h/c_attn/w": (32, 96), "h/c_attn/b": (96,)}, {"h/": "/"},
        {f"{part}/{n}": s for part in PARTS
         for n, s in (("kernel", (32, 4, 8)), ("bias", (4, 8)))},
        [(src(f"h/c_attn/{t}")[(..., slice(32 * i, 32 * i + 32))].reshape(*shape),
          f"{part}/{n}") for i, part in enumerate(PARTS)
         for t, n, shape in (("w", "kernel", (32, 4, 8)), ("b", "bias", (4, 8)))],
        'src("h/c_attn/w")[:, :32].reshape(32, 4, 8)` -> `query/kernel`',
    ),
    "a third that is not a part of attention": no_key(
        {"w": (8, 24)}, {"w": "value/kernel"}, {"value/kernel": (8, 8)}, {},
        "another configuration",
    ),
    "query, key and value for one leaf": advice(
        BERT, {SELF: "a{i}/"},
        {f"a{i}/qkv/{n}": s for i in (0, 1)
         for n, s in (("kernel", (32, 96)), ("bias", (96,)))},
        [(concat(*(f"{SELF}{part}/{name}" for part in PARTS), axis=axis),
          f"a{{i}}/qkv/{name}") for name, axis in (("kernel", 1), ("bias", 0))],
        "made of them in this order",
    ),
    # Stacks
    "layers stacked along another axis": advice(
        STACKED, {stack("e/l_{i}/", over="i"): "/"}, dict.fromkeys("abc", (4, 12, 6)),
        {stack("e/l_{i}/", over="i", axis=1): "/"},
        '`stack("e/l_{0..11}/a", axis=0)`',
        'use the key `stack("e/l_{i}/", over="i", axis=1)`',
    ),
    "some layers stacked along another axis": advice(
        STACKED, {stack("e/l_{i}/", over="i"): "/"},
        {"a": (4, 12, 6), "b": (12, 4, 6), "c": (12, 4, 6)},
        [(stack("e/l_{i}/", over="i"), "/"),
         (stack("e/l_{i}/a", over="i", axis=1), "a")],
        'Add the entry `stack("e/l_{i}/a", over="i", axis=1)` -> `a`.',
    ),
    # Scopes that are alike by a letter
    "modules that are only a little like one": no_key(
        {"n/x/w": (2,), "n/y/w": (2,)}, {"n/": "/"},
        {f"{a}{b}/w": (2,) for a in "abcd" for b in "xyz"}, {}, "`n/` holds `x/`, `y/`",
    ),
    # Collections
    "params/ alone, of a target without": advice(
        BERT, {"bert/pooler/dense/": "params/"}, {"kernel": (32, 32), "bias": (32,)},
        {"bert/pooler/dense/": "/"}, 'write `{"bert/pooler/dense/": "/"}`',
    ),
}  # fmt: skip
