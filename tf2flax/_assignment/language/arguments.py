"""What the methods of expressions are given: checked, and written as it was given."""

from __future__ import annotations

import functools
import itertools
import json
import math
import operator
from collections.abc import Iterable, Sequence
from types import EllipsisType
from typing import Any, Final, cast

import numpy as np

from tf2flax._base.caller import attribute_of, members, show_value
from tf2flax._base.errors import AssignmentError

# Rows in steady steps are printed as a range from this many on.
_MIN_RANGE: Final = 4
# Rows that are picked by number: a vocabulary, not more.
_MAX_ROWS: Final = 1 << 24
# Of integers; Python writes longer ones as text no more, and no shape has such.
_MAX_BITS: Final = 1024

Slice = tuple[int | None, int | None, int | None]
IndexItem = int | None | EllipsisType | Slice


def quoted(text: str) -> str:
    """Writes a string in double quotes, as Python, TOML and JSON read it.

    Args:
        text: The string.

    Returns:
        The literal.
    """
    return json.dumps(text, ensure_ascii=False)


def from_the_front(axes: Sequence[int]) -> tuple[int, ...]:
    """Counts all axes of an operand from the front.

    Args:
        axes: Every axis once, negative ones from the end.

    Returns:
        The axes, none of them negative.
    """
    return tuple(axis % len(axes) for axis in axes)


