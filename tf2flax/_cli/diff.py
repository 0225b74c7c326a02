"""`tf2flax diff`: names, shapes, dtypes and values of two checkpoints."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

import tf2flax
from tf2flax._base.caller import warn_caller
from tf2flax._base.progress import Advance, reporting
from tf2flax._base.text import counted, printable
from tf2flax._export.readers import ReadableArray, open_arrays, slots_of

from .documents import print_json
from .numbers import tolerance
from .selecting import add_names, match_among, say_unlisted, show_named, unlisted_in
from .terminals import print_table, wants_bar

_EXAMPLES: Final = """\
examples:
  tf2flax diff model.ckpt-1000 model.ckpt-2000
  tf2flax diff model.ckpt model.safetensors
  tf2flax diff model.ckpt orbax/ 'bert/*' --rtol 1e-2
"""
# How many elements are compared at once.
_CHUNK: Final = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """How one array differs.

    Attributes:
        name: Its name.
        fact: What differs, in words.
        max_abs: Largest absolute difference; None where values were not compared.
        max_rel: Largest relative difference.
    """

    name: str
    fact: str
    max_abs: float | None = None
    max_rel: float | None = None


def add_to(commands: Any) -> None:
    """Adds the command to a parser."""
    parser = commands.add_parser(
        "diff",
        help="compare two checkpoints, safetensors, Orbax or npz",
        description="Compares names, shapes, dtypes and values. Exit code 1 where "
        "anything differs.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("first", metavar="A", help="checkpoint, or what it became")
    parser.add_argument("second", metavar="B", help="the other one")
    parser.add_argument(
        "pattern",
        metavar="GLOB",
        nargs="?",
        help="names to compare; scope/ for all in it",
    )
    add_names(parser)
    parser.add_argument(
        "--rtol",
        type=tolerance,
        default=0.0,
        help="relative difference that is accepted",
    )
    parser.add_argument(
        "--atol",
        type=tolerance,
        default=0.0,
        help="absolute difference that is accepted",
    )
    parser.add_argument(
        "--slots",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether optimizer slots and moving averages are compared",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Compares both; returns the exit code."""
    view = functools.partial(_view_of, names=arguments.names)
    first, second = (
        open_arrays(path, view) for path in (arguments.first, arguments.second)
    )
    names, slots = _select_names(arguments, first, second)
    shared = [name for name in names if _is_compared(name, first, second)]
    total = sum(first[name].nbytes + second[name].nbytes for name in shared)
    accepted = (arguments.rtol, arguments.atol)
    with reporting(wants_bar(total), total, "Comparing") as advance:
        differences = list(_differences(names, first, second, accepted, advance))
    count = len(names) - len(differences)
    if arguments.json:
        document = {
            "a": arguments.first,
            "b": arguments.second,
            "equal": count,
            "differences": [dataclasses.asdict(row) for row in differences],
            "slots_left_out": sorted(slots),
        }
        print_json(document)
    else:
        _print(differences, count, len(slots))
    return 1 if differences else 0


def _view_of(checkpoint: tf2flax.Checkpoint, names: str) -> tf2flax.Checkpoint:
    """A checkpoint under other names; as it is, where it has no others.

    What `convert --names` wrote has them as stored names.

    Warns:
        UserWarning: Some tensors have no name of their own there.
    """
    try:
        view = show_named(checkpoint, names)
    except tf2flax.UnsupportedError:
        return checkpoint
    if unlisted := unlisted_in(view):
        warn_caller(
            f"{say_unlisted(view, names, unlisted)} They are compared under their "
            "stored names, which --names stored shows."
        )
    return view


def _select_names(
    arguments: argparse.Namespace,
    first: Mapping[str, ReadableArray],
    second: Mapping[str, ReadableArray],
) -> tuple[list[str], frozenset[str]]:
    """The names that are compared, sorted, and the slots that are left out.

    Raises:
        NotFoundError: The pattern matches none.
    """
    names = sorted({*first, *second})
    if arguments.pattern is not None:
        place = f"`{arguments.first}` and `{arguments.second}`"
        names = match_among(names, arguments.pattern, place)
    if arguments.slots:
        return names, frozenset()
    slots = (slots_of(first) | slots_of(second)).intersection(names)
    return [name for name in names if name not in slots], slots


def _is_compared(
    name: str,
    first: Mapping[str, ReadableArray],
    second: Mapping[str, ReadableArray],
) -> bool:
    """True if the values of both are compared: both are there, of one shape."""
    return name in first and name in second and first[name].shape == second[name].shape


