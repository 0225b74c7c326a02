"""What variables are called, against TF 2's own name-based reader and its own graphs.

Checkpoints are written here by TensorFlow 2, or lie with the tests (TensorFlow 1.15).
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from repository import DATA

import tf2flax
from tf2flax._formats.object_graph import GRAPH_KEY

tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
pytestmark = pytest.mark.oracle
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
FIXTURES = (
    "tf1_keras/object.ckpt",
    "tf1_keras/slots.ckpt-1",
    "tf2_object/object.ckpt",
    "tf2_object/slots.ckpt",
    "tf2_object/keras_object.ckpt",
    "keras3_export/functional-3.3.3/variables/variables",
    "keras3_export/functional-3.15.1/variables/variables",
    "keras3_export/nested-3.15.1/variables/variables",
)


class Model(tf.Module):
    """Lists, tuples and dicts of variables; shared ones; odd names; a cycle."""

    def __init__(self) -> None:
        super().__init__(name="model")
        self.layers = [tf.Module(name="zero"), tf.Module(name="one")]
        for i, layer in enumerate(self.layers):
            layer.w = tf.Variable(tf.random.normal([2, 3]), name=f"layer_{i}/w")
            layer.owner = self
        self.shared = self.layers[0]
        self.by_key = {"odd.key": tf.Variable(1.0, name="odd"), "b/c": tf.Variable(2.0)}
        self.by_key["..S./."] = tf.Variable([3], name="a.b/../.S")
        self.pair = (tf.Variable([1, 2], name="pair"), "text")
        self.nested = [{"k": [tf.Variable(4.0, name="deep")]}, (tf.Variable(5.0),)]
        self.é = tf.Variable(6.0, name="e")


def variables_and_slots(folder: pathlib.Path) -> str:
    model = Model()
    optimizer = tf.compat.v1.train.AdamOptimizer(name="my.Adam")
    with tf.GradientTape() as tape:
        loss = sum(tf.reduce_sum(layer.w**2) for layer in model.layers)
    weights = [layer.w for layer in model.layers]
    optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
    holder = tf.Module()
    holder.by_name = {"adam.1": optimizer}
    return tf.train.Checkpoint(model=model, holder=holder).save(str(folder / "m.ckpt"))


def managed(folder: pathlib.Path) -> str:
    checkpoint = tf.train.Checkpoint(model=Model(), step=tf.Variable(0, name="step"))
    manager = tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=2)
    for _ in range(3):
        checkpoint.step.assign_add(1)
        manager.save()
    return manager.latest_checkpoint


def keras_model(folder: pathlib.Path) -> str:
    keras = pytest.importorskip("keras")
    given = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="conv")(given)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Flatten()(x)
    shared = keras.layers.Dense(4, name="shared")
    x = shared(shared(keras.layers.Dense(4, name="brain")(x)))
    model = keras.Model(given, keras.layers.Dense(1)(x))
    model.compile(keras.optimizers.Adam(), "mse")
    model.fit(np.ones((2, 8, 8, 3)), np.ones((2, 1)), verbose=0)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    return checkpoint.save(str(folder / "k.ckpt"))


def what_is_no_variable(folder: pathlib.Path) -> str:
    """Tables, iterators, generators; variables without a name and in shards."""
    from tensorflow.python.distribute.sharded_variable import ShardedVariable

    module = tf.Module()
    module.table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
    module.table.insert(tf.constant(["a"]), tf.constant([1], tf.int64))
    module.iterator = iter(tf.data.Dataset.range(3))
    module.generator = tf.random.Generator.from_seed(1)
    module.nameless = tf.Variable(3.0, name="")
    shards = [tf.Variable(tf.ones([2, 3]), name=f"emb/part_{i}") for i in range(2)]
    module.emb = ShardedVariable(shards, name="emb")
    return tf.train.Checkpoint(module=module).write(str(folder / "n.ckpt"))


def saved_model(folder: pathlib.Path) -> str:
    tf.saved_model.save(Model(), str(folder / "saved"))
    return str(folder / "saved" / "variables" / "variables")


def keras_export(folder: pathlib.Path) -> str:
    """Each variable twice; two submodels whose layers have one name."""
    keras = pytest.importorskip("keras")
    layers = keras.layers

    def part(name: str) -> Any:
        given = keras.Input((4,), name=f"in_{name}")
        x = layers.BatchNormalization(name="n")(layers.Dense(4, name="d")(given))
        return keras.Model(given, x, name=name)

    given = keras.Input((4,))
    x = layers.Add()([part("left")(given), part("right")(given)])
    model = keras.Model(given, layers.Dense(1, name="out")(layers.Dropout(0.5)(x)))
    model.export(str(folder / "exported"))
    return str(folder / "exported" / "variables" / "variables")


Write = Callable[[pathlib.Path], str]


@pytest.fixture(
    params=[
        *FIXTURES,
        variables_and_slots,
        managed,
        keras_model,
        what_is_no_variable,
        saved_model,
        keras_export,
    ],
    ids=lambda case: case if isinstance(case, str) else case.__name__,
)
def prefix(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    case: str | Write = request.param
    return str(DATA / case) if isinstance(case, str) else case(tmp_path)


def graph_of(prefix: str) -> Any:
    from tensorflow.core.protobuf import trackable_object_graph_pb2 as messages

    graph = messages.TrackableObjectGraph()
    graph.ParseFromString(tf.train.load_checkpoint(prefix).get_tensor(GRAPH_KEY))
    return graph


def equal(got: np.ndarray, want: Any) -> bool:
    return got.dtype == np.asarray(want).dtype and np.array_equal(got, want)


def test_names_are_those_of_tensorflow(prefix: str) -> None:
    from tensorflow.python.training import saver as reference

    expected = reference.object_graph_key_mapping(prefix)
    expected.pop("", None)  # tables and the like, by which nobody finds them
    candidates: dict[str, set[str]] = {}
    for node in graph_of(prefix).nodes:
        for attribute in node.attributes:
            keys = candidates.setdefault(attribute.full_name, set())
            keys.add(attribute.checkpoint_key)
    own = tf2flax.open_checkpoint(prefix).by_variable_name()
    reader = tf.train.load_checkpoint(prefix)
    unique: set[str] = set()
    for name, key in expected.items():  # of several TensorFlow takes the last
        if len(candidates[name]) > 1 and not is_one_variable(candidates[name], reader):
            assert name not in own
            with pytest.raises(tf2flax.UnsupportedError, match="is shared by"):
                own[name]
            continue
        unique.add(name)
        assert equal(own[name].read(), reader.get_tensor(key)), name
    assert unique
    assert set(own) == unique


def is_one_variable(keys: set[str], reader: Any) -> bool:
    """Whether a Keras 3 export holds one variable in two places."""
    if sorted(key.partition("/")[0] for key in keys) != ["_all_variables", "variables"]:
        return False
    first, second = (reader.get_tensor(key) for key in keys)
    return equal(first, second)


def walks(graph: Any, most: int) -> Iterator[tuple[str, int]]:
    """Every path of at most so many names, with the object it leads to."""
    reached: list[tuple[str, int]] = [("", 0)]
    for _ in range(most):
        reached = [
            (f"{path}/{child.local_name}" if path else child.local_name, child.node_id)
            for path, node in reached
            for child in graph.nodes[node].children
        ]
        yield from reached


def test_every_path_leads_where_it_leads_in_tensorflow(prefix: str) -> None:
    graph = graph_of(prefix)
    values = [
        {one.checkpoint_key for one in node.attributes if one.name == "VARIABLE_VALUE"}
        for node in graph.nodes
    ]
    wanted: dict[str, set[str]] = {}
    for path, node in walks(graph, 5):
        wanted.setdefault(path, set()).update(values[node])
    checkpoint = tf2flax.open_checkpoint(prefix)
    paths = checkpoint.by_object_path()
    reader = tf.train.load_checkpoint(prefix)
    tensors = {key: reader.get_tensor(key) for keys in values for key in keys}
    for path, keys in wanted.items():
        assert (path in paths) == bool(keys), path
        if keys:
            (key,) = keys  # no names here make a path ambiguous
            assert equal(paths[path].read(), tensors[key]), path
    assert {path for path in paths if "/.OPTIMIZER_SLOT/" not in path} <= {*wanted}
    listed = {key for key in checkpoint if key.endswith(SUFFIX)}
    assert len(listed) == len(set().union(*values))
    exported = {path for path in wanted if path.startswith("_all_variables/")}
    merged = {path for path in exported if wanted[path] and path not in set(paths)}
    assert len(paths) == len(listed) - len(merged)
    assert bool(merged) == ("/exported/" in prefix or "keras3_export/" in prefix)


def test_slots_are_found_by_every_path_of_their_variable(prefix: str) -> None:
    graph = graph_of(prefix)
    leading: dict[int, set[str]] = {}
    for path, node in walks(graph, 5):
        leading.setdefault(node, set()).add(path)
    paths = tf2flax.open_checkpoint(prefix).by_object_path()
    reader = tf.train.load_checkpoint(prefix)
    tried = 0
    for node in graph.nodes:
        for slot in node.slot_variables:
            (value,) = graph.nodes[slot.slot_variable_node_id].attributes
            stored = value.checkpoint_key.removesuffix(SUFFIX)
            optimizer = stored.partition("/.OPTIMIZER_SLOT/")[2].replace("..", ".")
            assert optimizer.endswith(f"/{slot.slot_name}")
            for path in leading[slot.original_variable_node_id]:
                got = paths[f"{path}/.OPTIMIZER_SLOT/{optimizer}"].read()
                assert equal(got, reader.get_tensor(value.checkpoint_key)), path
                tried += 1
    assert bool(tried) == any(".OPTIMIZER_SLOT" in path for path in paths)
