"""Mistakes that are easily made when porting, each made on purpose and found.

Layers of TensorFlow 1.15 (tests/data/traps) in JAX: first as they should be, which
gives TensorFlow's numbers, then with one mistake each. A mistake of the model is found
as the layer where it is; of a mistake of the map, the line to write is found as well.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from jax import lax
from repository import DATA

import tf2flax

FOLDER = DATA / "traps"
src = tf2flax.src
Arrays = Mapping[str, Any]
# A layer with a mistake; "" for none.
Layer = Callable[[Arrays, Arrays, str], Any]
LAYERS: dict[str, Layer] = {}
NHWC = ("NHWC", "HWIO", "NHWC")


def layer(fn: Layer) -> Layer:
    LAYERS[fn.__name__] = fn
    return fn


def conv(x: Any, kernel: Any, stride: int, padding: Any, groups: int = 1) -> Any:
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=NHWC,
        feature_group_count=groups,
    )


@layer
def conv_slim(v: Arrays, r: Arrays, mistake: str) -> Any:
    padding = "SAME" if mistake == "padded as TensorFlow's SAME" else [(1, 1), (1, 1)]
    return conv(r["image"], v["conv_slim/w"], 2, padding)


@layer
def units(v: Arrays, r: Arrays, mistake: str) -> Any:
    first, second = (2, 1) if mistake == "stride in the first unit" else (1, 2)
    y = jax.nn.relu(conv(r["image"], v["units/w1"], first, "SAME"))
    return conv(y, v["units/w2"], second, "SAME")


@layer
def depthwise(v: Arrays, r: Arrays, _: str) -> Any:
    return conv(r["image"], v["depthwise/w"], 1, "SAME", groups=4)


@layer
def separable(v: Arrays, r: Arrays, mistake: str) -> Any:
    kernel = v["separable/d"].reshape(3, 3, 1, 8)
    y = conv(r["image"], kernel, 1, "SAME", groups=4)
    if mistake == "an activation between":
        y = jax.nn.relu(y)
    return conv(y, v["separable/p"], 1, "SAME")


@layer
def deconv(v: Arrays, r: Arrays, mistake: str) -> Any:
    kernel = v["deconv/w"]
    if mistake == "axes exchanged, not flipped":
        kernel = kernel.transpose(0, 1, 3, 2)
    return lax.conv_transpose(
        r["image"], kernel, (2, 2), "SAME", transpose_kernel=not mistake
    )


@layer
def deconv_odd(v: Arrays, r: Arrays, mistake: str) -> Any:
    # Explicit pads for the odd size; SAME would give an even one.
    k, s, n = 4, 2, 15
    before = max((8 - 1) * s + k - n, 0) // 2
    low = k - 1 - before
    high = n + k - 1 - ((8 - 1) * s + 1) - low
    pads = [(low, high)] * 2
    if mistake == "cut from SAME":
        y = lax.conv_transpose(
            r["image"], v["deconv_odd/w"], (2, 2), "SAME", transpose_kernel=True
        )
        return y[:, 1:, 1:]
    return lax.conv_transpose(
        r["image"], v["deconv_odd/w"], (2, 2), pads, transpose_kernel=True
    )


@layer
def avg_pool(v: Arrays, r: Arrays, mistake: str) -> Any:
    return linen.avg_pool(
        r["image"],
        (3, 3),
        (2, 2),
        "SAME",
        count_include_pad=mistake == "padding counted",
    )


@layer
def logits(v: Arrays, r: Arrays, _: str) -> Any:
    return r["image"].mean((1, 2)) @ v["logits/w"]


def batch_norm(x: Any, v: Arrays, scope: str, epsilon: float, scale: Any) -> Any:
    mean, var = v[f"{scope}/mean"], v[f"{scope}/variance"]
    return (x - mean) * lax.rsqrt(var + epsilon) * scale + v[f"{scope}/beta"]


@layer
def bn(v: Arrays, r: Arrays, mistake: str) -> Any:
    epsilon = 1e-5 if mistake == "Flax's epsilon" else 1e-3
    return batch_norm(r["image"], v, "bn", epsilon, v["bn/gamma"])


@layer
def bn_fused(v: Arrays, r: Arrays, mistake: str) -> Any:
    epsilon = 1e-5 if mistake == "the epsilon that is given" else 1.001e-5
    return batch_norm(r["small"], v, "bn_fused", epsilon, 1.0)


@layer
def bn_slim(v: Arrays, r: Arrays, mistake: str) -> Any:
    scale = 0.9 if mistake == "a scale that is not stored" else 1.0
    return r["image"] * lax.rsqrt(1 + 1e-3) * scale + v["bn_slim/beta"]


def normalised(x: Any, axes: tuple[int, ...], epsilon: float) -> Any:
    mean = x.mean(axes, keepdims=True)
    var = ((x - mean) ** 2).mean(axes, keepdims=True)
    return (x - mean) * lax.rsqrt(var + epsilon)


@layer
def layer_norm(v: Arrays, r: Arrays, mistake: str) -> Any:
    y = normalised(r["row"], (1,), 1e-6 if mistake == "Flax's epsilon" else 1e-12)
    return y * v["layer_norm/gamma"] + v["layer_norm/beta"]


@layer
def layer_norm_4d(v: Arrays, r: Arrays, mistake: str) -> Any:
    axes = (3,) if mistake == "the last axis alone" else (1, 2, 3)
    y = normalised(r["image"], axes, 1e-12)
    return y * v["layer_norm_4d/gamma"] + v["layer_norm_4d/beta"]


@layer
def group_norm(v: Arrays, r: Arrays, mistake: str) -> Any:
    x = r["small"].reshape(2, 8, 8, 2, 2)
    axes = (1, 2, 3) if mistake == "groups that are not contiguous" else (1, 2, 4)
    y = normalised(x, axes, 1e-5 if mistake == "epsilon 1e-5" else 1e-6)
    return y.reshape(2, 8, 8, 4) * v["group_norm/gamma"] + v["group_norm/beta"]


@layer
def instance_norm(v: Arrays, r: Arrays, mistake: str) -> Any:
    y = normalised(r["small"], (1, 2), 1e-5 if mistake == "epsilon 1e-5" else 1e-6)
    return y * v["instance_norm/gamma"] + v["instance_norm/beta"]


@layer
def ema(v: Arrays, r: Arrays, _: str) -> Any:
    return r["wide"] @ v["ema/averaged"]


@layer
def gelu(v: Arrays, r: Arrays, mistake: str) -> Any:
    return jax.nn.gelu(r["wide"], approximate=mistake != "by erf")


@layer
def leaky_relu(v: Arrays, r: Arrays, mistake: str) -> Any:
    return jax.nn.leaky_relu(r["wide"], 0.01 if mistake == "Flax's slope" else 0.2)


@layer
def hard_sigmoid(v: Arrays, r: Arrays, mistake: str) -> Any:
    x = r["wide"]
    if mistake == "sigmoid":
        return jax.nn.sigmoid(x)
    if mistake == "JAX's":
        return jax.nn.hard_sigmoid(x)
    return jnp.clip(0.2 * x + 0.5, 0, 1)


@layer
def peephole(v: Arrays, r: Arrays, mistake: str) -> Any:
    x, old = r["sequence"][:, 0], r["c0"]
    gates = jnp.concatenate([x, r["h0"]], 1) @ v["peephole/kernel"]
    i, j, f, o = jnp.split(gates + v["peephole/bias"], 4, 1)
    sigmoid, diagonal = jax.nn.sigmoid, "peephole/w_{}_diag"
    forget = 0.0 if mistake == "no forget bias" else 1.0
    new = sigmoid(f + forget + v[diagonal.format("f")] * old) * old
    new += sigmoid(i + v[diagonal.format("i")] * old) * jnp.tanh(j)
    clipped = jnp.clip(new, -0.7, 0.7)
    seen = {"o sees the old cell": old, "clipped after the peephole": new}
    o = sigmoid(o + v[diagonal.format("o")] * seen.get(mistake, clipped))
    out = o * jnp.tanh(new if mistake == "not clipped" else clipped)
    if mistake == "clipped before the projection":
        return jnp.clip(out, -0.4, 0.4) @ v["peephole/projection/kernel"]
    return jnp.clip(out @ v["peephole/projection/kernel"], -0.4, 0.4)


@layer
def gru(v: Arrays, r: Arrays, mistake: str) -> Any:
    x, h = r["sequence"][:, 0], r["c0"]
    both = jnp.concatenate([x, h], 1) @ v["gru/gates/kernel"] + v["gru/gates/bias"]
    reset, update = jnp.split(jax.nn.sigmoid(both), 2, 1)
    kernel, bias = v["gru/candidate/kernel"], v["gru/candidate/bias"]
    if mistake == "reset after the product, as Flax":
        candidate = jnp.tanh(x @ kernel[:4] + reset * (h @ kernel[4:]) + bias)
    else:
        candidate = jnp.tanh(jnp.concatenate([x, reset * h], 1) @ kernel + bias)
    return update * h + (1 - update) * candidate


def rnn(v: Arrays, scope: str, xs: Any, mask: Any) -> Any:
    h, outputs = jnp.zeros((3, 3)), []
    for t in range(5):
        kernel, bias = v[f"{scope}/kernel"], v[f"{scope}/bias"]
        new = jnp.tanh(jnp.concatenate([xs[:, t], h], 1) @ kernel + bias)
        h = jnp.where(mask[:, t, None], new, h)
        outputs.append(h)
    return jnp.stack(outputs, 1)


def alive(r: Arrays) -> Any:
    return np.arange(5)[None] < r["lengths"][:, None]


@layer
def rnn_fw(v: Arrays, r: Arrays, mistake: str) -> Any:
    mask = alive(r)
    out = rnn(v, "bidirectional_rnn/fw/rnn_fw", r["sequence"], mask)
    return out if mistake == "not masked" else out * mask[..., None]


@layer
def rnn_bw(v: Arrays, r: Arrays, mistake: str) -> Any:
    mask, places = alive(r), np.arange(5)[None]
    if mistake == "all of the row reversed":
        back = np.broadcast_to(places[:, ::-1], (3, 5))
    else:  # the live part alone
        back = np.where(mask, r["lengths"][:, None] - 1 - places, places)
    xs = jnp.take_along_axis(r["sequence"], back[..., None], 1)
    out = rnn(v, "bidirectional_rnn/bw/rnn_bw", xs, mask)
    return jnp.take_along_axis(out, back[..., None], 1) * mask[..., None]


@layer
def table(v: Arrays, r: Arrays, mistake: str) -> Any:
    y = v["table/weights"][r["ids"]] * (1.0 if mistake == "not scaled" else 2.0)
    return y if mistake == "padding not zeroed" else y * (r["ids"] > 0)[..., None]


@layer
def timing(v: Arrays, r: Arrays, mistake: str) -> Any:
    angles = np.arange(3)[:, None] * np.exp(-np.arange(2) * np.log(1e4))[None]
    waves = [np.sin(angles), np.cos(angles)]
    signal = np.concatenate(waves, 1).astype("f4")
    if mistake == "sines and cosines interleaved":
        signal = np.stack(waves, -1).reshape(3, 4).astype("f4")
    y = table(v, r, "")
    if mistake == "shifted after the signal":
        return jnp.pad(y + signal, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    return jnp.pad(y, ((0, 0), (1, 0), (0, 0)))[:, :-1] + signal


@layer
def t5(v: Arrays, r: Arrays, mistake: str) -> Any:
    scores = jnp.einsum("bhqd,bhkd->bhqk", r["q"], r["k"])
    scores *= 0.5 if mistake == "attention scaled" else 1.0
    return jax.nn.softmax(scores + v["t5/relative_bias"][:, r["buckets"]])


@layer
def t5_logits(v: Arrays, r: Arrays, mistake: str) -> Any:
    scale = 1.0 if mistake == "logits not scaled" else 8**-0.5
    return r["wide"] * scale @ v["t5/embedding"].T


@layer
def nsp(v: Arrays, r: Arrays, _: str) -> Any:
    return r["wide"] @ v["nsp/kernel"]


@layer
def mlm(v: Arrays, r: Arrays, _: str) -> Any:
    return r["wide"] @ v["mlm/embedding"].T


def legacy(size: int, new: int) -> Any:
    return np.arange(new) * (size / new)


@layer
def nearest(v: Arrays, r: Arrays, mistake: str) -> Any:
    if mistake == "half-pixel centres":
        return jax.image.resize(r["image"], (2, 5, 13, 4), "nearest")
    rows, columns = (np.floor(legacy(8, n)).astype(int) for n in (5, 13))
    return r["image"][:, rows][:, :, columns]


@layer
def bilinear(v: Arrays, r: Arrays, mistake: str) -> Any:
    if mistake == "half-pixel centres":
        return jax.image.resize(r["image"], (2, 5, 13, 4), "bilinear")
    x = r["image"]
    for axis, new in ((1, 5), (2, 13)):
        places = legacy(8, new)
        low = np.floor(places).astype(int)
        shape = [1, 1, 1, 1]
        shape[axis] = new
        weight = (places - low).astype("f4").reshape(shape)
        high = np.minimum(low + 1, 7)
        x = jnp.take(x, low, axis) * (1 - weight) + jnp.take(x, high, axis) * weight
    return x


@layer
def depth_to_space(v: Arrays, r: Arrays, mistake: str) -> Any:
    x = jnp.tile(r["image"], (1, 1, 1, 2)) * np.arange(8, dtype="f4")
    if mistake == "channels first":
        x = x.reshape(2, 8, 8, 2, 2, 2).transpose(0, 1, 4, 2, 5, 3)
    else:
        x = x.reshape(2, 8, 8, 2, 2, 2).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(2, 16, 16, 2)


MODEL = [
    ("conv_slim", "padded as TensorFlow's SAME"),
    ("units", "stride in the first unit"),
    ("separable", "an activation between"),
    ("deconv", "axes exchanged, not flipped"),
    ("deconv_odd", "cut from SAME"),
    ("avg_pool", "padding counted"),
    ("bn", "Flax's epsilon"),
    ("bn_fused", "the epsilon that is given"),
    ("bn_slim", "a scale that is not stored"),
    ("layer_norm", "Flax's epsilon"),
    ("layer_norm_4d", "the last axis alone"),
    ("group_norm", "groups that are not contiguous"),
    ("group_norm", "epsilon 1e-5"),
    ("instance_norm", "epsilon 1e-5"),
    ("gelu", "by erf"),
    ("leaky_relu", "Flax's slope"),
    ("hard_sigmoid", "sigmoid"),
    ("hard_sigmoid", "JAX's"),
    ("peephole", "no forget bias"),
    ("peephole", "o sees the old cell"),
    ("peephole", "clipped after the peephole"),
    ("peephole", "not clipped"),
    ("peephole", "clipped before the projection"),
    ("gru", "reset after the product, as Flax"),
    ("rnn_fw", "not masked"),
    ("rnn_bw", "all of the row reversed"),
    ("table", "not scaled"),
    ("table", "padding not zeroed"),
    ("timing", "sines and cosines interleaved"),
    ("timing", "shifted after the signal"),
    ("t5", "attention scaled"),
    ("t5_logits", "logits not scaled"),
    ("nearest", "half-pixel centres"),
    ("bilinear", "half-pixel centres"),
    ("depth_to_space", "channels first"),
]
# Compiling takes a moment: these stand for all, which `make test-slow` runs.
QUICK = {
    ("conv_slim", "padded as TensorFlow's SAME"),
    ("layer_norm", "Flax's epsilon"),
    ("gelu", "by erf"),
    ("hard_sigmoid", "JAX's"),
    ("gru", "reset after the product, as Flax"),
}
TABLE = [f"table/weights_{i}" for i in range(11)]
# What does not have the name and shape that it has in the checkpoint.
ENTRIES: dict[str, Any] = {
    "depthwise/w": src("depthwise/w").reshape(3, 3, 1, 8),
    "logits/w": src("logits/w")[0, 0],
    "ema/averaged": "ema/w/ExponentialMovingAverage",
    "table/weights": tf2flax.concat("table/weights_{i}", over="i"),
    "nsp/kernel": src("nsp/output_weights").transpose(),
    "mlm/embedding": "mlm/words",
}
# Leaf -> a wrong source, the layer where that is seen, and the line to write.
MAP: dict[str, tuple[Any, str, str]] = {
    "depthwise/w": (
        src("depthwise/w").rearrange("h w i m -> h w 1 (m i)"),
        "depthwise",
        'src("depthwise/w").rearrange("h w i m -> h w 1 (i m)")',
    ),
    "logits/w": (
        src("logits/w")[0, 0].transpose(),
        "logits",
        'src("logits/w")[0, 0]',
    ),
    "bn/mean": ("bn/variance", "bn", "bn/mean"),
    "bn/gamma": ("bn/beta", "bn", "bn/gamma"),
    "table/weights": (
        tf2flax.concat(*sorted(TABLE)),  # 0, 1, 10, 2, ...
        "table",
        f"concat({', '.join(f'{chr(34)}{name}{chr(34)}' for name in TABLE)}, axis=0)",
    ),
    "t5/relative_bias": (
        src("t5/relative_bias").transpose(),
        "t5",
        'src("t5/relative_bias")',
    ),
    "nsp/kernel": (
        "nsp/output_weights",
        "nsp",
        'src("nsp/output_weights").transpose()',
    ),
    "mlm/embedding": ("mlm/other", "mlm", "mlm/words"),
}


@pytest.fixture(autouse=True)
def _promotion() -> Iterator[None]:
    """As models are run."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    return dict(np.load(FOLDER / "oracle.npz"))


