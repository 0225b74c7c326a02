"""Elements of a dataset of an HDF5 file: boxes of it, out of its rows or chunks.

Done without h5py, since HDF5 can crash or hang on damaged chunks and heaps; what h5py
says of the dataset is all that is needed.

Source: the HDF5 File Format Specification, version 3.0 (chunks); what the filters do:
H5Zdeflate.c and H5Zshuffle.c of HDF5.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from typing import Final

import numpy as np

from tf2flax._base.errors import MalformedError
from tf2flax._base.memory import aligned_empty, empty, view_at
from tf2flax._base.tuning import CHUNK_NBYTES
from tf2flax._base.values import Box, TensorSpec

from .file import MAX_EXPANSION, FileSlice
from .hdf5_heaps import Heaps

# Filters that are undone here: those of files in the wild.
DEFLATE: Final = 1
SHUFFLE: Final = 2
FILTERS: Final = frozenset((DEFLATE, SHUFFLE))


@dataclasses.dataclass(frozen=True, slots=True)
class Chunk:
    """A box of a dataset that is stored by itself: a chunk, as HDF5 calls it.

    Attributes:
        starts: Its first element; it may reach over the dataset's end.
        offset: Its first byte in the file.
        nbytes: Number of bytes that it takes there.
        skipped: Bit i is set if it did not go through filter i.
    """

    starts: tuple[int, ...]
    offset: int
    nbytes: int
    skipped: int


@dataclasses.dataclass(frozen=True, slots=True)
class Grid:
    """The chunks of a dataset, and the filters that they went through.

    Attributes:
        shape: Shape of each.
        filters: Numbers of the filters, in the order in which they were applied.
        chunks: All of them.
    """

    shape: tuple[int, ...]
    filters: tuple[int, ...]
    chunks: tuple[Chunk, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Description:
    """A dataset as its file describes it.

    Attributes:
        spec: Shape and dtype.
        stored: The dtype of its elements as they are stored: big-endian, as bytes of
            fixed length, or as references to a heap.
        layout: Its first byte in the file, or its chunks; None where it has neither.
        fill: The bytes of each element, where none was ever written.
    """

    spec: TensorSpec
    stored: np.dtype
    layout: int | Grid | None
    fill: bytes | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that its elements take uncompressed; of references, their own."""
        return self.spec.size * self.stored.itemsize


def read_elements(stream: FileSlice, description: Description, box: Box) -> np.ndarray:
    """Reads a box: of rows only those of the box, of chunks only those it touches.

    Args:
        stream: The file.
        description: The dataset; of a readable dtype.
        box: The box, within its shape.

    Returns:
        Row-major array of the box's shape and the dataset's dtype, in native order.

    Raises:
        MalformedError: Its elements are not what they should be.
    """
    raw = aligned_empty(box.shape, description.stored)
    where = description.layout
    if not raw.size:
        pass
    elif where is None:
        # Never written: HDF5 keeps one value that stands for all.
        if description.fill is not None:
            raw[...] = np.frombuffer(description.fill, raw.dtype)[0]
    elif isinstance(where, Grid):
        _read_chunks(stream, where, box, raw)
    else:
        _read_rows(stream, where, description.spec.shape, box, raw)
    dtype = description.spec.dtype
    if dtype.is_string:
        if raw.dtype.kind == "S":
            return raw.astype(object)
        return _strings(stream, raw)
    if dtype.name == "bfloat16":
        return raw.astype(np.uint16, copy=False).view(dtype.numpy)
    if dtype.name == "bool":
        if raw.size and raw.max() > 1:
            raise MalformedError("expected booleans of 0 and 1, got others")
        return raw.view(bool)
    return raw.astype(dtype.numpy, copy=False)


