"""Layouts -> arrays: fills any box of a layout from the views that it is made of.

A box goes down the tree until only views are left. Each node says which boxes of its
operands hold the elements (x) and what is read besides (o):

    JoinedLayout      TransposedLayout    SlicedLayout [::2]    RowsLayout [1, 3, 40]

    . . . | . . .     . . . .   below:    . . . . . . . .        0  . . .
    . x x | x . .     . x x x   . . .     x o x o x . . .        1  x x x
    . x x | x . .     . . . .   . x .                            2  o o o
      one box of                . x .     one box, from          3  x x x
     each operand     the same  . x .     which every               ...
                      elements            second is kept        40  x x x  by itself

    ReshapedLayout (4, 6) -> (24,)        ReshapedLayout (4, 6) -> (3, 8)
    box [3:17]                            box [1:2, 2:6]

    . . . x x x   [0:1, 3:6]              o o o o o o     lengths with no common
    x x x x x x   [1:2, 0:6]              o o o o x x     divisions: all of both axes
    x x x x x .   [2:3, 0:5]              x x o o o o     is read, and then cut
    . . . . . .                           o o o o o o

Nothing here opens a file: the caller says how a view is read (`Fetch`). A dry run, with
an `out` that cannot be written, asks for the same views and writes nothing.
"""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np

from tf2flax._base.dtypes import forced_cast
from tf2flax._base.memory import empty, shape_only, view_at
from tf2flax._base.tuning import CHUNK_NBYTES
from tf2flax._base.values import Box

from .nodes import (
    CombinedLayout,
    ConstantLayout,
    JoinedLayout,
    Layout,
    ReshapedLayout,
    RowsLayout,
    SlicedLayout,
    StepsLayout,
    StridedView,
    TransposedLayout,
)
from .operations import slice_layout
from .shapes import axis_groups
from .steps import (
    ValueRangeError,
    apply_steps,
    combine_checked,
    combine_elements,
    follow_steps,
)

# Rows that are taken are read with those between them if the next one is this near ...
MAX_ROW_GAP: Final = 8
# ... and as long as all of these take no more than a chunk.
# Fills an array with a view of a tensor: the elements alone, before any cast.
Fetch = Callable[[StridedView, np.ndarray], None]
# `(start, stop)` along some axes.
_Ranges = list[tuple[int, int]]


class _Mode(enum.Enum):
    """What an array is filled with, where integers may leave their range."""

    CHECKED = enum.auto()  # values; those that leave it raise
    WRAPPED = enum.auto()  # values; those that leave it have wrapped around
    OUTSIDE = enum.auto()  # True for those that leave it


def views_in_box(node: Layout, box: Box) -> Iterator[StridedView]:
    """Lists the views that filling a box of a layout reads, by a dry run.

    Args:
        node: The layout.
        box: A box within its shape.

    Yields:
        Views; some elements may be in several.
    """
    views: list[StridedView] = []

    def fetch(view: StridedView, _out: np.ndarray) -> None:
        views.append(view)

    fill_array(node, box, shape_only(box.shape), fetch)
    yield from views


def fill_array(node: Layout, box: Box, out: np.ndarray, fetch: Fetch) -> None:
    """Fills an array with a box of a layout.

    Args:
        node: The layout.
        box: A box within the layout's shape.
        out: Array of the box's shape and the layout's dtype; with a `shape_only` array,
            every view is fetched and nothing is written.
        fetch: Reads a view into an array of its shape and the tensor's dtype.

    Raises:
        ValueRangeError: Arithmetic takes integers out of the range of their dtype.
    """
    try:
        _fill(node, box, out, fetch, _Mode.CHECKED)
    except ValueRangeError:
        # Perhaps something that is read besides, and not kept: a row between others.
        outside = empty(box.shape, np.dtype(np.bool_))
        _fill(node, box, outside, fetch, _Mode.OUTSIDE)
        if outside.any():
            raise
        _fill(node, box, out, fetch, _Mode.WRAPPED)


