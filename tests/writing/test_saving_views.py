"""The way back through views: stored names, the object graph, both places."""

from __future__ import annotations

import functools
import pathlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from bundle_writer import Tensor, field, write_bundle
from object_graphs import SUFFIX, graph_bytes, write_object_based
from repository import DATA

import tf2flax
from tf2flax import src, stack
from tf2flax._checkpoint.checkpoint import Checkpoint
from tf2flax._formats.object_graph import GRAPH_KEY, ObjectGraph
from tf2flax._formats.renamed import RenamedManifest
from tf2flax._writing.arrays import prepare_tensor
from tf2flax._writing.backwards import TensorWriter
from tf2flax._writing.new_tensors import whole_tensor

OBJECT_BASED = [
    "keras3_export/functional-3.3.3",
    "keras3_export/functional-3.15.1",
    "keras3_export/nested-3.15.1",
    "tf1_keras/object.ckpt",
    "tf1_keras/slots.ckpt-1",
    "tf2_object/object.ckpt",
    "tf2_object/slots.ckpt",
    "tf2_object/keras_object.ckpt",
]
VIEWS: dict[str, Callable[[Checkpoint], Checkpoint]] = {
    "names": Checkpoint.by_variable_name,
    "paths": Checkpoint.by_object_path,
    "merged": lambda c: tf2flax.merge_checkpoints({"m/": c.by_variable_name()}),
    "merged twice": lambda c: tf2flax.merge_checkpoints(
        {"a/": tf2flax.merge_checkpoints({"": c.by_object_path()})}
    ),
}


