"""Expressions -> layouts: shapes, dtypes and places of all elements, by specs alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from types import EllipsisType

import numpy as np

from tf2flax._assignment.language import expressions as ex
from tf2flax._assignment.language import nodes
from tf2flax._assignment.language.captures import parse_name
from tf2flax._assignment.language.literals import IndexItem, Slice, write_index
from tf2flax._assignment.language.rearranging import steps_for
from tf2flax._base.dtypes import forced_cast, kind_of
from tf2flax._base.errors import AssignmentError
from tf2flax._base.values import TensorSpec

from .nodes import CombinedLayout, Layout, whole_view
from .operations import (
    MAX_RANK,
    add_axis,
    cast_layout,
    join_layouts,
    pad_layout,
    slice_layout,
    step_layout,
    take_rows,
    transpose_layout,
)
from .reshaping import reshape_layout
from .steps import NumberStep, check_arithmetic, element_of, number_step


def lower(expression: ex.Expression, spec_of: Callable[[str], TensorSpec]) -> Layout:
    """Finds out where every element of an expression lies.

    Args:
        expression: The expression, without captures.
        spec_of: Gives shape and dtype of a tensor.

    Returns:
        The layout, with its shape and dtype.

    Raises:
        AssignmentError: Shapes or dtypes do not fit the operations.
    """
    match expression:
        case ex.Source():
            name = parse_name(expression.pattern).literal
            return whole_view(name, spec_of(name))
        case ex.Joined():
            operands = [lower(operand, spec_of) for operand in expression.operands]
            return _lower_joined(operands, expression)
        case nodes.Transposed():
            node = lower(expression.operand, spec_of)
            return _lower_transposed(node, expression.axes)
        case nodes.Reshaped():
            node = lower(expression.operand, spec_of)
            return _lower_reshaped(node, expression.shape)
        case ex.Rearranged():
            # As einops does it: split every axis, permute, merge.
            node = lower(expression.operand, spec_of)
            steps = steps_for(expression.pattern, node.shape)
            node = reshape_layout(node, steps.split)
            return reshape_layout(transpose_layout(node, steps.axes), steps.merged)
        case nodes.Sliced():
            return _lower_sliced(lower(expression.operand, spec_of), expression.index)
        case nodes.TakenRows():
            return _lower_rows(lower(expression.operand, spec_of), expression)
        case nodes.Padded():
            return _lower_padded(lower(expression.operand, spec_of), expression)
        case nodes.Cast():
            return cast_layout(lower(expression.operand, spec_of), expression.dtype)
        case nodes.Negated() | nodes.WithNumber():
            node = lower(expression.operand, spec_of)
            return step_layout(node, number_step_of(expression, node.dtype))
        case nodes.Combined():
            left = lower(expression.left, spec_of)
            right = lower(expression.right, spec_of)
            return _lower_combined(expression.operator, left, right)
        case _:
            raise AssertionError(type(expression))


def _lower_transposed(node: Layout, axes: tuple[int, ...] | None) -> Layout:
    rank = len(node.shape)
    if axes is None:
        return transpose_layout(node, tuple(reversed(range(rank))))
    if len(axes) != rank:
        raise AssignmentError(
            f"transpose{axes}: the operand has shape {list(node.shape)}, {rank} axes."
        )
    return transpose_layout(node, tuple(axis % rank for axis in axes))


def _lower_reshaped(node: Layout, shape: tuple[int, ...]) -> Layout:
    resolved = _resolve_shape(shape, math.prod(node.shape))
    if resolved is None:
        raise AssignmentError(
            f"reshape{shape}: the operand has shape {list(node.shape)}, "
            f"{math.prod(node.shape)} elements."
        )
    if len(resolved) > MAX_RANK:
        raise AssignmentError(f"reshape: expected at most {MAX_RANK} axes.")
    return reshape_layout(node, resolved)


def _resolve_shape(shape: tuple[int, ...], size: int) -> tuple[int, ...] | None:
    """Puts the length that is implied in place of -1; None if none fits."""
    if -1 in shape:
        # The product of the lengths that are given; with a 0 among them, as in NumPy,
        # any length would do, so that none is implied.
        given = math.prod(length for length in shape if length != -1)
        if not given or size % given:
            return None
        return tuple(size // given if length == -1 else length for length in shape)
    return shape if math.prod(shape) == size else None


def _lower_sliced(node: Layout, index: tuple[IndexItem, ...]) -> Layout:
    """Resolves an index against a shape, as NumPy does."""
    items: list[int | tuple[int, int, int] | None] = []
    lengths = iter(node.shape)
    for item in without_ellipsis(index, node.shape):
        if item is None:
            items.append(None)
        elif isinstance(item, tuple):
            # Bounds outside the axis are cut off, negative ones count from its end.
            steps = range(*slice(*item).indices(next(lengths)))
            items.append((steps.start, steps.step, len(steps)))
        else:
            length = next(lengths)
            if not -length <= item < length:
                raise AssignmentError(
                    f"{write_index(index)}: {item} is out of bounds of an axis of "
                    f"{length} elements, in shape {list(node.shape)}."
                )
            items.append(item % length)
    return slice_layout(node, items)


def without_ellipsis(
    index: tuple[IndexItem, ...], shape: Sequence[int]
) -> list[int | Slice | None]:
    """Writes an index with whole slices for the axes that it leaves out.

    In a shape of 4 axes, [0, ..., None, 1:] is [0, :, :, None, 1:].

    Raises:
        AssignmentError: The index has more items than the shape has axes.
    """
    consumed = sum(item is not None and item is not ... for item in index)
    if consumed > len(shape) or index.count(...) > 1:
        raise AssignmentError(
            f"{write_index(index)}: the operand has shape {list(shape)}, "
            f"{len(shape)} axes."
        )
    # Without dots, the axes that are left out are the last ones.
    if ... not in index:
        index = (*index, ...)
    items: list[int | Slice | None] = []
    for item in index:
        if isinstance(item, EllipsisType):
            items += [(None, None, None)] * (len(shape) - consumed)
        else:
            items.append(item)
    return items


def _lower_rows(node: Layout, expression: nodes.TakenRows) -> Layout:
    if not node.shape:
        raise AssignmentError("take: the operand is a scalar and has no rows.")
    rank = len(node.shape)
    if not -rank <= expression.axis < rank:
        raise AssignmentError(
            f"take: axis {expression.axis} is out of bounds of shape "
            f"{list(node.shape)}."
        )
    axis, rows = expression.axis % rank, expression.numbers
    count = node.shape[axis]
    if outside := [row for row in rows if row >= count]:
        raise AssignmentError(
            f"take: row {outside[0]} is out of bounds of {count} rows."
        )
    # Rows that a vocabulary gives; others were checked when they were written.
    if expression.fill is None and -1 in rows:
        raise AssignmentError(
            f"take: {rows.count(-1)} of {len(rows)} rows are not in the old "
            f"vocabulary, the first is row {rows.index(-1)}. Say what they hold with "
            "fill=."
        )
    fill = fill_of("take", expression.fill, node.dtype)
    return take_rows(node, rows, axis, fill)


def _lower_padded(node: Layout, expression: nodes.Padded) -> Layout:
    widths = expression.widths
    if len(widths) != len(node.shape):
        raise AssignmentError(
            f"pad{widths}: the operand has shape {list(node.shape)}, "
            f"{len(node.shape)} axes."
        )
    return pad_layout(node, widths, fill_of("pad", expression.fill, node.dtype))


def fill_of(verb: str, fill: nodes.Fill | None, dtype: np.dtype) -> bytes:
    """An element of what fills places, as bytes.

    Args:
        verb: The operation, for messages.
        fill: What it is given; elements that a leaf keeps are 1 until then, which
            every dtype holds.
        dtype: Dtype of the operand.

    Raises:
        AssignmentError: The dtype does not hold it.
    """
    if fill is None:
        return b""
    if kind_of(dtype) is None:
        raise AssignmentError(f"{verb}: the operand holds no numbers.")
    if fill == "keep":
        return forced_cast(np.ones(()), dtype).tobytes()
    return element_of(fill, dtype, verb).tobytes()


def number_step_of(
    expression: nodes.Negated | nodes.WithNumber, dtype: np.dtype
) -> NumberStep:
    """The step that an operation with a number is, for elements of a dtype.

    Raises:
        AssignmentError: The dtype does not hold the number.
    """
    if isinstance(expression, nodes.Negated):
        return number_step("neg", None, dtype)
    return number_step(
        expression.operator,
        expression.number,
        dtype,
        is_number_first=expression.is_number_first,
    )


def _lower_combined(sign: str, left: Layout, right: Layout) -> Layout:
    for what, a, b in (
        ("shape", list(left.shape), list(right.shape)),
        ("dtype", left.dtype.name, right.dtype.name),
    ):
        if a != b:
            way_out = (
                "Tensors are never broadcast."
                if what == "shape"
                else "Cast them to one with .cast(dtype)."
            )
            raise AssignmentError(
                f"{sign}: expected the same {what}, got {a} and {b}. {way_out}"
            )
    check_arithmetic(sign, left.dtype)
    return CombinedLayout(sign, left, right)


def _lower_joined(operands: list[Layout], expression: ex.Joined) -> Layout:
    """Joins layouts, after checks that NumPy would make when the arrays are there."""
    verb, is_stack = expression.verb, expression.is_stack
    distinct = dict.fromkeys(node.shape for node in operands)
    shapes = " and ".join(str(list(shape)) for shape in distinct)
    rank = len(operands[0].shape) + is_stack
    if not -rank <= expression.axis < rank:
        raise AssignmentError(
            f"{verb}: axis {expression.axis} is out of bounds of shape {shapes}."
        )
    axis = expression.axis % rank
    if is_stack:
        fixed, where = set(distinct), ""
    else:
        # Lengths may differ along the axis alone. The number of axes is compared as
        # well, since shapes of other ranks can be alike without that axis.
        fixed = {(len(shape), *shape[:axis], *shape[axis + 1 :]) for shape in distinct}
        where = f" along all axes but {axis}"
    if len(fixed) > 1:
        raise AssignmentError(f"{verb}: expected the same shape{where}, got {shapes}.")
    dtypes = dict.fromkeys(node.dtype for node in operands)
    if len(dtypes) > 1:
        names = " and ".join(dtype.name for dtype in dtypes)
        raise AssignmentError(
            f"{verb}: expected one dtype, got {names}. "
            "Cast them to one with .cast(dtype)."
        )
    if is_stack:
        operands = [add_axis(node, axis) for node in operands]
    return join_layouts(operands, axis)


def operand_indices(
    expression: ex.Joined, rank: int, spec_of: Callable[[str], TensorSpec]
) -> list[tuple[int | slice, ...]]:
    """Finds where the operands of a join lie in it.

    With operands of shape (4, 3) and (4, 2), or twice (4, 3):

        concat(a, b, axis=1)    a a a b b     a is [:, 0:3], b is [:, 3:5]
        stack(a, b, axis=1)     a a a
                                b b b         a is [:, 0], b is [:, 1]

    Args:
        expression: The join, whose shapes are known to fit.
        rank: Number of its axes.
        spec_of: Gives shape and dtype of a tensor.

    Returns:
        NumPy's index of each operand.
    """
    axis = expression.axis % rank
    before = (slice(None),) * axis
    if expression.is_stack:
        return [(*before, i) for i in range(len(expression.operands))]
    lengths = [lower(node, spec_of).shape[axis] for node in expression.operands]
    stops = itertools.accumulate(lengths)
    return [
        (*before, slice(stop - length, stop))
        for stop, length in zip(stops, lengths, strict=True)
    ]
