"""Stored bytes of one piece -> elements: strings, byte order, aligned memory.

What only its format can read, and strings, are read at once; everything else that is
large goes chunk by chunk, in `groups`.
"""

from __future__ import annotations

import numpy as np

from tf2flax._base.errors import DamagedError, MalformedError
from tf2flax._base.manifest import EncodedPiece, Piece, TensorEntry
from tf2flax._base.memory import ALIGNMENT, aligned_empty, empty, view_at
from tf2flax._base.values import Box
from tf2flax._formats.wire.crc32c import crc32c
from tf2flax._formats.wire.strings import decode_strings

from .checks import subject_of
from .checksums import compare_crc


def read_piece(
    entry: TensorEntry, piece: Piece | EncodedPiece, *, verify: bool
) -> np.ndarray:
    """Reads all of a piece at once, and checks it.

    Returns:
        Array of its box's shape, in native byte order, that nobody else holds.

    Raises:
        DamagedError: The file is missing or short, or the checksum differs.
        ReadError: The system or the store refuses.
    """
    if piece.data_file is None:
        return _aligned(piece.read(Box.whole(piece.box.shape)))
    # As bytes, since those of strings are no elements yet.
    stored = aligned_empty((piece.span.nbytes,), np.dtype(np.uint8))
    piece.data_file.read_into(piece.span.start, stored.data, subject=subject_of(entry))
    if entry.spec.dtype.is_string:
        elements = _decode_strings(entry, piece, stored.data, verify=verify)
    else:
        check_stored(entry, piece, stored.data, verify=verify)
        elements = stored.view(entry.spec.dtype.numpy)
    return elements.reshape(piece.box.shape)


def read_pieces_into(entry: TensorEntry, out: np.ndarray, *, verify: bool) -> None:
    """Fills an array of a tensor's shape with its pieces, one after the other."""
    whole = Box.whole(entry.spec.shape)
    for piece in entry.pieces:
        target = view_at(out, piece.box.within(whole))
        target[...] = read_piece(entry, piece, verify=verify)


def check_stored(
    entry: TensorEntry, piece: Piece, stored: memoryview, *, verify: bool
) -> None:
    """Checks the bytes of a piece, and swaps them where their order is not native.

    Args:
        entry: The tensor; not of strings.
        piece: The piece.
        stored: All its bytes.
        verify: True compares the checksum.

    Raises:
        DamagedError: The checksum differs.
    """
    if verify:  # of the bytes as they are stored
        compare_crc(entry, piece, crc32c(stored))
    if entry.is_big_endian:
        dtype = entry.spec.dtype.numpy
        to_native(np.ndarray((piece.box.size,), dtype, stored), entry)


def _decode_strings(
    entry: TensorEntry, piece: Piece, stored: memoryview, *, verify: bool
) -> np.ndarray:
    try:
        strings, crc = decode_strings(
            stored, piece.box.size, is_big_endian=entry.is_big_endian
        )
    except MalformedError as error:
        raise DamagedError(
            f"{subject_of(entry)} is damaged: {error} - at {piece.place}. "
            "Copy the file again."
        ) from error
    # Not that of the bytes: lengths are stored as varints and count as 4 bytes each.
    if verify:
        compare_crc(entry, piece, crc)
    elements = empty(piece.box.size, object)
    elements[:] = strings
    return elements


def to_native(array: np.ndarray, entry: TensorEntry) -> None:
    """Swaps the bytes of a big-endian bundle's elements in place."""
    # Of complex numbers, real and imaginary part each have their own order.
    width = array.dtype.itemsize // (2 if array.dtype.kind == "c" else 1)
    if entry.is_big_endian and width > 1:
        array.reshape(-1).view(f"u{width}").byteswap(inplace=True)


def empty_for(entry: TensorEntry, shape: tuple[int, ...]) -> np.ndarray:
    """Makes an array for elements of a tensor, where JAX on CPU can take it over."""
    if entry.spec.dtype.is_string:
        return empty(shape, object)
    return aligned_empty(shape, entry.spec.dtype.numpy)


def _aligned(array: np.ndarray) -> np.ndarray:
    """The same values where JAX on CPU takes them over uncopied."""
    # Pointers to strings are never handed to JAX.
    if array.dtype == object or array.ctypes.data % ALIGNMENT == 0:
        return array
    out = aligned_empty(array.shape, array.dtype)
    out[...] = array
    return out