def _fill(node: Layout, box: Box, out: np.ndarray, fetch: Fetch, mode: _Mode) -> None:
    """Fills an array as `fill_array` does, or with what a mode says."""
    if box.size == 0:
        return
    match node:
        case StridedView():
            _fill_view(node, box, out, fetch, mode)
        case JoinedLayout():
            for operand_box, operand in node.placed():
                shared = operand_box.intersection(box)
                if shared is not None:
                    target = view_at(out, shared.within(box))
                    below = shared.relative_to(operand_box)
                    _fill(operand, below, target, fetch, mode)
        case TransposedLayout():
            # The array is filled through a transposed view of itself, without a copy.
            back = tuple(node.axes.index(axis) for axis in range(len(node.axes)))
            starts = tuple(box.starts[axis] for axis in back)
            stops = tuple(box.stops[axis] for axis in back)
            target = out.transpose(back)
            _fill(node.operand, Box(starts, stops), target, fetch, mode)
        case SlicedLayout():
            _fill_sliced(node, box, out, fetch, mode)
        case RowsLayout():
            _fill_rows(node, box, out, fetch, mode)
        case ReshapedLayout():
            _fill_reshaped(node, box, out, fetch, mode)
        case ConstantLayout():
            if not _is_dry(out):
                out[...] = False if mode is _Mode.OUTSIDE else node.value
        case StepsLayout() | CombinedLayout():
            _fill_computed(node, box, out, fetch, mode)


def _fill_computed(
    node: StepsLayout | CombinedLayout,
    box: Box,
    out: np.ndarray,
    fetch: Fetch,
    mode: _Mode,
) -> None:
    """Fills with what arithmetic makes of operands, or with where it goes wrong."""
    is_flags = mode is _Mode.OUTSIDE
    values = _Mode.WRAPPED if is_flags else mode
    is_steps = isinstance(node, StepsLayout)
    operands = [node.operand] if is_steps else [node.left, node.right]
    arrays = [_filled(operand, box, out, fetch, values) for operand in operands]
    if _is_dry(out):
        return
    if mode is _Mode.CHECKED:
        out[...] = (
            apply_steps(arrays[0], node.steps)
            if is_steps
            else combine_checked(node.operator, arrays[0], arrays[1])
        )
        return
    wrapped, outside = (
        follow_steps(arrays[0], node.steps)
        if is_steps
        else combine_elements(node.operator, arrays[0], arrays[1])
    )
    out[...] = outside if is_flags else wrapped
    if is_flags:  # operands that have left their range have no sensible result
        for operand in operands:
            out |= _filled(operand, box, out, fetch, mode)


def _is_dry(out: np.ndarray) -> bool:
    return not out.flags.writeable


def _filled(
    node: Layout, box: Box, out: np.ndarray, fetch: Fetch, mode: _Mode
) -> np.ndarray:
    """A new array with a box of a layout, of which only a selection is kept.

    It takes memory only if `out`, where the selection goes, can be written.
    """
    dtype = np.dtype(np.bool_) if mode is _Mode.OUTSIDE else node.dtype
    array = shape_only(box.shape) if _is_dry(out) else empty(box.shape, dtype)
    _fill(node, box, array, fetch, mode)
    return array


def _fill_view(
    view: StridedView, box: Box, out: np.ndarray, fetch: Fetch, mode: _Mode
) -> None:
    if mode is _Mode.OUTSIDE:  # what is stored is in the range of its dtype
        out[...] = False
        return
    bounds = zip(box.starts, box.stops, strict=True)
    within = slice_layout(view, [(start, 1, stop - start) for start, stop in bounds])
    assert isinstance(within, StridedView)
    uncast = within._replace(casts=())
    if not view.casts or _is_dry(out):
        fetch(uncast, out)
        return
    # `out` has the dtype after the casts: the tensor's elements need another array.
    array = empty(uncast.shape, uncast.dtype)
    fetch(uncast, array)
    for dtype in view.casts[:-1]:
        array = forced_cast(array, dtype)
    out[...] = forced_cast(array, view.casts[-1])


