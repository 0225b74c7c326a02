"""Parts of tensors -> numpy arrays: boxes, and any strided view.

Decides which bytes a part needs and in which runs they are read. Checksums cover whole
pieces and are not compared here.
"""

from __future__ import annotations

import math

import numpy as np

from ._files import aligned_empty
from ._manifest import EncodedPiece, Entry, Piece
from ._reading import (
    bytes_of,
    check_readable,
    check_spans,
    empty_for,
    read_piece,
    subject_of,
    to_native,
)
from ._runs import (
    LOCAL_READ_NBYTES,
    REMOTE_READ_NBYTES,
    AxisView,
    along_axes,
    ascending,
    blocks,
    rows_around,
    strided,
    strides_of,
)
from ._specs import TensorSlice


def read_region(entry: Entry, region: TensorSlice) -> np.ndarray:
    """Reads a box of one tensor; checksums, which cover whole pieces, are not compared.

    Args:
        entry: Where the tensor lies.
        region: The box, within the tensor.

    Returns:
        Array of the box's shape.

    Raises:
        DamagedError: A data file is missing or short.
        UnsupportedError: The dtype holds no array.
        ReadError: The operating system refuses.
    """
    check_readable(entry)
    check_spans(entry, region)
    out = empty_for(entry, region.shape)
    read_region_into(entry, region, out)
    return out


def read_region_into(entry: Entry, region: TensorSlice, out: np.ndarray) -> None:
    """Fills an array with a box of one tensor, as `read_region` reads it.

    Args:
        entry: Where the tensor lies.
        region: The box, within the tensor.
        out: Array of the box's shape and the tensor's dtype.
    """
    for piece in entry.pieces:
        shared = region.intersection(piece.region)
        if shared is None:
            continue
        target = out[shared.within(region)]
        local = shared.relative_to(piece.region)
        if not isinstance(piece, Piece):
            target[...] = piece.read(local)
        elif entry.spec.dtype.is_string:
            strings = read_piece(entry, piece, verify=True)
            target[...] = strings[local.within(TensorSlice.whole(strings.shape))]
        else:
            _fill_region(entry, piece, local, target)


def read_view_into(
    entry: Entry, offset: int, strides: tuple[int, ...], out: np.ndarray
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
    piece = entry.pieces[0]
    if isinstance(piece, Piece) and not entry.is_sliced:
        piece.data_file.check_span(piece.span, subject=subject_of(entry))
        _fill_view(entry, piece, offset, strides, out)
        return
    view = along_axes(entry.spec.shape, offset, out.shape, strides)
    if view is None:
        rows = rows_around(entry.spec.shape, offset, out.shape, strides)
        first = offset - rows.starts[0] * math.prod(entry.spec.shape[1:])
        out[...] = strided(read_region(entry, rows), first, out.shape, strides)
        return
    for piece in entry.pieces:
        if view.box.intersection(piece.region) == view.box:
            _read_piece_view(entry, piece, view, out)
            return
    # It lies in several pieces: the half of it with the longest steps, then the other.
    axis = max(range(out.ndim), key=lambda a: (out.shape[a] > 1) * abs(strides[a]))
    half = out.shape[axis] // 2
    before = (slice(None),) * axis
    read_view_into(entry, offset, strides, out[(*before, slice(0, half))])
    second = offset + half * strides[axis]
    read_view_into(entry, second, strides, out[(*before, slice(half, None))])


def _read_piece_view(
    entry: Entry, piece: Piece | EncodedPiece, view: AxisView, out: np.ndarray
) -> None:
    if isinstance(piece, Piece):
        piece.data_file.check_span(piece.span, subject=subject_of(entry))
        first, strides = view.within(piece.region)
        _fill_view(entry, piece, first, strides, out)
        return
    piece.check()
    array = piece.read(view.box.relative_to(piece.region))
    first, strides = view.within(view.box)
    out[...] = strided(array, first, out.shape, strides)


def _fill_region(
    entry: Entry, piece: Piece, region: TensorSlice, out: np.ndarray
) -> None:
    """Fills an array with a box of one piece, in the piece's own coordinates."""
    strides = strides_of(piece.region.shape)
    offset = sum(a * s for a, s in zip(region.starts, strides, strict=True))
    _fill_view(entry, piece, offset, strides, out)


def _fill_view(
    entry: Entry, piece: Piece, offset: int, strides: tuple[int, ...], out: np.ndarray
) -> None:
    """Fills an array with a strided view of one piece, counted in elements."""
    offset, strides, out = ascending(offset, strides, out)
    itemsize = entry.spec.dtype.numpy.itemsize
    cost = LOCAL_READ_NBYTES if piece.data_file.is_local else REMOTE_READ_NBYTES
    for block in blocks(offset, out.shape, strides, itemsize, cost):
        target = out[(*block.index, ...)]  # an array, also of rank 0
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
