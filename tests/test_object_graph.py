"""TF2 checkpoints: stored names, own names, paths; merged checkpoints."""

from __future__ import annotations

import pathlib
import pickle
from collections.abc import Sequence

import numpy as np
import pytest
from bundle_writer import field, write_bundle
from hypothesis import given
from hypothesis import strategies as st

import tf2flax
from tf2flax._errors import MalformedError
from tf2flax._formats.object_graph import GRAPH_KEY, ObjectGraph, names_by_path

DATA = pathlib.Path(__file__).parent / "data"
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"

Node = tuple[Sequence[tuple[str, int]], Sequence[tuple[str, str]]]


def graph_bytes(nodes: Sequence[Node]) -> bytes:
    """Children (name, node) and variables (own name, key) of each object."""
    out = b""
    for children, variables in nodes:
        node = b""
        for name, number in children:
            node += field(1, field(1, number) + field(2, name.encode()))
        for name, key in variables:
            value = field(1, b"VARIABLE_VALUE") + field(2, name.encode())
            node += field(2, value + field(3, key.encode()))
        out += field(1, node)
    return out


def write(
    folder: pathlib.Path, nodes: Sequence[Node], extra: Sequence[str] = ()
) -> tf2flax.Checkpoint:
    keys = [key for _, variables in nodes for _, key in variables]
    arrays = {key: np.array([i], "<i4") for i, key in enumerate([*keys, *extra])}
    graph = np.array(graph_bytes(nodes), object)
    write_bundle(folder / "m.ckpt", {**arrays, GRAPH_KEY: graph})
    return tf2flax.open_checkpoint(folder / "m.ckpt")


def test_both_generations_answer_to_one_name() -> None:
    values = np.load(DATA / "tf1_keras" / "keras_weights.npz")
    checkpoint = tf2flax.open_checkpoint(DATA / "tf1_keras" / "object.ckpt")
    own = checkpoint.by_variable_name()
    assert len(own) == len(values) == 22
    for name, array in own.read().items():
        key = next(k for k in values if k.replace("|", "/").removesuffix(":0") == name)
        assert array.tobytes() == values[key].tobytes(), name


def test_slots_are_included() -> None:
    own = tf2flax.open_checkpoint(DATA / "tf1_keras" / "slots.ckpt-1")
    names = list(own.by_variable_name())
    assert {"conv/kernel", "conv/kernel/Adam", "conv/kernel/Adam_1"} <= {*names}
    path = "model/layer_with_weights-0/kernel/.OPTIMIZER_SLOT/optimizer/m"
    assert (
        own.by_object_path()[path].read().tolist()
        == own.by_variable_name()["conv/kernel/Adam"].read().tolist()
    )


def test_keras_3() -> None:
    checkpoint = tf2flax.open_checkpoint(DATA / "tf2_object" / "keras_object.ckpt")
    own = checkpoint.by_variable_name()
    values = np.load(DATA / "tf2_object" / "keras_weights.npz")
    found = 0
    for key in values:
        name = key.replace("|", "/")
        if f"km/{name}" in own or name in own:
            array = own[name if name in own else f"km/{name}"].read()
            assert array.tobytes() == values[key].tobytes(), name
            found += 1
    assert found == len(values)


def test_shared_names_are_refused_with_the_candidates() -> None:
    own = tf2flax.open_checkpoint(DATA / "tf2_object" / "slots.ckpt").by_variable_name()
    assert own["embedding"].shape
    assert "kernel" in own
    with pytest.raises(tf2flax.UnsupportedError) as caught:
        own["kernel"]
    assert "shared by 5 tensors: `model/shared/kernel/" in str(caught.value)
    assert "by_object_path()" in str(caught.value)
    got = tf2flax.init_from_checkpoint(
        own, {"embedding": "e"}, {"e": np.zeros(own["embedding"].shape, "f4")}
    )
    assert np.asarray(got["e"]).tolist() == own["embedding"].read().tolist()
    assert own.verify().ok


def test_every_path_leads_to_a_variable() -> None:
    checkpoint = tf2flax.open_checkpoint(DATA / "tf2_object" / "object.ckpt")
    paths = checkpoint.by_object_path()
    assert "model/layers/0/kernel" not in list(paths)
    want = paths["model/shared/kernel"].read().tolist()
    assert paths["model/layers/0/kernel"].read().tolist() == want
    assert "model/heads/odd.name/x/kernel" in list(paths)
    stored = "model/heads/odd..name.Sx/kernel" + SUFFIX
    got = paths["model/heads/odd.name/x/kernel"]
    assert got.read().tolist() == checkpoint[stored].read().tolist()
    assert got.name == "model/heads/odd.name/x/kernel"
    assert GRAPH_KEY not in paths
    for path in ("model", "model/layers/0", "model/layers/0/", "", "nothing/here"):
        assert path not in paths
        with pytest.raises(tf2flax.TensorNotFoundError):
            paths[path]


def test_an_error_on_a_stored_name_suggests_the_view() -> None:
    checkpoint = tf2flax.open_checkpoint(DATA / "tf1_keras" / "object.ckpt")
    with pytest.raises(tf2flax.TensorNotFoundError, match=r"by_variable_name\(\)"):
        checkpoint["conv/kernel"]
    with pytest.raises(tf2flax.TensorNotFoundError, match=r"by_object_path\(\)"):
        checkpoint["layer_with_weights-0/kernel"]
    with pytest.raises(tf2flax.TensorNotFoundError, match="use the checkpoint itself"):
        checkpoint.by_object_path()["layer_with_weights-0/kernel" + SUFFIX]
    target = {"a": np.zeros(3, "f4"), "b": {"kernel": np.zeros(2, "f4")}}
    with pytest.raises(tf2flax.AssignmentError, match=r"by_variable_name\(\)"):
        tf2flax.init_from_checkpoint(checkpoint, {"conv/kernel": "a"}, target)
    with pytest.raises(tf2flax.AssignmentError, match=r"by_variable_name\(\)"):
        tf2flax.init_from_checkpoint(checkpoint, {"conv/": "b/"}, target)