def plan_with(leaf: str = "", wrong: Any = None) -> tf2flax.Plan:
    """Plans all leaves, one of them perhaps from a wrong source."""
    checkpoint = tf2flax.open_checkpoint(FOLDER / "model.ckpt")
    shapes = {name: tensor.shape for name, tensor in checkpoint.items()}
    shapes |= {
        "depthwise/w": (3, 3, 1, 8),
        "logits/w": (4, 4),
        "ema/averaged": (8, 3),
        "table/weights": (22, 4),
        "nsp/kernel": (8, 8),
        "mlm/embedding": (9, 8),
    }
    entries = {name: name for name in shapes if name in checkpoint} | ENTRIES
    if leaf:
        entries[leaf] = wrong
    target = {
        name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in shapes.items()
    }
    pairs = [(source, name) for name, source in entries.items()]
    return tf2flax.plan(checkpoint, pairs, target)


@pytest.fixture(scope="module")
def plan() -> tf2flax.Plan:
    return plan_with()


@pytest.mark.slow
def test_layers_as_they_should_be(
    plan: tf2flax.Plan, recorded: dict[str, np.ndarray]
) -> None:
    def fn(v: Arrays, r: Arrays) -> Any:
        return {name: fn(v, r, "") for name, fn in LAYERS.items()}

    comparison = tf2flax.compare_outputs(fn, plan.restore(), (recorded,), recorded)
    assert comparison.ok, comparison
    assert len(comparison.rows) == len(LAYERS)
    # Nothing is compared with itself.
    assert sum(row.max_abs != 0 for row in comparison.rows) > len(LAYERS) // 2


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.slow)
        for pair in MODEL
    ],
)
def test_a_mistake_of_the_model_is_found(
    name: str, mistake: str, plan: tf2flax.Plan, recorded: dict[str, np.ndarray]
) -> None:
    def fn(v: Arrays, r: Arrays) -> Any:
        # A layer before it, which is right.
        return {"ema": ema(v, r, ""), name: LAYERS[name](v, r, mistake)}

    wanted = {"ema": recorded["ema"], name: recorded[name]}
    comparison = tf2flax.compare_outputs(fn, plan.restore(), (recorded,), wanted)
    assert [row.ok for row in comparison.rows] == [True, False]
    assert comparison.first is not None
    assert comparison.first.name == name


