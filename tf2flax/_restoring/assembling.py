"""One group of leaves: tensors read, checked, cast and put together, job by job.

Jobs run in any order and in several threads; knows no device and never imports JAX.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from tf2flax._assignment.layouts.filling import fill_array
from tf2flax._assignment.layouts.nodes import StridedView
from tf2flax._base.boxes import cut_into_boxes, distance
from tf2flax._base.dtypes import Misfits
from tf2flax._base.manifest import DataFile, Piece, TensorEntry
from tf2flax._base.memory import aligned_empty, bytes_of, empty, view_at
from tf2flax._base.progress import Advance
from tf2flax._base.values import Box, ByteRange
from tf2flax._formats.wire.crc32c import combine, crc32c
from tf2flax._reading.parts import count_read_nbytes, read_view_into
from tf2flax._reading.runs import BUFFER_NBYTES, along_axes, strided, strides_of
from tf2flax._reading.whole import (
    SMALL_NBYTES,
    check_readable,
    compare_crc,
    fits_batch,
    read_entry_into,
    read_piece,
    subject_of,
    to_native,
)
from tf2flax._storage.local import OpenFiles

from .destinations import Destination, joined, put
from .plan_reads import LeafReads, PartRead, ReadGroup, ReadUnit, WholeRead

# What one thread reads of a piece before another may take over: some chunks (bytes).
SPAN_NBYTES: Final = 32 << 20
# Shorter runs are copied out of a chunk, which is read in one (bytes).
MIN_DIRECT_NBYTES: Final = 128 << 10

# Arrays by box, of each leaf of a group.
HostLeaves = Mapping[str, Mapping[Box, np.ndarray]]
Job = Callable[[], None]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How groups are read.

    Attributes:
        verify: Whether CRC-32C checksums are compared.
        advance: Called, from several threads, with bytes read and the tensor's name.
        checksums: Those of pieces that several groups read.
        files: Those that are kept open.
    """

    verify: bool
    advance: Advance
    checksums: Checksums = dataclasses.field(default_factory=lambda: Checksums())
    files: OpenFiles = dataclasses.field(default_factory=OpenFiles)


