"""TF2 checkpoints: stored names, own names, paths; merged checkpoints."""

from __future__ import annotations

import itertools
import pathlib
import pickle
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from bundle_writer import field, write_bundle
from hypothesis import given
from hypothesis import strategies as st
from object_graphs import Node, graph_bytes
from repository import DATA

import tf2flax
from tf2flax._base.errors import MalformedError
from tf2flax._formats.object_graph import (
    GRAPH_KEY,
    ObjectGraph,
    names_by_path,
    names_by_variable,
)

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


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
    assert "kernel" not in own
    assert "kernel" not in list(own)
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


def test_slots_answer_to_every_path_of_their_variable() -> None:
    checkpoint = tf2flax.open_checkpoint(DATA / "tf2_object" / "slots.ckpt")
    paths = checkpoint.by_object_path()
    slot = "/.OPTIMIZER_SLOT/optimizer/m"
    assert "model/layers/0/kernel" + slot not in list(paths)
    got = paths["model/layers/0/kernel" + slot].read()
    want = checkpoint["model/shared/kernel" + slot + SUFFIX].read()
    assert got.tobytes() == want.tobytes()
    assert "model/layers/0/kernel" + slot + "x" not in paths
    assert "model/layers/7/kernel" + slot not in paths
    assert "model/layers/0/kernel/.OPTIMIZER_SLOT/" not in paths


def test_optimizers_with_dots_in_their_names(tmp_path: pathlib.Path) -> None:
    nodes: list[Node] = [([("w", 1), ("v", 1)], []), ([], [("w", "w" + SUFFIX)])]
    stored = "w/.OPTIMIZER_SLOT/my..adam/m..1" + SUFFIX
    paths = write(tmp_path, nodes, extra=[stored]).by_object_path()
    assert list(paths) == ["w", "w/.OPTIMIZER_SLOT/my.adam/m.1"]
    assert paths["v/.OPTIMIZER_SLOT/my.adam/m.1"].read().tolist() == [1]
    assert paths["w/.OPTIMIZER_SLOT/my.adam/m.1"].read().tolist() == [1]


def test_scopes_along_other_paths_fill_a_target() -> None:
    paths = tf2flax.open_checkpoint(
        DATA / "tf2_object" / "object.ckpt"
    ).by_object_path()
    shared = {n: paths[f"model/shared/{n}"].read() for n in ("kernel", "bias")}
    target = {"x": {name: np.zeros_like(array) for name, array in shared.items()}}
    got = tf2flax.init_from_checkpoint(paths, {"model/layers/0/": "x/"}, target)
    for name, array in shared.items():
        assert np.asarray(got["x"][name]).tobytes() == array.tobytes(), name


def test_paths_to_several_variables_are_refused(tmp_path: pathlib.Path) -> None:
    nodes: list[Node] = [
        ([("a", 1), ("a/b", 2), ("one", 2), ("two", 3)], []),
        ([("b", 3)], []),
        ([], [("x", "one" + SUFFIX)]),
        ([], [("x", "two" + SUFFIX)]),
    ]
    paths = write(tmp_path, nodes).by_object_path()
    assert list(paths) == ["one", "two"]
    with pytest.raises(tf2flax.UnsupportedError) as caught:
        paths["a/b"]
    assert "`one/.ATTRIBUTES" in str(caught.value)
    assert "`two/.ATTRIBUTES" in str(caught.value)
    assert "Use the stored name of the one that is meant." in str(caught.value)
    assert "by_object_path" not in str(caught.value)  # it is where we are
    doubled: list[Node] = [([("v", 1), ("v", 2)], []), *nodes[2:]]
    with pytest.raises(tf2flax.UnsupportedError, match="shared by 2 tensors"):
        write(tmp_path, doubled).by_object_path()["v"]


def test_only_a_few_candidates_are_named(tmp_path: pathlib.Path) -> None:
    nodes: list[Node] = [([], [("same", f"v{i}" + SUFFIX) for i in range(9)])]
    with pytest.raises(tf2flax.UnsupportedError, match=r"`v4/[^`]*` and 4 more"):
        write(tmp_path, nodes).by_variable_name()["same"]


