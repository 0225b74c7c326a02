"""Problems of a map, one class for each kind of problem.

Every problem has the entry that it comes from. `describe` gives the fact and, if asked
to `suggest`, what to do about it: the nearest names, or another key.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Final

from tf2flax._assignment.language.aliases import FLAX_ALIASES, alias_sources
from tf2flax._assignment.language.captures import literal_pattern
from tf2flax._assignment.language.entries import MapEntry, PlainEntry, Rule
from tf2flax._assignment.language.expressions import Source
from tf2flax._base.manifest import Manifest
from tf2flax._base.names import MAX_DIGITS, nearest
from tf2flax._base.text import counted

from .entry_labels import key_of, target_of
from .mismatches import ANOTHER_CONFIGURATION
from .scopes import scopes_of
from .spellings import suggest_for_key, suggest_for_target

# What to do about a leaf that is meant to have another shape.
_NEW_HEAD: Final = (
    'A new head or vocabulary stays as it is with on_mismatch="keep"; '
    "tf2flax.warm_start initialises it."
)
_NUMBER: Final = re.compile(r"\d+")
_DIGITS: Final = rf"(\d{{1,{MAX_DIGITS}}})"


@dataclasses.dataclass(frozen=True, slots=True)
class SourceNotFound:
    """The checkpoint lacks a tensor.

    Attributes:
        entry: The entry of the map.
        source: Name of the tensor.
        leaf: The member of a scope that needs the tensor; None if the key names it.
    """

    entry: MapEntry
    source: str
    leaf: str | None

    def describe(self, manifest: Manifest, *, suggest: bool) -> str:
        """States the problem."""
        needs = f", which leaf `{self.leaf}` needs" if self.leaf else ""
        fact = f"found no tensor `{self.source}`{needs}."
        return f"{fact} {self._suggest_fix(manifest) if suggest else ''}".rstrip()

    def _suggest_fix(self, manifest: Manifest) -> str:
        """Suggests a fix; the likeliest mistakes come first."""
        names = manifest.names
        if not names:
            return "The checkpoint has no tensors."
        if not self.leaf and (spelling := suggest_for_key(self.source)):
            return spelling
        scope = self.source.rstrip("/") + "/"
        if not self.leaf and any(name.startswith(scope) for name in names):
            if self.source.endswith("/"):
                return (
                    f"`{self.source}` is a scope, which can only fill a scope: end the "
                    f"target with `/` too."
                )
            return f"It is a scope: write `{scope}` and give a scope as the target."
        last = self.source.rpartition("/")[2]
        for alias in alias_sources(self.source, last, FLAX_ALIASES):
            if alias in manifest:
                return f"Did you mean `{alias}`? Option aliases can stand in for it."
        if numbers := _describe_numbers(self.source, names):
            return numbers
        return manifest.hint(self.source) or did_you_mean(nearest(self.source, names))


@dataclasses.dataclass(frozen=True, slots=True)
class ScopeNotFound:
    """No tensor lies under a scope.

    Attributes:
        entry: The entry of the map.
        count: Number of leaves that the scope should fill.
    """

    entry: MapEntry
    count: int

    def describe(self, manifest: Manifest, *, suggest: bool) -> str:
        """States the problem."""
        key = key_of(self.entry)
        fact = (
            f"none of the {counted(len(manifest.names), 'tensor')} is under `{key}`, "
            f"which {counted(self.count, 'leaf', 'leaves')} of "
            f"`{target_of(self.entry)}` {'needs' if self.count == 1 else 'need'}."
        )
        if not suggest:
            return fact
        fix = manifest.hint(key) or did_you_mean(
            nearest(key, scopes_of(manifest.names))
        )
        return f"{fact} {fix}".rstrip()


@dataclasses.dataclass(frozen=True, slots=True)
class TargetNotFound:
    """The value of an entry names no leaf, no family of parts and no scope.

    Attributes:
        entry: The entry of the map.
        target: Its value.
        names: All names of leaves.
    """

    entry: MapEntry
    target: str
    names: tuple[str, ...]

    def describe(self, manifest: Manifest, *, suggest: bool) -> str:
        """States the problem."""
        fact = f"the target has no leaf `{self.target}`, and a scope must end with `/`."
        return f"{fact} {self._suggest_fix() if suggest else ''}".rstrip()

    def _suggest_fix(self) -> str:
        if not self.target:
            return "Write `/` for the whole target."
        if spelling := suggest_for_target(self.target):
            return spelling
        scope = self.target + "/"
        if any(name.startswith(scope) for name in self.names):
            return f"Did you mean the scope `{scope}`?"
        below = [n for n in self.names if n.endswith(f"/{self.target}")]
        return did_you_mean(tuple(below[:3]) or nearest(self.target, self.names))


@dataclasses.dataclass(frozen=True, slots=True)
class KeyIsNotScope:
    """The value is a scope and the key is not."""

    entry: PlainEntry

    def describe(self, manifest: Manifest, *, suggest: bool) -> str:
        """States the problem."""
        key, target = self.entry.source, self.entry.target
        if key in manifest:
            return (
                f"`{target}` is a scope and `{key}` is one tensor. "
                "Give the name of the leaf that the tensor fills."
            )
        return (
            f"`{target}` is a scope, so the key must be a scope too. "
            f"Did you mean `{key}/`?"
        )


@dataclasses.dataclass(frozen=True, slots=True)
class NotOneFamily:
    """A list of leaves that are not parts of one family."""

    entry: MapEntry
    leaves: tuple[str, ...]

    def describe(self, manifest: Manifest, *, suggest: bool) -> str:
        """States the problem."""
        leaves = ", ".join(f"`{name}`" for name in self.leaves[:4])
        return (
            "expected the parts `<name>/part_0`, `<name>/part_1`, ... of one tensor, "
            f"got {leaves}. Give each tensor a separate entry."
        )


@dataclasses.dataclass(frozen=True, slots=True)
class GapInFamily:
    """A part whose place is unknown, since parts before it are missing."""

    entry: MapEntry
    leaf: str
    parts: tuple[str, ...]

    def describe(self, manifest: Manifest, *, suggest: bool) -> str:
        """States the problem."""
        return (
            f"cannot place `{self.leaf}`: the target has {len(self.parts)} parts "
            "before the first gap. The parts of a tensor are numbered from 0."
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Ambiguous:
    """Several aliases of one leaf are in the checkpoint."""

    entry: MapEntry
    leaf: str
    sources: list[str]

    def describe(self, manifest: Manifest, *, suggest: bool) -> str:
        """States the problem."""
        sources = " and ".join(f"`{source}`" for source in self.sources)
        return (
            f"{sources} could both fill leaf `{self.leaf}`. "
            "Remove one of them from option aliases."
        )


@dataclasses.dataclass(frozen=True, slots=True)
class CutName:
    """A name with `/part_` inside, cut there, is not the name of a leaf."""

    entry: MapEntry
    name: str

    def describe(self, manifest: Manifest, *, suggest: bool) -> str:
        """States the problem."""
        return (
            "a scope takes leaves with `/part_` in their names for the parts of one "
            f"tensor, here of `{self.name}`, but the target has no "
            f"`{self.name}/part_0`. Name the leaves under it one by one."
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Mismatch:
    """A leaf and its tensor do not fit together."""

    entry: MapEntry
    leaf: str
    source: str
    fact: str

    def describe(self, manifest: Manifest, *, suggest: bool) -> str:
        """States the problem."""
        fact = f"leaf `{self.leaf}` cannot take tensor `{self.source}`: {self.fact}"
        if suggest and self.fact.endswith(ANOTHER_CONFIGURATION):
            return f"{fact} {_NEW_HEAD}"
        return fact


@dataclasses.dataclass(frozen=True, slots=True)
class Clash:
    """Two entries of the same strength reach one leaf, one of them a rule."""

    entry: MapEntry
    rival: MapEntry
    leaf: str

    def describe(self, manifest: Manifest, *, suggest: bool) -> str:
        """States the problem."""
        how = "reach" if _is_scope(self.entry) else "name"
        return (
            f"leaf `{self.leaf}` is filled by entry {self.rival.number} {self.rival} "
            f"as well: both {how} it. Remove it from one of them."
        )


@dataclasses.dataclass(frozen=True, slots=True)
class NameLoses:
    """In a map with rules, a plain entry that names a leaf loses it to a plain scope.

    TensorFlow's order of keys alone says so, against the order in which rules win.
    """

    entry: PlainEntry
    winner: PlainEntry
    leaf: str

    def describe(self, manifest: Manifest, *, suggest: bool) -> str:
        """States the problem."""
        fact = (
            f"it names leaf `{self.leaf}`, but entry {self.winner.number} "
            f"{self.winner} would fill that leaf, only because its key sorts later "
            "(TensorFlow's order)."
        )
        key = repr(Source(literal_pattern(self.entry.source)))
        fix = (
            f"Use the key `{key}`, which wins over every scope, or remove one of the "
            "two entries."
        )
        return f"{fact} {fix}" if suggest else fact


def _is_scope(entry: MapEntry) -> bool:
    return isinstance(entry, Rule) and entry.is_scope


Problem = (
    Clash
    | NameLoses
    | SourceNotFound
    | ScopeNotFound
    | TargetNotFound
    | KeyIsNotScope
    | NotOneFamily
    | GapInFamily
    | Ambiguous
    | CutName
    | Mismatch
)


def did_you_mean(names: Sequence[str]) -> str:
    """Suggests names, the best first; "" for no names.

    Examples:
        >>> did_you_mean(["a", "b"])
        'Did you mean `a` or `b`?'
    """
    if not names:
        return ""
    return f"Did you mean {' or '.join(f'`{name}`' for name in names)}?"


def _describe_numbers(source: str, names: Sequence[str]) -> str:
    """Which numbers the checkpoint has where a name has another; "" if it has none."""
    for match in _NUMBER.finditer(source):
        head, tail = source[: match.start()], source[match.end() :]
        pattern = re.compile(re.escape(head) + _DIGITS + re.escape(tail))
        numbers = sorted(
            int(hit[1]) for name in names if (hit := pattern.fullmatch(name))
        )
        if not numbers:
            continue
        first, last = numbers[0], numbers[-1]
        present = f"{first} to {last}" if len(numbers) > 1 else f"{first}"
        label = head.rpartition("/")[2]
        return (
            f"The checkpoint has `{label}{{{present}}}` there: "
            "was the model built with another number of layers?"
        )
    return ""
