"""Arithmetic, pads and filled rows: NumPy's values in the stored dtype."""

from __future__ import annotations

import operator
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from expressions import cases, tensors
from hypothesis import given, settings
from hypothesis import strategies as st

import tf2flax
from tf2flax import Expression, concat, src
from tf2flax._assignment.language.syntax import parse_expression
from tf2flax._assignment.layouts.filling import fill_array
from tf2flax._assignment.layouts.lowering import lower
from tf2flax._assignment.layouts.nodes import StridedView
from tf2flax._assignment.layouts.steps import ValueRangeError
from tf2flax._base.dtypes import kind_of
from tf2flax._base.values import STORED_DTYPES, Box, StoredDtype, TensorSpec
from tf2flax._reading.strides import strided

A, B = src("a"), src("b")
# Every dtype of numbers that a checkpoint may hold.
DTYPES = {
    stored.name: stored
    for stored in STORED_DTYPES.values()
    if stored.is_readable and not stored.is_string
}
OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
}


def evaluate(
    expression: Expression,
    arrays: Mapping[str, np.ndarray],
    box: Box | None = None,
    dtypes: Mapping[str, StoredDtype] = {},
) -> np.ndarray:
    """A box of an expression; memory that is not written is 0xFF, as all tests have."""
    by_numpy = {stored.numpy: stored for stored in reversed(STORED_DTYPES.values())}
    specs = {
        name: TensorSpec(a.shape, dtypes.get(name) or by_numpy[a.dtype])
        for name, a in arrays.items()
    }
    layout = lower(expression, specs.__getitem__)
    box = box or Box.whole(layout.shape)

    def fetch(view: StridedView, out: np.ndarray) -> None:
        out[...] = strided(arrays[view.source], view.offset, view.shape, view.strides)

    out = np.empty(box.shape, layout.dtype)
    out.reshape(-1).view(np.uint8).fill(0xFF)
    fill_array(layout, box, out, fetch)
    return out


def bits(array: np.ndarray) -> tuple[object, ...]:
    return array.dtype, array.shape, np.ascontiguousarray(array).tobytes()


def random_array(data: st.DataObject, dtype: np.dtype) -> np.ndarray:
    """Any bits, in a shape that may have no axes, or no elements."""
    shape = data.draw(st.sampled_from([(), (3,), (2, 3), (0, 2), (1, 1, 2)]))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    if kind_of(dtype) == "bool":
        return rng.random(shape) < 0.5
    if kind_of(dtype) == "int":
        info = ml_dtypes.iinfo(dtype)
        low, high = int(info.min), int(info.max)
        # Small values, of which sums and products fit, and the ends of the range.
        pool = [low, low + 1, high - 1, high, *range(max(low, -4), min(high, 4))]
        chosen = [pool[i] for i in rng.integers(0, len(pool), int(np.prod(shape)))]
        wide = np.array(chosen, np.int64 if low else np.uint64)
        wide = wide if dtype.itemsize == 8 else wide.astype(np.int32 if low else "u4")
        return wide.astype(dtype).reshape(shape)
    count = int(np.prod(shape)) * dtype.itemsize
    raw = rng.integers(0, 256, count, np.uint8).tobytes()
    return np.frombuffer(raw, dtype).reshape(shape)


def reference(sign: str, left: np.ndarray, right: np.ndarray) -> np.ndarray | None:
    """What NumPy makes of two arrays; None where integers leave their range."""
    dtype = left.dtype
    if kind_of(dtype) != "int":
        with np.errstate(all="ignore"):
            return np.asarray(OPERATORS[sign](left, right))
    info = ml_dtypes.iinfo(dtype)
    exact = [
        OPERATORS[sign](int(a), int(b))
        for a, b in zip(left.reshape(-1), right.reshape(-1), strict=True)
    ]
    if any(not int(info.min) <= value <= int(info.max) for value in exact):
        return None
    wide = np.array(exact, np.int64 if info.min else np.uint64)
    wide = wide if dtype.itemsize == 8 else wide.astype(np.int32 if info.min else "u4")
    return wide.astype(dtype).reshape(left.shape)