@pytest.fixture(autouse=True)
def few_warnings() -> Iterator[None]:
    """Other copies that are left as they are have tests of their own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*hold variables that are written elsewhere")
        yield


F4 = np.arange(6, dtype="<f4")
SLICES = [(slice(0, 2),), (slice(2, 6),)]


def contents(checkpoint: tf2flax.Checkpoint) -> dict[str, Any]:
    return {
        name: (
            array.dtype.name,
            array.shape,
            checkpoint[name].slices,
            array.tolist() if array.dtype == object else array.tobytes(),
        )
        for name, array in checkpoint.read().items()
    }


def scaled(view: tf2flax.Checkpoint, factor: float) -> tuple[Any, Mapping[str, Any]]:
    """A plan of all floats, transposed where they are matrices, and its tree."""
    entries: list[tuple[Any, str]] = []
    target: dict[str, np.ndarray] = {}
    for number, (name, tensor) in enumerate(view.items()):
        if tensor.dtype != np.float32:
            continue
        leaf = f"leaf_{number}"
        source = src(name.replace("{", "{{").replace("}", "}}"))
        entries.append((source.transpose() if tensor.ndim == 2 else source, leaf))
        target[leaf] = np.zeros(tensor.shape[::-1], "f4")
        if tensor.ndim != 2:
            target[leaf] = np.zeros(tensor.shape, "f4")
    plan = tf2flax.plan(view, entries, target)
    tree = {name: np.asarray(leaf) for name, leaf in plan.restore().items()}
    return plan, {name: leaf * np.float32(factor) for name, leaf in tree.items()}


def variables_of(checkpoint: tf2flax.Checkpoint) -> dict[str, list[str]]:
    """Own name -> places, as the graph says."""
    graph = ObjectGraph.parse(checkpoint[GRAPH_KEY].read().item())
    found: dict[str, list[str]] = {}
    for node in graph.nodes:
        for value in node.attributes:
            found.setdefault(value.full_name, []).append(value.checkpoint_key)
    return found


@pytest.mark.parametrize("path", OBJECT_BASED)
@pytest.mark.parametrize("kind", VIEWS)
def test_what_was_only_loaded_comes_back(
    path: str, kind: str, tmp_path: pathlib.Path
) -> None:
    checkpoint = tf2flax.open_checkpoint(DATA / path)
    plan, tree = scaled(VIEWS[kind](checkpoint), 1)
    saved = tf2flax.save_checkpoint(tmp_path / "m", tree, plan=plan)
    assert contents(tf2flax.open_checkpoint(saved)) == contents(checkpoint)


@pytest.mark.filterwarnings("ignore:.*`model/optimizer/_iterations/:UserWarning")
@pytest.mark.parametrize("path", OBJECT_BASED)
@pytest.mark.parametrize("kind", ["names", "paths"])
def test_what_has_changed_is_written_in_every_place(
    path: str, kind: str, tmp_path: pathlib.Path
) -> None:
    checkpoint = tf2flax.open_checkpoint(DATA / path)
    view = VIEWS[kind](checkpoint)
    plan, tree = scaled(view, 2)
    saved = tf2flax.open_checkpoint(
        tf2flax.save_checkpoint(tmp_path / "m", tree, plan=plan)
    )
    assert list(saved) == list(checkpoint)
    assert bytes(saved[GRAPH_KEY].read().item()) == checkpoint[GRAPH_KEY].read().item()
    loaded = {name for name, tensor in view.items() if tensor.dtype == np.float32}
    before, after = contents(checkpoint), contents(saved)
    changed = {name for name in before if after[name] != before[name]}
    names = variables_of(checkpoint)
    wanted = {
        place
        for name, places in names.items()
        for place in places
        if (name in loaded if kind == "names" else place[: -len(SUFFIX)] in loaded)
    }
    if kind == "paths":  # escapes, slots, and the second places of exports
        in_graph = {place for places in names.values() for place in places}
        wanted |= {place for place in changed if place not in in_graph}
        pairs = [p for p in names.values() if len(p) == 2 and "_all" in p[1]]
        wanted |= {pair[1] for pair in pairs if pair[0] in wanted}
        wanted |= {p for p in changed if ".." in p or ".S" in p}
    zero = {place for place in wanted if not checkpoint[place].read().any()}
    assert changed == wanted - zero
    for place in changed:
        want = checkpoint[place].read() * np.float32(2)
        assert saved[place].read().tobytes() == want.tobytes()
    again = VIEWS[kind](saved)
    assert list(again) == list(view)
    got = tf2flax.plan(again, plan_entries(plan), zeros(tree)).restore()
    for leaf, array in tree.items():
        assert np.asarray(got[leaf]).tobytes() == array.tobytes()


def plan_entries(plan: tf2flax.Plan) -> list[tuple[Any, str]]:
    return [(one.expression, one.leaf) for one in plan.assignments]


def zeros(tree: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.zeros_like(leaf) for name, leaf in tree.items()}


def test_both_places_of_an_export_are_assignments(tmp_path: pathlib.Path) -> None:
    checkpoint = tf2flax.open_checkpoint(DATA / "keras3_export" / "functional-3.15.1")
    view = checkpoint.by_variable_name()
    plan = tf2flax.plan(view, {"fc1/": "fc1/"}, {"fc1": {"bias": np.zeros(5, "f4")}})
    inverse = plan.inverse()
    places = [one.name for one in inverse.assignments]
    assert places == sorted(variables_of(checkpoint)["fc1/bias"])
    assert len(places) == 2
    assert {str(one) for one in inverse.assignments} == {
        f"`{place}` <- `fc1/bias`" for place in places
    }
    assert set(inverse.copied) == set(checkpoint) - set(places)
    tree = {"fc1": {"bias": np.arange(5, dtype="f4")}}
    saved = tf2flax.open_checkpoint(
        tf2flax.save_checkpoint(tmp_path / "m", tree, plan=plan)
    )
    for place in places:
        assert saved[place].read().tolist() == [0, 1, 2, 3, 4]
    assert saved.by_variable_name()["fc1/bias"].read().tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("path", OBJECT_BASED)
@pytest.mark.parametrize("kind", ["stored", *VIEWS])
def test_what_is_dropped_leaves_the_graph(
    path: str, kind: str, tmp_path: pathlib.Path
) -> None:
    checkpoint = tf2flax.open_checkpoint(DATA / path)
    view = VIEWS[kind](checkpoint) if kind in VIEWS else checkpoint
    plan, tree = scaled(view, 2)
    some = list(tree)[::2]
    entries = [pair for pair in plan_entries(plan) if pair[1] in some]
    tree = {name: tree[name] for name in some}
    plan = tf2flax.plan(view, entries, zeros(tree))
    saved = tf2flax.open_checkpoint(
        tf2flax.save_checkpoint(tmp_path / "m", tree, plan=plan, unused="drop")
    )
    written = {one.name for one in plan.inverse().assignments}
    assert set(saved) == written | {GRAPH_KEY}
    before = ObjectGraph.parse(checkpoint[GRAPH_KEY].read().item())
    after = ObjectGraph.parse(saved[GRAPH_KEY].read().item())
    assert len(before.nodes) == len(after.nodes)
    for old, new in zip(before.nodes, after.nodes, strict=True):
        assert new.children == old.children
        kept = [one for one in old.attributes if one.checkpoint_key in written]
        assert list(new.attributes) == kept
    names = saved.by_variable_name()
    assert set(names) == {
        name
        for name, places in variables_of(checkpoint).items()
        if name
        and ({*places} & written)
        and name in (*names, *names.manifest.shared_names)
        and name in names
    }
    if kind != "stored":
        for leaf, array in tf2flax.plan(view, entries, zeros(tree)).restore().items():
            want = tree[leaf] / np.float32(2)
            assert np.asarray(array).tobytes() == want.tobytes()


def messages(node: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a message, all of them length-delimited and short here."""
    while node:
        assert node[0] & 7 == 2
        assert node[1] < 0x80
        yield node[0] >> 3, node[2 : 2 + node[1]]
        node = node[2 + node[1] :]


