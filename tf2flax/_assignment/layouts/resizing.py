"""Expressions backwards for leaves of another shape than the checkpoint gives them.

Only where the new shape of the tensor follows from that of the leaf: whatever an
expression cuts, splits or joins must have the extent that it had.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tf2flax._assignment.language import expressions as ex
from tf2flax._assignment.language.captures import parse_name
from tf2flax._assignment.language.rearranging import shape_before
from tf2flax._base.errors import AssignmentError
from tf2flax._base.memory import view_at
from tf2flax._base.values import TensorSpec

from .lowering import lower
from .shapes import axis_groups

SpecOf = Callable[[str], TensorSpec]
Shape = tuple[int, ...]
# What a tensor is, in terms of the leaf, and its shape.
Resized = tuple[ex.Expression, Shape]


def resized(
    expression: ex.Expression, shape: Shape, leaf: ex.Expression, spec_of: SpecOf
) -> dict[str, Resized]:
    """Writes what each tensor of an expression is, for a leaf of another shape.

    Args:
        expression: The expression, without captures; its shape is not the leaf's.
        shape: Shape of the leaf.
        leaf: What stands for its value.
        spec_of: Gives shape and dtype of a tensor, as the checkpoint has it.

    Returns:
        By tensor: an expression of transposes, reshapes, indices and rows, and its new
        shape.

    Raises:
        AssignmentError: The shape of a tensor does not follow from that of the leaf.
    """
    result: dict[str, Resized] = {}

    def walk(node: ex.Expression, value: ex.Expression, shape: Shape) -> None:
        if isinstance(node, ex.Source):
            name = parse_name(node.pattern).literal
            if name in result:
                raise AssignmentError(f"`{name}` stands in it several times.")
            result[name] = value, shape
        elif isinstance(node, ex.Joined):
            joints = _joints(node, shape, spec_of)
            for operand, (item, below) in zip(node.operands, joints, strict=True):
                walk(operand, value[item], below)
        else:
            (operand,) = node.children
            new, below = _undone(node, value, shape, spec_of)
            walk(operand, new, below)

    walk(expression, leaf, shape)
    return result


def evaluated(expression: ex.Expression, array: np.ndarray) -> np.ndarray:
    """Does with an array what an expression of `resized` says.

    Args:
        expression: The expression.
        array: What its source stands for.

    Returns:
        The result.
    """
    if isinstance(expression, ex.Source):
        return array
    (operand,) = expression.children
    array = evaluated(operand, array)
    match expression:
        case ex.Transposed():
            return array.transpose(expression.axes)
        case ex.Reshaped():
            return array.reshape(expression.shape)
        case ex.Sliced():
            return view_at(array, expression.numpy_index)
        case ex.Rows():
            return array[np.array(expression.rows, np.int64)]
        case _:
            raise AssertionError(type(expression))


def _undone(
    node: ex.Expression, value: ex.Expression, shape: Shape, spec_of: SpecOf
) -> Resized:
    """One operation backwards: the operand's value, and its new shape."""
    (operand,) = node.children
    if isinstance(node, ex.Cast):
        return value, shape
    old, below = lower(node, spec_of).shape, lower(operand, spec_of).shape
    if len(shape) != len(old):
        raise AssignmentError(
            f"it gives {len(old)} axes, and the leaf has {len(shape)}."
        )
    match node:
        case ex.Transposed():
            axes = node.axes or tuple(reversed(range(len(old))))
            back = _inverse_order([axis % len(old) for axis in axes])
            return value.transpose(back), tuple(shape[axis] for axis in back)
        case ex.Reshaped():
            new = _regrouped(below, old, shape)
            return value.reshape(new), new
        case ex.Rearranged():
            steps, new = shape_before(node.pattern, below, shape)
            between = tuple(steps.split[axis] for axis in steps.axes)
            back = _inverse_order(steps.axes)
            return value.reshape(between).transpose(back).reshape(new), new
        case ex.Sliced():
            return _unindexed(node, value, below, shape)
        case ex.Rows():
            rows = [row % below[0] for row in node.rows]
            if len(rows) != shape[0] or sorted(rows) != list(range(below[0])):
                raise AssignmentError(
                    f"take picks {len(rows)} of {below[0]} rows, and the leaf has "
                    f"{shape[0]}."
                )
            return value.take(np.argsort(rows)), shape
        case _:
            raise AssertionError(type(node))


