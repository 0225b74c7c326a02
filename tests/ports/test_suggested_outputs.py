"""Models filled by suggested maps: their outputs are those that TensorFlow recorded."""

from __future__ import annotations

import importlib
import pathlib
import sys
from types import ModuleType
from typing import Any

import jax
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from gan_linen import Generator
from repository import ROOT
from t5_linen import T5

import tf2flax

DATA = ROOT / "tests" / "data"
PORTS = ["bert_linen", "bert_nnx", "bert_scan", "gpt2_linen", "resnet_linen"]


@pytest.mark.parametrize("name", PORTS)
def test_ports_of_the_examples(demo: ModuleType, name: str) -> None:
    port = demo.PORTS[name]
    recorded = port.recorded()
    inputs = {argument: recorded[array] for array, argument in port.inputs.items()}
    checkpoint = DATA / port.checkpoint / "model.ckpt"
    target, fn = abstract_port(port, inputs, is_nnx=name.endswith("nnx"))
    result = tf2flax.suggest(checkpoint, target)
    assert (result.unmatched, result.ambiguous) == ((), ())
    plan = tf2flax.plan(checkpoint, result.assignment_map, target)
    comparison = demo.compare(
        fn, plan.restore(), inputs, recorded, plan, **port.outputs
    )
    # 0 would mean that recorded outputs were compared with themselves.
    assert all(0 < row.max_abs <= 1e-5 for row in comparison.rows)
    assert len(comparison.rows) == len(port.outputs)


def abstract_port(port: Any, inputs: Any, *, is_nnx: bool) -> tuple[Any, Any]:
    if is_nnx:
        module: Any = nnx.eval_shape(lambda: port.model(nnx.Rngs(0)))
        return module, type(module).__call__
    model = port.model()
    return jax.eval_shape(model.init, jax.random.key(0), **inputs), model.apply


# Model, checkpoint, and the arrays of its oracle that are inputs.
OTHERS: dict[str, tuple[nn.Module, str, tuple[str, ...]]] = {
    "t5": (T5(), "t5_like/model.ckpt-1000000", ("inputs", "mask", "decoder_inputs")),
    "gan": (Generator(), "gan_generator/model.ckpt", ("z", "label")),
}
# Compiling takes longer than running, so XLA's own optimizations do not pay.
SOON = {"xla_backend_optimization_level": 0}


@pytest.mark.parametrize("name", OTHERS)
def test_other_models(name: str) -> None:
    """Tables and layers that only the file has, of the same shapes, are left there."""
    model, prefix, names = OTHERS[name]
    checkpoint = DATA / prefix
    recorded = dict(np.load(checkpoint.parent / "oracle.npz"))
    inputs = {argument: recorded.pop(argument) for argument in names}
    target = jax.eval_shape(model.init, jax.random.key(0), **inputs)
    result = tf2flax.suggest(checkpoint, target)
    assert (result.unmatched, result.ambiguous) == ((), ())
    filled = tf2flax.plan(checkpoint, result.assignment_map, target).restore()
    with jax.default_matmul_precision("highest"):
        forward = jax.jit(model.apply).lower(filled, **inputs).compile(SOON)
    outputs = forward(filled, **inputs)
    assert outputs.keys() == recorded.keys()
    for output, expected in recorded.items():
        size = max(1.0, float(np.abs(expected).max()))
        difference = float(np.abs(outputs[output] - expected).max())
        assert 0 < difference <= 1e-5 * size, output
    # Each leaf counts: with its values moved by one place, the outputs differ.
    leaves, tree = jax.tree.flatten_with_path(filled)
    values = [value for _, value in leaves]
    for i, (path, value) in enumerate(leaves):
        moved = [*values[:i], np.roll(value, 1), *values[i + 1 :]]
        wrong = forward(jax.tree.unflatten(tree, moved), **inputs)
        assert max(np.abs(wrong[n] - recorded[n]).max() for n in recorded) > 1e-3, path


# Name in the target -> the cell, and the recorded output.
CELLS: dict[str, tuple[Any, str]] = {
    "basic": (nn.LSTMCell, "basic_out"),
    "lstm_fb": (nn.OptimizedLSTMCell, "lstm_fb_out"),
    "cudnn_gru": (nn.GRUCell, "cudnn_gru_out"),
}


def test_recurrent_cells(tmp_path: pathlib.Path) -> None:
    """One cell was built with a forget bias of 0.3: that is a parameter of the file."""
    recorded = np.load(DATA / "recurrent" / "oracle.npz")
    models = {name: nn.RNN(cell(6, name="cell")) for name, (cell, _) in CELLS.items()}
    x = recorded["x"]
    target = {
        name: jax.eval_shape(model.init, jax.random.key(0), x)["params"]
        for name, model in models.items()
    }
    checkpoint = DATA / "recurrent" / "model.ckpt"
    result = tf2flax.suggest(checkpoint, target)
    assert (result.unmatched, result.ambiguous) == ((), ())
    path = tmp_path / "map.toml"
    path.write_text(str(result))
    filled = {
        bias: tf2flax.plan(
            checkpoint, tf2flax.load_map(path, forget_bias=bias), target
        ).restore()
        for bias in (1.0, 0.3)
    }
    chosen = {n: filled[0.3 if n == "lstm_fb" else 1.0][n] for n in models}
    run = jax.jit(
        lambda params: {
            name: model.apply({"params": params[name]}, x)
            for name, model in models.items()
        }
    )
    with jax.default_matmul_precision("highest"):
        outputs = run(chosen)
    for name, (_, output) in CELLS.items():
        # `tf.nn.dynamic_rnn` gives zeros after the end of a sequence.
        difference = max(
            float(np.abs(outputs[name][i, :n] - recorded[output][i, :n]).max())
            for i, n in enumerate(recorded["seq_len"])
        )
        assert 0 < difference <= 1e-5, name


def test_wide_and_deep(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph looks up one of the tables by "mod": the outputs say which one."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    model = importlib.import_module("wide_deep")
    recorded = np.load(DATA / "wide_deep_partitioned" / "oracle.npz")
    checkpoint = DATA / "wide_deep_partitioned" / "model.ckpt"
    target = {
        name: jax.ShapeDtypeStruct(shape, "float32")
        for name, shape in model.SHAPES.items()
    }
    result = tf2flax.suggest(checkpoint, target)
    assert result.unmatched == ()
    assert isinstance(result.assignment_map, dict)
    tables = dict(result.ambiguous)
    assert all(len(candidates) == 2 for candidates in tables.values())
    inputs = {name: recorded[name] for name in INPUTS}
    forward = jax.jit(model.forward)
    right: list[str | None] = []
    # All tables as they were saved, and then each of them by remainders.
    for turned in (None, *tables):
        keys = [(rows[leaf == turned][0], leaf) for leaf, rows in tables.items()]
        entries = [*result.assignment_map.items(), *keys]
        outputs = forward(tf2flax.plan(checkpoint, entries, target).restore(), inputs)
        differences = [np.abs(recorded[n] - outputs[n]).max() for n in outputs]
        if max(differences) <= 1e-5:
            right.append(turned)
    assert right == ["city"]
    sys.modules.pop("wide_deep")


INPUTS = ("ids_colour", "ids_city", "ids_query", "bag_rows", "bag_ids", "num")
