"""The way back: what was loaded is saved bit for bit, or refused by name."""

from __future__ import annotations

import copy
import gc
import pathlib
import pickle
import warnings
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from bundle_writer import Tensor, rows_in, write_bundle
from expressions import cases, tensors
from flax import linen, nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import tf2flax
from tf2flax import concat, src, stack
from tf2flax._base.values import Box
from tf2flax._writing import device_arrays
from tf2flax._writing.arrays import prepare_tensor
from tf2flax._writing.backwards import TensorWriter
from tf2flax._writing.new_tensors import whole_tensor


def bits(prefix: Any) -> dict[str, tuple[str, tuple[int, ...], Any]]:
    checkpoint = tf2flax.open_checkpoint(prefix)
    assert checkpoint.verify().ok
    return {
        name: (str(a.dtype), a.shape, a.tolist() if a.dtype == object else a.tobytes())
        for name, a in checkpoint.read().items()
    }


def shapes(tree: Any) -> Any:
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)


@settings(max_examples=150)
@given(st.data())
def test_what_is_loaded_is_saved_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("inverse")
    arrays = data.draw(tensors(4, dtype=data.draw(st.sampled_from(["i4", "f4"]))))
    write_bundle(
        folder / "a",
        {
            name: Tensor(a, rows_in(a, 2) if a.ndim and a.shape[0] > 1 else None)
            for name, a in arrays.items()
        },
    )
    case = data.draw(cases(arrays, is_bijective=True))
    target = {"x": jax.ShapeDtypeStruct(case.value.shape, case.value.dtype)}
    plan = tf2flax.plan(folder / "a", {case.expression: "x"}, target)
    tree = plan.restore()
    assert np.array_equal(tree["x"], case.value)
    saved = tf2flax.save_checkpoint(folder / "b", tree, plan=plan, overwrite=True)
    assert bits(saved) == bits(folder / "a")
    for name, tensor in tf2flax.open_checkpoint(saved).items():
        # TensorFlow 1 reads no slices without elements.
        slices = tf2flax.open_checkpoint(folder / "a")[name].slices
        assert tensor.slices == (slices if tensor.size else ())
    changed = {"x": np.asarray(tree["x"]) + 1}
    again = tf2flax.save_checkpoint(folder / "c", changed, plan=plan, unused="drop")
    used = set(plan.assignments[0].sources)
    assert set(tf2flax.open_checkpoint(again)) == used
    for name in used:
        assert np.array_equal(tf2flax.load_variable(again, name), arrays[name] + 1)


