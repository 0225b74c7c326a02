"""Entries -> numpy arrays: whole and CRC-checked, one or many at once.

Never decides where an array goes afterwards; `parts` reads parts of tensors.
"""

from __future__ import annotations

import concurrent.futures
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import numpy as np

from tf2flax._base.errors import (
    CheckpointError,
    DamagedError,
    MalformedError,
    ReplacedError,
    UnsupportedError,
)
from tf2flax._base.manifest import EncodedPiece, Piece, TensorEntry
from tf2flax._base.memory import (
    ALIGNMENT,
    SmallArrays,
    aligned_empty,
    bytes_of,
    empty,
    view_at,
)
from tf2flax._base.progress import Advance
from tf2flax._base.threads import Readers
from tf2flax._base.values import Box, ByteRange
from tf2flax._formats.wire.crc32c import crc32c, mask
from tf2flax._formats.wire.strings import decode_strings
from tf2flax._storage.faults import recognise_wrong_file

# Tensors up to this size share one read with their neighbours (bytes) ...
SMALL_NBYTES: Final = 256 << 10
# ... which grows to this at most and skips gaps up to this (bytes).
BATCH_NBYTES: Final = 4 << 20
BATCH_GAP_NBYTES: Final = 4 << 10
# ... or this where each read is a request to another machine (bytes).
REMOTE_GAP_NBYTES: Final = 256 << 10
# Readers at once: each holds a chunk, or a batch, besides its result.
MAX_WORKERS: Final = 8
# numpy's own limit on axes.
MAX_ARRAY_RANK: Final = 64


def read_entry(entry: TensorEntry, *, verify: bool = True) -> np.ndarray:
    """Reads one tensor whole.

    Args:
        entry: Where it lies.
        verify: Whether CRC-32C checksums are compared.

    Returns:
        Array of the tensor's shape, in native byte order; strings as `object`.

    Raises:
        DamagedError: A data file is missing or short, or a checksum differs.
        UnsupportedError: The dtype holds no array.
        ReadError: The operating system refuses.
    """
    check_whole(entry)
    if not entry.is_sliced:
        return read_piece(entry, entry.pieces[0], verify=verify)
    out = empty_for(entry, entry.spec.shape)
    read_entry_into(entry, out, verify=verify)
    return out


def read_entry_into(
    entry: TensorEntry, out: np.ndarray, *, verify: bool = True
) -> None:
    """Fills an array with one tensor, as `read_entry` reads it.

    Args:
        entry: Where it lies.
        out: Array of the tensor's shape and dtype.
        verify: Whether CRC-32C checksums are compared.
    """
    whole = Box.whole(entry.spec.shape)
    for piece in entry.pieces:
        target = view_at(out, piece.box.within(whole))
        if (
            isinstance(piece, Piece)
            and target.flags.c_contiguous
            and not entry.spec.dtype.is_string
        ):
            _fill_piece(entry, piece, target, verify=verify)
        else:
            target[...] = read_piece(entry, piece, verify=verify)


def read_many(
    entries: Sequence[TensorEntry],
    deliver: Callable[[TensorEntry, np.ndarray], None],
    *,
    verify: bool = True,
) -> None:
    """Reads tensors whole and in parallel; small neighbours share one read.

    Args:
        entries: Where they lie.
        deliver: Called with each entry and its array, from several threads.
        verify: Whether CRC-32C checksums are compared.

    Raises:
        DamagedError: As `read_entry`; the first failure ends the rest.
    """
    for entry in entries:
        check_readable(entry)

    def run(batch: list[TensorEntry]) -> None:
        if len(batch) == 1:
            deliver(batch[0], read_entry(batch[0], verify=verify))
        else:
            _read_batch(batch, deliver, verify=verify)

    in_parallel([functools.partial(run, batch) for batch in _batches(entries)])


