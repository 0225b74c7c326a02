"""Leaves of a new shape are saved in it; what no longer belongs to them is named."""

from __future__ import annotations

import pathlib
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bundle_writer import Tensor, rows_in, write_bundle

import tf2flax
from tf2flax import concat, src, stack
from tf2flax._assignment.language.expressions import Source
from tf2flax._assignment.layouts.resizing import evaluate, resize_backwards
from tf2flax._base.values import STORED_DTYPES, TensorSpec

SHAPES = {"a": (3, 4), "b": (1, 3, 4), "c": (3, 2, 2), "d": (3, 4), "s": ()}
A, B, C = src("a"), src("b"), src("c")
# Expression, shape of the leaf, and the shapes of tensors; None where it is not clear.
RESIZED: dict[str, tuple[Any, tuple[int, ...], dict[str, tuple[int, ...]] | None]] = {
    "plain": (A, (3, 7), {"a": (3, 7)}),
    "another rank": (A, (3, 7, 2), {"a": (3, 7, 2)}),
    "scalar": (src("s"), (2,), {"s": (2,)}),
    "transposed": (A.transpose(), (7, 3), {"a": (3, 7)}),
    "permuted": (C.transpose(2, 0, 1), (5, 3, 2), {"c": (3, 2, 5)}),
    "cast": (A.cast("float16"), (3, 7), {"a": (3, 7)}),
    "first": (B[0], (3, 7), {"b": (1, 3, 7)}),
    "first, transposed": (B[0].transpose(), (7, 3), {"b": (1, 3, 7)}),
    "last of one": (B[-1, ..., None], (3, 7, 1), {"b": (1, 3, 7)}),
    "reversed": (A[::-1], (5, 4), {"a": (5, 4)}),
    "all of it": (A[:3, :], (3, 9), {"a": (3, 9)}),
    "split": (A.reshape(3, 2, 2), (3, 2, 5), {"a": (3, 10)}),
    "merged, elsewhere": (C.reshape(3, 4), (5, 4), {"c": (5, 2, 2)}),
    "ones": (A.reshape(1, 3, 4, 1), (1, 3, 7, 1), {"a": (3, 7)}),
    "heads": (A.rearrange("d (h k) -> h d k", h=2), (2, 5, 6), {"a": (5, 12)}),
    "more heads": (A.rearrange("d (h k) -> h d k", k=2), (6, 3, 2), {"a": (3, 12)}),
    "joined heads": (C.rearrange("d h k -> d (h k)", h=2), (3, 6), {"c": (3, 2, 3)}),
    "dots": (B.rearrange("... a b -> b ... a"), (9, 1, 3), {"b": (1, 3, 9)}),
    "concat": (concat("a", "d", axis=1), (5, 8), {"a": (5, 4), "d": (5, 4)}),
    "stack": (stack("a", "d", axis=-1), (6, 7, 2), {"a": (6, 7), "d": (6, 7)}),
    "rows": (A.take([2, 0, 1]), (3, 9), {"a": (3, 9)}),
    "rows that are more": (A.take([2, 0, 1]), (4, 4), None),
    "some rows": (A.take([2, 0]), (2, 9), None),
    "cut": (A[:2], (2, 9), None),
    "cut to a number": (A[:3], (5, 4), None),
    "one of several": (C[:, 0], (3, 5), None),
    "flat": (A.reshape(-1), (14,), None),
    "merged": (C.reshape(3, 4), (3, 6), None),
    "heads without a size": (C.rearrange("d h k -> d (h k)"), (3, 6), None),
    "heads that do not fit": (C.rearrange("d h k -> d (h k)", h=2), (3, 7), None),
    "a part more": (concat("a", "d", axis=1), (3, 9), None),
    "a layer more": (stack("a", "d"), (3, 3, 4), None),
    "twice": (stack("a", "a"), (2, 3, 9), None),
    "an axis more": (A.transpose(), (7, 3, 1), None),
}


