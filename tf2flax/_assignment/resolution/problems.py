"""What can be wrong with a map, and how it is said: entry, found, nearest, way out."""

from __future__ import annotations

import bisect
import dataclasses
import math
import re
from collections.abc import Iterable, Sequence
from typing import Final

from tf2flax._assignment.language.aliases import FLAX_ALIASES, alias_sources
from tf2flax._assignment.language.captures import (
    NamePattern,
    literal_pattern,
    parse_name,
)
from tf2flax._assignment.language.entries import MapEntry, PlainEntry, Rule
from tf2flax._assignment.language.expressions import (
    Expression,
    Joined,
    Source,
    sources_of,
)
from tf2flax._base.manifest import Manifest
from tf2flax._base.names import MAX_DIGITS, nearest

_NUMBER: Final = re.compile(r"\d+")
_DIGITS: Final = rf"(\d{{1,{MAX_DIGITS}}})"


@dataclasses.dataclass(frozen=True, slots=True)
class SourceNotFound:
    """The checkpoint lacks a tensor; `leaf` is the member of a scope that needs it."""

    entry: MapEntry
    source: str
    leaf: str | None

    def say(self, manifest: Manifest, *, suggest: bool) -> str:
        """States the problem."""
        needs = f", which leaf `{self.leaf}` needs" if self.leaf else ""
        found = f"found no tensor `{self.source}`{needs}."
        return f"{found} {self._fix(manifest) if suggest else ''}".rstrip()

    def _fix(self, manifest: Manifest) -> str:
        names = manifest.names
        if not names:
            return "The checkpoint holds no tensor at all."
        scope = self.source.rstrip("/") + "/"
        if not self.leaf and any(name.startswith(scope) for name in names):
            if self.source.endswith("/"):
                return (
                    f"`{self.source}` is a scope, and a scope fills a scope: end the "
                    f"target with `/` as well."
                )
            return f"It is a scope: write `{scope}`, and a scope as its target."
        last = self.source.rpartition("/")[2]
        for alias in alias_sources(self.source, last, FLAX_ALIASES):
            if alias in manifest:
                return f"Did you mean `{alias}`? Option aliases can stand in for it."
        if numbers := _numbers_present(self.source, names):
            return numbers
        return manifest.hint(self.source) or did_you_mean(nearest(self.source, names))


@dataclasses.dataclass(frozen=True, slots=True)
class ScopeNotFound:
    """No tensor lies under a scope; `count` members of the target need one."""

    entry: MapEntry
    count: int

    def say(self, manifest: Manifest, *, suggest: bool) -> str:
        """States the problem."""
        key = key_of(self.entry)
        found = (
            f"none of {len(manifest.names)} tensors lies under `{key}`, which fills "
            f"{self.count} leaves of `{target_of(self.entry)}`."
        )
        if not suggest:
            return found
        fix = manifest.hint(key) or did_you_mean(
            nearest(key, scopes_of(manifest.names))
        )
        return f"{found} {fix}".rstrip()


@dataclasses.dataclass(frozen=True, slots=True)
class TargetNotFound:
    """The value of an entry names no leaf, no family of parts and no scope."""

    entry: MapEntry
    target: str
    names: tuple[str, ...]

    def say(self, manifest: Manifest, *, suggest: bool) -> str:
        """States the problem."""
        found = (
            f"the target has no leaf `{self.target}`, and a scope must end with `/`."
        )
        return f"{found} {self._fix() if suggest else ''}".rstrip()

    def _fix(self) -> str:
        if not self.target:
            return "Write `/` for all of the target."
        scope = self.target + "/"
        if any(name.startswith(scope) for name in self.names):
            return f"Did you mean the scope `{scope}`?"
        below = [n for n in self.names if n.endswith(f"/{self.target}")]
        return did_you_mean(tuple(below[:3]) or nearest(self.target, self.names))


@dataclasses.dataclass(frozen=True, slots=True)
class KeyIsNoScope:
    """The value is a scope and the key is not."""

    entry: PlainEntry

    def say(self, manifest: Manifest, *, suggest: bool) -> str:
        """States the problem."""
        key, target = self.entry.source, self.entry.target
        if key in manifest:
            return (
                f"`{target}` is a scope and `{key}` is one tensor. "
                "Name the leaf that the tensor fills."
            )
        return (
            f"`{target}` is a scope, so the key must be one too. Did you mean `{key}/`?"
        )


