"""Expressions -> layouts: shapes, dtypes and places of all elements, by specs alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from types import EllipsisType

from tf2flax._assignment.language import expressions as ex
from tf2flax._assignment.language.captures import parse_name
from tf2flax._assignment.language.literals import IndexItem, Slice, write_index
from tf2flax._assignment.language.rearranging import steps_for
from tf2flax._base.errors import AssignmentError
from tf2flax._base.values import TensorSpec

from .nodes import Layout, whole_view
from .operations import (
    MAX_RANK,
    add_axis,
    cast_layout,
    join_layouts,
    slice_layout,
    take_rows,
    transpose_layout,
)
from .reshaping import reshape_layout


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
        case ex.Transposed():
            node = lower(expression.operand, spec_of)
            return _lower_transposed(node, expression.axes)
        case ex.Reshaped():
            node = lower(expression.operand, spec_of)
            return _lower_reshaped(node, expression.shape)
        case ex.Rearranged():
            # As einops does it: split every axis, permute, merge.
            node = lower(expression.operand, spec_of)
            steps = steps_for(expression.pattern, node.shape)
            node = reshape_layout(node, steps.split)
            return reshape_layout(transpose_layout(node, steps.axes), steps.merged)
        case ex.Sliced():
            return _lower_sliced(lower(expression.operand, spec_of), expression.index)
        case ex.Rows():
            return _lower_rows(lower(expression.operand, spec_of), expression.rows)
        case ex.Cast():
            return cast_layout(lower(expression.operand, spec_of), expression.dtype)
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


def _lower_rows(node: Layout, rows: tuple[int, ...]) -> Layout:
    if not node.shape:
        raise AssignmentError("take: the operand is a scalar and has no rows.")
    count = node.shape[0]
    if outside := [row for row in rows if row >= count]:
        raise AssignmentError(
            f"take: row {outside[0]} is out of bounds of {count} rows."
        )
    return take_rows(node, rows)


def _lower_joined(operands: list[Layout], expression: ex.Joined) -> Layout:
    """Joins layouts, after checks that NumPy would make when the arrays are there."""
    verb, is_stack = expression.verb, expression.is_stack
    shapes = " and ".join(dict.fromkeys(str(list(node.shape)) for node in operands))
    rank = len(operands[0].shape) + is_stack
    if not -rank <= expression.axis < rank:
        raise AssignmentError(
            f"{verb}: axis {expression.axis} is out of bounds of shape {shapes}."
        )
    axis = expression.axis % rank
    if is_stack:
        fixed, where = {node.shape for node in operands}, ""
    else:
        # Lengths may differ along the axis alone. The number of axes is compared as
        # well, since shapes of other ranks can be alike without that axis.
        fixed = {
            (len(node.shape), *node.shape[:axis], *node.shape[axis + 1 :])
            for node in operands
        }
        where = f" along all axes but {axis}"
    if len(fixed) > 1:
        raise AssignmentError(f"{verb}: expected the same shape{where}, got {shapes}.")
    dtypes = dict.fromkeys(node.dtype.name for node in operands)
    if len(dtypes) > 1:
        raise AssignmentError(
            f"{verb}: expected one dtype, got {' and '.join(dtypes)}. "
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
