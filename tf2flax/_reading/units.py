"""What is read at once: whole units with their checksums, and views of tensors.

Values alone; says nothing about where elements go.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tf2flax._base.manifest import EncodedPiece, Piece, TensorEntry
from tf2flax._base.tuning import Tuning


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
