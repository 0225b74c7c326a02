"""What can be wrong with a map, and how it is said: entry, found, nearest, way out."""

from __future__ import annotations

import bisect
import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Final

from tf2flax._manifest import Manifest
from tf2flax._names import nearest

from .aliases import FLAX_ALIASES, alias_sources
from .values import MapEntry

# Nearest names are looked up for this many problems of one report: each takes a pass
# over all names, and the first few tell the story.
_MAX_SUGGESTED: Final = 20
_NUMBER: Final = re.compile(r"\d+")


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
        return manifest.hint(self.source) or _did_you_mean(nearest(self.source, names))


@dataclasses.dataclass(frozen=True, slots=True)
class ScopeNotFound:
    """No tensor lies under a scope; `count` members of the target need one."""

    entry: MapEntry
    count: int

    def say(self, manifest: Manifest, *, suggest: bool) -> str:
        """States the problem."""
        found = (
            f"none of {len(manifest.names)} tensors lies under `{self.entry.source}`, "
            f"which fills {self.count} leaves of `{self.entry.target}`."
        )
        if not suggest:
            return found
        fix = manifest.hint(self.entry.source) or _did_you_mean(
            nearest(self.entry.source, scopes_of(manifest.names))
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
        return _did_you_mean(tuple(below[:3]) or nearest(self.target, self.names))


@dataclasses.dataclass(frozen=True, slots=True)
class KeyIsNoScope:
    """The value is a scope and the key is not."""

    entry: MapEntry

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


Problem = (
    SourceNotFound
    | ScopeNotFound
    | TargetNotFound
    | KeyIsNoScope
    | NotOneFamily
    | GapInFamily
    | Ambiguous
    | CutName
    | Misfit
)


def report(problems: Sequence[Problem], manifest: Manifest) -> str:
    """States every problem of a map.

    Args:
        problems: At least one.
        manifest: The checkpoint, for the nearest names.

    Returns:
        One line, or a line for each under a heading.
    """
    ordered = sorted(problems, key=lambda problem: problem.entry.number)
    lines = [
        f"Entry {problem.entry.number} {problem.entry}: "
        f"{problem.say(manifest, suggest=i < _MAX_SUGGESTED)}"
        for i, problem in enumerate(ordered)
    ]
    place = f"in `{manifest.index_path}`"
    if len(lines) == 1:
        return f"{lines[0]} - {place}"
    body = "".join(f"\n  {line}" for line in lines)
    return f"{len(lines)} problems with the assignment map - {place}:{body}"


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


def unused_entry(entry: MapEntry, names: Iterable[str]) -> str:
    """States that a scope of the target holds no leaf, with the nearest that does.

    Args:
        entry: The entry that reached nothing.
        names: Names of all leaves.

    Returns:
        The entry as it reads, and a suggestion.
    """
    target = entry.target if isinstance(entry.target, str) else ""
    scopes = scopes_of(names)
    if entry.source in scopes:
        return f"{entry} (keys are the checkpoint's names, values the target's)"
    close = _did_you_mean(nearest(target, scopes, count=1))
    return f"{entry} {close}".rstrip()


def shapes_differ(leaf: tuple[int, ...], tensor: tuple[int, ...]) -> str:
    """States that shapes differ, and the likely reason.

    Args:
        leaf: Shape of the leaf.
        tensor: Shape of the tensor.

    Returns:
        The sentence.
    """
    said = f"expected shape {list(leaf)}, got {list(tensor)}."
    if len(leaf) > 1 and leaf == tensor[::-1]:
        return f"{said} The tensor is the transpose: was it saved for `x @ w.T`?"
    if len(leaf) == len(tensor) and sorted(leaf) == sorted(tensor):
        return f"{said} The axes stand in another order."
    if [d for d in leaf if d != 1] == [d for d in tensor if d != 1]:
        return f"{said} Nothing is broadcast or squeezed: give the leaf this shape."
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


def _did_you_mean(names: Sequence[str]) -> str:
    if not names:
        return ""
    return f"Did you mean {' or '.join(f'`{name}`' for name in names)}?"


def _numbers_present(source: str, names: Sequence[str]) -> str:
    """Names the numbers that the checkpoint has where the source has another."""
    for match in _NUMBER.finditer(source):
        head, tail = source[: match.start()], source[match.end() :]
        pattern = re.compile(re.escape(head) + r"(\d+)" + re.escape(tail))
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
