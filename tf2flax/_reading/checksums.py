"""Checksums of pieces: compared with the stored ones, combined from those of parts."""

from __future__ import annotations

import threading

from tf2flax._base.errors import DamagedError
from tf2flax._base.manifest import Piece, TensorEntry
from tf2flax._formats.wire.crc32c import combine, mask
from tf2flax._storage.faults import recognise_wrong_file

from .checks import subject_of


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