class GroupReader:
    """A group on its way from tensors to arrays.

    Attributes:
        group: What is read.
        arrays: The arrays, complete after `finish`.
    """

    def __init__(self, group: ReadGroup, options: ReadOptions) -> None:
        """Allocates the arrays; nothing is read yet.

        Args:
            group: What is read.
            options: How.

        Raises:
            DamagedError: A data file is missing or short.
            UnsupportedError: A dtype holds no array.
            ReadError: The system or the store refuses.
        """
        self.group = group
        self._options = options
        self._lock = threading.Lock()
        self._misfits: dict[str, Misfits] = {}
        for entry in group.entries.values():
            check_readable(entry)
        for read in group.wholes:
            if read.unit.nbytes > SMALL_NBYTES:  # smaller ones are checked when read
                self._check_there(read.unit)
        self.arrays: dict[str, dict[Box, np.ndarray]] = {}
        # Leaves whose last cast may change values.
        self._forced = {
            need.assignment.leaf for need in group.leaves if need.assignment.is_forced
        }
        for need in group.leaves:
            arrays = self.arrays.setdefault(need.assignment.leaf, {})
            for box in need.boxes:
                arrays[box] = aligned_empty(box.shape, need.assignment.dtype)
        # Tensors that are kept until leaves are put together from them.
        self._held: dict[str, np.ndarray] = {
            read.unit.entry.name: _empty_for(read.unit.entry)
            for read in group.wholes
            if read.is_held and read.unit.start == 0
        }
        self._jobs_left = 0

    def jobs(self) -> list[Job]:
        """Makes the jobs that fill the arrays; `finish` comes after all of them."""
        small: list[tuple[Piece, WholeRead]] = []
        jobs: list[Job] = []
        for read in self.group.wholes:
            piece = read.unit.piece
            if not isinstance(piece, Piece):
                jobs.append(functools.partial(self._read_unit, read))
            elif read.unit.nbytes <= SMALL_NBYTES and not read.unit.is_cut:
                small.append((piece, read))
            else:
                jobs += self._span_jobs(read, piece)
        jobs += [functools.partial(self._read_batch, b) for b in _batches(small)]
        for part in self.group.parts:
            jobs += self._tile_jobs(part)
        self._jobs_left = len(jobs)
        return jobs

    def is_last_job(self) -> bool:
        """Counts a job as done; whether it was the last."""
        with self._lock:
            self._jobs_left -= 1
            return not self._jobs_left

    def finish(self) -> None:
        """Puts together the leaves that are not filled while their tensors are read.

        Raises:
            DamagedError: A data file is missing or short.
            ReadError: The system or the store refuses.
        """
        for need in self.group.leaves:
            if not need.is_streamed:
                self._put_together(need)
        self._held.clear()

    @property
    def misfits(self) -> Mapping[str, Misfits]:
        """Values that do not fit the dtypes of their leaves, by leaf."""
        return self._misfits

    def _check_there(self, unit: ReadUnit) -> None:
        """Checks that a unit can be there, before memory for it is allocated."""
        pieces = unit.entry.pieces if unit.piece is None else (unit.piece,)
        for piece in pieces:
            if isinstance(piece, Piece):
                file = self._file(unit.entry, piece)
                file.check_span(piece.span, subject=subject_of(unit.entry))
            else:
                piece.check(subject=subject_of(unit.entry))

    def _file(self, entry: TensorEntry, piece: Piece) -> DataFile:
        """The file of a piece, kept open."""
        return self._options.files.of(piece.data_file, subject=subject_of(entry))

    def _destinations(self, read: WholeRead) -> list[Destination]:
        """Where the elements of a unit go."""
        entry = read.unit.entry
        stored = entry.spec.dtype.numpy
        result: list[Destination] = []
        for demand in read.demands:
            for box, array in self.arrays[demand.leaf].items():
                shared = box.intersection(demand.box)
                if shared is None:
                    continue
                moves = map(operator.sub, shared.starts, demand.box.starts)
                offset = demand.offset + distance(moves, demand.strides)
                strides = demand.strides
                if read.unit.is_box:
                    offset, strides = _within(read.unit, offset, shared.shape, strides)
                result.append(
                    Destination(
                        demand.leaf,
                        array if shared == box else view_at(array, shared.within(box)),
                        stored,
                        offset=offset,
                        strides=strides,
                        casts=demand.casts,
                        origin=shared.starts,
                    )
                )
        if read.is_held:
            held = self._held[entry.name]
            strides = strides_of(held.shape)
            result.append(Destination("", held, stored, offset=0, strides=strides))
        return result

    def _scatter(
        self,
        destinations: Sequence[Destination],
        start: int,
        elements: np.ndarray,
        name: str,
    ) -> None:
        """Copies a run of elements of a tensor to where they belong."""
        for one in destinations:
            found = one.take(start, elements, is_forced=one.leaf in self._forced)
            if found:
                self._add_misfits(one.leaf, found)
        self._options.advance(elements.nbytes, name)

    def _add_misfits(self, leaf: str, found: Misfits) -> None:
        with self._lock:
            both = joined(self._misfits.get(leaf), found)
            assert both is not None
            self._misfits[leaf] = both

    def _read_unit(self, read: WholeRead) -> None:
        """Reads a unit of which no run of bytes is a run of elements."""
        unit = read.unit
        entry, piece = unit.entry, unit.piece
        destinations = self._destinations(read)
        if piece is not None:
            elements = read_piece(entry, piece, verify=self._options.verify)
            self._scatter(destinations, unit.start, elements.reshape(-1), entry.name)
            return
        direct = [(one, one.direct(0, unit.size)) for one in destinations]
        own, out = next((pair for pair in direct if pair[1] is not None), (None, None))
        if out is None:
            out = aligned_empty((unit.size,), entry.spec.dtype.numpy)
        whole = out.reshape(entry.spec.shape)
        read_entry_into(entry, whole, verify=self._options.verify)
        others = [one for one in destinations if one is not own]
        self._scatter(others, 0, out, entry.name)

    def _read_batch(self, batch: Sequence[tuple[Piece, WholeRead]]) -> None:
        """Reads small neighbours at once."""
        first, last = batch[0], max(batch, key=lambda one: one[0].span.stop)
        span = ByteRange(first[0].span.start, last[0].span.stop)
        subject = subject_of(last[1].unit.entry)
        first[0].data_file.check_span(last[0].span, subject=subject)
        buffer = empty(span.nbytes, np.uint8)
        first[0].data_file.read_into(span.start, buffer.data, subject=subject)
        for piece, read in batch:
            entry = read.unit.entry
            start = piece.span.start - span.start
            stored = buffer[start : start + piece.span.nbytes]
            if self._options.verify:
                compare_crc(entry, piece, crc32c(stored.data))
            elements = stored.view(entry.spec.dtype.numpy)
            to_native(elements, entry)
            self._scatter(
                self._destinations(read), read.unit.start, elements, entry.name
            )

    def _span_jobs(self, read: WholeRead, piece: Piece) -> Iterator[Job]:
        """Jobs that read a large unit, span by span."""
        unit = read.unit
        step = _row_multiple(piece, unit.entry, SPAN_NBYTES)
        first = piece.span.start + unit.skipped * unit.entry.spec.dtype.numpy.itemsize
        stop = first + unit.nbytes
        checksum: _Checksum | None = None
        if self._options.verify and read.is_covered:
            checksum = self._options.checksums.of(unit.entry, piece)
        destinations = self._destinations(read)
        file = self._file(unit.entry, piece)
        for start in range(first, stop, step):
            span = ByteRange(start, min(start + step, stop))
            yield functools.partial(
                self._read_span, unit, piece, file, span, destinations, checksum
            )

    def _read_span(
        self,
        unit: ReadUnit,
        piece: Piece,
        file: DataFile,
        span: ByteRange,
        destinations: Sequence[Destination],
        checksum: _Checksum | None,
    ) -> None:
        """Reads a part of a piece, chunk by chunk, its checksum taken on the way."""
        entry = unit.entry
        dtype = entry.spec.dtype.numpy
        staging: np.ndarray | None = None
        crc = 0
        piece_start = unit.start - unit.skipped
        position = span.start
        chunk = _row_multiple(piece, entry, piece.data_file.chunk_nbytes)
        while position < span.stop:
            start = piece_start + (position - piece.span.start) // dtype.itemsize
            stop = start + min(chunk, span.stop - position) // dtype.itemsize
            own, elements = _direct(destinations, start, stop, dtype)
            if elements is None:
                if staging is None:
                    staging = aligned_empty((stop - start,), dtype)
                elements = staging[: stop - start]
            stop = start + elements.size
            stored = bytes_of(elements).data
            file.read_into(position, stored, subject=subject_of(entry))
            if checksum is not None:
                crc = crc32c(stored, crc)
            to_native(elements, entry)
            others = [
                one
                for one in destinations
                if one is not own and one.low < stop and one.high > start
            ]
            self._scatter(others, start, elements, entry.name)
            position += elements.nbytes
        if checksum is not None:
            checksum.add(span.start, crc, span.nbytes)

    def _tile_jobs(self, part: PartRead) -> Iterator[Job]:
        """Jobs that read a view, tile by tile."""
        itemsize = part.entry.spec.dtype.numpy.itemsize
        size = math.prod(part.shape)
        done = 0
        for tile in cut_into_boxes(part.shape, part.strides, BUFFER_NBYTES // itemsize):
            nbytes = part.nbytes * (done + tile.size) // size
            nbytes -= part.nbytes * done // size
            done += tile.size
            yield functools.partial(self._read_tile, part, tile, nbytes)

    def _read_tile(self, part: PartRead, tile: Box, nbytes: int) -> None:
        """Reads a tile of a view, and copies it to the boxes that share it."""
        entry = part.entry
        offset = part.offset + distance(tile.starts, part.strides)
        targets = [
            (demand, box, array, shared)
            for demand in part.demands
            for box, array in self.arrays[demand.leaf].items()
            if (shared := box.intersection(tile.moved(demand.box.starts))) is not None
        ]
        demand, box, array, shared = targets[0]
        if (
            len(targets) == 1
            and shared.shape == tile.shape
            and not demand.casts
            and array.dtype == entry.spec.dtype.numpy
        ):
            target = view_at(array, shared.within(box))
            read_view_into(entry, offset, part.strides, target)
        else:
            staging = aligned_empty(tile.shape, entry.spec.dtype.numpy)
            read_view_into(entry, offset, part.strides, staging)
            for demand, box, array, shared in targets:
                around = tile.moved(demand.box.starts)
                found = put(
                    view_at(staging, shared.within(around)),
                    view_at(array, shared.within(box)),
                    casts=demand.casts,
                    origin=shared.starts,
                    is_forced=demand.leaf in self._forced,
                )
                if found:
                    self._add_misfits(demand.leaf, found)
        self._options.advance(nbytes, entry.name)

    def _put_together(self, need: LeafReads) -> None:
        one = need.assignment
        if need.is_filled_in_place:
            (array,) = self.arrays[one.leaf].values()
            fill_array(one.layout, need.boxes[0], array, self._fetch)
            return
        for region in need.regions:
            out = aligned_empty(region.shape, one.layout.dtype)
            fill_array(one.layout, region, out, self._fetch)
            for box, array in self.arrays[one.leaf].items():
                shared = box.intersection(region)
                if shared is None:
                    continue
                found = put(
                    view_at(out, shared.within(region)),
                    view_at(array, shared.within(box)),
                    casts=(),
                    origin=shared.starts,
                    is_forced=one.is_forced,
                )
                if found:
                    self._add_misfits(one.leaf, found)

    def _fetch(self, view: StridedView, out: np.ndarray) -> None:
        held = self._held.get(view.source)
        if held is not None:
            out[...] = strided(held, view.offset, view.shape, view.strides)
            return
        entry = self.group.entries[view.source]
        read_view_into(entry, view.offset, view.strides, out)
        nbytes = count_read_nbytes(entry, view.offset, view.shape, view.strides)
        self._options.advance(nbytes, entry.name)


class Checksums:
    """Checksums of pieces that are read in parts, by several threads or groups."""

    def __init__(self) -> None:
        """Knows of no piece yet."""
        self._begun: dict[tuple[str, Piece], _Checksum] = {}

    def of(self, entry: TensorEntry, piece: Piece) -> _Checksum:
        """That of a tensor's piece; always the same one. Not for several threads."""
        return self._begun.setdefault((entry.name, piece), _Checksum(entry, piece))


class _Checksum:
    """The checksum of a piece, put together from those of its parts."""

    def __init__(self, entry: TensorEntry, piece: Piece) -> None:
        self._entry = entry
        self._piece = piece
        self._parts: list[tuple[int, int, int]] = []
        self._lock = threading.Lock()

    def add(self, start: int, crc: int, nbytes: int) -> None:
        """Adds the checksum of a part; compares when it is the last."""
        with self._lock:
            self._parts.append((start, crc, nbytes))
            parts = sorted(self._parts)
        if sum(nbytes for _, _, nbytes in parts) < self._piece.nbytes:
            return
        total = 0
        for _, own, nbytes in parts:
            total = combine(total, own, nbytes)
        compare_crc(self._entry, self._piece, total)


def _direct(
    destinations: Sequence[Destination], start: int, stop: int, dtype: np.dtype
) -> tuple[Destination | None, np.ndarray | None]:
    """Finds memory that elements can be read into, where they stay.

    Returns:
        Whose memory it is, and an array of all the elements, or of the first of them.
    """
    for one in destinations:
        if one.low <= start < one.high:
            end = min(stop, one.high)
            if end == stop or (end - start) * dtype.itemsize >= MIN_DIRECT_NBYTES:
                elements = one.direct(start, end)
                if elements is not None:
                    return one, elements
    return None, None


def _within(
    unit: ReadUnit, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> tuple[int, tuple[int, ...]]:
    """A view of a tensor, as a view of the piece that holds it."""
    axes = along_axes(unit.entry.spec.shape, offset, shape, strides)
    assert axes is not None
    assert unit.piece is not None
    return axes.within(unit.piece.box)


def _row_multiple(piece: Piece, entry: TensorEntry, nbytes: int) -> int:
    """The largest number of bytes up to some that whole rows of a piece take.

    Chunks of whole rows are copied in one piece. At least one element; rows that are
    larger are cut.
    """
    itemsize = entry.spec.dtype.numpy.itemsize
    row = math.prod(piece.box.shape[1:]) * itemsize
    unit = row if 0 < row <= nbytes else itemsize
    return max(1, nbytes // unit) * unit


def _empty_for(entry: TensorEntry) -> np.ndarray:
    return aligned_empty(entry.spec.shape, entry.spec.dtype.numpy)


def _batches(
    small: list[tuple[Piece, WholeRead]],
) -> Iterator[list[tuple[Piece, WholeRead]]]:
    """Groups small pieces that one read takes."""
    small.sort(key=lambda one: (one[0].data_file.path, one[0].span))
    batch: list[tuple[Piece, WholeRead]] = []
    for one in small:
        if batch and not fits_batch(batch[0][0], batch[-1][0], one[0]):
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch
