"""Shapes of the same elements: strides, runs and boxes; pure functions on integers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of an array in row-major order.

    Args:
        shape: Its extents.

    Returns:
        Steps in elements.

    Examples:
        >>> row_major((2, 3, 4))
        (12, 4, 1)
    """
    strides = [1] * len(shape)
    for axis in reversed(range(len(shape) - 1)):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    return tuple(strides)


def strides_after_reshape(
    old: tuple[int, ...], strides: tuple[int, ...], new: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Finds the strides that show the same elements in another shape.

    Args:
        old: The shape.
        strides: Its strides.
        new: The new shape, of as many elements, not 0.

    Returns:
        The new strides; None where no strides do.

    Examples:
        >>> strides_after_reshape((2, 6), (6, 1), (2, 3, 2))
        (6, 2, 1)
        >>> strides_after_reshape((2, 6), (1, 2), (12,)) is None
        True
    """
    result: list[int] = []
    for before, after in axis_groups(old, new):
        axes = [axis for axis in before if old[axis] != 1]
        for outer, inner in itertools.pairwise(axes):
            if strides[outer] != strides[inner] * old[inner]:
                return None
        step = strides[axes[-1]] if axes else 0
        own = row_major([new[axis] for axis in after])
        result += [step * stride for stride in own]
    return tuple(result)


def axis_groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[range, range]]:
    """Pairs runs of axes of two shapes that hold the same elements, as fine as can be.

    Args:
        old: A shape.
        new: Another of as many elements, not 0.

    Returns:
        Axes of the one and of the other; of each, every axis once, in order.

    Examples:
        >>> axis_groups((4, 6), (4, 2, 1, 3))
        [(range(0, 1), range(0, 1)), (range(1, 2), range(1, 4))]
    """
    groups: list[tuple[range, range]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        a, b = i, j
        left = right = 1
        if i < len(old):
            left, i = left * old[i], i + 1
        if j < len(new):
            right, j = right * new[j], j + 1
        while left != right:
            if left < right:
                left, i = left * old[i], i + 1
            else:
                right, j = right * new[j], j + 1
        groups.append((range(a, i), range(b, j)))
    return groups


def box_after_reshape(
    old: list[int], box: list[tuple[int, int]], new: list[int]
) -> list[tuple[int, int]] | None:
    """Finds a box of one shape in another shape.

    Args:
        old: The shape.
        box: The box: `(start, extent)` along every axis.
        new: A shape of as many elements.

    Returns:
        The box of the new shape that holds the same elements; None where none does.
    """
    if all(extent == dim for (_, extent), dim in zip(box, old, strict=True)):
        return [(0, dim) for dim in new]
    # Its elements must be one run ...
    strides = row_major(old)
    axes = [axis for axis, (_, extent) in enumerate(box) if extent != 1]
    first = sum(start * stride for (start, _), stride in zip(box, strides, strict=True))
    count = math.prod(extent for _, extent in box)
    if axes and any(box[a][1] != old[a] for a in range(axes[0] + 1, len(old))):
        return None
    return run_as_box(first, count, new)


def run_as_box(
    first: int, count: int, shape: Sequence[int]
) -> list[tuple[int, int]] | None:
    """A run of elements as a box of `(start, extent)`; None where it is none.

    Args:
        first: The first element, in row-major order.
        count: Number of elements, at least 1.
        shape: The shape.

    Returns:
        The box.

    Examples:
        >>> run_as_box(6, 6, (4, 3))
        [(2, 2), (0, 3)]
        >>> run_as_box(2, 2, (4, 3)) is None
        True
    """
    box: list[tuple[int, int]] = []
    for dim, stride in zip(shape, row_major(shape), strict=True):
        start, first = divmod(first, stride)
        if count >= stride and first == 0 and count % stride == 0:
            # Whole rows from here on.
            extent = count // stride
            if start + extent > dim:
                return None
            inner = len(shape) - len(box) - 1
            tail = [(0, n) for n in shape[len(shape) - inner :]]
            return [*box, (start, extent), *tail]
        if first + count > stride:
            return None
        box.append((start, 1))
    return box