@pytest.mark.parametrize("leaf", MAP)
def test_a_mistake_of_the_map_is_found(
    leaf: str, recorded: dict[str, np.ndarray]
) -> None:
    wrong, name, line = MAP[leaf]
    plan = plan_with(leaf, wrong)

    def fn(v: Arrays, r: Arrays) -> Any:
        return {"ema": ema(v, r, ""), name: LAYERS[name](v, r, "")}

    wanted = {"ema": recorded["ema"], name: recorded[name]}
    comparison = tf2flax.compare_outputs(
        fn, plan.restore(), (recorded,), wanted, plan=plan
    )
    assert comparison.first is not None
    assert comparison.first.name == name
    assert comparison.candidates[0].makes_all_equal
    assert comparison.candidates[0].lines == (f"'{line}' = \"{leaf}\"",)
    assert leaf in comparison.first.leaves


def test_a_variable_for_its_average(recorded: dict[str, np.ndarray]) -> None:
    plan = plan_with("ema/averaged", "ema/w")
    comparison = tf2flax.compare_outputs(
        lambda v, r: {"ema": ema(v, r, "")},
        plan.restore(),
        (recorded,),
        {"ema": recorded["ema"]},
        plan=plan,
    )
    assert comparison.first is not None
    assert comparison.first.leaves == ("ema/averaged",)
    assert "`ema/w` -> `ema/averaged`" in comparison.first.entries[0]


