"""TensorFlow 2 reads what plans of views wrote, in the place of what was loaded."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tf2flax
from tf2flax import src
from tf2flax._checkpoint.checkpoint import Checkpoint

tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
pytestmark = [pytest.mark.oracle, pytest.mark.slow]

View = Callable[[Checkpoint], Checkpoint]
VIEWS: list[View] = [Checkpoint.by_variable_name, Checkpoint.by_object_path]
INPUTS = np.random.default_rng(0).normal(size=(3, 6)).astype("f4")


class Dense(tf.Module):
    def __init__(self, rows: int, columns: int, name: str) -> None:
        super().__init__(name=name)
        self.w = tf.Variable(tf.random.normal([rows, columns]), name=f"{name}/w")
        self.b = tf.Variable(tf.random.normal([columns]), name=f"{name}/b")


class Model(tf.Module):
    """Lists, shared and nameless variables, strings, tables, a step."""

    def __init__(self) -> None:
        super().__init__(name="model")
        self.layers = [Dense(6, 4, "zero"), Dense(4, 2, "one")]
        self.first = self.layers[0]
        self.by_key = {"a.b/c": tf.Variable(0.5, name="odd")}
        self.nameless = tf.Variable([1.0, 2.0], name="")
        self.step = tf.Variable(7, name="step", dtype=tf.int64)
        self.text = tf.Variable(["a", ""], name="text")
        self.table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
        self.table.insert(tf.constant(["a"]), tf.constant([1], tf.int64))

    @tf.function(input_signature=[tf.TensorSpec([None, 6], tf.float32)])
    def __call__(self, x: Any) -> Any:
        for layer in self.layers:
            x = tf.nn.tanh(x @ layer.w + layer.b)
        return x * self.by_key["a.b/c"] + self.nameless

    def floats(self) -> list[Any]:
        return [one for one in self.variables if one.dtype == tf.float32]


def rewritten(prefix: str, view: View, saved: pathlib.Path, **options: Any) -> str:
    """The checkpoint with all floats of a view doubled, by way of a transposed tree."""
    names = view(tf2flax.open_checkpoint(prefix))
    target: dict[str, np.ndarray] = {}
    entries: list[tuple[Any, str]] = []
    for number, (name, tensor) in enumerate(names.items()):
        if tensor.dtype == np.float32:
            entries.append((src(name).transpose(), f"leaf_{number}"))
            target[f"leaf_{number}"] = np.zeros(tensor.shape[::-1], "f4")
    plan = tf2flax.plan(names, entries, target)
    tree = {name: np.asarray(leaf) * 2 for name, leaf in plan.restore().items()}
    return tf2flax.save_checkpoint(saved, tree, plan=plan, overwrite=True, **options)


@pytest.mark.parametrize("view", VIEWS)
def test_checkpoint_restore_reads_it(view: View, tmp_path: pathlib.Path) -> None:
    model = Model()
    optimizer = tf.compat.v1.train.AdamOptimizer(0.1)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(INPUTS) ** 2)
    weights = [layer.w for layer in model.layers]
    optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
    source = tf.train.Checkpoint(model=model, optimizer=optimizer)
    prefix = source.save(str(tmp_path / "a"))
    saved = rewritten(prefix, view, tmp_path / "b")
    want = [one.numpy() * 2 for one in model.floats()]
    # A variable without a name is in no view by names.
    is_nameless = view is Checkpoint.by_variable_name
    slots = [optimizer.get_slot(w, "m").numpy() * 2 for w in weights]
    again = Model()
    other = tf.compat.v1.train.AdamOptimizer(0.1)
    target = tf.train.Checkpoint(model=again, optimizer=other)
    status = target.restore(saved)
    status.assert_existing_objects_matched()
    for got, expected in zip(again.floats(), want, strict=True):
        if is_nameless and got.name == again.nameless.name:
            expected = expected / 2
        assert np.array_equal(got.numpy(), expected), got.name
    # Slots appear when the optimizer is used; nothing of the file is left over then.
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(again(INPUTS) ** 2)
    fresh = [layer.w for layer in again.layers]
    zeros = [tf.zeros_like(w) for w in tape.gradient(loss, fresh)]
    for w, slot in zip(fresh, slots, strict=True):
        assert np.array_equal(other.get_slot(w, "m").numpy(), slot)
    other.apply_gradients(zip(zeros, fresh, strict=True))
    status.assert_consumed()
    assert again.step.numpy() == 7
    assert again.text.numpy().tolist() == [b"a", b""]
    assert again.table.lookup(tf.constant(["a"])).numpy().tolist() == [1]
    assert target.save_counter.numpy() == 1


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("is_in_place", [False, True])
def test_a_saved_model_computes_with_it(
    view: View, is_in_place: bool, tmp_path: pathlib.Path
) -> None:
    model = Model()
    tf.saved_model.save(model, str(tmp_path / "m"))
    prefix = tmp_path / "m" / "variables" / "variables"
    saved = prefix if is_in_place else tmp_path / "other" / "variables"
    rewritten(str(prefix), view, saved)
    if not is_in_place:
        shutil.rmtree(prefix.parent)
        (tmp_path / "other" / "checkpoint").unlink()
        shutil.move(tmp_path / "other", prefix.parent)
    served = tf.saved_model.load(str(tmp_path / "m"))
    for one in model.floats():
        if one is not model.nameless or view is Checkpoint.by_object_path:
            one.assign(one * 2)
    want = model(INPUTS).numpy()
    assert np.array_equal(served(INPUTS).numpy(), want)
    signature = served.signatures["serving_default"](tf.constant(INPUTS))
    assert np.array_equal(signature["output_0"].numpy(), want)


def keras_models() -> dict[str, Callable[[], Any]]:
    keras = pytest.importorskip("keras")
    layers = keras.layers

    def functional() -> Any:
        given = keras.Input((6,))
        x = layers.BatchNormalization(name="bn")(layers.Dense(5, name="fc1")(given))
        x = layers.Dropout(0.1)(x)
        model = keras.Model(given, layers.Dense(2, name="head")(x))
        model.compile("adam", "mse", metrics=["mae"])
        model.fit(INPUTS, np.ones((3, 2)), verbose=0)
        return model

    def sequential() -> Any:
        shape, lstm = keras.Input((2, 3)), layers.LSTM(3, name="lstm")
        return keras.Sequential([shape, lstm, layers.Dense(2, name="out")])

    class Subclassed(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="sub")
            self.dense = layers.Dense(3)
            self.table = self.add_weight(shape=(3,), name="table")

        def call(self, x: Any) -> Any:
            return self.dense(x) + self.table

    def subclassed() -> Any:
        model = Subclassed()
        model(INPUTS)
        return model

    return {"functional": functional, "sequential": sequential, "sub": subclassed}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", ["functional", "sequential", "sub"])
def test_a_keras_3_export_serves_it(
    name: str, view: View, tmp_path: pathlib.Path
) -> None:
    """Its functions read the second places; `variables` are the first ones."""
    model = keras_models()[name]()
    inputs = INPUTS.reshape(3, 2, 3) if name == "sequential" else INPUTS
    model.export(str(tmp_path / "m"))
    prefix = str(tmp_path / "m" / "variables" / "variables")
    before = tf2flax.open_checkpoint(prefix)
    rewritten(prefix, view, pathlib.Path(prefix))
    after = tf2flax.open_checkpoint(prefix)
    assert list(after) == list(before)
    served = tf.saved_model.load(str(tmp_path / "m"))
    old = model(inputs).numpy()
    for variable in model.variables:
        if variable.dtype == "float32":
            variable.assign(variable * 2)
    want = model(inputs).numpy()
    assert np.abs(want - old).max() > 1e-3
    # The exported graph may fuse what the model's call does step by step.
    assert np.abs(served.serve(inputs).numpy() - want).max() <= 1e-5
    for variable, first in zip(model.variables, served.variables, strict=True):
        assert np.array_equal(np.asarray(first), np.asarray(variable))
    exported = {one.name: one.numpy() for one in served._all_variables}
    assert len(exported) == len(served._all_variables)
    for variable in model.variables:
        if f"{variable.path}:0" in exported:
            got = exported[f"{variable.path}:0"]
            assert np.array_equal(got, np.asarray(variable))


def test_a_saver_reads_it_by_names(tmp_path: pathlib.Path) -> None:
    """As TensorFlow's name-based reader reads object-based checkpoints."""
    model = keras_models()["functional"]()
    model.export(str(tmp_path / "m"))
    prefix = str(tmp_path / "m" / "variables" / "variables")
    saved = rewritten(prefix, Checkpoint.by_variable_name, tmp_path / "b")
    compat = tf.compat.v1
    with tf.Graph().as_default(), compat.Session() as session:
        kernel = compat.get_variable("fc1/kernel", [6, 5])
        compat.train.Saver().restore(session, saved)
        got = session.run(kernel)
    assert np.array_equal(got, model.get_layer("fc1").kernel.numpy() * 2)


@pytest.mark.parametrize("view", VIEWS)
def test_what_was_dropped_stays_initial(view: View, tmp_path: pathlib.Path) -> None:
    model = Model()
    prefix = tf.train.Checkpoint(model=model).write(str(tmp_path / "a"))
    names = view(tf2flax.open_checkpoint(prefix))
    name = "zero/w" if view is VIEWS[0] else "model/first/w"
    plan = tf2flax.plan(names, {name: "w"}, {"w": np.zeros((6, 4), "f4")})
    tree = {"w": model.first.w.numpy() * 3}
    saved = tf2flax.save_checkpoint(tmp_path / "b", tree, plan=plan, unused="drop")
    again = Model()
    initial = [one.numpy() for one in again.floats()]
    status = tf.train.Checkpoint(model=again).read(saved)
    status.assert_existing_objects_matched()
    status.assert_consumed()
    for one, before in zip(again.floats(), initial, strict=True):
        want = tree["w"] if one is again.first.w else before
        assert np.array_equal(one.numpy(), want)
