"""Everything that is wrong with a map, in one message.

The likely causes come first, what is wrong with every layer is said once, and all of it
stays within a screen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tf2flax._assignment.language.entries import MapEntry
from tf2flax._base.collapsing import MAX_LINES, collapse
from tf2flax._base.manifest import Manifest

from .problems import Misfit, Problem, ScopeNotFound, SourceNotFound

# Nearest names are looked up for this many problems of one report, or as many as make
# so many comparisons: each takes a pass over all names, and the first few tell the
# story.
_MAX_SUGGESTED: Final = 20
_MAX_COMPARED: Final = 1_000_000
# Lines of one entry at least, where there are many.
_MIN_LINES_OF_ENTRY: Final = 3
# What is most likely the cause of the rest comes first: the map's own form, then what
# the checkpoint lacks altogether, then single tensors, then shapes and dtypes.
_ORDER: Final = (ScopeNotFound, SourceNotFound, Misfit)


def report(problems: Sequence[Problem], manifest: Manifest) -> str:
    """States every problem of a map.

    Args:
        problems: At least one.
        manifest: The checkpoint, for the nearest names.

    Returns:
        One line, or lines under a heading, 60 of them at most.
    """

    def rank(problem: Problem) -> tuple[int, int]:
        kind = next((i for i, k in enumerate(_ORDER, 1) if isinstance(problem, k)), 0)
        return kind, problem.entry.number

    ordered = sorted(problems, key=rank)
    facts = [problem.say(manifest, suggest=False) for problem in ordered]
    rows = collapse(
        [(header(p.entry), fact) for p, fact in zip(ordered, facts, strict=True)]
    )
    shown = _within_a_screen([ordered[row.members[0]].entry for row in rows])
    suggested = max(_MAX_SUGGESTED, _MAX_COMPARED // max(len(manifest.names), 1))
    lines: list[str] = []
    for i in shown:
        head, fact = rows[i].cells
        first = rows[i].members[0]
        said = ordered[first].say(manifest, suggest=len(lines) < suggested)
        lines.append(f"{head}: {fact}{said.removeprefix(facts[first])}")
    place = f"in `{manifest.index_path}`"
    if len(problems) == 1:
        return f"{lines[0]} - {place}"
    hidden = sum(len(row.members) for row in rows) - sum(
        len(rows[i].members) for i in shown
    )
    if hidden:
        lines.append(f"and {hidden} more. Mend these first.")
    body = "".join(f"\n  {line}" for line in lines)
    return f"{len(problems)} problems with the assignment map - {place}:{body}"


def _within_a_screen(entries: Sequence[MapEntry]) -> list[int]:
    """Chooses lines to show: a few of each entry, in order."""
    if len(entries) <= MAX_LINES:
        return list(range(len(entries)))
    distinct = len({entry.number for entry in entries})
    limit = max(_MIN_LINES_OF_ENTRY, MAX_LINES // distinct)
    counts: dict[int, int] = {}
    shown: list[int] = []
    for i, entry in enumerate(entries):
        counts[entry.number] = counts.get(entry.number, 0) + 1
        if counts[entry.number] <= limit and len(shown) < MAX_LINES:
            shown.append(i)
    return shown


def header(entry: MapEntry) -> str:
    """Names an entry: its number, where it stands, how it reads.

    Args:
        entry: The entry.

    Returns:
        The text, for the beginning of a message.
    """
    place = f" ({entry.place})" if entry.place else ""
    return f"Entry {entry.number}{place} {entry}"