def _inverse_order(axes: Sequence[int]) -> list[int]:
    """Where each axis stands in a permutation."""
    return [axes.index(axis) for axis in range(len(axes))]


def _regrouped(below: Shape, old: Shape, shape: Shape) -> Shape:
    """The shape that a reshape from `below` to `old` turns into another one.

    Axes are taken in groups of as many elements. In each either nothing has changed, or
    there is one axis below, which takes all of them.
    """
    if shape == old:
        return below
    problem = AssignmentError(
        f"reshape makes {list(old)} of {list(below)}, and what would become "
        f"{list(shape)} is not clear."
    )
    if 0 in old:
        raise problem
    result: list[int] = []
    for before, after in axis_groups(below, old):
        dims = [below[axis] for axis in before]
        new = [shape[axis] for axis in after]
        if new != [old[axis] for axis in after]:
            long = [i for i, dim in enumerate(dims) if dim != 1]
            if len(dims) != 1 and len(long) != 1:
                raise problem
            dims[long[0] if long else 0] = math.prod(new)
        result += dims
    return tuple(result)


def _unindexed(
    node: ex.Sliced, value: ex.Expression, below: Shape, shape: Shape
) -> Resized:
    """An index backwards, where it cuts nothing off."""
    index = list(node.index)
    if ... not in index:
        index.append(...)
    where = index.index(...)
    consumed = sum(item is not None and item is not ... for item in index)
    full: list[Any] = [(None, None, None)] * (len(below) - consumed)
    old, new = iter(below), iter(shape)
    result: list[int] = []
    back: list[Any] = []
    items: list[Any] = [*index[:where], *full, *index[where + 1 :]]
    for item in items:
        if item is None:
            back.append(0)
            is_lost = next(new) != 1
        elif not isinstance(item, int):
            dim, extent = next(old), next(new)
            is_plain = item in ((None, None, None), (None, None, -1))
            rows = range(dim)[slice(*item)]
            is_lost = len(rows) != dim or (extent != dim and not is_plain)
            back.append(slice(None, None, -1 if rows.step < 0 else None))
            result.append(extent)
        else:
            back.append(None)
            is_lost = next(old) != 1
            result.append(1)
        if is_lost:
            raise AssignmentError(
                f"it cuts {list(shape)} out of a tensor of which more is not known."
            )
    return value[tuple(back)], tuple(result)


def _joints(
    node: ex.Joined, shape: Shape, spec_of: SpecOf
) -> list[tuple[tuple[int | slice, ...], Shape]]:
    """Where the operands of a join lie in it, and their new shapes."""
    old = lower(node, spec_of).shape
    axis = node.axis % len(old)
    if len(shape) != len(old) or shape[axis] != old[axis]:
        raise AssignmentError(
            f"{node.verb} makes {list(old)}, and how {list(shape)} falls into its "
            f"{len(node.operands)} parts is not clear."
        )
    before, left, right = (slice(None),) * axis, shape[:axis], shape[axis + 1 :]
    if node.is_stack:
        return [((*before, i), (*left, *right)) for i in range(len(node.operands))]
    items: list[tuple[tuple[int | slice, ...], Shape]] = []
    start = 0
    for operand in node.operands:
        stop = start + lower(operand, spec_of).shape[axis]
        items.append(((*before, slice(start, stop)), (*left, stop - start, *right)))
        start = stop
    return items
