"""TensorFlow 1.15 restores what a plan wrote backwards, and computes the same."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
from contextlib import nullcontext
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from repository import ROOT

import tf2flax

WORKER = pathlib.Path(__file__).with_name("port_worker.py")
TF1 = os.environ.get("TF2FLAX_TF1_PYTHON", "")
EXAMPLES = ROOT / "examples"
# The moving averages fill no variable of their own that the graph has.
NAMES = ["bert_linen", "bert_scan", "bert_nnx", "gpt2_linen", "resnet_linen"]

pytestmark = pytest.mark.oracle


def demo() -> Any:
    sys.path.insert(0, str(EXAMPLES))
    spec = importlib.util.spec_from_file_location("ports", EXAMPLES / "ports_demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["ports"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.skipif(not TF1, reason="set TF2FLAX_TF1_PYTHON")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("is_changed", [False, True])
def test_tensorflow_computes_the_same(
    name: str, is_changed: bool, tmp_path: pathlib.Path
) -> None:
    ports = demo()
    port = ports.PORTS[name]
    recorded = port.recorded()
    inputs = {argument: recorded[array] for array, argument in port.inputs.items()}
    plan, _ = ports.load(name, inputs)
    tree = plan.restore()
    if is_changed:  # as training would, a little
        tree = jax.tree.map(lambda x: x * 1.01, tree)
    # Slots, averages and steps, where there are any, are stale then.
    is_training = {"bert_linen", "bert_scan", "bert_nnx", "resnet_linen"}
    is_stale = is_changed and name in is_training
    with pytest.warns(UserWarning, match="has changed") if is_stale else nullcontext():
        saved = tf2flax.save_checkpoint(tmp_path / "m", tree, plan=plan)
    with jax.default_matmul_precision("highest"):
        model = tree if isinstance(tree, nnx.Module) else port.model()
        outputs = (
            model(**inputs)
            if isinstance(model, nnx.Module)
            else model.apply(tree, **inputs)
        )
    recorded_inputs = {array: recorded[array] for array in port.inputs}
    of_tensorflow = computed(port.checkpoint, saved, recorded_inputs, tmp_path)
    given = outputs if isinstance(outputs, tuple) else (outputs,)
    assert len(of_tensorflow) == len(given)
    for output, want in zip(given, of_tensorflow.values(), strict=True):
        assert np.abs(np.asarray(output) - want).max() <= 1e-5
    original = ROOT / "tests" / "data" / port.checkpoint / "model.ckpt"
    of_original = computed(port.checkpoint, original, recorded_inputs, tmp_path)
    for key, want in of_original.items():
        if is_changed:
            assert np.abs(of_tensorflow[key] - want).max() > 1e-4
        else:
            assert np.array_equal(of_tensorflow[key], want)


def computed(
    model: str,
    prefix: str | pathlib.Path,
    inputs: dict[str, np.ndarray],
    folder: pathlib.Path,
) -> dict[str, np.ndarray]:
    """What TensorFlow's own model gives with a checkpoint."""
    np.savez(folder / "in.npz", **inputs)
    done = subprocess.run(
        [TF1, WORKER, model, prefix, folder / "in.npz", folder / "out.npz"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    with np.load(folder / "out.npz") as outputs:
        return dict(outputs)


SAVER = pathlib.Path(__file__).with_name("saver_worker.py")


@pytest.mark.slow
@pytest.mark.skipif(not TF1, reason="set TF2FLAX_TF1_PYTHON")
def test_tensorflow_restores_a_new_head(tmp_path: pathlib.Path) -> None:
    trunk, head = np.arange(6, dtype="f4").reshape(2, 3), np.ones((3, 4), "f4")
    arrays = {"trunk": trunk, "trunk/Adam": trunk, "head": head, "head/Adam": head}
    prefix = tf2flax.save_checkpoint(tmp_path / "from" / "m", arrays)
    new = np.arange(15, dtype="f4").reshape(5, 3)
    target = {"trunk": np.zeros((2, 3), "f4"), "head": new}
    entries = {"trunk": "trunk", tf2flax.src("head").transpose(): "head"}
    plan = tf2flax.plan(prefix, entries, target, on_mismatch=[("head", "keep")])
    with pytest.warns(UserWarning, match="`head/Adam`"):
        saved = tf2flax.save_checkpoint(tmp_path / "m", plan.restore(), plan=plan)
    done = subprocess.run(
        [TF1, str(SAVER), saved, '["trunk", "head"]'], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    got = json.loads(done.stdout.splitlines()[-1])
    assert got["__all__"] == ["head", "trunk", "trunk/Adam"]
    for name, want in {"trunk": trunk, "head": new.T}.items():
        for way in ("read", "saver", "parts"):
            assert got[name][way] == want.tobytes().hex()


@pytest.mark.slow
@pytest.mark.skipif(not TF1, reason="set TF2FLAX_TF1_PYTHON")
def test_tensorflow_restores_new_names(tmp_path: pathlib.Path) -> None:
    """Of `new=`, and of entries that the checkpoint lacked; whole and in partitions."""
    trunk = np.arange(6, dtype="f4").reshape(2, 3)
    prefix = tf2flax.save_checkpoint(tmp_path / "from" / "m", {"trunk": trunk})
    head = np.arange(15, dtype="f4").reshape(5, 3)
    parts = {"part_0": head[:2], "part_1": head[2:]}
    target = {"trunk": trunk, "head": head, "step": np.array(7, "i4"), "t": parts}
    entries = {"trunk": "trunk", tf2flax.src("head").transpose(): "head"}
    plan = tf2flax.plan(prefix, entries, target, on_missing="keep")
    new = {"step": "step", "table": "t", "both": tf2flax.stack("head", "head")}
    saved = tf2flax.save_checkpoint(
        tmp_path / "m", plan.restore(), plan=plan, new=new, data_files=2
    )
    want = {
        "trunk": trunk, "head": head.T, "step": np.array(7, "i4"), "table": head,
        "both": np.stack([head, head]),
    }  # fmt: skip
    done = subprocess.run(
        [TF1, str(SAVER), saved, json.dumps([*want])], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    got = json.loads(done.stdout.splitlines()[-1])
    assert got["__all__"] == sorted(want)
    for name, array in want.items():
        for way in ("read", "saver", "parts"):
            hexed = np.ascontiguousarray(array).tobytes().hex()
            assert got[name].get(way, hexed) == hexed, (name, way)
