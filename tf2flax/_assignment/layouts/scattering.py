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
from tf2flax._assignment.language import nodes
from tf2flax._assignment.language.captures import parse_name
from tf2flax._assignment.language.expressions import sources_of
from tf2flax._assignment.language.rearranging import steps_for
from tf2flax._assignment.language.writing import write_expression
from tf2flax._base.dtypes import forced_cast
from tf2flax._base.errors import AssignmentError
from tf2flax._base.memory import shape_only, view_at
from tf2flax._base.values import TensorSpec

from .comparing import equal_elements
from .lowering import fill_of, lower, number_step_of, operand_indices
from .nodes import Layout
from .steps import Step, apply_steps

SpecOf = Callable[[str], TensorSpec]


@dataclasses.dataclass(frozen=True, slots=True)
class Contribution:
    """Elements of one tensor, as a value of an expression has them.

    Attributes:
        name: Name of the tensor.
        value: Array of the tensor's shape; None in a dry run.
        mask: True for the elements that the value covers; None if it covers all.
        casts: What the tensor's elements went through, in this order: dtypes, and
            arithmetic with numbers.
    """

    name: str
    value: np.ndarray | None
    mask: np.ndarray | None
    casts: tuple[Step, ...] = ()


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
                    "one row in the checkpoint. Give them one value, or save the tree "
                    "without the plan."
                )
        return _MaskedValue(shape, value, mask)


def scatter_value(
    expression: ex.Expression,
    value: np.ndarray | None,
    mask: np.ndarray | None,
    spec_of: SpecOf,
    dtype: np.dtype | None = None,
    casts: tuple[Step, ...] = (),
) -> list[Contribution]:
    """Takes the value of an expression apart into elements of its tensors.

    Args:
        expression: The expression, without captures.
        value: Its value; None in a dry run, to learn only which elements are covered.
        mask: True for the elements that count; None if all do.
        spec_of: Gives shape and dtype of a tensor.
        dtype: Dtype of the leaf when it was loaded; None if it is the value's.
        casts: What elements went through after the expression and before that.

    Returns:
        One contribution for each time that a tensor stands in the expression.

    Raises:
        AssignmentError: An element of a tensor would have two values; what a pad or
            rows of -1 filled has changed; or tensors are added to each other.
    """
    shape = lower(expression, spec_of).shape
    masked = _MaskedValue(shape, value, mask)
    # The last cast of loading is that to the leaf's dtype, which is undone elsewhere;
    # here it says what became of the elements that were filled.
    last = () if dtype is None else (dtype,)
    contributions = _scatter(expression, masked, spec_of, (*casts, *last))
    if dtype is None:
        return contributions
    return [dataclasses.replace(c, casts=c.casts[:-1]) for c in contributions]


def sum_problem(expression: nodes.Combined) -> str:
    """Says why what tensors were combined to cannot be written."""
    names = dict.fromkeys(parse_name(s.pattern).literal for s in sources_of(expression))
    listed = " and ".join(f"`{name}`" for name in names)
    return (
        f"`{write_expression(expression)}` makes one value of elements of {listed}, "
        "and which of them a new value would change is not known. Load the tensors "
        "into leaves of their own, or save the tree without the plan."
    )


def _without_fill(
    expression: nodes.Padded | nodes.TakenRows,
    masked: _MaskedValue,
    operand: Layout,
    casts: tuple[Step, ...],
) -> _MaskedValue:
    """Takes away what no tensor has, if that is still what it was filled with.

        .pad(((0, 1), (0, 0)))      a b        a b
                                    c d        c d
                                    # #

    Raises:
        AssignmentError: Some of it has changed; or two rows that were one differ.
    """
    shape = operand.shape
    places: tuple[Any, ...] | None = None
    if isinstance(expression, nodes.Padded):
        pairs = zip(expression.widths, shape, strict=True)
        index: tuple[Any, ...] = tuple(
            slice(before, before + n) for (before, _), n in pairs
        )
        verb = "pad"
    else:
        numbers = np.array(expression.numbers, np.int64)
        before_axis = (slice(None),) * (expression.axis % len(shape))
        index = (*before_axis, numbers >= 0)
        places = (*before_axis, numbers[numbers >= 0])
        verb = "take"
    if expression.fill is not None and masked.value is not None:
        filled = np.ones(masked.shape, bool)
        filled[index] = False
        if masked.mask is not None:
            filled &= masked.mask
        # Where all of it was cut off later, arithmetic may not even hold it.
        if filled.any():
            fill = fill_of(verb, expression.fill, operand.dtype)
            element = np.frombuffer(fill, operand.dtype).reshape(())
            _check_filled(verb, masked.value, filled, apply_steps(element, casts))
    inner = masked.changed(functools.partial(view_at, index=index))
    return inner if places is None else inner.placed_at(places, shape)


def _check_filled(
    verb: str, value: np.ndarray, filled: np.ndarray, element: np.ndarray
) -> None:
    """Refuses elements that no tensor has, and that are no longer what filled them."""
    # Users may have cast the leaf since.
    wanted = np.broadcast_to(forced_cast(element, value.dtype), value.shape)
    is_changed = filled & ~equal_elements(value, wanted)
    if is_changed.any():
        place = tuple(int(i) for i in np.argwhere(is_changed)[0])
        raise AssignmentError(
            f"of the elements that {verb} filled, {int(is_changed.sum())} changed, the "
            f"first is {value[place]} at {list(place)}, and the checkpoint has no "
            'place for them. With fill="keep" the tensor grows instead.'
        )


def _scatter(
    expression: ex.Expression,
    masked: _MaskedValue,
    spec_of: SpecOf,
    casts: tuple[Step, ...],
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
        case nodes.Negated() | nodes.WithNumber():
            # Left for later, as casts are.
            dtype = lower(expression.operand, spec_of).dtype
            steps = (number_step_of(expression, dtype), *casts)
            return _scatter(expression.operand, masked, spec_of, steps)
        case nodes.Padded() | nodes.TakenRows():
            layout = lower(expression.operand, spec_of)
            below = _without_fill(expression, masked, layout, casts)
            return _scatter(expression.operand, below, spec_of, casts)
        case nodes.Combined():
            raise AssignmentError(sum_problem(expression))
        case nodes.Cast():
            # Left for later: how a cast is undone depends on all leaves of a tensor.
            casts = (expression.dtype, *casts)
            return _scatter(expression.operand, masked, spec_of, casts)
        case nodes.Transposed() | nodes.Reshaped() | ex.Rearranged() | nodes.Sliced():
            shape = lower(expression.operand, spec_of).shape
            below = _undone(expression, masked, shape)
            return _scatter(expression.operand, below, spec_of, casts)
        case _:
            raise AssertionError(type(expression))


def _undone(
    expression: nodes.Transposed | nodes.Reshaped | ex.Rearranged | nodes.Sliced,
    masked: _MaskedValue,
    shape: tuple[int, ...],
) -> _MaskedValue:
    """Takes one operation back; `shape` is that of the operand."""
    match expression:
        case nodes.Transposed():
            return masked.transposed_back(expression.axes)
        case nodes.Reshaped():
            return masked.reshaped(shape)
        case ex.Rearranged():
            # Split, permute, merge, from last to first.
            steps = steps_for(expression.pattern, shape)
            permuted = tuple(steps.split[axis] for axis in steps.axes)
            masked = masked.reshaped(permuted).transposed_back(steps.axes)
            return masked.reshaped(shape)
        case nodes.Sliced():
            return masked.placed_at(expression.numpy_index, shape)


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
