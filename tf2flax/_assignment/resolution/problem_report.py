"""All problems of a map in one message.

The likely causes come first, each on one line, and all of it stays within a screen.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from tf2flax._base.collapsing import MAX_LINES, collapse
from tf2flax._base.text import printable

from .causes import find_causes
from .problems import Cause, Problem
from .suggestions import Surroundings

# Lines of one entry at most, which probably have one cause that was not recognised;
# if there are many entries, at least.
_MAX_LINES_OF_ENTRY: Final = 15
_MIN_LINES_OF_ENTRY: Final = 3
# Lines that differ by names alone: 47 misspelt leaves are one mistake.
_MAX_LINES_OF_KIND: Final = 15
# Leaves that a map misses, and mistakes that it has, before another one is proposed.
_MIN_FAILED: Final = 8
_MIN_CAUSES: Final = 4
SUGGEST: Final = "tf2flax.suggest(checkpoint, target) suggests a map."
_NAME: Final = re.compile(r"`[^`]*`")
# Problems of which causes are sought: 5,000 take about half a second.
_MAX_EXPLAINED: Final = 5000


def describe_problems(
    problems: Sequence[Problem], around: Surroundings, filled: int = 0
) -> str:
    """States every problem of a map.

    Args:
        problems: At least one.
        around: Names of the checkpoint and the target.
        filled: Number of leaves that the map fills.

    Returns:
        One line, or lines under a heading, 60 of them at most.
    """
    causes = _join_alike(find_causes(problems[:_MAX_EXPLAINED], around))
    place = f"in `{around.manifest.index_path}`"
    is_whole = len(problems) <= _MAX_EXPLAINED
    if len(causes) == 1 and not causes[0].details and is_whole:
        return printable(f"{causes[0].label}: {causes[0].text}") + f" - {place}"
    visible = _choose_visible(causes)
    lines: list[str] = []
    for cause in visible:
        lines.append(printable(f"{cause.label}: {cause.text}"))
        lines += [printable(f"  {detail}") for detail in cause.details]
    del lines[MAX_LINES:]
    # A single mistake is mended; of many, another map is easier to mend.
    is_hopeless = len(causes) >= _MIN_CAUSES and fails_mostly(len(problems), filled)
    if hidden := len(problems) - sum(len(cause.problems) for cause in visible):
        lines.append(f"and {hidden} more. Fix these first.")
    if is_hopeless:
        lines.append(f"Most of the map fails: {SUGGEST}")
    body = "".join(f"\n  {line}" for line in lines)
    return f"{len(problems)} problems with the assignment map - {place}:{body}"


def fails_mostly(failed: int, filled: int) -> bool:
    """True if a map misses most of what it reaches: another map is easier to mend.

    Args:
        failed: Number of leaves, or problems.
        filled: Number of leaves that it fills.
    """
    return failed >= _MIN_FAILED and failed > filled


def _join_alike(causes: Sequence[Cause]) -> list[Cause]:
    """Joins causes whose entries and facts differ by running numbers alone."""
    joined: list[Cause] = []
    for row in collapse([(cause.label, cause.fact) for cause in causes]):
        members = [causes[number] for number in row.members]
        first = members[0]
        if len(members) > 1:
            # Advice is written for a single entry, so that it can be pasted there.
            advice = first.advice and f"In entry {first.entry.number}: {first.advice}"
            problems = tuple(p for cause in members for p in cause.problems)
            label, fact = row.cells
            first = Cause(label, fact, problems, advice, first.details)
        joined.append(first)
    return joined


def _choose_visible(causes: Sequence[Cause]) -> list[Cause]:
    """Chooses the causes that are listed, a few of each entry and kind, in order."""
    distinct = len({cause.entry.number for cause in causes})
    limit = max(_MIN_LINES_OF_ENTRY, min(_MAX_LINES_OF_ENTRY, MAX_LINES // distinct))
    counts: dict[int, int] = {}
    kinds: dict[str, int] = {}
    visible: list[Cause] = []
    for cause in causes:
        number = cause.entry.number
        counts[number] = counts.get(number, 0) + 1
        kind = _NAME.sub("", cause.fact)
        kinds[kind] = kinds.get(kind, 0) + 1
        is_listed = counts[number] <= limit and kinds[kind] <= _MAX_LINES_OF_KIND
        if is_listed and len(visible) < MAX_LINES:
            visible.append(cause)
    return visible
