"""Expressions -> layouts: shapes, dtypes and places of all elements, by specs alone."""

from __future__ import annotations

import math
from collections.abc import Callable

from tf2flax._assignment.language import expressions as ex
from tf2flax._assignment.language.arguments import IndexItem
from tf2flax._assignment.language.captures import parse_name
from tf2flax._assignment.language.rearranging import steps_for
from tf2flax._base.errors import AssignmentError
from tf2flax._base.values import TensorSpec

from .nodes import (
    MAX_RANK,
    Layout,
    cast,
    cut,
    expand,
    take,
    tiles_along,
    transpose,
    whole_view,
)
from .reshaping import reshape


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
            operands = [lower(one, spec_of) for one in expression.operands]
            return _join(operands, expression)
        case ex.Transposed():
            return _transposed(lower(expression.operand, spec_of), expression.axes)
        case ex.Reshaped():
            return _reshaped(lower(expression.operand, spec_of), expression.shape)
        case ex.Rearranged():
            node = lower(expression.operand, spec_of)
            steps = steps_for(expression.pattern, node.shape)
            node = reshape(node, steps.split)
            return reshape(transpose(node, steps.axes), steps.merged)
        case ex.Sliced():
            return _indexed(lower(expression.operand, spec_of), expression.index)
        case ex.Rows():
            return _taken(lower(expression.operand, spec_of), expression.rows)
        case ex.Cast():
            return cast(lower(expression.operand, spec_of), expression.dtype)
        case _:
            raise AssertionError(type(expression))


def _transposed(node: Layout, axes: tuple[int, ...] | None) -> Layout:
    rank = len(node.shape)
    if axes is None:
        return transpose(node, tuple(reversed(range(rank))))
    if len(axes) != rank:
        raise AssignmentError(
            f"transpose{axes}: the operand has shape {list(node.shape)}, {rank} axes."
        )
    return transpose(node, tuple(axis % rank for axis in axes))


def _reshaped(node: Layout, shape: tuple[int, ...]) -> Layout:
    size, rest = math.prod(node.shape), math.prod(dim for dim in shape if dim != -1)
    if -1 in shape and rest and size % rest == 0:
        shape = tuple(size // rest if dim == -1 else dim for dim in shape)
    if -1 in shape or math.prod(shape) != size:
        raise AssignmentError(
            f"reshape{shape}: the operand has shape {list(node.shape)}, "
            f"{size} elements."
        )
    if len(shape) > MAX_RANK:
        raise AssignmentError(f"reshape: expected at most {MAX_RANK} axes.")
    return reshape(node, shape)


def _indexed(node: Layout, index: tuple[IndexItem, ...]) -> Layout:
    """Resolves an index against a shape, as NumPy does."""
    rank, shown = len(node.shape), ex.Sliced(ex.Source("?"), index)
    consumed = sum(item is not None and item is not ... for item in index)
    if consumed > rank or index.count(...) > 1:
        raise AssignmentError(
            f"{str(shown)[8:]}: the operand has shape {list(node.shape)}, {rank} axes."
        )
    where = index.index(...) if ... in index else len(index)
    fill: list[IndexItem] = [(None, None, None)] * (rank - consumed)
    full = [*index[:where], *fill, *index[where + 1 :]]
    items: list[int | tuple[int, int, int] | None] = []
    dims = iter(node.shape)
    for item in full:
        if item is None:
            items.append(None)
        elif isinstance(item, tuple):
            found = range(*slice(*item).indices(next(dims)))
            items.append((found.start, found.step, len(found)))
        else:
            assert isinstance(item, int)
            dim = next(dims)
            if not -dim <= item < dim:
                raise AssignmentError(
                    f"{str(shown)[8:]}: {item} is out of bounds of an axis of {dim} "
                    f"elements, in shape {list(node.shape)}."
                )
            items.append(item % dim)
    return cut(node, items)


def _taken(node: Layout, rows: tuple[int, ...]) -> Layout:
    if not node.shape:
        raise AssignmentError("take: the operand is a scalar and has no rows.")
    dim = node.shape[0]
    if bad := [row for row in rows if row >= dim]:
        raise AssignmentError(f"take: row {bad[0]} is out of bounds of {dim} rows.")
    return take(node, rows)


def _join(operands: list[Layout], expression: ex.Joined) -> Layout:
    rank = len(operands[0].shape) + expression.is_stack
    axis = expression.axis
    shapes = " and ".join(dict.fromkeys(str(list(one.shape)) for one in operands))
    if not -rank <= axis < rank:
        raise AssignmentError(
            f"{expression.verb}: axis {axis} is out of bounds of shape {shapes}."
        )
    axis %= rank
    others = {
        one.shape if expression.is_stack else one.shape[:axis] + one.shape[axis + 1 :]
        for one in operands
        if len(one.shape) == len(operands[0].shape)
    }
    if len(others) != 1 or len({len(one.shape) for one in operands}) != 1:
        where = "" if expression.is_stack else f" along all axes but {axis}"
        raise AssignmentError(
            f"{expression.verb}: expected the same shape{where}, got {shapes}."
        )
    dtypes = dict.fromkeys(one.dtype.name for one in operands)
    if len(dtypes) > 1:
        raise AssignmentError(
            f"{expression.verb}: expected one dtype, got {' and '.join(dtypes)}. "
            "Cast them to one with .cast(dtype)."
        )
    if expression.is_stack:
        operands = [expand(one, axis) for one in operands]
    return tiles_along(operands, axis)