def reshaped_again(
    old: tuple[int, ...], new: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Finds the one shape that two reshapes amount to.

    Args:
        old: The shape of the first.
        new: The shape of the second.

    Returns:
        The shape; None where the first checks what the second would not.
    """
    if -1 in old:
        least = -math.prod(old)  # what the size is a multiple of
        is_implied = -1 not in new and least and math.prod(new) % least == 0
        return new if is_implied else None
    size = math.prod(old)
    if -1 not in new:
        return new if math.prod(new) == size else None
    rest = -math.prod(new)
    if not rest or size % rest:
        return None
    return tuple(size // rest if dim == -1 else dim for dim in new)


def integers(verb: str, what: str, values: tuple[Any, ...]) -> tuple[int, ...]:
    """Checks integers that are given one by one, or in one sequence.

    Args:
        verb: Who asks for them, for messages.
        what: What they are, for messages.
        values: As they were given.

    Returns:
        The integers.

    Raises:
        AssignmentError: They are none.
    """
    if len(values) == 1 and isinstance(values[0], (tuple, list)):
        values = tuple(cast("Sequence[Any]", values[0]))
    try:
        if any(isinstance(value, (bool, np.bool_)) for value in values):
            raise TypeError
        numbers = tuple(map(operator.index, values))
    except TypeError:
        shown = ", ".join(show_value(value)[:40] for value in values[:6])
        raise AssignmentError(
            f"{verb}: expected integers for {what}, got {shown}."
        ) from None
    longest = max((number.bit_length() for number in numbers), default=0)
    if longest > _MAX_BITS:
        raise AssignmentError(
            f"{verb}: expected integers for {what}, got one of {longest} bits."
        )
    return numbers


def integer(verb: str, what: str, value: object) -> int:
    """Checks one integer.

    Args:
        verb: Who asks for it, for messages.
        what: What it is, for messages.
        value: As it was given.

    Returns:
        The integer.

    Raises:
        AssignmentError: It is none.
    """
    if isinstance(value, (tuple, list)):
        shown = show_value(cast("object", value))
        raise AssignmentError(f"{verb}: expected an integer for {what}, got {shown}.")
    return integers(verb, what, (value,))[0]


def row_numbers(rows: object) -> tuple[int, ...]:
    """Checks the numbers of rows that `take` is given.

    Args:
        rows: Integers, or an array of rank 1 of them.

    Returns:
        The numbers, counted from the first row.

    Raises:
        AssignmentError: They are no integers, too many, or negative: TensorFlow's row
            maps write -1 for a row that is not there, where NumPy means the last one.
    """
    is_array = attribute_of(rows, "dtype") is not None
    numbers = _array_rows(rows) if is_array else _listed_rows(rows)
    if numbers and min(numbers) < 0:
        place = next(i for i, number in enumerate(numbers) if number < 0)
        count = sum(number < 0 for number in numbers)
        raise AssignmentError(
            f"take: expected rows counted from 0, got {numbers[place]} at place "
            f"{place} ({count} of {len(numbers)} rows are negative). In TensorFlow's "
            "row maps, -1 is a row that is not there: leave such rows out. To count "
            "from the end, subtract from the number of rows, or use [index]."
        )
    return numbers


def _array_rows(rows: object) -> tuple[int, ...]:
    """Numbers of rows in an array, of NumPy or of anything that it converts."""
    is_masked = np.ma.is_masked(rows)
    try:
        array = cast("np.ndarray[Any, np.dtype[Any]]", np.asarray(rows))
    except (TypeError, ValueError):  # arrays that JAX is tracing
        array = np.array(None)
    if array.ndim != 1 or array.dtype.kind not in "iu" or is_masked:
        described = "masked" if is_masked else str(getattr(rows, "dtype", array.dtype))
        raise AssignmentError(
            f"take: expected numbers of rows, got an array of {described}, "
            f"shape {list(np.shape(array))}."
        )
    if array.size > _MAX_ROWS:
        raise AssignmentError(f"take: expected at most {_MAX_ROWS} rows.")
    return tuple(array.tolist())


def _listed_rows(rows: object) -> tuple[int, ...]:
    """Numbers of rows in a list, a range or another iterable."""
    if isinstance(rows, (str, bytes)) or not isinstance(rows, Iterable):
        raise AssignmentError(
            f"take: expected numbers of rows, got {show_value(rows)}."
        )
    given = members("take", cast("Iterable[Any]", rows))
    numbers = list(itertools.islice(given, _MAX_ROWS + 1))
    if len(numbers) > _MAX_ROWS:
        raise AssignmentError(f"take: expected at most {_MAX_ROWS} rows.")
    return integers("take", "rows", (numbers,))


def index_item(item: Any) -> IndexItem:
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
        own = cast("slice[Any, Any, Any]", item)
        bounds = (own.start, own.stop, own.step)
        start, stop, step = (
            None if bound is None else integer("[]", "a slice", bound)
            for bound in bounds
        )
        if step == 0:
            raise AssignmentError("[]: the step of a slice cannot be 0.")
        return start, stop, step
    if isinstance(item, (list, tuple, np.ndarray)):
        raise AssignmentError(
            "[]: expected integers, slices, ... and None, got several numbers. "
            "Pick rows with .take(rows)."
        )
    return integer("[]", "an index", item)


def index_text(index: tuple[IndexItem, ...]) -> str:
    """Writes an index as it stands in Python, with its brackets.

    Args:
        index: The items.

    Returns:
        The text.

    Examples:
        >>> index_text(((None, None, 2), 0)), index_text((...,)), index_text(())
        ('[::2, 0]', '[...]', '[()]')
    """
    return f"[{', '.join(map(_item_text, index)) or '()'}]"


def _item_text(item: IndexItem) -> str:
    if item is ...:
        return "..."
    if not isinstance(item, tuple):
        return str(item)
    start, stop, step = ("" if bound is None else str(bound) for bound in item)
    return f"{start}:{stop}{f':{step}' if step else ''}"


def rows_text(rows: tuple[int, ...]) -> str:
    """Writes numbers of rows, as a range where they are one.

    Args:
        rows: The numbers.

    Returns:
        The text.
    """
    if len(rows) >= _MIN_RANGE:
        step = rows[1] - rows[0]
        if step and all(b - a == step for a, b in itertools.pairwise(rows)):
            stop = rows[-1] + (1 if step > 0 else -1)
            return f"range({rows[0]}, {stop}{f', {step}' if step != 1 else ''})"
    return f"[{list_text(rows)}]"


@functools.cache
def list_text(values: tuple[int, ...]) -> str:
    """Writes integers with commas between them.

    Args:
        values: The integers.

    Returns:
        The text.
    """
    return ", ".join(map(str, values))
