"""Arithmetic, pads, filled rows and `first_of` on the way back to a checkpoint."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from bundle_writer import Tensor, write_bundle
from expressions import cases, tensors
from hypothesis import given, settings
from hypothesis import strategies as st

import tf2flax
from tf2flax import Expression, concat, first_of, src, stack


def contents(prefix: Any) -> dict[str, tuple[Any, ...]]:
    checkpoint = tf2flax.open_checkpoint(prefix)
    assert checkpoint.verify().ok
    return {
        name: (str(a.dtype), a.shape, a.tobytes())
        for name, a in checkpoint.read().items()
    }


NUMBERS = {"i1": (1, -2, 3), "i4": (1, -7, 3), "f4": (1.0, -0.1, 3, 1e-3, 700.5)}
NUMBERS |= {"f2": (1.0, -0.1, 3), "bfloat16": (0.5, 3, -0.1), "u1": (1, 2, 3)}


def random_tensor(data: st.DataObject, dtype: np.dtype, size: int) -> np.ndarray:
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    if dtype.kind in "iu":
        return rng.integers(0 if dtype.kind == "u" else -4, 5, size).astype(dtype)
    scale = data.draw(st.sampled_from([1e-3, 1.0, 100.0]))
    return (rng.normal(size=size) * scale).astype(dtype)


def random_steps(data: st.DataObject, name: str) -> Expression:
    expression: Any = src("a")
    for _ in range(data.draw(st.integers(1, 3))):
        number = data.draw(st.sampled_from(NUMBERS[name]))
        verb = data.draw(st.sampled_from("+-*~r"))
        if verb == "+":
            expression = expression + number
        elif verb == "-":
            expression = expression - number
        elif verb == "*":
            expression = number * expression
        elif verb == "r":
            expression = number - expression
        else:
            expression = -expression
    return expression


@pytest.mark.parametrize("name", list(NUMBERS))
@settings(max_examples=15)
@given(data=st.data())
def test_unchanged_elements_get_their_own_bits_and_changed_ones_load_as_they_are(
    name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    folder = tmp_path_factory.mktemp("steps")
    a, other = (random_tensor(data, dtype, 12) for _ in range(2))
    for file, array in (("a", a), ("b", other)):
        write_bundle(folder / file, {"a": Tensor(array)})
    entries = {random_steps(data, name): "x"}
    target = {"x": jax.ShapeDtypeStruct((12,), dtype)}
    problem = ""
    try:
        plan = tf2flax.plan(folder / "a", entries, target)
        tree = plan.restore()
        loaded = tf2flax.init_from_checkpoint(folder / "b", entries, target)["x"]
    except tf2flax.AssignmentError as error:
        # Integers out of range, or a number that the dtype does not hold.
        problem = str(error)
        plan = None
    if plan is None:
        assert dtype.kind in "iu"
        assert "not fit" in problem or "does not hold" in problem
        return
    saved = tf2flax.save_checkpoint(folder / "c", tree, plan=plan)
    assert contents(saved) == contents(folder / "a")
    # Half of the elements become what another tensor loads as: there is a value.
    changed = np.where(np.arange(12) % 2 == 0, np.asarray(tree["x"]), loaded)
    if not np.isfinite(changed.astype("f4")).all():
        return
    saved = tf2flax.save_checkpoint(folder / "d", {"x": changed}, plan=plan)
    again = tf2flax.init_from_checkpoint(saved, entries, target)["x"]
    assert np.asarray(again).tobytes() == changed.tobytes()
    assert tf2flax.load_variable(saved, "a")[::2].tobytes() == a[::2].tobytes()


@settings(max_examples=60)
@given(st.data())
def test_what_is_loaded_is_saved_or_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("steps")
    arrays = data.draw(tensors(2))
    write_bundle(folder / "a", {name: Tensor(a) for name, a in arrays.items()})
    case = data.draw(cases(arrays, is_arithmetic=True))
    value = case.value
    target = {"x": jax.ShapeDtypeStruct(value.shape, value.dtype)}
    with jax.enable_x64(True):
        plan = tf2flax.plan(folder / "a", {case.expression: "x"}, target)
        tree = plan.restore()
        problem = ""
        try:
            saved = tf2flax.save_checkpoint(folder / "b", tree, plan=plan)
        except tf2flax.AssignmentError as error:
            problem, saved = str(error), None
    if saved is None:
        assert "Leaf `x` cannot be written: " in problem
        assert " makes one value of elements of " in problem
        return
    assert contents(saved) == contents(folder / "a")


@pytest.fixture
def prefix(tmp_path: pathlib.Path) -> str:
    arrays = {
        "b": np.array([0.25, -1.0, 3e-9, 7.0], "f4"),
        "k": np.array([[1.5, 2.5]], "f4"),
        "i": np.arange(4, dtype="i4"),
        "e": np.ones(2, "f4"),
        "e/ExponentialMovingAverage": np.zeros(2, "f4"),
        "old/w": np.ones(1, "f4"),
        "new/w": np.zeros(1, "f4"),
        "old/v": np.ones(1, "f4"),
    }
    return tf2flax.save_checkpoint(tmp_path / "from" / "m", arrays)


def shape(*lengths: int, dtype: str = "float32") -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(lengths, dtype)


def test_the_inverse_is_the_opposite_operation(prefix: str) -> None:
    entries: dict[Any, str] = {
        src("b") + 1.0: "forget",
        2.0 - src("k"): "k",
        -src("i") * 3: "i",
        src("e").pad(((1, 0),), fill=0.5): "e",
    }
    target = {"forget": shape(4), "k": shape(1, 2), "e": shape(3)}
    inverse = tf2flax.plan(
        prefix, entries, {**target, "i": shape(4, dtype="int32")}
    ).inverse()
    assert [str(assignment) for assignment in inverse.assignments] == [
        '`b` <- `src("forget") - 1.0`',
        '`e` <- `src("e")[1:3]`',
        "`i` <- by the opposite from `i`",
        '`k` <- `2.0 - src("k")`',
    ]


def test_a_trained_forget_bias(prefix: str, tmp_path: pathlib.Path) -> None:
    plan = tf2flax.plan(prefix, {src("b") + 1.0: "bias"}, {"bias": shape(4)})
    bias = np.asarray(plan.restore()["bias"]).copy()
    assert bias.tolist() == [1.25, 0.0, 1.0, 8.0]
    bias[0] = 1.75
    saved = tf2flax.save_checkpoint(tmp_path / "m", {"bias": bias}, plan=plan)
    # 1.0 is still 3e-9 + 1.0, so that the checkpoint keeps its 3e-9.
    wanted = np.array([0.75, -1.0, 3e-9, 7.0], "f4")
    assert tf2flax.load_variable(saved, "b").tobytes() == wanted.tobytes()


# Map, tree, and why it cannot be saved.
REFUSED: dict[str, tuple[Any, Any, str]] = {
    "no value loads as it": (
        {src("b") + 1.0: "x"}, jnp.array([1.25, 1e-10, 1.0, 8.0]),
        r"Leaf `x` cannot be written as `b`: loading by float32 -> x \+ 1.0 can",
    ),
    "integers between": (
        {src("i") * 3: "x"}, jnp.array([0, 3, 7, 9], "i4"),
        r"x \* 3 cannot give its values: 1 of 4, the first is 7 at \[2\]",
    ),
    "a product with 0": (
        {src("b") * 0: "x"}, jnp.array([0.0, 0.0, 1.0, 0.0]), r"x \* 0 cannot give",
    ),
    "integers out of range": (
        {src("i") + 2: "x"}, jnp.array([-(2**31), 3, 4, 5], "i4"),
        r"x \+ 2 cannot give its values: 1 of 4, the first is -2147483648",
    ),
    "what a pad filled": (
        {src("e").pad(((1, 0),), fill=0.5): "x"}, jnp.array([0.25, 1.0, 1.0]),
        r"elements that pad filled, 1 changed, the first is 0.25 at \[0\]",
    ),
    "rows that were filled": (
        {src("e").take([1, -1, 0], fill=0.0): "x"}, jnp.array([1.0, 1.0, 1.0]),
        r"elements that take filled, 1 changed, the first is 1.0 at \[1\]",
    ),
    "a sum of tensors": (
        {src("e") + src("e/ExponentialMovingAverage"): "x"}, jnp.ones(2),
        "`x` cannot be written: .* of `e` and `e/ExponentialMovingAverage`, and which",
    ),
    "a difference inside": (
        {concat(src("e") - src("b")[:2], "e"): "x"}, jnp.ones(4),
        r'`x` cannot be written: `src\("e"\) - src\("b"\)\[:2\]` makes one value',
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_cannot_be_written_is_refused_by_name(
    name: str, prefix: str, tmp_path: pathlib.Path
) -> None:
    entries, value, message = REFUSED[name]
    target = {"x": jax.ShapeDtypeStruct(value.shape, value.dtype)}
    plan = tf2flax.plan(prefix, entries, target)
    with pytest.raises(tf2flax.AssignmentError, match=message):
        tf2flax.save_checkpoint(tmp_path / "to" / "m", {"x": value}, plan=plan)
    assert not list((tmp_path / "to").glob("*"))


def test_a_pad_is_cropped_and_filled_rows_are_left_out(
    prefix: str, tmp_path: pathlib.Path
) -> None:
    # The fill goes through the casts that follow it: 0.1 is another one in bfloat16.
    entries: dict[Any, str] = {
        src("k").pad(((1, 0), (0, 2)), fill=0.1).cast("bfloat16"): "k",
        src("b").take([3, -1, 0, -1, 1, 2], fill=2): "b",
    }
    target = {"k": shape(2, 4), "b": shape(6)}
    plan = tf2flax.plan(prefix, entries, target)
    tree = plan.restore()
    assert tree["b"].tolist() == [7.0, 2.0, 0.25, 2.0, -1.0, np.float32(3e-9)]
    saved = tf2flax.save_checkpoint(tmp_path / "m", tree, plan=plan)
    assert contents(saved) == contents(prefix)
    # A leaf that was cast to another dtype since keeps what was filled.
    wider = {"k": tree["k"].astype("bfloat16"), "b": tree["b"]}
    saved = tf2flax.save_checkpoint(tmp_path / "n", wider, plan=plan)
    assert contents(saved) == contents(prefix)


def test_first_of_chooses_member_by_member(prefix: str, tmp_path: pathlib.Path) -> None:
    entries = {first_of("new/", "old/"): "p/", first_of("e/X", "e"): "e"}
    target = {"p": {"w": shape(1), "v": shape(1)}, "e": shape(2)}
    plan = tf2flax.plan(prefix, entries, target)
    assert {a.leaf: a.source for a in plan.assignments} == {
        "e": "e", "p/v": "old/v", "p/w": "new/w",
    }  # fmt: skip
    tree = plan.restore()
    assert tree["p"]["w"].tolist() == [0.0]
    saved = tf2flax.save_checkpoint(tmp_path / "m", tree, plan=plan)
    assert contents(saved) == contents(prefix)
    tree["p"]["w"] += 1
    with pytest.warns(UserWarning, match=r"first_of.*: `old/w`"):
        saved = tf2flax.save_checkpoint(tmp_path / "n", tree, plan=plan)
    read = tf2flax.open_checkpoint(saved).read()
    assert (read["new/w"].tolist(), read["old/w"].tolist()) == ([1.0], [1.0])
    assert read["old/v"].tolist() == [1.0]


def test_first_of_expressions_and_of_all_layers(tmp_path: pathlib.Path) -> None:
    arrays = {"l_0/a": np.zeros(2), "l_1/b": np.ones(2), "l_1/a": np.full(2, 5.0)}
    prefix = tf2flax.save_checkpoint(tmp_path / "m", {"h": np.ones((2, 1)), **arrays})
    layers = stack(first_of("l_{i}/b", "l_{i}/a"), over="i")
    entries = {layers: "x", first_of(src("no").T, src("h").T) + 1: "y"}
    target = {"x": shape(2, 2), "y": shape(1, 2)}
    tree = tf2flax.init_from_checkpoint(prefix, entries, target)
    assert tree["x"].tolist() == [[0.0, 0.0], [1.0, 1.0]]
    assert tree["y"].tolist() == [[2.0, 2.0]]
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.plan(prefix, {first_of("no", "nothing"): "y"}, target)
    assert "no" in str(caught.value)
    assert "nothing" in str(caught.value)
    kept = tf2flax.plan(
        prefix,
        {first_of("no", "nothing"): "y", "h": "h"},
        {"y": np.zeros(1), "h": np.zeros((2, 1), "f4")},
        on_missing="keep",
    )
    assert kept.missing[0].source == "no, nothing"


def test_a_fill_that_overflows_and_is_cut_off_is_none(tmp_path: pathlib.Path) -> None:
    prefix = tf2flax.save_checkpoint(tmp_path / "m", {"a": np.arange(3, dtype="i1")})
    for key in (
        (src("a").pad(((0, 1),), fill=127) + 1)[:3],
        (src("a").take([0, 1, 2, -1], fill=-128) - 1)[:3],
    ):
        target = {"x": jax.ShapeDtypeStruct((3,), "int8")}
        plan = tf2flax.plan(prefix, {key: "x"}, target)
        saved = tf2flax.save_checkpoint(tmp_path / "n", plan.restore(), plan=plan,
                                        overwrite=True)  # fmt: skip
        assert contents(saved) == contents(prefix)


C = src("c")
COMPLEX: dict[str, Expression] = {
    "a product": C * 0.1, "a complex product": C * (0.3 + 0.7j),
    "another one": (2 - 1j) * C, "a sum": C + 0.1, "a complex sum": C - (0.3 + 1.7j),
    "a difference": 0.7 - C, "several": -(C * 3.7) + 0.3j, "a cast": (C * 0.3).T,
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
@pytest.mark.parametrize("name", list(COMPLEX))
def test_changed_complex_leaves_are_saved_as_what_loads_so(
    name: str, dtype: str, tmp_path: pathlib.Path
) -> None:
    rng = np.random.default_rng(7)
    first, second = (
        (rng.normal(size=300) * 10 + 1j * rng.normal(size=300)).astype(dtype)
        for _ in range(2)
    )
    entries = {COMPLEX[name]: "x"}
    target = {"x": jax.ShapeDtypeStruct((300,), dtype)}
    with jax.enable_x64(True):
        for file, array in (("a", first), ("b", second)):
            write_bundle(tmp_path / file, {"c": Tensor(array)})
        plan = tf2flax.plan(tmp_path / "a", entries, target)
        loaded = tf2flax.init_from_checkpoint(tmp_path / "b", entries, target)["x"]
        changed = np.asarray(plan.restore()["x"]).copy()
        changed[::2] = np.asarray(loaded)[::2]
        saved = tf2flax.save_checkpoint(tmp_path / "c", {"x": changed}, plan=plan)
        again = tf2flax.init_from_checkpoint(saved, entries, target)["x"]
    assert np.asarray(again).tobytes() == changed.tobytes()
    written = tf2flax.load_variable(saved, "c")
    assert written[1::2].tobytes() == first[1::2].tobytes()
    assert np.allclose(written[::2], second[::2], rtol=1e-5)


def test_a_complex_value_that_nothing_gives_is_refused(tmp_path: pathlib.Path) -> None:
    prefix = tf2flax.save_checkpoint(tmp_path / "m", {"c": np.ones(3, "c8")})
    target = {"x": jax.ShapeDtypeStruct((3,), "complex64")}
    plan = tf2flax.plan(prefix, {src("c") * 0: "x"}, target)
    tree = {"x": np.array([0, 1j, 0], "c8")}
    with pytest.raises(tf2flax.AssignmentError, match=r"x \* 0 cannot give its values"):
        tf2flax.save_checkpoint(tmp_path / "n", tree, plan=plan)