def check_many(
    entries: Sequence[TensorEntry],
    report: Callable[[TensorEntry, CheckpointError | None], None],
    advance: Advance,
) -> None:
    """Checks tensors whole and in parallel, without keeping them.

    Args:
        entries: Where they lie.
        report: Called, from several threads, with each entry and what is wrong with it.
        advance: Called, from several threads, with the number of bytes just
            checked and the tensor's name.

    Raises:
        ReplacedError: A file is no longer the one that was opened.
        ReadError: The system or the store refuses; the first failure ends the rest.
    """

    def run(batch: list[TensorEntry]) -> None:
        readable: list[TensorEntry] = []
        for entry in batch:
            try:
                check_readable(entry)
            except UnsupportedError as error:
                report(entry, error)
            else:
                readable.append(entry)
        errors: dict[str, DamagedError] = {}
        try:
            if len(readable) > 1:
                _read_batch(readable, _drop, verify=True, errors=errors)
                for entry in readable:
                    report(entry, errors.get(entry.name))
                    advance(entry.nbytes, entry.name)
                return
        except ReplacedError:
            raise
        except DamagedError:  # of the file: one by one, then
            pass
        for entry in readable:
            try:
                _check_entry(entry, advance)
            except ReplacedError:
                raise
            except (DamagedError, UnsupportedError) as error:
                report(entry, error)
            else:
                report(entry, None)

    in_parallel([functools.partial(run, batch) for batch in _batches(entries)])


def _check_entry(entry: TensorEntry, advance: Advance) -> None:
    check_whole(entry)
    for piece in entry.pieces:
        if not isinstance(piece, Piece) or entry.spec.dtype.is_string:
            read_piece(entry, piece, verify=True)
            advance(piece.nbytes, entry.name)
            continue
        step = piece.data_file.chunk_nbytes
        buffer = memoryview(bytearray(min(step, piece.nbytes)))
        crc = 0
        for start in range(piece.span.start, piece.span.stop, step):
            chunk = buffer[: min(step, piece.span.stop - start)]
            piece.data_file.read_into(start, chunk, subject=subject_of(entry))
            crc = crc32c(chunk, crc)
            advance(len(chunk), entry.name)
        compare_crc(entry, piece, crc)


def _drop(_entry: TensorEntry, _array: np.ndarray) -> None:
    """Delivers an array to nobody."""


def in_parallel(jobs: Sequence[Callable[[], None]]) -> None:
    """Runs jobs that mostly wait, in a few threads; the first failure ends the rest.

    Args:
        jobs: The jobs.
    """
    workers = min(len(jobs), os.cpu_count() or 1, MAX_WORKERS)
    if workers <= 1:
        for job in jobs:
            job()
        return
    with Readers(workers) as readers:
        futures = [readers.submit(job) for job in jobs]
        for future in concurrent.futures.as_completed(futures):
            future.result()


def _batches(entries: Iterable[TensorEntry]) -> Iterator[list[TensorEntry]]:
    """Groups entries by place: one that is not small stands alone."""
    small: list[tuple[Piece, TensorEntry]] = []
    for entry in entries:
        piece = entry.pieces[0] if len(entry.pieces) == 1 else None
        if isinstance(piece, Piece) and not entry.is_sliced:
            span = piece.span
            if span.stop - span.start <= SMALL_NBYTES:
                small.append((piece, entry))
                continue
        yield [entry]
    small.sort(key=lambda one: (one[0].data_file.path, one[0].span.start))
    batch: list[tuple[Piece, TensorEntry]] = []
    for piece, entry in small:
        if batch and not fits_batch(batch[0][0], batch[-1][0], piece):
            yield [one for _, one in batch]
            batch = []
        batch.append((piece, entry))
    if batch:
        yield [one for _, one in batch]


def fits_batch(first: Piece, last: Piece, piece: Piece) -> bool:
    """Tells whether a piece is read together with those before it.

    Args:
        first: The first of those.
        last: The last of those.
        piece: The piece; it does not begin before them.

    Returns:
        Whether one read of all of them is small, and skips little.
    """
    file, span = piece.data_file, piece.span
    if file is not first.data_file and file != first.data_file:
        return False
    skipped = span.start - last.span.stop
    if skipped > BATCH_GAP_NBYTES and (file.is_local or skipped > REMOTE_GAP_NBYTES):
        return False
    return span.stop - first.span.start <= BATCH_NBYTES


