"""Entries of a map that fill no leaf, and maps of which no entry fills a leaf.

An entry fills a leaf where the leaf's assignment is the entry's. One that reaches
leaves and has none of them (another entry is stronger, or an option keeps them) is
reported as that, and is not one of those that reach nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from tf2flax._assignment.language.entries import MapEntry
from tf2flax._base.collapsing import summarise
from tf2flax._base.names import nearest

from .assignments import Leaf, Resolution
from .problem_report import header
from .problems import did_you_mean, key_of, scopes_of, target_of

# Leaves that a message names.
_MAX_NAMED: Final = 3
# Nearest names are looked up for this many entries, or as many as make so many
# comparisons: each takes a pass over all names.
_MAX_SUGGESTED: Final = 20
_MAX_COMPARED: Final = 1_000_000


def describe_unused(resolution: Resolution, leaves: Sequence[Leaf]) -> str:
    """Names the entries that reach no leaf, each with the nearest name or scope.

    Args:
        resolution: What the map means.
        leaves: All leaves of the target.

    Returns:
        One sentence for each; "" where every entry reaches a leaf.
    """
    return "; ".join(text for _, text in _unused(resolution, _names_of(leaves)))


def describe_unfilled(resolution: Resolution, leaves: Sequence[Leaf]) -> str:
    """States that a map fills nothing, and why each entry does not.

    Args:
        resolution: What the map means.
        leaves: All leaves of the target.

    Returns:
        The message, in lines; "" where a leaf is filled, or where the map is empty.
    """
    gaps = (*resolution.missing, *resolution.mismatched)
    if resolution.assignments or not (resolution.unused_entries or gaps):
        return ""
    names = _names_of(leaves)
    lines = [
        (entry.number, f"Entry {entry.number} reaches no leaf: {text}")
        for entry, text in _unused(resolution, names)
    ]
    lines += [
        (
            gap.entry.number,
            f"{header(gap.entry)}: leaf `{gap.leaf}` is kept, since `{gap.source}` "
            f"does not fill it: {gap.fact}",
        )
        for gap in gaps
    ]
    lines.sort(key=lambda line: line[0])
    first = ", ".join(f"`{name}`" for name in names[:_MAX_NAMED])
    more = ", ..." if len(names) > _MAX_NAMED else ""
    return (
        f"No entry of the assignment map fills a leaf of the target, which has "
        f"{len(leaves)}: {first}{more}. An empty map is what fills nothing on purpose."
        f"\n{summarise([text for _, text in lines])}"
    )


def _unused(
    resolution: Resolution, names: Sequence[str]
) -> Iterator[tuple[MapEntry, str]]:
    """Entries that reach no leaf: each as it reads, and what it may have meant."""
    limit = max(_MAX_SUGGESTED, _MAX_COMPARED // max(len(names), 1))
    scopes = scopes_of(names) if resolution.unused_entries else frozenset[str]()
    for i, entry in enumerate(resolution.unused_entries):
        if isinstance(entry.target, tuple):
            yield entry, f"{entry} (an empty list)"
        elif key_of(entry) in scopes:
            yield (
                entry,
                f"{entry} (keys are the checkpoint's names, values the target's)",
            )
        elif i >= limit:
            yield entry, str(entry)
        else:
            target = target_of(entry)
            candidates = scopes if target.endswith("/") else names
            close = did_you_mean(nearest(target, candidates, count=1))
            yield entry, f"{entry} {close}".rstrip()


def _names_of(leaves: Sequence[Leaf]) -> list[str]:
    """Every name of the leaves that an entry can reach."""
    return [name for leaf in leaves if leaf.dtype is not None for name in leaf.names]
