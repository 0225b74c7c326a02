"""One line in place of several that differ by a number: `conv{j+1}` -> `Conv_{j}`.

Numbers of both sides have to go in step. The captures may reach leaves of other lines
only if these win, since they have fewer captures, and are exceptions: `expanded_conv`
before `expanded_conv_1` to `expanded_conv_16`.
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
# Leaves of other lines that a line may reach, for each leaf that it fills.
_MAX_EXCEPTIONS: Final = 1.0
_MAX_ROUNDS: Final = 4
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
    # What one line stands in the way of, it may allow once it is joined itself.
    result = list(lines)
    for _ in range(_MAX_ROUNDS):
        before = len(result)
        result = _join_once(result, names)
        if len(result) == before:
            break
    return result


def _join_once(lines: Sequence[Line], names: Sequence[str]) -> list[Line]:
    groups: dict[_Family, dict[int, Line]] = {}
    for place, line in enumerate(lines):
        for family in _families_of(line):
            groups.setdefault(family, {})[place] = line
    replaced: dict[int, Line | None] = {}
    reach = _Reach(lines, names)
    for family, members in sorted(groups.items(), key=lambda item: -len(item[1])):
        if len(members) < 2 or not replaced.keys().isdisjoint(members):
            continue
        joined = _join(family, list(members.values()))
        if joined is not None and reach.take(joined):
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


class _Reach:
    """Which leaves lines reach, and which of these they get."""

    def __init__(self, lines: Sequence[Line], names: Sequence[str]) -> None:
        self._names = names
        self._ranks = {leaf: _rank(line) for line in lines for leaf in line.leaves}
        # Of leaves that lines reach and must not get, the best rank of these lines.
        self._rivals: dict[str, _Rank] = {}
        for line in lines:
            if "{" in line.value:
                self._add_rival(_rank(line), self._others(line))

    def take(self, line: Line) -> bool:
        """Takes a joined line, if every leaf still gets what its own line says."""
        rank, others = _rank(line), self._others(line)
        if len(others) > _MAX_EXCEPTIONS * len(line.leaves):
            return False
        if not all(leaf in self._ranks and self._ranks[leaf] < rank for leaf in others):
            return False
        rivals = (self._rivals.get(leaf) for leaf in line.leaves)
        if any(rival is not None and rival <= rank for rival in rivals):
            return False
        self._ranks.update(dict.fromkeys(line.leaves, rank))
        self._add_rival(rank, others)
        return True

    def _others(self, line: Line) -> set[str]:
        """Leaves that a line reaches, but does not fill."""
        pieces = _CAPTURE.split(line.value)
        pattern = re.compile("[^/]+".join(map(re.escape, pieces)))
        matches = pattern.match if line.value.endswith("/") else pattern.fullmatch
        return set(filter(matches, self._names)).difference(line.leaves)

    def _add_rival(self, rank: _Rank, leaves: Iterable[str]) -> None:
        for leaf in leaves:
            self._rivals[leaf] = min(rank, self._rivals.get(leaf, rank))


_Rank = tuple[bool, int, int]


def _rank(line: Line) -> _Rank:
    """Less for lines that win over others, as `precedence` of resolutions says."""
    pieces = line.value.split("/")
    is_scope = not pieces[-1]
    return is_scope, -len(pieces) if is_scope else 0, sum("{" in p for p in pieces)