def _differences(
    names: list[str],
    first: Mapping[str, ReadableArray],
    second: Mapping[str, ReadableArray],
    accepted: tuple[float, float],
    advance: Advance,
) -> Iterator[Difference]:
    for name in names:
        if name not in first or name not in second:
            yield Difference(name, f"only in {'B' if name in second else 'A'}")
            continue
        a, b = first[name], second[name]
        if not _is_compared(name, first, second):
            yield Difference(name, f"shape {list(a.shape)} and {list(b.shape)}")
            continue
        is_cast = a.dtype != b.dtype
        fact = f"dtype {a.dtype} and {b.dtype}" if is_cast else ""
        max_abs, max_rel, is_far = _compare(a.read(), b.read(), *accepted)
        advance(a.nbytes + b.nbytes, name)
        if is_far:
            fact = f"{fact}, values" if fact else "values"
        if is_far or is_cast:
            yield Difference(name, fact, max_abs, max_rel)


def _compare(
    a: np.ndarray, b: np.ndarray, rtol: float, atol: float
) -> tuple[float | None, float | None, bool]:
    """The largest differences, and whether one is not accepted.

    NaNs are equal to NaNs. Strings differ by no number.
    """
    if a.dtype == object or b.dtype == object:
        is_equal = np.array_equal(a, b)
        return (0.0, 0.0, False) if is_equal else (None, None, True)
    first, second = a.reshape(-1), b.reshape(-1)
    differences = [
        difference
        for start in range(0, first.size, _CHUNK)
        if (
            difference := _compare_chunk(
                first[start : start + _CHUNK],
                second[start : start + _CHUNK],
                rtol,
                atol,
            )
        )
    ]
    if not differences:
        return 0.0, 0.0, False
    gaps, relative, far = zip(*differences, strict=True)
    return max(gaps), max(relative), any(far)


def _compare_chunk(
    a: np.ndarray, b: np.ndarray, rtol: float, atol: float
) -> tuple[float, float, bool] | None:
    """The largest differences, and whether one is not accepted; None for equal."""
    if a.dtype == b.dtype and a.tobytes() == b.tobytes():
        return None
    wide = np.complex128 if "c" in (a.dtype.kind, b.dtype.kind) else np.float64
    integers = a.dtype.kind in "iu" and b.dtype.kind in "iu"
    # float64 does not hold all integers of 64 bits.
    if integers and np.array_equal(a, b):
        return None
    with np.errstate(all="ignore"):
        x, y = a.astype(wide), b.astype(wide)
        is_equal = (x == y) | (np.isnan(x) & np.isnan(y))
        gap = np.where(is_equal, 0, np.abs(x - y))
        if integers and a.dtype.kind == b.dtype.kind:
            gap = _gap_of_integers(a, b)
        gap = np.where(np.isnan(gap), np.inf, gap)
        # No tolerance makes a number of an infinity, or takes equal ones apart.
        is_close = np.isfinite(gap) & (gap <= atol + rtol * np.abs(y))
        is_near = ((gap == 0) | is_close).all()
        scale = np.maximum(np.abs(x), np.abs(y))
        relative = np.where(gap > 0, gap / np.where(scale > 0, scale, 1), 0)
        # An infinity beside a number, or beside another one.
        relative = np.where(np.isnan(relative), np.inf, relative)
    # Integers that float64 takes for equal differ all the same.
    is_far = not is_near or (integers and not rtol and not atol)
    return float(gap.max(initial=0)), float(relative.max(initial=0)), bool(is_far)


def _gap_of_integers(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Differences of integers, which float64 would round before they are taken."""
    higher, lower = np.maximum(a, b), np.minimum(a, b)
    # Modulo 2**64, so that no difference overflows.
    return (higher.astype(np.uint64) - lower.astype(np.uint64)).astype(np.float64)


def _print(differences: list[Difference], equal: int, num_slots: int) -> None:
    rows = [("name", "difference", "max abs", "max rel")]
    for row in differences:
        numbers = [
            "" if value is None else f"{value:.3g}"
            for value in (row.max_abs, row.max_rel)
        ]
        rows.append((printable(row.name), row.fact, numbers[0], numbers[1]))
    if sys.stdout.isatty():
        if differences:
            print_table(rows, right={2, 3})
        print(f"{len(differences)} differ, {equal} are equal")
        if num_slots:
            print(f"slots and averages left out: {counted(num_slots, 'tensor')}")
    else:
        for row in rows[1:]:
            print("\t".join(row))