@pytest.mark.parametrize("name", list(RESIZED))
def test_the_shape_of_tensors_follows_from_that_of_the_leaf(
    name: str, tmp_path: pathlib.Path
) -> None:
    expression, shape, expected = RESIZED[name]

    def spec_of(tensor: str) -> TensorSpec:
        return TensorSpec(SHAPES[tensor], STORED_DTYPES[1])

    if expected is None:
        with pytest.raises(tf2flax.AssignmentError):
            resize_backwards(expression, shape, Source("x"), spec_of)
        return
    found = resize_backwards(expression, shape, Source("x"), spec_of)
    assert {name: new for name, (_, new) in found.items()} == expected
    value = np.arange(np.prod(shape), dtype="f8").reshape(shape)
    arrays = {
        tensor: evaluate(backwards, value) for tensor, (backwards, _) in found.items()
    }
    assert {tensor: array.shape for tensor, array in arrays.items()} == expected
    # Forwards again it is the leaf; reshapes name the old extents.
    if ".reshape(" in repr(expression):
        (array,) = arrays.values()
        assert np.array_equal(array.reshape(shape), value)
        return
    prefix = tf2flax.save_checkpoint(tmp_path / "m", arrays)
    with jax.enable_x64(True):
        target = {"x": jax.ShapeDtypeStruct(shape, "float64")}
        tree = tf2flax.init_from_checkpoint(prefix, {expression: "x"}, target)
    assert np.array_equal(tree["x"], value)


ROWS = np.arange(12, dtype="f4").reshape(6, 2)


@pytest.fixture
def prefix(tmp_path: pathlib.Path) -> pathlib.Path:
    arrays: dict[str, np.ndarray] = {
        "global_step": np.array(7, "i8"),
        "beta1_power": np.array(0.5, "f4"),
        "words": np.array([b"x"], object),
        "count": np.arange(3, dtype="i4"),
        "anchor": np.ones(1, "f4"),
    }
    for name, shape in {"trunk/w": (3,), "trunk/b": (2,), "head/w": (3, 4)}.items():
        arrays[name] = np.ones(shape, "f4")
        for slot in ("Adam", "Adam_1", "ExponentialMovingAverage"):
            arrays[f"{name}/{slot}"] = np.full(shape, 2, "f4")
    arrays["head/w/ExponentialMovingAverage/local_step"] = np.array(1.0, "f4")
    tensors = {name: Tensor(array) for name, array in arrays.items()}
    tensors["table"] = Tensor(ROWS, rows_in(ROWS, 3))
    write_bundle(tmp_path / "from" / "m", tensors)
    return tmp_path / "from" / "m"


def target(head: Any = None) -> dict[str, Any]:
    head = np.full((3, 7), 5, "f4") if head is None else head
    trunk = {"w": np.zeros(3, "f4"), "b": np.zeros(2, "f4")}
    return {"trunk": trunk, "head": {"w": head}}


MAP = {"trunk/": "trunk/", "head/": "head/"}


def anchored(prefix: Any, entries: Any, tree: Any) -> tf2flax.Plan:
    """A plan that keeps what does not fit; a map that fills nothing is refused."""
    pairs = [*(entries.items() if isinstance(entries, dict) else entries)]
    pairs.append(("anchor", "anchor"))
    leaves = {**tree, "anchor": np.zeros(1, "f4")}
    return tf2flax.plan(prefix, pairs, leaves, on_mismatch="keep")


def save(
    prefix: Any, tree: Any, plan: tf2flax.Plan, **options: Any
) -> tuple[tf2flax.Checkpoint, list[str]]:
    out = pathlib.Path(prefix).parent.parent / "out"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        path = tf2flax.save_checkpoint(out, tree, plan=plan, overwrite=True, **options)
    assert all(one.filename == __file__ for one in caught)
    checkpoint = tf2flax.open_checkpoint(path)
    assert checkpoint.verify().ok
    return checkpoint, [str(one.message) for one in caught]