def test_what_has_no_name_or_is_no_variable_is_left_out() -> None:
    """As TensorFlow 2.21 and 1.15 store tables, iterators and nameless variables."""
    kept = field(1, b"VARIABLE_VALUE") + field(2, b"w") + field(3, b"w" + b"/k")
    table = field(1, b"table") + field(3, b"t/.ATTRIBUTES/table")
    nameless = field(1, b"VARIABLE_VALUE") + field(3, b"n/k")
    config = field(1, b"OBJECT_CONFIG_JSON") + field(3, b"t/.ATTRIBUTES/config")
    node = b"".join(field(2, one) for one in (config, table, kept, nameless))
    root = b"".join(field(1, field(1, 1) + field(2, name)) for name in (b"t", b"u"))
    graph = ObjectGraph.parse(field(1, root) + field(1, node))
    stored = ["w/k", "n/k", "t/.ATTRIBUTES/table-keys", "t/.ATTRIBUTES/config"]
    assert names_by_variable(graph, stored) == {"w": ("w/k",)}
    assert names_by_path(stored) == {}
    assert graph.keys_at("u") == ("w/k", "n/k")


def test_what_was_loaded_by_another_path_is_used() -> None:
    checkpoint = tf2flax.open_checkpoint(DATA / "tf2_object" / "object.ckpt")
    paths = checkpoint.by_object_path()
    name = "model/layers/0/kernel"
    target = {"w": np.zeros(paths[name].shape, "f4")}
    plan = tf2flax.plan(paths, {name: "w"}, target)
    assert "model/shared/kernel" not in plan.unused
    assert len(plan.unused) == len(paths) - 1


def test_a_shared_name_that_a_map_meets_is_one_of_its_problems() -> None:
    own = tf2flax.open_checkpoint(DATA / "tf2_object" / "slots.ckpt").by_variable_name()
    target = {"kernel": np.zeros(3, "f4"), "embedding": np.zeros(1, "f4")}
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.plan(own, {"/": "/"}, target)
    assert "2 problems" in str(caught.value)
    assert "shared by 5 tensors" in str(caught.value)


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


# Local names of which some hold slashes, so that paths run into each other.
LOCAL_NAMES = st.sampled_from(["a", "b", "a/b", "b/a", "a.b", ".", "é", ""])


@st.composite
def graphs(draw: st.DrawFn) -> list[Node]:
    """Small graphs with cycles, shared objects and names held twice."""
    count = draw(st.integers(1, 4))
    references = st.tuples(LOCAL_NAMES, st.integers(0, count - 1))
    values = st.tuples(st.sampled_from(["x", "y", ""]), st.sampled_from("klmn"))
    return [
        (
            draw(st.lists(references, max_size=4)),
            draw(st.lists(values, max_size=2)),
        )
        for _ in range(count)
    ]


def walks(nodes: Sequence[Node], most: int) -> Iterator[tuple[str, int]]:
    """Every path of at most so many names, with the object it leads to."""
    reached: list[tuple[tuple[str, ...], int]] = [((), 0)]
    for _ in range(most):
        reached = [
            ((*names, name), child)
            for names, node in reached
            for name, child in nodes[node][0]
        ]
        yield from (("/".join(names), node) for names, node in reached)


@given(nodes=graphs(), strays=st.lists(st.text("ab/.", max_size=5), max_size=5))
def test_paths_lead_where_a_walk_leads(nodes: list[Node], strays: list[str]) -> None:
    graph = ObjectGraph.parse(graph_bytes(nodes))
    wanted: dict[str, set[str]] = {path: set() for path in strays}
    # Paths of up to 4 characters can have 5 names, all of them empty.
    for path, node in walks(nodes, 5):
        if len(path) <= 4:
            wanted.setdefault(path, set()).update(key for _, key in nodes[node][1])
    for path, keys in wanted.items():
        if len(path) <= 4:
            found = graph.keys_at(path)
            assert set(found) == keys, path
            assert len(found) == len(keys), path


@given(nodes=graphs(), stored=st.sets(st.sampled_from("klmn")))
def test_names_are_those_of_stored_values(nodes: list[Node], stored: set[str]) -> None:
    found = names_by_variable(ObjectGraph.parse(graph_bytes(nodes)), stored)
    values = {value for _, values in nodes for value in values}
    wanted = {(name, key) for name, key in values if name and key in stored}
    assert {(name, key) for name, keys in found.items() for key in keys} == wanted
    assert sum(map(len, found.values())) == len(wanted)