def test_name_based_checkpoints_have_no_views() -> None:
    checkpoint = tf2flax.open_checkpoint(DATA / "bert" / "model.ckpt")
    for view in (checkpoint.by_variable_name, checkpoint.by_object_path):
        with pytest.raises(tf2flax.UnsupportedError, match="as it is"):
            view()


def test_views_pickle() -> None:
    checkpoint = tf2flax.open_checkpoint(DATA / "tf2_object" / "object.ckpt")
    for view in (checkpoint.by_variable_name(), checkpoint.by_object_path()):
        again = pickle.loads(pickle.dumps(view))
        assert list(again) == list(view)
    path = "model/layers/0/kernel"
    assert pickle.loads(pickle.dumps(checkpoint.by_object_path()))[path].shape


def test_cycles_and_what_is_not_stored(tmp_path: pathlib.Path) -> None:
    nodes: list[Node] = [
        ([("a", 1), ("self", 0), ("a/b", 2)], []),
        ([("b", 2), ("back", 0)], []),
        ([("up", 1)], [("own", "a/b" + SUFFIX)]),
    ]
    checkpoint = write(tmp_path, nodes, extra=["t/.ATTRIBUTES/table-keys"])
    paths = checkpoint.by_object_path()
    assert list(paths) == ["a/b"]
    for path in ("a/b", "self/a/b", "a/back/self/a/b", "a/b/up/b"):
        assert paths[path].read().tolist() == [0]
    assert "self/" * 3000 + "a/b" in paths
    assert list(checkpoint.by_variable_name()) == ["own"]
    missing: list[Node] = [([("x", 1)], []), ([], [("gone", "not/stored")])]
    graph = np.array(graph_bytes(missing), object)
    write_bundle(tmp_path / "n.ckpt", {GRAPH_KEY: graph, "a" + SUFFIX: np.zeros(1)})
    checkpoint = tf2flax.open_checkpoint(tmp_path / "n.ckpt")
    assert list(checkpoint.by_variable_name()) == []
    assert list(checkpoint.by_object_path()) == ["a"]
    assert "x" not in checkpoint.by_object_path()


@pytest.mark.parametrize(
    "graph",
    [
        np.array(b"\x0a\x05abc", object),
        np.array(graph_bytes([([("a", 7)], [])]), object),
        np.array(graph_bytes([([("a", -1)], [])]), object),
        np.array(b"\x0a\x02" * 200 + b"\x0a\x00", object),
        np.array([b"two", b"strings"], object),
        np.zeros(3),
    ],
)
def test_damaged_graphs(tmp_path: pathlib.Path, graph: np.ndarray) -> None:
    write_bundle(tmp_path / "m", {GRAPH_KEY: graph, "a": np.zeros(1)})
    checkpoint = tf2flax.open_checkpoint(tmp_path / "m")
    assert checkpoint["a"].read().tolist() == [0]
    with pytest.raises(tf2flax.TensorNotFoundError, match="Did you mean"):
        checkpoint["aa"]
    for view in (checkpoint.by_variable_name, checkpoint.by_object_path):
        with pytest.raises(tf2flax.DamagedError, match=GRAPH_KEY):
            view()


@given(data=st.binary(max_size=60))
def test_random_graphs(data: bytes) -> None:
    try:
        graph = ObjectGraph.parse(data)
    except MalformedError:
        return
    graph.key_at("a/b/c")


@given(names=st.lists(st.text("aS./é", min_size=1, max_size=4), min_size=1, max_size=4))
def test_escapes(names: list[str]) -> None:
    key = "/".join(name.replace(".", "..").replace("/", ".S") for name in names)
    assert names_by_path([key + SUFFIX]) == {"/".join(names): (key + SUFFIX,)}


def test_merged_checkpoints(tmp_path: pathlib.Path) -> None:
    write_bundle(tmp_path / "one", {"a": np.arange(3), "b": np.arange(2)})
    write_bundle(tmp_path / "two", {"a": np.arange(5, dtype="<f4")})
    one = tf2flax.open_checkpoint(tmp_path / "one")
    merged = tf2flax.merge_checkpoints({"": one, "two/": tmp_path / "two"})
    assert list(merged) == ["a", "b", "two/a"]
    assert merged["two/a"].read().tolist() == [0, 1, 2, 3, 4]
    assert merged["two/a"].name == "two/a"
    assert {n: a.size for n, a in merged.read().items()} == {"a": 3, "b": 2, "two/a": 5}
    assert list(pickle.loads(pickle.dumps(merged))) == list(merged)
    got = tf2flax.init_from_checkpoint(
        merged, {"two/": "x/"}, {"x": {"a": np.zeros(5, "f4")}}
    )
    assert np.asarray(got["x"]["a"]).tolist() == [0, 1, 2, 3, 4]
    assert merged.verify().num_tensors == 3
    with pytest.raises(tf2flax.TensorNotFoundError, match="Did you mean"):
        merged["two/aa"]
    nested = tf2flax.merge_checkpoints({"n/": merged})
    with pytest.raises(tf2flax.TensorNotFoundError, match="`n/two/a`"):
        nested["two/a"]
    with pytest.raises(tf2flax.AssignmentError, match=r"`two/a` is in two .*one.*two"):
        tf2flax.merge_checkpoints({"two/": one, "": merged})
    assert len(tf2flax.merge_checkpoints({})) == 0
