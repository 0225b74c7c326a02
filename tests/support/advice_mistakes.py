"""Maps that are wrong where shapes alone do not say what is right; and the right ones.

Square kernels, layers of one shape, several scopes of the same names: what a message
suggests here may well fit and be wrong.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from map_mistakes import Mistake, layers, under
from repository import DATA

import tf2flax
from tf2flax import concat, src, stack

BERT = DATA / "bert" / "model.ckpt"
LAYER = "bert/encoder/layer_0/"
WIDE = DATA / "wide_deep_partitioned" / "model.ckpt"
TABLE = "dnn/input_from_feature_columns/input_layer/query_embedding/embedding_weights"
RESNET = DATA / "resnet_slim" / "model.ckpt"


@dataclasses.dataclass(frozen=True)
class Advice:
    """A mistake, and what is expected of its message.

    Attributes:
        mistake: The mistake.
        right: The map that was meant.
        words: Words of the message.
        is_solved: True if something that it suggests makes the map right.
    """

    mistake: Mistake
    right: Any
    words: tuple[str, ...] = ()
    is_solved: bool = True


Shapes = dict[str, tuple[int, ...]]


def shapes_of(path: pathlib.Path, *skipped: str) -> Shapes:
    """Shapes of the tensors whose names hold none of some words."""
    tensors = tf2flax.open_checkpoint(path)
    return {
        name: tensor.shape
        for name, tensor in tensors.items()
        if not any(word in name for word in skipped)
    }


def renamed(shapes: Shapes, *pairs: tuple[str, str]) -> Shapes:
    for old, new in pairs:
        shapes = {name.replace(old, new): shape for name, shape in shapes.items()}
    return shapes


def having(shapes: Shapes, *words: str) -> Shapes:
    return {n: s for n, s in shapes.items() if any(word in n for word in words)}


FLAX = (("gamma", "scale"), ("beta", "bias"))
MODEL = renamed(
    shapes_of(BERT, "adam_", "global_step", "cls/"), ("bert/", "params/"), *FLAX
)
ENCODER = having(MODEL, "/encoder/")
POOLER = having(MODEL, "/pooler/")
BARE = renamed(POOLER, ("params/", ""))
SELF = having(ENCODER, "/self/")
THIRD = renamed(having(ENCODER, "layer_1"), ("layer_1", "layer_2"))
ENC = {"bert/encoder/": "params/encoder/"}
CAPTURED = {"bert/encoder/layer_{i}/": "params/encoder/layer_{i}/"}

SQUARE = layers(2, query_kernel=(4, 4), key_kernel=(4, 4), out_kernel=(4, 4),
                query_bias=(4,), key_bias=(4,), out_bias=(4,))  # fmt: skip
SQ = under("enc/", SQUARE)
TARGET = under("params/", SQUARE)
ONE = {name: shape for name, shape in SQ.items() if "layer_0" in name}

Q = "bert/encoder/layer_{i}/attention/self/query/kernel"
QUERY: Shapes = {f"params/l_{i}/q": (32, 4, 8) for i in range(2)}
HEADS: Shapes = {
    f"params/l_{i}/{m}/{p}": (32, 4, 8) if p == "kernel" else (4, 8)
    for i in range(2) for m in ("query", "key", "value") for p in ("kernel", "bias")
}  # fmt: skip
DOTS = "... (h k) -> ... h k"
SELF_SCOPE = src("bert/encoder/layer_{i}/attention/self/")
AVERAGES = {
    f"net/{m}/{p}/ExponentialMovingAverage": shape
    for m in ("fc1", "fc2", "out") for p, shape in (("kernel", (4, 4)), ("bias", (4,)))
}  # fmt: skip
MEANS = {
    "params/" + name[4:].removesuffix("/ExponentialMovingAverage"): shape
    for name, shape in AVERAGES.items()
}
AVERAGE = {"net/{m}/{p}/ExponentialMovingAverage": "params/{m}/{p}"}
CELL = "rnn/multi_rnn_cell/cell_{i}/basic_lstm_cell/"
LSTM: Shapes = {
    CELL.format(i=i) + p: s
    for i in range(2) for p, s in (("kernel", (16, 32)), ("bias", (32,)))
}  # fmt: skip
LSTM |= {"softmax/weights": (8, 50), "softmax/biases": (50,), "embedding": (50, 8)}
CELLS: Shapes = {
    f"params/cell_{i}/{p}": s
    for i in range(2) for p, s in (("kernel", (16, 32)), ("bias", (32,)))
}  # fmt: skip
CONV = renamed(
    shapes_of(RESNET, "Momentum", "Average", "moving_", "global_step"),
    ("resnet_v1_8/", "params/"), ("weights", "kernel"), ("biases", "bias"), *FLAX,
)  # fmt: skip
UNITS = renamed(having(CONV, "/block"), ("/bottleneck_v1", ""))
LAYERS = "was the model built with another number of layers?"
MEANING = "Only the meaning of the axes tells"


def advice(
    tensors: Any, wrong: Any, target: Any, right: Any, *words: str, solved: bool = True
) -> Advice:
    return Advice(Mistake(tensors, wrong, target), right, words, solved)


def no_key(tensors: Any, wrong: Any, target: Any, right: Any, *words: str) -> Advice:
    """What is right cannot be known: nothing may be suggested that is wrong."""
    return advice(tensors, wrong, target, right, *words, solved=False)


ADVICE: dict[str, Advice] = {
    # Layers
    "more layers, captured": no_key(
        BERT, CAPTURED, ENCODER | THIRD, ENC, "`layer_0` to `layer_1`", LAYERS
    ),
    "more layers than one, captured": no_key(
        ONE, {"enc/layer_{i}/": "params/layer_{i}/"}, TARGET,
        {"enc/": "params/"}, "has `layer_0` there", LAYERS,
    ),
    "more layers than one, by name": no_key(
        ONE, {"enc/layer_{i}/{m}/kernel": "params/layer_{i}/{m}/kernel"},
        having(TARGET, "kernel"), {"enc/": "params/"}, LAYERS,
    ),
    "more layers, and a typo": advice(
        BERT, {"bert/encoder/layers_{i}/": "params/encoder/layer_{i}/"},
        ENCODER | THIRD, ENC, "Did you mean `bert/encoder/layer_{i}/`?", solved=False,
    ),
    "a typo beside the next number": advice(
        BERT, {"bert/encoder/layr_{i-1}/": "params/encoder/layer_{i}/"},
        renamed(ENCODER, ("layer_1", "layer_2"), ("layer_0", "layer_1")),
        {"bert/encoder/layer_{i-1}/": "params/encoder/layer_{i}/"},
        "Did you mean `bert/encoder/layer_{i-1}/`?",
    ),
    "a typo beside several components": advice(
        BERT, {"brt/{path...}/kernel": "params/{path...}/kernel"},
        having(ENCODER, "kernel"), ENC, "Did you mean `bert/{path...}/kernel`?",
    ),
    # Heads and other numbers in keys
    "heads of kernels and biases": advice(
        BERT, {SELF_SCOPE.rearrange(DOTS, h=8): "params/l_{i}/"}, HEADS,
        {SELF_SCOPE.rearrange(DOTS, h=4): "params/l_{i}/"}, "h=4 fits",
    ),
    "heads that do not divide": advice(
        BERT, {SELF_SCOPE.rearrange(DOTS, h=3): "params/l_{i}/"}, HEADS,
        {SELF_SCOPE.rearrange(DOTS, h=4): "params/l_{i}/"}, "h=4 fits",
    ),
    "numbers of a reshape": no_key(
        BERT, {src(Q).reshape(32, 8, 4): "params/l_{i}/q"}, QUERY,
        {src(Q).reshape(32, 4, 8): "params/l_{i}/q"},
        "The numbers of `.reshape(32, 8, 4)` do not fit", "[32, 8, 4] of [32, 32]",
    ),
    "numbers of a reshape, of a bias": no_key(
        {"b": (32,)}, {src("b").reshape(8, 4): "b"}, {"b": (4, 8)},
        {src("b").reshape(4, 8): "b"}, "The numbers of `.reshape(8, 4)` do not fit",
    ),
    "heads and order": no_key(
        BERT, {src(Q).rearrange("d (h k) -> h d k", h=8): "params/l_{i}/q"}, QUERY,
        {src(Q).reshape(32, 4, 8): "params/l_{i}/q"}, MEANING,
    ),
    "axis of a concat": no_key(
        {"q": (4, 4), "k": (4, 4)}, {concat("q", "k", axis=0): "x"}, {"x": (4, 8)},
        {concat("q", "k", axis=1): "x"}, "`axis=1` would give its shape", MEANING,
    ),
    "axis of a stack": advice(
        {"a": (2, 4), "b": (2, 4)}, {stack("a", "b", axis=0): "x"}, {"x": (4, 2, 2)},
        {stack("a", "b", axis=0).transpose(2, 0, 1): "x"}, "or (2, 1, 0)", solved=False,
    ),
    "another axis of an index": no_key(
        {"w": (8, 8)}, {src("w")[:2]: "w"}, {"w": (8, 2)}, {src("w")[:, :2]: "w"},
        "`[:, :2]` would give its shape", MEANING,
    ),
    "another axis of an index, in another shape": no_key(
        {"w": (16, 32)}, {src("w")[:8]: "w"}, {"w": (16, 8)}, {src("w")[:, :8]: "w"},
        "`[:, :8]` would give the shape of the leaf",
    ),
    "a kernel of a convolution": no_key(
        RESNET, {"resnet_v1_8/block1/unit_1/bottleneck_v1/conv2/weights": "k"},
        {"k": (8, 8, 3, 3)}, {}, "(3, 2, 0, 1)", "Only their meaning tells",
    ),
    "a transposed matrix": advice(
        LSTM, {"softmax/": "params/softmax/"},
        {"params/softmax/kernel": (50, 8), "params/softmax/bias": (50,)},
        {src("softmax/weights").transpose(): "params/softmax/kernel",
         "softmax/biases": "params/softmax/bias"},
    ),
    "in and out swapped": no_key(
        BERT, {f"{LAYER}intermediate/dense/": "out/", f"{LAYER}output/dense/": "in/"},
        {"in/kernel": (32, 64), "out/kernel": (64, 32)},
        {f"{LAYER}intermediate/dense/": "in/", f"{LAYER}output/dense/": "out/"},
        f"`{LAYER}output/dense/kernel` of entry 2 has this shape: are the two values "
        "swapped?",
    ),
    "heads of a square kernel that come out": no_key(
        BERT, {f"{LAYER}attention/output/dense/kernel": "k"}, {"k": (32, 4, 8)},
        {src(f"{LAYER}attention/output/dense/kernel").rearrange(
            "(h k) d -> d h k", h=4): "k"},
        "`.reshape(32, 4, 8)` would give its shape", MEANING,
    ),
    "heads of a square kernel before its rows": no_key(
        BERT, {f"{LAYER}attention/self/query/kernel": "k"}, {"k": (4, 8, 32)},
        {src(f"{LAYER}attention/self/query/kernel").rearrange(
            "d (h k) -> h k d", h=4): "k"},
        "`.reshape(4, 8, 32)` would give its shape", MEANING,
    ),
    "heads that are merged to a square kernel": no_key(
        {"k": (4, 8, 32)}, {"k": "k"}, {"k": (32, 32)},
        {src("k").rearrange("h k d -> d (h k)"): "k"}, MEANING,
    ),
    "heads of a bias": advice(
        BERT, {f"{LAYER}attention/self/query/bias": "b"}, {"b": (4, 8)},
        {src(f"{LAYER}attention/self/query/bias").reshape(4, 8): "b"},
        ".reshape(4, 8)",
    ),
    "heads of a kernel that is not square": advice(
        {"k": (20, 32)}, {"k": "k"}, {"k": (20, 4, 8)},
        {src("k").reshape(20, 4, 8): "k"}, ".reshape(20, 4, 8)",
    ),
    # Slots, which fit wherever their variables do
    "the only part of a variable": advice(
        WIDE, {f"{TABLE}/part_0": "q"}, {"q": (300, 8)}, {TABLE: "q"},
    ),
    "a part of several": no_key(
        WIDE, {f"{TABLE}/part_0": "q"}, {"q": (100, 8)}, {},
        f"has `{TABLE}` as one tensor of shape [300, 8]",
    ),
    "an operation that reads a variable": advice(
        RESNET, {"resnet_v1_8/conv1/weights/read": "k"}, {"k": (7, 7, 3, 64)},
        {"resnet_v1_8/conv1/weights": "k"},
    ),
    "a slot with a typo": advice(
        BERT, {"bert/pooler/dense/kernel/adm_m": "k"}, {"k": (32, 32)},
        {"bert/pooler/dense/kernel/adam_m": "k"}, "`bert/pooler/dense/kernel/adam_m`",
    ),
    # Scopes
    "captures of several entries": advice(
        SQ, {"enc/layer{i}/query/": "params/layer_{i}/query/",
             "enc/layer{i}/key/": "params/layer_{i}/key/"},
        {n: s for n, s in TARGET.items() if "/out/" not in n}, {"enc/": "params/"},
        "`layer_{i}/` in place of `layer{i}/`",
    ),
    "a level that all members of some lack": no_key(
        BERT, {"bert/encoder/layer_{i}/output/": "l{i}/"},
        {f"l{i}/{p}": s for i in (0, 1)
         for p, s in (("kernel", (64, 32)), ("bias", (32,)), ("scale", (32,)))},
        {"bert/encoder/layer_{i}/output/dense/": "l{i}/"},
        'src("bert/encoder/layer_{i}/output/dense/kernel")` -> `l{i}/kernel`',
    ),
    "one scope for query, key and value": no_key(
        {"attn/w": (16, 16), "attn/b": (16,)}, {"attn/": "attn/"},
        {f"attn/{m}/{p}": (16, 16) if p == "kernel" else (16,)
         for m in ("query", "key", "value") for p in ("kernel", "bias")}, {},
        "`attn/` holds `b`, `w`",
    ),
    "one tensor for query, key and value": no_key(
        {"attn/w": (16, 16)}, {"attn/": "attn/"},
        {f"attn/{m}w": (16, 16) for m in "qkv"}, {}, "only its meaning tells",
    ),
    "a scope of a cell that has two kernels": no_key(
        {"rnn/cell/kernel": (24, 64), "rnn/cell/bias": (64,)}, {"rnn/cell/": "c/"},
        {"c/hh/kernel": (16, 64), "c/hh/bias": (64,)}, {},
        "`rnn/cell/` holds `bias`, `kernel`",
    ),
    "a table of another size elsewhere": no_key(
        WIDE, {f"{TABLE.partition('query')[0]}": "/"}, {"query/embedding": (300, 8)},
        {TABLE: "query/embedding"}, "`query_embedding/`",
    ),
    "weights by a longer name": advice(
        BERT, {"cls/seq_relationship/": "h/"}, {"h/kernel": (2, 32)},
        {"cls/seq_relationship/output_weights": "h/kernel"},
        "`cls/seq_relationship/output_weights` is meant, add the entry",
    ),
    "no slash on both sides": advice(
        BERT, {"bert/pooler/dense": "params"},
        {"params/kernel": (32, 32), "params/bias": (32,)},
        {"bert/pooler/dense/": "params/"}, '`{"bert/pooler/dense/": "params/"}`',
    ),
    "no slash on both sides, and a typo": advice(
        BERT, {"bert/poler": "params/pooler"}, POOLER,
        {"bert/pooler/": "params/pooler/"}, '`{"bert/pooler/": "params/pooler/"}`',
    ),
    "params/ forgotten": advice(
        BERT, {"bert/pooler/": "pooler/"}, POOLER,
        {"bert/pooler/": "params/pooler/"}, '`{"bert/pooler/": "params/pooler/"}`',
    ),
    "params/ forgotten, captured": advice(
        BERT, {"bert/encoder/layer_{i}/": "layer_{i}/"}, ENCODER, ENC,
        '`{"bert/encoder/layer_{i}/": "params/encoder/layer_{i}/"}`',
    ),
    "params/ too many": advice(
        BERT, {"bert/pooler/": "params/pooler/"}, BARE, {"bert/pooler/": "pooler/"},
        '`{"bert/pooler/": "pooler/"}`',
    ),
    "params/ too many, captured": advice(
        SQ, {"enc/layer_{i}/": "params/layer_{i}/"}, SQUARE, {"enc/": "/"},
        '`{"enc/layer_{i}/": "layer_{i}/"}`',
    ),
    "params/ too many, by name": advice(
        BERT, {f"bert/{name}": f"params/{name}" for name in BARE}, BARE,
        {"bert/": "/"}, "Leave `params/` out of the values.",
    ),
    "a level forgotten in values": advice(
        BERT, {f"bert/{n}": f"params/{n.replace('pooler/', '')}" for n in BARE}, POOLER,
        {"bert/": "params/"}, "In the values, write `params/pooler/dense/` in place of",
    ),
    "a last level that is missing": advice(
        BERT, {"bert/pooler/": "params/pooler/"},
        renamed(POOLER, ("/dense", "")), {"bert/pooler/dense/": "params/pooler/"},
        "Did you mean `bert/pooler/dense/`?",
    ),
    "a last level that is missing, captured": advice(
        BERT, {"bert/encoder/layer_{i}/attention/": "params/l_{i}/"},
        {n: (32, 32) for n in HEADS if "kernel" in n},
        {SELF_SCOPE: "params/l_{i}/"},
        "Did you mean `bert/encoder/layer_{i}/attention/self/`?",
    ),
    "a last level that may be one of three": no_key(
        BERT, {SELF_SCOPE: "params/l_{i}/"},
        {f"params/l_{i}/kernel": (32, 32) for i in range(2)},
        {Q: "params/l_{i}/kernel"}, "Name the scope that is meant",
    ),
    "a last level with a number": advice(
        RESNET, {"resnet_v1_8/block{b}/unit_{u}/": "params/block{b}/unit_{u}/"}, UNITS,
        {"resnet_v1_8/block{b}/unit_{u}/bottleneck_v1/": "params/block{b}/unit_{u}/"},
        "unit_{u}/bottleneck_v1/`?",
    ),
    "a level too many in the key": advice(
        BERT, {"bert/pooler/dense/": "params/pooler/"}, POOLER,
        {"bert/pooler/": "params/pooler/"}, "Did you mean `bert/pooler/`?",
    ),
    "a level missing under the whole checkpoint": advice(
        BERT, {"/": "params/"}, ENCODER | POOLER, {"bert/": "params/"},
        "Did you mean `bert/`?",
    ),
    "a cell that is one of two": no_key(
        LSTM, {"rnn/basic_lstm_cell/": "params/"},
        {"params/kernel": (16, 32), "params/bias": (32,)},
        {CELL.format(i=0): "params/"}, "only their meaning tells",
    ),
    "a cell by another name": advice(
        LSTM, {CELL.replace("basic_", ""): "params/cell_{i}/"}, CELLS,
        {CELL: "params/cell_{i}/"}, f"Did you mean `{CELL}`?",
    ),
    "a scope that is as much like two": no_key(
        under("encoder/", SQUARE) | under("decoder/", SQUARE), {"ecoder/": "params/"},
        TARGET, {"encoder/": "params/"}, "`decoder/`, `encoder/`",
    ),
    "a value that ends as two scopes do": no_key(
        BERT, {"bert/pooler/dense/": "dense/"},
        {"params/a/dense/kernel": (32, 32), "params/b/dense/kernel": (32, 32)}, {},
        "which is meant: `params/a/dense/`, `params/b/dense/`?",
    ),
    "a value that ends as two leaves do": no_key(
        BERT, {"bert/pooler/dense/kernel": "dense/kernel"},
        {"params/a/dense/kernel": (32, 32), "params/b/dense/kernel": (32, 32)}, {},
        "Name the leaf that is meant",
    ),
    # Names
    "averages of a scope": advice(
        AVERAGES, {"net/": "params/"}, MEANS, AVERAGE,
        'Add the entry `src("net/{i}/{j}/ExponentialMovingAverage")`',
    ),
    "averages of a captured scope": advice(
        AVERAGES, {"net/{m}/": "params/{m}/"}, MEANS, AVERAGE,
    ),
    "an average by its initials": advice(
        RESNET, {"resnet_v1_8/logits/biases/EMA": "k"}, {"k": (10,)},
        {"resnet_v1_8/logits/biases/ExponentialMovingAverage": "k"},
    ),
    "a slot of a variable that has none": no_key(
        SQ, {"enc/layer_0/query/kernel/Adam": "m"}, {"m": (4, 4)}, {},
        "and no such slot of it",
    ),
    "a slot of a variable that has others": no_key(
        BERT, {"bert/pooler/dense/": "slots/"}, {"slots/kernel/Adam": (32, 32)}, {},
    ),
    "a leaf too many beside one that is filled": no_key(
        SQ, {"enc/": "params/"}, TARGET | {"params/layer_0/query/bias2": (4,)},
        {"enc/": "params/"}, "on_missing='keep'",
    ),
    "a module too many beside one that is filled": no_key(
        SQ, {"enc/": "params/"}, TARGET | {"params/layer_0/key2/kernel": (4, 4)},
        {"enc/": "params/"}, "holds `key/`, `out/`, `query/`",
    ),
    "kernels by another name": advice(
        SQ, {"enc/": "params/"}, renamed(TARGET, ("kernel", "weight")),
        [("enc/{l}/{m}/kernel", "params/{l}/{m}/weight"), ("enc/", "params/")],
    ),
    "an abbreviation of one of two": advice(
        RESNET, {"resnet_v1_8/conv1/BatchNorm/": "bn/"}, {"bn/moving_var": (64,)},
        {"resnet_v1_8/conv1/BatchNorm/moving_variance": "bn/moving_var"},
    ),
    "names of PyTorch": advice(
        BERT, {"bert/embeddings/LayerNorm/": "params/ln/"}, {"params/ln/weight": (32,)},
        {"bert/embeddings/LayerNorm/gamma": "params/ln/weight"},
    ),
    "a module by another name": advice(
        SQ, {"enc/": "params/"}, renamed(TARGET, ("/out/", "/output/")),
        [("enc/", "params/"), ("enc/layer_{i}/out/", "params/layer_{i}/output/")],
    ),
    "tables of embeddings": advice(
        BERT, {"bert/embeddings/": "e/"},
        {"e/word_embeddings/embedding": (100, 32)},
        {"bert/embeddings/word_embeddings": "e/word_embeddings/embedding"},
    ),
    "a value with a typo": advice(
        BERT, {"bert/encoder/layer_0/attention/self/key/kernel":
               "params/encoder/layer_0/attention/self/ky/kernel"},
        {n: s for n, s in SELF.items() if n.endswith("kernel")}, ENC, solved=False,
    ),
    "names that are abbreviated": no_key(
        SQ, {"enc/layer_0/q/kernel": "q"}, {"q": (4, 4)},
        {"enc/layer_0/query/kernel": "q"}, "`enc/layer_0/` holds `key/`",
    ),
    "a scope to a leaf": advice(
        BERT, {"bert/pooler/dense": "k"}, {"k": (32, 32)},
        {"bert/pooler/dense/kernel": "k"}, "Did you mean `bert/pooler/dense/kernel`?",
    ),
}  # fmt: skip
