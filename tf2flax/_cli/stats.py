"""`tf2flax stats`: statistics of the values of many tensors."""

from __future__ import annotations

import argparse
import sys
from typing import Any, Final

import tf2flax
from tf2flax._base.progress import reporting
from tf2flax._base.text import printable

from .documents import print_json
from .selecting import add_selection, select
from .statistics import describe_values
from .terminals import print_table, wants_bar

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
    )
    add_selection(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Shows the statistics; returns the exit code."""
    selected = select(arguments)
    tensors = list(selected.tensors)
    facts: list[dict[str, Any]] = []
    total = sum(tensor.nbytes for tensor in tensors)
    with reporting(wants_bar(total), total, "Reading") as advance:
        for tensor in tensors:
            facts.append(_fact(tensor))
            advance(tensor.nbytes, tensor.name)
    is_well = not any(
        fact.get("nan") or fact.get("inf") or "error" in fact for fact in facts
    )
    if arguments.json:
        document = {"checkpoint": selected.checkpoint.prefix, "tensors": facts}
        print_json(document)
        return 0 if is_well else 1
    _print(facts)
    return 0 if is_well else 1


def _print(facts: list[dict[str, Any]]) -> None:
    """Prints a row for each tensor, and what is wrong with some."""
    rows = [(printable(fact["name"]), *map(_cell, _values(fact))) for fact in facts]
    if sys.stdout.isatty():
        right = set(range(1, len(_COLUMNS) + 1))
        print_table([("name", *_COLUMNS), *rows], right=right)
    else:
        for row in rows:
            print("\t".join(row))
    for fact in facts:
        if "error" in fact:
            print(printable(fact["error"]), file=sys.stderr)


def _fact(tensor: tf2flax.StoredTensor) -> dict[str, Any]:
    """What a row shows: statistics, or why there are none."""
    fact: dict[str, Any] = {
        "name": tensor.name,
        "dtype": tensor.entry.spec.dtype.name,
        "shape": list(tensor.shape),
    }
    try:
        return fact | describe_values(tensor.read())
    except (tf2flax.DamagedError, tf2flax.UnsupportedError) as error:
        return fact | {"error": str(error)}


def _values(fact: dict[str, Any]) -> list[Any]:
    return [fact.get(column) for column in _COLUMNS]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
