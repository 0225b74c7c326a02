"""`tf2flax verify`: every byte of a checkpoint checked."""

from __future__ import annotations

import argparse
import sys
from typing import Any, Final

import tf2flax

from .documents import print_json
from .selecting import add_checkpoint

_EXAMPLES: Final = """\
examples:
  tf2flax verify model.ckpt-1000
  tf2flax verify 'https://example.com/bert.zip|zip:bert/model.ckpt' --json
"""


def add_to(commands: Any) -> None:
    """Adds the command to a parser."""
    parser = commands.add_parser(
        "verify",
        help="check every byte of index and data",
        description="Reads and checks the whole checkpoint: every block of the index, "
        "every tensor, coverage of slices, sizes of files. Exit code 1 where anything "
        "is damaged.",
        epilog=_EXAMPLES,
    )
    add_checkpoint(parser)
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Verifies the checkpoint; returns the exit code."""
    checkpoint = tf2flax.open_checkpoint(arguments.checkpoint)
    report = checkpoint.verify(progress=sys.stderr.isatty())
    if arguments.json:
        print_json(report.to_dict())
    else:
        print(report)
    return 0 if report.ok else 1
