"""Expressions backwards: the value of an expression -> the tensors it is made of.

    concat("q", "k", axis=1)      value (2, 5)       q (2, 3)     k (2, 2)
                                  a b c x y          a b c        x y
                                  d e f z w          d e f        z w

    src("table").take([2, 0])     value (2, 3)       table (3, 3)   mask
                                  a b c              d e f          1 1 1
                                  d e f              . . .          0 0 0
                                                     a b c          1 1 1

`inverting` writes the same as expressions, `uncasting` then turns the dtypes back.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from tf2flax._assignment.language import expressions as ex
from tf2flax._assignment.language.captures import parse_name
from tf2flax._assignment.language.rearranging import steps_for
from tf2flax._base.errors import AssignmentError
from tf2flax._base.memory import shape_only, view_at
from tf2flax._base.values import TensorSpec

from .lowering import lower, operand_indices

SpecOf = Callable[[str], TensorSpec]


@dataclasses.dataclass(frozen=True, slots=True)
class Contribution:
    """Elements of one tensor, as a value of an expression has them.

    Attributes:
        name: Name of the tensor.
        value: Array of the tensor's shape; None in a dry run.
        mask: True for the elements that the value covers; None if it covers all.
        casts: Dtypes that the tensor's elements went through, in this order.
    """

    name: str
    value: np.ndarray | None
    mask: np.ndarray | None
    casts: tuple[np.dtype, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class _MaskedValue:
    """A value on its way back to the tensors, of which a dry run has the shape alone.

    Attributes:
        shape: Shape of value and mask.
        value: The elements; None in a dry run.
        mask: True for the elements that are covered; None if all are.
    """

    shape: tuple[int, ...]
    value: np.ndarray | None
    mask: np.ndarray | None

    def changed(self, change: Callable[[np.ndarray], np.ndarray]) -> _MaskedValue:
        """Does the same to value and mask, which loses and repeats no element."""
        value = None if self.value is None else change(self.value)
        mask = None if self.mask is None else change(self.mask)
        array = value if value is not None else mask
        if array is None:
            array = change(shape_only(self.shape))
        return _MaskedValue(array.shape, value, mask)

    def reshaped(self, shape: tuple[int, ...]) -> _MaskedValue:
        """Gives it another shape."""
        value = None if self.value is None else self.value.reshape(shape)
        mask = None if self.mask is None else self.mask.reshape(shape)
        return _MaskedValue(shape, value, mask)

    def transposed_back(self, axes: tuple[int, ...] | None) -> _MaskedValue:
        """Undoes a transpose."""
        rank = len(self.shape)
        order = tuple(reversed(range(rank))) if axes is None else axes
        # The inverse of a permutation is what sorts it.
        back = tuple(int(i) for i in np.argsort([axis % rank for axis in order]))
        return self.changed(lambda array: array.transpose(back))

    def placed_at(self, index: Any, shape: tuple[int, ...]) -> _MaskedValue:
        """Puts it at an index of a larger array, of which nothing else is covered.

        Raises:
            AssignmentError: Two elements have the same place, and differ.
        """
        mask = np.zeros(shape, bool)
        if self.mask is None:
            places, elements = index, self.value
            value = None if elements is None else np.zeros(shape, elements.dtype)
            covered, target = mask, value
        else:
            # Element by element: where a row was taken twice, an element that is not
            # covered must not overwrite one that is.
            places = np.arange(mask.size).reshape(shape)[index][self.mask]
            elements = None if self.value is None else self.value[self.mask]
            value = None if elements is None else np.zeros(shape, elements.dtype)
            # Flat, since an array without axes takes no list of indices.
            covered = mask.reshape(-1)
            target = None if value is None else value.reshape(-1)
        covered[places] = True
        if elements is not None and target is not None:
            target[places] = elements
            # NumPy lets the last one win: if all come back, they were the same.
            if not same_bits(target[places], elements):
                raise AssignmentError(
                    "rows that were taken several times have different values, and are "
                    "one row in the checkpoint"
                )
        return _MaskedValue(shape, value, mask)


def scatter_value(
    expression: ex.Expression,
    value: np.ndarray | None,
    mask: np.ndarray | None,
    spec_of: SpecOf,
) -> list[Contribution]:
    """Takes the value of an expression apart into elements of its tensors.

    Args:
        expression: The expression, without captures.
        value: Its value; None in a dry run, to learn only which elements are covered.
        mask: True for the elements that count; None if all do.
        spec_of: Gives shape and dtype of a tensor.

    Returns:
        One contribution for each time that a tensor stands in the expression.

    Raises:
        AssignmentError: An element of a tensor would have two values.
    """
    shape = lower(expression, spec_of).shape
    return _scatter(expression, _MaskedValue(shape, value, mask), spec_of, ())


def _scatter(
    expression: ex.Expression,
    masked: _MaskedValue,
    spec_of: SpecOf,
    casts: tuple[np.dtype, ...],
) -> list[Contribution]:
    match expression:
        case ex.Source():
            name = parse_name(expression.pattern).literal
            return [Contribution(name, masked.value, masked.mask, casts)]
        case ex.Joined():
            contributions: list[Contribution] = []
            indices = operand_indices(expression, len(masked.shape), spec_of)
            for operand, index in zip(expression.operands, indices, strict=True):
                within = masked.changed(functools.partial(view_at, index=index))
                contributions += _scatter(operand, within, spec_of, casts)
            return contributions
        case ex.Cast():
            # Left for later: how a cast is undone depends on all leaves of a tensor.
            casts = (expression.dtype, *casts)
            return _scatter(expression.operand, masked, spec_of, casts)
        case (
            ex.Transposed() | ex.Reshaped() | ex.Rearranged() | ex.Sliced() | ex.Rows()
        ):
            shape = lower(expression.operand, spec_of).shape
            below = _undone(expression, masked, shape)
            return _scatter(expression.operand, below, spec_of, casts)
        case _:
            raise AssertionError(type(expression))


def _undone(
    expression: ex.Transposed | ex.Reshaped | ex.Rearranged | ex.Sliced | ex.Rows,
    masked: _MaskedValue,
    shape: tuple[int, ...],
) -> _MaskedValue:
    """Takes one operation back; `shape` is that of the operand."""
    match expression:
        case ex.Transposed():
            return masked.transposed_back(expression.axes)
        case ex.Reshaped():
            return masked.reshaped(shape)
        case ex.Rearranged():
            # Split, permute, merge, from last to first.
            steps = steps_for(expression.pattern, shape)
            permuted = tuple(steps.split[axis] for axis in steps.axes)
            masked = masked.reshaped(permuted).transposed_back(steps.axes)
            return masked.reshaped(shape)
        case ex.Sliced():
            return masked.placed_at(expression.numpy_index, shape)
        case ex.Rows():
            return masked.placed_at(np.array(expression.rows, np.int64), shape)


def same_bits(
    first: np.ndarray, second: np.ndarray, mask: np.ndarray | None = None
) -> bool:
    """Tells whether two arrays of one shape and dtype hold the same bits.

    Args:
        first: An array.
        second: The array to compare with.
        mask: True for the elements that are compared; None for all.

    Returns:
        True if they do; a NaN equals a NaN of the same bits only.
    """
    if mask is not None:
        first, second = first[mask], second[mask]
    first_bytes, second_bytes = (
        np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        for array in (first, second)
    )
    return bool(np.array_equal(first_bytes, second_bytes))
