"""Problems of a map: values, one class for each kind of problem.

Every problem has the entry that it comes from, and states its fact. Which of them have
one cause, and what to do about it, is the matter of `causes` and `suggestions`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence

from tf2flax._assignment.language.captures import literal_pattern
from tf2flax._assignment.language.entries import MapEntry, PlainEntry, Rule
from tf2flax._assignment.language.expressions import Expression, Source
from tf2flax._base.text import and_more

from .entry_labels import fills_scope, label_of


@dataclasses.dataclass(frozen=True, slots=True)
class SourceNotFound:
    """The checkpoint lacks a tensor.

    Attributes:
        entry: The entry of the map.
        source: Name of the tensor; a pattern, if the checkpoint has no number for a
            counted capture of it.
        leaf: The leaf that needs the tensor; None if the key names the tensor.
    """

    entry: MapEntry
    source: str
    leaf: str | None

    @property
    def fact(self) -> str:
        """The problem, as a sentence."""
        needs = f", which leaf `{self.leaf}` needs" if self.leaf else ""
        return f"found no tensor `{self.source}`{needs}."


@dataclasses.dataclass(frozen=True, slots=True)
class TargetNotFound:
    """The value of an entry names no leaf, no family of parts and no scope.

    Attributes:
        entry: The entry of the map.
        target: Its value.
    """

    entry: MapEntry
    target: str

    @property
    def fact(self) -> str:
        """The problem, as a sentence."""
        return f"the target has no leaf `{self.target}`, and a scope must end with `/`."


@dataclasses.dataclass(frozen=True, slots=True)
class KeyIsNotScope:
    """The value is a scope and the key is not."""

    entry: PlainEntry

    @property
    def fact(self) -> str:
        """The problem, as a sentence."""
        return f"`{self.entry.target}` is a scope, so the key must be a scope too."


@dataclasses.dataclass(frozen=True, slots=True)
class NotOneFamily:
    """A list of leaves that are not parts of one family."""

    entry: MapEntry
    leaves: tuple[str, ...]

    @property
    def fact(self) -> str:
        """The problem, as a sentence."""
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

    @property
    def fact(self) -> str:
        """The problem, as a sentence."""
        return (
            f"cannot place `{self.leaf}`: the target has {len(self.parts)} parts "
            "before the first gap. The parts of a tensor are numbered from 0."
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Ambiguous:
    """Several aliases of one leaf are in the checkpoint."""

    entry: MapEntry
    leaf: str
    sources: tuple[str, ...]

    @property
    def fact(self) -> str:
        """The problem, as a sentence."""
        sources = " and ".join(f"`{source}`" for source in self.sources)
        return (
            f"{sources} could both fill leaf `{self.leaf}`. "
            "Remove one of them from option aliases."
        )


@dataclasses.dataclass(frozen=True, slots=True)
class CutScope:
    """A plain scope with `/part_` inside, below which TensorFlow finds no variable."""

    entry: PlainEntry

    @property
    def fact(self) -> str:
        """The problem, as sentences."""
        key = repr(Source(literal_pattern(self.entry.source)))
        return (
            f"TensorFlow cuts names at `/part_`, also within `{self.entry.target}`, "
            f"and finds no variable there. Use the key `{key}`, which takes names as "
            "they are."
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Mismatch:
    """A leaf and its tensor do not fit together.

    Attributes:
        entry: The entry of the map.
        leaf: Name of the leaf; of a part, its family with `*` for the number.
        source: The tensor or expression, as text.
        reason: Why it does not fit.
        expression: The source, with names in place of captures.
        shape: Shape of the leaf.
        source_shape: Shape of the source; None if it cannot be made, or if it is
            something else that does not fit.
    """

    entry: MapEntry
    leaf: str
    source: str
    reason: str
    expression: Expression | None = None
    shape: tuple[int, ...] = ()
    source_shape: tuple[int, ...] | None = None

    @property
    def fact(self) -> str:
        """The problem, as a sentence."""
        return f"leaf `{self.leaf}` cannot take tensor `{self.source}`: {self.reason}"


@dataclasses.dataclass(frozen=True, slots=True)
class Clash:
    """Two entries of the same strength reach one leaf, one of them a rule."""

    entry: MapEntry
    rival: MapEntry
    leaf: str

    @property
    def fact(self) -> str:
        """The problem, as a sentence."""
        is_scope = isinstance(self.entry, Rule) and fills_scope(self.entry)
        how = "reach" if is_scope else "name"
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

    @property
    def fact(self) -> str:
        """The problem, as sentences."""
        key = repr(Source(literal_pattern(self.entry.source)))
        return (
            f"it names leaf `{self.leaf}`, but entry {self.winner.number} "
            f"{self.winner} would fill that leaf, only because its key sorts later "
            f"(TensorFlow's order). Use the key `{key}`, which wins over every scope, "
            "or remove one of the two entries."
        )


Problem = (
    Clash
    | NameLoses
    | SourceNotFound
    | TargetNotFound
    | KeyIsNotScope
    | NotOneFamily
    | GapInFamily
    | Ambiguous
    | CutScope
    | Mismatch
)


@dataclasses.dataclass(frozen=True, slots=True)
class Cause:
    """One mistake, and the problems that it makes.

    Attributes:
        label: The entry; the first of several.
        fact: What is wrong: one line.
        problems: What it explains.
        advice: What to do about it, on the same line; "" if the fact says it.
        details: Lines that say more.
    """

    label: str
    fact: str
    problems: tuple[Problem, ...]
    advice: str = ""
    details: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Fact and advice."""
        return f"{self.fact} {self.advice}".rstrip()

    @property
    def entry(self) -> MapEntry:
        """The first entry that has the mistake."""
        return self.problems[0].entry


def label_of_problems(problems: Sequence[Problem]) -> str:
    """Names the entry of some problems; of several entries, the first."""
    entries = {problem.entry.number: problem.entry for problem in problems}
    first = label_of(problems[0].entry)
    if len(entries) == 1:
        return first
    return and_more(first, len(entries) - 1)


def group_by_key(
    problems: Sequence[Problem], keys: Sequence[Hashable]
) -> list[list[int]]:
    """Groups problems by keys: numbers of each group, in the order of the first."""
    groups: dict[Hashable, list[int]] = {}
    for number, key in enumerate(keys):
        groups.setdefault(key, []).append(number)
    return list(groups.values())


def explain_entries(
    problems: Sequence[SourceNotFound],
    explain: Callable[[Sequence[SourceNotFound]], Cause | None],
) -> tuple[list[Cause], list[SourceNotFound]]:
    """Explains the problems of each entry of the map together, or leaves them.

    Args:
        problems: The problems.
        explain: The problems of one entry -> their cause, if it is known.

    Returns:
        Causes, and the problems that they do not explain.
    """
    causes: list[Cause] = []
    remaining: list[SourceNotFound] = []
    for group in group_by_key(problems, [p.entry.number for p in problems]):
        members = [problems[number] for number in group]
        cause = explain(members)
        if cause is None:
            remaining += members
        else:
            causes.append(cause)
    return causes, remaining
