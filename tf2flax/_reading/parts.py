"""Parts of tensors -> numpy arrays: boxes, and any strided view.

Decides which bytes a part needs and in which runs they are read. Checksums cover whole
pieces and are not compared here.
"""

from __future__ import annotations

import collections
import contextlib
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tf2flax._base.boxes import distance
from tf2flax._base.data_files import BufferRead
from tf2flax._base.manifest import EncodedPiece, Piece, TensorEntry
from tf2flax._base.memory import aligned_empty, bytes_of, view_at
from tf2flax._base.tuning import DEFAULT_TUNING, Tuning
from tf2flax._base.values import Box

from .checks import (
    check_pieces,
    check_readable,
    empty_for,
    read_piece,
    subject_of,
    to_native,
)
from .runs import RunBatch, batch_runs, count_elements
from .strides import AxisView, along_axes, ascending, rows_around, strided, strides_of


def read_box(
    entry: TensorEntry, box: Box, tuning: Tuning = DEFAULT_TUNING
) -> np.ndarray:
    """Reads a box of one tensor; checksums, which cover whole pieces, are not compared.

    Args:
        entry: Where the tensor lies.
        box: The box, within the tensor.
        tuning: How much is read at once.

    Returns:
        Array of the box's shape.

    Raises:
        DamagedError: A data file is missing or short.
        UnsupportedError: The dtype holds no array.
        ReadError: The operating system refuses.
    """
    check_readable(entry)
    check_pieces(entry, box)
    out = empty_for(entry, box.shape)
    read_box_into(entry, box, out, tuning)
    return out


def read_box_into(
    entry: TensorEntry, box: Box, out: np.ndarray, tuning: Tuning = DEFAULT_TUNING
) -> None:
    """Fills an array with a box of one tensor, as `read_box` reads it.

    Args:
        entry: Where the tensor lies.
        box: The box, within the tensor.
        out: Array of the box's shape and the tensor's dtype.
        tuning: How much is read at once.
    """
    for piece in entry.pieces:
        shared = box.intersection(piece.box)
        if shared is None:
            continue
        # Both in their own coordinates: those of `out`, and those of the piece.
        target = view_at(out, shared.within(box))
        box_in_piece = shared.relative_to(piece.box)
        if piece.data_file is None:
            target[...] = piece.read(box_in_piece)
        elif entry.spec.dtype.is_string:
            # Only the lengths of all strings before one say where it begins.
            strings = read_piece(entry, piece, verify=True)
            whole = Box.whole(strings.shape)
            target[...] = view_at(strings, box_in_piece.within(whole))
        else:
            strides = strides_of(piece.box.shape)
            offset = distance(box_in_piece.starts, strides)
            _read_runs(entry, piece, offset, strides, target, tuning)


class _PieceView(NamedTuple):
    """A part of a view that lies in one piece.

    Attributes:
        piece: The piece.
        bounds: The part of the view, as slices.
        offset: Its first element, in the piece's row-major order; of a piece that only
            its format can read, in that of `box`.
        shape: Its shape.
        strides: Its steps there.
        box: What is read of a piece that only its format can read, in its coordinates.
    """

    piece: Piece | EncodedPiece
    bounds: tuple[slice, ...]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    box: Box | None = None


def read_view_into(
    entry: TensorEntry,
    offset: int,
    strides: tuple[int, ...],
    out: np.ndarray,
    tuning: Tuning = DEFAULT_TUNING,
) -> None:
    """Fills an array with a strided view of one tensor; checksums are not compared.

    Args:
        entry: Where the tensor lies.
        offset: The view's first element, in the tensor's row-major order.
        strides: Its steps, in elements.
        out: Array of the view's shape and the tensor's dtype.
        tuning: How much is read at once.

    Raises:
        DamagedError: A data file is missing or short.
        UnsupportedError: The dtype holds no array.
        ReadError: The operating system refuses.
    """
    if not out.size:
        return
    check_readable(entry)
    parts = _split_by_piece(entry, offset, out.shape, strides)
    if parts is None:  # all rows around it, then: more than it needs, but correct
        rows, first = _rows_of(entry, offset, out.shape, strides)
        out[...] = strided(read_box(entry, rows), first, out.shape, strides)
        return
    for part in parts:
        target = view_at(out, part.bounds)
        piece = part.piece
        piece.check(subject=subject_of(entry))
        if piece.data_file is not None:
            _read_runs(entry, piece, part.offset, part.strides, target, tuning)
        else:
            assert part.box is not None
            array = piece.read(part.box)
            target[...] = strided(array, part.offset, part.shape, part.strides)


