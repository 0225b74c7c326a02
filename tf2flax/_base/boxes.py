"""Boxes and strided views of arrays: cut, restricted, merged; pure functions."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Iterator

from .values import Box


def distance(starts: Iterable[int], strides: Iterable[int]) -> int:
    """Counts the elements from the first of a view to the first of a box of the view.

    Args:
        starts: Where the box starts.
        strides: Strides of the view, in elements.

    Returns:
        The number of elements; negative where strides lead back.

    Examples:
        >>> distance((1, 2), (10, -1))
        8
    """
    return sum(map(operator.mul, starts, strides))


def boxes_in_run(
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    start: int,
    stop: int,
) -> Iterator[Box]:
    """Finds the boxes of a view whose elements lie in a run of elements.

    A view of shape (4, 3) and strides (5, 1), and the run [6, 17); elements that the
    view does not have are dots:

         0   1   2   .   .
         5  [6   7   .   .      [1:2, 1:3]    the end of a row
        10  11  12   .   .      [2:3, 0:3]    whole rows, as many as there are
        15  16) 17   .   .      [3:4, 0:2]    the beginning of a row

    Args:
        offset: First element of the view.
        shape: Shape of the view.
        strides: Its strides, in any order and of any sign. All elements along the axes
            of shorter strides lie within one step of a longer one.
        start: First element of the run.
        stop: The element after the last one.

    Yields:
        Boxes of the view, in ascending order of their elements.

    Examples:
        >>> [(box.starts, box.stops) for box in boxes_in_run(0, (4,), (3,), 3, 8)]
        [((1,), (3,))]
        >>> list(boxes_in_run(0, (2, 3), (3, 1), 1, 6))[1]
        Box(starts=(1, 0), stops=(2, 3))
    """
    if 0 in shape or start >= stop:
        return
    moves = [(n - 1) * stride for n, stride in zip(shape, strides, strict=True)]
    # Where strides are negative, the lowest element is not the first one of the view.
    lowest = offset + sum(move for move in moves if move < 0)
    if lowest >= start and lowest + sum(map(abs, moves)) < stop:
        yield Box.whole(shape)  # by far the most common case
        return
    # Axes of length 1 keep the range [0:1]; longest strides come first.
    axes = [axis for axis, length in enumerate(shape) if length > 1]
    axes.sort(key=lambda axis: -abs(strides[axis]))
    lengths = [shape[axis] for axis in axes]
    steps = [abs(strides[axis]) for axis in axes]
    for ranges in _ranges_in_run(lengths, steps, start - lowest, stop - lowest):
        starts, stops = [0] * len(shape), [1] * len(shape)
        for axis, (first, last) in zip(axes, ranges, strict=True):
            # Ranges count upwards from the lowest element along every axis.
            is_falling = strides[axis] < 0
            starts[axis] = shape[axis] - last if is_falling else first
            stops[axis] = shape[axis] - first if is_falling else last
        yield Box(tuple(starts), tuple(stops))


def _ranges_in_run(
    lengths: list[int], steps: list[int], start: int, stop: int
) -> Iterator[list[tuple[int, int]]]:
    """Finds the boxes of a view in a run, counted from the view's lowest element.

    Along the outermost axis, a row begins every `step` elements and reaches over
    `width` elements:

        row       0      1      2      3      4      5
                |----| |----| |----| |----| |----| |----|
        run               [---------------------)
                        partly wholly wholly partly

        first = 1, inner = range(2, 4), last = 5

    Args:
        lengths: Lengths of the axes, outermost first, none of them 1.
        steps: Their strides, falling and positive.
        start: First element of the run, from the lowest one of the view on; below 0 if
            the run begins before the view.
        stop: The element after the last one.

    Yields:
        Ranges along the axes, in ascending order of their elements.
    """
    if not lengths:
        if start <= 0 < stop:
            yield []
        return
    length, step = lengths[0], steps[0]
    inner_lengths, inner_steps = lengths[1:], steps[1:]
    # From the first element of a row to the one after its last.
    width = 1 + sum(
        (n - 1) * s for n, s in zip(inner_lengths, inner_steps, strict=True)
    )
    # Row i has the elements [i * step, i * step + width). It reaches into the run if
    # `i * step + width > start` and `i * step < stop`: rows `[first, last)`.
    first = max(0, (start - width) // step + 1)
    last = min(length, -(-stop // step))
    # It lies within the run if `i * step >= start` and `i * step + width <= stop`.
    inner = range(max(first, -(-start // step)), min(last, (stop - width) // step + 1))
    if not inner:
        inner = range(last, last)

    def row_by_row(rows: range) -> Iterator[list[tuple[int, int]]]:
        for row in rows:
            skipped = row * step
            for ranges in _ranges_in_run(
                inner_lengths, inner_steps, start - skipped, stop - skipped
            ):
                yield [(row, row + 1), *ranges]

    yield from row_by_row(range(first, inner.start))
    if inner:
        yield [(inner.start, inner.stop), *((0, n) for n in inner_lengths)]
    yield from row_by_row(range(inner.stop, last))


def cut_into_boxes(
    shape: tuple[int, ...], strides: tuple[int, ...], max_size: int
) -> Iterator[Box]:
    """Cuts a view into boxes of bounded size, across its longest strides first.

    So each box lies close together in memory or in the file.

    Args:
        shape: Shape of the view, without a 0.
        strides: Its strides.
        max_size: Elements of a box, at most.

    Yields:
        Boxes that cover the view without overlap.

    Examples:
        >>> [box.shape for box in cut_into_boxes((4, 3), (1, 4), max_size=8)]
        [(4, 2), (4, 1)]
    """
    yield from _cut_box(Box.whole(shape), strides, max(1, max_size))


def _cut_box(box: Box, strides: tuple[int, ...], max_size: int) -> Iterator[Box]:
    if box.size <= max_size:
        yield box
        return
    shape = box.shape
    axis = max(
        (axis for axis, length in enumerate(shape) if length > 1),
        key=lambda axis: abs(strides[axis]),
    )
    # As many rows of the axis as fit; if not even one does, it is cut in turn.
    rows = max(1, max_size // (box.size // shape[axis]))
    for first in range(box.starts[axis], box.stops[axis], rows):
        last = min(first + rows, box.stops[axis])
        starts = (*box.starts[:axis], first, *box.starts[axis + 1 :])
        stops = (*box.stops[:axis], last, *box.stops[axis + 1 :])
        yield from _cut_box(Box(starts, stops), strides, max_size)


def merge_boxes(boxes: Iterable[Box]) -> tuple[Box, ...]:
    """Joins boxes that touch or overlap, as long as the result is a box.

        a a b b .         a a a a .       a and b have the same rows; c has others,
        a a b b .    ->   a a a a .       so that it stays
        . . c c .         . . c c .

    Args:
        boxes: Boxes of one array.

    Returns:
        Fewer boxes, or as many, of the same elements.

    Examples:
        >>> merge_boxes([Box((i,), (i + 2,)) for i in (0, 2, 6)])
        (Box(starts=(0,), stops=(4,)), Box(starts=(6,), stops=(8,)))
    """
    return _merge(tuple(boxes))


@functools.lru_cache(maxsize=1024)  # many leaves are alike
def _merge(boxes: tuple[Box, ...]) -> tuple[Box, ...]:
    result = sorted(set(boxes))
    count = 0
    # A join along one axis may make another one possible along an axis before it.
    while len(result) not in (1, count):
        count = len(result)
        for axis in reversed(range(len(result[0].starts))):
            result = _merge_along(result, axis)
    return tuple(result)


def _merge_along(boxes: list[Box], axis: int) -> list[Box]:
    """Joins boxes that differ along one axis alone and touch or overlap there."""

    def across(box: Box) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The ranges along all other axes, which boxes to be joined share."""
        starts, stops = box.starts, box.stops
        return starts[:axis] + starts[axis + 1 :], stops[:axis] + stops[axis + 1 :]

    result: list[Box] = []
    # Boxes that can be joined follow each other, in ascending order along the axis.
    for box in sorted(boxes, key=lambda box: (across(box), box.starts[axis])):
        last = result[-1] if result else None
        if (
            last is not None
            and across(last) == across(box)
            and box.starts[axis] <= last.stops[axis]
        ):
            stop = max(last.stops[axis], box.stops[axis])
            stops = (*last.stops[:axis], stop, *last.stops[axis + 1 :])
            result[-1] = Box(last.starts, stops)
        else:
            result.append(box)
    return sorted(result)
