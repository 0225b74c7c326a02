"""Operations on layouts: joins, slices, transposes, rows, pads, casts, by specs alone.

Each operation is pushed down the tree as far as it goes: into the strides of a view,
into the operands of a join. Only what no strides describe becomes a separate node.
Reshapes are in `reshaping`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np

from tf2flax._base.dtypes import forced_cast
from tf2flax._base.errors import AssignmentError

from .nodes import (
    CombinedLayout,
    ConstantLayout,
    JoinedLayout,
    Layout,
    LayoutIndex,
    RowsLayout,
    SlicedLayout,
    StepsLayout,
    StridedView,
    TransposedLayout,
    empty_view,
    shape_at,
    views_of,
)
from .steps import Step

# Rows that lie in at most this many steady runs are read run by run ...
_MAX_RUNS: Final = 64
# ... unless that makes more than this many views: planning takes time for each.
_MAX_VIEWS: Final = 4096
# NumPy's own limit on axes.
MAX_RANK: Final = 64


def below_arithmetic(
    node: ConstantLayout | StepsLayout | CombinedLayout,
    change: Callable[[Layout], Layout],
    shape: tuple[int, ...],
) -> Layout:
    """Does to the operands of arithmetic what is done to its result.

    Args:
        node: A layout whose elements come one by one from those of its operands.
        change: Moves elements, and gives the result the shape.
        shape: The shape.

    Returns:
        The layout, with the arithmetic on top.
    """
    if 0 in shape:
        return empty_view(node, shape)
    match node:
        case ConstantLayout():
            return dataclasses.replace(node, shape=shape)
        case StepsLayout():
            return dataclasses.replace(node, operand=change(node.operand))
        case CombinedLayout():
            return dataclasses.replace(
                node, left=change(node.left), right=change(node.right)
            )


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
    if isinstance(node, ConstantLayout | StepsLayout | CombinedLayout):
        return below_arithmetic(
            node, lambda part: transpose_layout(part, axes), permuted(node.shape)
        )
    match node:
        case StridedView():
            shape, strides = permuted(node.shape), permuted(node.strides)
            return node._replace(shape=shape, strides=strides)
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
        case ConstantLayout() | StepsLayout() | CombinedLayout():
            return below_arithmetic(
                node, lambda part: slice_layout(part, index), shape_at(index)
            )
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
    shape = shape_at(index)
    return view._replace(offset=offset, shape=shape, strides=tuple(strides))


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


def take_rows(
    node: Layout, rows: tuple[int, ...], axis: int = 0, fill: bytes = b""
) -> Layout:
    """Picks rows.

    Args:
        node: A layout of at least one axis.
        rows: Numbers of rows; -1 for one that is filled.
        axis: The axis that they number.
        fill: An element of the rows that are filled, as bytes.

    Returns:
        The layout of these rows: slices where the rows lie in a few steady runs, which
        are read exactly; else a `RowsLayout`.
    """
    if axis:
        # Rows of the array with this axis in front, and back again.
        order = (axis, *(i for i in range(len(node.shape)) if i != axis))
        taken = take_rows(transpose_layout(node, order), rows, 0, fill)
        back = tuple(order.index(i) for i in range(len(order)))
        return transpose_layout(taken, back)
    shape = (len(rows), *node.shape[1:])
    if 0 in shape:
        return empty_view(node, shape)
    columns = [(0, 1, n) for n in node.shape[1:]]
    runs = list(itertools.islice(_steady_runs(rows), _MAX_RUNS + 1))
    views = sum(1 for _ in views_of(node))
    if len(runs) > _MAX_RUNS or len(runs) * views > _MAX_VIEWS:
        return RowsLayout(node, rows, fill if -1 in rows else b"")
    return join_layouts(
        [
            constant_beside(node, (run[2], *node.shape[1:]), fill)
            if run[0] < 0
            else slice_layout(node, [run, *columns])
            for run in runs
        ],
        0,
    )


def constant_beside(
    node: Layout, shape: tuple[int, ...], fill: bytes
) -> ConstantLayout:
    """Elements that are all the same, of the dtype of a layout."""
    return ConstantLayout(shape, fill, empty_view(node, (0,)))


def pad_layout(node: Layout, widths: Sequence[tuple[int, int]], fill: bytes) -> Layout:
    """Puts equal elements around a layout.

        widths (1, 0), (0, 2)     # # # # #     axis after axis: first rows, which are
                                  a a a # #     as long as the layout, then columns
                                  a a a # #

    Args:
        node: A layout.
        widths: Numbers of elements before and after, along every axis.
        fill: One of them, as bytes.

    Returns:
        The layout, joined with `ConstantLayout`s.
    """
    # Each axis goes around what those before it have made, also around its corners.
    for axis, (before, after) in enumerate(widths):
        left, right = node.shape[:axis], node.shape[axis + 1 :]
        parts: list[Layout] = [node]
        if before:
            parts.insert(0, constant_beside(node, (*left, before, *right), fill))
        if after:
            parts.append(constant_beside(node, (*left, after, *right), fill))
        node = join_layouts(parts, axis)
    return node


def _steady_runs(rows: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Cuts numbers into runs of one step: `(start, step, count)`.

    Rows 0 2 4 9 8 7 7 are the runs (0, 2, 3), (9, -1, 3) and (7, 1, 1). Rows of -1,
    which are filled, are runs of their own: 1 0 -1 -1 is (1, -1, 2) and (-1, 0, 2).
    """
    i = 0
    while i < len(rows):
        if rows[i] < 0:
            stop = next((k for k in range(i, len(rows)) if rows[k] >= 0), len(rows))
            yield -1, 0, stop - i
            i = stop
            continue
        step = rows[i + 1] - rows[i] if i + 1 < len(rows) else 1
        j = i + 1
        # A row that is repeated has step 0, which no slice can have: a run of one.
        while step and j < len(rows) and rows[j] >= 0 and rows[j] - rows[j - 1] == step:
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
            return node._replace(casts=(*node.casts, dtype))
        case JoinedLayout():
            operands = tuple(
                (starts, cast_layout(operand, dtype))
                for starts, operand in node.operands
            )
            return dataclasses.replace(node, operands=operands)
        case ConstantLayout():
            # What fills a place is cast like everything beside it.
            fill = forced_cast(node.value, dtype).tobytes()
            like = node.like._replace(casts=(*node.like.casts, dtype))
            return ConstantLayout(node.shape, fill, like)
        case RowsLayout(fill=bytes(fill)) if fill:
            element = np.frombuffer(fill, node.dtype)
            fill = forced_cast(element, dtype).tobytes()
            return RowsLayout(cast_layout(node.operand, dtype), node.rows, fill)
        case StepsLayout() | CombinedLayout():
            return step_layout(node, dtype)
        case _:
            return dataclasses.replace(node, operand=cast_layout(node.operand, dtype))


def step_layout(node: Layout, step: Step) -> Layout:
    """Puts a step on top, which is done after those that are there."""
    if isinstance(node, StepsLayout):
        return dataclasses.replace(node, steps=(*node.steps, step))
    return StepsLayout(node, (step,))
