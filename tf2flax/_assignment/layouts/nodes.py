"""Layouts: where each element of an expression lies, as a tree of a few nodes.

    concat("q", "k", axis=1).transpose().reshape(-1)

    ReshapedLayout (24,)           elements in an order that no strides describe
      JoinedLayout (6, 4)          boxes side by side, here one above the other
        StridedView (3, 4) of q    offset 0, strides (1, 3): a transpose is free
        StridedView (3, 4) of k

Transposes, slices, steps and every reshape that NumPy makes without a copy end in a
`StridedView`; concatenations and stacks end in a `JoinedLayout`. The other nodes stay
above them for the operations that no strides describe, and for arithmetic. `lowering`
makes layouts from expressions, `filling` fills arrays from layouts. Nothing here reads
a tensor.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tf2flax._base.values import Box, TensorSpec, row_major

from .shapes import axis_groups
from .steps import Step, dtype_after


class StridedView(NamedTuple):
    """Elements of one tensor at an offset and strides.

    A tuple, since there are as many as leaves, and it is made in half the time.

    Attributes:
        source: Name of the tensor.
        base: Spec of the tensor.
        offset: First element, counted in the tensor's row-major order.
        shape: Shape of the view.
        strides: Elements of the tensor from one index to the next, along each axis of
            the view; negative where it runs backwards.
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
        """Dtype of the elements after the casts."""
        return self.casts[-1] if self.casts else self.base.dtype.numpy

    @property
    def is_whole(self) -> bool:
        """True if it is all elements of the tensor in their own order."""
        return (
            self.offset == 0
            and math.prod(self.shape) == self.base.size
            and self.strides == row_major(self.shape)
        )

    @property
    def box(self) -> Box | None:
        """Box of the tensor that the view is; None if it is not one, axis by axis."""
        strides = row_major(self.base.shape)
        if self.strides != strides:
            return None
        # The offset in digits, with one stride as the value of each place:
        # in shape (4, 6), strides (6, 1), offset 15 is row 2, column 3.
        starts: list[int] = []
        remainder = self.offset
        for stride in strides:
            starts.append(remainder // stride if stride else 0)
            remainder -= starts[-1] * stride
        stops = tuple(a + n for a, n in zip(starts, self.shape, strict=True))
        box = Box(tuple(starts), stops)
        return box if box.fits(self.base.shape) else None


@dataclasses.dataclass(frozen=True, slots=True)
class JoinedLayout:
    """Layouts side by side, whose boxes cover an array without overlap.

    Attributes:
        shape: Shape of the array.
        operands: Each layout, after the index in the array at which it starts.
    """

    shape: tuple[int, ...]
    operands: tuple[tuple[tuple[int, ...], Layout], ...]

    @property
    def dtype(self) -> np.dtype:
        """Dtype of all operands."""
        return self.operands[0][1].dtype

    def placed(self) -> Iterator[tuple[Box, Layout]]:
        """Yields the box of the array that each operand is, and the operand."""
        for starts, operand in self.operands:
            stops = tuple(a + n for a, n in zip(starts, operand.shape, strict=True))
            yield Box(starts, stops), operand


@dataclasses.dataclass(frozen=True, slots=True)
class ReshapedLayout:
    """The same elements in another shape, where no strides describe that."""

    operand: Layout
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the operand."""
        return self.operand.dtype


@dataclasses.dataclass(frozen=True, slots=True)
class RowsLayout:
    """Rows of an array by number, too scattered to be a few boxes.

    Attributes:
        operand: The array.
        rows: The numbers; -1 where no row of it is taken.
        fill: An element of these rows, as bytes; b"" if there are none.
    """

    operand: Layout
    rows: tuple[int, ...]
    fill: bytes = b""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape, with as many rows as there are numbers."""
        return (len(self.rows), *self.operand.shape[1:])

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the operand."""
        return self.operand.dtype


@dataclasses.dataclass(frozen=True, slots=True)
class TransposedLayout:
    """Axes in another order, of an operand that has no strides."""

    operand: Layout
    axes: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape after the transpose."""
        return tuple(self.operand.shape[axis] for axis in self.axes)

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the operand."""
        return self.operand.dtype


# One item of an index: an integer, a slice `(start, step, count)`, or None for a new
# axis. Nothing is negative or left out, as in NumPy's own indices, but steps.
LayoutIndex = Sequence[int | tuple[int, int, int] | None]


@dataclasses.dataclass(frozen=True, slots=True)
class SlicedLayout:
    """Elements at a basic index, of an operand that has no strides.

    Attributes:
        operand: The layout that is indexed.
        index: An integer or slice for every axis of the operand, and None for new ones.
    """

    operand: Layout
    index: tuple[int | tuple[int, int, int] | None, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        return shape_at(self.index)

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the operand."""
        return self.operand.dtype


@dataclasses.dataclass(frozen=True, slots=True)
class ConstantLayout:
    """Elements that no tensor has: all are the same.

    Attributes:
        shape: Their shape.
        fill: One of them, as bytes.
        like: A view without elements, of a tensor beside them: it has their dtype.
    """

    shape: tuple[int, ...]
    fill: bytes
    like: StridedView

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the elements."""
        return self.like.dtype

    @property
    def value(self) -> np.ndarray:
        """One element, as an array without axes."""
        return np.frombuffer(self.fill, self.dtype).reshape(())


@dataclasses.dataclass(frozen=True, slots=True)
class StepsLayout:
    """Elements of an operand after casts and arithmetic with numbers."""

    operand: Layout
    steps: tuple[Step, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the operand."""
        return self.operand.shape

    @property
    def dtype(self) -> np.dtype:
        """Dtype after the last step."""
        return dtype_after(self.steps, self.operand.dtype)


@dataclasses.dataclass(frozen=True, slots=True)
class CombinedLayout:
    """Elements of two operands of one shape and dtype, together.

    Attributes:
        operator: "+", "-" or "*".
        left: The first operand.
        right: The second.
    """

    operator: str
    left: Layout
    right: Layout

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of both operands."""
        return self.left.shape

    @property
    def dtype(self) -> np.dtype:
        """Dtype of both operands."""
        return self.left.dtype


Layout = (
    StridedView
    | JoinedLayout
    | ReshapedLayout
    | RowsLayout
    | TransposedLayout
    | SlicedLayout
    | ConstantLayout
    | StepsLayout
    | CombinedLayout
)


def shape_at(index: LayoutIndex) -> tuple[int, ...]:
    """Shape of what an index gives: integers drop their axis, None adds one."""
    return tuple(
        1 if item is None else item[2] for item in index if not isinstance(item, int)
    )


def whole_view(source: str, spec: TensorSpec) -> StridedView:
    """Views all of a tensor, as it is stored."""
    return StridedView(source, spec, 0, spec.shape, row_major(spec.shape))


def empty_view(node: Layout, shape: tuple[int, ...]) -> StridedView:
    """Makes a layout without elements; its dtype is that of another layout.

    Args:
        node: The other layout.
        shape: The shape, of which one axis is 0.

    Returns:
        A view of the first tensor below the node: every layout names a tensor.
    """
    view = next(views_of(node))
    strides = (0,) * len(shape)
    casts = view.casts
    if view.dtype != node.dtype:  # which is cast after some arithmetic
        casts = (*casts, node.dtype)
    return view._replace(offset=0, shape=shape, strides=strides, casts=casts)


def views_of(node: Layout) -> Iterator[StridedView]:
    """Yields the views that a layout is made of, from first to last."""
    if isinstance(node, StridedView):
        yield node
    elif isinstance(node, JoinedLayout):
        for _, operand in node.operands:
            yield from views_of(operand)
    elif isinstance(node, ConstantLayout):
        yield node.like
    elif isinstance(node, CombinedLayout):
        yield from views_of(node.left)
        yield from views_of(node.right)
    else:
        yield from views_of(node.operand)


def all_views(
    node: Layout, starts: tuple[int, ...] | None = None
) -> Iterator[tuple[StridedView, Box]]:
    """Lists the views of a layout of views and constants, and the boxes they fill.

    Args:
        node: The layout.
        starts: Where it begins in the layout that boxes are counted in; None for that
            layout itself.

    Yields:
        Views that have elements, or that are all of a tensor that has none.
    """
    if isinstance(node, JoinedLayout):
        for operand_starts, operand in node.operands:
            if starts is not None:
                operand_starts = tuple(map(operator.add, starts, operand_starts))
            if 0 not in operand.shape:
                yield from all_views(operand, operand_starts)
    elif isinstance(node, StridedView) and (0 not in node.shape or node.is_whole):
        if starts is None:
            yield node, Box.whole(node.shape)
        else:
            yield node, Box(starts, tuple(map(operator.add, starts, node.shape)))


def constants_within(node: Layout, box: Box) -> Iterator[tuple[ConstantLayout, Box]]:
    """Lists the constants of a layout of views and constants, and the boxes they fill.

    Args:
        node: The layout.
        box: A box within its shape.
    """
    if isinstance(node, ConstantLayout) and box.size:
        yield node, box
    elif isinstance(node, JoinedLayout):
        # Most operands are views: their boxes are not needed.
        others = [
            pair for pair in node.operands if not isinstance(pair[1], StridedView)
        ]
        for operand_box, operand in JoinedLayout(node.shape, tuple(others)).placed():
            shared = operand_box.intersection(box)
            if shared is not None:
                below = shared.relative_to(operand_box)
                for constant, inner in constants_within(operand, below):
                    yield constant, inner.moved(operand_box.starts)


def scratch_itemsize(node: Layout) -> int:
    """Bytes for each element that arithmetic takes besides its result."""
    match node:
        case StridedView() | ConstantLayout():
            return 0
        case JoinedLayout():
            return max(scratch_itemsize(operand) for _, operand in node.operands)
        case StepsLayout():
            # Before the last step, and after it.
            operand = scratch_itemsize(node.operand)
            return operand + node.operand.dtype.itemsize + node.dtype.itemsize
        case CombinedLayout():
            operands = scratch_itemsize(node.left) + scratch_itemsize(node.right)
            return operands + 3 * node.dtype.itemsize
        case _:
            return scratch_itemsize(node.operand)


def is_exact(node: Layout) -> bool:
    """Tells whether every box of a layout is filled from its own elements alone.

    Args:
        node: The layout.

    Returns:
        False if a box may need more of the tensors than its elements. `filling` shows
        where that happens.
    """
    match node:
        case StridedView() | ConstantLayout():
            return True
        case CombinedLayout():
            # Elements are combined one by one.
            return is_exact(node.left) and is_exact(node.right)
        case JoinedLayout():
            return all(is_exact(operand) for _, operand in node.operands)
        case RowsLayout():
            # Rows near each other are read with those between them.
            return False
        case SlicedLayout():
            # Every second row is read with the rows between; a reversal is a box.
            steps = [item[1] for item in node.index if isinstance(item, tuple)]
            return is_exact(node.operand) and all(abs(step) == 1 for step in steps)
        case ReshapedLayout():
            # A box of merged axes is a few boxes below. Where one group of axes becomes
            # another, as (4, 6) -> (3, 8), the group is read whole.
            groups = axis_groups(node.operand.shape, node.shape)
            return is_exact(node.operand) and all(
                sum(node.shape[axis] != 1 for axis in after) <= 1 for _, after in groups
            )
        case TransposedLayout() | StepsLayout():
            return is_exact(node.operand)


def needed_elements(views: Sequence[StridedView]) -> dict[str, int]:
    """Counts the elements of each tensor that views need, at most all of them.

    Args:
        views: The views; those that stand twice count once.

    Returns:
        Numbers of elements by name of the tensor.
    """
    counts: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for view in dict.fromkeys(views):
        counts[view.source] = counts.get(view.source, 0) + math.prod(view.shape)
        sizes[view.source] = view.base.size
    # Views may overlap: two of them never need more than the whole tensor.
    return {name: min(count, sizes[name]) for name, count in counts.items()}
