"""The command line: one file for each command, over the public names.

Exit codes: 0 all is well, 1 a check found something wrong, 2 usage or an error. Imports
neither JAX nor, unless a store or a view needs it, tensorstore.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence

from tf2flax._errors import CheckpointError

from . import ls, show, verify

# What shells report of a process that was interrupted, or wrote to a closed pipe.
_INTERRUPTED = 130
_BROKEN_PIPE = 141


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
    arguments = _parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names are not all ASCII
            stream.reconfigure(errors="backslashreplace")
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except CheckpointError as error:
        print(f"tf2flax: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # What is still buffered must not fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    return code


def _parser() -> argparse.ArgumentParser:
    from tf2flax import __version__

    parser = argparse.ArgumentParser(
        prog="tf2flax",
        description="Looks into TensorFlow checkpoints, without TensorFlow.",
        epilog="Exit codes: 0 ok, 1 something is wrong with the checkpoint, 2 usage or "
        "an error.",
    )
    parser.add_argument("--version", action="version", version=f"tf2flax {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (ls, show, verify):
        command.add_to(commands)
    return parser