def test_dropped_slots_tables_and_what_is_not_known(tmp_path: pathlib.Path) -> None:
    def value(kind: bytes, key: str) -> bytes:
        inner = field(1, kind) + field(2, key.encode()[:1]) + field(3, key.encode())
        return field(2, inner)

    def slot(node: int) -> bytes:
        return field(3, field(1, 1) + field(2, b"m") + field(3, node))

    kept, gone, table = "w" + SUFFIX, "m" + SUFFIX, "t/.ATTRIBUTES/table"
    both = value(b"VARIABLE_VALUE", kept) + value(b"OBJECT_CONFIG_JSON", "c/.config")
    graph = b"".join(
        field(1, node)
        for node in (
            slot(2) + slot(1) + field(5, field(1, 1)) + field(9, b"later"),
            both,
            value(b"VARIABLE_VALUE", gone),
            value(b"table", table),
        )
    )
    arrays: dict[str, Any] = {
        kept: F4,
        gone: F4,
        "c/.config": np.array(b"{}", object),
        f"{table}-keys": np.array([b"k"], object),
        f"{table}-values": np.array([1]),
        GRAPH_KEY: np.array(graph, object),
    }
    write_bundle(tmp_path / "a", arrays)
    view = tf2flax.open_checkpoint(tmp_path / "a").by_variable_name()
    plan = tf2flax.plan(view, {"w": "w"}, {"w": np.zeros(6, "f4")})
    copied = tf2flax.save_checkpoint(tmp_path / "b", {"w": F4}, plan=plan)
    assert contents(tf2flax.open_checkpoint(copied)) == contents(
        tf2flax.open_checkpoint(tmp_path / "a")
    )
    dropped = tf2flax.open_checkpoint(
        tf2flax.save_checkpoint(tmp_path / "c", {"w": F4}, plan=plan, unused="drop")
    )
    assert list(dropped) == [GRAPH_KEY, kept]
    pruned: bytes = dropped[GRAPH_KEY].read().item()
    nodes = [list(messages(node)) for _, node in messages(pruned)]
    root = nodes[0]
    assert [n for n in root if n[0] == 3] == [next(messages(slot(1)))]
    assert (5, field(1, 1)) in root
    assert (9, b"later") in root
    assert nodes[1] == [next(messages(value(b"VARIABLE_VALUE", kept)))]
    assert nodes[2:] == [[], []]