def _fill_sliced(
    node: SlicedLayout, box: Box, out: np.ndarray, fetch: Fetch, mode: _Mode
) -> None:
    """Fills from the smallest box around the elements, as NumPy would index it."""
    below, index = _box_below_slices(node, box)
    array = _filled(node.operand, below, out, fetch, mode)
    if not _is_dry(out):
        out[...] = array[index]


def _box_below_slices(node: SlicedLayout, box: Box) -> tuple[Box, tuple[Any, ...]]:
    """Finds the box of the operand around a box, and its NumPy index there.

    The slice (7, -2, 4) of an axis, and the range 1:3 of the result:

        index below        0  1  2  3  4  5  6  7
        index in result       3     2     1     0
        box around                  x  o  x          [3:6], of which [::-2]
    """
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
            # The box ends with the first and the last element, so the step alone does.
            index.append(slice(None, None, step))
    return Box(tuple(starts), tuple(stops)), tuple(index)


def _fill_rows(
    node: RowsLayout, box: Box, out: np.ndarray, fetch: Fetch, mode: _Mode
) -> None:
    """Fills from boxes around a few neighbouring rows at a time."""
    numbers = np.array(node.rows[box.starts[0] : box.stops[0]])
    if node.fill:
        # Rows of -1 are filled, whatever the others are.
        if not _is_dry(out):
            fill = np.frombuffer(node.fill, node.dtype)
            out[numbers < 0] = False if mode is _Mode.OUTSIDE else fill
        taken = np.flatnonzero(numbers >= 0)
    else:
        taken = np.arange(len(numbers))
    row_nbytes = math.prod(box.shape[1:]) * node.dtype.itemsize
    max_rows = max(1, CHUNK_NBYTES // max(1, row_nbytes))
    for near in _near_rows(numbers[taken], max_rows):
        places = taken[near]
        rows = numbers[places]
        low, high = int(rows[0]), int(rows[-1]) + 1
        around = Box((low, *box.starts[1:]), (high, *box.stops[1:]))
        array = _filled(node.operand, around, out, fetch, mode)
        if not _is_dry(out):
            out[places] = array[rows - low]


def _near_rows(rows: np.ndarray, max_rows: int) -> Iterator[np.ndarray]:
    """Groups rows that are read together.

        rows      90  3  1  90  2       places of the first group   2  4  1
        places     0  1  2   3  4       places of the second        0  3

    Args:
        rows: Numbers of rows, in any order.
        max_rows: Rows from the first to the last of a group, at most.

    Yields:
        Places in `rows` of the members of a group, in ascending order of their numbers.
    """
    if not rows.size:
        return
    order = np.argsort(rows, kind="stable")
    ascending = rows[order].tolist()
    first = 0
    for i in range(1, len(ascending)):
        gap = ascending[i] - ascending[i - 1]
        if gap > MAX_ROW_GAP or ascending[i] - ascending[first] >= max_rows:
            yield order[first:i]
            first = i
    yield order[first:]


def _fill_reshaped(
    node: ReshapedLayout, box: Box, out: np.ndarray, fetch: Fetch, mode: _Mode
) -> None:
    """Fills from the boxes that each group of axes has below.

    A group of axes becomes other axes independently of the remaining groups. So the
    boxes of each are found alone, and every combination of them is a box below.

        (4, 6, 5) -> (24, 5)     group 1: 4 6 -> 24, three boxes for [3:17]
                                 group 2: 5 -> 5, one box
    """
    shape_below = node.operand.shape
    choices: list[list[tuple[_Ranges, _Ranges]]] = []
    for before, after in axis_groups(shape_below, node.shape):
        wanted = [(box.starts[axis], box.stops[axis]) for axis in after]
        lengths_below = [shape_below[axis] for axis in before]
        lengths = [node.shape[axis] for axis in after]
        choices.append(list(_ranges_below(lengths_below, lengths, wanted)))
    for combination in itertools.product(*choices):
        below = _box_of(ranges for ranges, _ in combination)
        above = _box_of(ranges for _, ranges in combination)
        shared = above.intersection(box)
        assert shared is not None
        target = view_at(out, shared.within(box))
        if shared == above and not _is_dry(out):
            _fill_in_place(node.operand, below, target, fetch, mode)
            continue
        # More than the box: a group was taken whole.
        array = _filled(node.operand, below, out, fetch, mode)
        if not _is_dry(out):
            target[...] = view_at(array.reshape(above.shape), shared.within(above))


def _fill_in_place(
    node: Layout, box: Box, out: np.ndarray, fetch: Fetch, mode: _Mode
) -> None:
    """Fills an array of another shape, in place where NumPy can view it in this one."""
    try:
        view = np.reshape(out, box.shape, copy=False)
    except ValueError:
        out[...] = _filled(node, box, out, fetch, mode).reshape(out.shape)
    else:
        _fill(node, box, view, fetch, mode)


def _box_of(groups: Iterator[_Ranges]) -> Box:
    """Joins the ranges of groups of axes to a box."""
    ranges = list(itertools.chain.from_iterable(groups))
    return Box(tuple(start for start, _ in ranges), tuple(stop for _, stop in ranges))


def _ranges_below(
    lengths_below: list[int], lengths: list[int], wanted: _Ranges
) -> Iterator[tuple[_Ranges, _Ranges]]:
    """Finds boxes below that hold the elements of a box, for one group of axes.

    Args:
        lengths_below: Lengths of the axes before the reshape.
        lengths: Lengths of the axes after it, of as many elements.
        wanted: The box, along the axes after the reshape.

    Yields:
        Ranges along the axes before the reshape, and the same elements as ranges along
        the axes after it. Together they cover the box.
    """
    whole_below, whole = [(0, n) for n in lengths_below], [(0, n) for n in lengths]
    long = [axis for axis, length in enumerate(lengths) if length != 1]
    is_merged = len(long) == 1
    if not lengths_below or wanted == whole or not is_merged:
        # Several axes after it: no box of them is a box, nor a run, below.
        yield whole_below, whole
        return
    before, after = [(0, 1)] * long[0], [(0, 1)] * (len(lengths) - long[0] - 1)
    # Axes are merged to one, so that a range of it is a run of elements below.
    for first, ranges in _boxes_of_run(*wanted[long[0]], lengths_below):
        count = math.prod(stop - start for start, stop in ranges)
        yield ranges, [*before, (first, first + count), *after]


def _boxes_of_run(
    start: int, stop: int, shape: list[int]
) -> Iterator[tuple[int, _Ranges]]:
    """Cuts a run of elements, in row-major order, into as few boxes as there are.

    The run 3:17 of shape (4, 6), whose rows begin at 0, 6, 12 and 18:

         .  .  .  3  4  5      [0:1, 3:6] from 3 on: the end of a row
         6  7  8  9 10 11      [1:2, 0:6] from 6 on: whole rows, as many as there are
        12 13 14 15 16  .      [2:3, 0:5] from 12 on: the beginning of a row
         .  .  .  .  .  .

    With more axes, the ends of the run are cut in the same way along the inner ones.

    Yields:
        Number of the first element, and the box.
    """
    if len(shape) == 1:
        yield start, [(start, stop)]
        return
    row_size = math.prod(shape[1:])
    position = start
    while position < stop:
        row, column = divmod(position, row_size)
        if column == 0 and stop - position >= row_size:
            rows = (stop - position) // row_size
            yield position, [(row, row + rows), *((0, n) for n in shape[1:])]
            position += rows * row_size
            continue
        end = min(stop - row * row_size, row_size)
        for first, ranges in _boxes_of_run(column, end, shape[1:]):
            yield row * row_size + first, [(row, row + 1), *ranges]
        position = row * row_size + end
