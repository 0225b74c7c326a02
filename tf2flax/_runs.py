"""Boxes of row-major arrays -> the runs of bytes in which they lie; pure functions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Final

from ._specs import ByteRange, TensorSlice

# Runs at least this long are read one by one; shorter ones are not worth a system call
# each, so whole rows are read and cut (bytes).
MIN_RUN_NBYTES: Final = 64 << 10
# How much of a widened box is held besides the result (bytes).
ROWS_NBYTES: Final = 4 << 20


def widen(region: TensorSlice, shape: tuple[int, ...], itemsize: int) -> TensorSlice:
    """Widens a box until it is read in few or long runs, never beyond its rows.

    Args:
        region: Box of a row-major array, not empty.
        shape: Shape of that array.
        itemsize: Bytes per element.

    Returns:
        The box itself where it is one run, or runs of at least 64 KiB; otherwise one
        with trailing axes whole, down to whole rows.

    Examples:
        >>> widen(TensorSlice((2, 1), (4, 2)), (10, 3), itemsize=4)
        TensorSlice(starts=(2, 0), stops=(4, 3))
    """
    starts, stops = list(region.starts), list(region.stops)
    for axis in reversed(range(1, len(shape))):
        box = TensorSlice(tuple(starts), tuple(stops))
        count, run_nbytes = _run_shape(box, shape, itemsize)
        if count == 1 or run_nbytes >= MIN_RUN_NBYTES:
            return box
        starts[axis], stops[axis] = 0, shape[axis]
    return TensorSlice(tuple(starts), tuple(stops))


def runs(
    region: TensorSlice, shape: tuple[int, ...], itemsize: int
) -> Iterator[ByteRange]:
    """Locates a box of a row-major array as contiguous runs, in row-major order.

    Args:
        region: Box of the array, not empty.
        shape: Shape of the array.
        itemsize: Bytes per element.

    Yields:
        Spans relative to the array's first byte.

    Examples:
        >>> list(runs(TensorSlice((0, 1), (2, 3)), (4, 5), itemsize=1))
        [ByteRange(start=1, stop=3), ByteRange(start=6, stop=8)]
    """
    count, run_nbytes = _run_shape(region, shape, itemsize)
    strides = [itemsize * math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    first = sum(a * s for a, s in zip(region.starts, strides, strict=True))
    if count == 1:
        yield ByteRange(first, first + run_nbytes)
        return
    outer = _outer_axes(region, shape)
    for index in itertools.product(*(range(n) for n in region.shape[:outer])):
        start = first + sum(i * s for i, s in zip(index, strides, strict=False))
        yield ByteRange(start, start + run_nbytes)


def _outer_axes(region: TensorSlice, shape: tuple[int, ...]) -> int:
    """Number of leading axes that separate the runs of a box."""
    extents = region.shape
    for axis in reversed(range(len(shape))):
        if extents[axis] != shape[axis]:
            return axis
    return 0


def _run_shape(
    region: TensorSlice, shape: tuple[int, ...], itemsize: int
) -> tuple[int, int]:
    """Number of runs of a box, and bytes of each."""
    outer = _outer_axes(region, shape)
    extents = region.shape
    return math.prod(extents[:outer]), math.prod(extents[outer:]) * itemsize


def row_chunks(region: TensorSlice, itemsize: int) -> Iterator[TensorSlice]:
    """Cuts a box along its first axis, to bound what is held besides the result.

    Args:
        region: The box, of at least one axis.
        itemsize: Bytes per element.

    Yields:
        Boxes of at most 4 MiB each, or of one row.
    """
    row_nbytes = itemsize * math.prod(region.shape[1:])
    step = max(1, ROWS_NBYTES // max(row_nbytes, 1))
    for start in range(region.starts[0], region.stops[0], step):
        yield TensorSlice(
            (start, *region.starts[1:]),
            (min(start + step, region.stops[0]), *region.stops[1:]),
        )