def test_two_paths_of_one_variable_are_one_tensor(tmp_path: pathlib.Path) -> None:
    checkpoint = tf2flax.open_checkpoint(DATA / "tf2_object" / "object.ckpt")
    paths = checkpoint.by_object_path()
    first, second = "model/shared/kernel", "model/layers/0/kernel"
    kernel = paths[first].read()
    target = {"a": np.zeros_like(kernel), "b": np.zeros_like(kernel)}
    plan = tf2flax.plan(paths, {first: "a", second: "b"}, target)
    (one,) = plan.inverse().assignments
    assert one.name == first + SUFFIX
    assert one.leaves == ("a", "b")
    tree = {"a": kernel * 3, "b": kernel * 3}
    saved = tf2flax.open_checkpoint(
        tf2flax.save_checkpoint(tmp_path / "m", tree, plan=plan)
    )
    assert saved[first + SUFFIX].read().tobytes() == tree["a"].tobytes()
    assert list(saved) == list(checkpoint)
    with pytest.raises(tf2flax.AssignmentError, match="`a` and `b`, with diff"):
        tf2flax.save_checkpoint(
            tmp_path / "n", {"a": kernel, "b": kernel * 3}, plan=plan
        )


def test_two_views_of_one_checkpoint_are_one(tmp_path: pathlib.Path) -> None:
    path = DATA / "keras3_export" / "functional-3.15.1"
    merged = tf2flax.merge_checkpoints(
        {
            "n/": tf2flax.open_checkpoint(path).by_variable_name(),
            "p/": tf2flax.open_checkpoint(path).by_object_path(),
            "": path,
        }
    )
    target = {"a": np.zeros(5, "f4"), "b": np.zeros(5, "f4")}
    plan = tf2flax.plan(merged, {"n/fc1/bias": "a", "p/variables/1": "b"}, target)
    tree = {"a": F4[:5], "b": F4[:5]}
    saved = tf2flax.open_checkpoint(
        tf2flax.save_checkpoint(tmp_path / "m", tree, plan=plan)
    )
    assert list(saved) == list(tf2flax.open_checkpoint(path))
    places = variables_of(saved)["fc1/bias"]
    assert [saved[place].read().tolist() for place in places] == [[0, 1, 2, 3, 4]] * 2


def test_merged_checkpoints_with_a_graph_are_refused(tmp_path: pathlib.Path) -> None:
    one = tf2flax.open_checkpoint(DATA / "tf2_object" / "object.ckpt")
    two = tf2flax.open_checkpoint(DATA / "tf1_keras" / "object.ckpt")
    plain = tf2flax.open_checkpoint(DATA / "bert" / "model.ckpt")
    for merged in (
        {"a/": one.by_variable_name(), "b/": two.by_variable_name()},
        {"a/": one.by_object_path(), "b/": plain},
        {"a/": plain, "": one},
        {"a/": one, "b/": two},
        {"": tf2flax.merge_checkpoints({"x/": two.by_object_path(), "y/": plain})},
    ):
        source = tf2flax.merge_checkpoints(merged)
        name = next(name for name, t in source.items() if t.dtype == np.float32)
        target = {"w": np.zeros(source[name].shape, "f4")}
        plan = tf2flax.plan(source, {name.replace("{", "{{"): "w"}, target)
        tree = plan.restore()
        for unused in ("copy", "drop"):
            with pytest.raises(tf2flax.AssignmentError) as caught:
                tf2flax.save_checkpoint(
                    tmp_path / "x" / "m", tree, plan=plan, unused=unused
                )
            assert "has an object graph" in str(caught.value)
            assert "Make a plan for each checkpoint" in str(caught.value)
    assert not (tmp_path / "x").exists()


