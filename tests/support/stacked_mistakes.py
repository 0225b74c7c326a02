"""Maps for leaves that stack layers, hold gates, or are parts of one tensor.

As `advice_mistakes`: what is pasted must give the right values.
"""

from __future__ import annotations

from advice_mistakes import Advice, Shapes, advice, no_key
from map_mistakes import layers, under
from repository import DATA

from tf2flax import src, stack

LAYERS: Shapes = under("e/", layers(3, q_kernel=(8, 6), q_bias=(6,), n_gamma=(8,)))
STACKED: Shapes = {"s/q/kernel": (3, 8, 6), "s/q/bias": (3, 6), "s/n/scale": (3, 8)}
ALL = stack("e/layer_{i}/", over="i")
KERNELS = stack("e/layer_{i}/q/kernel", over="i")
CELLS: Shapes = {f"e/lstm{end}/kernel": (5, 4) for end in ("", "_1", "_2")}
CELLS_RIGHT = {stack("e/lstm/", "e/lstm_1/", "e/lstm_2/"): "k/"}
NAMED: Shapes = {f"e/{name}/kernel": (5, 4) for name in ("first", "mid", "last")}
BERT = DATA / "bert" / "model.ckpt"
GPT2 = DATA / "gpt2" / "model.ckpt"
LSTM = DATA / "recurrent" / "model.ckpt"
BASIC = "basic/rnn/basic_lstm_cell/"
GATES: Shapes = {
    f"c/{side}{gate}/kernel": (rows, 6)
    for side, rows in (("i", 5), ("h", 6))
    for gate in "ifgo"
}
WAY_OUT = "tf2flax.suggest(checkpoint, target) writes a line for each gate"
PARTS = ("query", "key", "value")
STACKED_QKV: Shapes = {"attn/qkv/kernel": (3, 8, 8), "attn/qkv/bias": (3, 8)}
QKV_TARGET: Shapes = {
    f"attn/{part}/{name}": shape
    for part in PARTS
    for name, shape in (("kernel", (8, 8)), ("bias", (8,)))
}
QKV_RIGHT = [
    (src(f"attn/qkv/{name}")[i], f"attn/{part}/{name}")
    for i, part in enumerate(PARTS)
    for name in ("kernel", "bias")
]
PAIR: Shapes = {"attn/kv/kernel": (8, 16), "attn/q/kernel": (8, 8)}
PAIR_RIGHT = [
    ("attn/q/kernel", "attn/q/kernel"),
    (src("attn/kv/kernel")[:, :8], "attn/k/kernel"),
    (src("attn/kv/kernel")[:, 8:], "attn/v/kernel"),
]