def count_read_nbytes(
    entry: TensorEntry,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    tuning: Tuning = DEFAULT_TUNING,
) -> int:
    """Counts the bytes that `read_view_into` reads, gaps included.

    Args:
        entry: Where the tensor lies.
        offset: The view's first element.
        shape: Its shape.
        strides: Its steps.
        tuning: How much is read at once.

    Returns:
        Bytes; of pieces that only their format can read, those of the elements.
    """
    if 0 in shape:
        return 0
    itemsize = entry.spec.dtype.numpy.itemsize
    parts = _split_by_piece(entry, offset, shape, strides)
    if parts is None:
        rows, _ = _rows_of(entry, offset, shape, strides)
        tensor_strides = strides_of(entry.spec.shape)
        first = distance(rows.starts, tensor_strides)
        return count_read_nbytes(entry, first, rows.shape, tensor_strides, tuning)
    size = 0  # in elements
    for part in parts:
        if part.piece.data_file is not None:
            size += _count_elements(entry, part.piece, part.shape, part.strides, tuning)
        else:
            assert part.box is not None
            size += part.box.size
    return size * itemsize


def _rows_of(
    entry: TensorEntry, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> tuple[Box, int]:
    """The rows that hold a view, and its first element in them."""
    rows = rows_around(entry.spec.shape, offset, shape, strides)
    return rows, offset - rows.starts[0] * math.prod(entry.spec.shape[1:])


def _split_by_piece(
    entry: TensorEntry, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> list[_PieceView] | None:
    """Splits a view into parts that lie in one piece each.

    Returns:
        The parts; None where axes of the view run across those of a sliced tensor.
    """
    whole = tuple(slice(0, n) for n in shape)
    piece = entry.pieces[0]
    if piece.data_file is not None and not entry.is_sliced:
        return [_PieceView(piece, whole, offset, shape, strides)]
    view = along_axes(entry.spec.shape, offset, shape, strides)
    if view is None:
        return None
    # Most views lie in one piece; they need no cutting.
    for piece in entry.pieces:
        if view.box.intersection(piece.box) == view.box:
            if piece.data_file is not None:
                first, steps = view.within(piece.box)
                return [_PieceView(piece, whole, first, shape, steps)]
            # Only the box around the view is read, and the view taken out of it.
            first, steps = view.within(view.box)
            box = view.box.relative_to(piece.box)
            return [_PieceView(piece, whole, first, shape, steps, box)]
    if view.is_box:
        return list(_parts_in_pieces(entry, view, offset, shape, strides))
    return _split_in_halves(entry, offset, shape, strides)


def _split_in_halves(
    entry: TensorEntry, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> list[_PieceView] | None:
    """Splits a view in two until each part lies in one piece, or is a box of it.

    For views of which two axes run along the same axis of the tensor, such as windows
    of it; no box of them is a box of the tensor.
    """
    # Across the longest steps, so that halves lie apart in the tensor.
    axis = max(range(len(shape)), key=lambda a: (shape[a] > 1) * abs(strides[a]))
    middle = shape[axis] // 2
    result: list[_PieceView] = []
    for start, stop in ((0, middle), (middle, shape[axis])):
        half = (*shape[:axis], stop - start, *shape[axis + 1 :])
        parts = _split_by_piece(entry, offset + start * strides[axis], half, strides)
        if parts is None:
            return None
        for part in parts:
            # Parts of a half count from its beginning.
            along = part.bounds[axis]
            moved = slice(along.start + start, along.stop + start)
            bounds = (*part.bounds[:axis], moved, *part.bounds[axis + 1 :])
            result.append(part._replace(bounds=bounds))
    return result


def _parts_in_pieces(
    entry: TensorEntry,
    view: AxisView,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
) -> Iterator[_PieceView]:
    """The part of a view in each piece, where that is a box of the view.

    ::

        pieces of the tensor      every second column      parts of the view
        +-----+-------+           .x.x.|x.x.x.x            +---+-----+
        |  0  |   1   |           .x.x.|x.x.x.x            | 0 |  1  |
        +-----+-------+                                    +---+-----+
    """
    whole = Box.whole(shape)
    for piece in entry.pieces:
        part = view.part_in(piece.box, shape)
        if part is None:
            continue
        first = offset + distance(part.starts, strides)
        part_view = along_axes(entry.spec.shape, first, part.shape, strides)
        assert part_view is not None
        # A file is read at strides; an encoded piece gives the box around the part.
        origin, box = piece.box, None
        if piece.data_file is None:
            origin, box = part_view.box, part_view.box.relative_to(piece.box)
        first, steps = part_view.within(origin)
        yield _PieceView(piece, part.within(whole), first, part.shape, steps, box)


def _count_elements(
    entry: TensorEntry,
    piece: Piece,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    tuning: Tuning,
) -> int:
    """Elements that are read of a piece, gaps included."""
    # As `ascending` turns them.
    moving = [(abs(s), n) for s, n in zip(strides, shape, strict=True) if n != 1]
    moving.sort(key=lambda axis: -axis[0])
    is_local = piece.data_file.is_local
    return count_elements(
        tuple(length for _, length in moving),
        tuple(step for step, _ in moving),
        entry.spec.dtype.numpy.itemsize,
        tuning.read_cost_of(is_local=is_local),
        tuning,
        is_local=is_local,
    )


class _Filling(NamedTuple):
    """A batch of runs on its way into an array.

    Attributes:
        batch: The batch.
        buffer: What its bytes are read into.
        target: The part of the array that it fills; it may be the buffer itself.
    """

    batch: RunBatch
    buffer: np.ndarray
    target: np.ndarray


def _read_runs(
    entry: TensorEntry,
    piece: Piece,
    offset: int,
    strides: tuple[int, ...],
    out: np.ndarray,
    tuning: Tuning,
) -> None:
    """Fills an array with a strided view of one piece, counted in its elements."""
    offset, strides, out = ascending(offset, strides, out)
    itemsize, file = entry.spec.dtype.numpy.itemsize, piece.data_file
    cost_nbytes = tuning.read_cost_of(is_local=file.is_local)
    batches = batch_runs(
        offset,
        out.shape,
        strides,
        itemsize,
        cost_nbytes,
        tuning,
        is_local=file.is_local,
    )
    # Those that are being read: several, where the file is on another machine.
    under_way: collections.deque[_Filling] = collections.deque()

    def reads() -> Iterator[BufferRead]:
        for batch in batches:
            target = view_at(out, batch.index)
            # Without gaps, and where the array lies as the file: no copy in between.
            is_direct = batch.is_exact and target.flags.c_contiguous
            buffer = target if is_direct else aligned_empty((batch.size,), out.dtype)
            under_way.append(_Filling(batch, buffer, target))
            starts = [piece.span.start + start * itemsize for start in batch.starts]
            yield BufferRead(starts, bytes_of(buffer).data, subject_of(entry))

    with contextlib.closing(file.read_each_into(reads())) as done:
        for _ in done:
            batch, buffer, target = under_way.popleft()
            to_native(buffer, entry)
            if buffer is not target:
                target[...] = strided(buffer, 0, batch.shape, batch.strides)
