"""The command line: `main`, and one file for each command, over the public names.

Begin with `verify.py`, the shortest command; `ls.py` lists the tensors of a checkpoint,
`show.py` shows one of them; `selecting.py` has the options of those that take some. A
command is a module with `add_to`, which adds its parser, and `run`, which gets the
parsed arguments and returns the exit code. A new command is a file and its name in
`COMMANDS` (`commands.py`). `parser.py` says what was meant where something is misspelt.

Exit codes: 0 all is well, 1 a check found something wrong, 2 usage or an error; 141 if
nobody reads the output, 128 and the number of the signal that ended it. Never imports
JAX, nor tensorstore unless a URL or an Orbax directory needs it.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Generator, Sequence
from typing import Final, NoReturn

# Signals that ask a process to end; Python raises an exception for SIGINT alone.
# Windows has no SIGHUP.
_ENDING: Final = [
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
]


class _EndedError(BaseException):
    """A signal asks for the end: what is half-written is removed on the way out."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: Arguments; those of the process unless given.

    Returns:
        The exit code.

    Examples:
        >>> main(["ls", "no/such/checkpoint"])
        2
    """
    try:
        with _raising_at_signals():
            # Here: it takes a while, and may be interrupted. NumPy is the first, since
            # extensions that import it turn an interrupt into an error of their own.
            import numpy  # noqa: F401  # pyright: ignore[reportUnusedImport]

            from .commands import run_command

            return run_command(argv)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except _EndedError as error:
        number: int = error.args[0]
        return 128 + number


@contextlib.contextmanager
def _raising_at_signals() -> Generator[None]:
    """Makes signals that would kill the process at once raise an exception."""
    before = {number: signal.getsignal(number) for number in _ENDING}
    # `nohup` ignores one, and whoever calls this in Python may handle them.
    mine = [number for number in _ENDING if before[number] is signal.SIG_DFL]
    try:
        for number in mine:
            signal.signal(number, _raise)
    except ValueError:  # not in the main thread: there are no handlers
        mine = []
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)


def _raise(number: int, _frame: object) -> NoReturn:
    raise _EndedError(number)
