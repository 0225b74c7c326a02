"""Keras files as Keras itself writes them, now: every weight, bit for bit.

Keras 3 runs where it is installed beside tf2flax; Keras 2 in a Python with TensorFlow
1.15 that `TF2FLAX_TF1_PYTHON` names.
"""

from __future__ import annotations

import importlib.util
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tf2flax._checkpoint.checkpoint import Checkpoint
from tf2flax._formats.keras.hdf5 import Hdf5Manifest

pytest.importorskip("h5py")
pytestmark = pytest.mark.oracle
TF1 = os.environ.get("TF2FLAX_TF1_PYTHON", "")

# Every weight gets values that no other has, so that values tell weights apart.
COMMON = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
import numpy as np
folder = sys.argv[1]
random = np.random.RandomState(3)

def fill(weights):
    for weight in weights:
        kind = str(getattr(weight.dtype, "name", weight.dtype))
        if "float" in kind:
            weight.assign(random.normal(size=tuple(weight.shape)).astype("f4"))
"""
KERAS_3 = (
    COMMON
    + """
import keras
k = keras.layers
given = keras.Input((8, 8, 3))
layers = [k.Conv2D(4, 3, name="conv"), k.BatchNormalization(name="norm")]
inner = keras.Sequential(layers, name="inner")
x = k.Flatten()(inner(given))
shared = k.Dense(6, name="shared")
x = shared(shared(k.Dense(6, dtype="bfloat16", name="brain")(x)))
x = k.Reshape((2, 3))(x)
x = k.Bidirectional(k.GRU(3, name="gru"), name="both")(x)
x = k.Dense(2, dtype="float16", name="half")(x)
model = keras.Model(given, k.Dense(1, name="last")(x), name="outer")
model.compile(keras.optimizers.AdamW(), "mse")
model.train_on_batch(np.ones((2, 8, 8, 3)), np.ones((2, 1)))
fill(model.weights)
model.save_weights(folder + "/m.weights.h5")
model.save(folder + "/m.keras")
model.save(folder + "/m.h5")
state = model.weights + list(model.optimizer.variables)
arrays = {w.path.replace("/", "|"): np.asarray(w) for w in state}
raw = {n: a.view("u2") if a.dtype.name == "bfloat16" else a for n, a in arrays.items()}
np.savez(folder + "/truth.npz", **raw)
"""
)
KERAS_2 = (
    COMMON
    + """
import tensorflow as tf
k = tf.keras.layers
given = tf.keras.Input((8, 8, 3))
conv = k.Conv2D(4, 3, name="conv", input_shape=(8, 8, 3))
inner = tf.keras.Sequential([conv, k.BatchNormalization(name="norm")], name="inner")
x = k.Flatten()(inner(given))
shared = k.Dense(6, name="shared")
x = k.Reshape((2, 3))(shared(shared(k.Dense(6, name="scope/first")(x))))
x = k.Bidirectional(k.GRU(3, name="gru"), name="both")(x)
model = tf.keras.Model(given, k.Dense(1, name="last")(x), name="outer")
model.compile(tf.keras.optimizers.Adam(), "mse")
model.train_on_batch(np.ones((2, 8, 8, 3)), np.ones((2, 1)))
model.set_weights([random.normal(size=w.shape) for w in model.get_weights()])
model.save_weights(folder + "/m.weights.h5", save_format="h5")
model.save(folder + "/m.h5")
state = model.weights + model.optimizer.weights
values = tf.keras.backend.batch_get_value(state)
arrays = {w.name.replace("/", "|"): a for w, a in zip(state, values)}
np.savez(folder + "/truth.npz", **arrays)
"""
)


def run(python: str, code: str, folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Lets Keras save a model; gives its weights by the names that Keras has."""
    done = subprocess.run(
        [python, "-W", "ignore", "-c", code, str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    truth = np.load(folder / "truth.npz")
    return {key.replace("|", "/").removesuffix(":0"): truth[key] for key in truth}


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    checkpoint = Checkpoint(Hdf5Manifest(str(path)))
    assert checkpoint.verify().ok
    return checkpoint.read()


def bits(array: np.ndarray) -> tuple[object, ...]:
    kind = "uint16" if array.dtype.name == "bfloat16" else array.dtype.name
    return kind, array.shape, array.tobytes()


@pytest.mark.skipif(
    importlib.util.find_spec("keras") is None, reason="Keras is not installed here"
)
def test_keras_3(tmp_path: pathlib.Path) -> None:
    truth = run(sys.executable, KERAS_3, tmp_path)
    assert len(truth) > 40
    arrays = read(tmp_path / "m.h5")
    assert sorted(arrays) == sorted(truth)
    for name, want in truth.items():
        assert bits(arrays[name]) == bits(want), name
    for name in ("m.weights.h5", "m.keras"):
        stored = sorted(bits(array) for array in read(tmp_path / name).values())
        # Everything of the model and its optimizer, and the states of random seeds.
        for want in truth.values():
            assert bits(want) in stored
        assert len(truth) <= len(stored) <= len(truth) + 4


@pytest.mark.skipif(not TF1, reason="set TF2FLAX_TF1_PYTHON")
def test_keras_2(tmp_path: pathlib.Path) -> None:
    truth = run(TF1, KERAS_2, tmp_path)
    assert len(truth) > 40
    whole, weights = read(tmp_path / "m.h5"), read(tmp_path / "m.weights.h5")
    assert sorted(whole) == sorted(truth)
    assert set(weights) == {name for name in truth if not name.startswith("training/")}
    for arrays in (whole, weights):
        for name, array in arrays.items():
            assert bits(array) == bits(truth[name]), name
