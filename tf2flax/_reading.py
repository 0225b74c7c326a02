"""Entries -> numpy arrays: whole and CRC-checked, by region, or many at once.

Decides which bytes a region needs and in which runs they are read; `_store` reads
them. Never decides where an array goes afterwards.
"""

from __future__ import annotations

import concurrent.futures
import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import numpy as np

from ._errors import (
    CheckpointError,
    DamagedError,
    MalformedError,
    UnsupportedError,
)
from ._files import ALIGNMENT, aligned_empty, impostor
from ._manifest import EncodedPiece, Entry, Piece
from ._runs import (
    LOCAL_READ_NBYTES,
    REMOTE_READ_NBYTES,
    AxisView,
    along_axes,
    ascending,
    blocks,
    rows_around,
    strided,
    strides_of,
)
from ._specs import ByteRange, TensorSlice
from ._wire.crc32c import crc32c, mask
from ._wire.strings import decode_strings

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


def read_entry(entry: Entry, *, verify: bool = True) -> np.ndarray:
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
        return _read_piece(entry, entry.pieces[0], verify=verify)
    whole = TensorSlice.whole(entry.spec.shape)
    out = _empty(entry, whole.shape)
    for piece in entry.pieces:
        target = out[piece.region.within(whole)]
        if (
            isinstance(piece, Piece)
            and target.flags.c_contiguous
            and not entry.spec.dtype.is_string
        ):
            _fill_piece(entry, piece, target, verify=verify)
        else:
            target[...] = _read_piece(entry, piece, verify=verify)
    return out


def read_region(entry: Entry, region: TensorSlice) -> np.ndarray:
    """Reads a box of one tensor; checksums, which cover whole pieces, are not compared.

    Args:
        entry: Where the tensor lies.
        region: The box, within the tensor.

    Returns:
        Array of the box's shape.

    Raises:
        DamagedError: A data file is missing or short.
        UnsupportedError: The dtype holds no array.
        ReadError: The operating system refuses.
    """
    check_readable(entry)
    _check_spans(entry, region)
    out = _empty(entry, region.shape)
    read_region_into(entry, region, out)
    return out


def read_region_into(entry: Entry, region: TensorSlice, out: np.ndarray) -> None:
    """Fills an array with a box of one tensor, as `read_region` reads it.

    Args:
        entry: Where the tensor lies.
        region: The box, within the tensor.
        out: Array of the box's shape and the tensor's dtype.
    """
    for piece in entry.pieces:
        shared = region.intersection(piece.region)
        if shared is None:
            continue
        target = out[shared.within(region)]
        local = shared.relative_to(piece.region)
        if not isinstance(piece, Piece):
            target[...] = piece.read(local)
        elif entry.spec.dtype.is_string:
            strings = _read_piece(entry, piece, verify=True)
            target[...] = strings[local.within(TensorSlice.whole(strings.shape))]
        else:
            _fill_region(entry, piece, local, target)


def read_view_into(
    entry: Entry, offset: int, strides: tuple[int, ...], out: np.ndarray
) -> None:
    """Fills an array with a strided view of one tensor; checksums are not compared.

    Args:
        entry: Where the tensor lies.
        offset: The view's first element, in the tensor's row-major order.
        strides: Its steps, in elements.
        out: Array of the view's shape and the tensor's dtype.

    Raises:
        DamagedError: A data file is missing or short.
        UnsupportedError: The dtype holds no array.
        ReadError: The operating system refuses.
    """
    if not out.size:
        return
    check_readable(entry)
    piece = entry.pieces[0]
    if isinstance(piece, Piece) and not entry.is_sliced:
        piece.data_file.check_span(piece.span, subject=_subject(entry))
        _fill_view(entry, piece, offset, strides, out)
        return
    view = along_axes(entry.spec.shape, offset, out.shape, strides)
    if view is None:
        rows = rows_around(entry.spec.shape, offset, out.shape, strides)
        first = offset - rows.starts[0] * math.prod(entry.spec.shape[1:])
        out[...] = strided(read_region(entry, rows), first, out.shape, strides)
        return
    for piece in entry.pieces:
        if view.box.intersection(piece.region) == view.box:
            _read_piece_view(entry, piece, view, out)
            return
    # It lies in several pieces: the half of it with the longest steps, then the other.
    axis = max(range(out.ndim), key=lambda a: (out.shape[a] > 1) * abs(strides[a]))
    half = out.shape[axis] // 2
    before = (slice(None),) * axis
    read_view_into(entry, offset, strides, out[(*before, slice(0, half))])
    second = offset + half * strides[axis]
    read_view_into(entry, second, strides, out[(*before, slice(half, None))])