def test_merged_checkpoints_without_graphs_keep_their_names(
    tmp_path: pathlib.Path,
) -> None:
    """Views without a graph show what is stored, hidden tensors as well."""
    write_bundle(tmp_path / "a", {"k/0": F4, "k/1": F4 + 1, "k/2": F4 + 2})
    base = tf2flax.open_checkpoint(tmp_path / "a").manifest
    names = {"w": ("k/0",), "both": ("k/1", "k/2")}
    view = Checkpoint(RenamedManifest(base, names))
    merged = tf2flax.merge_checkpoints({"x/": view, "y/": tmp_path / "a"})
    cases = [(view, "w", ""), (merged, "x/w", "x/")]
    for number, (source, name, prefix) in enumerate(cases):
        plan = tf2flax.plan(source, {name: "w"}, {"w": np.zeros(6, "f4")})
        got = tf2flax.open_checkpoint(
            tf2flax.save_checkpoint(tmp_path / f"m{number}", {"w": -F4}, plan=plan)
        ).read()
        assert got.pop(f"{prefix}k/0").tolist() == (-F4).tolist()
        assert {n for n in got if n.startswith(prefix)} >= {
            f"{prefix}k/1",
            f"{prefix}k/2",
        }
        assert len(got) == (2 if source is view else 5)


def doubled(folder: pathlib.Path, first: Any, second: Any) -> tf2flax.Checkpoint:
    return write_object_based(
        folder,
        {
            "variables/0": ("a", first),
            "variables/1": ("b", second),
            "_all_variables/1": ("a", first),
            "_all_variables/0": ("b", second),
            "step": ("", np.array(7)),
        },
    )


def test_expressions_over_what_is_stored_twice(tmp_path: pathlib.Path) -> None:
    table = F4.reshape(2, 3)
    checkpoint = doubled(tmp_path, table, table + 10)
    view = checkpoint.by_variable_name()
    stacked = np.stack([table, table + 10]) * 2
    cases: list[tuple[Any, np.ndarray, np.ndarray, np.ndarray]] = [
        (stack("a", "b"), stacked, stacked[0], stacked[1]),
        (src("a").transpose(), stacked[0].T, stacked[0], table + 10),
        (src("a").reshape(3, 2), stacked[0].reshape(3, 2), stacked[0], table + 10),
        (
            src("a").rearrange("r c -> (r c)"),
            stacked[0].ravel(),
            stacked[0],
            table + 10,
        ),
        (
            tf2flax.concat(src("b")[1:], src("a")[:1]),
            np.full((2, 3), 5, "f4"),
            np.stack([np.full(3, 5, "f4"), table[1]]),
            np.stack([table[0] + 10, np.full(3, 5, "f4")]),
        ),
    ]
    for number, (expression, leaf, a, b) in enumerate(cases):
        plan = tf2flax.plan(view, {expression: "w"}, {"w": np.zeros_like(leaf)})
        saved = tf2flax.open_checkpoint(
            tf2flax.save_checkpoint(tmp_path / f"m{number}", {"w": leaf}, plan=plan)
        )
        assert list(saved) == list(checkpoint)
        for place, want in {
            "variables/0": a,
            "_all_variables/1": a,
            "variables/1": b,
            "_all_variables/0": b,
            "step": np.array(7),
        }.items():
            assert saved[place + SUFFIX].read().tolist() == want.tolist(), place
    plan = tf2flax.plan(view, {src("a")[1:]: "w"}, {"w": np.zeros((1, 3), "f4")})
    with pytest.raises(tf2flax.AssignmentError, match="covered only partly"):
        tf2flax.save_checkpoint(
            tmp_path / "x", {"w": table[:1]}, plan=plan, unused="drop"
        )


