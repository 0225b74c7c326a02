"""Strided views of row-major arrays -> the runs of bytes worth reading; pure functions.

A view is an offset, extents and strides, counted in elements. What lies close together
is read together, gaps and all; what lies far apart is read run by run.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

from tf2flax._base.memory import view_at
from tf2flax._base.values import Box

# What another read costs, as bytes that could be read instead: a page, which a disk
# reads in any case ...
LOCAL_READ_NBYTES: Final = 4 << 10
# ... or a request to another machine.
REMOTE_READ_NBYTES: Final = 256 << 10
# How much that is not the result itself is held at once (bytes).
BUFFER_NBYTES: Final = 4 << 20
# Bytes that are read for each byte needed, at most, where it is worth the trouble ...
MAX_OVER_READ: Final = 8
# ... since they are more than this (bytes) ...
MIN_EXCESS_NBYTES: Final = 1 << 20
# ... and as long as it takes no more reads than this for one view.
MAX_READS: Final = 16_384


@dataclasses.dataclass(frozen=True, slots=True)
class RunBlock:
    """Runs of equal length that are read one after the other, into one buffer.

    Attributes:
        starts: First element of each run, in the array.
        length: Elements of each.
        index: Where the block goes in the result.
        shape: Extents of the block there.
        strides: Steps between its elements in the buffer.
    """

    starts: range
    length: int
    index: tuple[slice, ...]
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def size(self) -> int:
        """Elements that are read."""
        return len(self.starts) * self.length

    @property
    def is_exact(self) -> bool:
        """Whether every element read is wanted, in the order it is read in."""
        return self.size == math.prod(self.shape)


def strides_of(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a row-major array.

    Args:
        shape: Its extents.

    Returns:
        Steps, in elements.
    """
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def strided(
    array: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> np.ndarray:
    """Views an array.

    Args:
        array: The array, contiguous.
        offset: First element, in row-major order.
        shape: Extents of the view, none of them 0.
        strides: Its steps, in elements; all of the view lies within the array.

    Returns:
        The view.

    Examples:
        >>> strided(np.arange(6), 1, (2,), (3,)).tolist()
        [1, 4]
    """
    itemsize = array.itemsize
    return np.ndarray(
        shape,
        array.dtype,
        buffer=array.reshape(-1).view(np.uint8),
        offset=offset * itemsize,
        strides=tuple(step * itemsize for step in strides),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class AxisView:
    """A view of which every axis runs along one axis of the array.

    Attributes:
        starts: Where its first element lies, along every axis of the array.
        along: For every axis of the view, the array's axis and the step.
        box: The smallest box of the array that holds it.
    """

    starts: tuple[int, ...]
    along: tuple[tuple[int, int], ...]
    box: Box

    @property
    def is_box(self) -> bool:
        """Whether boxes of the array hold boxes of it: no two of its axes share one."""
        moving = [axis for axis, count in self.along if count]
        return len(set(moving)) == len(moving)

    def part_in(self, box: Box, shape: tuple[int, ...]) -> Box | None:
        """The part of the view that lies in a box of the array; for one that `is_box`.

        Args:
            box: The box of the array.
            shape: Extents of the view.

        Returns:
            A box of the view; None where nothing of it lies there.

        Examples:
            >>> view = along_axes((4, 6), 23, (4, 3), (-6, -2))  # array[::-1, ::-2]
            >>> view.part_in(Box((0, 0), (3, 4)), (4, 3))
            Box(starts=(1, 1), stops=(4, 3))
        """
        starts, stops = [0] * len(shape), list(shape)
        resting = set(range(len(self.starts)))
        for i, (axis, count) in enumerate(self.along):
            if not count:
                continue
            resting.discard(axis)
            low = box.starts[axis] - self.starts[axis]
            high = box.stops[axis] - self.starts[axis]
            if count < 0:  # as if counted from the other side
                low, high = 1 - high, 1 - low
            step = abs(count)
            starts[i] = max(0, -(-low // step))
            stops[i] = min(shape[i], -(-high // step))
            if starts[i] >= stops[i]:
                return None
        if any(
            not box.starts[axis] <= self.starts[axis] < box.stops[axis]
            for axis in resting
        ):
            return None
        return Box(tuple(starts), tuple(stops))

    def within(self, box: Box) -> tuple[int, tuple[int, ...]]:
        """Its offset and strides in a row-major array that holds a box.

        Args:
            box: A box of the array, around `box`.

        Returns:
            First element and steps.
        """
        own = strides_of(box.shape)
        offsets = zip(self.starts, box.starts, own, strict=True)
        first = sum((start - low) * step for start, low, step in offsets)
        steps = (count * own[axis] if count else 0 for axis, count in self.along)
        return first, tuple(steps)


def along_axes(
    base: tuple[int, ...],
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
) -> AxisView | None:
    """Finds out along which axes of an array a view runs.

    Args:
        base: Shape of the array.
        offset: The view's first element.
        shape: Its extents, none of them 0.
        strides: Its steps.

    Returns:
        The view by axes; None where some axis of it runs along several.

    Examples:
        >>> along_axes((4, 5), 6, (2, 3), (1, 5)).box
        Box(starts=(1, 1), stops=(4, 3))
    """
    own = strides_of(base)
    starts: list[int] = []
    rest = offset
    for step in own:
        start, rest = divmod(rest, step) if step else (0, rest)
        starts.append(start)
    lows, highs = list(starts), list(starts)
    along: list[tuple[int, int]] = []
    for extent, step in zip(shape, strides, strict=True):
        if extent == 1:
            along.append((0, 0))
            continue
        axis = next((a for a, s in enumerate(own) if base[a] > 1 and s <= abs(step)), 0)
        count, rest = divmod(step, own[axis])
        if rest:
            return None
        along.append((axis, count))
        ends = highs if count > 0 else lows
        ends[axis] += count * (extent - 1)
    spans = zip(lows, highs, base, strict=True)
    if any(low < 0 or high >= dim for low, high, dim in spans):
        return None
    box = Box(tuple(lows), tuple(high + 1 for high in highs))
    return AxisView(tuple(starts), tuple(along), box)


def rows_around(
    base: tuple[int, ...],
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
) -> Box:
    """Finds the rows of an array, along its first axis, that hold a view of it.

    Args:
        base: Shape of the array, of at least one axis.
        offset: The view's first element.
        shape: Its extents, none of them 0.
        strides: Its steps.

    Returns:
        The box of whole rows.
    """
    moves = [(n - 1) * s for n, s in zip(shape, strides, strict=True)]
    first = offset + sum(move for move in moves if move < 0)
    last = offset + sum(move for move in moves if move > 0)
    row = math.prod(base[1:])
    return Box((first // row, *(0 for _ in base[1:])), (last // row + 1, *base[1:]))


def ascending(
    offset: int, strides: tuple[int, ...], out: np.ndarray
) -> tuple[int, tuple[int, ...], np.ndarray]:
    """Turns a view, and the array it fills, so that elements lie in ascending order.

    Args:
        offset: The view's first element.
        strides: Its steps.
        out: Array of the view's shape, not empty.

    Returns:
        The view turned so, without axes of extent 1, and the array turned likewise.
    """
    index: list[Any] = []
    for axis, stride in enumerate(strides):
        extent = out.shape[axis]
        if extent == 1:
            index.append(0)
        elif stride < 0:
            offset += (extent - 1) * stride
            index.append(slice(None, None, -1))
        else:
            index.append(slice(None))
    kept = [abs(s) for s, n in zip(strides, out.shape, strict=True) if n != 1]
    out = view_at(out, tuple(index))
    order = sorted(range(len(kept)), key=lambda axis: -kept[axis])
    return offset, tuple(kept[axis] for axis in order), out.transpose(order)


def blocks(
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    itemsize: int,
    read_nbytes: int,
) -> Iterator[RunBlock]:
    """Cuts a view into blocks, so that reading them takes the least time.

    At most eight bytes are read for each that is needed, unless the excess is small or
    it took more than 16,384 reads to avoid it.

    Args:
        offset: First element.
        shape: Extents, none of them 0.
        strides: Steps, positive, in descending order.
        itemsize: Bytes per element.
        read_nbytes: What one more read costs, as bytes.

    Yields:
        Blocks of at most 4 MiB, or single runs.

    Examples:
        >>> [(b.starts, b.length) for b in blocks(1, (2, 2), (5, 1), 1, read_nbytes=1)]
        [(range(1, 11, 5), 2)]
        >>> [(b.starts, b.length) for b in blocks(1, (2, 2), (5, 1), 1, read_nbytes=4)]
        [(range(1, 2), 7)]
    """
    level = _best_level(shape, strides, itemsize, read_nbytes)
    span = _span(shape[level:], strides[level:])
    together = BUFFER_NBYTES // (span * itemsize) if level else 0
    if together < 2:
        for outer in itertools.product(*(range(n) for n in shape[:level])):
            start = offset + sum(i * s for i, s in zip(outer, strides, strict=False))
            index = tuple(slice(i, i + 1) for i in outer)
            own = (1,) * level + shape[level:]
            yield from _bounded(start, index, own, strides, itemsize)
        return
    for outer in itertools.product(*(range(n) for n in shape[: level - 1])):
        start = offset + sum(i * s for i, s in zip(outer, strides, strict=False))
        step = strides[level - 1]
        for first in range(0, shape[level - 1], together):
            count = min(together, shape[level - 1] - first)
            begin = start + first * step
            yield RunBlock(
                starts=range(begin, begin + count * step, step),
                length=span,
                index=(
                    *(slice(i, i + 1) for i in outer),
                    slice(first, first + count),
                    *(slice(0, n) for n in shape[level:]),
                ),
                shape=(*(1 for _ in outer), count, *shape[level:]),
                strides=(*(0 for _ in outer), span, *strides[level:]),
            )


def _best_level(
    shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int, read_nbytes: int
) -> int:
    """The axis from which on a view is read in one, gaps included."""

    def reads(level: int) -> int:
        return math.prod(shape[:level])

    def is_sparing(level: int) -> bool:
        needed = math.prod(shape[level:])
        span = _span(shape[level:], strides[level:])
        excess = reads(level) * (span - needed) * itemsize
        return excess <= MIN_EXCESS_NBYTES or span <= MAX_OVER_READ * needed

    def cost(level: int) -> int:
        span = _span(shape[level:], strides[level:])
        return reads(level) * (read_nbytes + span * itemsize)

    levels = range(len(shape) + 1)
    sparing = [j for j in levels if is_sparing(j) and reads(j) <= MAX_READS]
    return min(sparing or levels, key=cost)


def _bounded(
    start: int,
    index: tuple[slice, ...],
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    itemsize: int,
) -> Iterator[RunBlock]:
    """Cuts a block until it is a run, or no larger than the buffer."""
    span = _span(shape, strides)
    axis = next((a for a, n in enumerate(shape) if n > 1), None)
    if axis is None or span == math.prod(shape) or span * itemsize <= BUFFER_NBYTES:
        tail = tuple(slice(0, n) for n in shape[len(index) :])
        yield RunBlock(range(start, start + 1), span, (*index, *tail), shape, strides)
        return
    inner = _span(shape[axis + 1 :], strides[axis + 1 :])
    step = max(1, (BUFFER_NBYTES // itemsize - inner) // strides[axis] + 1)
    head = (*index, *(slice(0, 1) for _ in range(axis - len(index))))[:axis]
    for first in range(0, shape[axis], step):
        count = min(step, shape[axis] - first)
        yield from _bounded(
            start + first * strides[axis],
            (*head, slice(first, first + count)),
            (*shape[:axis], count, *shape[axis + 1 :]),
            strides,
            itemsize,
        )


def _span(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Elements from the first to the last of a view, both included."""
    return 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
