"""What is read at once: whole units with their checksums, views of tensors, batches.

A batch is of small pieces that lie near each other: one read for all of them.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from tf2flax._base.data_files import BufferRead
from tf2flax._base.manifest import EncodedPiece, Piece, TensorEntry
from tf2flax._base.memory import empty
from tf2flax._base.tuning import Tuning

from .checks import subject_of


class PieceReceiver(Protocol):
    """Takes the bytes of small pieces; from several threads."""

    def receive_stored(
        self, entry: TensorEntry, piece: Piece, stored: memoryview
    ) -> None:
        """Takes the bytes of a piece, which were checked.

        Args:
            entry: The tensor.
            piece: The piece.
            stored: Its elements in native byte order, in memory that is used again
                afterwards.
        """
        ...


# A small piece of plain bytes, its tensor, and what takes it.
SmallRead = tuple[Piece, TensorEntry, PieceReceiver]


class ReadUnit(NamedTuple):
    """What is read and checked at once where all of it is needed.

    A tuple, since there are as many as tensors, and it is made in half the time.

    Attributes:
        entry: The tensor.
        piece: The piece of it; None for all pieces together.
        start: First element, in the tensor's row-major order.
        size: Number of elements.
        nbytes: Bytes that it takes on disk.
        skipped: Elements of the piece that come before it, where it is a part of one.
        is_box: True if the piece is not a run of the tensor's elements, but a box of
            it; then elements are counted in the piece's own row-major order.
        is_cut: True if it is a part of a piece, whose checksum covers other parts too.
        is_covered: False where some of these parts are not read.
    """

    entry: TensorEntry
    piece: Piece | EncodedPiece | None
    start: int
    size: int
    nbytes: int
    skipped: int = 0
    is_box: bool = False
    is_cut: bool = False
    is_covered: bool = True

    @property
    def is_plain(self) -> bool:
        """True if its bytes in the file are its elements, apart from their order."""
        return self.is_stored and not self.entry.spec.dtype.is_string

    @property
    def is_stored(self) -> bool:
        """True if it has a piece, and the file has the bytes of that as they are."""
        return self.piece is not None and self.piece.data_file is not None

    @property
    def stored(self) -> Piece:
        """Its piece; for a unit that `is_stored`."""
        piece = self.piece
        assert piece is not None
        assert piece.data_file is not None
        return piece

    def is_small(self, tuning: Tuning) -> bool:
        """True if it is a whole piece that may share one read with its neighbours."""
        return self.nbytes <= tuning.small_nbytes and self.is_stored and not self.is_cut


class ViewRead(NamedTuple):
    """A view of a tensor that is read without its surroundings, and not checked.

    Attributes:
        entry: The tensor.
        offset: The view's first element, in the tensor's row-major order.
        shape: Its shape.
        strides: Its steps, in elements.
        nbytes: Bytes that are read for it, gaps included.
    """

    entry: TensorEntry
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    nbytes: int


def units_of(entry: TensorEntry, *, is_mixed: bool = False) -> tuple[ReadUnit, ...]:
    """Finds what of a tensor can be read and checked alone.

    Four pieces of a tensor, on the left each a run of its elements, on the right not::

        +-------+  unit 0: elements 0 ..        +---+---+  box units: each counts the
        +-------+  unit 1: where 0 ends ..      |   |   |  elements of its own piece
        |       |  unit 2                       +---+---+
        +-------+                               |   |   |  mixed or encoded: one unit
        +-------+  unit 3                       +---+---+  for all four

    Args:
        entry: The tensor.
        is_mixed: True if its elements are needed in runs that boxes of it would cut.

    Returns:
        One unit for each piece, in the order of their elements where each piece is a
        run of them; but one for all pieces of others that are mixed, or encoded.
    """
    shape = entry.spec.shape
    if not entry.is_sliced:  # most tensors of most checkpoints
        piece = entry.pieces[0]
        return (ReadUnit(entry, piece, 0, entry.spec.size, piece.nbytes),)
    row_size = math.prod(shape[1:])
    # A piece is a run of elements if it has all of every axis but the first.
    row_start = (0,) * (len(shape) - 1)
    units: list[ReadUnit] = []
    for piece in sorted(entry.pieces, key=lambda piece: piece.box):
        box = piece.box
        if box.starts[1:] != row_start or box.stops[1:] != shape[1:]:
            # Encoded pieces would be read as a whole for each run of them.
            if is_mixed or any(piece.data_file is None for piece in entry.pieces):
                return (ReadUnit(entry, None, 0, entry.spec.size, entry.nbytes),)
            return box_units_of(entry)
        start = box.starts[0] * row_size if shape else 0
        units.append(ReadUnit(entry, piece, start, box.size, piece.nbytes))
    return tuple(units)


def box_units_of(entry: TensorEntry) -> tuple[ReadUnit, ...]:
    """One unit for each piece, which may be any box of the tensor."""
    if not entry.is_sliced:  # most tensors of most checkpoints
        return units_of(entry)
    return tuple(
        ReadUnit(entry, piece, 0, piece.box.size, piece.nbytes, is_box=True)
        for piece in entry.pieces
    )


def cut_unit(unit: ReadUnit, cuts: Sequence[int]) -> Iterator[ReadUnit]:
    """Cuts a unit at elements of its tensor.

    ::

        unit    |-----------------------|     start, start + size
        cuts         ^        ^               ascending; others lie outside of it
        gives   |----|--------|---------|     `skipped`: elements of the piece before

    Args:
        unit: A unit of which runs of bytes are runs of elements.
        cuts: Where to cut, in the tensor's row-major order, ascending.

    Yields:
        Units; the checksum of the piece covers all of them together.
    """
    itemsize = unit.entry.spec.dtype.numpy.itemsize
    end = unit.start + unit.size
    edges = [unit.start, *(cut for cut in cuts if unit.start < cut < end), end]
    for start, stop in itertools.pairwise(edges):
        size = stop - start
        yield unit._replace(
            start=start,
            size=size,
            nbytes=size * itemsize,
            skipped=start - unit.start,
            is_cut=size < unit.size,
        )


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


def share_requests(
    batches: Iterable[list[SmallRead]], tuning: Tuning
) -> Iterator[list[list[SmallRead]]]:
    """Gathers batches for one reader, which asks another machine side by side.

    Args:
        batches: In the order of the files.
        tuning: How many wait together on another machine; of a local file, how many
            bytes: giving a thread something to do takes as long as some small reads.

    Yields:
        Batches of one file each time.
    """
    together: list[list[SmallRead]] = []
    nbytes = 0
    for batch in batches:
        file = batch[0][0].data_file
        batch_nbytes = batch[-1][0].span.stop - batch[0][0].span.start
        if file.is_local:
            is_full = nbytes + batch_nbytes > tuning.chunk_nbytes
        else:
            is_full = len(together) >= tuning.remote_parallelism
        if together and (is_full or together[0][0][0].data_file != file):
            yield together
            together, nbytes = [], 0
        together.append(batch)
        nbytes += batch_nbytes
    if together:
        yield together


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


def read_neighbours(
    batches: Sequence[Sequence[SmallRead]],
) -> Generator[tuple[int, np.ndarray]]:
    """Reads all bytes from the first to the last of each batch.

    Args:
        batches: Batches of one file.

    Yields:
        Of each batch, where its bytes begin in the file, and the bytes.

    Raises:
        DamagedError: The file is missing or short.
        ReadError: The system or the store refuses.
    """
    file = batches[0][0][0].data_file
    under_way: collections.deque[tuple[int, np.ndarray]] = collections.deque()

    def reads() -> Iterator[BufferRead]:
        for batch in batches:
            start = batch[0][0].span.start
            last, last_entry, _ = max(batch, key=lambda read: read[0].span.stop)
            subject = subject_of(last_entry)
            # Sizes are checked before memory is allocated.
            file.check_span(last.span, subject=subject)
            stored = empty(last.span.stop - start, np.uint8)
            under_way.append((start, stored))
            yield BufferRead((start,), stored.data, subject)

    with contextlib.closing(file.read_each_into(reads())) as done:
        for _ in done:
            yield under_way.popleft()