def test_slices_and_parts_of_what_is_stored_twice(tmp_path: pathlib.Path) -> None:
    checkpoint = doubled(tmp_path, Tensor(F4, SLICES), F4[:0])
    view = checkpoint.by_variable_name()
    parts = {f"part_{i}": np.zeros(3, "f4") for i in range(2)}
    plan = tf2flax.plan(view, {"a": "w", "b": "v"}, {"w": parts, "v": F4[:0]})
    tree = {"w": {"part_0": F4[:3] + 1, "part_1": F4[3:] + 1}, "v": F4[:0]}
    saved = tf2flax.open_checkpoint(
        tf2flax.save_checkpoint(tmp_path / "s", tree, plan=plan, data_files=2)
    )
    for place in ("variables/0", "_all_variables/1"):
        tensor = saved[place + SUFFIX]
        assert tensor.read().tolist() == (F4 + 1).tolist()
        assert tensor.slices == checkpoint[place + SUFFIX].slices != ()
    assert saved.verify().ok
    assert saved.by_variable_name()["a"].read().tolist() == (F4 + 1).tolist()


def test_lost_digits_come_back_in_both_places(tmp_path: pathlib.Path) -> None:
    exact = np.array([0.1, 0.2, 0.3], "f8")
    checkpoint = doubled(tmp_path, exact, exact * 3)
    view = checkpoint.by_variable_name()
    target = {"a": np.zeros(3, "f4")}
    plan = tf2flax.plan(view, {src("a").cast("float32"): "a"}, target)
    tree = {"a": np.asarray(plan.restore()["a"]).copy()}
    tree["a"][1] = 5
    saved = tf2flax.open_checkpoint(
        tf2flax.save_checkpoint(tmp_path / "s", tree, plan=plan)
    )
    for place in ("variables/0", "_all_variables/1"):
        assert saved[place + SUFFIX].read().tolist() == [0.1, 5, 0.3]


def test_leaves_are_dropped_between_the_two_places(tmp_path: pathlib.Path) -> None:
    checkpoint = doubled(tmp_path, F4, F4 + 1)
    plan = tf2flax.plan(
        checkpoint.by_variable_name(), {"a": "a", "b": "b"}, {"a": F4, "b": F4}
    )
    fetched: list[str] = []

    def fetch(leaf: str) -> np.ndarray:
        fetched.append(leaf)
        return F4 + len(fetched)

    spec = prepare_tensor("a", F4).spec
    leaves = {
        leaf: whole_tensor(leaf, spec, functools.partial(fetch, leaf)) for leaf in "ab"
    }
    backwards = TensorWriter(plan.inverse(), leaves)
    held: list[int] = []
    for one in plan.inverse().assignments:
        backwards.tensor(one.name)
        held.append(len(backwards._contributions))  # pyright: ignore[reportPrivateUsage]
    assert sorted(fetched) == ["a", "a", "b", "b"]
    assert held == [0] * 4


def test_a_copy_that_stays_behind_is_named(tmp_path: pathlib.Path) -> None:
    checkpoint = tf2flax.open_checkpoint(DATA / "keras3_export" / "functional-3.15.1")
    first, second = sorted(variables_of(checkpoint)["fc1/bias"])
    target = {"w": np.zeros(5, "f4"), "v": np.zeros(5, "f4")}

    def warnings_of(source: tf2flax.Checkpoint, *names: str) -> list[str]:
        entries = dict(zip(names, "wv", strict=False))
        plan = tf2flax.plan(source, entries, target)
        tree = {leaf: target[leaf] + 1 for leaf in entries.values()}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            tf2flax.save_checkpoint(tmp_path / "m", tree, plan=plan, overwrite=True)
        return [str(one.message) for one in caught if one.filename == __file__]

    for written, stale in ((first, second), (second, first)):
        (message,) = warnings_of(checkpoint, written)
        assert f"`{stale}`" in message
        assert f"`{written}`" not in message
    assert warnings_of(checkpoint, first, second) == []
    assert warnings_of(checkpoint.by_variable_name(), "fc1/bias") == []
    assert warnings_of(checkpoint.by_object_path(), "variables/1") == []
    nested = tf2flax.open_checkpoint(DATA / "keras3_export" / "nested-3.15.1")
    target = {"w": np.zeros(4, "f4"), "v": np.zeros(4, "f4")}
    (message,) = warnings_of(nested.by_object_path(), "variables/1")
    assert "2 tensors are copied as they are" in message
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = tf2flax.plan(checkpoint, {first: "w"}, {"w": np.zeros(5, "f4")})
        tree = {"w": np.ones(5, "f4")}
        tf2flax.save_checkpoint(tmp_path / "d", tree, plan=plan, unused="drop")
        # Nothing has changed, and so nothing is stale.
        tf2flax.save_checkpoint(tmp_path / "e", plan.restore(), plan=plan)


