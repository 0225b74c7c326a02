"""One group of reads: its jobs, which read, check and hand elements to what takes them.

Jobs run in any order and in several threads. Knows tensors and runs of their elements;
never decides where an array goes, or what is read.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import threading
from collections.abc import Callable, Sequence
from typing import Final, Generic

import numpy as np

from tf2flax._base.boxes import cut_into_boxes, distance
from tf2flax._base.data_files import DataFile
from tf2flax._base.errors import (
    CheckpointError,
    DamagedError,
    ReplacedError,
    UnsupportedError,
)
from tf2flax._base.manifest import EncodedPiece, Piece, TensorEntry
from tf2flax._base.memory import aligned_empty, bytes_of, collection_paused
from tf2flax._base.progress import Advance
from tf2flax._base.tuning import DEFAULT_TUNING, Tuning
from tf2flax._base.values import Box, ByteRange
from tf2flax._formats.wire.coding import crc32c
from tf2flax._storage.local import OpenFiles

from .checks import (
    Checksums,
    PieceChecksum,
    check_stored,
    read_piece,
    read_pieces_into,
    subject_of,
    to_native,
)
from .destinations import Destination
from .parts import read_view_into
from .targets import TargetT, UnitReceiver, ViewReceiver
from .units import (
    ReadUnit,
    SmallRead,
    ViewRead,
    batch_small,
    read_neighbours,
    share_requests,
)

Job = Callable[[], object]
# Takes a piece of a tensor that could not be read, and the reason.
Report = Callable[[TensorEntry, "Piece | EncodedPiece", CheckpointError], None]


# Jobs of one tensor, or of one view of it, whatever the tuning says: they are listed.
_MAX_JOBS: Final = 1 << 16


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How groups are read, and what all of them share.

    Attributes:
        verify: True if CRC-32C checksums are compared.
        advance: Called, from several threads, with bytes read and the tensor's name.
        tuning: How much is read at once.
        report: Takes damage, piece by piece, so that reading goes on; called from
            several threads. None lets the first damage end everything.
        files: Those that stay open; None opens files for each read.
        checksums: Those of pieces that several jobs or groups read.
    """

    verify: bool
    advance: Advance
    tuning: Tuning = DEFAULT_TUNING
    report: Report | None = None
    files: OpenFiles | None = None
    checksums: Checksums = dataclasses.field(default_factory=Checksums)
    _lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def file_of(self, entry: TensorEntry, piece: Piece) -> DataFile:
        """The file of a piece, kept open where many reads of it may come."""
        if self.files is None:
            return piece.data_file
        # Groups are opened by several threads; `OpenFiles` is not made for that.
        with self._lock:
            return self.files.of(piece.data_file, subject=subject_of(entry))