@settings(max_examples=150)
@given(st.data())
def test_parts_are_saved_over_the_rest(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    arrays = data.draw(tensors(2))
    write_bundle(folder / "a", {name: Tensor(a) for name, a in arrays.items()})
    case = data.draw(cases(arrays))
    value = case.value
    target = {"x": jax.ShapeDtypeStruct(value.shape, value.dtype)}
    with jax.enable_x64(True):
        plan = tf2flax.plan(folder / "a", {case.expression: "x"}, target)
        saved = tf2flax.save_checkpoint(folder / "b", plan.restore(), plan=plan)
    assert bits(saved) == bits(folder / "a")


@pytest.fixture
def prefix(tmp_path: pathlib.Path) -> pathlib.Path:
    rows = np.arange(10, dtype="f4").reshape(5, 2)
    arrays = {
        "m": np.arange(6, dtype="f4").reshape(2, 3),
        "q": np.arange(8, dtype="f4").reshape(2, 4),
        "k": np.arange(8, 16, dtype="f4").reshape(2, 4),
        "half": np.array([1.5, np.nan, -0.0], ml_dtypes.bfloat16),
        "step": np.array(2**40, "i8"),
        "small": np.array([1, 2], "i8"),
        "strings": np.array([b"x", b""], object),
    }
    tensors = {name: Tensor(array) for name, array in arrays.items()}
    tensors["rows"] = Tensor(rows, rows_in(rows, 3))
    tensors |= {f"l_{i}/w": Tensor(np.full((2,), i, "f4")) for i in range(3)}
    write_bundle(tmp_path / "from" / "m", tensors)
    return tmp_path / "from" / "m"


def saved(
    tmp_path: pathlib.Path, tree: Any, plan: tf2flax.Plan, **options: Any
) -> dict[str, np.ndarray]:
    path = tf2flax.save_checkpoint(tmp_path / "to" / "m", tree, plan=plan, **options)
    return tf2flax.open_checkpoint(path).read()


def test_the_map_is_shown_backwards(prefix: pathlib.Path) -> None:
    entries = {
        src("m").transpose(): "head",
        concat("q", "k", axis=1).rearrange("d (h k) -> h d k", h=4): "qk",
        stack("l_{i}/", over="i"): "layers/",
        src("rows")[1:3]: "some",
        "step": "step",
    }
    target = {
        "head": jnp.zeros((3, 2)),
        "qk": jnp.zeros((4, 2, 2)),
        "some": jnp.zeros((2, 2)),
        "layers": {"w": jnp.zeros((3, 2))},
        "new": jnp.ones(1),
    }
    with jax.enable_x64(True):
        target["step"] = jnp.zeros((), "i8")
        inverse = tf2flax.plan(prefix, entries, target).inverse()
    assert [str(one) for one in inverse.assignments] == [
        '`k` <- `src("qk").rearrange("h d k -> d (h k)")[:, 4:8]`',
        '`l_0/w` <- `src("layers/w")[0]`',
        '`l_1/w` <- `src("layers/w")[1]`',
        '`l_2/w` <- `src("layers/w")[2]`',
        '`m` <- `src("head").transpose()`',
        '`q` <- `src("qk").rearrange("h d k -> d (h k)")[:, 0:4]`',
        "`rows` <- in parts from `some`",
        "`step` <- `step`",
    ]
    assert inverse.copied == ("half", "small", "strings")
    assert inverse.left_out == ("new",)
    assert [one.name for one in inverse.assignments if not one.is_complete] == ["rows"]
    assert str(inverse).splitlines()[0] == (
        "8 tensors from 5 leaves, 3 copied, 1 leaf left out"
    )
    assert inverse.to_dict()["tensors"][4] == {
        "name": "m",
        "leaves": ["head"],
        "expression": 'src("head").transpose()',
        "complete": True,
    }


def test_the_inverse_is_a_map_in_the_same_language(
    prefix: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    key = concat("q", "k", axis=1).rearrange("d (h k) -> h d k", h=4)
    target = {"qk": jax.ShapeDtypeStruct((4, 2, 2), "float32")}
    plan = tf2flax.plan(prefix, {key: "qk"}, target)
    tree = plan.restore()
    flax = tf2flax.save_checkpoint(tmp_path / "flax", tree)
    backwards = {one.expression: one.name for one in plan.inverse().assignments}
    original = tf2flax.open_checkpoint(prefix).read(["q", "k"])
    again = tf2flax.init_from_checkpoint(flax, backwards, shapes(original))
    assert all(np.array_equal(again[name], original[name]) for name in original)


def test_parts_of_several_leaves_make_one_tensor(
    prefix: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    target = {"a": jnp.zeros((2, 2)), "b": jnp.zeros((2, 2)), "r": jnp.zeros((2, 2))}
    q, rows = src("q"), src("rows")
    entries = {q[:, :2]: "a", q[:, 2:]: "b", rows.take([3, 1]): "r"}
    plan = tf2flax.plan(prefix, entries, target)
    tree = {name: leaf * 10 for name, leaf in plan.restore().items()}
    got = saved(tmp_path, tree, plan)
    assert got["q"].tolist() == (np.arange(8).reshape(2, 4) * 10).tolist()
    array = np.arange(10).reshape(5, 2)
    array[[3, 1]] *= 10
    assert got["rows"].tolist() == array.tolist()
    with pytest.raises(
        tf2flax.AssignmentError, match="`rows` is covered only partly by"
    ):
        tf2flax.save_checkpoint(tmp_path / "x" / "m", tree, plan=plan, unused="drop")
    assert not (tmp_path / "x").exists()


def test_families(prefix: pathlib.Path, tmp_path: pathlib.Path) -> None:
    target = {f"t/part_{i}": jnp.zeros((n, 2)) for i, n in enumerate((3, 2))}
    for key in ("rows", src("rows").take([4, 3, 2, 1, 0])):
        plan = tf2flax.plan(prefix, [(key, "t")], target)
        assert bits(
            tf2flax.save_checkpoint(
                tmp_path / "m", plan.restore(), plan=plan, overwrite=True
            )
        ) == bits(prefix)
    plan = tf2flax.plan(prefix, [("rows", [target["t/part_1"]])], target)
    tree = plan.restore()
    tree["t/part_1"] += 100
    with pytest.warns(UserWarning, match="`t/part_0`"):
        got = saved(tmp_path, tree, plan)
    assert got["rows"][:, 0].tolist() == [0, 2, 4, 106, 108]


# Map, target, tree, and why it cannot be saved.
REFUSED: dict[str, tuple[Any, Any, Any, str]] = {
    "floats from integers": (
        {src("small").cast("f4"): "x"}, {"x": jnp.zeros(2)}, {"x": jnp.full(2, 0.5)},
        "Leaf `x` cannot be written as `small`: its values do not fit int64 .*: 2 of 2,"
        r" the first is 0.5 at \[0\]",
    ),
    "values that a chain of casts never gives": (
        {src("small").cast("i1").cast("i4"): "x"}, {"x": jnp.zeros(2, "i4")},
        {"x": jnp.array([1, 300])},
        "`small`: loading by int64 -> int8 -> int32 cannot give its values: 1 of 2",
    ),
    "a cast leaf that differs from one that is not": (
        {"m": "x", src("m").cast("bfloat16"): "y"},
        {"x": jnp.zeros((2, 3)), "y": jnp.zeros((2, 3), "bfloat16")},
        {"x": jnp.ones((2, 3)), "y": jnp.zeros((2, 3), "bfloat16")},
        "`m` is written from `x` and `y`, with different values",
    ),
    "a leaf that is not there": (
        {"m": "x"}, {"x": jnp.zeros((2, 3))}, {"y": jnp.zeros((2, 3))},
        "Leaf `x`, which the plan loaded, is not in the tree",
    ),
    "a leaf of another shape": (
        {"m": "x"}, {"x": jnp.zeros((2, 3))}, {"x": jnp.zeros((3, 2))},
        r"Leaf `x`: expected shape \[2, 3\], as in the plan, got \[3, 2\]",
    ),
    "leaves that differ where they are one": (
        {"{m}": "{m}{n}"}, {"m1": jnp.zeros((2, 3)), "m2": jnp.zeros((2, 3))},
        {"m1": jnp.zeros((2, 3)), "m2": jnp.ones((2, 3))},
        "`m` is written from `m1` and `m2`, with different values",
    ),
    "rows that differ where they are one": (
        {src("m").take([0, 0]): "x"}, {"x": jnp.zeros((2, 3))},
        {"x": jnp.arange(6.0).reshape(2, 3)},
        r"taken several times have different values, .*\. Give them one value, or",
    ),
    "digits that would be lost": (
        {"half": "x"}, {"x": jnp.zeros(3)}, {"x": jnp.full(3, 1.001)},
        "`x` cannot be written as `half`: its values do not fit bfloat16 without round",
    ),
    "values that do not fit": (
        {"half": "x"}, {"x": jnp.zeros(3)}, {"x": jnp.full(3, 3.4e38)},
        "do not fit bfloat16",
    ),
    "a string": ({"m": "x"}, {"x": jnp.zeros((2, 3))}, {"x": "text"}, "expected shape"),
    "integers for floats": (
        {"m": "x"}, {"x": jnp.zeros((2, 3))}, {"x": np.zeros((2, 3), "i4")},
        "Leaf `x`: expected dtype float32, as in the plan, got int32",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_cannot_be_saved_is_refused_by_name(
    name: str, prefix: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    entries, target, tree, message = REFUSED[name]
    plan = tf2flax.plan(prefix, entries, target)
    with pytest.raises(tf2flax.AssignmentError, match=message):
        tf2flax.save_checkpoint(tmp_path / "to", tree, plan=plan)
    assert [path.name for path in tmp_path.iterdir()] == ["from"]


def test_equal_leaves_of_one_tensor_are_saved(
    prefix: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    target = {"m1": jnp.zeros((2, 3)), "m2": jnp.zeros((3, 2))}
    plan = tf2flax.plan(prefix, {"m": "m1", src("m").transpose(): "m2"}, target)
    tree = {"m1": plan.restore()["m1"] + 1, "m2": (plan.restore()["m1"] + 1).T}
    assert saved(tmp_path, tree, plan)["m"].tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e4m3fn"])
def test_digits_that_loading_lost_come_back(tmp_path: pathlib.Path, dtype: str) -> None:
    array = np.array([1 / 3, -0.0, np.nan, 2.0, 1e-30, 5 / 7], "f4")
    stored = {"a": array, "b": array.astype("f8"), "c": array.astype("c8")}
    prefix = tf2flax.save_checkpoint(tmp_path / "from" / "m", stored)
    entries: dict[Any, str] = {
        src("a")[::-1].cast(dtype): "x",
        src("b").cast("f4"): "y",
        src("c").reshape(2, 3): "c",
    }
    target = {
        "x": jax.ShapeDtypeStruct((6,), "float32"),
        "y": jax.ShapeDtypeStruct((6,), dtype),
        "c": jax.ShapeDtypeStruct((2, 3), "complex64"),
    }
    plan = tf2flax.plan(prefix, entries, target)
    tree = plan.restore()
    path = tf2flax.save_checkpoint(tmp_path / "m", tree, plan=plan)
    assert bits(path) == bits(prefix)
    # What was changed is written, what was not stays as it was.
    tree["x"] = tree["x"].at[0].set(0.5)
    path = tf2flax.save_checkpoint(tmp_path / "m", tree, plan=plan, overwrite=True)
    assert (
        tf2flax.load_variable(path, "a").tobytes()
        == np.array([*array[:5], 0.5], "f4").tobytes()
    )


def test_casts_of_doubles_are_shown(tmp_path: pathlib.Path) -> None:
    prefix = tf2flax.save_checkpoint(tmp_path / "m", {"w": np.ones(3)})
    plan = tf2flax.plan(prefix, {"w": "w"}, {"w": jnp.zeros(3)})
    assert plan.assignments[0].casts == (np.dtype("f8"), np.dtype("f4"))


def test_dtypes_go_back(prefix: pathlib.Path, tmp_path: pathlib.Path) -> None:
    dtypes = {"half": "f4", "small": "i2", "m": "f2"}
    stored = tf2flax.open_checkpoint(prefix)
    target = {name: jnp.zeros(stored[name].shape, one) for name, one in dtypes.items()}
    plan = tf2flax.plan(prefix, {name: name for name in target}, target)
    tree = plan.restore()
    assert tree["half"].dtype == "float32"
    path = tf2flax.save_checkpoint(tmp_path / "m", tree, plan=plan)
    assert bits(path) == bits(prefix)


def test_leaves_of_one_tensor_cast_apart(tmp_path: pathlib.Path) -> None:
    array = np.array([1 / 3, 300.7, np.nan, -0.0], "f4")
    prefix = tf2flax.save_checkpoint(tmp_path / "from", {"a": array})
    entries = {"a": "x", src("a").cast("bfloat16"): "y", src("a")[:2].cast("i2"): "z"}
    target = {
        "x": jax.ShapeDtypeStruct((4,), "float32"),
        "y": jax.ShapeDtypeStruct((4,), "bfloat16"),
        "z": jax.ShapeDtypeStruct((2,), "int16"),
    }
    plan = tf2flax.plan(prefix, entries, target)
    tree = plan.restore()
    path = tf2flax.save_checkpoint(tmp_path / "same", tree, plan=plan)
    assert bits(path) == bits(prefix)
    # All of them are changed, each as its dtype holds it.
    new = np.array([2 / 3, 1000.5, 3.0, 0.1], "f4")
    changed = {
        "x": new, "y": new.astype(ml_dtypes.bfloat16), "z": new[:2].astype("i2"),
    }  # fmt: skip
    path = tf2flax.save_checkpoint(tmp_path / "changed", changed, plan=plan)
    assert tf2flax.load_variable(path, "a").tobytes() == new.tobytes()
    # Without the exact one: what two others have in common.
    short = tf2flax.plan(prefix, dict([*entries.items()][1:]), changed)
    some = {"y": tree["y"], "z": tree["z"].at[0].set(1)}
    with pytest.raises(tf2flax.AssignmentError, match="`y` and `z`, with diff"):
        tf2flax.save_checkpoint(tmp_path / "no", some, plan=short)
    some["y"] = some["y"].at[0].set(1.5)
    path = tf2flax.save_checkpoint(tmp_path / "two", some, plan=short)
    want = np.array([1.5, *array[1:]], "f4")
    assert tf2flax.load_variable(path, "a").tobytes() == want.tobytes()


@pytest.mark.parametrize("is_sliced", [False, True])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e5m2"])
def test_payloads_of_nan_come_back(
    tmp_path: pathlib.Path, dtype: str, is_sliced: bool
) -> None:
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    raw = np.arange(1 << 8 * kind.itemsize).astype(f"u{kind.itemsize}")
    array = raw.view(kind)[-4096:]  # negative NaNs among them, and positive ones
    with np.errstate(invalid="ignore"):
        array = np.concatenate([array, -array])
    write_bundle(
        tmp_path / "a", {"x": Tensor(array, rows_in(array, 3) if is_sliced else None)}
    )
    target = {"x": jax.ShapeDtypeStruct(array.shape, "float32")}
    plan = tf2flax.plan(tmp_path / "a", {"x": "x"}, target)
    path = tf2flax.save_checkpoint(tmp_path / "b", plan.restore(), plan=plan)
    assert bits(path) == bits(tmp_path / "a")


def test_parts_of_a_family_that_differ_in_dtype(
    prefix: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    big = np.array([[1 / 3, 2.0], [5 / 7, 1e30], [0.1, 9.0], [2 / 3, -0.0]], "f4")
    prefix = pathlib.Path(tf2flax.save_checkpoint(tmp_path / "from2", {"w": big}))
    target = {
        "w/part_0": jnp.zeros((2, 2), "bfloat16"),
        "w/part_1": jnp.zeros((2, 2), "float32"),
    }
    plan = tf2flax.plan(prefix, {"w": "w"}, target)
    tree = plan.restore()
    path = tf2flax.save_checkpoint(tmp_path / "same", tree, plan=plan)
    assert bits(path) == bits(prefix)
    tree["w/part_1"] = tree["w/part_1"].at[0, 0].set(0.3)
    path = tf2flax.save_checkpoint(tmp_path / "new", tree, plan=plan)
    big[2, 0] = 0.3
    assert tf2flax.load_variable(path, "w").tobytes() == big.tobytes()


def test_leaves_that_were_cast_after_loading(tmp_path: pathlib.Path) -> None:
    array = np.array([1 / 3, 300.7, -0.0], "f4")
    prefix = tf2flax.save_checkpoint(tmp_path / "from", {"a": array})
    plan = tf2flax.plan(prefix, {"a": "x"}, {"x": jnp.zeros(3, "bfloat16")})
    wide = np.asarray(plan.restore()["x"]).astype("f4")
    path = tf2flax.save_checkpoint(tmp_path / "same", {"x": wide}, plan=plan)
    assert bits(path) == bits(prefix)
    wide[1] = 0.1  # has digits that loading would not give
    path = tf2flax.save_checkpoint(tmp_path / "new", {"x": wide}, plan=plan)
    want = np.array([array[0], 0.1, array[2]], "f4")
    assert tf2flax.load_variable(path, "a").tobytes() == want.tobytes()


def test_a_new_axis_is_indexed_again(tmp_path: pathlib.Path) -> None:
    prefix = tf2flax.save_checkpoint(
        tmp_path / "m", {"s": np.float32(3), "v": np.arange(3, dtype="f4")}
    )
    scalar, vector = src("s"), src("v")
    for key, shape in (
        (scalar[None][::2], (1,)),
        (scalar[None][::2][0], ()),
        (scalar[None, None][:, ::-1][:, 0], (1,)),
        (scalar[None].take([0, 0]), (2,)),
        (scalar[None][0:0], (0,)),
        (vector[1][None][::2], (1,)),
        (vector[::2][None][0][1], ()),
    ):
        target = {"x": jax.ShapeDtypeStruct(shape, "float32")}
        plan = tf2flax.plan(prefix, {key: "x"}, target)
        path = tf2flax.save_checkpoint(
            tmp_path / "b", plan.restore(), plan=plan, overwrite=True
        )
        assert bits(path) == bits(prefix)
        if 0 in shape:
            continue
        changed = {"x": np.full(shape, 7, "f4")}
        path = tf2flax.save_checkpoint(
            tmp_path / "b", changed, plan=plan, overwrite=True
        )
        (name,) = plan.assignments[0].sources
        assert 7 in np.atleast_1d(tf2flax.load_variable(path, name))


def test_leaves_that_were_not_loaded_are_left_out_loudly(
    prefix: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    target = {"m": jnp.zeros((2, 3)), "head": jnp.ones(2)}
    plan = tf2flax.plan(prefix, {"m": "m"}, target)
    with pytest.warns(UserWarning, match="1 leaves that .*`head`"):
        saved(tmp_path, plan.restore(), plan)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        saved(tmp_path, {"m": jnp.zeros((2, 3))}, plan, overwrite=True)


def test_wrong_options(prefix: pathlib.Path, tmp_path: pathlib.Path) -> None:
    plan = tf2flax.plan(prefix, {"m": "m"}, {"m": jnp.zeros((2, 3))})
    with pytest.raises(tf2flax.AssignmentError, match="'copy' or 'drop'"):
        saved(tmp_path, plan.restore(), plan, unused="keep")


class Turned:
    """What has a method of that name, and is no plan."""

    def inverse(self) -> Any:
        return self


@pytest.mark.parametrize(
    "wrong",
    [{"m": "m"}, "m", 0, False, tf2flax.Plan, Turned(), Turned, object(), b"", []],
    ids=[str(i) for i in range(10)],
)
def test_what_is_no_plan(
    prefix: pathlib.Path, tmp_path: pathlib.Path, wrong: Any
) -> None:
    tree = {"m": jnp.zeros((2, 3))}
    with pytest.raises(tf2flax.AssignmentError, match=r"Expected a plan of tf2flax\.p"):
        saved(tmp_path, tree, wrong)
    plan = tf2flax.plan(prefix, {"m": "m"}, tree)
    with pytest.raises(tf2flax.AssignmentError, match="got InversePlan"):
        saved(tmp_path, tree, plan.inverse())  # pyright: ignore[reportArgumentType]


def test_a_plan_is_copied_but_not_pickled(prefix: pathlib.Path) -> None:
    plan = tf2flax.plan(prefix, {"m": "m"}, {"m": jnp.zeros((2, 3))})
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(
            tf2flax.UnsupportedError, match=r"Plan .*call tf2flax\.plan"
        ):
            pickle.dumps(plan, protocol)
    for refused in (pickle.dumps, copy.deepcopy):
        with pytest.raises(tf2flax.UnsupportedError, match="cannot be pickled"):
            refused({"plan": [plan]})
    again = copy.copy(plan)
    assert str(again) == str(plan)
    assert np.array_equal(again.restore()["m"], plan.restore()["m"])
    pickle.loads(pickle.dumps(tf2flax.open_checkpoint(prefix)))


def test_over_the_checkpoint_it_was_loaded_from(prefix: pathlib.Path) -> None:
    before = bits(prefix)
    plan = tf2flax.plan(prefix, {"m": "m"}, {"m": jnp.zeros((2, 3))})
    tree = {"m": plan.restore()["m"] * 2}
    tf2flax.save_checkpoint(prefix, tree, plan=plan, overwrite=True)
    after = bits(prefix)
    assert after.pop("m") != before.pop("m")
    assert after == before
    # What a second time would copy is gone: it says what to do, and keeps the file.
    match = "replaced.*Open the checkpoint again, and make its plans again"
    with pytest.raises(tf2flax.DamagedError, match=match):
        tf2flax.save_checkpoint(prefix, tree, plan=plan, overwrite=True)
    assert bits(prefix).keys() == before.keys() | {"m"}


def test_modules_states_boxes_and_shards(
    prefix: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    class Module(nnx.Module):
        def __init__(self) -> None:
            self.w = nnx.Param(jnp.zeros((3, 2)))
            self.dropout = nnx.Dropout(0.1, rngs=nnx.Rngs(0))

    mesh = Mesh(np.array(jax.devices()[:2]), "d")
    placed = jax.ShapeDtypeStruct(
        (2, 3), "float32", sharding=NamedSharding(mesh, PartitionSpec("d"))
    )
    boxed = {"w": linen.Partitioned(jnp.zeros((3, 2)), names=(None, None))}
    transposed = {src("m").transpose(): "w"}
    for entries, target in (
        (transposed, Module()),
        (transposed, nnx.state(Module(), nnx.Param)),
        (transposed, boxed),
        ({"m": "w"}, {"w": placed}),
    ):
        plan = tf2flax.plan(prefix, entries, target)
        path = tf2flax.save_checkpoint(
            tmp_path / "m", plan.restore(), plan=plan, overwrite=True
        )
        assert bits(path) == bits(prefix)


@pytest.mark.parametrize("source", ["v1", "object", "h5", "merged"])
def test_other_kinds_of_checkpoints(
    source: str, data: pathlib.Path, prefix: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    opened = {
        "v1": lambda: tf2flax.open_checkpoint(data / "v1_format" / "model.ckpt"),
        "object": lambda: tf2flax.open_checkpoint(
            data / "tf1_keras" / "object.ckpt"
        ).by_variable_name(),
        "h5": lambda: tf2flax.open_checkpoint(data / "tf1_keras" / "keras.weights.h5"),
        "merged": lambda: tf2flax.merge_checkpoints({"a/": prefix, "b/": prefix}),
    }[source]()
    arrays = {
        name: array
        for name, array in opened.read().items()
        if array.dtype == "f4" and array.ndim == 2
    }
    assert arrays
    target = {name: jnp.zeros(array.shape[::-1]) for name, array in arrays.items()}
    entries = [(src(name.replace("{", "{{")).transpose(), name) for name in arrays]
    plan = tf2flax.plan(opened, entries, target)
    path = tf2flax.save_checkpoint(
        tmp_path / "m", plan.restore(), plan=plan, unused="drop"
    )
    again = tf2flax.open_checkpoint(path)
    got = (again.by_variable_name() if source == "object" else again).read()
    assert got.keys() == arrays.keys()
    for name, array in arrays.items():
        assert got[name].tobytes() == array.tobytes()


def count_fetches(monkeypatch: pytest.MonkeyPatch, is_on_host: bool) -> list[int]:
    """Counts the bytes of each copy from a device, which may not be of the host."""
    counts: list[int] = []
    original = device_arrays.fetch_part

    def counted(shard: Any, box: Box) -> np.ndarray:
        array = original(shard, box)
        counts.append(array.nbytes)
        return array

    monkeypatch.setattr(device_arrays, "fetch_part", counted)
    monkeypatch.setattr(device_arrays, "_is_on_host", lambda _: is_on_host)
    return counts


@pytest.mark.parametrize("is_on_host", [True, False])
@pytest.mark.parametrize(
    ("expression", "shape", "fetched"),
    [
        (stack("l_{i}/w", over="i"), (3, 2), [8, 8, 8]),
        (stack("l_{i}/w", over="i", axis=1), (2, 3), [8, 8, 8]),
        (concat("l_0/w", "l_1/w"), (4,), [8, 8]),
        (stack("l_{i}/w", over="i").transpose().cast("float16"), (2, 3), [4, 4, 4]),
        (stack(src("l_{i}/w") * 2, over="i") + 1, (3, 2), [8, 8, 8]),
        (stack(concat("l_0/w", "l_1/w"), concat("l_2/w", "l_2/w")), (2, 4), [8] * 4),
        # After this no part of the leaf is a box of it.
        (stack("l_{i}/w", over="i").reshape(2, 3), (2, 3), [24]),
    ],
)
def test_of_joined_tensors_only_the_one_that_is_written_is_fetched(
    expression: tf2flax.Expression,
    shape: tuple[int, ...],
    fetched: list[int],
    is_on_host: bool,
    prefix: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = count_fetches(monkeypatch, is_on_host)
    dtype = "f2" if "float16" in repr(expression) else "f4"
    plan = tf2flax.plan(prefix, {expression: "w"}, {"w": jnp.zeros(shape, dtype)})
    path = saved(tmp_path, plan.restore(), plan)
    assert counts == fetched
    assert bits(path) == bits(prefix)


@pytest.mark.parametrize("is_on_host", [True, False])
def test_of_shards_only_what_a_tensor_has_is_fetched(
    is_on_host: bool,
    prefix: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = count_fetches(monkeypatch, is_on_host)
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("a", "b"))
    sharding = NamedSharding(mesh, PartitionSpec(None, "a"))  # and four replicas
    target = {"w": jax.ShapeDtypeStruct((3, 2), "float32", sharding=sharding)}
    plan = tf2flax.plan(prefix, {stack("l_{i}/w", over="i"): "w"}, target)
    tree = plan.restore()
    with jax.set_mesh(mesh), jax.transfer_guard("disallow"):
        path = saved(tmp_path, tree, plan)
    assert counts == [4] * 6
    assert bits(path) == bits(prefix)


def test_a_leaf_in_a_file_is_read_once(
    prefix: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tf2flax.plan(
        prefix, {stack("l_{i}/w", over="i"): "w"}, {"w": jnp.zeros((3, 2))}
    )
    other = tf2flax.save_checkpoint(tmp_path / "o", {"w": np.ones((3, 2), "f4")})
    stored = tf2flax.open_checkpoint(other)["w"]
    read: list[str] = []
    original = type(stored).read

    def counted(tensor: tf2flax.StoredTensor) -> np.ndarray:
        read.append(tensor.name)
        return original(tensor)

    monkeypatch.setattr(type(stored), "read", counted)
    path = saved(tmp_path, {"w": stored}, plan)
    assert read.count("w") == 1
    assert tf2flax.open_checkpoint(path)["l_2/w"].read().tolist() == [1, 1]


def test_what_was_fetched_is_dropped(prefix: pathlib.Path) -> None:
    target = {"w": jnp.zeros((2, 3))}
    plan = tf2flax.plan(prefix, {stack("l_{i}/w", over="i").reshape(2, 3): "w"}, target)
    held: list[weakref.ref[np.ndarray]] = []

    def fetch() -> np.ndarray:
        array = np.zeros((2, 3), "f4")
        held.append(weakref.ref(array))
        return array

    leaf = whole_tensor("w", prepare_tensor("w", np.zeros((2, 3), "f4")).spec, fetch)
    backwards = TensorWriter(plan.inverse(), {"w": leaf})
    for name in ("l_0/w", "l_1/w"):
        backwards.tensor(name)
        assert held[0]() is not None
    backwards.tensor("l_2/w")
    gc.collect()
    assert [one() for one in held] == [None]