def test_slots_of_a_keras_3_optimizer(tmp_path: pathlib.Path) -> None:
    """Wherever in a `tf.train.Checkpoint` it is: it is dropped with its variable."""
    named = {
        "net/a": "net/w", "net/b": "net/w/b", "opt/_variables/2": "adam/net_w_momentum",
        "opt/_variables/3": "adam/net_w_velocity_hat", "opt/_iterations": "adam/it",
        "opt/_variables/4": "adam/net_w_b_momentum", "opt/_variables/7": "adam/x",
        "opt/_learning_rate": "adam/learning_rate", "sum/_variables/0": "sum/total",
    }  # fmt: skip
    keys = {path: f"{path}{SUFFIX}" for path in named}
    graph = graph_bytes([([], [(name, keys[path])]) for path, name in named.items()])
    arrays = {**dict.fromkeys(keys.values(), F4), keys["opt/_iterations"]: np.int64(3)}
    write_bundle(tmp_path / "a", {**arrays, GRAPH_KEY: np.array(graph, object)})
    steps = ["`opt/_iterations/", "`opt/_variables/7/"]
    for path, array, stale in (
        ("net/a", -F4, [*steps, "`opt/_variables/{2..3}/"]),
        ("net/b", -F4, [*steps, "`opt/_variables/4/"]),
        ("net/b", F4, []),
        ("net/a", np.zeros(9, "f4"), [*steps, "`opt/_variables/{2..3}/"]),
        ("opt/_variables/2", -F4, []),
        ("opt/_iterations", -F4, []),
    ):
        tree = {"w": array, "lr": F4}
        entries = {keys[path]: "w", keys["opt/_learning_rate"]: "lr"}
        plan = tf2flax.plan(tmp_path / "a", entries, tree, on_mismatch="keep")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            tf2flax.save_checkpoint(tmp_path / "b", tree, plan=plan, overwrite=True)
        said = " ".join(str(one.message) for one in caught)
        assert all(part in said for part in stale), said
        assert said.count(SUFFIX) == len(stale)
        saved = tf2flax.open_checkpoint(tmp_path / "b")
        lost = {keys["opt/_variables/2"], keys["opt/_variables/3"]}
        assert set(arrays) - set(saved) == (lost if len(array) > len(F4) else set())
        after = saved[GRAPH_KEY].read().item()
        assert all((key in saved) == (key.encode() in after) for key in arrays)


def test_a_damaged_graph_is_copied_and_never_half_kept(tmp_path: pathlib.Path) -> None:
    arrays = {GRAPH_KEY: np.array(b"\x0a\x05abc", object), "a": F4, "b": F4}
    write_bundle(tmp_path / "a", arrays)
    plan = tf2flax.plan(tmp_path / "a", {"a": "w"}, {"w": np.zeros(6, "f4")})
    saved = tf2flax.save_checkpoint(tmp_path / "b", {"w": -F4}, plan=plan)
    assert tf2flax.open_checkpoint(saved)[GRAPH_KEY].read()[()] == b"\x0a\x05abc"
    with pytest.raises(tf2flax.DamagedError, match=GRAPH_KEY):
        tf2flax.save_checkpoint(tmp_path / "c", {"w": F4}, plan=plan, unused="drop")
    assert not list(tmp_path.glob("c.*"))


