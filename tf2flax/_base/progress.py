"""Progress of long work: a bar on a terminal, or the caller's own function.

The bar is drawn by rich, which Flax brings, and which is imported only for it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import threading
import time
from collections.abc import Callable, Generator
from typing import Any, Final

from .caller import show_value
from .errors import AssignmentError
from .text import printable


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """How far long work has come.

    Attributes:
        done: Bytes that are done.
        total: Bytes of the whole work.
        rate: Bytes a second, since the work began.
        eta: Seconds that are left at this rate; None while nothing is done.
        tensor: Name of the tensor that was read last; "" where that is unknown.

    Examples:
        >>> Progress(done=3, total=4, rate=1.0, eta=1.0, tensor="a/kernel").done
        3
    """

    done: int
    total: int
    rate: float
    eta: float | None
    tensor: str


# Called with how far the work has come.
ProgressFunction = Callable[[Progress], Any]
# Called, from any thread, with the number of bytes just done and a tensor's name.
Advance = Callable[[int, str], None]

# How much of a tensor's name the bar shows (characters).
_NAME_WIDTH: Final = 40


@contextlib.contextmanager
def reporting(
    progress: bool | ProgressFunction, total: int, what: str
) -> Generator[Advance]:
    """Reports progress while work is done.

    Args:
        progress: False reports nothing; True draws a bar on stderr with bytes, rate,
            time left and the current tensor; a function is called with a `Progress`.
        total: Bytes of the whole work.
        what: What is done, shown before the bar: "Verifying model.ckpt".

    Yields:
        A function to call, from any thread, with the number of bytes just done and the
        name of their tensor.
    """
    check_progress(progress)
    if not progress:
        yield _ignore
    elif not callable(progress):
        with _bar(total, what) as advance:
            yield advance
    else:
        yield _Caller(progress, total)


def check_progress(progress: object, way_out: str = "") -> None:
    """Refuses what is neither a flag nor a function of one argument.

    Args:
        progress: The option.
        way_out: What to do if something else was meant, for the message.

    Raises:
        AssignmentError: It is something else.
    """
    if isinstance(progress, bool):
        return
    # A class can be called, and makes nothing of a `Progress`.
    if not isinstance(progress, type) and accepts_arguments(progress, 1):
        return
    hint = ""
    if callable(progress) and accepts_arguments(progress, 2):
        hint = (
            " It takes two arguments; a `Progress` has `.done` and `.total`, in bytes."
        )
    raise AssignmentError(
        "Option progress: expected True, False, or a function of a tf2flax.Progress, "
        f"got {show_value(progress)}.{hint} {way_out}".rstrip()
    )


def _ignore(_nbytes: int, _tensor: str) -> None:
    """Reports nothing."""


class _Caller:
    """Calls a caller's function with how far the work is; one call at a time."""

    def __init__(self, function: ProgressFunction, total: int) -> None:
        self._function = function
        self._total = total
        self._done = 0
        self._begun = time.monotonic()
        self._lock = threading.Lock()

    def __call__(self, nbytes: int, tensor: str) -> None:
        with self._lock:
            self._done += nbytes
            rate = self._done / max(time.monotonic() - self._begun, 1e-9)
            eta = (self._total - self._done) / rate if rate else None
            self._function(Progress(self._done, self._total, rate, eta, tensor))


def accepts_arguments(function: object, count: int) -> bool:
    """True if something can be called with so many arguments, all positional.

    What has no signature, as some builtins, is taken to accept one.

    Examples:
        >>> [accepts_arguments(f, n) for f, n in [(len, 1), (len, 2), (3, 1)]]
        [True, False, False]
    """
    if not callable(function):
        return False
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some builtins have none
        return count == 1
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


@contextlib.contextmanager
def _bar(total: int, what: str) -> Generator[Advance]:
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
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[tensor]}"),
        console=Console(stderr=True),
    )

    def advance(nbytes: int, tensor: str) -> None:
        is_long = len(tensor) > _NAME_WIDTH
        name = f"…{tensor[1 - _NAME_WIDTH :]}" if is_long else tensor
        bar.update(task, advance=nbytes, tensor=escape(printable(name)))

    with bar:
        task = bar.add_task(escape(printable(what)), total=total, tensor="")
        yield advance
