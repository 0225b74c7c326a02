"""`tf2flax compare`: arrays of a port beside recorded ones, with how far they are."""

from __future__ import annotations

import argparse
import sys
from typing import Any, Final

from tf2flax._base.text import printable
from tf2flax._export.readers import open_arrays
from tf2flax._porting.comparison import Comparison, compare_named
from tf2flax._porting.rows import Tolerance

from .documents import print_json
from .numbers import tolerance

_EXAMPLES: Final = """\
examples:
  tf2flax compare flax.npz tensorflow.npz
  tf2flax compare flax.npz tensorflow.npz --rtol 1e-4 --atol 1e-4 --json

In Python, tf2flax.compare_outputs also finds the first layer that differs, and why.
"""
_DEFAULT: Final = 1e-5


def add_to(commands: Any) -> None:
    """Adds the command to a parser."""
    parser = commands.add_parser(
        "compare",
        help="compare outputs of a port with recorded ones",
        description="Compares arrays of the same names: largest absolute and relative "
        "difference, cosine. Exit code 1 where they differ.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("got", metavar="GOT.npz", help="what the port computed")
    parser.add_argument("want", metavar="WANT.npz", help="what was recorded")
    for option, what in (("--rtol", "relative"), ("--atol", "absolute")):
        parser.add_argument(
            option,
            type=tolerance,
            default=_DEFAULT,
            help=f"{what} difference that is accepted (default: {_DEFAULT:g})",
        )
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Compares both; returns the exit code."""
    got, want = (
        {name: array.read() for name, array in open_arrays(path).items()}
        for path in (arguments.got, arguments.want)
    )
    accepted = Tolerance(arguments.rtol, arguments.atol)
    comparison = compare_named(got, want, accepted)
    if arguments.json:
        files = {"got": arguments.got, "want": arguments.want}
        print_json({**files, **comparison.to_dict()})
    elif sys.stdout.isatty():
        print(comparison)
    else:
        _print_plain(comparison)
    return 0 if comparison.ok else 1


def _print_plain(comparison: Comparison) -> None:
    """Prints columns for other programs: name, status, numbers, fact."""
    for row in comparison.rows:
        numbers = (row.max_abs, row.max_rel, row.cosine)
        cells = ["" if number is None else f"{number:.6g}" for number in numbers]
        status = "ok" if row.ok else "differs"
        print("\t".join([printable(row.name), status, *cells, row.fact]))
