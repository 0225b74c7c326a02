"""Parts of tensors -> numpy arrays: boxes, and any strided view.

Decides which bytes a part needs and in which runs they are read. Checksums cover whole
pieces and are not compared here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from tf2flax._base.boxes import distance
from tf2flax._base.manifest import EncodedPiece, Piece, TensorEntry
from tf2flax._base.memory import aligned_empty, bytes_of, shape_only, view_at
from tf2flax._base.values import Box

from .runs import (
    LOCAL_READ_NBYTES,
    REMOTE_READ_NBYTES,
    AxisView,
    RunBlock,
    along_axes,
    ascending,
    blocks,
    rows_around,
    strided,
    strides_of,
)
from .whole import (
    check_readable,
    check_spans,
    empty_for,
    read_piece,
    subject_of,
    to_native,
)


def read_box(entry: TensorEntry, box: Box) -> np.ndarray:
    """Reads a box of one tensor; checksums, which cover whole pieces, are not compared.

    Args:
        entry: Where the tensor lies.
        box: The box, within the tensor.

    Returns:
        Array of the box's shape.

    Raises:
        DamagedError: A data file is missing or short.
        UnsupportedError: The dtype holds no array.
        ReadError: The operating system refuses.
    """
    check_readable(entry)
    check_spans(entry, box)
    out = empty_for(entry, box.shape)
    read_box_into(entry, box, out)
    return out


def read_box_into(entry: TensorEntry, box: Box, out: np.ndarray) -> None:
    """Fills an array with a box of one tensor, as `read_box` reads it.

    Args:
        entry: Where the tensor lies.
        box: The box, within the tensor.
        out: Array of the box's shape and the tensor's dtype.
    """
    for piece in entry.pieces:
        shared = box.intersection(piece.box)
        if shared is None:
            continue
        target = view_at(out, shared.within(box))
        local = shared.relative_to(piece.box)
        if not isinstance(piece, Piece):
            target[...] = piece.read(local)
        elif entry.spec.dtype.is_string:
            strings = read_piece(entry, piece, verify=True)
            whole = Box.whole(strings.shape)
            target[...] = view_at(strings, local.within(whole))
        else:
            _fill_region(entry, piece, local, target)


@dataclasses.dataclass(frozen=True, slots=True)
class _Step:
    """A part of a view that lies in one piece.

    Attributes:
        piece: The piece.
        index: Where the part stands in the view.
        offset: Its first element, in the piece's row-major order.
        shape: Its extents.
        strides: Its steps in the piece.
        box: What is read of a piece that only its format can read, in its coordinates.
    """

    piece: Piece | EncodedPiece
    index: tuple[slice, ...]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    box: Box | None = None


def read_view_into(
    entry: TensorEntry, offset: int, strides: tuple[int, ...], out: np.ndarray
) -> None:
    """Fills an array with a strided view of one tensor; checksums are not compared.

    Args:
        entry: Where the tensor lies.
        offset: The view's first element, in the tensor's row-major order.
        strides: Its steps, in elements.
        out: Array of the view's shape and the tensor's dtype.

    Raises:
        DamagedError: A data file is missing or short.
        UnsupportedError: The dtype holds no array.
        ReadError: The operating system refuses.
    """
    if not out.size:
        return
    check_readable(entry)
    steps = _steps(entry, offset, out.shape, strides)
    if steps is None:
        rows, first = _rows_of(entry, offset, out.shape, strides)
        out[...] = strided(read_box(entry, rows), first, out.shape, strides)
        return
    for step in steps:
        target = view_at(out, step.index)
        if isinstance(step.piece, Piece):
            step.piece.data_file.check_span(step.piece.span, subject=subject_of(entry))
            _fill_view(entry, step.piece, step.offset, step.strides, target)
        else:
            assert step.box is not None
            step.piece.check(subject=subject_of(entry))
            array = step.piece.read(step.box)
            target[...] = strided(array, step.offset, step.shape, step.strides)


def count_read_nbytes(
    entry: TensorEntry, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> int:
    """Counts the bytes that `read_view_into` reads, gaps included.

    Args:
        entry: Where the tensor lies.
        offset: The view's first element.
        shape: Its extents.
        strides: Its steps.

    Returns:
        Bytes; of pieces that only their format can read, those of the elements.
    """
    if 0 in shape:
        return 0
    itemsize = entry.spec.dtype.numpy.itemsize
    steps = _steps(entry, offset, shape, strides)
    if steps is None:
        rows, _ = _rows_of(entry, offset, shape, strides)
        own = strides_of(entry.spec.shape)
        first = sum(a * s for a, s in zip(rows.starts, own, strict=True))
        return count_read_nbytes(entry, first, rows.shape, own)
    total = 0
    for step in steps:
        if isinstance(step.piece, Piece):
            size = sum(block.size for block in _blocks(entry, step.piece, step))
        else:
            assert step.box is not None
            size = step.box.size
        total += size * itemsize
    return total


def _rows_of(
    entry: TensorEntry, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> tuple[Box, int]:
    """The rows that hold a view, and where it begins in them."""
    rows = rows_around(entry.spec.shape, offset, shape, strides)
    return rows, offset - rows.starts[0] * math.prod(entry.spec.shape[1:])


def _steps(
    entry: TensorEntry, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> list[_Step] | None:
    """Cuts a view into parts that lie in one piece each.

    Returns:
        The parts; None where axes of the view run across those of a sliced tensor.
    """
    whole = tuple(slice(0, n) for n in shape)
    piece = entry.pieces[0]
    if isinstance(piece, Piece) and not entry.is_sliced:
        return [_Step(piece, whole, offset, shape, strides)]
    view = along_axes(entry.spec.shape, offset, shape, strides)
    if view is None:
        return None
    for piece in entry.pieces:
        if view.box.intersection(piece.box) == view.box:
            if isinstance(piece, Piece):
                first, steps = view.within(piece.box)
                return [_Step(piece, whole, first, shape, steps)]
            first, steps = view.within(view.box)
            box = view.box.relative_to(piece.box)
            return [_Step(piece, whole, first, shape, steps, box)]
    if view.is_box:
        return list(_steps_by_piece(entry, view, offset, shape, strides))
    # It lies in several pieces: the half of it with the longest steps, then the other.
    axis = max(range(len(shape)), key=lambda a: (shape[a] > 1) * abs(strides[a]))
    half = shape[axis] // 2
    result: list[_Step] = []
    for low, high in ((0, half), (half, shape[axis])):
        own = (*shape[:axis], high - low, *shape[axis + 1 :])
        parts = _steps(entry, offset + low * strides[axis], own, strides)
        if parts is None:
            return None
        for part in parts:
            span = part.index[axis]
            moved = slice(span.start + low, span.stop + low)
            index = (*part.index[:axis], moved, *part.index[axis + 1 :])
            result.append(dataclasses.replace(part, index=index))
    return result


def _steps_by_piece(
    entry: TensorEntry,
    view: AxisView,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
) -> Iterator[_Step]:
    """The part of a view in each piece, where that is a box of the view."""
    whole = Box.whole(shape)
    for piece in entry.pieces:
        part = view.part_in(piece.box, shape)
        if part is None:
            continue
        first = offset + distance(part.starts, strides)
        inner = along_axes(entry.spec.shape, first, part.shape, strides)
        assert inner is not None
        box, shared = piece.box, None
        if not isinstance(piece, Piece):
            box, shared = inner.box, inner.box.relative_to(piece.box)
        place, steps = inner.within(box)
        yield _Step(piece, part.within(whole), place, part.shape, steps, shared)


def _blocks(entry: TensorEntry, piece: Piece, step: _Step) -> Iterator[RunBlock]:
    offset, strides, turned = ascending(
        step.offset, step.strides, shape_only(step.shape)
    )
    return blocks(
        offset, turned.shape, strides, entry.spec.dtype.numpy.itemsize, _cost(piece)
    )


def _cost(piece: Piece) -> int:
    """What one more read costs, as bytes."""
    return LOCAL_READ_NBYTES if piece.data_file.is_local else REMOTE_READ_NBYTES


def _fill_region(entry: TensorEntry, piece: Piece, box: Box, out: np.ndarray) -> None:
    """Fills an array with a box of one piece, in the piece's own coordinates."""
    strides = strides_of(piece.box.shape)
    offset = distance(box.starts, strides)
    _fill_view(entry, piece, offset, strides, out)


def _fill_view(
    entry: TensorEntry,
    piece: Piece,
    offset: int,
    strides: tuple[int, ...],
    out: np.ndarray,
) -> None:
    """Fills an array with a strided view of one piece, counted in elements."""
    offset, strides, out = ascending(offset, strides, out)
    itemsize = entry.spec.dtype.numpy.itemsize
    for block in blocks(offset, out.shape, strides, itemsize, _cost(piece)):
        target = view_at(out, block.index)
        is_direct = block.is_exact and target.flags.c_contiguous
        buffer = target if is_direct else aligned_empty((block.size,), out.dtype)
        first = piece.span.start
        piece.data_file.read_runs_into(
            [first + start * itemsize for start in block.starts],
            bytes_of(buffer).data,
            subject=subject_of(entry),
        )
        to_native(buffer, entry)
        if not is_direct:
            target[...] = strided(buffer, 0, block.shape, block.strides)
