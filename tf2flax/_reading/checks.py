"""What reading checks: dtypes and files before, bytes and checksums while it reads.

Also turns the stored bytes of one piece into elements. What only its format can read,
and strings, are read at once; all else that is large goes by chunks, in `groups`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Final

import numpy as np

from tf2flax._base.data_files import DataFile
from tf2flax._base.errors import DamagedError, MalformedError, UnsupportedError
from tf2flax._base.manifest import EncodedPiece, Piece, TensorEntry
from tf2flax._base.memory import ALIGNMENT, aligned_empty, empty, view_at
from tf2flax._base.text import printable
from tf2flax._base.values import Box
from tf2flax._formats.wire.coding import combine, crc32c, mask
from tf2flax._formats.wire.strings import decode_strings
from tf2flax._storage.foreign import recognise_wrong_file

# NumPy's own limit on axes.
MAX_ARRAY_RANK: Final = 64


def check_readable(entry: TensorEntry) -> None:
    """Refuses what no array can hold, before anything of it is read.

    Raises:
        UnsupportedError: The dtype holds no array, or there are too many axes.
    """
    if not entry.spec.dtype.is_readable:
        raise UnsupportedError(
            f"{subject_of(entry)} is of dtype {entry.spec.dtype.name}, which no NumPy "
            f"array can hold - at {entry.pieces[0].place}. Leave it out of what is "
            "read."
        )
    if len(entry.spec.shape) > MAX_ARRAY_RANK:
        raise UnsupportedError(
            f"{subject_of(entry)} has {len(entry.spec.shape)} axes, a NumPy array has "
            f"at most {MAX_ARRAY_RANK} - at {entry.pieces[0].place}. Leave it out "
            "of what is read."
        )


def check_whole(entry: TensorEntry) -> None:
    """Checks that all of a tensor can be there, before memory for it is allocated.

    Raises:
        DamagedError: A data file is missing or short.
        UnsupportedError: The dtype holds no array.
        ReadError: The system or the store refuses.
    """
    check_readable(entry)
    check_pieces(entry, Box.whole(entry.spec.shape))


def check_pieces(entry: TensorEntry, box: Box) -> None:
    """Checks that the pieces of a box can be there, before memory is allocated.

    Raises:
        DamagedError: A data file is missing or short.
        ReadError: The system or the store refuses.
    """
    # Of an empty tensor, whose box shares nothing with any piece, all are checked.
    is_whole = box.shape == entry.spec.shape
    for piece in entry.pieces:
        if is_whole or box.intersection(piece.box):
            piece.check(subject=subject_of(entry))


def are_local(entries: Iterable[TensorEntry]) -> bool:
    """Tells whether reading tensors asks no other machine.

    Pieces that only their format can read count as remote: nothing is known of them.
    """
    local_file: DataFile | None = None
    for entry in entries:
        for piece in entry.pieces:
            # Nearly always the file of the tensor before: spares asking it.
            if piece.data_file is None or piece.data_file is not local_file:
                if not piece.is_local:
                    return False
                local_file = piece.data_file
    return True


def subject_of(entry: TensorEntry) -> str:
    """Names a tensor at the beginning of a message."""
    name = entry.name
    return f"Tensor `{name if name.isprintable() else printable(name)}`"


def compare_crc(entry: TensorEntry, piece: Piece, crc: int) -> None:
    """Compares a checksum with the stored one.

    Args:
        entry: The tensor.
        piece: The piece.
        crc: CRC-32C of its bytes, unmasked.

    Raises:
        DamagedError: They differ.
    """
    computed = mask(crc)
    if computed == piece.crc32c:
        return
    # A pointer of git-LFS, say, has the wrong bytes for every tensor.
    wrong_file = recognise_wrong_file(piece.data_file.head())
    fix = "Copy the file again."
    if wrong_file:
        fix = f"The file is {wrong_file[0]}. {wrong_file[1]}"
    raise DamagedError(
        f"{subject_of(entry)} is damaged: stored crc32c {piece.crc32c:08x}, "
        f"computed {computed:08x} - at {piece.place}. {fix}"
    )


class PieceChecksum:
    """The checksum of a piece that several threads read, each some ranges of it."""

    def __init__(self, entry: TensorEntry, piece: Piece) -> None:
        self._entry = entry
        self._piece = piece
        # First byte, checksum and length of each range that was read.
        self._ranges: list[tuple[int, int, int]] = []
        self._lock = threading.Lock()

    def add(self, start: int, crc: int, nbytes: int) -> None:
        """Adds the checksum of a range; compares when it was the last one.

        Raises:
            DamagedError: The checksum of all of the piece differs from the stored one.
        """
        with self._lock:
            self._ranges.append((start, crc, nbytes))
            ranges = sorted(self._ranges)
        # Ranges never overlap, so that only the last one makes their sum the whole.
        if sum(nbytes for _, _, nbytes in ranges) < self._piece.nbytes:
            return
        total = 0
        for _, range_crc, nbytes in ranges:
            total = combine(total, range_crc, nbytes)
        compare_crc(self._entry, self._piece, total)


class Checksums:
    """Checksums of the pieces that several jobs, perhaps of several groups, read."""

    def __init__(self) -> None:
        self._begun: dict[tuple[str, Piece], PieceChecksum] = {}
        self._lock = threading.Lock()

    def of(self, entry: TensorEntry, piece: Piece) -> PieceChecksum:
        """The checksum of a tensor's piece; always the same object."""
        # A lock, since groups are opened by several threads.
        with self._lock:
            key = entry.name, piece
            if key not in self._begun:
                self._begun[key] = PieceChecksum(entry, piece)
            return self._begun[key]


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
