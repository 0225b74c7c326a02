"""Operations on layouts: joins, slices, transposes, rows and casts, by specs alone.

Each operation is pushed down the tree as far as it goes: into the strides of a view,
into the operands of a join. Only what no strides describe becomes a separate node.
Reshapes are in `reshaping`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from tf2flax._base.errors import AssignmentError

from .nodes import (
    JoinedLayout,
    Layout,
    LayoutIndex,
    RowsLayout,
    SlicedLayout,
    StridedView,
    TransposedLayout,
    empty_view,
    shape_at,
    views_of,
)

# Rows that lie in at most this many steady runs are read run by run ...
_MAX_RUNS: Final = 64
# ... unless that makes more than this many views: planning takes time for each.
_MAX_VIEWS: Final = 4096
# NumPy's own limit on axes.
MAX_RANK: Final = 64


def join_layouts(operands: Sequence[Layout], axis: int) -> Layout:
    """Puts layouts next to each other.

    Args:
        operands: At least one layout; their shapes agree but for the axis.
        axis: The axis along which they are joined.

    Returns:
        The joined layout.
    """
    # Operands without elements have no box; one of them stays if there is nothing else.
    operands = [operand for operand in operands if operand.shape[axis]] or operands[:1]
    if len(operands) == 1:
        return operands[0]
    shape = operands[0].shape
    start = 0
    placed: list[tuple[tuple[int, ...], Layout]] = []
    for operand in operands:
        starts = [0] * len(shape)
        starts[axis] = start
        placed.append((tuple(starts), operand))
        start += operand.shape[axis]
    return JoinedLayout((*shape[:axis], start, *shape[axis + 1 :]), tuple(placed))


def add_axis(node: Layout, axis: int) -> Layout:
    """Adds an axis of length 1.

    Args:
        node: A layout.
        axis: Place of the new axis in the result.

    Returns:
        The layout with one more axis.
    """
    index: list[int | tuple[int, int, int] | None] = [(0, 1, n) for n in node.shape]
    return slice_layout(node, [*index[:axis], None, *index[axis:]])


def transpose_layout(node: Layout, axes: tuple[int, ...]) -> Layout:
    """Permutes axes.

    Args:
        node: A layout.
        axes: Its axes in their new order, none of them negative.

    Returns:
        The transposed layout.
    """

    def permuted(values: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(values[axis] for axis in axes)

    if axes == tuple(range(len(axes))):
        return node
    match node:
        case StridedView():
            shape, strides = permuted(node.shape), permuted(node.strides)
            return dataclasses.replace(node, shape=shape, strides=strides)
        case JoinedLayout():
            operands = [
                (permuted(starts), transpose_layout(operand, axes))
                for starts, operand in node.operands
            ]
            return JoinedLayout(permuted(node.shape), tuple(operands))
        case TransposedLayout():
            # Two transposes are one: axis i is axis `axes[i]` of the first one.
            return transpose_layout(node.operand, permuted(node.axes))
        case _:
            return TransposedLayout(node, axes)


def slice_layout(node: Layout, index: LayoutIndex) -> Layout:
    """Indexes a layout.

    Args:
        node: A layout.
        index: For every axis an integer, or a slice `(start, step, count)` within the
            axis; None for new axes.

    Returns:
        The layout of the elements there.

    Raises:
        AssignmentError: The result has too many axes.
    """
    if len(shape_at(index)) > MAX_RANK:
        raise AssignmentError(f"[]: expected at most {MAX_RANK} axes.")
    if list(index) == [(0, 1, length) for length in node.shape]:
        return node  # all of it
    match node:
        case StridedView():
            return _slice_view(node, index)
        case JoinedLayout():
            return _slice_joined(node, index)
        case _:
            return SlicedLayout(node, tuple(index))


def _slice_view(view: StridedView, index: LayoutIndex) -> StridedView:
    """Moves the offset and stretches the strides: nothing but arithmetic."""
    offset = view.offset
    strides: list[int] = []
    view_strides = iter(view.strides)
    for item in index:
        if item is None:
            strides.append(0)  # of an axis of length 1: never added
        elif isinstance(item, int):
            offset += item * next(view_strides)
        else:
            start, step, _ = item
            stride = next(view_strides)
            offset += start * stride
            strides.append(step * stride)
    return dataclasses.replace(
        view, offset=offset, shape=shape_at(index), strides=tuple(strides)
    )


def _slice_joined(node: JoinedLayout, index: LayoutIndex) -> Layout:
    """Slices every operand that the index reaches.

    Along one axis, with operands a, b and c, and the slice 1:10:2:

        index in the array     0  1  2  3 | 4  5  6 | 7  8  9
        operand                a  a  a  a | b  b  b | c  c  c
        index in the result       0     1 |    2    | 3     4
        index in the operand      1     3 |    1    | 0     2

        a[1:4:2] starts at 0 in the result, b[1:2:2] at 2, c[0:3:2] at 3.
    """
    shape = shape_at(index)
    operands: list[tuple[tuple[int, ...], Layout]] = []
    for starts, operand in node.operands:
        stops = tuple(a + n for a, n in zip(starts, operand.shape, strict=True))
        placed = _index_within(index, starts, stops)
        if placed is not None:
            place, inner = placed
            operands.append((place, slice_layout(operand, inner)))
    if not operands:  # no element is left: an axis of the result is 0
        return empty_view(node, shape)
    # One operand that holds the whole result needs no join around it.
    if len(operands) == 1 and operands[0][1].shape == shape:
        return operands[0][1]
    return JoinedLayout(shape, tuple(operands))


def _index_within(
    index: LayoutIndex, starts: tuple[int, ...], stops: tuple[int, ...]
) -> tuple[tuple[int, ...], LayoutIndex] | None:
    """Restricts an index to one box of an array.

    Args:
        index: An index of the array.
        starts: Where the box starts.
        stops: Where it stops.

    Returns:
        Where the elements start in the result of the index, and their index in the box;
        None if there are none.
    """
    place: list[int] = []
    inner: list[int | tuple[int, int, int] | None] = []
    bounds = iter(zip(starts, stops, strict=True))
    for item in index:
        if item is None:
            place.append(0)
            inner.append(None)
            continue
        low, high = next(bounds)
        if isinstance(item, int):
            if not low <= item < high:
                return None
            inner.append(item - low)
        else:
            first, last = _steps_within(item, low, high)
            if first >= last:
                return None
            start, step, _ = item
            place.append(first)
            inner.append((start + first * step - low, step, last - first))
    return tuple(place), inner


def _steps_within(item: tuple[int, int, int], low: int, high: int) -> tuple[int, int]:
    """Range of the steps of a slice that fall into `[low, high)`.

    Step i stands at `start + i * step`. The first one at or above `low` is
    `ceil((low - start) / step)`, in integers `-((start - low) // step)`; the first one
    at or above `high` is the end. Where the slice runs down, both bounds change places.
    """
    start, step, count = item
    if step > 0:
        first, last = -((start - low) // step), -((start - high) // step)
    else:
        first, last = (start - high) // -step + 1, (start - low) // -step + 1
    return max(first, 0), min(last, count)


def take_rows(node: Layout, rows: tuple[int, ...]) -> Layout:
    """Picks rows.

    Args:
        node: A layout of at least one axis.
        rows: Numbers of rows, none of them negative.

    Returns:
        The layout of these rows: slices where the rows lie in a few steady runs, which
        are read exactly; else a `RowsLayout`.
    """
    columns = [(0, 1, n) for n in node.shape[1:]]
    runs = list(itertools.islice(_steady_runs(rows), _MAX_RUNS + 1))
    views = sum(1 for _ in views_of(node))
    if len(runs) > _MAX_RUNS or len(runs) * views > _MAX_VIEWS:
        return RowsLayout(node, rows)
    if not runs:
        return slice_layout(node, [(0, 1, 0), *columns])
    return join_layouts([slice_layout(node, [run, *columns]) for run in runs], 0)


def _steady_runs(rows: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Cuts numbers into runs of one step: `(start, step, count)`.

    Rows 0 2 4 9 8 7 7 are the runs (0, 2, 3), (9, -1, 3) and (7, 1, 1).
    """
    i = 0
    while i < len(rows):
        step = rows[i + 1] - rows[i] if i + 1 < len(rows) else 1
        j = i + 1
        # A row that is repeated has step 0, which no slice can have: a run of one.
        while step and j < len(rows) and rows[j] - rows[j - 1] == step:
            j += 1
        yield rows[i], step or 1, j - i
        i = j


def cast_layout(node: Layout, dtype: np.dtype) -> Layout:
    """Changes the dtype, view by view: casts commute with every other operation.

    Args:
        node: A layout.
        dtype: The new dtype.

    Returns:
        The same tree with the cast at its views, where elements are converted as they
        are read.
    """
    match node:
        case StridedView():
            return dataclasses.replace(node, casts=(*node.casts, dtype))
        case JoinedLayout():
            operands = tuple(
                (starts, cast_layout(operand, dtype))
                for starts, operand in node.operands
            )
            return dataclasses.replace(node, operands=operands)
        case _:
            return dataclasses.replace(node, operand=cast_layout(node.operand, dtype))
