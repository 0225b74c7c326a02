"""Checks that several formats need: blocks of tables, slices that tile their tensor.

Source: tensorflow/core/framework/tensor_shape.cc, tensor_slice.cc.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from tf2flax._base.errors import MalformedError
from tf2flax._base.manifest import Piece
from tf2flax._base.values import (
    Box,
)

from .wire.sstable import SSTable

# Pairs of slices that may be compared, within a second; a grid of 100 x 100 takes
# 1,500,000. Without a bound, 100,000 slices could take hours.
MAX_COMPARISONS: Final = 5_000_000


def damaged_blocks(table: SSTable, path: str) -> tuple[tuple[str, str], ...]:
    """Reads and checks every block of a table.

    Args:
        table: The table.
        path: Its file, for messages.

    Returns:
        For each block that is damaged, the file and the message.
    """
    return tuple(
        (path, f"A block is damaged: {error} - in `{path}`. Copy the file again.")
        for error in table.check_blocks()
    )


def box_of_slice(extents: Sequence[tuple[int, int]], shape: tuple[int, ...]) -> Box:
    """Finds the box that a slice means.

    Args:
        extents: Start and length along every axis; a length of -1 is the whole axis.
        shape: Shape of the whole tensor.

    Returns:
        The box.

    Raises:
        MalformedError: It does not lie within the tensor.
    """
    if len(extents) != len(shape):
        raise MalformedError(
            f"expected slices of rank {len(shape)}, got one of rank {len(extents)}"
        )
    starts: list[int] = []
    stops: list[int] = []
    for (start, length), dim in zip(extents, shape, strict=True):
        if length == -1:
            start, length = 0, dim
        if start < 0 or length < 0 or start + length > dim:
            raise MalformedError(
                f"expected a slice within [0, {dim}), got [{start}, {start + length})"
            )
        starts.append(start)
        stops.append(start + length)
    return Box(tuple(starts), tuple(stops))


def check_tiling(boxes: Sequence[Box], whole: Box) -> None:
    """Checks that slices cover a tensor exactly once.

    Boxes that share no element and have as many elements as the whole tile it.

    Args:
        boxes: The boxes, within the tensor.
        whole: The box that is all of it.

    Raises:
        MalformedError: They overlap, or leave a hole.
    """
    boxes = sorted(boxes)
    stored = sum(box.size for box in boxes)
    if stored != whole.size:
        raise MalformedError(
            f"expected slices that cover {whole.size} elements, got {stored}"
        )
    if len(boxes) > 1:
        _check_apart(boxes)


def _check_apart(boxes: list[Box]) -> None:
    """Checks that boxes share no element: a sweep along the axis most differ on."""
    starts = np.array([box.starts for box in boxes], np.int64)
    stops = np.array([box.stops for box in boxes], np.int64)
    if not starts.shape[1]:
        raise MalformedError(f"{len(boxes)} slices of a scalar overlap")
    axis = max(range(starts.shape[1]), key=lambda a: len(np.unique(starts[:, a])))
    order = np.lexsort((stops[:, axis], starts[:, axis]))
    starts, stops = starts[order], stops[order]
    active = np.zeros(0, np.int64)
    compared = 0
    for i in range(len(boxes)):
        before = (starts[active] == starts[i]) & (stops[active] == stops[i])
        is_open = stops[active, axis] > starts[i, axis]
        shared = np.maximum(starts[active], starts[i]) < np.minimum(
            stops[active], stops[i]
        )
        overlaps = before.all(axis=1) | shared.all(axis=1)
        if overlaps.any():
            first, second = order[active[overlaps.argmax()]], order[i]
            raise MalformedError(f"slices {boxes[first]} and {boxes[second]} overlap")
        compared += len(active)
        if compared > MAX_COMPARISONS:
            raise MalformedError(
                f"its {len(boxes)} slices lie so that checking them takes too long"
            )
        # What ends where this one begins may still be its equal: an empty box.
        is_open |= stops[active, axis] == starts[i, axis]
        active = np.append(active[is_open], i)


def check_bytes_apart(pieces: list[Piece]) -> None:
    """Checks that no two slices share bytes.

    Otherwise a small file could make up a tensor of any size.
    """
    free: dict[str, int] = {}
    for piece in sorted(pieces, key=lambda piece: piece.span):
        if piece.span.start < free.get(piece.data_file.path, 0):
            raise MalformedError(f"slice {piece.box} shares bytes with another")
        free[piece.data_file.path] = piece.span.stop