def test_a_new_head_is_saved_in_its_shape(prefix: pathlib.Path) -> None:
    plan = tf2flax.plan(prefix, MAP, target(), on_mismatch=[("^head", "keep")])
    inverse = plan.inverse()
    assert [str(one) for one in inverse.assignments] == [
        "`head/w` <- `head/w`", "`trunk/b` <- `trunk/b`", "`trunk/w` <- `trunk/w`",
    ]  # fmt: skip
    assert inverse.left_out == ()
    assert "head/w" not in inverse.copied
    saved, said = save(prefix, plan.restore(), plan)
    assert saved["head/w"].read().tolist() == [[5.0] * 7] * 3
    (message,) = said
    for name in ("Adam", "Adam_1", "ExponentialMovingAverage"):
        assert f"head/w/{name}" not in saved
        assert f"`head/w/{name}`" in message
    assert "head/w/ExponentialMovingAverage/local_step" not in saved
    # The trunk was not changed; the steps are no longer those of all variables.
    assert "trunk" not in message
    assert "2 tensors are copied" in message
    assert "`beta1_power`, `global_step`" in message
    assert saved["trunk/w/Adam"].read().tolist() == [2, 2, 2]


def test_stale_copies_are_named_where_something_has_changed(
    prefix: pathlib.Path,
) -> None:
    tree = target(np.zeros((3, 4), "f4"))
    plan = tf2flax.plan(prefix, MAP, tree)
    tree = plan.restore()
    saved, said = save(prefix, tree, plan)
    assert said == []
    tree["trunk"]["b"] = tree["trunk"]["b"] * 2
    saved, said = save(prefix, tree, plan)
    assert said == [
        "5 tensors are copied from the checkpoint as they were, although what they "
        "belong to has changed: `beta1_power`, `global_step`, `trunk/b/Adam`, "
        '`trunk/b/Adam_1`, `trunk/b/ExponentialMovingAverage`. unused="drop" leaves '
        "out what the plan did not load."
    ]
    assert len(saved) == len(tf2flax.open_checkpoint(prefix))
    saved, said = save(prefix, tree, plan, unused="drop")
    assert (said, len(saved)) == ([], 3)


@pytest.mark.parametrize("kind", ["sliced", "h5"])
def test_changes_are_found_without_one_checksum(
    prefix: pathlib.Path, tmp_path: pathlib.Path, kind: str
) -> None:
    if kind == "h5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(tmp_path / "m.h5", "w") as file:
            file["table"] = ROWS
            file["global_step"] = np.int64(3)
        opened = tf2flax.open_checkpoint(tmp_path / "m.h5")
    else:
        opened = tf2flax.open_checkpoint(prefix)
    plan = tf2flax.plan(opened, {"table": "t"}, {"t": np.zeros((6, 2), "f4")})
    tree = plan.restore()
    _, said = save(prefix, tree, plan)
    assert said == []
    _, (message,) = save(prefix, {"t": tree["t"].at[5, 1].set(0)}, plan)
    assert "`global_step`" in message


def test_slots_and_steps_that_change_make_nothing_stale(prefix: pathlib.Path) -> None:
    plan = tf2flax.plan(prefix, {"trunk/w/Adam": "m"}, {"m": np.zeros(3, "f4")})
    _, said = save(prefix, {"m": np.ones(3, "f4")}, plan)
    assert said == []
    plan = tf2flax.plan(prefix, {"global_step": "step"}, {"step": np.int32(0)})
    _, said = save(prefix, {"step": np.int32(0)}, plan)
    assert said == []


def test_the_variable_beside_its_average(prefix: pathlib.Path) -> None:
    key = "trunk/w/ExponentialMovingAverage"
    plan = tf2flax.plan(prefix, {key: "w"}, {"w": np.zeros(3, "f4")})
    _, (message,) = save(prefix, {"w": np.ones(3, "f4")}, plan)
    variables = message.partition("1 variable is copied as it was, although its moving")
    assert "`trunk/w`" in variables[2]
    assert 'averages="both" writes both, where' in variables[2]
    # The slots belong to the variable, which they still fit.
    assert "Adam" not in message


