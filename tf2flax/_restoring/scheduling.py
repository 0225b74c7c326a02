"""Groups of leaves, read in the order of the files, in parallel, within a bound.

Decides when each group begins and hands it on when it is there; knows no device.
"""

from __future__ import annotations

import collections
import itertools
import os
import queue
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import numpy as np

from tf2flax._assignment.resolution.assignments import Assignment
from tf2flax._base.collapsing import summarise
from tf2flax._base.dtypes import Misfits
from tf2flax._base.errors import AssignmentError
from tf2flax._base.manifest import Piece
from tf2flax._base.progress import Advance
from tf2flax._base.threads import Readers
from tf2flax._base.values import Box
from tf2flax._reading.whole import SMALL_NBYTES
from tf2flax._storage.local import OpenFiles

from .assembling import GroupReader, HostLeaves, ReadOptions
from .plan_reads import ReadPlan

# Readers at once: each holds a chunk besides what it fills. Local files keep the
# processors busy; requests to other machines mostly wait.
MAX_WORKERS: Final = 8
# What all readers hold besides: a chunk each, two where runs have gaps (bytes).
STAGING_NBYTES: Final = MAX_WORKERS * 8 << 20

# Groups are handed on together, since each call costs as much as reading a MiB or two,
# and keeps the readers from running (bytes).
DELIVERY_NBYTES: Final = 128 << 20

# Takes leaves over; what it returns waits until their host memory is free again.
Deliver = Callable[[HostLeaves], Callable[[], object]]


def run_reads(
    reading: ReadPlan,
    deliver: Deliver,
    *,
    verify: bool,
    max_in_flight_bytes: int,
    advance: Advance,
) -> None:
    """Reads groups of leaves and hands them on, a bounded number of bytes at a time.

    Args:
        reading: What is read.
        deliver: Called with each group, in this thread.
        verify: Whether CRC-32C checksums are compared.
        max_in_flight_bytes: Host memory of groups that are begun and not yet handed
            on; a larger group passes alone.
        advance: Called, from several threads, with bytes read and the tensor's name.

    Raises:
        DamagedError: A data file is missing or short, or a checksum differs.
        AssignmentError: Values do not fit the leaves' dtypes; every leaf is named.
        ReadError: The operating system refuses.
    """
    misfits: dict[str, Misfits] = {}
    in_flight = 0
    ready: list[GroupReader] = []
    # Groups that were handed on, whose memory may still be in use.
    in_transfer: collections.deque[tuple[Callable[[], object], int]] = (
        collections.deque()
    )

    def flush(least_nbytes: int = 0) -> None:
        """Hands on what is ready, in one call, if it is worth one."""
        nbytes = sum(assembly.group.host_nbytes for assembly in ready)
        if not ready or nbytes < least_nbytes:
            return
        arrays: dict[str, dict[Box, np.ndarray]] = {}
        for assembly in ready:
            for leaf, found in assembly.misfits.items():
                misfits[leaf] = (
                    found.joined(misfits[leaf]) if leaf in misfits else found
                )
            for leaf, own in assembly.arrays.items():
                arrays.setdefault(leaf, {}).update(own)
        ready.clear()
        in_transfer.append((_at_once if misfits else deliver(arrays), nbytes))

    with OpenFiles() as files, Readers(_count_workers(reading)) as readers:
        options = ReadOptions(verify=verify, advance=advance, files=files)
        workers = _Workers(readers)
        for group in reading.groups:
            while in_flight and in_flight + group.host_nbytes > max_in_flight_bytes:
                if not ready and not in_transfer:
                    ready.append(workers.next_done())
                flush()
                wait, nbytes = in_transfer.popleft()
                wait()
                in_flight -= nbytes
            in_flight += group.host_nbytes
            workers.start(GroupReader(group, options))
            ready.extend(workers.all_done())
            flush(DELIVERY_NBYTES)
        while workers.count_running:
            ready.append(workers.next_done())
            flush(DELIVERY_NBYTES)
        flush()
    for wait, _ in in_transfer:
        wait()
    if misfits:
        raise AssignmentError(summarise(sorted(_problems(reading, misfits))))


def _problems(reading: ReadPlan, misfits: Mapping[str, Misfits]) -> Iterator[str]:
    """Says which leaves have values that do not fit their dtypes."""
    sizes = collections.Counter[str]()
    leaves: dict[str, Assignment] = {}
    for need in itertools.chain.from_iterable(g.leaves for g in reading.groups):
        one = need.assignment
        if one.leaf in misfits:
            leaves[one.leaf] = one
            sizes[one.leaf] += sum(box.size for box in need.boxes)
    for leaf, one in leaves.items():
        what = misfits[leaf].describe(sizes[leaf], one.dtype)
        yield f"Leaf `{leaf}` cannot take tensor `{one.source}`: {what}"


def _at_once() -> None:
    """Waits for nothing."""


def _count_workers(reading: ReadPlan) -> int:
    """How many threads read; 0 where one read is all there is to do."""
    if reading.nbytes <= SMALL_NBYTES and len(reading.groups) == 1:
        return 0
    is_local = all(
        isinstance(piece, Piece) and piece.data_file.is_local
        for group in reading.groups
        for entry in group.entries.values()
        for piece in entry.pieces
    )
    return min(MAX_WORKERS, (os.cpu_count() or 1) if is_local else MAX_WORKERS)


class _Workers:
    """Readers that work on groups; a failure of one job ends all others."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers
        # Groups that are done, or what went wrong.
        self._done: queue.SimpleQueue[GroupReader | BaseException] = queue.SimpleQueue()
        self.count_running = 0

    def start(self, assembly: GroupReader) -> None:
        """Begins to work on a group."""
        self.count_running += 1
        jobs = assembly.jobs()
        if not jobs:
            self._finish(assembly)
        for job in jobs:
            self._readers.submit(self._run, assembly, job)

    def next_done(self) -> GroupReader:
        """Waits for a group.

        Raises:
            BaseException: What went wrong in some thread.
        """
        done = self._done.get()
        if isinstance(done, BaseException):
            raise done
        self.count_running -= 1
        return done

    def all_done(self) -> Iterator[GroupReader]:
        """Gives the groups that are done by now."""
        while not self._done.empty():
            yield self.next_done()

    def _run(self, assembly: GroupReader, job: Callable[[], None]) -> None:
        if self._readers.are_given_up:
            return
        try:
            job()
        except BaseException as error:
            self._readers.give_up()
            self._done.put(error)
        else:
            if assembly.is_last_job():
                self._finish(assembly)

    def _finish(self, assembly: GroupReader) -> None:
        try:
            assembly.finish()
        except BaseException as error:
            self._readers.give_up()
            self._done.put(error)
        else:
            self._done.put(assembly)