def check(
    expression: Expression,
    arrays: Mapping[str, np.ndarray],
    wanted: np.ndarray | None,
    dtypes: Mapping[str, StoredDtype],
) -> None:
    if wanted is None:
        with pytest.raises(ValueRangeError, match=r"not fit .*, the first is "):
            evaluate(expression, arrays, dtypes=dtypes)
    else:
        assert bits(evaluate(expression, arrays, dtypes=dtypes)) == bits(wanted)


@pytest.mark.parametrize("name", list(DTYPES))
@settings(max_examples=10)
@given(data=st.data())
def test_two_tensors_are_combined_as_numpy_does(name: str, data: st.DataObject) -> None:
    stored = DTYPES[name]
    a = random_array(data, stored.numpy)
    b = random_array(data, stored.numpy)
    b = np.resize(b, a.shape) if b.size else a
    dtypes = {"a": stored, "b": stored}
    for sign, function in OPERATORS.items():
        expression = function(A, B)
        if sign == "-" and kind_of(stored.numpy) == "bool":
            with pytest.raises(tf2flax.AssignmentError, match="cannot be subtracted"):
                evaluate(expression, {"a": a, "b": b}, dtypes=dtypes)
            continue
        wanted = reference(sign, a, b)
        check(expression, {"a": a, "b": b}, wanted, dtypes)


@pytest.mark.parametrize("name", list(DTYPES))
@settings(max_examples=10)
@given(data=st.data())
def test_numbers_take_the_dtype_of_the_tensor(name: str, data: st.DataObject) -> None:
    stored = DTYPES[name]
    dtype, kind = stored.numpy, kind_of(stored.numpy)
    a = random_array(data, dtype)
    dtypes = {"a": stored}
    if kind == "bool":
        for expression in (-A, A - 1, A * 2, A + 0.0):
            with pytest.raises(tf2flax.AssignmentError, match=r"bool"):
                evaluate(expression, {"a": a}, dtypes=dtypes)
        assert bits(evaluate(A * 1, {"a": a}, dtypes=dtypes)) == bits(a)
        return
    if kind == "int":
        low = int(ml_dtypes.iinfo(dtype).min)
        number: Any = data.draw(st.integers(max(low, -2), 1))
        negative = reference("-", np.zeros_like(a), a)
    else:
        choices = [1, 2, 2.0] if name == "float8_e8m0fnu" else [0, 1, -1.5, 0.1, 3]
        number = data.draw(st.sampled_from(choices))
        negative = np.asarray(np.negative(a)).astype(dtype)
    element = np.full(a.shape, number).astype(np.float64 if kind != "int" else "i4")
    element = element.astype(dtype)
    check(-A, {"a": a}, negative, dtypes)
    for sign, function in OPERATORS.items():
        right, left = function(A, number), function(number, A)
        check(right, {"a": a}, reference(sign, a, element), dtypes)
        check(left, {"a": a}, reference(sign, element, a), dtypes)


@settings(max_examples=400)
@given(st.data())
def test_any_box_agrees_with_numpy(data: st.DataObject) -> None:
    arrays = data.draw(tensors())
    case = data.draw(cases(arrays, is_arithmetic=True))
    spans = [
        sorted(data.draw(st.tuples(*[st.integers(0, dim)] * 2)))
        for dim in case.value.shape
    ]
    box = Box(tuple(a for a, _ in spans), tuple(b for _, b in spans))
    wanted = case.value[tuple(slice(*span) for span in spans)]
    got = evaluate(case.expression, arrays, box)
    assert bits(got) == bits(np.asarray(wanted))
    assert parse_expression(repr(case.expression)) == case.expression