def _read_piece_view(
    entry: Entry, piece: Piece | EncodedPiece, view: AxisView, out: np.ndarray
) -> None:
    if isinstance(piece, Piece):
        piece.data_file.check_span(piece.span, subject=_subject(entry))
        first, strides = view.within(piece.region)
        _fill_view(entry, piece, first, strides, out)
        return
    piece.check()
    array = piece.read(view.box.relative_to(piece.region))
    first, strides = view.within(view.box)
    out[...] = strided(array, first, out.shape, strides)


def read_many(
    entries: Sequence[Entry],
    deliver: Callable[[Entry, np.ndarray], None],
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

    def run(batch: list[Entry]) -> None:
        if len(batch) == 1:
            deliver(batch[0], read_entry(batch[0], verify=verify))
        else:
            _read_batch(batch, deliver, verify=verify)

    _in_parallel([functools.partial(run, batch) for batch in _batches(entries)])


def check_many(
    entries: Sequence[Entry],
    report: Callable[[Entry, CheckpointError | None], None],
    advance: Callable[[int], None],
) -> None:
    """Checks tensors whole and in parallel, without keeping them.

    Args:
        entries: Where they lie.
        report: Called, from several threads, with each entry and what is wrong with it.
        advance: Called, from several threads, with the number of bytes just checked.

    Raises:
        ReadError: The system or the store refuses; the first failure ends the rest.
    """

    def run(batch: list[Entry]) -> None:
        readable: list[Entry] = []
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
                    advance(entry.nbytes)
                return
        except DamagedError:  # of the file: one by one, then
            pass
        for entry in readable:
            try:
                _check_entry(entry, advance)
            except (DamagedError, UnsupportedError) as error:
                report(entry, error)
            else:
                report(entry, None)

    _in_parallel([functools.partial(run, batch) for batch in _batches(entries)])


def _check_entry(entry: Entry, advance: Callable[[int], None]) -> None:
    check_whole(entry)
    for piece in entry.pieces:
        if not isinstance(piece, Piece) or entry.spec.dtype.is_string:
            _read_piece(entry, piece, verify=True)
            advance(piece.nbytes)
            continue
        step = piece.data_file.chunk_nbytes
        buffer = memoryview(bytearray(min(step, piece.nbytes)))
        crc = 0
        for start in range(piece.span.start, piece.span.stop, step):
            chunk = buffer[: min(step, piece.span.stop - start)]
            piece.data_file.read_into(start, chunk, subject=_subject(entry))
            crc = crc32c(chunk, crc)
            advance(len(chunk))
        _compare(entry, piece, mask(crc))


def _drop(_entry: Entry, _array: np.ndarray) -> None:
    """Delivers an array to nobody."""


def _in_parallel(jobs: Sequence[Callable[[], None]]) -> None:
    workers = min(len(jobs), os.cpu_count() or 1, MAX_WORKERS)
    if workers <= 1:
        for job in jobs:
            job()
        return
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(job) for job in jobs]
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _batches(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Groups entries by place: one that is not small stands alone."""
    small: list[tuple[Piece, Entry]] = []
    for entry in entries:
        if (
            entry.is_sliced
            or entry.nbytes > SMALL_NBYTES
            or not isinstance(entry.pieces[0], Piece)
        ):
            yield [entry]
        else:
            small.append((entry.pieces[0], entry))
    small.sort(key=lambda one: (one[0].data_file.path, one[0].span))
    batch: list[tuple[Piece, Entry]] = []
    for piece, entry in small:
        if batch and not _joins(batch[0][0], batch[-1][0], piece):
            yield [one for _, one in batch]
            batch = []
        batch.append((piece, entry))
    if batch:
        yield [one for _, one in batch]


def _joins(first: Piece, last: Piece, piece: Piece) -> bool:
    """Whether a piece is read together with those before it."""
    is_local = piece.data_file.is_local
    gap = BATCH_GAP_NBYTES if is_local else REMOTE_GAP_NBYTES
    return (
        piece.data_file == first.data_file
        and piece.span.start - last.span.stop <= gap
        and piece.span.stop - first.span.start <= BATCH_NBYTES
    )


def _read_batch(
    batch: list[Entry],
    deliver: Callable[[Entry, np.ndarray], None],
    *,
    verify: bool,
    errors: dict[str, DamagedError] | None = None,
) -> None:
    """Reads neighbours at once; what is wrong with one goes to `errors`, if given."""
    pieces = [one for entry in batch for one in entry.pieces if isinstance(one, Piece)]
    first, last = pieces[0], max(pieces, key=lambda piece: piece.span.stop)
    span = ByteRange(first.span.start, last.span.stop)
    subject = _subject(batch[pieces.index(last)])
    first.data_file.check_span(last.span, subject=subject)
    buffer = np.empty(span.nbytes, np.uint8)
    first.data_file.read_into(span.start, buffer.data, subject=subject)
    for entry, piece in zip(batch, pieces, strict=True):
        start = piece.span.start - span.start
        stored = buffer[start : start + piece.span.nbytes]
        try:
            array = _decode_piece(entry, piece, stored, verify=verify)
        except DamagedError as error:
            if errors is None:
                raise
            errors[entry.name] = error
        else:
            deliver(entry, array)


def _decode_piece(
    entry: Entry, piece: Piece, stored: np.ndarray, *, verify: bool
) -> np.ndarray:
    """Decodes a piece from its bytes, which are copied."""
    if entry.spec.dtype.is_string:
        return _decode_string_piece(entry, piece, stored, verify=verify)
    if verify:
        _compare(entry, piece, mask(crc32c(stored.data)))
    array = aligned_empty(piece.region.shape, entry.spec.dtype.numpy)
    _bytes_of(array)[:] = stored
    _to_native(array, entry)
    return array


def _read_piece(
    entry: Entry, piece: Piece | EncodedPiece, *, verify: bool
) -> np.ndarray:
    """Reads one piece as an array of its region's shape."""
    if not isinstance(piece, Piece):
        return _aligned(piece.read(TensorSlice.whole(piece.region.shape)))
    if entry.spec.dtype.is_string:
        stored = np.empty(piece.span.nbytes, np.uint8)
        piece.data_file.read_into(
            piece.span.start, stored.data, subject=_subject(entry)
        )
        return _decode_string_piece(entry, piece, stored, verify=verify)
    out = aligned_empty(piece.region.shape, entry.spec.dtype.numpy)
    _fill_piece(entry, piece, out, verify=verify)
    return out


def _fill_piece(entry: Entry, piece: Piece, out: np.ndarray, *, verify: bool) -> None:
    """Fills a contiguous array with one piece, its checksum taken chunk by chunk."""
    buffer = _bytes_of(out).data
    crc = 0
    step = piece.data_file.chunk_nbytes
    for start in range(0, len(buffer), step):
        chunk = buffer[start : start + step]
        piece.data_file.read_into(
            piece.span.start + start, chunk, subject=_subject(entry)
        )
        if verify:
            crc = crc32c(chunk, crc)
    if verify:
        _compare(entry, piece, mask(crc))
    _to_native(out, entry)


def _decode_string_piece(
    entry: Entry, piece: Piece, stored: np.ndarray, *, verify: bool
) -> np.ndarray:
    try:
        elements, crc = decode_strings(
            stored.data, piece.region.size, is_big_endian=entry.is_big_endian
        )
    except MalformedError as error:
        raise DamagedError(
            f"{_subject(entry)} is damaged: {error} - at {_place(piece)}. "
            "Copy the file again."
        ) from error
    if verify:
        _compare(entry, piece, mask(crc))
    out = np.empty(piece.region.size, object)
    out[:] = elements
    return out.reshape(piece.region.shape)


def _fill_region(
    entry: Entry, piece: Piece, region: TensorSlice, out: np.ndarray
) -> None:
    """Fills an array with a box of one piece, in the piece's own coordinates."""
    strides = strides_of(piece.region.shape)
    offset = sum(a * s for a, s in zip(region.starts, strides, strict=True))
    _fill_view(entry, piece, offset, strides, out)


def _fill_view(
    entry: Entry, piece: Piece, offset: int, strides: tuple[int, ...], out: np.ndarray
) -> None:
    """Fills an array with a strided view of one piece, counted in elements."""
    offset, strides, out = ascending(offset, strides, out)
    itemsize = entry.spec.dtype.numpy.itemsize
    cost = LOCAL_READ_NBYTES if piece.data_file.is_local else REMOTE_READ_NBYTES
    for block in blocks(offset, out.shape, strides, itemsize, cost):
        target = out[(*block.index, ...)]  # an array, also of rank 0
        is_direct = block.is_exact and target.flags.c_contiguous
        buffer = target if is_direct else aligned_empty((block.size,), out.dtype)
        first = piece.span.start
        piece.data_file.read_runs_into(
            [first + start * itemsize for start in block.starts],
            _bytes_of(buffer).data,
            subject=_subject(entry),
        )
        _to_native(buffer, entry)
        if not is_direct:
            target[...] = strided(buffer, 0, block.shape, block.strides)


def is_local(entry: Entry) -> bool:
    """Tells whether reading a tensor asks no other machine, as far as is known."""
    return all(
        isinstance(piece, Piece) and piece.data_file.is_local for piece in entry.pieces
    )


def check_readable(entry: Entry) -> None:
    """Refuses what no array can hold, before anything of it is read."""
    if not entry.spec.dtype.is_readable:
        raise UnsupportedError(
            f"{_subject(entry)} is of dtype {entry.spec.dtype.name}, which holds no "
            f"array that numpy could show - at {_place(entry.pieces[0])}. Leave it out "
            "of what is read."
        )
    if len(entry.spec.shape) > MAX_ARRAY_RANK:
        raise UnsupportedError(
            f"{_subject(entry)} has {len(entry.spec.shape)} axes, numpy can hold "
            f"{MAX_ARRAY_RANK} - at {_place(entry.pieces[0])}. Leave it out of what is "
            "read."
        )


def check_whole(entry: Entry) -> None:
    """Checks that all of a tensor can be there, before memory for it is allocated.

    Args:
        entry: Where it lies.

    Raises:
        DamagedError: A data file is missing or short.
        UnsupportedError: The dtype holds no array.
        ReadError: The system or the store refuses.
    """
    check_readable(entry)
    _check_spans(entry, TensorSlice.whole(entry.spec.shape))


def _check_spans(entry: Entry, region: TensorSlice) -> None:
    """Checks the sizes of the files that a read of a box needs, or of all of it."""
    is_whole = region.shape == entry.spec.shape
    for piece in entry.pieces:
        if not is_whole and not region.intersection(piece.region):
            continue
        if isinstance(piece, Piece):
            piece.data_file.check_span(piece.span, subject=_subject(entry))
        else:
            piece.check()


def _aligned(array: np.ndarray) -> np.ndarray:
    """The same values where JAX on CPU takes them over uncopied."""
    if array.dtype == object or array.ctypes.data % ALIGNMENT == 0:
        return array
    out = aligned_empty(array.shape, array.dtype)
    out[...] = array
    return out


def _empty(entry: Entry, shape: tuple[int, ...]) -> np.ndarray:
    if entry.spec.dtype.is_string:
        return np.empty(shape, object)
    return aligned_empty(shape, entry.spec.dtype.numpy)


def _bytes_of(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(np.uint8)


def _to_native(array: np.ndarray, entry: Entry) -> None:
    """Swaps the bytes of a big-endian bundle's elements in place."""
    width = array.dtype.itemsize // (2 if array.dtype.kind == "c" else 1)
    if entry.is_big_endian and width > 1:
        array.reshape(-1).view(f"u{width}").byteswap(inplace=True)


def _compare(entry: Entry, piece: Piece, computed: int) -> None:
    if computed != piece.crc32c:
        found = impostor(piece.data_file.head())
        fix = f"The file is {found[0]}. {found[1]}" if found else "Copy the file again."
        raise DamagedError(
            f"{_subject(entry)} is damaged: stored crc32c {piece.crc32c:08x}, computed "
            f"{computed:08x} - at {_place(piece)}. {fix}"
        )


def _subject(entry: Entry) -> str:
    return f"Tensor `{entry.name}`"


def _place(piece: Piece | EncodedPiece) -> str:
    if not isinstance(piece, Piece):
        return f"`{piece.path}`"
    return f"`{piece.data_file.path}`[{piece.span.start}:{piece.span.stop}]"
