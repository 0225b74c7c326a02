"""Describes entries of a map that reach no leaf, and maps that fill no leaf.

An entry may reach leaves and still fill none of them, because another entry is stronger
or an option keeps them. The plan lists such entries as overridden, missing or
mismatched; they are not among those that reach no leaf.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from tf2flax._assignment.language.captures import literal_pattern, parse_name
from tf2flax._assignment.language.entries import MapEntry
from tf2flax._assignment.language.expressions import Source
from tf2flax._assignment.language.writing import COLLAPSED, write_expression
from tf2flax._base.collapsing import collapse, summarise
from tf2flax._base.names import nearest
from tf2flax._base.text import and_more, list_names

from .assignments import Gap, Leaf, Resolution
from .entry_labels import key_of, label_of, target_of
from .problem_report import SUGGEST
from .scopes import NameTable, other_beginnings, scopes_of
from .spellings import captures_for_stars
from .suggestions import source_of_entry, with_captures, write_key, write_line

# Entries that a message names: with a heading, less than 25 lines.
_MAX_ENTRIES: Final = 20
# Leaves that a message names.
_MAX_NAMED: Final = 3
# Nearest names are looked up for this many entries, or for as many as make so many
# comparisons of names: each entry takes a pass over all names.
_MAX_SUGGESTED: Final = 20
_MAX_COMPARED: Final = 400_000
# Collections of linen, which NNX models and bare parameters do not have.
_COLLECTIONS: Final = ("params", "batch_stats")
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
    texts = [text for _, text in _describe_entries(resolution, names)]
    rows = collapse([(text,) for text in texts])
    listed = "; ".join(row.cells[0] for row in rows[:_MAX_ENTRIES])
    return and_more(listed, sum(len(row.members) for row in rows[_MAX_ENTRIES:]))


def unused_lines(resolution: Resolution, leaves: Sequence[Leaf]) -> str:
    """Names the entries that reach no leaf as `describe_unused`, each on a line.

    Args:
        resolution: Meaning of the map.
        leaves: All leaves of the target.

    Returns:
        Lines; "" if every entry reaches a leaf.
    """
    names = _reachable_names(leaves)
    lines = [
        f"Entry {entry.number} reaches no leaf: {text}."
        for entry, text in _describe_entries(resolution, names)
    ]
    return summarise(lines, _MAX_ENTRIES)


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
    by_entry: dict[tuple[int, str], list[Gap]] = {}
    for gap in gaps:
        by_entry.setdefault((gap.entry.number, gap.fact), []).append(gap)
    for (number, fact), group in by_entry.items():
        rows = collapse([(gap.leaf, source_of_gap(gap)) for gap in group])
        leaf, source = rows[0].cells
        more = and_more(f"`{leaf}`", len(group) - len(rows[0].members))
        lines.append(
            (
                number,
                f"{label_of(group[0].entry)}: leaf {more} is kept because `{source}` "
                f"does not fill it: {fact}",
            )
        )
    lines.sort(key=lambda line: line[0])  # in the order of the map
    first = ", ".join(f"`{name}`" for name in names[:_MAX_NAMED])
    more = ", ..." if len(names) > _MAX_NAMED else ""
    return (
        f"No entry of the assignment map fills a leaf of the target, which has "
        f"{len(leaves)}: {first}{more}. Give an empty map to fill nothing on purpose. "
        f"{SUGGEST}"
        f"\n{summarise([text for _, text in lines], _MAX_ENTRIES)}"
    )


def source_of_gap(gap: Gap) -> str:
    """The source of a leaf that is kept, as people read it.

    Args:
        gap: The leaf.

    Returns:
        The tensor's name, or the expression, with layers of a stack as one.
    """
    if gap.expression is None or isinstance(gap.expression, Source):
        return gap.source
    return write_expression(gap.expression, COLLAPSED)


def _describe_entries(
    resolution: Resolution, names: Sequence[str]
) -> Iterator[tuple[MapEntry, str]]:
    """Entries that reach no leaf, each with its text and what may have been meant."""
    limit = max(3, min(_MAX_SUGGESTED, _MAX_COMPARED // max(len(names), 1)))
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
            hint = _suggest_target(entry, names, scopes)
            yield entry, f"{entry} ({hint})" if hint else str(entry)


def _suggest_target(
    entry: MapEntry, names: Sequence[str], scopes: frozenset[str]
) -> str:
    """What may have been meant by a value, in its form; "" if nothing is like it."""
    target = target_of(entry)
    is_scope = target.endswith("/")
    if is_scope and target[:-1] in names:
        return f"`{target[:-1]}` is a leaf: give its name as the value, and a tensor"
    if captured := captures_for_stars(key_of(entry), target):
        line = write_line(entry, *captured)
        return f"`*` is not a pattern here, a capture is: write `{line}`"
    if others := _other_beginnings(entry, names):
        key = write_key(entry, source_of_entry(entry))
        if len(others) > 1:
            return f"which is meant: {list_names(others, _MAX_NAMED)}?"
        return f"write `{write_line(entry, key, others[0])}`"
    candidates = list(scopes if is_scope else names)
    written = (with_captures(target, name) for name in candidates[:_MAX_WRITTEN])
    close = nearest(target, {text for text in written if text}, count=1)
    # The same where no number makes it a name of the target.
    if close and close[0] != target:
        return f"did you mean `{close[0]}`?"
    close = nearest(target, candidates, count=1)
    return f"the target has `{close[0]}`" if close else ""


def _other_beginnings(entry: MapEntry, names: Sequence[str]) -> list[str]:
    """Values that reach leaves, with more or less before them than a value has."""
    table, target = NameTable(sorted(names)), target_of(entry)
    if target[:-1] in _COLLECTIONS and target not in table:
        return ["/"]
    pattern = parse_name(target)
    if not pattern.captures:
        values = other_beginnings(pattern.literal, table)[:_MAX_NAMED]
        return [literal_pattern(name) for name in values]
    # What stands before the end of a name that the value matches, each once.
    is_scope, before = target.endswith("/"), dict[str, None]()
    for name in table.names:
        position = name.find("/") + 1
        while position and len(before) < _MAX_NAMED:
            if pattern.matches(name[position:], is_scope=is_scope) is not None:
                before[name[:position]] = None
            position = name.find("/", position) + 1
    written = [f"{literal_pattern(beginning)}{target}" for beginning in before]
    root, _, shorter = target.partition("/")
    # A root that the target has is not too many.
    is_root = f"{root}/" in table
    if (
        not is_root
        and shorter.strip("/")
        and any(
            parse_name(shorter).matches(name, is_scope=is_scope) for name in table.names
        )
    ):
        return [shorter]
    # Scopes as near to the root as possible: others lie further down by accident.
    fewest = min((value.count("/") for value in written), default=0)
    return [value for value in written if value.count("/") == fewest][:_MAX_NAMED]


def _reachable_names(leaves: Sequence[Leaf]) -> list[str]:
    """All names of the leaves that entries can fill, which are those with numbers."""
    return [name for leaf in leaves if leaf.dtype is not None for name in leaf.names]
