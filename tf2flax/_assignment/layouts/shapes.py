"""Shapes of the same elements: strides, runs and boxes; pure functions on integers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from tf2flax._base.values import row_major


def strides_after_reshape(
    old: tuple[int, ...], strides: tuple[int, ...], new: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Finds the strides that give the same elements in another shape.

    Axes are merged first and split afterwards. Two axes can be merged if the end of a
    row meets the start of the next one: the outer stride is a whole inner row.

        shape (2, 3), strides (3, 1)      0 1 2 | 3 4 5      merges to 6 with stride 1
        shape (2, 3), strides (1, 2)      0 2 4 | 1 3 5      has no stride

    Args:
        old: Shape before.
        strides: Strides before.
        new: Shape after; as many elements, not 0.

    Returns:
        The new strides; None if none give these elements.

    Examples:
        >>> strides_after_reshape((2, 6), (6, 1), (2, 3, 2))
        (6, 2, 1)
        >>> strides_after_reshape((2, 6), (1, 2), (12,)) is None
        True
    """
    result: list[int] = []
    for before, after in axis_groups(old, new):
        # Axes of length 1 may have any stride, since nothing moves along them.
        axes = [axis for axis in before if old[axis] != 1]
        for outer, inner in itertools.pairwise(axes):
            if strides[outer] != strides[inner] * old[inner]:
                return None
        step = strides[axes[-1]] if axes else 0
        result += [step * stride for stride in row_major([new[axis] for axis in after])]
    return tuple(result)


def axis_groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[range, range]]:
    """Pairs runs of axes of two shapes that hold the same elements, as fine as can be.

        old   4 |   6   | 2 5        new lengths multiply to the old ones,
        new   4 | 2 1 3 |  10        group by group

    Args:
        old: A shape.
        new: Another one of as many elements, not 0.

    Returns:
        For each group its axes in both shapes. Every axis is in one group.

    Examples:
        >>> axis_groups((4, 6), (4, 2, 1, 3))
        [(range(0, 1), range(0, 1)), (range(1, 2), range(1, 4))]
    """
    groups: list[tuple[range, range]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        first_old, first_new = i, j
        left = right = 1
        # A group begins with the next axis of both shapes; axes of length 1 may be left
        # in one of them alone ...
        if i < len(old):
            left, i = left * old[i], i + 1
        if j < len(new):
            right, j = right * new[j], j + 1
        # ... and the smaller side takes axes until both have as many elements.
        while left != right:
            if left < right:
                left, i = left * old[i], i + 1
            else:
                right, j = right * new[j], j + 1
        groups.append((range(first_old, i), range(first_new, j)))
    return groups


def box_after_reshape(
    old: list[int], box: list[tuple[int, int]], new: list[int]
) -> list[tuple[int, int]] | None:
    """Finds the box of another shape that holds the same elements.

    Args:
        old: The shape.
        box: The box in it: `(start, length)` along every axis.
        new: A shape of as many elements.

    Returns:
        The box in the new shape; None if the elements are not a box there.
    """
    if all(length == dim for (_, length), dim in zip(box, old, strict=True)):
        return [(0, dim) for dim in new]
    # Its elements must be one run: one index along the outer axes, a range along one
    # axis, and all of the inner ones.
    #
    #     . . . .     . . . .     . . x x
    #     x x x x     . x x .     . . x x     the last is not a run
    #     x x x x     . . . .     . . . .
    strides = row_major(old)
    axes = [axis for axis, (_, length) in enumerate(box) if length != 1]
    first = sum(start * stride for (start, _), stride in zip(box, strides, strict=True))
    count = math.prod(length for _, length in box)
    if axes and any(box[a][1] != old[a] for a in range(axes[0] + 1, len(old))):
        return None
    return run_as_box(first, count, new)


def run_as_box(
    first: int, count: int, shape: Sequence[int]
) -> list[tuple[int, int]] | None:
    """Finds the box that a run of elements is, in row-major order.

    Args:
        first: Number of the first element.
        count: Number of elements, at least 1.
        shape: The shape.

    Returns:
        `(start, length)` along every axis; None if the run is not a box.

    Examples:
        >>> run_as_box(6, 6, (4, 3))
        [(2, 2), (0, 3)]
        >>> run_as_box(2, 2, (4, 3)) is None
        True
    """
    box: list[tuple[int, int]] = []
    for axis, (dim, stride) in enumerate(zip(shape, row_major(shape), strict=True)):
        start, first = divmod(first, stride)
        if count >= stride and first == 0 and count % stride == 0:
            # Whole rows from here on.
            length = count // stride
            if start + length > dim:
                return None
            return [*box, (start, length), *((0, n) for n in shape[axis + 1 :])]
        # A run that ends in another row than it starts in is not a box.
        if first + count > stride:
            return None
        box.append((start, 1))
    return box
