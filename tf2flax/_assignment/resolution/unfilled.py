"""Describes entries of a map that reach no leaf, and maps that fill no leaf.

An entry may reach leaves and still fill none of them, because another entry is stronger
or an option keeps them. The plan lists such entries as overridden, missing or
mismatched; they are not among those that reach no leaf.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from tf2flax._assignment.language.entries import MapEntry
from tf2flax._base.collapsing import summarise
from tf2flax._base.names import nearest

from .assignments import Leaf, Resolution
from .entry_labels import key_of, label_of, target_of
from .scopes import scopes_of
from .suggestions import with_captures

# Leaves that a message names.
_MAX_NAMED: Final = 3
# Nearest names are looked up for this many entries, or for as many as make so many
# comparisons of names: each entry takes a pass over all names.
_MAX_SUGGESTED: Final = 20
_MAX_COMPARED: Final = 400_000
# Names that are written with the captures of a value, to be compared with it.
_MAX_WRITTEN: Final = 20_000


def describe_unused(resolution: Resolution, leaves: Sequence[Leaf]) -> str:
    """Names the entries that reach no leaf, each with the nearest name or scope.

    Args:
        resolution: Meaning of the map.
        leaves: All leaves of the target.

    Returns:
        The entries, separated by semicolons; "" if every entry reaches a leaf.
    """
    names = _reachable_names(leaves)
    return "; ".join(text for _, text in _describe_entries(resolution, names))


def describe_unfilled(resolution: Resolution, leaves: Sequence[Leaf]) -> str:
    """States that a map fills no leaf, and why each of its entries does not.

    Args:
        resolution: Meaning of the map.
        leaves: All leaves of the target.

    Returns:
        Lines of a message; "" if a leaf is filled, or if the map is empty.
    """
    gaps = [
        gap
        for gap in (*resolution.missing, *resolution.mismatched)
        if not gap.entry.is_optional
    ]
    if resolution.assignments or not (resolution.unused_entries or gaps):
        return ""
    names = _reachable_names(leaves)
    lines = [
        (entry.number, f"Entry {entry.number} reaches no leaf: {text}")
        for entry, text in _describe_entries(resolution, names)
    ]
    lines += [
        (
            gap.entry.number,
            f"{label_of(gap.entry)}: leaf `{gap.leaf}` is kept because `{gap.source}` "
            f"does not fill it: {gap.fact}",
        )
        for gap in gaps
    ]
    lines.sort(key=lambda line: line[0])  # in the order of the map
    first = ", ".join(f"`{name}`" for name in names[:_MAX_NAMED])
    more = ", ..." if len(names) > _MAX_NAMED else ""
    return (
        f"No entry of the assignment map fills a leaf of the target, which has "
        f"{len(leaves)}: {first}{more}. Give an empty map to fill nothing on purpose."
        f"\n{summarise([text for _, text in lines])}"
    )


def _describe_entries(
    resolution: Resolution, names: Sequence[str]
) -> Iterator[tuple[MapEntry, str]]:
    """Entries that reach no leaf, each with its text and what may have been meant."""
    limit = max(_MAX_SUGGESTED, _MAX_COMPARED // max(len(names), 1))
    scopes = scopes_of(names) if resolution.unused_entries else frozenset[str]()
    for i, entry in enumerate(resolution.unused_entries):
        if isinstance(entry.target, tuple):
            yield entry, f"{entry} (an empty list)"
        elif key_of(entry) in scopes:
            yield (
                entry,
                f"{entry} (keys are names of the checkpoint, values of the target)",
            )
        elif i >= limit:
            yield entry, str(entry)
        else:
            hint = _suggest_target(target_of(entry), names, scopes)
            yield entry, f"{entry} ({hint})" if hint else str(entry)


def _suggest_target(target: str, names: Sequence[str], scopes: frozenset[str]) -> str:
    """What may have been meant by a value, in its form; "" if nothing is like it."""
    is_scope = target.endswith("/")
    if is_scope and target[:-1] in names:
        return f"`{target[:-1]}` is a leaf: give its name as the value, and a tensor"
    candidates = list(scopes if is_scope else names)
    written = (with_captures(target, name) for name in candidates[:_MAX_WRITTEN])
    close = nearest(target, {text for text in written if text}, count=1)
    # The same where no number makes it a name of the target.
    if close and close[0] != target:
        return f"did you mean `{close[0]}`?"
    close = nearest(target, candidates, count=1)
    return f"the target has `{close[0]}`" if close else ""


def _reachable_names(leaves: Sequence[Leaf]) -> list[str]:
    """All names of the leaves that entries can fill, which are those with numbers."""
    return [name for leaf in leaves if leaf.dtype is not None for name in leaf.names]