def test_over_the_source_in_a_saved_model(tmp_path: pathlib.Path) -> None:
    """No state file appears, which would lead past the model's own variables."""
    model = tmp_path / "model"
    source = DATA / "keras3_export" / "functional-3.15.1" / "variables"
    (model / "variables").mkdir(parents=True)
    for file in source.iterdir():
        (model / "variables" / file.name).write_bytes(file.read_bytes())
    (model / "saved_model.pb").write_bytes(b"")
    checkpoint = tf2flax.open_checkpoint(model)
    plan, tree = scaled(checkpoint.by_variable_name(), 2)
    prefix = tf2flax.save_checkpoint(
        model / "variables" / "variables", tree, plan=plan, overwrite=True
    )
    files = sorted(file.name for file in (model / "variables").iterdir())
    assert files == sorted(file.name for file in source.iterdir())
    saved = tf2flax.open_checkpoint(model)
    assert saved.prefix == prefix
    for places in variables_of(saved).values():
        assert len({saved[place].read().tobytes() for place in places}) == 1
    assert saved.by_variable_name()["fc1/kernel"].read().any()


@pytest.mark.parametrize(
    ("folder", "is_written"),
    [
        ("m", False),
        ("m/variables", False),
        ("m/assets", False),
        ("m/run", True),
        ("m/variables/deeper", True),
        ("other/variables", True),
        ("other", True),
    ],
)
@pytest.mark.parametrize("name", ["saved_model.pb", "saved_model.pbtxt"])
def test_where_a_state_file_is_written(
    tmp_path: pathlib.Path, folder: str, is_written: bool, name: str
) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / name).write_bytes(b"")
    tf2flax.save_checkpoint(tmp_path / folder / "w", {"w": F4})
    assert (tmp_path / folder / "checkpoint").exists() == is_written
    assert [f.name for f in tmp_path.rglob("checkpoint")] == ["checkpoint"] * is_written


def test_a_view_itself_is_written_under_its_names(tmp_path: pathlib.Path) -> None:
    """So that an object-based checkpoint becomes one that TensorFlow 1 restores."""
    checkpoint = tf2flax.open_checkpoint(DATA / "keras3_export" / "functional-3.15.1")
    for view in (checkpoint.by_variable_name(), checkpoint.by_object_path()):
        saved = tf2flax.save_checkpoint(tmp_path / "m", view, overwrite=True)
        assert contents(tf2flax.open_checkpoint(saved)) == contents(view)
    nested = tf2flax.open_checkpoint(DATA / "keras3_export" / "nested-3.15.1")
    view = nested.by_variable_name()
    for hiding in (view, tf2flax.merge_checkpoints({"x/": view})):
        with pytest.raises(tf2flax.UnsupportedError, match=r"d/bias`.*and 1 more"):
            tf2flax.save_checkpoint(tmp_path / "n", hiding)
    assert not list(tmp_path.glob("n.*"))
    saved = tf2flax.save_checkpoint(tmp_path / "n", view.read())
    assert list(tf2flax.open_checkpoint(saved)) == ["out/bias", "out/kernel"]


def test_stored_names_of_what_has_no_name_of_its_own(tmp_path: pathlib.Path) -> None:
    """Nameless variables, counters, text and configurations are copied."""
    nodes: list[Any] = [
        ([("w", 1)], []),
        ([], [("w", "w" + SUFFIX), ("", "n" + SUFFIX)]),
    ]
    arrays: dict[str, Any] = {
        "w" + SUFFIX: F4,
        "n" + SUFFIX: F4 + 1,
        "save_counter" + SUFFIX: np.array(3),
        "text" + SUFFIX: np.array([b"a", b""], object),
        "stray": F4 + 2,
        GRAPH_KEY: np.array(graph_bytes(nodes), object),
    }
    write_bundle(tmp_path / "a", arrays)
    checkpoint = tf2flax.open_checkpoint(tmp_path / "a")
    plan = tf2flax.plan(checkpoint.by_variable_name(), {"w": "w"}, {"w": F4})
    saved = tf2flax.open_checkpoint(
        tf2flax.save_checkpoint(tmp_path / "b", {"w": -F4}, plan=plan)
    )
    want = contents(checkpoint)
    got = contents(saved)
    assert got.pop("w" + SUFFIX) != want.pop("w" + SUFFIX)
    assert got == want
