"""Writes V2 bundles: tensors one by one into data files, then the index.

With `exchanging`, the one file of this folder that opens files to write them.
Everything is written under temporary names and renamed, the index last, so that
whatever happens in between the directory never holds a checkpoint that opens and is
wrong.

Source: `BundleWriter`, tensorflow/core/util/tensor_bundle/tensor_bundle.cc.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np

from tf2flax._base.values import TensorSpec
from tf2flax._formats.bundle import BUNDLE_VERSION, HEADER_KEY, data_file_suffix
from tf2flax._formats.wire.bundle_messages import (
    BundleEntry,
    BundleHeader,
    format_bundle_entry,
    format_bundle_header,
)
from tf2flax._formats.wire.crc32c import crc32c, mask
from tf2flax._formats.wire.ordered_code import encode_slice_key
from tf2flax._formats.wire.strings import encode_strings
from tf2flax._storage.exchanging import Exchange, remove, remove_stale, uninterrupted

from .table import build_table

# How much is made contiguous, and written, at once (bytes).
CHUNK_NBYTES: Final = 4 << 20
# Data files are numbered with five digits.
MAX_DATA_FILES: Final = 99_999

Extents = tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class NewPiece:
    """What is written as one run of bytes: a tensor, or one slice of it.

    Attributes:
        spec: Shape of the piece, and dtype.
        extents: Start and length along every axis, where it is a slice, else None.
        array: Gives its elements, when they are written.
    """

    spec: TensorSpec
    extents: Extents | None
    array: Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True, slots=True)
class NewTensor:
    """A tensor to write.

    Attributes:
        name: Its key, encoded.
        spec: Shape and dtype of the whole.
        dtype_code: TensorFlow's number of the dtype.
        pieces: One, or its slices.
    """

    name: bytes
    spec: TensorSpec
    dtype_code: int
    pieces: tuple[NewPiece, ...]


def write_bundle(
    prefix: str, tensors: Sequence[NewTensor], *, num_data_files: int
) -> None:
    """Writes a checkpoint, in place of one with the same prefix if there is one.

    Args:
        prefix: Absolute path, without suffix; its directory exists.
        tensors: What to write, in ascending order of names; small neighbours are
            written next to each other.
        num_data_files: Number of data files, between which bytes are balanced.

    Raises:
        OSError: The system refuses; what was written so far is removed, and what was
            there is there still, unless the message says something else.
    """
    suffixes = [data_file_suffix(i, num_data_files) for i in range(num_data_files)]
    temporary = f"{prefix}.tempstate{secrets.token_hex(8)}"
    files = Exchange(prefix, temporary, tuple(suffixes))
    remove_stale(prefix)
    try:
        entries = _write_data([f"{temporary}{suffix}" for suffix in suffixes], tensors)
        index = build_table(_table_items(entries, num_data_files))
        _write_file(f"{temporary}.index", index)
    except BaseException:
        uninterrupted(files.discard)
        raise
    # From here on it is renaming only, and everything is on the disk.
    files.run()
    try:
        _sync_directory(prefix)
    except OSError as error:
        reason = f"{error.strerror}; it is written, but a crash may undo that"
        raise OSError(error.errno, reason) from error


def write_state(path: str, contents: bytes) -> None:
    """Writes a small file whole, or not at all.

    Args:
        path: Its path.
        contents: Its bytes.

    Raises:
        OSError: The system refuses.
    """
    temporary = f"{path}.tempstate{secrets.token_hex(8)}"
    try:
        _write_file(temporary, contents)
        os.replace(temporary, path)
        _sync_directory(path)
    finally:
        remove(temporary)


def _write_data(
    paths: Sequence[str], tensors: Sequence[NewTensor]
) -> dict[bytes, BundleEntry]:
    """Writes all tensors, in order, and returns their entries by key."""
    entries: dict[bytes, BundleEntry] = {}
    total = sum(_nbytes(piece) for tensor in tensors for piece in tensor.pieces)
    done = 0
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(path, "xb", buffering=0)) for path in paths]
        offsets = [0] * len(files)
        for tensor in tensors:
            for piece in tensor.pieces:
                number = min(len(files) - 1, done * len(files) // max(total, 1))
                done += _nbytes(piece)
                size, crc = _write_piece(files[number].fileno(), piece)
                key = tensor.name
                if piece.extents is not None:
                    key = encode_slice_key(tensor.name, piece.extents)
                entries[key] = BundleEntry(
                    dtype_code=tensor.dtype_code,
                    dims=piece.spec.shape,
                    is_unknown_rank=False,
                    data_file_index=number,
                    offset=offsets[number],
                    size=size,
                    crc32c=mask(crc),
                    slices=(),
                )
                offsets[number] += size
            slices = [p.extents for p in tensor.pieces if p.extents is not None]
            if slices:
                entries[tensor.name] = BundleEntry(
                    dtype_code=tensor.dtype_code,
                    dims=tensor.spec.shape,
                    is_unknown_rank=False,
                    data_file_index=0,
                    offset=0,
                    size=0,
                    crc32c=0,
                    slices=tuple(slices),
                )
        for file in files:
            os.fsync(file.fileno())
    return entries


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
        _write_all(descriptor, memoryview(data))
        return len(data), crc
    size, crc = 0, 0
    for chunk in _chunks(array, piece.spec.dtype.numpy):
        crc = crc32c(chunk, crc)
        _write_all(descriptor, chunk)
        size += len(chunk)
    return size, crc


def _chunks(array: np.ndarray, dtype: np.dtype) -> Iterator[memoryview]:
    """The bytes of an array in row-major order; copies only what is not so already."""
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


def _write_all(descriptor: int, buffer: memoryview) -> None:
    while len(buffer):
        buffer = buffer[os.write(descriptor, buffer) :]


def _write_file(path: str, contents: bytes) -> None:
    with open(path, "xb", buffering=0) as file:
        _write_all(file.fileno(), memoryview(contents))
        os.fsync(file.fileno())


def _sync_directory(path: str) -> None:
    """Makes renames last through a crash of the machine."""
    descriptor = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