CELLS = DATA / "recurrent"


@pytest.mark.parametrize(
    ("name", "cell", "output", "first", "second"),
    [
        # i, f, c, o for i, j, f, o, and the other way round; r, z, h for z, r, h.
        ("lstm", linen.LSTMCell, "basic_out", "6:12", "12:18"),
        pytest.param(
            *("keras_lstm", linen.LSTMCell, "keras_lstm_sig", "6:12", "12:18"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("keras_gru", linen.GRUCell, "keras_gru_after", "0:6", "6:12"),
            marks=pytest.mark.slow,
        ),
        ("lstm", linen.LSTMCell, "basic_out", " + 1.0", ""),
        # Keras's cell has no forget bias when it runs: what suggest takes for granted.
        ("keras_lstm", linen.LSTMCell, "keras_lstm_sig", "[6:12]'", "[6:12] + 1.0'"),
    ],
    ids=["lstm", "keras_lstm", "keras_gru", "forget_bias", "no_forget_bias"],
)
def test_gates_of_recurrent_cells(
    name: str, cell: Any, output: str, first: str, second: str, tmp_path: pathlib.Path
) -> None:
    arrays = dict(np.load(CELLS / "oracle.npz"))
    lengths = 7 if "keras" in name else arrays["seq_len"][:, None]
    mask = (np.arange(7)[None] < lengths)[..., None]
    right = (CELLS / f"{name}.toml").read_text()
    wrong = (
        right.replace(first, "@").replace(second or "@@", first).replace("@", second)
    )
    path = tmp_path / "m.toml"
    path.write_text(wrong)
    model = linen.RNN(cell(6, name="cell"))
    target = jax.eval_shape(model.init, jax.random.key(0), arrays["x"])
    plan = tf2flax.plan(CELLS / "model.ckpt", tf2flax.load_map(path), target)
    comparison = tf2flax.compare_outputs(
        lambda v, x: model.apply(v, x) * mask,
        plan.restore(),
        (arrays["x"],),
        {output: arrays[output]},
        plan=plan,
    )
    assert not comparison.ok
    change = comparison.candidates[0]
    assert change.makes_all_equal
    # The lines are those of the right map, which the wrong one lacks.
    assert set(change.lines) == set(right.splitlines()) - set(wrong.splitlines())
    assert f"({path}:" in str(comparison)


def test_every_layer_has_a_mistake() -> None:
    mistaken = {name for name, _ in MODEL} | {name for _, name, _ in MAP.values()}
    assert mistaken | {"ema"} == set(LAYERS)
