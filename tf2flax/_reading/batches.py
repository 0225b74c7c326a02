"""Small pieces that lie near each other, gathered for one read, and read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tf2flax._base.manifest import Piece
from tf2flax._base.memory import empty
from tf2flax._base.tuning import Tuning

from .checks import subject_of
from .targets import SmallRead


def batch_small(reads: list[SmallRead], tuning: Tuning) -> Iterator[list[SmallRead]]:
    """Gathers small pieces that lie near each other, each batch for one read.

    ::

        file    |aaaa|bb|cccccc|........|dd|eeee|    a gap up to the price of a read is
        reads   |--------------|        |-------|    read over; a batch ends at a chunk

    Args:
        reads: The pieces; sorted here.
        tuning: How large a batch may get, and which gaps are read over.

    Yields:
        Batches in the order of the files; each begins with the lowest byte.
    """
    reads.sort(key=_place_of)
    begun = 0
    for i in range(1, len(reads)):
        if not _fits_batch(reads[begun][0], reads[i - 1][0], reads[i][0], tuning):
            yield reads[begun:i]
            begun = i
    if reads:
        yield reads[begun:]


def _place_of(read: SmallRead) -> tuple[str, int]:
    """The file, and the position there, where a piece begins."""
    piece = read[0]
    return piece.data_file.path, piece.span.start


def _fits_batch(first: Piece, last: Piece, piece: Piece, tuning: Tuning) -> bool:
    """True if one read from the first piece to this one is small, and skips little."""
    file, byte_range = piece.data_file, piece.span
    # Comparing files takes long; nearly always they are the same object.
    if file is not first.data_file and file != first.data_file:
        return False
    skipped = byte_range.start - last.span.stop
    if skipped > tuning.read_cost_nbytes and skipped > tuning.read_cost_of(
        is_local=file.is_local
    ):
        return False
    return byte_range.stop - first.span.start <= tuning.chunk_nbytes


def read_neighbours(batch: Sequence[SmallRead]) -> tuple[int, np.ndarray]:
    """Reads all bytes from the first to the last of a batch.

    Returns:
        Where they begin in the file, and the bytes.

    Raises:
        DamagedError: The file is missing or short.
        ReadError: The system or the store refuses.
    """
    first, _, _ = batch[0]
    last, last_entry, _ = max(batch, key=lambda read: read[0].span.stop)
    subject = subject_of(last_entry)
    # Sizes are checked before memory is allocated.
    first.data_file.check_span(last.span, subject=subject)
    start = first.span.start
    stored = empty(last.span.stop - start, np.uint8)
    first.data_file.read_into(start, stored.data, subject=subject)
    return start, stored
