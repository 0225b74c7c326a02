"""Expressions backwards: the value of an expression -> the tensors it is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from tf2flax._assignment.language import expressions as ex
from tf2flax._assignment.language.captures import parse_name
from tf2flax._assignment.language.rearranging import Pattern, Steps, steps_for
from tf2flax._base.errors import AssignmentError
from tf2flax._base.memory import shape_only, view_at
from tf2flax._base.values import TensorSpec

from .lowering import lower

SpecOf = Callable[[str], TensorSpec]


@dataclasses.dataclass(frozen=True, slots=True)
class Contribution:
    """What a value says about one tensor.

    Attributes:
        name: Name of the tensor.
        value: Array of the tensor's shape; None in a dry run.
        mask: Where the value says anything; None for everywhere.
        casts: Dtypes that the tensor's elements went through, in this order.
    """

    name: str
    value: np.ndarray | None
    mask: np.ndarray | None
    casts: tuple[np.dtype, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class _Part:
    """A value on its way back, of which only the shape is known in a dry run."""

    shape: tuple[int, ...]
    value: np.ndarray | None
    mask: np.ndarray | None

    def changed(self, change: Callable[[np.ndarray], np.ndarray]) -> _Part:
        """Does the same to value and mask, which loses and repeats no element."""
        value = None if self.value is None else change(self.value)
        mask = None if self.mask is None else change(self.mask)
        some = value if value is not None else mask
        if some is None:
            some = change(shape_only(self.shape))
        return _Part(some.shape, value, mask)

    def reshaped(self, shape: tuple[int, ...]) -> _Part:
        """Gives it another shape."""
        value = None if self.value is None else self.value.reshape(shape)
        mask = None if self.mask is None else self.mask.reshape(shape)
        return _Part(shape, value, mask)

    def placed(self, shape: tuple[int, ...], index: Any) -> _Part:
        """Puts it into something larger, of which nothing else is known.

        Raises:
            AssignmentError: Two of its elements are one there, and differ.
        """
        mask = np.zeros(shape, bool)
        if self.mask is None:
            where, told = index, self.value
            value = None if told is None else np.zeros(shape, told.dtype)
            places, target = mask, value
        else:  # element by element, so that what is told is not lost under what is not
            where = np.arange(mask.size).reshape(shape)[index][self.mask]
            told = None if self.value is None else self.value[self.mask]
            value = None if told is None else np.zeros(shape, told.dtype)
            # Flat, since an array without axes takes no list of indices.
            places = mask.reshape(-1)
            target = None if value is None else value.reshape(-1)
        places[where] = True
        if told is not None and target is not None:
            target[where] = told
            if not same_bits(target[where], told):
                raise AssignmentError(
                    "rows that were taken several times differ, and are one in the "
                    "checkpoint"
                )
        return _Part(shape, value, mask)


def scatter(
    expression: ex.Expression,
    value: np.ndarray | None,
    mask: np.ndarray | None,
    spec_of: SpecOf,
) -> list[Contribution]:
    """Takes the value of an expression apart into what it says about its tensors.

    Args:
        expression: The expression, without captures.
        value: Its value; None to learn only which elements are told.
        mask: Where the value counts; None for everywhere.
        spec_of: Gives shape and dtype of a tensor.

    Returns:
        One share for each time that a tensor stands in the expression.

    Raises:
        AssignmentError: A tensor's element would have to be two values.
    """
    shape = lower(expression, spec_of).shape
    part = _Part(shape, value, mask)
    return _scatter(expression, part, spec_of, ())


def _scatter(
    expression: ex.Expression,
    part: _Part,
    spec_of: SpecOf,
    casts: tuple[np.dtype, ...],
) -> list[Contribution]:
    match expression:
        case ex.Source():
            name = parse_name(expression.pattern).literal
            return [Contribution(name, part.value, part.mask, casts)]
        case ex.Joined():
            return _scatter_joined(expression, part, spec_of, casts)
        case ex.Transposed() | ex.Reshaped() | ex.Rearranged() | ex.Sliced():
            pass
        case ex.Rows() | ex.Cast():
            pass
        case _:
            raise AssertionError(type(expression))
    operand = expression.operand
    if isinstance(expression, ex.Cast):
        return _scatter(operand, part, spec_of, (expression.dtype, *casts))
    below = lower(operand, spec_of).shape
    match expression:
        case ex.Transposed():
            part = part.changed(_undo_transpose(expression.axes, len(below)))
        case ex.Reshaped():
            part = part.reshaped(below)
        case ex.Rearranged():
            steps = steps_for(expression.pattern, below)
            between = tuple(steps.split[axis] for axis in steps.axes)
            part = part.reshaped(between)
            part = part.changed(_undo_transpose(steps.axes, len(between)))
            part = part.reshaped(below)
        case ex.Sliced():
            part = part.placed(below, expression.numpy_index)
        case ex.Rows():
            part = part.placed(below, np.array(expression.rows, np.int64))
    return _scatter(operand, part, spec_of, casts)


def _undo_transpose(
    axes: tuple[int, ...] | None, rank: int
) -> Callable[[np.ndarray], np.ndarray]:
    order = tuple(reversed(range(rank))) if axes is None else axes
    back = tuple(int(i) for i in np.argsort([axis % rank for axis in order]))
    return lambda array: array.transpose(back)


def _scatter_joined(
    expression: ex.Joined,
    part: _Part,
    spec_of: SpecOf,
    casts: tuple[np.dtype, ...],
) -> list[Contribution]:
    shares: list[Contribution] = []
    start = 0
    axis = expression.axis % len(part.shape)
    for operand in expression.operands:
        if expression.is_stack:
            index: tuple[object, ...] = (*[slice(None)] * axis, start)
            stop = start + 1
        else:
            stop = start + lower(operand, spec_of).shape[axis]
            index = (*[slice(None)] * axis, slice(start, stop))

        def cut(array: np.ndarray, index: tuple[Any, ...] = index) -> np.ndarray:
            return view_at(array, index)

        shares += _scatter(operand, part.changed(cut), spec_of, casts)
        start = stop
    return shares


def same_bits(
    first: np.ndarray, second: np.ndarray, mask: np.ndarray | None = None
) -> bool:
    """Tells whether two arrays of one shape and dtype hold the same bits.

    Args:
        first: An array.
        second: Another one.
        mask: Where they are compared; None for everywhere.

    Returns:
        Whether they do; NaNs count as what they are.
    """
    if mask is not None:
        first, second = first[mask], second[mask]
    one, other = (
        np.ascontiguousarray(a).reshape(-1).view(np.uint8) for a in (first, second)
    )
    return bool(np.array_equal(one, other))


def inverse_of(
    expression: ex.Expression, leaf: ex.Expression, spec_of: SpecOf
) -> dict[str, ex.Expression]:
    """Writes what each tensor of an expression is, in terms of the leaf it fills.

    Args:
        expression: The expression, without captures.
        leaf: What stands for its value.
        spec_of: Gives shape and dtype of a tensor.

    Returns:
        Expressions by tensor; those that the leaf tells only in part, or several times,
        are left out.
    """
    found: dict[str, list[ex.Expression]] = {}

    def walk(node: ex.Expression, value: ex.Expression) -> None:
        if isinstance(node, ex.Source):
            name = parse_name(node.pattern).literal
            found.setdefault(name, []).append(value)
        elif isinstance(node, ex.Joined):
            start = 0
            rank = len(lower(node, spec_of).shape)
            axis = node.axis % rank
            for operand in node.operands:
                before = (slice(None),) * axis
                if node.is_stack:
                    walk(operand, value[(*before, start)])
                    start += 1
                else:
                    stop = start + lower(operand, spec_of).shape[axis]
                    walk(operand, value[(*before, slice(start, stop))])
                    start = stop
        elif isinstance(node, ex.Cast):
            walk(node.operand, value)
        elif isinstance(node, (ex.Transposed, ex.Reshaped, ex.Rearranged)):
            below = lower(node.operand, spec_of).shape
            walk(node.operand, _undone(node, value, below))

    walk(expression, leaf)
    return {name: values[0] for name, values in found.items() if len(values) == 1}


def _undone(
    node: ex.Transposed | ex.Reshaped | ex.Rearranged,
    value: ex.Expression,
    below: tuple[int, ...],
) -> ex.Expression:
    if isinstance(node, ex.Reshaped):
        return value.reshape(below)
    if isinstance(node, ex.Transposed):
        if node.axes is None:
            return value.transpose()
        back = np.argsort([axis % len(below) for axis in node.axes])
        return value.transpose([int(axis) for axis in back])
    return _reversed_pattern(node.pattern, steps_for(node.pattern, below), value, below)


def _reversed_pattern(
    pattern: Pattern, steps: Steps, value: ex.Expression, below: tuple[int, ...]
) -> ex.Expression:
    """The pattern the other way round; plain steps where dots stand in parentheses."""
    groups = [axis for axis in (*pattern.before, *pattern.after) if len(axis) > 1]
    if any("..." in axis for axis in groups):
        between = [steps.split[axis] for axis in steps.axes]
        back = [int(axis) for axis in np.argsort(steps.axes)]
        return value.reshape(between).transpose(back).reshape(below)
    before, after = (side.strip() for side in pattern.text.split("->"))
    sizes = {
        name: steps.extents[name]
        for axis in pattern.after
        if len(axis) > 1
        for name in axis[:-1]
    }
    return value.rearrange(f"{after} -> {before}", **sizes)
