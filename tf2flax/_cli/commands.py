"""All commands, and what runs one of them: streams, warnings, errors, exit codes."""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import pathlib
import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol, TextIO, cast

import tf2flax

from .parser import Parser, Version
from .wording import in_options, shorten_words


class Command(Protocol):
    """A module of a command."""

    def add_to(self, commands: Any) -> None:
        """Adds the parser of the command, whose default `run` runs it."""
        ...


# All commands, in the order in which the help lists them: modules beside this one.
COMMANDS: Final[tuple[str, ...]] = (
    "ls", "tree", "show", "stats", "diff", "verify", "plan", "suggest", "compare",
    "convert", "completion",
)  # fmt: skip

# What shells report of a process that wrote to a pipe which nobody reads.
_CLOSED_PIPE: Final = 141
_ERROR: Final = 2


def run_command(argv: Sequence[str] | None = None) -> int:
    """Runs one command; see `main`.

    Args:
        argv: Arguments; those of the process unless given.

    Returns:
        The exit code.
    """
    if _is_closed(sys.stderr):
        # `print` would write to standard output where its file is None.
        sys.stderr = _open_null()
    if _is_closed(sys.stdout):
        sys.stdout = _open_null()
        _complain("Standard output is closed.")
        return _ERROR
    try:
        try:
            code = _run(argv)
        finally:  # also flushes what argparse has written before it exits
            sys.stdout.flush()
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        _discard_buffer(sys.stdout)
        return _CLOSED_PIPE
    except OSError as error:
        _discard_buffer(sys.stdout)
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
    given = (sys.argv[1:] if argv is None else argv)[:1]
    # Only the command that is asked for is imported, where it is spelled right.
    parser = make_parser(given if set(given) & set(COMMANDS) else COMMANDS)
    arguments = parser.parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        # Names need not be ASCII, nor UTF-8, where the stream's encoding is.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = _show_warning
            code: int = arguments.run(arguments)
    except tf2flax.CheckpointError as error:
        _complain(in_options(str(error), parser.options_of(arguments.command)))
        return _ERROR
    return code


def _show_warning(message: Warning | str, *_: object) -> None:
    """Writes a warning as other messages, without a line of Python."""
    _complain(f"warning: {message}")


def _is_closed(stream: TextIO | None) -> bool:
    """True if a stream does not exist (`>&-`) or has been closed."""
    return stream is None or stream.closed


def _is_of_output(error: OSError) -> bool:
    """True if an error is one of writing: the disk is full, or the file is gone."""
    return error.errno in (
        errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF
    )  # fmt: skip


def _open_null() -> TextIO:
    """A stream that discards everything; no other file gets its number then."""
    return pathlib.Path(os.devnull).open("w")


def _complain(text: str) -> None:
    """Writes a message to standard error, if that can be written."""
    with contextlib.suppress(OSError):
        print(f"tf2flax: {shorten_words(text)}", file=sys.stderr)


def _flush_messages() -> None:
    try:
        sys.stderr.flush()
    except OSError:  # there is nowhere to report it
        _discard_buffer(sys.stderr)


def _discard_buffer(stream: TextIO) -> None:
    """Lets the rest of a buffer go nowhere: Python flushes it again when it ends."""
    with contextlib.suppress(OSError, ValueError):  # not all streams have a descriptor
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def make_parser(names: Iterable[str]) -> Parser:
    """Makes the parser of some commands.

    Args:
        names: Their names, out of `COMMANDS`.

    Returns:
        The parser.
    """
    parser = Parser(
        prog="tf2flax",
        description="Looks into TensorFlow checkpoints, without TensorFlow.",
        epilog="Exit codes: 0 ok, 1 something is wrong with the checkpoint, 2 usage or "
        "an error.",
    )
    parser.add_argument(
        "--version", action=Version, nargs=0, help="show the version and exit"
    )
    commands = parser.add_subparsers(
        title="commands", required=True, metavar="COMMAND", dest="command"
    )
    for name in names:
        command: Any = importlib.import_module(f".{name}", __package__)
        cast("Command", command).add_to(commands)
    return parser
