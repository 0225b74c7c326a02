"""Layouts: what an expression is made of, as boxes of strided views of tensors.

A layout is a tree of a few nodes. Transposes, slices, steps and every reshape that
NumPy makes without a copy end in `View`s, which say where each element lies in its
tensor; concatenations and stacks are `Tiles`. What stays above them
(`ReshapedLayout`, `RowsLayout`) are the operations that mix elements of several axes.
`lowering` makes layouts of expressions, `filling` makes arrays of layouts.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from tf2flax._base.errors import AssignmentError
from tf2flax._base.values import Box, TensorSpec

from .shapes import axis_groups, row_major

# Rows that lie in at most this many steady runs are read run by run ...
_MAX_RUNS: Final = 64
# ... unless that makes more than this many views.
_MAX_VIEWS: Final = 4096
# numpy's own limit on axes.
MAX_RANK: Final = 64


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """A strided view of one tensor.

    Attributes:
        source: Name of the tensor.
        base: Spec of the tensor.
        offset: Its first element, counted in row-major order.
        shape: Extents.
        strides: Steps in elements of the tensor, negative ones included.
        casts: Dtypes that the elements go through, in this order.
    """

    source: str
    base: TensorSpec
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    casts: tuple[np.dtype, ...] = ()

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the result."""
        return self.casts[-1] if self.casts else self.base.dtype.numpy

    @property
    def is_whole(self) -> bool:
        """Whether it is the tensor's elements in their own order."""
        return (
            self.offset == 0
            and math.prod(self.shape) == self.base.size
            and self.strides == row_major(self.shape)
        )

    @property
    def box(self) -> Box | None:
        """The box of the tensor that it is, axis by axis; None where it is another."""
        strides = row_major(self.base.shape)
        if self.strides != strides:
            return None
        starts: list[int] = []
        rest = self.offset
        for stride in strides:
            starts.append(rest // stride if stride else 0)
            rest -= starts[-1] * stride
        stops = tuple(a + n for a, n in zip(starts, self.shape, strict=True))
        box = Box(tuple(starts), stops)
        return box if box.fits(self.base.shape) else None


@dataclasses.dataclass(frozen=True, slots=True)
class Tiles:
    """Boxes that tile an array, each a layout of its own.

    Attributes:
        shape: Extents of the whole.
        parts: Where each begins, and what it is.
    """

    shape: tuple[int, ...]
    parts: tuple[tuple[tuple[int, ...], Layout], ...]

    @property
    def dtype(self) -> np.dtype:
        """Dtype of all parts."""
        return self.parts[0][1].dtype


@dataclasses.dataclass(frozen=True, slots=True)
class ReshapedLayout:
    """The same elements in another shape, which no view can show."""

    operand: Layout
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the operand."""
        return self.operand.dtype


@dataclasses.dataclass(frozen=True, slots=True)
class RowsLayout:
    """Rows of an array, by number, too scattered for boxes."""

    operand: Layout
    rows: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents."""
        return (len(self.rows), *self.operand.shape[1:])

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the operand."""
        return self.operand.dtype


@dataclasses.dataclass(frozen=True, slots=True)
class TransposedLayout:
    """Axes in another order, of something that is no view."""

    operand: Layout
    axes: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents."""
        return tuple(self.operand.shape[axis] for axis in self.axes)

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the operand."""
        return self.operand.dtype


@dataclasses.dataclass(frozen=True, slots=True)
class SlicedLayout:
    """A part, by NumPy's basic index, of something that is no view.

    Attributes:
        operand: What is cut.
        index: One integer or slice `(start, step, count)` for every axis of the
            operand; None for new axes.
    """

    operand: Layout
    index: tuple[int | tuple[int, int, int] | None, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents."""
        return tuple(
            1 if item is None else item[2]
            for item in self.index
            if not isinstance(item, int)
        )

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the operand."""
        return self.operand.dtype


Layout = View | Tiles | ReshapedLayout | RowsLayout | TransposedLayout | SlicedLayout
# As `SlicedLayout.index`, of a node known to have as many axes.
_Items = Sequence[int | tuple[int, int, int] | None]


def whole_view(source: str, spec: TensorSpec) -> View:
    """Views all of a tensor, as it is.

    Args:
        source: Its name.
        spec: Its shape and dtype.

    Returns:
        The view.
    """
    return View(source, spec, 0, spec.shape, row_major(spec.shape))


def tiles_along(operands: Sequence[Layout], axis: int) -> Layout:
    """Puts layouts next to each other.

    Args:
        operands: At least one; their shapes agree but for the axis.
        axis: The axis.

    Returns:
        The layout of all of them.
    """
    operands = [one for one in operands if one.shape[axis]] or operands[:1]
    if len(operands) == 1:
        return operands[0]
    first = operands[0].shape
    start = 0
    parts: list[tuple[tuple[int, ...], Layout]] = []
    for one in operands:
        starts = [0] * len(first)
        starts[axis] = start
        parts.append((tuple(starts), one))
        start += one.shape[axis]
    return Tiles((*first[:axis], start, *first[axis + 1 :]), tuple(parts))


def expand(node: Layout, axis: int) -> Layout:
    """Adds an axis of extent 1.

    Args:
        node: A layout.
        axis: Where the axis comes to stand.

    Returns:
        The layout with one more axis.
    """
    items: list[int | tuple[int, int, int] | None] = [(0, 1, n) for n in node.shape]
    return cut(node, [*items[:axis], None, *items[axis:]])


def transpose(node: Layout, axes: tuple[int, ...]) -> Layout:
    """Permutes axes.

    Args:
        node: A layout.
        axes: Every axis once.

    Returns:
        The layout.
    """
    if axes == tuple(range(len(axes))):
        return node
    match node:
        case View():
            return dataclasses.replace(
                node,
                shape=tuple(node.shape[a] for a in axes),
                strides=tuple(node.strides[a] for a in axes),
            )
        case Tiles():
            return Tiles(
                tuple(node.shape[a] for a in axes),
                tuple(
                    (tuple(starts[a] for a in axes), transpose(part, axes))
                    for starts, part in node.parts
                ),
            )
        case TransposedLayout():
            return transpose(node.operand, tuple(node.axes[a] for a in axes))
        case _:
            return TransposedLayout(node, axes)


def cut(node: Layout, items: _Items) -> Layout:
    """Cuts a part out, and adds axes.

    Args:
        node: A layout.
        items: For every axis an index, or `(start, step, count)` within the axis;
            None for new axes.

    Returns:
        The layout.
    """
    own = [item for item in items if item is not None]
    if sum(not isinstance(item, int) for item in items) > MAX_RANK:
        raise AssignmentError(f"[]: expected at most {MAX_RANK} axes.")
    if len(own) == len(items) and all(
        item == (0, 1, dim) for item, dim in zip(own, node.shape, strict=True)
    ):
        return node
    if not isinstance(node, (View, Tiles)):
        return SlicedLayout(node, tuple(items))
    if isinstance(node, Tiles):
        return _cut_tiles(node, items)
    offset = node.offset
    shape: list[int] = []
    strides: list[int] = []
    axis = 0
    for item in items:
        if item is None:
            shape.append(1)
            strides.append(0)
            continue
        if isinstance(item, int):
            offset += item * node.strides[axis]
        else:
            start, step, count = item
            offset += start * node.strides[axis]
            shape.append(count)
            strides.append(step * node.strides[axis])
        axis += 1
    return dataclasses.replace(
        node, offset=offset, shape=tuple(shape), strides=tuple(strides)
    )


def _cut_tiles(node: Tiles, items: _Items) -> Layout:
    shape = tuple(
        1 if item is None else item[2] for item in items if not isinstance(item, int)
    )
    parts: list[tuple[tuple[int, ...], Layout]] = []
    for starts, part in node.parts:
        place: list[int] = []
        inner: list[int | tuple[int, int, int] | None] = []
        axis = 0
        for item in items:
            if item is None:
                place.append(0)
                inner.append(None)
                continue
            low, high = starts[axis], starts[axis] + part.shape[axis]
            axis += 1
            if isinstance(item, int):
                if not low <= item < high:
                    break
                inner.append(item - low)
                continue
            first, last = _steps_within(item, low, high)
            if first >= last:
                break
            start, step, _ = item
            place.append(first)
            inner.append((start + first * step - low, step, last - first))
        else:
            parts.append((tuple(place), cut(part, inner)))
    if not parts:  # nothing of it is left: some extent is 0
        return empty_view(node, shape)
    if len(parts) == 1 and parts[0][1].shape == shape:
        return parts[0][1]
    return Tiles(shape, tuple(parts))


def _steps_within(item: tuple[int, int, int], low: int, high: int) -> tuple[int, int]:
    """Which steps of a slice, first to past the last, fall into `[low, high)`."""
    start, step, count = item
    if step > 0:
        first, last = -((start - low) // step), -((start - high) // step)
    else:
        first, last = (start - high) // -step + 1, (start - low) // -step + 1
    return max(first, 0), min(last, count)


def empty_view(node: Layout, shape: tuple[int, ...]) -> View:
    """Makes an array without elements.

    Args:
        node: What it is nothing of.
        shape: Its shape, with an extent of 0.

    Returns:
        A view of the first tensor below the node.
    """
    view = next(views_of(node))
    return dataclasses.replace(
        view, offset=0, shape=shape, strides=(0,) * len(shape), casts=view.casts
    )


def views_of(node: Layout) -> Iterator[View]:
    """Lists the views that a layout is made of.

    Args:
        node: The layout.

    Yields:
        Views, from first to last.
    """
    if isinstance(node, View):
        yield node
    elif isinstance(node, Tiles):
        for _, part in node.parts:
            yield from views_of(part)
    else:
        yield from views_of(node.operand)


def take(node: Layout, rows: tuple[int, ...]) -> Layout:
    """Picks rows.

    Args:
        node: A layout of at least one axis.
        rows: Their numbers, none negative.

    Returns:
        The layout.
    """
    rest = [(0, 1, n) for n in node.shape[1:]]
    runs = list(itertools.islice(_steady_runs(rows), _MAX_RUNS + 1))
    views = sum(1 for _ in views_of(node))
    if len(runs) > _MAX_RUNS or len(runs) * views > _MAX_VIEWS:
        return RowsLayout(node, rows)
    if not runs:
        return cut(node, [(0, 1, 0), *rest])
    return tiles_along([cut(node, [run, *rest]) for run in runs], 0)


def _steady_runs(rows: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Cuts numbers into runs of one step: `(start, step, count)`."""
    i = 0
    while i < len(rows):
        step = rows[i + 1] - rows[i] if i + 1 < len(rows) else 1
        j = i + 1
        while step and j < len(rows) and rows[j] - rows[j - 1] == step:
            j += 1
        yield rows[i], step or 1, j - i
        i = j


def cast(node: Layout, dtype: np.dtype) -> Layout:
    """Changes the dtype, view by view: casts commute with everything else.

    Args:
        node: A layout.
        dtype: The dtype.

    Returns:
        The layout.
    """
    match node:
        case View():
            return dataclasses.replace(node, casts=(*node.casts, dtype))
        case Tiles():
            parts = tuple((starts, cast(part, dtype)) for starts, part in node.parts)
            return dataclasses.replace(node, parts=parts)
        case _:
            return dataclasses.replace(node, operand=cast(node.operand, dtype))


def is_exact(node: Layout) -> bool:
    """Tells whether any part of a layout is filled from its own elements alone.

    Args:
        node: The layout.

    Returns:
        False where parts may need more: whole axes of what is below them.
    """
    match node:
        case View():
            return True
        case Tiles():
            return all(is_exact(part) for _, part in node.parts)
        case RowsLayout():
            return False
        case SlicedLayout():
            steps = [item[1] for item in node.index if isinstance(item, tuple)]
            return is_exact(node.operand) and all(abs(step) == 1 for step in steps)
        case ReshapedLayout():
            groups = axis_groups(node.operand.shape, node.shape)
            return is_exact(node.operand) and all(
                sum(node.shape[axis] != 1 for axis in after) <= 1 for _, after in groups
            )
        case _:
            return is_exact(node.operand)


def needed_elements(views: Mapping[Any, View] | Sequence[View]) -> dict[str, int]:
    """Counts the elements of each tensor that views need, at most all of them.

    Args:
        views: The views.

    Returns:
        Numbers of elements by name of the tensor.
    """
    listed = list(views.values()) if isinstance(views, Mapping) else list(views)
    counts: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for view in dict.fromkeys(listed):
        counts[view.source] = counts.get(view.source, 0) + math.prod(view.shape)
        sizes[view.source] = view.base.size
    return {name: min(count, sizes[name]) for name, count in counts.items()}
