"""All problems of a map in one message.

The likely causes come first, what is wrong with every layer is one line, and all of it
stays within a screen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tf2flax._assignment.language.entries import MapEntry
from tf2flax._base.collapsing import MAX_LINES, Row, collapse
from tf2flax._base.manifest import Manifest
from tf2flax._base.text import printable

from .entry_labels import label_of
from .problems import Mismatch, Problem, ScopeNotFound, SourceNotFound

# Nearest names are looked up for this many problems of one report, or for as many as
# make so many comparisons of names: each problem takes a pass over all names, and the
# first few explain the others.
_MAX_SUGGESTED: Final = 20
_MAX_COMPARED: Final = 1_000_000
# Lines of one entry at least, if there are many.
_MIN_LINES_OF_ENTRY: Final = 3
# The likely causes of other problems come first: the form of the map itself, then
# scopes that the checkpoint lacks, then single tensors, then shapes and dtypes.
_ORDER: Final = (ScopeNotFound, SourceNotFound, Mismatch)


def describe_problems(problems: Sequence[Problem], manifest: Manifest) -> str:
    """States every problem of a map.

    Args:
        problems: At least one.
        manifest: The checkpoint, for the nearest names.

    Returns:
        One line, or lines under a heading, 60 of them at most.
    """
    ordered = sorted(problems, key=_rank_of)
    facts = [problem.describe(manifest, suggest=False) for problem in ordered]
    # Rows are collapsed by facts alone: suggestions are costly, and differ.
    rows = collapse(
        [
            (label_of(problem.entry), fact)
            for problem, fact in zip(ordered, facts, strict=True)
        ]
    )
    visible = _choose_visible([ordered[row.members[0]].entry for row in rows])
    lines: list[str] = []
    max_suggested = max(_MAX_SUGGESTED, _MAX_COMPARED // max(len(manifest.names), 1))
    for row in [rows[i] for i in visible]:
        label, fact = row.cells
        first = row.members[0]
        text = ordered[first].describe(manifest, suggest=len(lines) < max_suggested)
        lines.append(printable(f"{label}: {fact}{text.removeprefix(facts[first])}"))
    place = f"in `{manifest.index_path}`"
    if len(problems) == 1:
        return f"{lines[0]} - {place}"
    if hidden := _count_problems(rows) - _count_problems([rows[i] for i in visible]):
        lines.append(f"and {hidden} more. Fix these first.")
    body = "".join(f"\n  {line}" for line in lines)
    return f"{len(problems)} problems with the assignment map - {place}:{body}"


def _rank_of(problem: Problem) -> tuple[int, int]:
    """Place of a problem in the report; problems of one kind by entry."""
    kinds = (i for i, kind in enumerate(_ORDER, 1) if isinstance(problem, kind))
    return next(kinds, 0), problem.entry.number


def _count_problems(rows: Sequence[Row]) -> int:
    return sum(len(row.members) for row in rows)


def _choose_visible(entries: Sequence[MapEntry]) -> list[int]:
    """Chooses the rows that are shown, a few of each entry, in order.

    Args:
        entries: The entry of each row.

    Returns:
        Numbers of the rows, `MAX_LINES` at most.
    """
    if len(entries) <= MAX_LINES:
        return list(range(len(entries)))
    distinct = len({entry.number for entry in entries})
    limit = max(_MIN_LINES_OF_ENTRY, MAX_LINES // distinct)
    counts: dict[int, int] = {}
    visible: list[int] = []
    for i, entry in enumerate(entries):
        counts[entry.number] = counts.get(entry.number, 0) + 1
        if counts[entry.number] <= limit and len(visible) < MAX_LINES:
            visible.append(i)
    return visible
