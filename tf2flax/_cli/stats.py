"""`tf2flax stats`: statistics of the values of many tensors."""

from __future__ import annotations

import argparse
import sys
from typing import Any, Final

import tf2flax
from tf2flax._base.text import align_columns, printable

from .documents import print_json
from .selecting import add_selection, select
from .statistics import describe_values

_EXAMPLES: Final = """\
examples:
  tf2flax stats model.ckpt-1000 --no-slots
  tf2flax stats model.ckpt-1000 bert/encoder/ --json
"""
_COLUMNS: Final = ("mean", "std", "min", "max", "zeros", "nan", "inf")


def add_to(commands: Any) -> None:
    """Adds the command to a parser."""
    parser = commands.add_parser(
        "stats",
        help="mean, deviation, range, zeros, NaNs of tensors",
        description="Reads tensors and shows statistics of their finite values. Exit "
        "code 1 where a tensor holds NaN or infinity, or is damaged.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_selection(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Shows the statistics; returns the exit code."""
    selected = select(arguments)
    facts: list[dict[str, Any]] = []
    for tensor in selected.tensors:
        fact: dict[str, Any] = {
            "name": tensor.name,
            "dtype": tensor.entry.spec.dtype.name,
            "shape": list(tensor.shape),
        }
        try:
            fact |= describe_values(tensor.read())
        except (tf2flax.DamagedError, tf2flax.UnsupportedError) as error:
            fact["error"] = str(error)
        facts.append(fact)
    is_well = not any(
        fact.get("nan") or fact.get("inf") or "error" in fact for fact in facts
    )
    if arguments.json:
        document = {"checkpoint": selected.checkpoint.prefix, "tensors": facts}
        print_json(document)
        return 0 if is_well else 1
    rows = [(printable(fact["name"]), *map(_cell, _values(fact))) for fact in facts]
    if sys.stdout.isatty():
        right = set(range(1, len(_COLUMNS) + 1))
        print(*align_columns([("name", *_COLUMNS), *rows], right=right), sep="\n")
    else:
        for row in rows:
            print("\t".join(row))
    for fact in facts:
        if "error" in fact:
            print(printable(fact["error"]), file=sys.stderr)
    return 0 if is_well else 1


def _values(fact: dict[str, Any]) -> list[Any]:
    return [fact.get(column) for column in _COLUMNS]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