# Map, leaf, what the tensors become.
NEW: dict[str, tuple[Any, Any, dict[str, tuple[tuple[int, ...], str]]]] = {
    "transposed": (
        {src("head/w").transpose(): "x"}, np.zeros((9, 3), "f4"),
        {"head/w": ((3, 9), "float32")},
    ),
    "dtype": ({"count": "x"}, np.zeros(3, "f4"), {"count": ((3,), "float32")}),
    "shape and dtype": (
        {"count": "x"}, jnp.zeros((2, 2), "bfloat16"), {"count": ((2, 2), "bfloat16")},
    ),
    "text": ({"words": "x"}, np.zeros(3, "f4"), {"words": ((3,), "float32")}),
    "a scalar": ({"trunk/w": "x"}, np.float32(3), {"trunk/w": ((), "float32")}),
    "nothing in it": (
        {"trunk/w": "x"}, np.zeros((0, 2), "f4"), {"trunk/w": ((0, 2), "float32")},
    ),
    "sliced": ({"table": "x"}, np.zeros((9, 2), "f4"), {"table": ((9, 2), "float32")}),
    "stacked": (
        {stack("trunk/w", "trunk/w/Adam"): "x"}, np.zeros((2, 5), "f4"),
        {"trunk/w": ((5,), "float32"), "trunk/w/Adam": ((5,), "float32")},
    ),
    "captured": (
        {src("{n}/w").transpose(): "{n}x"}, None, {"head/w": ((3, 9), "float32")},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(NEW))
def test_new_shapes_and_dtypes(prefix: pathlib.Path, name: str) -> None:
    entries, leaf, expected = NEW[name]
    tree = {"x": leaf} if leaf is not None else {"headx": np.zeros((9, 3), "f4")}
    plan = anchored(prefix, entries, tree)
    assert len(plan.mismatched) == 1
    saved, _ = save(prefix, plan.restore(), plan)
    for tensor, (shape, dtype) in expected.items():
        assert saved[tensor].shape == shape
        assert saved[tensor].dtype.name == dtype
        assert not saved[tensor].slices
        assert not saved[tensor].read().any() or shape == ()


def test_a_family_of_a_new_size(prefix: pathlib.Path) -> None:
    tree = {f"t/part_{i}": np.full((n, 2), i, "f4") for i, n in enumerate((4, 5))}
    plan = anchored(prefix, {"table": "t"}, tree)
    saved, _ = save(prefix, plan.restore(), plan)
    assert [box[0].stop for box in saved["table"].slices] == [4, 9]
    assert saved["table"].read()[:, 0].tolist() == [0] * 4 + [1] * 5
    with pytest.raises(tf2flax.AssignmentError, match="`t/part_1`, which replaces"):
        save(prefix, {"t/part_0": tree["t/part_0"], "anchor": np.ones(1, "f4")}, plan)


# Map, target, and why it is refused.
REFUSED: dict[str, tuple[Any, Any, str]] = {
    "a cut": (
        {src("head/w")[:2]: "x"}, {"x": np.zeros((2, 9), "f4")},
        r"Leaf `x` was kept .*: expected shape \[2, 9\].*cuts \[2, 9\].*unused=.drop",
    ),
    "a concatenation": (
        {concat("trunk/w", "trunk/b"): "x"}, {"x": np.zeros(9, "f4")},
        r"concat makes \[5\], and how \[9\] is divided among its 2 operands",
    ),
    "another leaf's tensor": (
        {"trunk/w": "x", src("trunk/w").transpose(): "y"},
        {"x": np.zeros(3, "f4"), "y": np.zeros(9, "f4")},
        "Leaf `y` was kept .*`trunk/w` is written from another leaf",
    ),
    "two leaves of new shapes": (
        [("trunk/w", "x"), (src("trunk/w").transpose(), "y")],
        {"x": np.zeros(8, "f4"), "y": np.zeros(9, "f4")},
        "Leaf `.` was kept .*`trunk/w` is written from `.`",
    ),
    "a joined family": (
        {src("table")[::-1]: "t"},
        {f"t/part_{i}": np.zeros((9, 2), "f4") for i in range(2)},
        r"Leaf `t/part_\{0..1\}` was kept .*parts of one variable",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_has_no_inverse_is_refused_with_the_way_out(
    prefix: pathlib.Path, name: str
) -> None:
    entries, tree, message = REFUSED[name]
    plan = anchored(prefix, entries, tree)
    assert plan.mismatched
    tree = plan.restore()
    with pytest.raises(tf2flax.AssignmentError, match=message):
        save(prefix, tree, plan)
    assert [path.name for path in prefix.parent.parent.iterdir()] == ["from"]
    saved, said = save(prefix, tree, plan, unused="drop")
    assert "did not load are not written" in said[0]
    # One of two leaves of new shapes is written, and the other is not.
    assert set(saved) - {"anchor"} <= {"trunk/w"}


def test_kept_leaves_that_are_not_in_the_tree(prefix: pathlib.Path) -> None:
    plan = tf2flax.plan(prefix, MAP, target(), on_mismatch="keep")
    tree = plan.restore()
    del tree["head"]
    with pytest.raises(tf2flax.AssignmentError, match="`head/w`, which replaces"):
        save(prefix, tree, plan)
    saved, _ = save(prefix, tree, plan, unused="drop")
    assert list(saved) == ["trunk/b", "trunk/w"]


@pytest.mark.parametrize("view", ["stored", "by_object_path"])
def test_slots_leave_the_object_graph_as_well(
    data: pathlib.Path, tmp_path: pathlib.Path, view: str
) -> None:
    opened = tf2flax.open_checkpoint(data / "tf2_object" / "slots.ckpt")
    end = "/.ATTRIBUTES/VARIABLE_VALUE" if view == "stored" else ""
    seen = opened if view == "stored" else opened.by_object_path()
    key = "model/heads/a/kernel"
    entries: Any = {
        src(f"{key}{end}").transpose(): "kernel",
        f"model/heads/a/bias{end}": "bias",
    }
    tree = {"kernel": np.ones((5, 8), "f4"), "bias": np.zeros(3, "f4")}
    plan = tf2flax.plan(seen, entries, tree, on_mismatch=[("kernel", "keep")])
    stored = f"{key}/.ATTRIBUTES/VARIABLE_VALUE"
    assert {one.name for one in plan.inverse().assignments} >= {stored}
    saved, (message,) = save(tmp_path / "x" / "m", plan.restore(), plan)
    assert saved[stored].shape == (8, 5)
    lost = set(opened) - set(saved)
    assert lost == {
        f"{key}/.OPTIMIZER_SLOT/optimizer/{slot}/.ATTRIBUTES/VARIABLE_VALUE"
        for slot in "mv"
    }
    assert all(f"`{name}`" in message for name in lost)
    graph = saved["_CHECKPOINTABLE_OBJECT_GRAPH"].read().item()
    assert stored.encode() in graph
    assert not any(name.encode() in graph for name in lost)
    assert saved.by_object_path()[key].shape == (8, 5)


@pytest.mark.parametrize("way", ["by_variable_name", "by_object_path"])
def test_a_new_head_of_a_keras_export_in_both_places(
    data: pathlib.Path, tmp_path: pathlib.Path, way: str
) -> None:
    path = data / "keras3_export" / "functional-3.15.1" / "variables" / "variables"
    opened = tf2flax.open_checkpoint(path)
    view = getattr(opened, way)()
    name = next(name for name in view if view[name].shape == (5, 2))
    first = next(name for name in view if view[name].shape == (6, 5))
    tree = {"k": np.ones((5, 9), "f4"), "first": np.ones((6, 5), "f4")}
    entries = {name: "k", first: "first"}
    plan = tf2flax.plan(view, entries, tree, on_mismatch="keep")
    saved, _ = save(tmp_path / "x" / "m", plan.restore(), plan)
    assert len(saved) == len(opened)
    shapes = [tensor.shape for tensor in saved.values() if tensor.ndim == 2]
    assert shapes.count((5, 9)) == 2
    assert saved.by_variable_name()["head/kernel"].shape == (5, 9)


def test_keys_stay_left_out(prefix: pathlib.Path) -> None:
    tree = {"w": np.ones(3, "f4"), "key": jax.random.key(0), "new": np.ones(1, "f4")}
    entries = {"trunk/w": "w", "trunk/b": "key", "nowhere": "new"}
    plan = tf2flax.plan(prefix, entries, tree, on_mismatch="keep", on_missing="keep")
    assert plan.inverse().left_out == ("key",)
    saved, said = save(prefix, {"w": tree["w"], "new": tree["new"]}, plan)
    assert "trunk/b" in saved
    assert saved["nowhere"].read().tolist() == [1]
    assert said == []
