"""The part of a checkpoint that one process writes: data files, and what lies in them.

All processes know which piece lies in which file. Where it begins there, and what its
checksum is, shows when it is written. So the entries of an index follow from the parts
of all processes, and from a size and a checksum for each of their pieces:

    process 0   file 0: | a | b[0:2] |      b: of what the leaf `b` is in slices
    process 1   file 1: | b[2:4] |
    index       a: file 0, offset 0 · b: slices [0:2], [2:4] · b[0:2]: file 0, offset …

Knows neither the place of the files nor how processes talk to each other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from tf2flax._base.errors import AssignmentError
from tf2flax._base.tuning import CHUNK_NBYTES
from tf2flax._base.values import Box
from tf2flax._formats.bundle import BUNDLE_VERSION, HEADER_KEY
from tf2flax._formats.wire.coding import crc32c, mask
from tf2flax._formats.wire.messages import (
    BundleEntry,
    BundleHeader,
    format_bundle_entry,
    format_bundle_header,
)
from tf2flax._formats.wire.ordered_code import encode_slice_key
from tf2flax._formats.wire.strings import encode_strings
from tf2flax._storage.save_destinations import DataSink

from .new_tensors import NewPiece, NewTensor
from .table import build_table

# Data files are numbered with five digits.
MAX_DATA_FILES: Final = 99_999
# So much of a large piece is fetched at once, where it can be fetched in parts (bytes).
BLOCK_NBYTES: Final = 64 << 20


class PlacedPiece(NamedTuple):
    """A piece, and the data file that it is written to."""

    tensor: NewTensor
    piece: NewPiece
    number: int


class WrittenPiece(NamedTuple):
    """What is known of a piece once it is written: its bytes, and their CRC-32C."""

    nbytes: int
    crc32c: int


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """What one process writes.

    Attributes:
        pieces: Pieces in the order of the files.
        files: Numbers of its data files, each of which it writes, also empty ones.
    """

    pieces: tuple[PlacedPiece, ...]
    files: range


def plan_parts(
    tensors: Sequence[NewTensor],
    processes: Sequence[int],
    *,
    num_data_files: int,
    max_nbytes: int | None,
) -> dict[int, Part]:
    """Distributes tensors over processes and data files.

    Args:
        tensors: All tensors, in ascending order of keys; small neighbours are written
            next to each other.
        processes: Numbers of the processes, of which a piece may name one; the first
            writes those that name none.
        num_data_files: Number of data files of each process, at least.
        max_nbytes: Size that a data file should not exceed; only a single piece may be
            larger. None where any size will do.

    Returns:
        The part of each process, whose files have the next numbers after those of the
        process before.

    Raises:
        AssignmentError: There are not names for so many files.
    """
    pieces: dict[int, list[tuple[NewTensor, NewPiece]]] = {p: [] for p in processes}
    for tensor in tensors:
        for piece in tensor.pieces:
            process = processes[0] if piece.process is None else piece.process
            pieces[process].append((tensor, piece))
    if max_nbytes is not None:  # as many files as names are there for
        total = sum(piece.nbytes for tensor in tensors for piece in tensor.pieces)
        max_nbytes = max(max_nbytes, 2 * total // MAX_DATA_FILES)
    parts: dict[int, Part] = {}
    first = 0
    for process, mine in pieces.items():
        sizes = [piece.nbytes for _, piece in mine]
        if max_nbytes is None or sum(sizes) <= num_data_files * max_nbytes:
            numbers, count = _balanced(sizes, num_data_files), num_data_files
        else:
            numbers = _filled(sizes, max_nbytes)
            count = max(numbers[-1] + 1, num_data_files)
        placed = (
            PlacedPiece(tensor, piece, first + number)
            for (tensor, piece), number in zip(mine, numbers, strict=True)
        )
        parts[process] = Part(tuple(placed), range(first, first + count))
        first += count
    if first > MAX_DATA_FILES:
        raise AssignmentError(
            f"Expected at most {MAX_DATA_FILES} data files of {len(processes)} "
            f"processes, got {first}. Give a smaller number, data_files=..."
        )
    return parts


def _balanced(sizes: Sequence[int], count: int) -> list[int]:
    """Numbers of files that get the same fraction of all bytes, say of four files.

    done/total  0     0.25    0.5    0.75     1
    file        |--0---|---1---|---2---|---3--|
    """
    total, done = max(sum(sizes), 1), 0
    numbers: list[int] = []
    for size in sizes:
        numbers.append(min(count - 1, done * count // total))
        done += size
    return numbers


def _filled(sizes: Sequence[int], max_nbytes: int) -> list[int]:
    """Numbers of files, each of which ends before it exceeds a size."""
    number, filled = 0, 0
    numbers: list[int] = []
    for size in sizes:
        if filled and filled + size > max_nbytes:
            number, filled = number + 1, 0
        numbers.append(number)
        filled += size
    return numbers


def write_part(part: Part, create: Callable[[int], DataSink]) -> list[WrittenPiece]:
    """Writes the data files of a part, one after the other.

    Args:
        part: The part.
        create: Begins the file of a number.

    Returns:
        What is known of its pieces, in their order.

    Raises:
        OSError: The system refuses.
        CheckpointError: An array cannot be had, or the store refuses.
    """
    written: list[WrittenPiece] = []
    for number in part.files:
        sink = create(number)
        try:
            for placed in part.pieces[len(written) :]:
                if placed.number != number:
                    break
                written.append(_write_piece(sink, placed.piece))
            sink.finish()
        finally:
            sink.close()
    return written


def _write_piece(sink: DataSink, piece: NewPiece) -> WrittenPiece:
    """Writes a piece at the end of a file."""
    if piece.spec.dtype.is_string:
        data, crc = encode_strings(piece.array().reshape(-1).tolist())
        sink.write(memoryview(data))
        return WrittenPiece(len(data), crc)
    size, crc = 0, 0

    def write(array: np.ndarray) -> None:
        nonlocal size, crc
        for chunk in _chunks(array, piece.spec.dtype.numpy):
            crc = crc32c(chunk, crc)
            sink.write(chunk)
            size += len(chunk)

    if piece.stream is not None:
        piece.stream(write)
    else:
        for array in _blocks(piece):
            write(array)
    return WrittenPiece(size, crc)


def _blocks(piece: NewPiece) -> Iterator[np.ndarray]:
    """The elements of a piece, in order, as few at once as it can give."""
    if piece.part is None or piece.nbytes <= BLOCK_NBYTES:
        yield piece.array()
        return
    itemsize = piece.spec.dtype.numpy.itemsize
    for box in split_box(Box.whole(piece.spec.shape), BLOCK_NBYTES // itemsize):
        yield piece.part(box)


def split_box(box: Box, max_size: int) -> Iterator[Box]:
    """Cuts a box into boxes that follow each other in row-major order.

    Args:
        box: The box.
        max_size: Number of elements that each of them may have.

    Examples:
        >>> [piece.shape for piece in split_box(Box.whole((2, 5, 3)), max_size=9)]
        [(1, 3, 3), (1, 2, 3), (1, 3, 3), (1, 2, 3)]
    """
    shape = box.shape
    axis = next((axis for axis, dim in enumerate(shape) if dim > 1), None)
    if axis is None or box.size <= max_size:
        yield box
        return
    # Whole rows, as many as fit; a row that does not fit is cut along its own axes.
    step = max(1, max_size // (box.size // shape[axis]))
    for start in range(box.starts[axis], box.stops[axis], step):
        starts, stops = list(box.starts), list(box.stops)
        starts[axis], stops[axis] = start, min(start + step, stops[axis])
        yield from split_box(Box(tuple(starts), tuple(stops)), max_size)


def _chunks(array: np.ndarray, dtype: np.dtype) -> Iterator[memoryview]:
    """The bytes of an array in row-major order; copied only if they are not so already.

    Of an array that is not contiguous, as many rows are copied at once as fit into a
    chunk; rows that are larger are taken apart in the same way.
    """
    if array.flags.c_contiguous and array.dtype == dtype:
        buffer = array.reshape(-1).view(np.uint8).data
        for start in range(0, len(buffer), CHUNK_NBYTES):
            yield buffer[start : start + CHUNK_NBYTES]
        return
    if array.ndim == 0:
        yield from _chunks(np.ascontiguousarray(array, dtype), dtype)
        return
    row_nbytes = max(1, array.nbytes // max(len(array), 1))
    if row_nbytes > CHUNK_NBYTES and array.ndim > 1:
        for row in array:
            yield from _chunks(row, dtype)
        return
    step = max(1, CHUNK_NBYTES // row_nbytes)
    for start in range(0, len(array), step):
        rows = np.ascontiguousarray(array[start : start + step], dtype)
        yield from _chunks(rows, dtype)


def format_index(
    tensors: Sequence[NewTensor],
    parts: Mapping[int, Part],
    written: Mapping[int, Sequence[WrittenPiece]],
    *,
    num_data_files: int,
) -> bytes:
    """Merges the entries of all parts to an index.

    Args:
        tensors: All tensors.
        parts: The part of each process.
        written: What is known of its pieces.
        num_data_files: Number of data files: those of all parts, and empty ones.

    Returns:
        All bytes of the file.
    """
    entries = {tensor.key: _whole_entry(tensor) for tensor in tensors}
    for process, part in parts.items():
        entries |= _entries_of(part, written[process])
    header = BundleHeader(
        num_data_files=num_data_files,
        is_big_endian=False,
        producer=BUNDLE_VERSION,
        min_consumer=0,
        bad_consumers=(),
    )
    items = [(HEADER_KEY, format_bundle_header(header))]
    items += [(key, format_bundle_entry(entries[key])) for key in sorted(entries)]
    return build_table(items)


def _whole_entry(tensor: NewTensor) -> BundleEntry:
    """The entry of a whole tensor: it has no bytes, and lists the slices.

    That of a tensor in one piece takes its place.
    """
    return BundleEntry(
        dtype_code=tensor.dtype_code,
        dims=tensor.spec.shape,
        is_unknown_rank=False,
        data_file_index=0,
        offset=0,
        size=0,
        crc32c=0,
        slices=tuple(
            piece.extents for piece in tensor.pieces if piece.extents is not None
        ),
    )


def _entries_of(
    part: Part, written: Sequence[WrittenPiece]
) -> dict[bytes, BundleEntry]:
    """The entries of the pieces of a part, by key."""
    entries: dict[bytes, BundleEntry] = {}
    offsets = dict.fromkeys(part.files, 0)
    for (tensor, piece, number), (nbytes, crc) in zip(
        part.pieces, written, strict=True
    ):
        key = tensor.key
        if piece.extents is not None:
            key = encode_slice_key(tensor.key, piece.extents)
        entries[key] = BundleEntry(
            dtype_code=tensor.dtype_code,
            dims=piece.spec.shape,
            is_unknown_rank=False,
            data_file_index=number,
            offset=offsets[number],
            size=nbytes,
            crc32c=mask(crc),
            slices=(),
        )
        offsets[number] += nbytes
    return entries
