"""TensorFlow 2 serves and restores what `examples/savedmodel.py` put into SavedModels.

And what docs/from-train-checkpoint.md says of its statuses is what it answers.
"""

from __future__ import annotations

import pathlib
import runpy
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from repository import ROOT

import tf2flax

tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
pytestmark = [pytest.mark.oracle, pytest.mark.slow]

INPUTS = np.random.default_rng(0).normal(size=(16, 6)).astype("f4")
GENERATORS = ROOT / "tests" / "data" / "generators"
# What saves a model into a folder, and gives what has its variables.
Save = Callable[[str], Any]


def save_module(folder: str) -> Any:
    """With the counter that `Checkpoint.restore` looks for, and SavedModels lack."""
    model = runpy.run_path(str(GENERATORS / "saved_model.py"))["Model"]()
    model.save_counter = tf.Variable(3, dtype=tf.int64, name="save_counter")
    tf.saved_model.save(model, folder)
    return model


def layered(keras: Any) -> Any:
    layers = keras.layers
    given = layers.Input((6,))
    x = layers.Dense(8, "tanh", name="fc1", bias_initializer="uniform")(given)
    x = layers.Dense(2, name="head", bias_initializer="uniform")(x)
    return keras.Model(given, x)


def save_tf_keras(folder: str) -> Any:
    """Keras 2, which is `tf.keras` up to TensorFlow 2.15: a SavedModel by itself."""
    keras = pytest.importorskip("tf_keras", reason="tf_keras is not installed")
    model = layered(keras)
    model.compile("adam", "mse")
    model.fit(INPUTS, np.ones((16, 2)), verbose=0)
    model.save(folder, save_format="tf")
    return model


def save_keras_by_tensorflow(folder: str) -> Any:
    model = layered(tf.keras)
    tf.saved_model.save(model, folder)
    return model


def save_keras_export(folder: str) -> Any:
    keras = pytest.importorskip("keras")
    model = layered(keras)
    model.export(folder)
    return model


KINDS: dict[str, Save] = {
    "saved_model.save": save_module,
    "tf_keras": save_tf_keras,
    "tf.keras": save_keras_by_tensorflow,
    "export": save_keras_export,
}


def finetune(folder: pathlib.Path) -> np.ndarray:
    """As the example does; what else is copied stale is warned of."""
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        example = runpy.run_path(str(ROOT / "examples" / "savedmodel.py"))
    finally:
        sys.path.remove(str(ROOT / "examples"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*copied from the checkpoint as they were")
        return example["finetune"](folder, INPUTS)


def outputs_of(served: Any) -> np.ndarray:
    given = served.signatures["serving_default"](tf.constant(INPUTS))
    return next(iter(given.values())).numpy()


@pytest.mark.parametrize("kind", list(KINDS))
def test_tensorflow_serves_and_restores_it(kind: str, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "model"
    model = KINDS[kind](str(folder))
    others = {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name != "variables"
    }
    before = outputs_of(tf.saved_model.load(str(folder)))
    assert np.abs(before - np.asarray(model(INPUTS))).max() <= 1e-5
    outputs = finetune(folder)
    assert np.abs(outputs - before).max() > 0.1
    served = tf.saved_model.load(str(folder))
    # Flax and TensorFlow sum in another order.
    assert np.abs(outputs_of(served) - outputs).max() <= 1e-5
    assert sorted(path.name for path in (folder / "variables").iterdir()) == [
        "variables.data-00000-of-00001", "variables.index",
    ]  # fmt: skip
    assert {path: path.read_bytes() for path in others} == others
    # The objects of the SavedModel take all of it. `restore` is `read`, and asks for a
    # counter besides, which no SavedModel has by itself.
    prefix = str(folder / "variables" / "variables")
    status = tf.train.Checkpoint(served).read(prefix)
    status.assert_consumed()
    status.assert_existing_objects_matched()
    # And those of the program that made the model, as far as they took the old one.
    if kind == "saved_model.save":
        status = tf.train.Checkpoint(root=model).restore(str(folder))
        status.assert_existing_objects_matched()
        status.assert_consumed()
        assert model.save_counter.numpy() == 3
    elif kind == "tf.keras":
        status = tf.train.Checkpoint(root=model).read(prefix)
        status.assert_existing_objects_matched()
        status.assert_consumed()
    elif kind == "tf_keras":  # its optimizer and metrics are made when they are used
        tf.train.Checkpoint(root=model).read(prefix).assert_existing_objects_matched()
    else:  # `export` stores the variables beside the model
        return
    assert np.abs(np.asarray(model(INPUTS)) - outputs).max() <= 1e-5


def object_based(tmp_path: pathlib.Path, *names: str) -> str:
    saved = {name: tf.Variable(np.ones(3, "f4"), name=name) for name in names}
    return tf.train.Checkpoint(**saved).write(str(tmp_path / "m"))


def asked(prefix: str, names: list[str]) -> tuple[bool, bool]:
    """If everything is consumed, and if all existing objects are matched."""
    objects = {name: tf.Variable(np.zeros(3, "f4")) for name in names}
    status = tf.train.Checkpoint(**objects).read(prefix)
    answers: list[bool] = []
    for check in (status.assert_consumed, status.assert_existing_objects_matched):
        try:
            check()
            answers.append(True)
        except AssertionError:
            answers.append(False)
    status.expect_partial()
    return answers[0], answers[1]


def planned(prefix: str, names: list[str], **options: Any) -> bool:
    """If a plan finds the same, as the page says."""
    view = tf2flax.open_checkpoint(prefix).by_object_path()
    target = {name: np.zeros(3, "f4") for name in names}
    try:
        return not tf2flax.plan(view, {"/": "/"}, target, **options).kept
    except tf2flax.AssignmentError:
        return False


@pytest.mark.parametrize("names", [["a"], ["a", "b"], ["a", "b", "c"], ["a", "c"]])
def test_options_answer_as_statuses(names: list[str], tmp_path: pathlib.Path) -> None:
    prefix = object_based(tmp_path, "a", "b")
    is_consumed, is_matched = asked(prefix, names)
    assert planned(prefix, names, on_unused="error") == is_consumed
    assert planned(prefix, names) == is_matched
    assert (is_consumed, is_matched) == (names == ["a", "b"], "c" not in names)


def test_a_new_name_is_read_by_name_and_is_no_object(tmp_path: pathlib.Path) -> None:
    prefix = object_based(tmp_path, "a", "b")
    view = tf2flax.open_checkpoint(prefix).by_object_path()
    plan = tf2flax.plan(view, {"a": "a"}, {"a": np.zeros(3, "f4")})
    tree = {"a": np.full(3, 5, "f4"), "x": np.arange(6, dtype="f4").reshape(2, 3)}
    saved = tf2flax.save_checkpoint(
        tmp_path / "new", tree, plan=plan, new={"x": tf2flax.src("x").transpose()}
    )
    assert np.array_equal(tf.train.load_variable(saved, "x"), tree["x"].T)
    objects = {name: tf.Variable(np.zeros(3, "f4")) for name in "ab"}
    status = tf.train.Checkpoint(**objects).read(saved)
    status.assert_consumed()
    assert objects["a"].numpy().tolist() == [5, 5, 5]
    assert objects["b"].numpy().tolist() == [1, 1, 1]
    more = {**objects, "x": tf.Variable(np.zeros((3, 2), "f4"))}
    status = tf.train.Checkpoint(**more).read(saved)
    with pytest.raises(AssertionError):
        status.assert_existing_objects_matched()
    status.expect_partial()
