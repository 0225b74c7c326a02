"""`Comparison`: what `compare_outputs` found, as values and as text.

Compares nothing itself, and imports no JAX: the command line prints it as well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from tf2flax._base.text import align_columns, and_more, counted, printable

from .rows import ComparisonRow, Tolerance, compare_arrays

# Lines of a list; attributes of the comparison have all of it.
_MAX_LISTED: Final = 8
_COLUMNS: Final = (" ", "array", "max abs", "max rel", "cosine", "")
_RIGHT: Final = frozenset({2, 3, 4})


@dataclasses.dataclass(frozen=True, slots=True)
class FirstDifference:
    """The first array that differs, in the order of computation.

    Attributes:
        name: Name of the recorded array.
        path: What the model calls its array.
        leaves: Names of the leaves that feed it. What reaches it only through arrays
            that agree is left out.
        entries: The entries of the map that fill these leaves, with their numbers;
            () without a plan.
    """

    name: str
    path: str
    leaves: tuple[str, ...] = ()
    entries: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class MapChange:
    """A change of the map that makes the first array that differs equal.

    Attributes:
        lines: Lines of a map file.
        entries: The entries that they concern, with their numbers.
        leaves: The leaves that get other values.
        what: What the change does, in words.
        is_addition: True if the lines are added, since they say more than the entries;
            False if they replace them.
        makes_all_equal: True if every recorded array is equal then.
    """

    lines: tuple[str, ...]
    entries: tuple[str, ...]
    leaves: tuple[str, ...]
    what: str
    is_addition: bool
    makes_all_equal: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """Outputs of a model beside recorded ones; made by `tf2flax.compare_outputs`.

    Print it: a table, the first array that differs, and what makes it equal.

    Attributes:
        rows: One for each recorded array, in the order in which the model computes
            them. Each has `.name`, `.path`, `.shape`, `.ok`, `.fact`, `.max_abs`,
            `.max_rel` and `.cosine`.
        first: The first that differs, with `.name`, `.path`, `.leaves` and `.entries`;
            None where all agree.
        candidates: Changes of the map that make it equal, the best first; each has
            `.lines`, `.entries`, `.leaves`, `.what`, `.is_addition` and
            `.makes_all_equal`.
        rtol: Relative difference that was accepted.
        atol: Absolute difference that was accepted.
        notes: What else is worth knowing, in sentences.

    Examples:
        >>> import numpy as np, tf2flax
        >>> x = np.float32([1, 2])
        >>> comparison = tf2flax.compare_outputs(
        ...     lambda v, x: x * v["scale"], {"scale": np.float32(3)}, (x,), 2 * x
        ... )
        >>> comparison.ok, comparison.first.leaves
        (False, ('scale',))
        >>> comparison.rows[0].max_abs
        2.0
    """

    rows: tuple[ComparisonRow, ...]
    first: FirstDifference | None
    candidates: tuple[MapChange, ...]
    rtol: float
    atol: float
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """True if there are recorded arrays, and every one of them is near."""
        return bool(self.rows) and all(row.ok for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain values, ready for `json.dumps`."""
        return {"ok": self.ok, **dataclasses.asdict(self)}

    def __str__(self) -> str:
        """The comparison as a report for people."""
        far = sum(not row.ok for row in self.rows)
        near = f"rtol {self.rtol:g}, atol {self.atol:g}"
        counts = f"{len(self.rows) - far} agree, {far} differ"
        lines = [f"{counted(len(self.rows), 'array')}: {counts} ({near})"]
        if self.rows:
            lines += table_of(self.rows)
        if self.first is not None:
            lines += _first_lines(self.first)
        for candidate in self.candidates[:_MAX_LISTED]:
            lines += _candidate_lines(candidate)
        return "\n".join([*lines, *map(printable, self.notes)])


def compare_named(
    got: Mapping[str, np.ndarray], want: Mapping[str, np.ndarray], tolerance: Tolerance
) -> Comparison:
    """Compares arrays of the same names; a name on one side alone differs.

    Args:
        got: Arrays by name.
        want: Recorded arrays by name, in whose order the rows come.
        tolerance: What is near.
    """
    rows = [
        compare_arrays(name, name, got[name], array, tolerance)
        if name in got
        else ComparisonRow(name, "", array.shape, False, "missing, recorded alone")
        for name, array in want.items()
    ]
    rows += [
        ComparisonRow(name, name, array.shape, False, "not recorded")
        for name, array in got.items()
        if name not in want
    ]
    first = next((row for row in rows if not row.ok), None)
    return Comparison(
        tuple(rows),
        None if first is None else FirstDifference(first.name, first.path),
        (),
        *tolerance,
    )


def table_of(rows: Iterable[ComparisonRow]) -> list[str]:
    """Writes rows as lines of aligned columns; `!` marks those that differ."""
    cells = [_COLUMNS, *map(_cells, rows)]
    return align_columns(cells, right=_RIGHT)


def _cells(row: ComparisonRow) -> tuple[str, ...]:
    is_renamed = row.path not in ("", row.name)
    name = f"{row.name} = {row.path}" if is_renamed else row.name
    numbers = [
        "" if value is None else f"{value:.2e}" for value in (row.max_abs, row.max_rel)
    ]
    cosine = "" if row.cosine is None else f"{row.cosine:.6f}"
    return (" " if row.ok else "!", name, *numbers, cosine, row.fact)


def _first_lines(first: FirstDifference) -> list[str]:
    is_renamed = first.path not in ("", first.name)
    place = f" ({printable(first.path)} of the model)" if is_renamed else ""
    lines = [f"The first that differs: {printable(first.name)}{place}"]
    if first.entries:
        lines += _listed("  fed by", first.entries)
    elif first.leaves:
        lines += _listed("  fed by the leaves", first.leaves)
    return lines


def _candidate_lines(candidate: MapChange) -> list[str]:
    result = "every recorded array is" if candidate.makes_all_equal else "it is"
    verb = "Add to" if candidate.is_addition else "Write in"
    lines = [f"With {candidate.what}, {result} equal. {verb} the map:"]
    lines += [f"  {line}" for line in candidate.lines]
    place = "beside" if candidate.is_addition else "in place of"
    # The table above has them in full: number and line of a file are enough.
    entries = ", ".join(entry.partition(" `")[0] for entry in candidate.entries)
    return [*lines, f"  {place} {printable(entries)}"]


def _listed(heading: str, texts: Sequence[str]) -> list[str]:
    lines = [f"{heading} {printable(text)}" for text in texts[:_MAX_LISTED]]
    more = len(texts) - _MAX_LISTED
    return [*lines, and_more(f"{heading} these", more)] if more > 0 else lines
