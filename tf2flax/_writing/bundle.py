"""Writes V2 bundles: tensors one by one into data files, then the index.

Everything is written under temporary names and renamed, the index last. So at no moment
does the directory hold a checkpoint that can be opened and is wrong; and where one is
replaced, it holds the old or the new one (`_storage.exchanging`).

Source: `BundleWriter`, tensorflow/core/util/tensor_bundle/tensor_bundle.cc.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from tf2flax._base.tuning import CHUNK_NBYTES
from tf2flax._formats.bundle import BUNDLE_VERSION, HEADER_KEY, data_file_suffix
from tf2flax._formats.wire.coding import crc32c, mask
from tf2flax._formats.wire.messages import (
    BundleEntry,
    BundleHeader,
    format_bundle_entry,
    format_bundle_header,
)
from tf2flax._formats.wire.ordered_code import encode_slice_key
from tf2flax._formats.wire.strings import encode_strings
from tf2flax._storage.exchanging import Exchange, remove_stale, uninterrupted
from tf2flax._storage.writing import (
    sync_directory,
    temporary_name,
    write_all,
    write_new_file,
)

from .bridging import name_data_files_anew
from .new_tensors import NewPiece, NewTensor
from .table import build_table

# Data files are numbered with five digits.
MAX_DATA_FILES: Final = 99_999


def write_bundle(
    prefix: str, tensors: Sequence[NewTensor], *, num_data_files: int
) -> None:
    """Writes a checkpoint, in place of one with the same prefix if there is one.

    Args:
        prefix: Absolute path, without suffix; its directory exists.
        tensors: What to write, in ascending order of keys; small neighbours are
            written next to each other.
        num_data_files: Number of data files, between which bytes are balanced.

    Raises:
        OSError: The system refuses; what was written so far is removed, and what was
            there is still there, unless the message says something else.
    """
    suffixes = [data_file_suffix(i, num_data_files) for i in range(num_data_files)]
    temporary = temporary_name(prefix)
    files = Exchange(prefix, temporary, tuple(suffixes), name_data_files_anew)
    remove_stale(prefix)
    try:
        entries = _write_data([f"{temporary}{suffix}" for suffix in suffixes], tensors)
        index = build_table(_table_items(entries, num_data_files))
        write_new_file(f"{temporary}.index", index)
    except BaseException:
        uninterrupted(files.discard)
        raise
    # Everything is on the disk; what follows only renames.
    files.run()
    try:
        sync_directory(prefix)
    except OSError as error:
        reason = f"{error.strerror}; it is written, but a crash may undo that"
        raise OSError(error.errno, reason) from error


def _write_data(
    paths: Sequence[str], tensors: Sequence[NewTensor]
) -> dict[bytes, BundleEntry]:
    """Writes all tensors, in order, and returns their entries by key."""
    total = sum(_nbytes(piece) for tensor in tensors for piece in tensor.pieces)
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(path, "xb", buffering=0)) for path in paths]
        writer = _DataWriter([file.fileno() for file in files], total)
        for tensor in tensors:
            writer.add(tensor)
        for file in files:
            os.fsync(file.fileno())
    return writer.entries


class _DataWriter:
    """Appends tensors to data files.

    Attributes:
        entries: The entries of what was written, by key.
    """

    def __init__(self, descriptors: Sequence[int], total_nbytes: int) -> None:
        self.entries: dict[bytes, BundleEntry] = {}
        self._descriptors = descriptors
        self._total_nbytes = max(total_nbytes, 1)
        self._done_nbytes = 0
        self._offsets = [0] * len(descriptors)

    def add(self, tensor: NewTensor) -> None:
        for piece in tensor.pieces:
            self._add_piece(tensor, piece)
        slices = tuple(
            piece.extents for piece in tensor.pieces if piece.extents is not None
        )
        if slices:  # the entry of the whole has no bytes, and lists the slices
            self.entries[tensor.key] = BundleEntry(
                dtype_code=tensor.dtype_code,
                dims=tensor.spec.shape,
                is_unknown_rank=False,
                data_file_index=0,
                offset=0,
                size=0,
                crc32c=0,
                slices=slices,
            )

    def _add_piece(self, tensor: NewTensor, piece: NewPiece) -> None:
        # Each file gets the same fraction of all bytes, say of four files:
        #   done/total  0     0.25    0.5    0.75     1
        #   file        |--0---|---1---|---2---|---3--|
        count = len(self._descriptors)
        number = min(count - 1, self._done_nbytes * count // self._total_nbytes)
        self._done_nbytes += _nbytes(piece)
        size, crc = _write_piece(self._descriptors[number], piece)
        key = tensor.key
        if piece.extents is not None:
            key = encode_slice_key(tensor.key, piece.extents)
        self.entries[key] = BundleEntry(
            dtype_code=tensor.dtype_code,
            dims=piece.spec.shape,
            is_unknown_rank=False,
            data_file_index=number,
            offset=self._offsets[number],
            size=size,
            crc32c=mask(crc),
            slices=(),
        )
        self._offsets[number] += size


def _table_items(
    entries: dict[bytes, BundleEntry], num_data_files: int
) -> Iterator[tuple[bytes, bytes]]:
    header = BundleHeader(
        num_data_files=num_data_files,
        is_big_endian=False,
        producer=BUNDLE_VERSION,
        min_consumer=0,
        bad_consumers=(),
    )
    yield HEADER_KEY, format_bundle_header(header)
    for key in sorted(entries):
        yield key, format_bundle_entry(entries[key])


def _nbytes(piece: NewPiece) -> int:
    """Bytes of a piece; of strings, a guess that only balances data files."""
    return piece.spec.size * piece.spec.dtype.numpy.itemsize


def _write_piece(descriptor: int, piece: NewPiece) -> tuple[int, int]:
    """Writes a piece at the end of a file; returns its bytes and their CRC."""
    array = piece.array()
    if piece.spec.dtype.is_string:
        data, crc = encode_strings(array.reshape(-1).tolist())
        write_all(descriptor, memoryview(data))
        return len(data), crc
    size, crc = 0, 0
    for chunk in _chunks(array, piece.spec.dtype.numpy):
        crc = crc32c(chunk, crc)
        write_all(descriptor, chunk)
        size += len(chunk)
    return size, crc


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
