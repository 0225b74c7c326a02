"""The command line: one file for each command, over the public names.

Exit codes: 0 all is well, 1 a check found something wrong, 2 usage or an error. Imports
neither JAX nor, unless a store or a view needs it, tensorstore.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, Final, TextIO

from tf2flax._base.errors import CheckpointError

from . import ls, show, verify

# What shells report of a process that was interrupted.
_INTERRUPTED: Final = 130
_ERROR: Final = 2


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
    if _is_closed(sys.stderr):
        sys.stderr = _nowhere()  # or what goes there would go to standard output
    if _is_closed(sys.stdout):
        sys.stdout = _nowhere()
        _complain("Standard output is closed.")
        return _ERROR
    try:
        try:
            code = _run(argv)
        finally:  # also what argparse has written before it ends
            sys.stdout.flush()
    except CheckpointError as error:
        _complain(str(error))
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:  # who reads has seen enough: no error to tell of
        _drop(sys.stdout)
    except OSError as error:
        _drop(sys.stdout)
        reason = error.strerror or str(error)
        if _is_of_output(error):
            reason = f"Cannot write to standard output: {reason}"
        _complain(f"{reason}.")
    else:
        return code
    finally:
        _flush_messages()
    return _ERROR


def _run(argv: Sequence[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names are not all ASCII
            stream.reconfigure(errors="backslashreplace")
    code: int = arguments.run(arguments)
    return code


def _is_closed(stream: TextIO | None) -> bool:
    """Whether a stream is not there (`>&-`), or has been closed."""
    return stream is None or stream.closed


def _is_of_output(error: OSError) -> bool:
    """Whether an error is one of writing: a disk or a quota is full, or a file gone."""
    return error.errno in (
        errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF
    )  # fmt: skip


def _nowhere() -> TextIO:
    """Takes all and keeps nothing; its number is then no other file's."""
    return pathlib.Path(os.devnull).open("w")


def _complain(text: str) -> None:
    """Says what is wrong, where it can be said."""
    with contextlib.suppress(OSError):
        print(f"tf2flax: {text}", file=sys.stderr)


def _flush_messages() -> None:
    try:
        sys.stderr.flush()
    except OSError:  # there is nowhere to say it
        _drop(sys.stderr)


def _drop(stream: TextIO) -> None:
    """What a stream still holds must not fail again when Python ends."""
    with contextlib.suppress(OSError, ValueError):  # not all streams have a number
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


class _Parser(argparse.ArgumentParser):
    """A parser whose help is output like any other: argparse would ignore failures."""

    def print_help(self, file: Any = None) -> None:
        """Writes help."""
        (sys.stdout if file is None else file).write(self.format_help())


class _Version(argparse.Action):
    """Writes the version, likewise."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from tf2flax import __version__

        sys.stdout.write(f"tf2flax {__version__}\n")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="tf2flax",
        description="Looks into TensorFlow checkpoints, without TensorFlow.",
        epilog="Exit codes: 0 ok, 1 something is wrong with the checkpoint, 2 usage or "
        "an error.",
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="show the version and exit"
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (ls, show, verify):
        command.add_to(commands)
    return parser
