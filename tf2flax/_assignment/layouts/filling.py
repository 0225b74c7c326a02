"""Layouts -> arrays: any box of a layout, from the views that it is made of.

Nothing here opens a file: whoever fills says how a view is read.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np

from tf2flax._base.dtypes import forced_cast
from tf2flax._base.memory import empty, shape_only, view_at
from tf2flax._base.values import Box

from .nodes import (
    Layout,
    ReshapedLayout,
    RowsLayout,
    SlicedLayout,
    Tiles,
    TransposedLayout,
    View,
    cut,
)
from .shapes import axis_groups

# Rows that are taken are read with those between them if the next one is this near ...
MAX_ROW_GAP: Final = 8
# ... and as long as all of these take no more than this (bytes).
ROWS_NBYTES: Final = 4 << 20
# Fills an array with a view of a tensor: the elements alone, before any cast.
Fetch = Callable[[View, np.ndarray], None]


def parts_within(node: Layout, box: Box) -> Iterator[View]:
    """Lists the views that filling a box of a layout reads.

    Args:
        node: The layout.
        box: The box.

    Yields:
        Views; some elements may be in several.
    """

    def fetch(view: View, _out: np.ndarray) -> None:
        found.append(view)

    found: list[View] = []
    fill(node, box, shape_only(box.shape), fetch)
    yield from found


def fill(node: Layout, box: Box, out: np.ndarray, fetch: Fetch) -> None:
    """Fills an array with a box of a layout.

    Args:
        node: The layout.
        box: The box, within the layout's shape.
        out: Array of the box's shape and the layout's dtype; a `shape_only` array has
            every view fetched and nothing written.
        fetch: Reads a view into an array of its shape and the tensor's dtype.
    """
    if box.size == 0:
        return
    match node:
        case View():
            items = [(a, 1, b - a) for a, b in zip(box.starts, box.stops, strict=True)]
            view = cut(node, items)
            assert isinstance(view, View)
            _fill_view(view, out, fetch)
        case Tiles():
            for starts, part in node.parts:
                stops = tuple(a + n for a, n in zip(starts, part.shape, strict=True))
                tile = Box(starts, stops)
                shared = tile.intersection(box)
                if shared is not None:
                    target = view_at(out, shared.within(box))
                    fill(part, shared.relative_to(tile), target, fetch)
        case TransposedLayout():
            back = tuple(node.axes.index(axis) for axis in range(len(node.axes)))
            below = Box(
                tuple(box.starts[a] for a in back), tuple(box.stops[a] for a in back)
            )
            fill(node.operand, below, out.transpose(back), fetch)
        case SlicedLayout():
            _fill_sliced(node, box, out, fetch)
        case RowsLayout():
            _fill_rows(node, box, out, fetch)
        case ReshapedLayout():
            _fill_reshaped_layout(node, box, out, fetch)


def _is_dry(out: np.ndarray) -> bool:
    return not out.flags.writeable


def _fill_view(view: View, out: np.ndarray, fetch: Fetch) -> None:
    # The first step of a cast needs a place for the tensor's own elements.
    plain = dataclasses.replace(view, casts=())
    if not view.casts or _is_dry(out):
        fetch(plain, out)
        return
    array = empty(view.shape, plain.dtype)
    fetch(plain, array)
    for dtype in view.casts[:-1]:
        array = forced_cast(array, dtype)
    out[...] = forced_cast(array, view.casts[-1])


def _fill_from(node: Layout, box: Box, out: np.ndarray, fetch: Fetch) -> np.ndarray:
    """Fills a new array with a box of a layout: for what has to be mixed afterwards."""
    array = shape_only(box.shape) if _is_dry(out) else empty(box.shape, node.dtype)
    fill(node, box, array, fetch)
    return array


def _fill_sliced(node: SlicedLayout, box: Box, out: np.ndarray, fetch: Fetch) -> None:
    starts: list[int] = []
    stops: list[int] = []
    index: list[Any] = []
    bounds = iter(zip(box.starts, box.stops, strict=True))
    for item in node.index:
        if item is None:
            next(bounds)
            index.append(None)
        elif isinstance(item, int):
            starts.append(item)
            stops.append(item + 1)
            index.append(0)
        else:
            low, high = next(bounds)
            start, step, _ = item
            first, last = start + low * step, start + (high - 1) * step
            starts.append(min(first, last))
            stops.append(max(first, last) + 1)
            index.append(slice(None, None, step))
    array = _fill_from(node.operand, Box(tuple(starts), tuple(stops)), out, fetch)
    if not _is_dry(out):
        out[...] = array[tuple(index)]


def _fill_rows(node: RowsLayout, box: Box, out: np.ndarray, fetch: Fetch) -> None:
    """Fills rows from others around them, a few neighbours at a time."""
    rows = np.array(node.rows[box.starts[0] : box.stops[0]])
    row_nbytes = math.prod(box.shape[1:]) * node.dtype.itemsize
    for places in _neighbours(rows, max(1, ROWS_NBYTES // max(1, row_nbytes))):
        own = rows[places]
        low, high = int(own[0]), int(own[-1]) + 1
        around = Box((low, *box.starts[1:]), (high, *box.stops[1:]))
        array = _fill_from(node.operand, around, out, fetch)
        if not _is_dry(out):
            out[places] = array[own - low]


def _neighbours(rows: np.ndarray, max_rows: int) -> Iterator[np.ndarray]:
    """Groups rows that are read together.

    Args:
        rows: Numbers of rows, in any order.
        max_rows: From the first to the last of a group, at most.

    Yields:
        Where the rows of a group stand, in ascending order of the rows.
    """
    order = np.argsort(rows, kind="stable")
    ascending = rows[order].tolist()
    begun = 0
    for i in range(1, len(ascending)):
        gap = ascending[i] - ascending[i - 1]
        if gap > MAX_ROW_GAP or ascending[i] - ascending[begun] >= max_rows:
            yield order[begun:i]
            begun = i
    yield order[begun:]


def _fill_reshaped_layout(
    node: ReshapedLayout, box: Box, out: np.ndarray, fetch: Fetch
) -> None:
    """Fills group of axes by group: runs of a merged axis are a few boxes below it."""
    below = node.operand.shape
    choices: list[list[tuple[list[tuple[int, int]], list[tuple[int, int]]]]] = []
    for before, after in axis_groups(below, node.shape):
        wanted = [(box.starts[a], box.stops[a]) for a in after]
        choices.append(
            _merged_boxes(
                [below[a] for a in before], [node.shape[a] for a in after], wanted
            )
        )
    for pieces in itertools.product(*choices):
        lower_box = [span for one, _ in pieces for span in one]
        upper_box = [span for _, one in pieces for span in one]
        source = Box(*_bounds(lower_box))
        target = Box(*_bounds(upper_box))
        shared = target.intersection(box)
        assert shared is not None
        if shared == target:
            part = view_at(out, target.within(box))
            if _is_dry(out):
                fill(node.operand, source, shape_only(source.shape), fetch)
            else:
                _fill_reshaped(node.operand, source, part, fetch)
            continue
        array = _fill_from(node.operand, source, out, fetch)
        if not _is_dry(out):
            cut_out = view_at(array.reshape(target.shape), shared.within(target))
            view_at(out, shared.within(box))[...] = cut_out


def _fill_reshaped(node: Layout, box: Box, out: np.ndarray, fetch: Fetch) -> None:
    """Fills an array of another shape, in place where NumPy can view it in this one."""
    try:
        view = np.reshape(out, box.shape, copy=False)
    except ValueError:
        out[...] = _fill_from(node, box, out, fetch).reshape(out.shape)
    else:
        fill(node, box, view, fetch)


def _bounds(spans: list[tuple[int, int]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(a for a, _ in spans), tuple(b for _, b in spans)


def _merged_boxes(
    old: list[int], new: list[int], wanted: list[tuple[int, int]]
) -> list[tuple[list[tuple[int, int]], list[tuple[int, int]]]]:
    """Boxes of a group of axes and what they are in the other shape, to cover a box."""
    whole_old, whole_new = [(0, n) for n in old], [(0, n) for n in new]
    if not old or wanted == whole_new:
        return [(whole_old, whole_new)]
    long = [axis for axis, dim in enumerate(new) if dim != 1]
    if len(long) != 1:  # neither a split nor a merge: all of the group, then cut
        return [(whole_old, whole_new)]
    before, after = [(0, 1)] * long[0], [(0, 1)] * (len(new) - long[0] - 1)
    return [
        (box, [*before, (first, first + math.prod(b - a for a, b in box)), *after])
        for first, box in _run_boxes(*wanted[long[0]], old)
    ]


def _run_boxes(
    start: int, stop: int, shape: list[int]
) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Cuts a run of elements, in row-major order, into as few boxes as there are."""
    if len(shape) == 1:
        yield start, [(start, stop)]
        return
    stride = math.prod(shape[1:])
    position = start
    while position < stop:
        row, rest = divmod(position, stride)
        if rest == 0 and stop - position >= stride:
            rows = (stop - position) // stride
            yield position, [(row, row + rows), *((0, n) for n in shape[1:])]
            position += rows * stride
            continue
        end = min(stop - row * stride, stride)
        for first, box in _run_boxes(rest, end, shape[1:]):
            yield row * stride + first, [(row, row + 1), *box]
        position = row * stride + end