def _read_batch(
    batch: list[TensorEntry],
    deliver: Callable[[TensorEntry, np.ndarray], None],
    *,
    verify: bool,
    errors: dict[str, DamagedError] | None = None,
) -> None:
    """Reads neighbours at once; what is wrong with one goes to `errors`, if given."""
    pieces = [one for entry in batch for one in entry.pieces if isinstance(one, Piece)]
    first, last = pieces[0], max(pieces, key=lambda piece: piece.span.stop)
    span = ByteRange(first.span.start, last.span.stop)
    subject = subject_of(batch[pieces.index(last)])
    first.data_file.check_span(last.span, subject=subject)
    buffer = empty(span.nbytes, np.uint8)
    first.data_file.read_into(span.start, buffer.data, subject=subject)
    arrays = SmallArrays()
    read = buffer.data
    for entry, piece in zip(batch, pieces, strict=True):
        own = piece.span
        stored = read[own.start - span.start : own.stop - span.start]
        try:
            array = _decode_piece(entry, piece, stored, arrays, verify=verify)
        except DamagedError as error:
            if errors is None or isinstance(error, ReplacedError):
                raise
            # Its traceback would hold what was read, in a cycle.
            errors[entry.name] = error.with_traceback(None)
        else:
            deliver(entry, array)


def _decode_piece(
    entry: TensorEntry,
    piece: Piece,
    stored: memoryview,
    arrays: SmallArrays,
    *,
    verify: bool,
) -> np.ndarray:
    """Decodes a tensor's only piece from its bytes, which are copied."""
    spec = entry.spec
    if spec.dtype.is_string:
        return _decode_string_piece(entry, piece, stored, verify=verify)
    if verify:
        compare_crc(entry, piece, crc32c(stored))
    array = arrays.copy(spec.shape, spec.dtype.numpy, stored)
    if entry.is_big_endian:
        to_native(array, entry)
    return array


def read_piece(
    entry: TensorEntry, piece: Piece | EncodedPiece, *, verify: bool
) -> np.ndarray:
    """Reads one piece as an array of its box's shape.

    Args:
        entry: The tensor.
        piece: One of its pieces.
        verify: Whether its checksum is compared.

    Returns:
        The array.

    Raises:
        DamagedError: As `read_entry`.
        ReadError: The system or the store refuses.
    """
    if not isinstance(piece, Piece):
        return _aligned(piece.read(Box.whole(piece.box.shape)))
    if entry.spec.dtype.is_string:
        stored = empty(piece.span.nbytes, np.uint8)
        piece.data_file.read_into(
            piece.span.start, stored.data, subject=subject_of(entry)
        )
        return _decode_string_piece(entry, piece, stored.data, verify=verify)
    out = aligned_empty(piece.box.shape, entry.spec.dtype.numpy)
    _fill_piece(entry, piece, out, verify=verify)
    return out


def _fill_piece(
    entry: TensorEntry, piece: Piece, out: np.ndarray, *, verify: bool
) -> None:
    """Fills a contiguous array with one piece, its checksum taken chunk by chunk."""
    buffer = bytes_of(out).data
    crc = 0
    step = piece.data_file.chunk_nbytes
    for start in range(0, len(buffer), step):
        chunk = buffer[start : start + step]
        piece.data_file.read_into(
            piece.span.start + start, chunk, subject=subject_of(entry)
        )
        if verify:
            crc = crc32c(chunk, crc)
    if verify:
        compare_crc(entry, piece, crc)
    to_native(out, entry)


def _decode_string_piece(
    entry: TensorEntry, piece: Piece, stored: memoryview, *, verify: bool
) -> np.ndarray:
    try:
        elements, crc = decode_strings(
            stored, piece.box.size, is_big_endian=entry.is_big_endian
        )
    except MalformedError as error:
        raise DamagedError(
            f"{subject_of(entry)} is damaged: {error} - at {_place(piece)}. "
            "Copy the file again."
        ) from error
    if verify:
        compare_crc(entry, piece, crc)
    out = empty(piece.box.size, object)
    out[:] = elements
    return out.reshape(piece.box.shape)