CYCLES: list[Node] = [([("a", 0), ("a/a", 0), ("v", 1)], []), ([], [("x", "k")])]
DENSE: list[Node] = [([("a", i) for i in range(300)], [("x", "k")])] * 300
SLASHES: list[Node] = [([("/" * i, 0) for i in range(300)], [("x", "k")])]


def test_objects_are_visited_once_however_many_ways_lead_there() -> None:
    graph = ObjectGraph.parse(graph_bytes(CYCLES))
    assert graph.keys_at("a/" * 5_000 + "v") == ("k",)  # 10 ** 1000 ways and more


@pytest.mark.parametrize(
    ("nodes", "path"), [(DENSE, "a/" * 300 + "a"), (SLASHES, "/" * 60_000)]
)
def test_searches_of_crafted_graphs_are_given_up(nodes: list[Node], path: str) -> None:
    graph = ObjectGraph.parse(graph_bytes(nodes))
    before = time.process_time()
    assert graph.keys_at(path) == ()  # though it does lead there
    assert graph.keys_at(path[:9]) == ("k",)
    assert time.process_time() - before < 10


@given(cut=st.integers(0, 200), bit=st.integers(0, 1599))
def test_every_cut_and_flip_of_a_graph_is_refused_or_parsed(cut: int, bit: int) -> None:
    nodes: list[Node] = [([("a", i), ("b/c", 0)], [("x", "k")]) for i in range(8)]
    whole = graph_bytes(nodes)
    flipped = bytearray(whole)
    flipped[bit // 8 % len(whole)] ^= 1 << bit % 8
    for data in (whole[:cut], bytes(flipped)):
        try:
            graph = ObjectGraph.parse(data)
        except MalformedError:
            continue
        count = len(graph.nodes)
        children = itertools.chain(*(node.children for node in graph.nodes))
        assert all(0 <= child.node_id < count for child in children)
        graph.keys_at("a/b/c/a")
        names_by_variable(graph, ["k"])


@given(data=st.binary(max_size=60))
def test_random_graphs(data: bytes) -> None:
    try:
        graph = ObjectGraph.parse(data)
    except MalformedError:
        return
    graph.keys_at("a/b/c")


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


def test_merged_views_know_every_path(tmp_path: pathlib.Path) -> None:
    paths = tf2flax.open_checkpoint(
        DATA / "tf2_object" / "object.ckpt"
    ).by_object_path()
    merged = tf2flax.merge_checkpoints({"tf2/": paths})
    want = paths["model/shared/kernel"].read()
    assert merged["tf2/model/layers/0/kernel"].read().tobytes() == want.tobytes()
    assert merged["tf2/model/layers/0/kernel"].name == "tf2/model/layers/0/kernel"
    assert "model/layers/0/kernel" not in merged
    again = pickle.loads(pickle.dumps(merged))
    assert again["tf2/model/layers/0/kernel"].read().tobytes() == want.tobytes()
    nodes: list[Node] = [([("p/m", 1)], []), ([], [("v", "v" + SUFFIX)])]
    one = write(tmp_path / "one", nodes).by_object_path()
    nodes = [([("m", 1)], []), ([], [("v", "w" + SUFFIX)])]
    two = write(tmp_path / "two", nodes).by_object_path()
    both = tf2flax.merge_checkpoints({"": one, "p/": two})
    with pytest.raises(tf2flax.UnsupportedError, match=r"`p/m` leads to 2 tensors"):
        both["p/m"]


def test_wrong_names_and_prefixes() -> None:
    checkpoint = tf2flax.open_checkpoint(DATA / "tf2_object" / "object.ckpt")
    for view in (
        checkpoint,
        checkpoint.by_variable_name(),
        checkpoint.by_object_path(),
        tf2flax.merge_checkpoints({"": checkpoint}),
    ):
        for name in ([], 1, None, b"step", ("step",)):
            assert name not in view
            with pytest.raises(tf2flax.TensorNotFoundError):
                view[name]  # type: ignore[index]
    with pytest.raises(tf2flax.AssignmentError, match="prefixes of names"):
        tf2flax.merge_checkpoints({1: checkpoint})  # type: ignore[dict-item]