def test_steps_are_rounded_one_by_one() -> None:
    a = np.array([1.0], ml_dtypes.bfloat16)
    # 256 + 1 rounds to 256 in bfloat16; in float32 it would not.
    got = evaluate((A + 256) + 1 - 256, {"a": a})
    assert got.tolist() == [0.0] or got.astype("f4").tolist() == [0.0]
    half = np.array([60000.0], "f2")
    assert np.isinf(evaluate(A * 2 * 0.5, {"a": half}))
    assert evaluate(A.cast("f4") * 2 * 0.5, {"a": half}).tolist() == [60000.0]


# Expression, and why it is refused when it is planned.
REFUSED: dict[str, tuple[Expression, str]] = {
    "a float for integers": (src("i4") * 2.0, r"\*: int32 does not hold 2.0"),
    "a float for truths": (src("b1") * 1.0, r"\*: bool does not hold 1.0"),
    "truths that are subtracted": (src("b1") - src("b1"), "cannot be subtracted"),
    "truths without a sign": (-src("b1"), "-x: the operand is of dtype bool"),
    "a number out of range": (src("i1") + 128, r"\+: int8 does not hold 128"),
    "a negative one without signs": (src("u1") + -1, r"\+: uint8 does not hold -1"),
    "a float out of range": (src("f2") * 1e5, "float16 does not hold 100000.0"),
    "an integer out of range": (src("f4") + 10**40, "float32 does not hold 10000000"),
    "an integer beyond all": (src("f4") + 10**300 * 10**8, "float32 does not hold 1"),
    "a complex number for floats": (src("f4") * 1j, r"float32 does not hold 1j"),
    "strings": (src("s") + src("s"), "holds no numbers"),
    "strings and a number": (src("s") + 1, "holds no numbers"),
    "strings that are padded": (src("s").pad(((0, 1),)), "holds no numbers"),
    "another shape": (src("f4") + src("f4")[:1], r"same shape, got \[2\] and \[1\]"),
    "another dtype": (src("f4") + src("f2"), "same dtype, got float32 and float16"),
    "pads of another rank": (src("f4").pad(((0, 1), (0, 0))), r"shape \[2\], 1 axes"),
    "a fill that is not held": (src("i4").pad(((0, 1),), fill=0.5), "not hold 0.5"),
    "a row out of bounds": (src("f4").take([2, -1], fill=0), "row 2 is out of bounds"),
    "an axis out of bounds": (src("f4").take([0], axis=1), "axis 1 is out of bounds"),
}  # fmt: skip


@pytest.fixture
def prefix(tmp_path: pathlib.Path) -> str:
    arrays = {
        name: np.array([1, 0]).astype(name)
        for name in ("i1", "u1", "i4", "f2", "f4", "b1", "c8")
    }
    strings = np.array([b"x", b"y"], object)
    return tf2flax.save_checkpoint(tmp_path / "m", {**arrays, "s": strings})


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_does_not_fit_is_refused_when_planned(name: str, prefix: str) -> None:
    expression, message = REFUSED[name]
    with pytest.raises(tf2flax.AssignmentError, match=message):
        tf2flax.plan(prefix, {expression: "x"}, {"x": np.zeros(2, "f4")})


def test_a_complex_number_and_one_of_numpy(prefix: str) -> None:
    target = {"x": np.zeros(2, "c8"), "y": np.zeros(2, "f4")}
    entries = {src("c8") * (1 + 2j): "x", src("f4") * np.float32(1.5): "y"}
    tree = tf2flax.init_from_checkpoint(prefix, entries, target)
    assert tree["x"].tolist() == [1 + 2j, 0]
    assert tree["y"].tolist() == [1.5, 0]


