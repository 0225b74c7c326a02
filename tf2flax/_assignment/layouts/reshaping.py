"""Reshapes of layouts: views stay views, and tiles tiles, wherever they can."""

from __future__ import annotations

import dataclasses

from .nodes import (
    Layout,
    ReshapedLayout,
    Tiles,
    TransposedLayout,
    View,
    empty_view,
    transpose,
)
from .shapes import axis_groups, box_after_reshape, strides_after_reshape


def reshape(node: Layout, shape: tuple[int, ...]) -> Layout:
    """Gives the same elements another shape.

    Args:
        node: A layout.
        shape: A shape of as many elements.

    Returns:
        The layout; views stay views where NumPy needs no copy.
    """
    if shape == node.shape:
        return node
    if 0 in shape:
        return empty_view(node, shape)
    match node:
        case View():
            strides = strides_after_reshape(node.shape, node.strides, shape)
            if strides is not None:
                return dataclasses.replace(node, shape=shape, strides=strides)
        case Tiles():
            tiles = _reshaped_tiles(node, shape)
            if tiles is not None:
                return tiles
        case ReshapedLayout():
            return reshape(node.operand, shape)
        case TransposedLayout():
            split = _split_transposed(node, shape)
            if split is not None:
                return split
        case _:
            pass
    return ReshapedLayout(node, shape)


def _reshaped_tiles(node: Tiles, shape: tuple[int, ...]) -> Layout | None:
    """Reshapes the parts, where each keeps whole rows of the new shape."""
    groups = axis_groups(node.shape, shape)
    parts: list[tuple[tuple[int, ...], Layout]] = []
    for starts, part in node.parts:
        place: list[int] = []
        extents: list[int] = []
        for before, after in groups:
            found = box_after_reshape(
                [node.shape[a] for a in before],
                [(starts[a], part.shape[a]) for a in before],
                [shape[a] for a in after],
            )
            if found is None:
                return None
            place += [start for start, _ in found]
            extents += [extent for _, extent in found]
        parts.append((tuple(place), reshape(part, tuple(extents))))
    return Tiles(shape, tuple(parts))


def _split_transposed(node: TransposedLayout, shape: tuple[int, ...]) -> Layout | None:
    """Splits axes below a transposition, where the reshape does nothing else."""
    groups = axis_groups(node.shape, shape)
    if any(len(before) != 1 for before, _ in groups):
        return None
    split = [tuple(shape[a] for a in after) for _, after in groups]
    below: dict[int, tuple[int, ...]] = dict(zip(node.axes, split, strict=True))
    first: dict[int, int] = {}
    count = 0
    for axis in range(len(below)):
        first[axis] = count
        count += len(below[axis])
    operand = reshape(
        node.operand, tuple(n for axis in range(len(below)) for n in below[axis])
    )
    order = tuple(
        first[axis] + i for axis in node.axes for i in range(len(below[axis]))
    )
    return transpose(operand, order)
