"""Boxes of a leaf -> boxes of tensors, where no element has to move to another place.

    leaf = src("kernel").transpose(), shape (6, 4)      kernel, shape (4, 6)
    rows [0:3] of the leaf, all columns             ->  rows all, columns [0:3]

What a shard of a leaf becomes in a file must be such a box: files have nothing smaller
than slices.
"""

from __future__ import annotations

import bisect
import dataclasses
import operator
from collections.abc import Iterator, Sequence

import numpy as np

from tf2flax._base.values import Box, row_major

from .nodes import JoinedLayout, Layout, StridedView


@dataclasses.dataclass(frozen=True, slots=True)
class TensorBox:
    """A box of a leaf that is a box of a tensor.

    Attributes:
        source: Name of the tensor.
        box: The box of the tensor.
        leaf_box: The box of the leaf.
        axes: Axes of the leaf in the order in which the tensor has them.
        casts: Dtypes that elements went through when they were loaded.
    """

    source: str
    box: Box
    leaf_box: Box
    axes: tuple[int, ...]
    casts: tuple[np.dtype, ...]

    def from_leaf(self, array: np.ndarray) -> np.ndarray:
        """The elements of the box of the leaf, as the tensor has them."""
        return array.transpose(self.axes).reshape(self.box.shape)


class NoBoxError(Exception):
    """A box of a leaf is not made of boxes of tensors."""


def boxes_in_tensors(layout: Layout, box: Box) -> Iterator[TensorBox]:
    """Finds the boxes of tensors that a box of a leaf is made of.

    Args:
        layout: The layout of the leaf.
        box: The box of the leaf, which has elements.

    Yields:
        Boxes that together have the elements of the box.

    Raises:
        NoBoxError: There are no such boxes.
    """
    match layout:
        case StridedView():
            yield _box_of_view(layout, box)
        case JoinedLayout():
            for operand_box, operand in layout.placed():
                shared = operand_box.intersection(box)
                if shared is not None:
                    below = shared.relative_to(operand_box)
                    for inner in boxes_in_tensors(operand, below):
                        leaf_box = inner.leaf_box.moved(operand_box.starts)
                        yield dataclasses.replace(inner, leaf_box=leaf_box)
        case _:  # a constant, arithmetic, rows by number, or an order without strides
            raise NoBoxError


def _box_of_view(view: StridedView, box: Box) -> TensorBox:
    """The box of the tensor that a box of a view is.

    Axes of the view are laid over those of the tensor, those with the shortest strides
    first. In a tensor of shape (4, 6), with strides (6, 1):

        view (3, 4), strides (1, 6)        3 columns, then 4 rows
        view (2, 2, 3), strides (6, 3, 1)  3 and 2 make all 6 columns, then 2 rows
        view (18,), stride 1               6 of 18 make all columns, the others 3 rows
    """
    shape, dims = box.shape, view.base.shape
    offset = view.offset + sum(map(operator.mul, box.starts, view.strides))
    order = sorted(range(len(shape)), key=lambda axis: -view.strides[axis])
    moving = [(view.strides[axis], shape[axis]) for axis in order if shape[axis] > 1]
    strides = row_major(dims)
    starts: list[int] = []
    for stride in strides:
        starts.append(offset // stride)
        offset %= stride
    stops = list(starts)
    for axis in reversed(range(len(dims))):
        extent = _extent_along(moving, strides[axis], dims[axis])
        stops[axis] += extent
    tensor_box = Box(tuple(starts), tuple(stops))
    if moving or not tensor_box.fits(dims):
        raise NoBoxError
    return TensorBox(view.source, tensor_box, box, tuple(order), view.casts)


def _extent_along(moving: list[tuple[int, int]], stride: int, dim: int) -> int:
    """Takes away what of a view lies along an axis of its tensor.

    Args:
        moving: Strides and numbers of elements of the axes that are left of the view,
            the shortest stride last; changed here.
        stride: Stride of the axis of the tensor.
        dim: Its number of elements.

    Returns:
        How many of them the view has.
    """
    extent = 1
    while extent < dim and moving and moving[-1][0] == stride * extent:
        _, count = moving.pop()
        fitting = dim // extent
        if count > fitting:  # the axis goes on along the next one of the tensor
            if dim % extent or count % fitting:
                raise NoBoxError
            moving.append((stride * dim, count // fitting))
            return dim
        extent *= count
    return extent


def coverage(boxes: Sequence[Box], shape: tuple[int, ...]) -> tuple[int, int]:
    """Counts how often boxes cover the elements of an array.

    Args:
        boxes: The boxes.
        shape: Shape of the array, which has elements.

    Returns:
        How often the elements that are covered least, and most, are covered.

    Examples:
        >>> coverage([Box((0, 0), (2, 3)), Box((1, 0), (4, 3))], shape=(4, 3))
        (1, 2)
    """
    # Between two neighbouring bounds all elements are alike: one cell stands for them.
    bounds = [
        sorted(
            {0, *(b.starts[axis] for b in boxes), *(b.stops[axis] for b in boxes)}
            - {dim}
        )
        for axis, dim in enumerate(shape)
    ]
    counts = np.zeros(tuple(map(len, bounds)), np.int64)
    for box in boxes:
        lows, highs = (
            map(bisect.bisect_left, bounds, ends) for ends in (box.starts, box.stops)
        )
        counts[tuple(map(slice, lows, highs))] += 1
    return int(counts.min()), int(counts.max())
