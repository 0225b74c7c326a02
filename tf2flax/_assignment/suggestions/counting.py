"""One line in place of several that differ by a number: `conv{j+1}` -> `Conv_{j}`.

Numbers of both sides have to go in step, and the captures must reach no leaf that the
lines did not fill.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from .compacting import with_leaves
from .lines import LETTERS, Line

# Names times lines up to which they are compared.
_MAX_COMPARED: Final = 200_000
# A number without zeros before it, outside of captures.
_NUMBER: Final = re.compile(r"(?<![0-9{+-])(?:0|[1-9][0-9]*)(?![0-9}])")
_CAPTURE: Final = re.compile(r"\{[^{}]*\}")
_HOLE: Final = "\0"


class _Family(NamedTuple):
    """What lines have in common that differ by a number on either side.

    Attributes:
        value: Name of the leaves, with a hole for the number.
        path: Name of the tensors, with a hole for theirs.
        step: By how much that number is greater.
        change: What is done to the tensors.
    """

    value: str
    path: str
    step: int
    change: object


def join_counted(lines: Sequence[Line], leaves: Iterable[str]) -> list[Line]:
    """Lines that differ by a number on both sides, in step, become one.

    Args:
        lines: Lines of a map.
        leaves: Names of all leaves of the target.
    """
    names = list(leaves)
    if len(lines) * len(names) > _MAX_COMPARED:
        return list(lines)
    groups: dict[_Family, dict[int, Line]] = {}
    for place, line in enumerate(lines):
        for family in _families_of(line):
            groups.setdefault(family, {})[place] = line
    replaced: dict[int, Line | None] = {}
    for family, members in sorted(groups.items(), key=lambda item: -len(item[1])):
        if len(members) < 2 or not replaced.keys().isdisjoint(members):
            continue
        joined = _join(family, list(members.values()))
        if joined is not None and _reaches_no_other(joined, names):
            replaced.update(dict.fromkeys(members))
            replaced[min(members)] = joined
    return [
        chosen
        for place, line in enumerate(lines)
        if (chosen := replaced.get(place, line)) is not None
    ]


def _families_of(line: Line) -> Iterator[_Family]:
    """A line without one number of either side, for each two of these."""
    has_braces = "{" in line.value + line.path
    if not line.path or (has_braces and not line.is_pattern):
        return
    for of_leaf in _NUMBER.finditer(line.value):
        for of_tensor in _NUMBER.finditer(line.path):
            step = int(of_tensor[0]) - int(of_leaf[0])
            value, path = _cut(line.value, of_leaf), _cut(line.path, of_tensor)
            yield _Family(value, path, step, line.change)


def _cut(text: str, match: re.Match[str]) -> str:
    return text[: match.start()] + _HOLE + text[match.end() :]


def _join(family: _Family, lines: Sequence[Line]) -> Line | None:
    """The line for all of them; None if there is no letter left."""
    text = family.value + family.path
    letter = next((x for x in LETTERS if f"{{{x}" not in text), None)
    if letter is None:
        return None
    step = f"{family.step:+d}" if family.step else ""
    joined = dataclasses.replace(
        lines[0],
        value=family.value.replace(_HOLE, f"{{{letter}}}"),
        path=family.path.replace(_HOLE, f"{{{letter}{step}}}"),
        is_pattern=True,
    )
    return with_leaves(joined, lines)


def _reaches_no_other(line: Line, names: Iterable[str]) -> bool:
    """True if the captures of a line match no leaf that it does not fill."""
    pieces = _CAPTURE.split(line.value)
    pattern = re.compile("[^/]+".join(map(re.escape, pieces)))
    matches = pattern.match if line.value.endswith("/") else pattern.fullmatch
    return set(line.leaves).issuperset(filter(matches, names))
