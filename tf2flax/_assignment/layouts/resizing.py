"""Expressions backwards for leaves of another shape than the checkpoint gives them.

    src("w").reshape(2, -1).transpose()      tensor (4, 6) -> leaf (12, 2)

    A new leaf (10, 2) is (2, 10) before the transpose. Which tensor becomes (2, 10) is
    not clear, (4, 5) or (2, 10) or another one: it is refused.

This works only where the new shape of the tensor follows from that of the leaf: axes
that an expression cuts, splits or joins must keep their lengths.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from tf2flax._assignment.language import expressions as ex
from tf2flax._assignment.language import nodes
from tf2flax._assignment.language.captures import parse_name
from tf2flax._assignment.language.rearranging import shape_before
from tf2flax._assignment.language.writing import write_expression
from tf2flax._base.errors import AssignmentError
from tf2flax._base.memory import view_at
from tf2flax._base.values import TensorSpec

from .lowering import lower, operand_indices, without_ellipsis
from .scattering import sum_problem
from .shapes import axis_groups

SpecOf = Callable[[str], TensorSpec]
Shape = tuple[int, ...]
# A tensor in terms of the leaf, and its new shape.
Resized = tuple[ex.Expression, Shape]


def resize_backwards(
    expression: ex.Expression,
    shape: Shape,
    leaf: ex.Expression,
    spec_of: SpecOf,
    *,
    is_grown: bool = False,
) -> dict[str, Resized]:
    """Writes what each tensor of an expression is, for a leaf of another shape.

    Args:
        expression: The expression, without captures; its shape is not the leaf's.
        shape: Shape of the leaf.
        leaf: What stands for its value.
        spec_of: Gives shape and dtype of a tensor, as the checkpoint has it.
        is_grown: True if the leaf was loaded by the expression: whoever writes it takes
            arithmetic with numbers back, as casts.

    Returns:
        For each tensor an expression of transposes, reshapes, indices and rows, and the
        new shape of the tensor.

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
        elif isinstance(node, nodes.Combined):
            raise AssignmentError(sum_problem(node))
        elif isinstance(node, ex.Joined):
            placed = _operands_in(node, shape, spec_of)
            for operand, (index, below) in zip(node.operands, placed, strict=True):
                walk(operand, value[index], below)
        else:
            (operand,) = node.children
            is_step = isinstance(node, nodes.Negated | nodes.WithNumber)
            if not (is_step and is_grown):
                value, shape = _undone(node, value, shape, spec_of)
            walk(operand, value, shape)

    walk(expression, leaf, shape)
    return result


def evaluate(expression: ex.Expression, array: np.ndarray) -> np.ndarray:
    """Evaluates an expression that `resize_backwards` wrote.

    Args:
        expression: The expression.
        array: Value of its source.

    Returns:
        The result; a view of the array where NumPy gives one.
    """
    if isinstance(expression, ex.Source):
        return array
    (operand,) = expression.children
    array = evaluate(operand, array)
    match expression:
        case nodes.Transposed():
            return array.transpose(expression.axes)
        case nodes.Reshaped():
            return array.reshape(expression.shape)
        case nodes.Sliced():
            return view_at(array, expression.numpy_index)
        case nodes.TakenRows():
            return np.take(
                array, np.array(expression.numbers, np.int64), expression.axis
            )
        case _:
            raise AssertionError(type(expression))


def _undone(
    node: ex.Expression, value: ex.Expression, shape: Shape, spec_of: SpecOf
) -> Resized:
    """Takes one operation back: the operand's value, and its new shape."""
    (operand,) = node.children
    if isinstance(node, nodes.Cast):
        return value, shape
    if node.is_growth:
        # The tensor becomes as large as the leaf, with rows in the leaf's order.
        return value, shape
    if isinstance(node, nodes.Negated | nodes.WithNumber | nodes.Padded):
        raise AssignmentError(
            f"what becomes of `{write_expression(node)}` then is not clear."
        )
    # The shapes that the checkpoint gives, above and below the operation.
    old, below = lower(node, spec_of).shape, lower(operand, spec_of).shape
    if len(shape) != len(old):
        raise AssignmentError(
            f"it gives {len(old)} axes, and the leaf has {len(shape)}."
        )
    match node:
        case nodes.Transposed():
            axes = node.axes or tuple(reversed(range(len(old))))
            back = _inverse_order([axis % len(old) for axis in axes])
            return value.transpose(back), tuple(shape[axis] for axis in back)
        case nodes.Reshaped():
            new = _shape_before_reshape(below, old, shape)
            return value.reshape(new), new
        case ex.Rearranged():
            steps, new = shape_before(node.pattern, below, shape)
            permuted = tuple(steps.split[axis] for axis in steps.axes)
            back = _inverse_order(steps.axes)
            return value.reshape(permuted).transpose(back).reshape(new), new
        case nodes.Sliced():
            return _undo_slices(node, value, below, shape)
        case nodes.TakenRows():
            return _undo_rows(node, value, below, shape)
        case _:
            raise AssertionError(type(node))


