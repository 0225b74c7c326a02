"""Threads that read, and that stop soon when nobody waits for them any more.

An interrupt in the main thread must end soon. So whoever runs jobs in `Readers` gives
them up when an error leaves the block, and what waits for another machine looks at
`is_given_up` now and then.
"""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

_THREAD: Final = threading.local()


def is_given_up() -> bool:
    """True if nobody waits any more for what this thread reads."""
    given_up: threading.Event | None = getattr(_THREAD, "given_up", None)
    return given_up is not None and given_up.is_set()


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
                count, initializer=_belong_to, initargs=(self._given_up, self._threads)
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

    def submit(
        self, job: Callable[..., None], *arguments: object
    ) -> concurrent.futures.Future[None]:
        """Runs a job in one of the threads, or here if there are none."""
        if self._pool is not None:
            return self._pool.submit(job, *arguments)
        done = concurrent.futures.Future[None]()
        try:
            done.set_result(job(*arguments))
        except BaseException as error:
            done.set_exception(error)
        return done


def _belong_to(given_up: threading.Event, threads: list[threading.Thread]) -> None:
    _THREAD.given_up = given_up
    threads.append(threading.current_thread())
