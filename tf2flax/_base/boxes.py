"""Boxes and strided views of arrays: cut, restricted, merged; pure functions."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator

from .values import Box


def distance(starts: Iterable[int], strides: Iterable[int]) -> int:
    """Elements between the first element of a view and that of a box of it.

    Args:
        starts: Where the box begins.
        strides: The view's steps.

    Returns:
        How many; negative where steps lead back.

    Examples:
        >>> distance((1, 2), (10, -1))
        8
    """
    return sum(map(operator.mul, starts, strides))


def restrict(
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    start: int,
    stop: int,
) -> Iterator[Box]:
    """Finds the part of a view that lies in a run of elements.

    Args:
        offset: The view's first element.
        shape: Its extents.
        strides: Its steps, in any order and of any sign; the span of an axis with
            shorter steps fits into one step of an axis with longer ones.
        start: First element of the run.
        stop: The element behind it.

    Yields:
        Boxes of the view, in ascending order of their elements.

    Examples:
        >>> [(box.starts, box.stops) for box in restrict(0, (4,), (3,), 3, 8)]
        [((1,), (3,))]
        >>> list(restrict(0, (2, 3), (3, 1), 1, 6))[1]
        Box(starts=(1, 0), stops=(2, 3))
    """
    if 0 in shape or start >= stop:
        return
    moves = [(n - 1) * s for n, s in zip(shape, strides, strict=True)]
    low = offset + sum(move for move in moves if move < 0)
    if low >= start and low + sum(map(abs, moves)) < stop:
        yield Box.whole(shape)
        return
    axes = [axis for axis, extent in enumerate(shape) if extent > 1]
    axes.sort(key=lambda axis: -abs(strides[axis]))
    starts, stops = [0] * len(shape), [1] * len(shape)

    def set_range(axis: int, first: int, last: int) -> None:
        """Counts along an axis from its lowest element on."""
        extent = shape[axis]
        is_falling = strides[axis] < 0
        starts[axis] = extent - last if is_falling else first
        stops[axis] = extent - first if is_falling else last

    def below(level: int, low: int) -> Iterator[Box]:
        if level == len(axes):
            if start <= low < stop:
                yield Box(tuple(starts), tuple(stops))
            return
        axis, inner = axes[level], axes[level + 1 :]
        step, extent = abs(strides[axis]), shape[axis]
        span = 1 + sum((shape[a] - 1) * abs(strides[a]) for a in inner)
        first = max(0, (start - span - low) // step + 1)
        last = min(extent, -((low - stop) // step))
        if first >= last:
            return
        full = range(
            max(first, -((low - start) // step)),
            min(last, (stop - span - low) // step + 1),
        )
        before, behind = (full.start, full.stop) if full else (last, last)
        for i in range(first, before):
            set_range(axis, i, i + 1)
            yield from below(level + 1, low + i * step)
        if full:
            set_range(axis, full.start, full.stop)
            for a in inner:
                set_range(a, 0, shape[a])
            yield Box(tuple(starts), tuple(stops))
        for i in range(behind, last):
            set_range(axis, i, i + 1)
            yield from below(level + 1, low + i * step)

    yield from below(0, low)


def tiles(
    shape: tuple[int, ...], strides: tuple[int, ...], max_size: int
) -> Iterator[Box]:
    """Cuts a view into boxes of bounded size, across its longest steps first.

    Args:
        shape: Extents of the view, none of them 0.
        strides: Its steps.
        max_size: Elements of a box, at most.

    Yields:
        Boxes that tile the view.

    Examples:
        >>> [box.shape for box in tiles((4, 3), (1, 4), max_size=8)]
        [(4, 2), (4, 1)]
    """
    box = Box.whole(shape)
    yield from _cut_tiles(box, strides, max(1, max_size))


def _cut_tiles(box: Box, strides: tuple[int, ...], max_size: int) -> Iterator[Box]:
    if box.size <= max_size:
        yield box
        return
    shape = box.shape
    axis = max(
        (axis for axis, extent in enumerate(shape) if extent > 1),
        key=lambda axis: abs(strides[axis]),
    )
    step = max(1, max_size // (box.size // shape[axis]))
    for first in range(box.starts[axis], box.stops[axis], step):
        last = min(first + step, box.stops[axis])
        starts = (*box.starts[:axis], first, *box.starts[axis + 1 :])
        stops = (*box.stops[:axis], last, *box.stops[axis + 1 :])
        yield from _cut_tiles(Box(starts, stops), strides, max_size)


def merged(boxes: Iterable[Box]) -> tuple[Box, ...]:
    """Joins boxes that stand next to each other, as long as the result is a box.

    Args:
        boxes: Boxes of one array.

    Returns:
        Fewer boxes, or as many, of the same elements.

    Examples:
        >>> merged([Box((i,), (i + 2,)) for i in (0, 2, 6)])
        (Box(starts=(0,), stops=(4,)), Box(starts=(6,), stops=(8,)))
    """
    result = sorted(set(boxes))
    count = 0
    while len(result) not in (1, count):
        count = len(result)
        for axis in reversed(range(len(result[0].starts))):
            result = _merged_along(result, axis)
    return tuple(result)


def _merged_along(boxes: list[Box], axis: int) -> list[Box]:
    def others(box: Box) -> tuple[tuple[int, ...], ...]:
        starts, stops = box.starts, box.stops
        return (
            starts[:axis] + starts[axis + 1 :],
            stops[:axis] + stops[axis + 1 :],
            (starts[axis],),
        )

    result: list[Box] = []
    for box in sorted(boxes, key=others):
        last = result[-1] if result else None
        if (
            last is not None
            and others(last)[:2] == others(box)[:2]
            and box.starts[axis] <= last.stops[axis]
        ):
            stop = max(last.stops[axis], box.stops[axis])
            stops = (*last.stops[:axis], stop, *last.stops[axis + 1 :])
            result[-1] = Box(last.starts, stops)
        else:
            result.append(box)
    return sorted(result)
