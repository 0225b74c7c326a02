"""Progress of long work: a bar on a terminal, or the caller's own function.

The bar is drawn by rich, which Flax brings, and which is imported only for it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator

# Called with the bytes that are done and with all there are.
ProgressFunction = Callable[[int, int], None]


@contextlib.contextmanager
def reporting(
    progress: bool | ProgressFunction, total: int, what: str
) -> Generator[Callable[[int], None]]:
    """Reports progress while work is done.

    Args:
        progress: False reports nothing; True draws a bar on stderr with bytes, rate and
            time left; a function is called with the bytes done and the total.
        total: Bytes of the whole work.
        what: What is done, shown before the bar: "Verifying model.ckpt".

    Yields:
        A function to call, from any thread, with the number of bytes just done.
    """
    if not progress:
        yield lambda _: None
    elif not callable(progress):
        with _bar(total, what) as advance:
            yield advance
    else:
        function = progress
        done = 0
        lock = threading.Lock()

        def call(nbytes: int) -> None:
            nonlocal done
            with lock:
                done += nbytes
                function(done, total)

        yield call


@contextlib.contextmanager
def _bar(total: int, what: str) -> Generator[Callable[[int], None]]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    with bar:
        task = bar.add_task(escape(what), total=total)
        yield lambda nbytes: bar.advance(task, nbytes)
