"""Groups of reads, begun in the given order, in parallel, within a bound of memory.

Decides when each group begins, and hands it on when it is there; knows no device.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import math
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Final, Generic, Self

from tf2flax._base.progress import Advance
from tf2flax._base.threads import belong_to
from tf2flax._base.tuning import DEFAULT_TUNING, Tuning
from tf2flax._storage.local import OpenFiles

from .groups import GroupReader, Job, ReadOptions, Report
from .targets import TargetT

# Waits until the host memory of what was handed on is free again.
Wait = Callable[[], object]


def wait_for_nothing() -> None:
    """Waits for memory that nobody uses any more; see `Wait`."""


def report_nothing(_nbytes: int, _tensor: str) -> None:
    """Reports no progress; see `Advance`."""


# How long an interrupt may go unheard while no group is ready (seconds).
_WAKE_UP_S: Final = 0.1


def run_groups(
    targets: Iterable[TargetT],
    hand_on: Callable[[Sequence[TargetT]], Wait],
    *,
    workers: int,
    is_local: bool,
    verify: bool,
    advance: Advance,
    max_in_flight_bytes: float = math.inf,
    report: Report | None = None,
    tuning: Tuning = DEFAULT_TUNING,
    in_order: bool = False,
) -> None:
    """Reads groups and hands them on, a bounded number of bytes at a time.

    Args:
        targets: What each group fills; the next one is asked for when there is room.
        hand_on: Called in this thread with targets that are complete.
        workers: Threads that read; 0 reads in this thread.
        is_local: True if no other machine is asked.
        verify: True compares CRC-32C checksums.
        advance: Called, from several threads, with bytes read and the tensor's name.
        max_in_flight_bytes: Host memory of groups that are begun and not yet handed on
            and done with; a larger group passes alone.
        report: Takes damage, piece by piece; None lets the first one end everything.
        tuning: How much is read at once.
        in_order: True hands groups on in the order in which they come; those that are
            there before their turn wait, and count as in flight.

    Raises:
        DamagedError: A data file is missing or short, or a checksum differs.
        ReadError: The system or the store refuses.
    """
    # Bytes of groups that are begun and whose memory is not free again.
    in_flight = 0
    complete = _CompleteGroups(hand_on, in_order=in_order)
    with OpenFiles() as files, Readers(workers) as readers:
        options = ReadOptions(
            verify=verify, advance=advance, tuning=tuning, report=report, files=files
        )
        running = _RunningGroups[TargetT](readers, options, is_local=is_local)
        for target in targets:
            while in_flight and in_flight + target.host_nbytes > max_in_flight_bytes:
                # Nothing that could be waited for: some group must be read first; where
                # their order counts, that whose turn it is.
                while complete.is_empty:
                    complete.add(running.next_done())
                complete.hand_on()
                in_flight -= complete.wait_for_oldest()
            in_flight += target.host_nbytes
            complete.expect(target)
            # Before waiting for anything: readers are to have work at all times.
            running.start(target)
            for done in running.all_done():
                complete.add(done)
            complete.hand_on(tuning.transfer_nbytes)
        while running.count:
            complete.add(running.next_done())
            complete.hand_on(tuning.transfer_nbytes)
        complete.hand_on()
    while not complete.is_empty:
        complete.wait_for_oldest()


def count_workers(
    nbytes: int, *, groups: int, is_local: bool, tuning: Tuning = DEFAULT_TUNING
) -> int:
    """Decides how many threads read.

    Local files keep the processors busy; requests to other machines mostly wait.

    Args:
        nbytes: Bytes that are read.
        groups: Number of groups.
        is_local: True if no other machine is asked.
        tuning: How many at most.

    Returns:
        Their number; 0 where one read is all there is to do.
    """
    if groups <= 1 and nbytes <= tuning.small_nbytes:
        return 0
    processors = (os.cpu_count() or 1) if is_local else tuning.max_workers
    return min(tuning.max_workers, processors)


class _CompleteGroups(Generic[TargetT]):
    """Groups that are read: handed on several at a time, then waited for."""

    def __init__(
        self, hand_on: Callable[[Sequence[TargetT]], Wait], *, in_order: bool
    ) -> None:
        """Takes what they are handed on to, and whether their order counts."""
        self._hand_on = hand_on
        self._ready: list[TargetT] = []
        self._nbytes = 0
        # Where the order counts: those that are begun, and those that came early.
        self._turns: collections.deque[TargetT] | None = (
            collections.deque() if in_order else None
        )
        self._early: set[int] = set()
        # Groups that were handed on, whose memory may still be in use.
        self._in_transfer: collections.deque[tuple[Wait, int]] = collections.deque()

    @property
    def is_empty(self) -> bool:
        """True if there is nothing to hand on, and nothing to wait for."""
        return not self._ready and not self._in_transfer

    def expect(self, target: TargetT) -> None:
        """Notes the turn of a group that is about to be read."""
        if self._turns is not None:
            self._turns.append(target)

    def add(self, target: TargetT) -> None:
        """Takes a group that is read."""
        if self._turns is None:
            self._take(target)
            return
        self._early.add(id(target))  # unique: `_turns` keeps it
        while self._turns and id(self._turns[0]) in self._early:
            target = self._turns.popleft()
            self._early.remove(id(target))
            self._take(target)

    def _take(self, target: TargetT) -> None:
        self._ready.append(target)
        self._nbytes += target.host_nbytes

    def hand_on(self, min_nbytes: int = 0) -> None:
        """Hands on what is ready, in one call, if it is worth one."""
        if self._ready and self._nbytes >= min_nbytes:
            wait = self._hand_on(tuple(self._ready))
            self._in_transfer.append((wait, self._nbytes))
            self._ready.clear()
            self._nbytes = 0

    def wait_for_oldest(self) -> int:
        """Waits until memory of what was handed on first is free; its bytes."""
        wait, nbytes = self._in_transfer.popleft()
        wait()
        return nbytes


class Readers:
    """Threads that run jobs until the block ends; an error in it gives them up.

    Jobs that have not begun then never begin, and reads that wait for another machine
    stop waiting.
    """

    def __init__(self, count: int) -> None:
        """Starts no thread yet.

        Args:
            count: How many threads at most; with 0, jobs run where they are submitted.
        """
        self._given_up = threading.Event()
        self._threads: list[threading.Thread] = []
        self._pool: concurrent.futures.ThreadPoolExecutor | None = None
        if count:
            self._pool = concurrent.futures.ThreadPoolExecutor(
                count, initializer=belong_to, initargs=(self._given_up, self._threads)
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.give_up()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            # An interrupt may come when the pool has started a thread and has not noted
            # it yet: `shutdown` does not wait for that one.
            for thread in self._threads:
                thread.join()

    @property
    def are_given_up(self) -> bool:
        """True if nobody waits for them any more."""
        return self._given_up.is_set()

    def give_up(self) -> None:
        """Lets running reads stop soon, and others never begin."""
        self._given_up.set()

    def submit(self, job: Callable[..., None], *arguments: object) -> None:
        """Runs a job in one of the threads, or here if there are none.

        What goes wrong is the job's to report; here, an interrupt goes up.
        """
        if self._pool is None:
            job(*arguments)
        else:
            self._pool.submit(job, *arguments)


class _RunningGroups(Generic[TargetT]):
    """Groups that threads work on; a failure of one job ends all others.

    Attributes:
        count: Number of groups that are begun and not yet taken.
    """

    def __init__(
        self, readers: Readers, options: ReadOptions, *, is_local: bool
    ) -> None:
        self.count = 0
        self._is_local = is_local
        self._readers = readers
        self._options = options
        # Targets that are complete, or what went wrong.
        self._done: queue.SimpleQueue[TargetT | BaseException] = queue.SimpleQueue()

    def start(self, target: TargetT) -> None:
        """Begins to work on a group."""
        self.count += 1
        reader = GroupReader(target, self._options)
        if self._is_local:
            # Here, since the arrays are allocated: arrays below 2 MiB are the C
            # library's, and what it gives a thread, a later restore cannot use again,
            # so that each would fault in all of its pages.
            self._run(self._open, reader)
        else:
            # In a thread, since to look whether files are there takes a request each.
            self._readers.submit(self._run, self._open, reader)

    def next_done(self) -> TargetT:
        """Waits for a group.

        Raises:
            BaseException: Whatever went wrong in some thread.
        """
        done: TargetT | BaseException | None = None
        while done is None:
            # The system may deliver Ctrl-C to a thread that is just starting. Python
            # then raises KeyboardInterrupt in the main thread, but does not wake it.
            with contextlib.suppress(queue.Empty):
                done = self._done.get(timeout=_WAKE_UP_S)
        if isinstance(done, BaseException):
            raise done
        self.count -= 1
        return done

    def all_done(self) -> Iterator[TargetT]:
        """Gives the groups that are complete by now."""
        while not self._done.empty():
            yield self.next_done()

    def _run(self, step: Callable[..., None], *arguments: object) -> None:
        """Does a step in a thread; what goes wrong ends all others."""
        if self._readers.are_given_up:  # what was submitted before still comes here
            return
        try:
            step(*arguments)
        except BaseException as error:  # also an interrupt, where this is no thread
            self._readers.give_up()
            self._done.put(error)

    def _open(self, reader: GroupReader[TargetT]) -> None:
        jobs = reader.open()
        if not jobs:  # all is damaged, or nothing but views of other tensors
            self._finish(reader)
        for job in jobs:
            self._readers.submit(self._run, self._work, reader, job)

    def _work(self, reader: GroupReader[TargetT], job: Job) -> None:
        job()
        if reader.is_last_job():
            self._finish(reader)

    def _finish(self, reader: GroupReader[TargetT]) -> None:
        reader.target.finish()
        self._done.put(reader.target)