# What is not a number, and what is said of it.
NUMBERS: dict[str, tuple[Callable[[], object], str]] = {
    "an array": (lambda: A + np.ones(2), "Arrays cannot stand"),
    "an array on the left": (lambda: np.ones(2) * A, "Arrays cannot stand"),
    "an array without axes": (lambda: A - np.array(1.0), "Arrays cannot stand"),
    "an array of JAX": (lambda: A - jnp.ones(2), "Arrays cannot stand"),
    "an array of JAX on the left": (lambda: jnp.ones(2) - A, "Arrays cannot stand"),
    "a name": (lambda: A + "b", r"tf2flax.src\('b'\)"),
    "a truth": (lambda: A * True, "got True"),
    "nothing": (lambda: A * None, "got None"),
    "no number": (lambda: A + float("nan"), "finite number, got nan"),
    "infinity": (lambda: float("-inf") + A, "finite number, got -inf"),
    "an endless integer": (lambda: A + (1 << 2000), "2001 bits"),
    "a fill of text": (lambda: A.pad(((0, 1),), fill="zero"), "got 'zero'"),  # pyright: ignore[reportArgumentType]
    "no fill": (lambda: A.pad(((0, 1),), fill=None), "got None"),  # pyright: ignore[reportArgumentType]
    "a fill of arrays": (lambda: A.take([-1], fill=np.ones(2)), "Arrays cannot stand"),  # pyright: ignore[reportArgumentType]
    "widths of one number": (lambda: A.pad(3), "a pair of widths"),  # pyright: ignore[reportArgumentType]
    "widths that are no pairs": (lambda: A.pad(((1, 2, 3),)), "before and after"),
    "a negative width": (lambda: A.pad(((0, -1),)), "from 0 on"),
    "half a width": (lambda: A.pad(((0, 0.5),)), "integers for widths"),  # pyright: ignore[reportArgumentType]
    "rows before the first": (lambda: A.take([-2], fill=0), "Rows of -1 are filled"),
    "a step after what is kept": (
        lambda: A.pad(((0, 1),), fill="keep").T, "Make it the last operation",
    ),
    "arithmetic with what is kept": (
        lambda: 1 + A.take([-1], fill="keep"), "Make it the last operation",
    ),
    "a join of what is kept": (
        lambda: concat(A.pad(((0, 1),), fill="keep")), "Make it the last operation",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(NUMBERS))
def test_what_is_not_a_number_is_refused_when_written(name: str) -> None:
    make, message = NUMBERS[name]
    with pytest.raises(tf2flax.AssignmentError, match=message):
        make()


def test_integers_that_overflow_are_refused_by_leaf(tmp_path: pathlib.Path) -> None:
    prefix = tf2flax.save_checkpoint(
        tmp_path / "m", {"a": np.array([100, -128, 1], "i1"), "w": np.ones(2, "f4")}
    )
    target = {"x": jnp.zeros(3, "i1"), "y": jnp.zeros(3, "i1"), "w": jnp.zeros(2)}
    plan = tf2flax.plan(prefix, {src("a") * 2: "x", -src("a"): "y", "w": "w"}, target)
    with pytest.raises(tf2flax.AssignmentError) as caught:
        plan.restore()
    first, second = str(caught.value).split("\n")[-2:]
    assert 'Leaf `x` cannot take tensor `src("a") * 2`: 2 values do not fit' in first
    assert "int8, the first is 100 * 2. Cast the tensor to a wider dtype" in first
    assert "Leaf `y`" in second
    assert "1 value does not fit int8, the first is -(-128)" in second
    wide = tf2flax.init_from_checkpoint(
        prefix, {src("a").cast("i4") * 2: "x"}, {"x": jnp.zeros(3, "i4")}
    )
    assert wide["x"].tolist() == [200, -256, 2]


def test_elements_around_a_shard_do_not_matter(tmp_path: pathlib.Path) -> None:
    prefix = tf2flax.save_checkpoint(tmp_path / "m", {"a": np.array([1, 100], "i1")})
    tree = tf2flax.init_from_checkpoint(
        prefix, {(src("a") * 2)[:1]: "x"}, {"x": jax.ShapeDtypeStruct((1,), "int8")}
    )
    assert tree["x"].tolist() == [2]


# 100 and 127 overflow: they lie between rows that are kept, or are cut off after a
# reshape that no strides show.
HIGH = np.array([1, 100, 2, 127] * 80, "i1")
KEPT = np.arange(0, 320, 2)
LEFT_OUT: dict[str, tuple[Expression, np.ndarray]] = {
    "rows": ((A * 2).take([*KEPT, *KEPT]), np.tile(HIGH[KEPT] * 2, 2)),
    "rows in no order": ((A + 100).take(KEPT * 7 % 320), HIGH[KEPT * 7 % 320] + 100),
    "rows with a fill": (
        (A * 2).take([*KEPT, *[-1, 0] * 70], fill=5),
        np.array([*HIGH[KEPT] * 2, *[5, 2] * 70], "i1"),
    ),
    "rows of a sum": ((A + A).take([*KEPT, *KEPT]), np.tile(HIGH[KEPT] * 2, 2)),
    "rows of a join": (
        concat(A * 2, "a").take([*KEPT, 321, *KEPT]),
        np.array([*HIGH[KEPT] * 2, 100, *HIGH[KEPT] * 2], "i1"),
    ),
    "a slice of a join": (
        concat(A[:, None] * 2, src("a")[:, None], axis=1).T.reshape(64, 10)[:, ::2],
        np.array([HIGH * 2, HIGH]).reshape(64, 10)[:, ::2],
    ),
    "arithmetic of arithmetic": (
        ((A * 2).take([*KEPT, *KEPT]) + 1).take([*range(160), *range(0, 160, 3)] * 2),
        np.tile((HIGH[KEPT] * 2 + 1)[[*range(160), *range(0, 160, 3)]], 2),
    ),
    "a reshape between": (
        concat((A + 1).reshape(16, 20), src("a").reshape(16, 20), axis=1)
        .reshape(5, 128)[:, ::2].T,
        np.concatenate([(HIGH + 1).reshape(16, 20), HIGH.reshape(16, 20)], axis=1)
        .reshape(5, 128)[:, ::2].T,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(LEFT_OUT))
def test_elements_that_are_left_out_may_overflow(name: str) -> None:
    expression, wanted = LEFT_OUT[name]
    with np.errstate(all="ignore"):
        assert bits(evaluate(expression, {"a": HIGH})) == bits(wanted)
    # What is kept is refused as before.
    other = HIGH.copy()
    other[::2] = 127
    with pytest.raises(ValueRangeError, match="not fit int8"):
        evaluate(expression, {"a": other})


def test_rows_that_are_left_out_may_overflow_in_a_checkpoint(
    tmp_path: pathlib.Path,
) -> None:
    prefix = tf2flax.save_checkpoint(tmp_path / "m", {"a": HIGH})
    rows = [*KEPT, *KEPT]
    target = {"x": jax.ShapeDtypeStruct((320,), "int8")}
    plan = tf2flax.plan(prefix, {(src("a") * 2).take(rows): "x"}, target)
    tree = plan.restore()
    assert tree["x"].tolist() == [2, 4] * 160
    saved = tf2flax.save_checkpoint(tmp_path / "n", tree, plan=plan)
    assert tf2flax.load_variable(saved, "a").tolist() == HIGH.tolist()


# More than 16 rows are cut in plans and messages, and written out in `repr`.
def test_many_rows_are_cut_in_plans(tmp_path: pathlib.Path) -> None:
    prefix = tf2flax.save_checkpoint(tmp_path / "m", {"a": np.arange(40.0)})
    rows = [3, 1, *(i * i % 40 for i in range(29_998))]
    key = src("a").take(rows)
    target = {"x": jax.ShapeDtypeStruct((30_000,), "float32")}
    plan = tf2flax.plan(prefix, {key: "x"}, target, dtype="float32")
    assert 'src("a").take([3, 1, … 30,000 rows])' in str(plan)
    assert len(str(plan)) < 1000
    assert plan.to_dict()["assignments"][0]["expression"] == repr(key)
    assert parse_expression(repr(key)) == key
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.plan(prefix, {key: "x"}, {"x": np.zeros(2, "f4")})
    assert len(str(caught.value)) < 1000
