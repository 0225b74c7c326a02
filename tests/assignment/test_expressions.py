"""Expressions: how they are written, what they mean, and what parts of them need."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from expressions import cases, tensors
from hypothesis import given, settings
from hypothesis import strategies as st

import tf2flax
from tf2flax import Expression, concat, first_of, src, stack
from tf2flax._assignment.language import making
from tf2flax._assignment.language.syntax import is_expression, parse_expression
from tf2flax._assignment.layouts.filling import fill_array, views_in_box
from tf2flax._assignment.layouts.lowering import lower
from tf2flax._assignment.layouts.nodes import StridedView, is_exact, needed_elements
from tf2flax._base.values import STORED_DTYPES, Box, TensorSpec
from tf2flax._reading.strides import strided

INT32, FLOAT32 = STORED_DTYPES[3], STORED_DTYPES[1]
A = src("a")

# What is written -> how it prints.
PRINTED: dict[str, tuple[Expression, str]] = {
    "a name": (A, 'src("a")'),
    "a name with quotes": (src('a"\n'), r'src("a\"\n")'),
    "transpose": (A.transpose(), 'src("a").transpose()'),
    "transpose with axes": (A.transpose(1, 0), 'src("a").transpose(1, 0)'),
    "transpose with a tuple": (A.transpose((2, 0, 1)), 'src("a").transpose(2, 0, 1)'),
    "transpose twice": (A.transpose().transpose(), 'src("a")'),
    # Axes that are written out say the rank, which NumPy checks.
    "transpose there and back": (
        A.transpose(1, 2, 0).transpose(2, 0, 1),
        'src("a").transpose(0, 1, 2)',
    ),
    "transposes composed": (
        A.transpose(1, 2, 0).transpose(1, 2, 0),
        'src("a").transpose(2, 0, 1)',
    ),
    "transpose after axes": (
        A.transpose(1, 2, 0).transpose(),
        'src("a").transpose(0, 2, 1)',
    ),
    "transposes of other ranks": (
        A.transpose(1, 0).transpose(0, 1, 2),
        'src("a").transpose(1, 0).transpose(0, 1, 2)',
    ),
    "reshape": (A.reshape(2, -1), 'src("a").reshape(2, -1)'),
    "reshape to a scalar": (A.reshape(()), 'src("a").reshape(())'),
    "reshape twice": (A.reshape(2, 6).reshape(3, 4), 'src("a").reshape(3, 4)'),
    "reshape twice, one unknown": (A.reshape(2, 6).reshape(-1), 'src("a").reshape(12)'),
    "reshapes that cannot both be": (
        A.reshape(5, 5).reshape(2, 3),
        'src("a").reshape(5, 5).reshape(2, 3)',
    ),
    "a reshape that checks more": (
        A.reshape(-1, 5).reshape(-1),
        'src("a").reshape(-1, 5).reshape(-1)',
    ),
    "rearrange": (
        A.rearrange("d (h k) -> d h k", h=12),
        'src("a").rearrange("d (h k) -> d h k", h=12)',
    ),
    "index": (A[0, 1:-1, ..., None, ::2], 'src("a")[0, 1:-1, ..., None, ::2]'),
    "take": (A.take([3, 1]), 'src("a").take([3, 1])'),
    "take in steps": (A.take(np.arange(0, 9, 3)), 'src("a").take([0, 3, 6])'),
    "take in many steps": (A.take(range(8, 0, -2)), 'src("a").take(range(8, 1, -2))'),
    "take along an axis": (
        A.take([3, -1], axis=-1, fill=0),
        'src("a").take([3, -1], axis=-1, fill=0)',
    ),
    "rows that fall below 0": (
        A.take([2, 1, 0, -1], fill="keep"),
        'src("a").take([2, 1, 0, -1], fill="keep")',
    ),
    "pad": (
        A.pad([[0, 9], (1, 0)], fill=-0.5),
        'src("a").pad(((0, 9), (1, 0)), fill=-0.5)',
    ),
    "pad of a scalar": (A.pad(()), 'src("a").pad((), fill=0)'),
    "a sum": (A + src("b") - A, 'src("a") + src("b") - src("a")'),
    "a sum on the right": (A - (src("b") - A), 'src("a") - (src("b") - src("a"))'),
    "a product of sums": (
        (A + 1) * (2.0 - A),
        '(src("a") + 1) * (2.0 - src("a"))',
    ),
    "numbers": (-2.0 * A + 1e-9 - -3, '-2.0 * src("a") + 1e-09 - -3'),
    "a complex number": (A * (1 + 2j), 'src("a") * (1+2j)'),
    "a number of NumPy": (np.float64(2) * A, '2.0 * src("a")'),
    "signs": (-(-A) * -A, '--src("a") * -src("a")'),  # noqa: B002
    "a sign before a method": (-A.T, '-src("a").transpose()'),
    "a method after a sign": ((-A)[0], '(-src("a"))[0]'),
    "sums in a join": (concat(A + 1, "b"), 'concat(src("a") + 1, "b", axis=0)'),
    "first of": (
        first_of("w/ExponentialMovingAverage", A.T) + 1,
        'first_of("w/ExponentialMovingAverage", src("a").transpose()) + 1',
    ),
    "cast": (A.cast("bfloat16"), 'src("a").cast("bfloat16")'),
    "cast twice the same": (A.cast("f4").cast("float32"), 'src("a").cast("float32")'),
    "concat": (concat("q", src("k"), axis=1), 'concat("q", "k", axis=1)'),
    "concat of expressions": (
        concat(A[0], "b"),
        'concat(src("a")[0], "b", axis=0)',
    ),
    "stack over": (
        stack("l_{i}/", over="i", axis=-1),
        'stack("l_{i}/", over="i", axis=-1)',
    ),
}


@pytest.mark.parametrize("name", list(PRINTED))
def test_printed_as_written(name: str) -> None:
    expression, text = PRINTED[name]
    assert repr(expression) == str(expression) == text
    assert parse_expression(text) == expression
    assert eval(text, vars(making)) == expression
    assert pickle.loads(pickle.dumps(expression)) == expression
    assert len({expression, parse_expression(text)}) == 1
    assert is_expression(text)


def test_numbers_of_other_types_are_other_expressions() -> None:
    assert len({A * 2, A * 2.0, A * (2 + 0j), A * -0.0, A * 0.0, 2 * A}) == 6


@pytest.mark.parametrize("name", ["-weights", "2d/conv", "(src)", "src/w", "1 + x"])
def test_names_of_tensors_that_are_no_expressions(name: str) -> None:
    assert not is_expression(name)


WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "a name of no text": (lambda: src(3), "got 3"),  # pyright: ignore[reportArgumentType]
    "no name": (lambda: src(""), 'All of it is "/"'),
    "axes twice": (lambda: A.transpose(0, 0), "every axis once"),
    "axes as text": (lambda: A.transpose("01"), "integers for axes"),  # pyright: ignore[reportArgumentType]
    "a truth as axis": (lambda: A.transpose(True, 0), "integers for axes"),
    "two unknowns": (lambda: A.reshape(-1, -1), "one may be -1"),
    "a negative extent": (lambda: A.reshape(-2), "one may be -1"),
    "half an extent": (lambda: A.reshape(2.5), "integers for shape"),  # pyright: ignore[reportArgumentType]
    "an axis on one side": (lambda: A.rearrange("a b -> a"), "one side only"),
    "no arrow": (lambda: A.rearrange("a b"), "one `->`"),
    "an axis twice": (lambda: A.rearrange("a a -> a a"), "twice"),
    "nested parentheses": (lambda: A.rearrange("((a)) -> a"), "do not nest"),
    "an open parenthesis": (lambda: A.rearrange("(a -> a"), "not closed"),
    "a closed parenthesis": (lambda: A.rearrange("a) -> a"), "closes nothing"),
    "no axis": (lambda: A.rearrange("a ! -> a"), "`!` is not a valid axis"),
    "a number": (lambda: A.rearrange("a 2 -> a"), "`2 ?` is not a valid axis"),
    "a size of nothing": (lambda: A.rearrange("a -> a", b=2), "no axis `b`"),
    "no pattern": (lambda: A.rearrange(3), "expected a pattern"),  # pyright: ignore[reportArgumentType]
    "a list as index": (lambda: A[[0, 1]], r"\.take\(rows\)"),
    "text as index": (lambda: A["x"], "integers for an index"),
    "a step of 0": (lambda: A[::0], "cannot be 0"),
    "rows as text": (lambda: A.take("12"), "numbers of rows"),
    "rows as floats": (lambda: A.take([0.5]), "integers for rows"),  # pyright: ignore[reportArgumentType]
    "a matrix of rows": (lambda: A.take(np.eye(2, dtype=int)), "numbers of rows"),
    "rows without end": (lambda: A.take(iter(int, 1)), "at most"),
    "negative rows": (lambda: A.take([0, -1]), r"got -1 at place 1 \(1 of 2 rows"),
    "rows of a row map": (
        lambda: A.take(np.array([2, -1, 0, -1])),
        "-1 is a row that is not there",
    ),
    "negative rows in a small dtype": (lambda: A.take(np.array([-3], "i1")), "got -3"),
    "negative rows from JAX": (lambda: A.take(jnp.array([0, -1])), "got -1 at place 1"),
    "a range from the end": (lambda: A.take(range(-2, 0)), "2 of 2 rows are negative"),
    "negative rows from an iterator": (lambda: A.take(iter([1, -1])), "got -1"),
    "negative rows in a stack": (
        lambda: stack(A.take([0]), src("b").take([-1])),
        "got -1 at place 0",
    ),
    "negative rows in a concat": (lambda: concat("a", A.take([-2])), "got -2"),
    "negative rows of rows": (lambda: A.take([1, 0]).take([-1]), "got -1"),
    "an array of floats": (lambda: A.take(np.array([0.0, 1.0])), "array of float64"),
    "an array of truths": (lambda: A.take(np.array([True])), "array of bool"),
    "truths as rows": (lambda: A.take([True, False]), "integers for rows"),
    "a scalar array": (lambda: A.take(np.array(0)), r"shape \[\]"),
    "an array of objects": (lambda: A.take(np.array([0, None])), "array of object"),
    "masked rows": (
        lambda: A.take(np.ma.array([0, 1], mask=[False, True])),
        "of masked",
    ),
    "no numbers of rows": (lambda: A.take(None), "numbers of rows"),  # pyright: ignore[reportArgumentType]
    "one row": (lambda: A.take(3), "numbers of rows, got 3"),  # pyright: ignore[reportArgumentType]
    "rows of nothing": (lambda: A.take([0, None]), "integers for rows"),  # pyright: ignore[reportArgumentType]
    "rows of rows": (lambda: A.take([[0], [1]]), "integers for rows"),  # pyright: ignore[reportArgumentType]
    "no dtype": (lambda: A.cast("exact"), "expected a dtype"),
    "a dtype of text": (lambda: A.cast("U3"), "dtype of numbers"),
    "nothing to join": (lambda: concat(), "got none"),
    "a list to join": (lambda: stack(["a", "b"]), "one by one"),  # pyright: ignore[reportArgumentType]
    "over two": (lambda: stack("a_{i}", "b_{i}", over="i"), "one source, got 2"),
    "over no name": (lambda: stack("a_{i}", over="{i}"), "name of a capture"),
}


def test_rows_of_a_traced_array_are_refused() -> None:
    def taken(rows: jax.Array) -> None:
        with pytest.raises(tf2flax.AssignmentError, match="numbers of rows"):
            A.take(rows)

    jax.eval_shape(taken, jax.ShapeDtypeStruct((2,), "int32"))


@pytest.mark.parametrize(
    "rows",
    [np.array([3, 1], dtype) for dtype in ("i1", "u1", ">i2", "<u4", ">i8", "u8")]
    + [jnp.array([3, 1]), [np.int8(3), np.uint64(1)], iter((3, 1)), range(3, 0, -2)],
)
def test_rows_may_be_any_integers(rows: Any) -> None:
    assert A.take(rows) == A.take([3, 1])
    assert A.take(np.array([], "i4")) == A.take([])


def test_negative_numbers_in_an_index_count_from_the_end_as_in_numpy() -> None:
    specs = {"a": TensorSpec((4, 3), INT32)}.__getitem__
    assert lower(A[-1], specs) == lower(A[3], specs)
    assert lower(A[-3:-1, -1], specs) == lower(A[1:3, 2], specs)


@pytest.mark.parametrize("name", list(WRONG))
def test_wrong_expressions_are_refused_when_they_are_made(name: str) -> None:
    make, message = WRONG[name]
    with pytest.raises(tf2flax.AssignmentError, match=message):
        make()


def test_depth_and_size_are_bounded() -> None:
    deep, wide = A, A
    for _ in range(99):
        deep = deep[0]
    for _ in range(12):
        wide = concat(wide, wide)
    with pytest.raises(tf2flax.AssignmentError, match="at most 100 operations"):
        _ = deep[0]
    with pytest.raises(tf2flax.AssignmentError, match="10000 in all"):
        concat(wide, wide)


def test_an_expression_is_no_sequence() -> None:
    with pytest.raises(TypeError):
        list(A)  # pyright: ignore[reportArgumentType]


# Expression and shapes of its tensors -> what is wrong with them together.
MISFITS: dict[str, tuple[Expression, dict[str, tuple[int, ...]], str]] = {
    "axes": (A.transpose(1, 0), {"a": (2,)}, r"shape \[2\], 1 axes"),
    "axes twice": (
        A.transpose(1, 0).transpose(1, 0),
        {"a": (2, 3, 4)},
        "4], 3 axes",
    ),
    "axes after a reversal": (
        A.transpose().transpose(1, 0),
        {"a": (2, 3, 4)},
        "4], 3 axes",
    ),
    "size": (A.reshape(2, 3), {"a": (5,)}, "5 elements"),
    "remainder": (A.reshape(2, -1), {"a": (5,)}, "5 elements"),
    "pattern": (A.rearrange("a b -> b a"), {"a": (2,)}, "has 1 axes"),
    "split": (A.rearrange("(a b) -> a b", a=2), {"a": (5,)}, "5 elements"),
    "unsized": (A.rearrange("(a b) -> a b"), {"a": (6,)}, "size of `a` or `b`"),
    "unit": (A.rearrange("1 a -> a"), {"a": (2, 3)}, "axis of 1"),
    "index": (A[3], {"a": (3,)}, "3 is out of bounds of an axis of 3"),
    "indices": (A[0, 0], {"a": (3,)}, r"\[0, 0\]: .*1 axes"),
    "rows": (A.take([5]), {"a": (5, 2)}, "row 5 is out of bounds of 5"),
    "rows of a scalar": (A.take([0]), {"a": ()}, "scalar"),
    "joined axis": (concat("a", "b", axis=1), {"a": (2,), "b": (2,)}, "axis 1"),
    "joined shapes": (concat("a", "b"), {"a": (2, 3), "b": (2, 4)}, "all axes but 0"),
    "stacked shapes": (stack("a", "b"), {"a": (2,), "b": (3,)}, "the same shape"),
    "ranks": (concat("a", "b"), {"a": (2,), "b": (2, 1)}, "the same shape"),
    "dtypes": (stack("a", src("b").cast("f4")), {"a": (), "b": ()}, "one dtype"),
    "too many axes": (A[(None,) * 65], {"a": ()}, "64 axes"),
}


@pytest.mark.parametrize("name", list(MISFITS))
def test_shapes_that_do_not_fit_are_refused(name: str) -> None:
    expression, shapes, message = MISFITS[name]
    specs = {key: TensorSpec(shape, INT32) for key, shape in shapes.items()}
    with pytest.raises(tf2flax.AssignmentError, match=message):
        lower(expression, specs.__getitem__)


def evaluate(
    expression: Expression, arrays: dict[str, np.ndarray], box: Box
) -> np.ndarray:
    """Fills a box of an expression, from tensors in memory."""
    specs = {name: TensorSpec(a.shape, INT32) for name, a in arrays.items()}
    layout = lower(expression, specs.__getitem__)

    def fetch(view: StridedView, out: np.ndarray) -> None:
        assert view.shape == out.shape
        array = arrays[view.source]
        out[...] = strided(array, view.offset, view.shape, view.strides)

    out = np.full(box.shape, -7, layout.dtype)
    fill_array(layout, box, out, fetch)
    return out


@settings(max_examples=400)
@given(st.data())
def test_any_box_agrees_with_numpy(data: st.DataObject) -> None:
    arrays = data.draw(tensors())
    case = data.draw(cases(arrays))
    spans = [
        sorted(data.draw(st.tuples(*[st.integers(0, dim)] * 2)))
        for dim in case.value.shape
    ]
    box = Box(tuple(a for a, _ in spans), tuple(b for _, b in spans))
    wanted = case.value[tuple(slice(*span) for span in spans)]
    got = evaluate(case.expression, arrays, box)
    assert got.dtype == wanted.dtype
    assert np.array_equal(got, wanted)
    assert parse_expression(repr(case.expression)) == case.expression


@settings(max_examples=300)
@given(st.data())
def test_exact_parts_need_their_own_elements_alone(data: st.DataObject) -> None:
    arrays = data.draw(tensors())
    case = data.draw(cases(arrays, is_bijective=True))
    specs = {name: TensorSpec(a.shape, INT32) for name, a in arrays.items()}
    layout = lower(case.expression, specs.__getitem__)
    spans = [
        sorted(data.draw(st.tuples(*[st.integers(0, dim)] * 2)))
        for dim in case.value.shape
    ]
    box = Box(tuple(a for a, _ in spans), tuple(b for _, b in spans))
    needed = sum(needed_elements(list(views_in_box(layout, box))).values())
    assert needed >= box.size
    if is_exact(layout):
        assert needed == box.size


# What attention layers are made of is exact; what mixes axes is not.
EXACT: dict[str, tuple[Expression, bool]] = {
    "heads": (src("q").rearrange("d (h k) -> d h k", h=4), True),
    "heads in front": (src("q").rearrange("d (h k) -> h k d", h=4), True),
    "heads merged": (src("q").rearrange("(h k) d -> (k h) d", h=4), True),
    "joined and split": (
        concat("q", "k", "v", axis=1).rearrange("d (p h k) -> p d h k", p=3, h=4),
        True,
    ),
    "stacked": (stack("q", "k").transpose(1, 0, 2), True),
    "merged after a transpose": (src("q").transpose().reshape(-1), True),
    "rows in steps": (src("q").take(range(0, 32, 4)), True),
    "neither split nor merge": (src("q").transpose().reshape(16, 64)[3], False),
    "scattered rows": (src("q").take([i * i % 31 for i in range(200)]), False),
}


@pytest.mark.parametrize("name", list(EXACT))
def test_what_is_exact(name: str) -> None:
    expression, expected = EXACT[name]
    layout = lower(expression, lambda _: TensorSpec((32, 32), FLOAT32))
    assert is_exact(layout) == expected


def test_strings_are_never_mixed(tmp_path: Any) -> None:
    strings = {"s": np.array([b"a"], object), "x": np.ones(1, "f4")}
    prefix = tf2flax.save_checkpoint(tmp_path / "m", strings)
    for key in (src("s"), src("s").cast("f4"), concat("x", src("s").cast("f4"))):
        with pytest.raises(tf2flax.AssignmentError, match="string"):
            tf2flax.plan(prefix, {key: "x"}, {"x": np.zeros(1, "f4")})


@pytest.mark.parametrize("name", ["self", "pattern", "cls", "sizes"])
def test_axes_have_any_name(name: str) -> None:
    text = f"({name} b) c -> b {name} c"
    expression = A.rearrange(text, **{name: 3})
    assert str(expression) == f'src("a").rearrange("{text}", {name}=3)'
    assert parse_expression(str(expression)) == expression
    assert A.rearrange(pattern="a b -> b a") == A.rearrange("a b -> b a")
    for wrong in ((), ("",), (None,), (3,)):
        with pytest.raises(tf2flax.AssignmentError, match="rearrange"):
            A.rearrange(*wrong)  # pyright: ignore[reportArgumentType, reportCallIssue]
