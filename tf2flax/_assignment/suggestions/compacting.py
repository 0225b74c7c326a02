"""Few lines in place of many: scopes, and captures of names that both sides share.

A line for a scope is written only if it fills exactly what the lines did that it stands
for; where other lines fill something within the scope, it is not written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Final

from tf2flax._assignment.language.aliases import FLAX_ALIASES

from .layers import COLLECTIONS
from .lines import Line
from .transforms import SAME, Transform

# Names times lines up to which captures of names are sought.
_MAX_COMPARED: Final = 200_000
_HEADS_LAST: Final = ("d (h k) -> d h k", "(h k) -> h k")


def join_scopes(lines: Sequence[Line], leaves: Iterable[str]) -> list[Line]:
    """Writes scopes in place of the lines for all that lies below them.

    Args:
        lines: Lines for families of leaves.
        leaves: Names of all leaves of the target, also of those that no line fills.
    """
    return _Tree(lines, leaves).join_scopes()


class _Tree:
    """Lines by the names of what they fill."""

    def __init__(self, lines: Sequence[Line], leaves: Iterable[str]) -> None:
        self._lines = list(lines)
        filled = {leaf for line in lines for leaf in line.leaves}
        # What no line fills stands for itself, and keeps scopes around it apart.
        self._open = [leaf for leaf in leaves if leaf not in filled]
        self._below: dict[str, list[Line]] = {}
        for line in self._lines:
            for scope in _scopes_of(line.value):
                self._below.setdefault(scope, []).append(line)
        self._blocked: set[str] = set()
        for leaf in self._open:
            self._blocked.update(_scopes_of(leaf))
        self._block_captured()

    def _block_captured(self) -> None:
        """Scopes with captures that reach an open leaf are not written either."""
        open_by_depth: dict[int, list[list[str]]] = {}
        for leaf in self._open:
            pieces = leaf.split("/")
            for depth in range(1, len(pieces)):
                open_by_depth.setdefault(depth, []).append(pieces[:depth])
        for scope in self._below:
            if "{" not in scope:
                continue
            pieces = scope.rstrip("/").split("/")
            if any(
                all(_may_match(a, b) for a, b in zip(pieces, leaf, strict=True))
                for leaf in open_by_depth.get(len(pieces), ())
            ):
                self._blocked.add(scope)

    def join_scopes(self) -> list[Line]:
        """Writes scopes in place of all lines below them, the outermost first."""
        joined: dict[int, Line] = {}
        for scope in sorted(self._below, key=lambda scope: (scope.count("/"), scope)):
            lines = self._below[scope]
            if scope in self._blocked or any(id(line) in joined for line in lines):
                continue
            line = _scope_line(scope, lines)
            if line is not None:
                joined.update({id(member): line for member in lines})
        result: dict[int, Line] = {}
        for line in self._lines:
            chosen = joined.get(id(line), line)
            result.setdefault(id(chosen), chosen)
        return list(result.values())


def _may_match(pattern: str, text: str) -> bool:
    if "{" not in pattern:
        return pattern == text
    start, end = pattern.partition("{")[0], pattern.rpartition("}")[2]
    return text.startswith(start) and text.endswith(end)


def _scopes_of(name: str) -> list[str]:
    pieces = name.split("/")
    return ["/".join(pieces[:n]) + "/" for n in range(1, len(pieces))]


def _scope_line(scope: str, lines: Sequence[Line]) -> Line | None:
    """One line for a scope in place of all lines below it; None if they differ."""
    if len(lines) < 2 or any(not line.path for line in lines):
        return None
    first = lines[0]
    wraps = {(line.stack_axis, line.is_pattern and "{" in scope) for line in lines}
    transform = _common_transform(lines)
    source = _source_scope(scope, first)
    if source is None or transform is None or len(wraps) != 1:
        return None
    if any(not _is_below(line, scope, source) for line in lines):
        return None
    # Captures of numbers that stand below the scope on both sides are not needed.
    is_pattern = "{" in scope
    if is_pattern != ("{" in source) or _captures(scope) != _captures(source):
        return None
    if first.stack_axis is not None and "{" not in source:
        return None
    line = Line(scope, (), source, None, transform, first.stack_axis, is_pattern)
    return with_leaves(line, lines)


def with_leaves(line: Line, lines: Sequence[Line]) -> Line:
    """A line that fills what several lines fill."""
    return dataclasses.replace(
        line,
        leaves=tuple(leaf for member in lines for leaf in member.leaves),
        tensors=tuple(names for member in lines for names in member.tensors),
    )


def _captures(text: str) -> set[str]:
    return {piece.partition("}")[0][:1] for piece in text.split("{")[1:]}


def _common_transform(lines: Sequence[Line]) -> Transform | None:
    """The transform of all lines, or one that does the same to all."""
    transforms = {line.transform for line in lines if line.transform is not None}
    if all(transform.is_plain for transform in transforms):
        return SAME
    heads = {t.sizes for t in transforms}
    if len(heads) == 1 and {t.kind for t in transforms} <= set(_HEADS_LAST):
        return Transform("... (h k) -> ... h k", next(iter(heads)))
    return None


def _source_scope(scope: str, line: Line) -> str | None:
    """The scope of the checkpoint that is this scope of the target."""
    below = line.value[len(scope) :].count("/")
    pieces = line.path.split("/")
    if len(pieces) <= below + 1:
        return None
    return "/".join(pieces[: -below - 1]) + "/"


def _is_below(line: Line, scope: str, source: str) -> bool:
    """True if a line is what a line for the scope would say of its leaves."""
    if not line.path.startswith(source):
        return False
    below, path = line.value[len(scope) :], line.path[len(source) :]
    if below == path:
        return True
    above, _, last = below.rpartition("/")
    path_above, _, path_last = path.rpartition("/")
    return above == path_above and path_last in FLAX_ALIASES.get(last, ())


def join_collections(lines: Sequence[Line], leaves: Iterable[str]) -> list[Line]:
    """`params/bn/` and `batch_stats/bn/` of one scope become `{collection}/bn/`."""
    del leaves
    groups: dict[object, list[Line]] = {}
    for line in lines:
        first, _, below = line.value.partition("/")
        is_scope = line.value.endswith("/") and first in COLLECTIONS
        key = (below, line.path, line.change) if is_scope else id(line)
        groups.setdefault(key, []).append(line)
    result: list[Line] = []
    for members in groups.values():
        if len(members) == 1:
            result += members
            continue
        below = members[0].value.partition("/")[2]
        value = "{collection}/" + below
        joined = dataclasses.replace(members[0], value=value, is_pattern=True)
        result.append(with_leaves(joined, members))
    return result


def join_names(lines: Sequence[Line], leaves: Iterable[str]) -> list[Line]:
    """Lines that differ by one component, the same on both sides, become one."""
    # Every name of the target is compared with every pattern.
    if len(lines) * len(list(leaves)) > _MAX_COMPARED:
        return list(lines)
    groups: dict[object, list[tuple[int, Line, str]]] = {}
    for number, line in enumerate(lines):
        for place, below, path in _with_holes(line):
            key = (below, path, line.change)
            groups.setdefault(key, []).append((number, line, place))
    replaced: dict[int, Line | None] = {}
    for key, members in sorted(groups.items(), key=lambda item: -len(item[1])):
        free = [member for member in members if member[0] not in replaced]
        if len(free) < 2 or len(free) < len(members):
            continue
        assert isinstance(key, tuple)
        joined = dataclasses.replace(
            free[0][1], value=key[0], path=key[1], is_pattern=True
        )
        joined = with_leaves(joined, [member for _, member, _ in free])
        replaced.update({number: None for number, _, _ in free})
        replaced[free[0][0]] = joined
    return [
        chosen
        for number, line in enumerate(lines)
        if (chosen := replaced.get(number, line)) is not None
    ]


_CAPTURE: Final = "p"


def _with_holes(line: Line) -> list[tuple[str, str, str]]:
    """A line without one component that both sides have, for each of these."""
    if not line.path or "{p}" in line.path:
        return []
    below, path = line.value.split("/"), line.path.split("/")
    result: list[tuple[str, str, str]] = []
    for n, piece in enumerate(below):
        if (
            not piece
            or "{" in piece
            or path.count(piece) != 1
            or below.count(piece) != 1
        ):
            continue
        hole = "{" + _CAPTURE + "}"
        value = "/".join([*below[:n], hole, *below[n + 1 :]])
        m = path.index(piece)
        result.append((piece, value, "/".join([*path[:m], hole, *path[m + 1 :]])))
    return result