@dataclasses.dataclass(frozen=True, slots=True)
class NotOneFamily:
    """A list of leaves that are not parts of one family."""

    entry: MapEntry
    leaves: tuple[str, ...]

    def say(self, manifest: Manifest, *, suggest: bool) -> str:
        """States the problem."""
        shown = ", ".join(f"`{name}`" for name in self.leaves[:4])
        return (
            "expected the parts `<name>/part_0`, `<name>/part_1`, ... of one tensor, "
            f"got {shown}. Give each tensor an entry of its own."
        )


@dataclasses.dataclass(frozen=True, slots=True)
class GapInFamily:
    """A part whose place is unknown, since parts before it are missing."""

    entry: MapEntry
    leaf: str
    parts: tuple[str, ...]

    def say(self, manifest: Manifest, *, suggest: bool) -> str:
        """States the problem."""
        return (
            f"cannot place `{self.leaf}`: the target holds {len(self.parts)} parts "
            "before the first gap. The parts of a tensor are numbered from 0."
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Ambiguous:
    """Several aliases of one leaf are in the checkpoint."""

    entry: MapEntry
    leaf: str
    sources: list[str]

    def say(self, manifest: Manifest, *, suggest: bool) -> str:
        """States the problem."""
        shown = " and ".join(f"`{source}`" for source in self.sources)
        return (
            f"{shown} could both fill leaf `{self.leaf}`. "
            "Leave one of them out of option aliases."
        )


@dataclasses.dataclass(frozen=True, slots=True)
class CutName:
    """A name with `/part_` inside, cut there, is no leaf."""

    entry: MapEntry
    name: str

    def say(self, manifest: Manifest, *, suggest: bool) -> str:
        """States the problem."""
        return (
            f"scopes read `/part_` in a name as the parts of one tensor, here of "
            f"`{self.name}`, but the target holds no `{self.name}/part_0`. "
            "Name the leaves under it one by one."
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Misfit:
    """A leaf and its tensor do not fit together."""

    entry: MapEntry
    leaf: str
    source: str
    fact: str

    def say(self, manifest: Manifest, *, suggest: bool) -> str:
        """States the problem."""
        return f"leaf `{self.leaf}` cannot take tensor `{self.source}`: {self.fact}"


@dataclasses.dataclass(frozen=True, slots=True)
class Clash:
    """Two entries of the same strength reach one leaf, one of them a rule."""

    entry: MapEntry
    other: MapEntry
    leaf: str

    def say(self, manifest: Manifest, *, suggest: bool) -> str:
        """States the problem."""
        how = "reach" if _is_scope(self.entry) else "name"
        return (
            f"leaf `{self.leaf}` is filled by entry {self.other.number} {self.other} "
            f"as well: both {how} it. Take it out of one of them."
        )


@dataclasses.dataclass(frozen=True, slots=True)
class NameLoses:
    """In a map with rules, a plain entry names a leaf and a plain scope has it."""

    entry: PlainEntry
    other: PlainEntry
    leaf: str

    def say(self, manifest: Manifest, *, suggest: bool) -> str:
        """States the problem."""
        fact = (
            f"it names leaf `{self.leaf}`, but entry {self.other.number} {self.other} "
            "would fill it, only because its key sorts later (TensorFlow's order)."
        )
        key = repr(Source(literal_pattern(self.entry.source)))
        fix = f"Make the key `{key}`, which wins over every scope, or drop one of them."
        return f"{fact} {fix}" if suggest else fact


def _is_scope(entry: MapEntry) -> bool:
    return isinstance(entry, Rule) and entry.is_scope


Problem = (
    Clash
    | NameLoses
    | SourceNotFound
    | ScopeNotFound
    | TargetNotFound
    | KeyIsNoScope
    | NotOneFamily
    | GapInFamily
    | Ambiguous
    | CutName
    | Misfit
)


def key_of(entry: MapEntry) -> str:
    """The key of an entry as it reads in the map.

    Args:
        entry: The entry.

    Returns:
        The text.
    """
    return entry.source if isinstance(entry, PlainEntry) else entry.key


def target_of(entry: MapEntry) -> str:
    """The value of an entry as it reads in the map; "" where it is an object.

    Args:
        entry: The entry.

    Returns:
        The text.
    """
    if isinstance(entry.target, NamePattern):
        return entry.target.text
    return entry.target if isinstance(entry.target, str) else ""


def scope_holds_tensors(scope: str, names: Sequence[str]) -> bool:
    """Tells whether any tensor lies under a scope.

    Args:
        scope: The scope, ending in `/`; `/` alone is everything.
        names: Names of all tensors, sorted.

    Returns:
        Whether one does.
    """
    if scope == "/":
        return bool(names)
    first = bisect.bisect_left(names, scope)
    return first < len(names) and names[first].startswith(scope)


def scopes_of(names: Iterable[str]) -> frozenset[str]:
    """Lists every scope that some name lies under.

    Args:
        names: Names.

    Returns:
        Scopes, ending in `/`.

    Examples:
        >>> sorted(scopes_of(["a/b/w", "c"]))
        ['a/', 'a/b/']
    """
    scopes: set[str] = set()
    for name in names:
        scope = name.rpartition("/")[0]
        while scope and f"{scope}/" not in scopes:
            scopes.add(f"{scope}/")
            scope = scope.rpartition("/")[0]
    return frozenset(scopes)


def rule_scope_holds_tensors(rule: Rule, names: Sequence[str]) -> bool:
    """Tells whether any tensor lies under a scope of a rule.

    Args:
        rule: The rule.
        names: Names of all tensors.

    Returns:
        Whether one does, whatever its captures stand for.
    """
    patterns = {source.pattern for source in sources_of(rule.source)}
    return any(
        pattern == "/" or parse_name(pattern).matches(name, is_scope=True) is not None
        for pattern in patterns
        for name in names
    )


def shapes_differ(
    leaf: tuple[int, ...], found: tuple[int, ...], source: Expression
) -> str:
    """States that shapes differ, and the likely reason.

    Args:
        leaf: Shape of the leaf.
        found: Shape of the tensor, or expression.
        source: The tensor, or expression.

    Returns:
        The sentence.
    """
    said = f"expected shape {list(leaf)}, got {list(found)}."
    if isinstance(source, Joined) and source.is_stack and len(leaf) == len(found):
        axis = source.axis % len(found)
        if leaf[:axis] + leaf[axis + 1 :] == found[:axis] + found[axis + 1 :]:
            return (
                f"{said} {found[axis]} are stacked: was the model built with another "
                "number of layers?"
            )
    if len(leaf) > 1 and leaf == found[::-1]:
        return f"{said} It is the transpose: make the key `{source.transpose()!r}`."
    if len(leaf) == len(found) and sorted(leaf) == sorted(found):
        return (
            f"{said} The axes stand in another order: `.transpose(...)` in the key "
            "would change it."
        )
    if [d for d in leaf if d != 1] == [d for d in found if d != 1]:
        return (
            f"{said} Nothing is broadcast or squeezed: make the key "
            f"`{source.reshape(leaf)!r}`."
        )
    if math.prod(leaf) == math.prod(found):
        return (
            f"{said} The elements are as many: `.rearrange(...)` or `.reshape(...)` in "
            "the key may be meant."
        )
    return f"{said} Was the model built with another configuration?"


def parts_do_not_tile(parts: Sequence[tuple[int, ...]], tensor: tuple[int, ...]) -> str:
    """States that parts do not make up a tensor.

    Args:
        parts: Shapes of the parts.
        tensor: Shape of the tensor.

    Returns:
        The sentence.
    """
    shown = ", ".join(str(list(part)) for part in parts[:6])
    more = ", ..." if len(parts) > 6 else ""
    return (
        f"its {len(parts)} parts {shown}{more} do not tile shape {list(tensor)} along "
        "one axis. Cut the parts so that they add up."
    )


def did_you_mean(names: Sequence[str]) -> str:
    """Suggests names.

    Args:
        names: The nearest ones, best first.

    Returns:
        A question; "" for no names.
    """
    if not names:
        return ""
    return f"Did you mean {' or '.join(f'`{name}`' for name in names)}?"


def _numbers_present(source: str, names: Sequence[str]) -> str:
    """Names the numbers that the checkpoint has where the source has another."""
    for match in _NUMBER.finditer(source):
        head, tail = source[: match.start()], source[match.end() :]
        pattern = re.compile(re.escape(head) + _DIGITS + re.escape(tail))
        found = sorted(
            int(hit[1]) for name in names if (hit := pattern.fullmatch(name))
        )
        if found:
            shown = f"{found[0]} to {found[-1]}" if len(found) > 1 else f"{found[0]}"
            label = head.rpartition("/")[2]
            return (
                f"The checkpoint has `{label}{{{shown}}}` there: "
                "was the model built with another number of layers?"
            )
    return ""
