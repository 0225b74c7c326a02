"""Arguments of the methods of expressions: checked, and made plain integers."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any, Final, cast

import numpy as np

from tf2flax._base.caller import attribute_of, members, show_value
from tf2flax._base.dtypes import parse_dtype, suggest_dtype
from tf2flax._base.errors import AssignmentError

from .literals import IndexItem

# Rows that are picked by number: a vocabulary has fewer.
MAX_ROWS: Final = 1 << 24
# Of integers; Python does not write longer ones as text, and no shape has any.
_MAX_BITS: Final = 1024


def count_from_front(axes: Sequence[int]) -> tuple[int, ...]:
    """Counts all axes of an operand from the front; negative ones are from its end."""
    return tuple(axis % len(axes) for axis in axes)


def combine_shapes(
    old: tuple[int, ...], new: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Finds the one reshape that two reshapes amount to.

    Args:
        old: Shape of the first.
        new: Shape of the second.

    Returns:
        The shape; None if the first checks something that the second would not: then
        both must stay.

    Examples:
        >>> combine_shapes((4, 6), (-1,)), combine_shapes((-1, 6), (3, 4))
        ((24,), (3, 4))
        >>> combine_shapes((-1, 5), (-1,)) is None
        True
    """
    if -1 in old:
        # The first one checks that the size is a multiple of its other lengths.
        # Only a second one that fixes the size can imply that.
        divisor = -math.prod(old)
        is_implied = -1 not in new and divisor and math.prod(new) % divisor == 0
        return new if is_implied else None
    size = math.prod(old)
    if -1 not in new:
        return new if math.prod(new) == size else None
    divisor = -math.prod(new)
    if not divisor or size % divisor:
        return None
    return tuple(size // divisor if length == -1 else length for length in new)


def check_integers(verb: str, what: str, values: tuple[Any, ...]) -> tuple[int, ...]:
    """Checks integers that are given one by one, or in one sequence.

    Args:
        verb: The method that takes them, for messages.
        what: What they are, for messages.
        values: The arguments as they were given.

    Raises:
        AssignmentError: They are not integers.
    """
    if len(values) == 1 and isinstance(values[0], (tuple, list)):
        values = tuple(cast("Sequence[Any]", values[0]))
    try:
        # True is an integer for Python; for a shape it is a mistake.
        if any(isinstance(value, (bool, np.bool_)) for value in values):
            raise TypeError
        numbers = tuple(map(operator.index, values))
    except TypeError:
        listed = ", ".join(show_value(value)[:40] for value in values[:6])
        raise AssignmentError(
            f"{verb}: expected integers for {what}, got {listed}."
        ) from None
    longest = max((number.bit_length() for number in numbers), default=0)
    if longest > _MAX_BITS:
        raise AssignmentError(
            f"{verb}: expected integers for {what}, got one of {longest} bits."
        )
    return numbers


def check_integer(verb: str, what: str, value: object) -> int:
    """Checks one integer.

    Args:
        verb: The method that takes it, for messages.
        what: What it is, for messages.
        value: The argument as it was given.

    Raises:
        AssignmentError: It is not an integer.
    """
    if isinstance(value, (tuple, list)):
        text = show_value(cast("object", value))
        raise AssignmentError(f"{verb}: expected an integer for {what}, got {text}.")
    return check_integers(verb, what, (value,))[0]


def check_order(axes: tuple[Any, ...]) -> tuple[int, ...]:
    """Checks the axes that `transpose` is given: each of them once.

    Raises:
        AssignmentError: They are not a permutation.
    """
    order = check_integers("transpose", "axes", axes)
    rank = len(order)
    if sorted(axis % max(rank, 1) for axis in order) != list(range(rank)):
        raise AssignmentError(
            f"transpose{order}: expected every axis once, from 0 to {rank - 1}."
        )
    return order


def check_shape(shape: tuple[Any, ...]) -> tuple[int, ...]:
    """Checks the shape that `reshape` is given, of which one length may be -1.

    Raises:
        AssignmentError: A length is negative, or several are -1.
    """
    lengths = check_integers("reshape", "shape", shape)
    if any(length < -1 for length in lengths) or lengths.count(-1) > 1:
        raise AssignmentError(
            f"reshape{lengths}: expected lengths of axes, of which one may be -1."
        )
    return lengths


def check_dtype(dtype: object) -> np.dtype:
    """Checks the dtype that `cast` is given.

    Raises:
        AssignmentError: It is not a dtype of numbers.
    """
    # Option `dtype` takes two words, and None, that are not dtypes.
    is_word = isinstance(dtype, str) and dtype in ("exact", "checkpoint")
    try:
        parsed = None if is_word else parse_dtype(dtype)
    except AssignmentError:  # which speaks of the option
        parsed = None
    if not isinstance(parsed, np.dtype):
        raise AssignmentError(
            f"cast: expected a dtype of numbers, got {show_value(dtype)}."
            f"{suggest_dtype(dtype)}"
        )
    return parsed


def check_widths(widths: object) -> tuple[tuple[int, int], ...]:
    """Checks the widths that `pad` is given: a pair for each axis.

    Raises:
        AssignmentError: They are something else.
    """
    # Arrays of NumPy are what `numpy.pad` is given as well.
    given = np.asarray(widths).tolist() if _is_array(widths) else widths
    axes = cast("Sequence[Any]", given) if isinstance(given, (tuple, list)) else None
    if axes is None or any(not isinstance(axis, (tuple, list)) for axis in axes):
        raise AssignmentError(
            f"pad: expected a pair of widths for each axis, got {show_value(widths)}. "
            "Write ((before, after), ...)."
        )
    pairs = [check_integers("pad", "widths", (axis,)) for axis in axes]
    for pair in pairs:
        if len(pair) != 2 or min(pair) < 0:
            raise AssignmentError(
                f"pad: expected widths before and after, from 0 on, got {pair}."
            )
    return tuple((before, after) for before, after in pairs)


def _is_array(value: object) -> bool:
    return isinstance(value, np.ndarray)


def check_rows(rows: object, *, is_filled: bool) -> tuple[int, ...]:
    """Checks the numbers of rows that `take` is given.

    Args:
        rows: Integers, or an array of rank 1 of them.
        is_filled: True if rows of -1 are filled.

    Raises:
        AssignmentError: They are not integers, too many, or negative: TensorFlow's row
            maps write -1 for a row that is not there, where NumPy means the last one.
    """
    is_array = attribute_of(rows, "dtype") is not None
    numbers = _rows_of_array(rows) if is_array else _rows_of_iterable(rows)
    lowest = -1 if is_filled else 0
    if numbers and min(numbers) < lowest:
        place = next(i for i, number in enumerate(numbers) if number < lowest)
        count = sum(number < 0 for number in numbers)
        way_out = (
            "Rows of -1 are filled, and no others."
            if is_filled
            else "In TensorFlow's row maps, -1 is a row that is not there: leave such "
            "rows out, or say what they hold with fill=."
        )
        raise AssignmentError(
            f"take: expected rows counted from 0, got {numbers[place]} at place "
            f"{place} ({count} of {len(numbers)} rows are negative). {way_out} To "
            "count from the end, subtract from the number of rows, or use [index]."
        )
    return numbers


def _rows_of_array(rows: object) -> tuple[int, ...]:
    """Takes rows from an array, of NumPy or of anything that NumPy converts."""
    is_masked = np.ma.is_masked(rows)
    try:
        array = cast("np.ndarray[Any, np.dtype[Any]]", np.asarray(rows))
    except (TypeError, ValueError):  # arrays that JAX is tracing
        array = np.array(None)
    if array.ndim != 1 or array.dtype.kind not in "iu" or is_masked:
        kind = "masked" if is_masked else str(getattr(rows, "dtype", array.dtype))
        raise AssignmentError(
            f"take: expected numbers of rows, got an array of {kind}, "
            f"shape {list(np.shape(array))}."
        )
    if array.size > MAX_ROWS:
        raise AssignmentError(f"take: expected at most {MAX_ROWS} rows.")
    return tuple(array.tolist())


def _rows_of_iterable(rows: object) -> tuple[int, ...]:
    """Takes rows from a list, a range or another iterable, which may never end."""
    if isinstance(rows, (str, bytes)) or not isinstance(rows, Iterable):
        raise AssignmentError(
            f"take: expected numbers of rows, got {show_value(rows)}."
        )
    given = members("take", cast("Iterable[Any]", rows))
    numbers = list(itertools.islice(given, MAX_ROWS + 1))
    if len(numbers) > MAX_ROWS:
        raise AssignmentError(f"take: expected at most {MAX_ROWS} rows.")
    return check_integers("take", "rows", (numbers,))


def check_index_item(item: Any) -> IndexItem:
    """Checks one item of a basic index.

    Args:
        item: The item, as Python gives it.

    Returns:
        An integer, None, `...`, or a slice as a triple.

    Raises:
        AssignmentError: It is another kind of index.
    """
    if item is None or item is ...:
        return item
    if isinstance(item, slice):
        given = cast("slice[Any, Any, Any]", item)
        start, stop, step = (
            None if bound is None else check_integer("[]", "a slice", bound)
            for bound in (given.start, given.stop, given.step)
        )
        if step == 0:
            raise AssignmentError("[]: the step of a slice cannot be 0.")
        return start, stop, step
    if isinstance(item, (list, tuple, np.ndarray)):
        raise AssignmentError(
            "[]: expected integers, slices, ... and None, got several numbers. "
            "Pick rows with .take(rows)."
        )
    return check_integer("[]", "an index", item)