def is_local(entry: TensorEntry) -> bool:
    """Tells whether reading a tensor asks no other machine, as far as is known."""
    return all(
        isinstance(piece, Piece) and piece.data_file.is_local for piece in entry.pieces
    )


def check_readable(entry: TensorEntry) -> None:
    """Refuses what no array can hold, before anything of it is read."""
    if not entry.spec.dtype.is_readable:
        raise UnsupportedError(
            f"{subject_of(entry)} is of dtype {entry.spec.dtype.name}, which holds no "
            f"array that numpy could show - at {_place(entry.pieces[0])}. Leave it out "
            "of what is read."
        )
    if len(entry.spec.shape) > MAX_ARRAY_RANK:
        raise UnsupportedError(
            f"{subject_of(entry)} has {len(entry.spec.shape)} axes, numpy can hold "
            f"{MAX_ARRAY_RANK} - at {_place(entry.pieces[0])}. Leave it out of what is "
            "read."
        )


def check_whole(entry: TensorEntry) -> None:
    """Checks that all of a tensor can be there, before memory for it is allocated.

    Args:
        entry: Where it lies.

    Raises:
        DamagedError: A data file is missing or short.
        UnsupportedError: The dtype holds no array.
        ReadError: The system or the store refuses.
    """
    check_readable(entry)
    check_spans(entry, Box.whole(entry.spec.shape))


def check_spans(entry: TensorEntry, box: Box) -> None:
    """Checks the sizes of the files that a read of a box needs, or of all of it.

    Args:
        entry: Where the tensor lies.
        box: The box.

    Raises:
        DamagedError: A data file is missing or short.
        ReadError: The system or the store refuses.
    """
    is_whole = box.shape == entry.spec.shape
    for piece in entry.pieces:
        if not is_whole and not box.intersection(piece.box):
            continue
        if isinstance(piece, Piece):
            piece.data_file.check_span(piece.span, subject=subject_of(entry))
        else:
            piece.check(subject=subject_of(entry))


def _aligned(array: np.ndarray) -> np.ndarray:
    """The same values where JAX on CPU takes them over uncopied."""
    if array.dtype == object or array.ctypes.data % ALIGNMENT == 0:
        return array
    out = aligned_empty(array.shape, array.dtype)
    out[...] = array
    return out


def empty_for(entry: TensorEntry, shape: tuple[int, ...]) -> np.ndarray:
    """Makes an array for elements of a tensor, where JAX on CPU can take it over."""
    if entry.spec.dtype.is_string:
        return empty(shape, object)
    return aligned_empty(shape, entry.spec.dtype.numpy)


def to_native(array: np.ndarray, entry: TensorEntry) -> None:
    """Swaps the bytes of a big-endian bundle's elements in place."""
    width = array.dtype.itemsize // (2 if array.dtype.kind == "c" else 1)
    if entry.is_big_endian and width > 1:
        array.reshape(-1).view(f"u{width}").byteswap(inplace=True)


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
    if computed != piece.crc32c:
        found = recognise_wrong_file(piece.data_file.head())
        fix = f"The file is {found[0]}. {found[1]}" if found else "Copy the file again."
        raise DamagedError(
            f"{subject_of(entry)} is damaged: stored crc32c {piece.crc32c:08x}, "
            f"computed {computed:08x} - at {_place(piece)}. {fix}"
        )


def subject_of(entry: TensorEntry) -> str:
    """Names a tensor at the beginning of a message."""
    return f"Tensor `{entry.name}`"


def _place(piece: Piece | EncodedPiece) -> str:
    if not isinstance(piece, Piece):
        return f"`{piece.path}`"
    return f"`{piece.data_file.path}`[{piece.span.start}:{piece.span.stop}]"