STACKED_ADVICE: dict[str, Advice] = {
    # The checkpoint has one by one what a leaf stacks.
    "one layer for a stack, by name": advice(
        LAYERS, {"e/layer_1/q/kernel": "s/q/kernel"}, {"s/q/kernel": (3, 8, 6)},
        {KERNELS: "s/q/kernel"}, "The leaf stacks 3 layers",
    ),
    "one layer for a stack, along another axis": advice(
        LAYERS, {"e/layer_0/q/kernel": "k"}, {"k": (8, 3, 6)},
        {stack("e/layer_{i}/q/kernel", over="i", axis=1): "k"}, "one by one: use",
    ),
    "the scope of one layer for a stack": advice(
        LAYERS, {"e/layer_0/": "s/"}, STACKED, {ALL: "s/"}, "The leaf stacks 3 layers",
    ),
    "a scope around layers for a stack": advice(
        LAYERS, {"e/": "/"}, {f"layers{n[1:]}": s for n, s in STACKED.items()},
        {ALL: "layers/"}, "3 such layers, which the leaf stacks. Add the entry",
    ),
    "a scope without its number for a stack": advice(
        LAYERS, {"e/layer/": "s/"}, STACKED, {ALL: "s/"}, "such layers",
    ),
    "a name without its number for a stack": advice(
        LAYERS, {"e/layer/q/kernel": "k"}, {"k": (3, 8, 6)}, {KERNELS: "k"},
        "such layers",
    ),
    "scopes of a stack in several entries": advice(
        LAYERS, {"e/layer/q/": "s/q/", "e/layer/n/": "s/n/"}, STACKED,
        {stack("e/layer_{i}/n/", over="i"): "s/n/",
         stack("e/layer_{i}/q/", over="i"): "s/q/"},
        "The checkpoint has 3 such layers", "`; others alike.", solved=False,
    ),
    "one layer for a stack, with captures": advice(
        {f"e/l_{i}/{m}/w": (5, 4) for i in range(3) for m in "ab"},
        {"e/l_0/{i}/w": "s/{i}"}, {f"s/{m}": (3, 5, 4) for m in "ab"},
        {stack("e/l_{j}/{i}/w", over="j"): "s/{i}"}, "one by one: use",
    ),
    "one layer and another tensor of its shape": advice(
        {**layers(3, w=(5, 4)), "x_0/w": (5, 4)}, {"/": "/"},
        {"layer_0/w": (3, 5, 4), "x_0/w": (3, 5, 4)},
        {stack("layer_{i}/", over="i"): "layer_0/"}, "The leaf stacks", solved=False,
    ),
    "one layer for a stack of several equal axes": no_key(
        layers(4, w=(4, 4)), {"layer_0/w": "w"}, {"w": (4, 4, 4)}, {},
        "several axes are as long",
    ),
    "one layer for a stack of fewer": no_key(
        layers(4, w=(5, 4)), {"layer_0/w": "w"}, {"w": (3, 5, 4)}, {},
        "another configuration",
    ),
    "one layer of those that TensorFlow numbers": advice(
        CELLS, {"e/lstm_1/": "k/"}, {"k/kernel": (3, 5, 4)}, CELLS_RIGHT,
        'use the key `stack("e/lstm/", "e/lstm_1/", "e/lstm_2/", axis=0)`',
    ),
    # Layers that are counted and have no numbers
    "layers that TensorFlow numbers, counted": advice(
        CELLS, {stack("e/{i}/", over="i"): "k/"}, {"k/kernel": (3, 5, 4)}, CELLS_RIGHT,
        'over="i" counts numbers, and not all of `lstm`, `lstm_1`, `lstm_2` have one',
    ),
    "layers with names, counted": no_key(
        NAMED, {stack("e/{i}/kernel", over="i"): "k"}, {"k": (3, 5, 4)}, {},
        'Name each in the key, in the order in which the leaf has them: '
        'stack("e/first/kernel", ..., axis=0).',
    ),
    "layers with letters, counted": no_key(
        {f"e/l_{c}/kernel": (5, 4) for c in "abc"},
        {stack("e/l_{i}/", over="i"): "k/"}, {"k/kernel": (3, 5, 4)}, {},
        "not all of `l_a`, `l_b`, `l_c` have one", 'stack("e/l_a/", ..., axis=0)',
    ),
    # Gates
    "gates of a cell, by its scope": no_key(
        LSTM, {BASIC: "c/"}, GATES, {}, "If these hold all gates of a cell", WAY_OUT,
    ),
    "a gate of a cell, by name": no_key(
        LSTM, {f"{BASIC}kernel": "c/ii/kernel"}, {"c/ii/kernel": (5, 6)}, {},
        "4 gates and may have the rows of input and state", WAY_OUT,
    ),
    "a layer that is called as a gate": no_key(
        {"m/in/w": (4, 24)}, {"m/in/w": "in/w"}, {"in/w": (4, 6)}, {},
        "another configuration",
    ),
    # What is pasted everywhere leaves other entries as they are.
    "a level that some entries lack": advice(
        BERT, {"bert/pooler/dense/": "params/pooler/",
               "bert/layer_{i}/output/dense/": "params/l{i}/",
               "bert/layer_{i}/intermediate/dense/": "params/m{i}/"},
        {**{f"params/l{i}/kernel": (64, 32) for i in (0, 1)},
         **{f"params/m{i}/kernel": (32, 64) for i in (0, 1)},
         "params/pooler/kernel": (32, 32)},
        {"bert/pooler/dense/": "params/pooler/",
         "bert/encoder/layer_{i}/output/dense/": "params/l{i}/",
         "bert/encoder/layer_{i}/intermediate/dense/": "params/m{i}/"},
        "In the keys, write `bert/encoder/layer_{i}/` in place of `bert/layer_{i}/`",
    ),
    "a scope that keys and values have": advice(
        BERT, {"bert/encoder/layers_{i}/output/dense/": "layers_{i}/o/",
               "bert/encoder/layers_{i}/intermediate/dense/": "layers_{i}/m/"},
        {**{f"layers_{i}/o/kernel": (64, 32) for i in (0, 1)},
         **{f"layers_{i}/m/kernel": (32, 64) for i in (0, 1)}},
        {"bert/encoder/layer_{i}/output/dense/": "layers_{i}/o/",
         "bert/encoder/layer_{i}/intermediate/dense/": "layers_{i}/m/"},
        "In the keys, write `layer_{i}/` in place of `layers_{i}/`",
    ),
    "a level that expressions lack": no_key(
        GPT2, {src("h0/mlp/c_fc/w")[0]: "m", src("h1/mlp/c_fc/w")[0]: "n"},
        {"m": (32, 128), "n": (32, 128)}, {},
        "Put `model/` before the names in the keys.",
    ),
    "names that are joined by dots": advice(
        BERT, {"bert.encoder.layer_{i}.output.dense.": "l{i}/"},
        {f"l{i}/kernel": (64, 32) for i in (0, 1)},
        {"bert/encoder/layer_{i}/output/dense/": "l{i}/"},
        "Did you mean `bert/encoder/layer_{i}/output/dense/`?",
    ),
    "a level above parts that a capture names": advice(
        BERT, {"bert/encoder/layer_{i}/attention/{m}/": "l{i}/{m}/"},
        {f"l{i}/{m}/kernel": (32, 32) for i in (0, 1) for m in PARTS},
        {"bert/encoder/layer_{i}/attention/self/{m}/": "l{i}/{m}/"},
        "; 2 more alike. Did you mean",
    ),
    # Query, key and value
    "parts that are stacked": advice(
        STACKED_QKV, {"attn/": "attn/"}, QKV_TARGET, QKV_RIGHT, "three times as large",
    ),
    "a part that is stacked, by name": advice(
        STACKED_QKV, {"attn/qkv/kernel": "attn/key/kernel"},
        {"attn/key/kernel": (8, 8)}, {src("attn/qkv/kernel")[1]: "attn/key/kernel"},
        'use the key `src("attn/qkv/kernel")[1]`',
    ),
    "key and value in one tensor": advice(
        PAIR, {"attn/": "attn/"}, {f"attn/{p}/kernel": (8, 8) for p in "qkv"},
        PAIR_RIGHT, "twice as large: if it holds key and value in this order",
    ),
    "key and value in one tensor, by name": advice(
        PAIR, {"attn/kv/kernel": "attn/v/kernel"}, {"attn/v/kernel": (8, 8)},
        {src("attn/kv/kernel")[:, 8:]: "attn/v/kernel"}, "holds key and value",
    ),
    "a query of key and value": no_key(
        PAIR, {"attn/kv/kernel": "attn/q/kernel"}, {"attn/q/kernel": (8, 8)}, {},
        "another configuration",
    ),
}  # fmt: skip