def _read_rows(
    stream: FileSlice,
    offset: int,
    shape: tuple[int, ...],
    box: Box,
    out: np.ndarray,
) -> None:
    """Fills a row-major array with a box of one that is stored at `offset`."""
    if box.shape[1:] == shape[1:]:
        start = box.starts[0] if shape else 0
        row_nbytes = math.prod(shape[1:]) * out.itemsize
        stream.fill(offset + start * row_nbytes, out.reshape(-1).view(np.uint8).data)
        return
    row_nbytes = math.prod(shape[1:]) * out.itemsize
    inner = Box(box.starts[1:], box.stops[1:])
    # One row may be large, and the box in it small; many are read whole and cut.
    if row_nbytes > CHUNK_NBYTES or box.shape[0] == 1:
        for number, row in enumerate(range(box.starts[0], box.stops[0])):
            start = offset + row * row_nbytes
            _read_rows(stream, start, shape[1:], inner, out[number])
        return
    step = max(CHUNK_NBYTES // row_nbytes, 1)
    for start in range(0, box.shape[0], step):
        target = out[start : start + step]
        block = empty((len(target), *shape[1:]), out.dtype)
        first = offset + (box.starts[0] + start) * row_nbytes
        stream.fill(first, block.reshape(-1).view(np.uint8).data)
        target[...] = view_at(block, (slice(None), *inner.within(Box.whole(shape[1:]))))


def _read_chunks(stream: FileSlice, grid: Grid, box: Box, out: np.ndarray) -> None:
    for chunk in grid.chunks:
        stops = tuple(a + n for a, n in zip(chunk.starts, grid.shape, strict=True))
        chunk_box = Box(chunk.starts, stops)
        shared = box.intersection(chunk_box)
        if shared is None:
            continue
        data = _unfiltered(stream, grid, chunk, out.dtype.itemsize)
        block = np.frombuffer(data, out.dtype).reshape(grid.shape)
        target = view_at(out, shared.within(box))
        target[...] = view_at(block, shared.within(chunk_box))


def _unfiltered(stream: FileSlice, grid: Grid, chunk: Chunk, itemsize: int) -> bytes:
    wanted = math.prod(grid.shape) * itemsize
    data = bytearray(chunk.nbytes)
    stream.fill(chunk.offset, memoryview(data))
    data = bytes(data)
    # The last filter that was applied is the first that is undone.
    for position, number in reversed(tuple(enumerate(grid.filters))):
        if chunk.skipped >> position & 1:
            continue
        if number == DEFLATE:
            data = _inflated(data, wanted)
        else:
            data = _unshuffled(data, itemsize)
    if len(data) != wanted:
        raise MalformedError(f"expected a chunk of {wanted} bytes, got {len(data)}")
    return data


def _inflated(data: bytes, limit: int) -> bytes:
    inflater = zlib.decompressobj()
    try:
        out = inflater.decompress(data, limit + 1)
    except zlib.error as error:
        raise MalformedError(f"a chunk cannot be uncompressed ({error})") from error
    if not inflater.eof:
        raise MalformedError("a chunk is cut, or larger than it announces")
    return out


def _unshuffled(data: bytes, itemsize: int) -> bytes:
    """Joins elements whose first bytes are stored first, then all second ones, ...

    stored  a0 b0 c0  a1 b1 c1  rest  ->  a0 a1  b0 b1  c0 c1  rest
    """
    whole = len(data) // itemsize * itemsize
    planes = np.frombuffer(data[:whole], np.uint8).reshape(itemsize, -1)
    return planes.T.tobytes() + data[whole:]


def _strings(stream: FileSlice, references: np.ndarray) -> np.ndarray:
    """Reads the strings that references name."""
    out = empty(references.size, object)
    heaps = Heaps(stream)
    left = MAX_EXPANSION * stream.nbytes
    for number, reference in enumerate(references.reshape(-1)):
        out[number] = heaps.get(reference.tobytes())
        left -= len(out[number])
        if left < 0:
            raise MalformedError(f"its strings do not fit in {stream.nbytes} bytes")
    return out.reshape(references.shape)
