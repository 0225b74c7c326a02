"""A numpy index into a stored tensor -> the boxes to read, and the array it means.

Which elements an index means, and every IndexError, is decided by numpy itself on an
array without memory. Only the choice of what to read is made here.
"""

from __future__ import annotations

import operator
from typing import Any, cast

import numpy as np

from tf2flax._base.manifest import TensorEntry
from tf2flax._base.memory import empty
from tf2flax._base.tuning import DEFAULT_TUNING, Tuning
from tf2flax._base.values import Box
from tf2flax._reading.checks import check_readable
from tf2flax._reading.parts import read_box
from tf2flax._reading.whole import read_entry


def read_index(
    entry: TensorEntry, index: object, tuning: Tuning = DEFAULT_TUNING
) -> Any:
    """Reads what numpy would give for an index into the whole tensor.

    Args:
        entry: Where the tensor lies.
        index: Whatever numpy takes.
        tuning: How much is read at once.

    Returns:
        An array, or a scalar where numpy gives one.

    Raises:
        IndexError: As numpy.
    """
    check_readable(entry)
    shape = entry.spec.shape
    # One byte with strides of 0: numpy checks the index, nothing is allocated.
    np.broadcast_to(np.zeros((), np.uint8), shape)[index]  # pyright: ignore[reportCallIssue, reportArgumentType]
    items = cast("tuple[Any, ...]", index if isinstance(index, tuple) else (index,))
    if entry.spec.dtype.is_string or not shape:
        return read_entry(entry, tuning=tuning)[items]
    if all(_is_basic(item) for item in items):
        return _read_basic(entry, items, tuning)
    if _selects_rows(items[0]):
        return _read_rows(entry, items, tuning)
    return read_entry(entry, tuning=tuning)[items]


def _is_basic(item: object) -> bool:
    if item is None or item is Ellipsis or isinstance(item, slice):
        return True
    return _is_integer(item)


def _is_integer(item: object) -> bool:
    if isinstance(item, (bool, np.bool_, np.ndarray)):
        return False
    return hasattr(item, "__index__")


def _selects_rows(item: object) -> bool:
    """Tells whether an index picks rows by number, or by a mask of the first axis."""
    if item is None or item is Ellipsis or isinstance(item, slice):
        return False
    array = np.asarray(item)
    return array.dtype.kind in "iu" or (array.dtype.kind == "b" and array.ndim == 1)


def _read_basic(entry: TensorEntry, items: tuple[Any, ...], tuning: Tuning) -> Any:
    """Reads an index of integers, slices, `...` and None."""
    shape = entry.spec.shape
    items = _spelled_out(items, len(shape))
    starts: list[int] = []
    stops: list[int] = []
    local: list[Any] = []  # the same index, into the box that is read
    strided: int | None = None  # the first axis cut with gaps
    for item in items:
        if item is None:
            local.append(None)
            continue
        axis = len(starts)
        start, stop, relative, is_gappy = _bounds(item, shape[axis])
        starts.append(start)
        stops.append(stop)
        local.append(relative)
        if is_gappy and strided is None:
            strided = axis
    box = Box(tuple(starts), tuple(stops))
    if box == Box.whole(shape) and strided is None:
        return read_entry(entry, tuning=tuning)[tuple(local)]
    if strided is None or any(n > 1 for n in box.shape[:strided]):
        return read_box(entry, box, tuning)[tuple(local)]
    # Rows with gaps: each is read by itself, so that the gaps are not.
    position = [i for i, item in enumerate(items) if item is not None][strided]
    numbers = np.arange(shape[strided])[items[position]]
    rows = _gather(entry, box, strided, np.sort(numbers), tuning)
    local[position] = slice(None) if items[position].step > 0 else slice(None, None, -1)
    return rows[tuple(local)]


def _spelled_out(items: tuple[Any, ...], rank: int) -> tuple[Any, ...]:
    """Replaces `...` by as many whole axes as it means, and names every axis."""
    missing = rank - sum(item is not None and item is not Ellipsis for item in items)
    whole = (slice(None),) * missing
    for i, item in enumerate(items):
        if item is Ellipsis:
            return (*items[:i], *whole, *items[i + 1 :])
    return (*items, *whole)


def _bounds(item: Any, dim: int) -> tuple[int, int, Any, bool]:
    """First and last element of one axis, the index relative to them, and gaps."""
    if not isinstance(item, slice):
        number = operator.index(item)
        number += dim if number < 0 else 0
        return number, number + 1, 0, False
    numbers = range(dim)[item]
    if not numbers:
        return 0, 0, slice(None), False
    start, stop = min(numbers[0], numbers[-1]), max(numbers[0], numbers[-1]) + 1
    return start, stop, slice(None, None, numbers.step), abs(numbers.step) > 1


def _read_rows(entry: TensorEntry, items: tuple[Any, ...], tuning: Tuning) -> Any:
    """Reads an index that picks rows by numbers or by a mask."""
    rows = np.asarray(items[0])
    numbers = np.flatnonzero(rows) if rows.dtype.kind == "b" else rows
    numbers = np.where(numbers < 0, numbers + entry.spec.shape[0], numbers)
    unique, inverse = np.unique(numbers, return_inverse=True)
    whole = Box.whole(entry.spec.shape)
    compact = _gather(entry, whole, 0, unique, tuning)
    return compact[(inverse.reshape(numbers.shape), *items[1:])]


def _gather(
    entry: TensorEntry, box: Box, axis: int, numbers: np.ndarray, tuning: Tuning
) -> np.ndarray:
    """Reads a box with only some positions of one axis, each run of them at once.

    Args:
        entry: Where the tensor lies.
        box: The box, of length 1 along the axes before `axis`.
        axis: The axis along which positions are chosen.
        numbers: The positions, ascending.
        tuning: How much is read at once.

    Returns:
        Array of the box's shape but for `axis`, which has the chosen positions.
    """
    shape = [*box.shape]
    shape[axis] = len(numbers)
    runs: list[np.ndarray] = []
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    # numbers  3 4 5  9  12 13   ->   boxes  [3, 6)  [9, 10)  [12, 14)   of the axis
    for consecutive in np.split(numbers, breaks):
        if len(consecutive):
            starts, stops = [*box.starts], [*box.stops]
            starts[axis], stops[axis] = int(consecutive[0]), int(consecutive[-1]) + 1
            runs.append(read_box(entry, Box(tuple(starts), tuple(stops)), tuning))
    if not runs:
        return empty(tuple(shape), entry.spec.dtype.numpy)
    return np.concatenate(runs, axis=axis)