def _inverse_order(axes: Sequence[int]) -> list[int]:
    """The permutation that undoes another one: where each axis stands in it."""
    return [axes.index(axis) for axis in range(len(axes))]


def _shape_before_reshape(below: Shape, old: Shape, shape: Shape) -> Shape:
    """Finds the shape that a reshape from `below` to `old` turns into `shape`.

    Axes are compared in groups of as many elements. A group that has changed must have
    one axis below, which takes all its elements; axes of length 1 do not count.

        below       4  |  6
        old         4  | 2 3       2 x 3 has become 2 x 5, so that 6 becomes 10
        shape       4  | 2 5
    """
    if shape == old:
        return below
    problem = AssignmentError(
        f"reshape makes {list(old)} of {list(below)}, and what would become "
        f"{list(shape)} is not clear."
    )
    if 0 in old:  # no element says which axes belong together
        raise problem
    result = list(below)
    for before, after in axis_groups(below, old):
        if any(shape[axis] != old[axis] for axis in after):
            growing = [axis for axis in before if below[axis] != 1] or list(before)
            if len(growing) != 1:
                raise problem
            result[growing[0]] = math.prod(shape[axis] for axis in after)
    return tuple(result)


def _undo_slices(
    node: nodes.Sliced, value: ex.Expression, below: Shape, shape: Shape
) -> Resized:
    """Takes an index back, if it cuts nothing off.

    Such an index can drop axes of length 1, add some, and reverse others:

        tensor (1, 5), index [0, ::-1, None]     leaf (5, 1), back [None, ::-1, 0]
    """
    lengths_below, lengths = iter(below), iter(shape)
    new_shape: list[int] = []
    back: list[int | slice | None] = []
    for item in without_ellipsis(node.index, below):
        if item is None:
            # An axis that was added is dropped again.
            is_cut = next(lengths) != 1
            back.append(0)
        elif isinstance(item, int):
            # An axis that was dropped is added again.
            is_cut = next(lengths_below) != 1
            back.append(None)
            new_shape.append(1)
        else:
            old_length, length = next(lengths_below), next(lengths)
            steps = range(old_length)[slice(*item)]
            # A slice with bounds may happen to take all of the old axis. Only one
            # without them takes all of an axis of any length.
            is_plain = item in ((None, None, None), (None, None, -1))
            is_cut = len(steps) != old_length or (length != old_length and not is_plain)
            back.append(slice(None, None, -1 if steps.step < 0 else None))
            new_shape.append(length)
        if is_cut:
            raise AssignmentError(
                f"it cuts {list(shape)} out of a tensor whose other elements are not "
                "known."
            )
    return value[tuple(back)], tuple(new_shape)


def _undo_rows(
    node: nodes.TakenRows, value: ex.Expression, below: Shape, shape: Shape
) -> Resized:
    """Takes a choice of rows back, if it only puts all rows in another order."""
    axis = node.axis % len(below)
    count, rows = below[axis], node.numbers
    if len(rows) != shape[axis] or sorted(rows) != list(range(count)):
        raise AssignmentError(
            f"take picks {len(rows)} of {count} rows, and the leaf has {shape[axis]}."
        )
    # The inverse of a permutation is what sorts it.
    return value.take(np.argsort(rows), axis), shape


def _operands_in(
    node: ex.Joined, shape: Shape, spec_of: SpecOf
) -> list[tuple[tuple[int | slice, ...], Shape]]:
    """Finds where the operands of a join lie in it, and their new shapes.

    The joined axis must be as long as it was: nothing says which operand has grown.
    """
    old = lower(node, spec_of).shape
    axis = node.axis % len(old)
    if len(shape) != len(old) or shape[axis] != old[axis]:
        raise AssignmentError(
            f"{node.verb} makes {list(old)}, and how {list(shape)} is divided among "
            f"its {len(node.operands)} operands is not clear."
        )
    left, right = shape[:axis], shape[axis + 1 :]
    placed: list[tuple[tuple[int | slice, ...], Shape]] = []
    for index in operand_indices(node, len(old), spec_of):
        joined = index[axis]
        if isinstance(joined, slice):
            placed.append((index, (*left, joined.stop - joined.start, *right)))
        else:  # stacked: the operands do not have the axis
            placed.append((index, (*left, *right)))
    return placed
