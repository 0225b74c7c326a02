"""Strided views of row-major arrays: which axes they run along, what holds them.

A view is an offset, a shape and strides, counted in elements: element `(i, j)` of it is
element `offset + i * strides[0] + j * strides[1]` of the array. Pure functions.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tf2flax._base.memory import view_at
from tf2flax._base.values import Box


def strides_of(shape: Sequence[int]) -> tuple[int, ...]:
    """Computes the strides of a row-major array, in elements."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def strided(
    array: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> np.ndarray:
    """Views an array.

    Args:
        array: The array, contiguous.
        offset: First element, in row-major order.
        shape: Shape of the view; without a 0.
        strides: Its steps, in elements; all of the view lies within the array.

    Returns:
        The view.

    Examples:
        >>> strided(np.arange(6), 1, (2,), (3,)).tolist()
        [1, 4]
    """
    itemsize = array.itemsize
    # Of bytes, since some dtypes of ml_dtypes cannot be exported as a buffer.
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
        starts: Position of its first element, along every axis of the array.
        along: For every axis of the view, the array's axis and the step; (0, 0) where
            the length is 1.
        box: The smallest box of the array that holds it.
    """

    starts: tuple[int, ...]
    along: tuple[tuple[int, int], ...]
    box: Box

    @property
    def is_box(self) -> bool:
        """True if boxes of the array hold boxes of it: no two of its axes share one."""
        moving = [axis for axis, step in self.along if step]
        return len(set(moving)) == len(moving)

    def part_in(self, box: Box, shape: tuple[int, ...]) -> Box | None:
        """Finds the part of the view in a box of the array; for one that `is_box`.

        Along one axis, where the view starts at 9 and goes back by 2::

            array   0 1 2 3 4 5 6 7 8 9      the box holds 2 .. 6
            box         [ . . . . )          seen from 9: -7 .. -3
            view        4   3   2   1   0    mirrored: 3 .. 7, which are steps 2 and 3

        Args:
            box: The box of the array.
            shape: Shape of the view.

        Returns:
            A box of the view; None where nothing of it lies there.

        Examples:
            >>> view = along_axes((4, 6), 23, (4, 3), (-6, -2))  # array[::-1, ::-2]
            >>> view.part_in(Box((0, 0), (3, 4)), (4, 3))
            Box(starts=(1, 1), stops=(4, 3))
        """
        starts, stops = [0] * len(shape), list(shape)
        resting = set(range(len(self.starts)))
        for i, (axis, step) in enumerate(self.along):
            if not step:
                continue
            resting.discard(axis)
            low = box.starts[axis] - self.starts[axis]
            high = box.stops[axis] - self.starts[axis]
            if step < 0:  # mirrored, so that the half-open end changes sides
                low, high = 1 - high, 1 - low
            # Rounded up: the first step at or behind each edge.
            starts[i] = max(0, -(-low // abs(step)))
            stops[i] = min(shape[i], -(-high // abs(step)))
            if starts[i] >= stops[i]:
                return None
        # Along the axes where the view stays, it lies in the box as a whole or not.
        if any(
            not box.starts[axis] <= self.starts[axis] < box.stops[axis]
            for axis in resting
        ):
            return None
        return Box(tuple(starts), tuple(stops))

    def within(self, box: Box) -> tuple[int, tuple[int, ...]]:
        """Computes offset and strides in a row-major array that holds only a box.

        Args:
            box: A box of the array, around `self.box`.

        Returns:
            First element and steps.
        """
        box_strides = strides_of(box.shape)
        offsets = zip(self.starts, box.starts, box_strides, strict=True)
        first = sum((start - low) * stride for start, low, stride in offsets)
        steps = (step * box_strides[axis] if step else 0 for axis, step in self.along)
        return first, tuple(steps)


def along_axes(
    base: tuple[int, ...],
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
) -> AxisView | None:
    """Finds out along which axes of an array a view runs.

    Of an array of shape (4, 5), whose strides are (5, 1)::

        . . . . .      offset 6 = 1 * 5 + 1: starts (1, 1)
        . x x x .      strides (1, 5) of the view (2, 3) are steps of 1 along axis 1
        . x x x .      and of 1 along axis 0 (so it is transposed)
        . x x x .      box: rows 1 .. 4, columns 1 .. 3 of it

    Args:
        base: Shape of the array.
        offset: The view's first element.
        shape: Its shape; without a 0.
        strides: Its steps.

    Returns:
        The view by axes; None where some axis of it runs along several.

    Examples:
        >>> along_axes((4, 5), 6, (2, 3), (1, 5)).box
        Box(starts=(1, 1), stops=(4, 3))
    """
    base_strides = strides_of(base)
    starts: list[int] = []
    remainder = offset
    for stride in base_strides:
        start, remainder = divmod(remainder, stride) if stride else (0, remainder)
        starts.append(start)
    lows, lasts = list(starts), list(starts)
    along: list[tuple[int, int]] = []
    for length, step in zip(shape, strides, strict=True):
        if length == 1:  # its step means nothing
            along.append((0, 0))
            continue
        # The first axis whose rows are no longer than the step; later ones would have
        # to be left and entered again within one axis of the view.
        axis = next(
            (a for a, s in enumerate(base_strides) if base[a] > 1 and s <= abs(step)), 0
        )
        count, remainder = divmod(step, base_strides[axis])
        if remainder:
            return None
        along.append((axis, count))
        ends = lasts if count > 0 else lows
        ends[axis] += count * (length - 1)
    # A view that wraps from one row into the next leaves the array along its axis.
    bounds = zip(lows, lasts, base, strict=True)
    if any(low < 0 or last >= length for low, last, length in bounds):
        return None
    box = Box(tuple(lows), tuple(last + 1 for last in lasts))
    return AxisView(tuple(starts), tuple(along), box)


def rows_around(
    base: tuple[int, ...],
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
) -> Box:
    """Finds the rows of an array, along its first axis, that hold a view of it.

    A view of elements 7, 11 and 15 of an array of shape (4, 5)::

        . . . . .
        . . 7 . .      lowest element // 5  = row 1
        . x . . .
        x . . . .      highest element // 5 = row 3: rows 1 .. 4

    Args:
        base: Shape of the array, of at least one axis.
        offset: The view's first element.
        shape: Its shape; without a 0.
        strides: Its steps.

    Returns:
        The box of whole rows.
    """
    moves = [(n - 1) * s for n, s in zip(shape, strides, strict=True)]
    lowest = offset + sum(move for move in moves if move < 0)
    highest = offset + sum(move for move in moves if move > 0)
    row_size = math.prod(base[1:])
    return Box(
        (lowest // row_size, *(0 for _ in base[1:])),
        (highest // row_size + 1, *base[1:]),
    )


def ascending(
    offset: int, strides: tuple[int, ...], out: np.ndarray
) -> tuple[int, tuple[int, ...], np.ndarray]:
    """Turns a view, and the array it fills, so that elements lie in ascending order.

    Args:
        offset: The view's first element.
        strides: Its steps.
        out: Array of the view's shape, not empty.

    Returns:
        The view turned so, without axes of length 1, and the array turned likewise.

    Examples:
        >>> offset, strides, _ = ascending(5, (1, -3), np.zeros((3, 2)))
        >>> offset, strides  # from 2 on, rows of 3
        (2, (3, 1))
    """
    index: list[Any] = []
    for axis, stride in enumerate(strides):
        length = out.shape[axis]
        if length == 1:
            index.append(0)
        elif stride < 0:  # from its last element on, which is the lowest
            offset += (length - 1) * stride
            index.append(slice(None, None, -1))
        else:
            index.append(slice(None))
    kept = [abs(s) for s, n in zip(strides, out.shape, strict=True) if n != 1]
    out = view_at(out, tuple(index))
    order = sorted(range(len(kept)), key=lambda axis: -kept[axis])
    return offset, tuple(kept[axis] for axis in order), out.transpose(order)