class GroupReader(Generic[TargetT]):
    """A group on its way from tensors to what takes their elements.

    Attributes:
        target: What is filled, complete after `finish`.
    """

    def __init__(self, target: TargetT, options: ReadOptions) -> None:
        """Reads and allocates nothing yet."""
        self.target = target
        self._options = options
        self._tuning = options.tuning
        self._lock = threading.Lock()
        self._jobs_left = 0

    @collection_paused()
    def open(self) -> list[Job]:
        """Checks that what is large can be there, makes room, and lists the jobs.

        Returns:
            Jobs that fill the target; `finish` comes after all of them.

        Raises:
            DamagedError: A data file is missing or short.
            UnsupportedError: A dtype holds no array.
            ReadError: The system or the store refuses.
        """
        # Small pieces are checked when they are read.
        units = [
            (unit, receiver)
            for unit, receiver in self.target.units
            if self._attempt(unit, functools.partial(self._check_there, unit))
        ]
        self.target.allocate()
        jobs: list[Job] = []
        for unit, receiver in units:
            if unit.is_plain:
                jobs += self._range_jobs(unit, receiver)
            else:
                jobs.append(self._guarded(unit, self._read_at_once, unit, receiver))
        jobs += [
            functools.partial(self._read_batches, batches)
            for batches in share_requests(
                batch_small(self.target.small, self._tuning), self._tuning
            )
        ]
        for view, receiver in self.target.views:
            jobs += self._view_jobs(view, receiver)
        self._jobs_left = len(jobs)
        return jobs

    def is_last_job(self) -> bool:
        """Counts a job as done; True if it was the last."""
        with self._lock:
            self._jobs_left -= 1
            return not self._jobs_left

    def _attempt(self, unit: ReadUnit, job: Job) -> bool:
        """Runs a job of one unit; True unless its damage was reported."""
        report = self._options.report
        if report is None:
            job()
            return True
        try:
            job()
        except ReplacedError:  # nothing of the checkpoint can be trusted
            raise
        except (DamagedError, UnsupportedError) as error:
            # Its traceback would hold what was read, in a cycle.
            piece = unit.entry.pieces[0] if unit.piece is None else unit.piece
            report(unit.entry, piece, error.with_traceback(None))
            return False
        return True

    def _guarded(
        self, unit: ReadUnit, function: Callable[..., None], *arguments: object
    ) -> Job:
        """A job of one unit, whose damage may be reported."""
        job = functools.partial(function, *arguments)
        if self._options.report is None:
            return job
        return functools.partial(self._run_guarded, unit, job)

    def _run_guarded(self, unit: ReadUnit, job: Job) -> None:
        self._attempt(unit, job)

    def _check_there(self, unit: ReadUnit) -> None:
        """Checks that a unit can be there, before memory for it is allocated."""
        # Local files stay open from here on: looking is the first use.
        pieces = unit.entry.pieces if unit.piece is None else (unit.piece,)
        subject = subject_of(unit.entry)
        for piece in pieces:
            if piece.data_file is None:
                piece.check(subject=subject)
            else:
                file = self._options.file_of(unit.entry, piece)
                file.check_span(piece.span, subject=subject)

    def _read_at_once(self, unit: ReadUnit, receiver: UnitReceiver) -> None:
        """Reads a unit of which no run of bytes is a run of elements."""
        entry = unit.entry
        if unit.piece is not None:
            elements = read_piece(entry, unit.piece, verify=self._options.verify)
            receiver.receive(unit, elements.reshape(-1))
            self._options.advance(unit.nbytes, entry.name)
            return
        # All pieces: into the first array that they fill in order, if there is one.
        destinations = receiver.destinations(unit)
        owner, elements = _find_room(destinations, 0, unit.size, unit.size)
        if elements is None:
            elements = aligned_empty((unit.size,), entry.spec.dtype.numpy)
        read_pieces_into(
            entry, elements.reshape(entry.spec.shape), verify=self._options.verify
        )
        for destination in destinations:
            if destination is not owner:
                destination.take(0, elements)
        self._options.advance(unit.nbytes, entry.name)

    def _read_batches(self, batches: Sequence[Sequence[SmallRead]]) -> None:
        """Reads small neighbours at once, and checks each of them."""
        report = self._options.report
        left = collections.deque(batches)
        try:
            for start, stored in read_neighbours(batches):
                self._take_batch(left.popleft(), start, stored)
        except ReplacedError:
            raise
        except DamagedError as error:
            if report is None:
                raise
            # Of the file, not of one tensor: each is read alone, so that those are
            # reported that lie beyond the end of the file.
            parts = left if len(left) > 1 else [[read] for read in left[0]]
            if len(parts) > 1 or len(batches) > 1:
                for part in parts:
                    self._read_batches([part])
                return
            piece, entry, _ = left[0][0]
            report(entry, piece, error.with_traceback(None))

    def _take_batch(
        self, batch: Sequence[SmallRead], start: int, stored: np.ndarray
    ) -> None:
        """Checks small neighbours that were read, from a byte of the file on."""
        report = self._options.report
        view = stored.data  # slices of it cost less than those of an array
        verify, advance = self._options.verify, self._options.advance
        for piece, entry, receiver in batch:
            byte_range = piece.span
            piece_bytes = view[byte_range.start - start : byte_range.stop - start]
            try:
                check_stored(entry, piece, piece_bytes, verify=verify)
            except ReplacedError:
                raise
            except DamagedError as error:
                if report is None:
                    raise
                report(entry, piece, error.with_traceback(None))
            else:
                receiver.receive_stored(entry, piece, piece_bytes)
            advance(len(piece_bytes), entry.name)

    def _range_jobs(self, unit: ReadUnit, receiver: UnitReceiver) -> list[Job]:
        """Jobs that read a large unit, some chunks each.

        ::

            piece   |--------------------------------------------------|
            unit    (skipped) |------------------------------|
            jobs              |---------|---------|----------|
            chunks            |--|--|--||--|--|--||--|--|--|-|    whole rows each
        """
        entry, piece = unit.entry, unit.stored
        first = piece.span.start + unit.skipped * entry.spec.dtype.numpy.itemsize
        stop = first + unit.nbytes
        checksum: PieceChecksum | None = None
        if self._options.verify and unit.is_covered:
            checksum = self._options.checksums.of(entry, piece)
        # Once for all jobs: they only read destinations, and fill different parts.
        destinations = receiver.destinations(unit)
        file = self._options.file_of(entry, piece)
        job_nbytes = max(self._tuning.job_nbytes, unit.nbytes // _MAX_JOBS)
        step = _whole_rows_in(job_nbytes, piece, entry)
        return [
            self._guarded(
                unit,
                self._read_range,
                unit,
                piece,
                file,
                ByteRange(start, min(start + step, stop)),
                destinations,
                checksum,
            )
            for start in range(first, stop, step)
        ]

    def _read_range(
        self,
        unit: ReadUnit,
        piece: Piece,
        file: DataFile,
        byte_range: ByteRange,
        destinations: Sequence[Destination],
        checksum: PieceChecksum | None,
    ) -> None:
        """Reads a range of a piece, chunk by chunk, its checksum taken on the way."""
        entry = unit.entry
        dtype = entry.spec.dtype.numpy
        staging: np.ndarray | None = None
        crc = 0
        # Number of the piece's first element, as destinations count.
        piece_start = unit.start - unit.skipped
        position = byte_range.start
        chunk_nbytes = _whole_rows_in(
            self._tuning.chunk_of(is_local=file.is_local), piece, entry
        )
        min_size = self._tuning.min_direct_nbytes // dtype.itemsize
        while position < byte_range.stop:
            start = piece_start + (position - piece.span.start) // dtype.itemsize
            nbytes = min(chunk_nbytes, byte_range.stop - position)
            stop = start + nbytes // dtype.itemsize
            owner, elements = _find_room(destinations, start, stop, min_size)
            if elements is None:
                if staging is None:  # no later chunk is longer
                    staging = aligned_empty((stop - start,), dtype)
                elements = staging[: stop - start]
            # The room may end before the chunk does; the next one begins there.
            stop = start + elements.size
            stored = bytes_of(elements).data
            file.read_into(position, stored, subject=subject_of(entry))
            # While the bytes are in the cache, and before their order changes.
            if checksum is not None:
                crc = crc32c(stored, crc)
            to_native(elements, entry)
            for destination in destinations:
                if (
                    destination is not owner
                    and destination.low < stop
                    and destination.high > start
                ):
                    destination.take(start, elements)
            self._options.advance(elements.nbytes, entry.name)
            position += elements.nbytes
        if checksum is not None:
            checksum.add(byte_range.start, crc, byte_range.nbytes)

    def _view_jobs(self, view: ViewRead, receiver: ViewReceiver) -> list[Job]:
        """Jobs that read a view, each a box of it that takes a chunk at most."""
        itemsize = view.entry.spec.dtype.numpy.itemsize
        size = math.prod(view.shape)
        max_size = max(1, self._tuning.chunk_nbytes // itemsize, size // _MAX_JOBS)
        count_done = 0
        jobs: list[Job] = []
        for box in cut_into_boxes(view.shape, view.strides, max_size):
            # Its share of what is read, gaps included; all shares add up to it.
            nbytes = view.nbytes * (count_done + box.size) // size
            nbytes -= view.nbytes * count_done // size
            count_done += box.size
            jobs.append(functools.partial(self._read_view, view, box, nbytes, receiver))
        return jobs

    def _read_view(
        self, view: ViewRead, box: Box, nbytes: int, receiver: ViewReceiver
    ) -> None:
        """Reads a box of a view."""
        offset = view.offset + distance(box.starts, view.strides)
        # Into the leaf itself, where one box of one leaf is all that it fills.
        room = receiver.room_for(box)
        if room is not None:
            read_view_into(view.entry, offset, view.strides, room, self._tuning)
        else:
            elements = aligned_empty(box.shape, view.entry.spec.dtype.numpy)
            read_view_into(view.entry, offset, view.strides, elements, self._tuning)
            receiver.receive(box, elements)
        self._options.advance(nbytes, view.entry.name)


def _find_room(
    destinations: Sequence[Destination], start: int, stop: int, min_size: int
) -> tuple[Destination | None, np.ndarray | None]:
    """Finds memory that elements can be read into, where they stay.

    Args:
        destinations: Where elements go.
        start: The first element.
        stop: The element behind the last.
        min_size: Fewer elements are worth no read of their own, unless they are all.

    Returns:
        The destination whose memory it is, and an array of all elements, or of the
        first of them.
    """
    for destination in destinations:
        if destination.low <= start < destination.high:
            end = min(stop, destination.high)
            # A short run of many would be a system call for each.
            if end == stop or end - start >= min_size:
                elements = destination.room_for(start, end)
                if elements is not None:
                    return destination, elements
    return None, None


def _whole_rows_in(nbytes: int, piece: Piece, entry: TensorEntry) -> int:
    """The largest number of bytes up to some that whole rows of a piece take.

    Chunks of whole rows are copied in one piece. At least one element; rows that are
    larger are cut.
    """
    itemsize = entry.spec.dtype.numpy.itemsize
    row_nbytes = math.prod(piece.box.shape[1:]) * itemsize
    step = row_nbytes if 0 < row_nbytes <= nbytes else itemsize
    return max(1, nbytes // step) * step
