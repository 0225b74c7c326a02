"""Manifest: what one checkpoint holds, name by name, whatever format it came from.

A piece is a byte range of a data file together with the box of the tensor that lies
there. Nothing here opens a file; entries may be decoded only when they are asked for.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol, runtime_checkable

from ._specs import ByteRange, TensorSlice, TensorSpec


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """Where one box of a tensor is stored, in row-major order.

    Attributes:
        region: The box of the whole tensor that lies here.
        data_file: Path of the file.
        span: The bytes within that file.
        crc32c: Masked CRC-32C of those bytes, as stored.
    """

    region: TensorSlice
    data_file: str
    span: ByteRange
    crc32c: int


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a checkpoint.

    Attributes:
        name: The tensor's key.
        spec: Shape and dtype of the whole tensor.
        pieces: The pieces that tile it; one piece unless it was saved as slices.
        is_sliced: Whether it was saved as slices of a partitioned variable.
        is_big_endian: Whether elements (and string lengths) are stored big-endian.
    """

    name: str
    spec: TensorSpec
    pieces: tuple[Piece, ...]
    is_sliced: bool
    is_big_endian: bool

    @property
    def nbytes(self) -> int:
        """Bytes that all pieces take on disk."""
        return sum(piece.span.nbytes for piece in self.pieces)


@runtime_checkable
class Manifest(Protocol):
    """Names and entries of one checkpoint; immutable and picklable."""

    @property
    def prefix(self) -> str:
        """Absolute path of the checkpoint, without suffix."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        ...

    def __contains__(self, name: object, /) -> bool:
        """Whether a tensor has this name; decodes no entry."""
        ...

    def entry(self, name: str) -> Entry:
        """Decodes and checks the entry of one tensor.

        Raises:
            TensorNotFoundError: No tensor has this name.
            DamagedError: Its entry is malformed or impossible.
        """
        ...
