"""Arrays cut into chunks of whole rows: what a restore with shards reads of them.

A chunk is read whole, so that a shard of some rows should be some chunks. Chunks never
reach beyond the array, where another one lies::

    rows     |  0  |  1  |  2  |  3  |  4  |  5  |
    chunks   |        0        |        1        |
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from .ocdbt import Reference

# Chunks are not smaller than it, where rows allow (bytes).
_MIN_CHUNK_NBYTES: Final = 1 << 20


class Chunks(NamedTuple):
    """How an array lies in files.

    Attributes:
        shape: Shape of every chunk.
        references: Index of each chunk, as zarr writes it, and where its bytes lie.
        order: "C", or "F" for an array whose axes are stored in reverse.
        dtype: Dtype as zarr writes it, where it is not the tensor's native one; "".
    """

    shape: tuple[int, ...]
    references: tuple[tuple[str, Reference], ...]
    order: str = "C"
    dtype: str = ""


def rows_in_chunk(shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Decides how many rows a chunk has.

    All rows are halved as long as they divide and chunks are not too small, so that
    2, 4, 8 … shards are whole chunks.

    Examples:
        >>> rows_in_chunk((4096, 1024), np.dtype("float32"))
        256
        >>> rows_in_chunk((30522, 1024), np.dtype("float32"))
        15261
    """
    rows = shape[0]
    row_nbytes = math.prod(shape[1:]) * dtype.itemsize
    while rows % 2 == 0 and rows // 2 * row_nbytes >= _MIN_CHUNK_NBYTES:
        rows //= 2
    return rows


def cut_in_chunks(
    shape: tuple[int, ...], dtype: np.dtype, path: str, start: int
) -> Chunks:
    """Cuts an array whose elements lie in one run into chunks of whole rows.

    Args:
        shape: Shape of the array.
        dtype: Its dtype.
        path: The file, relative to the index.
        start: Where the elements begin in it.

    Returns:
        The chunks.
    """
    nbytes = math.prod(shape) * dtype.itemsize
    if not shape:
        return Chunks((), (("0", Reference(path, start, nbytes)),))
    if not nbytes:  # zarr has no chunks without elements
        return Chunks(tuple(max(length, 1) for length in shape), ())
    rows = rows_in_chunk(shape, dtype)
    return Chunks(
        (rows, *shape[1:]),
        tuple(_row_chunks(shape, rows, nbytes, path, start)),
    )


def _row_chunks(
    shape: Sequence[int], rows: int, nbytes: int, path: str, start: int
) -> list[tuple[str, Reference]]:
    chunk_nbytes = nbytes // shape[0] * rows
    zeros = ".0" * (len(shape) - 1)
    return [
        (f"{number}{zeros}", Reference(path, start + first, chunk_nbytes))
        for number, first in enumerate(range(0, nbytes, chunk_nbytes))
    ]
