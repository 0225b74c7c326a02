"""Repeated blocks: names that differ by a number only, as one family.

    `enc/layer_0/q/kernel`, `enc/layer_1/q/kernel`    ->    `enc/layer_`, `/q/kernel`

A number counts blocks where what follows it is repeated and has several layers. All
families that are counted by the same numbers form a group. Knows nothing of the other
side: `alignment` compares the groups of a checkpoint with those of a target.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Final

from .words import read_part

Shape = tuple[int, ...]
# The numbers that tell the members of a family apart, as they are written.
Numbers = tuple[str, ...]

# Stands for a number in a pattern; no name has it.
MARK: Final = "\0"
_NUMBER: Final = re.compile(r"[0-9]+")
# The number at the end of a component, or nothing: `bn_1`, `bn`.
LAST_NUMBERS: Final = re.compile(r"_?[0-9]*(?=/|$)")
# Levels of blocks within blocks.
_MAX_DEPTH: Final = 4
# So many equal blocks of one layer are a family as well: hidden_0, hidden_1, hidden_2.
_MIN_EQUAL: Final = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """Arrays whose names differ by the numbers of blocks alone.

    Attributes:
        pattern: Their name, `MARK` in place of the numbers.
        members: Shape by numbers. An array that is in no block has the numbers ().
        stack_axis: Axis of blocks of a leaf that holds all of them, stacked; its only
            member then has the shape of one block. None for all others.
    """

    pattern: str
    members: Mapping[Numbers, Shape]
    stack_axis: int | None = None

    @property
    def group(self) -> tuple[str, ...]:
        """What stands before each number; () for what is in no block."""
        return tuple(self.pattern.split(MARK)[:-1])

    @property
    def inner(self) -> str:
        """The name within its block."""
        return self.pattern.rpartition(MARK)[2]

    def name(self, numbers: Numbers) -> str:
        """The name of a member."""
        pieces = self.pattern.split(MARK)
        if len(pieces) == 1:
            return self.pattern
        texts = [piece + number for piece, number in zip(pieces, numbers, strict=False)]
        return "".join(texts) + pieces[-1]

    def expand(self) -> list[Family]:
        """Each member as a family of its own."""
        if self.stack_axis is not None:
            return [self]
        return [Family(self.name(n), {(): shape}) for n, shape in self.members.items()]


def in_order(
    numbers: Iterable[Numbers], levels: Sequence[int] | None = None
) -> list[Numbers]:
    """Sorts numbers by their values.

    Args:
        numbers: Numbers of blocks.
        levels: Which of them counts first, which next; None for as they stand.
    """

    def values(key: Numbers) -> list[tuple[int, str]]:
        texts = key if levels is None else [key[level] for level in levels]
        return [(int(text), text) for text in texts]

    return sorted(numbers, key=values)


def find_families(
    shapes: Mapping[str, Shape], collections_of_leaves: Set[str] = frozenset()
) -> list[Family]:
    """Joins the names of one side into families, in the order of their first names.

    Args:
        shapes: Shapes by name.
        collections_of_leaves: First components of names that do not belong to them:
            what is a block in one collection is one in all of them.

    Examples:
        >>> shapes = {f"h{i}/{n}/w": (2, 2) for i in range(2) for n in "ab"}
        >>> [(f.inner, len(f.members)) for f in find_families(shapes)]
        [('/a/w', 2), ('/b/w', 2)]
    """
    patterns: dict[str, dict[Numbers, Shape]] = {
        name: {(): shape} for name, shape in shapes.items()
    }
    for _ in range(_MAX_DEPTH):
        table = _numbered(patterns)
        repeated = {
            prefix: _repeated(prefix, table[prefix], patterns) for prefix in table
        }
        _extend(repeated, table, collections_of_leaves)
        chosen = _innermost({p: r for p, r in repeated.items() if r})
        if not chosen:
            break
        patterns = _join(patterns, chosen)
    return [Family(pattern, members) for pattern, members in patterns.items()]


# What follows each number behind a prefix.
_Instances = dict[str, set[str]]


def _numbered(patterns: Iterable[str]) -> dict[str, _Instances]:
    """Finds prefixes that stand before several numbers."""
    table: dict[str, _Instances] = {}
    for pattern in patterns:
        for match in _NUMBER.finditer(pattern):
            instances = table.setdefault(pattern[: match.start()], {})
            instances.setdefault(match[0], set()).add(pattern[match.end() :])
    return {prefix: numbers for prefix, numbers in table.items() if len(numbers) > 1}


def _repeated(
    prefix: str, instances: _Instances, patterns: Mapping[str, Mapping[Numbers, Shape]]
) -> frozenset[str]:
    """What is repeated behind the numbers of a prefix; empty if these are no blocks."""
    counts = collections.Counter(text for texts in instances.values() for text in texts)
    repeated = frozenset(text for text, count in counts.items() if count > 1)
    mains = [text for text in repeated if read_part(text).part == "main"]
    layers = {read_part(text).layer for text in mains}
    if len(layers) > 1:
        # What one block alone has, but counts on from what all have, belongs to it.
        stems = {LAST_NUMBERS.sub("", text) for text in repeated}
        return repeated | {t for t in counts if LAST_NUMBERS.sub("", t) in stems}
    if len(mains) != 1 or len(instances) < _MIN_EQUAL:
        return frozenset()
    # Blocks of one layer are blocks only if they are all equal.
    if len({frozenset(texts) for texts in instances.values()}) > 1:
        return frozenset()
    shapes = {
        tuple(patterns[f"{prefix}{number}{text}"].values())
        for number in instances
        for text in mains
    }
    return repeated if len(shapes) == 1 else frozenset()


def _extend(
    repeated: dict[str, frozenset[str]],
    table: Mapping[str, _Instances],
    collections_of_leaves: Set[str],
) -> None:
    """Takes for blocks what is called as blocks of another collection."""
    stems = {
        prefix.partition("/")[2]
        for prefix, texts in repeated.items()
        if texts and prefix.partition("/")[0] in collections_of_leaves
    }
    # Statistics alone have no kernels, by which blocks are recognised.
    for prefix, instances in table.items():
        if prefix.partition("/")[2] in stems and not repeated[prefix]:
            counts = collections.Counter(
                text for texts in instances.values() for text in texts
            )
            repeated[prefix] = frozenset(t for t, count in counts.items() if count > 1)


def _innermost(repeated: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    """The prefixes with no other one behind one of their numbers."""
    outer: set[str] = set()
    for prefix in repeated:
        for match in _NUMBER.finditer(prefix):
            outer.add(prefix[: match.start()])
    return {prefix: texts for prefix, texts in repeated.items() if prefix not in outer}


def _join(
    patterns: Mapping[str, Mapping[Numbers, Shape]],
    chosen: Mapping[str, frozenset[str]],
) -> dict[str, dict[Numbers, Shape]]:
    """Puts `MARK` in place of the numbers behind some prefixes."""
    joined: dict[str, dict[Numbers, Shape]] = {}
    for pattern, members in patterns.items():
        match = next(
            (
                match
                for match in _NUMBER.finditer(pattern)
                if pattern[match.end() :] in chosen.get(pattern[: match.start()], ())
            ),
            None,
        )
        if match is None:
            joined.setdefault(pattern, {}).update(members)
            continue
        prefix = pattern[: match.start()]
        # Blocks within it were joined before: this number goes before theirs.
        place = prefix.count(MARK)
        whole = joined.setdefault(prefix + MARK + pattern[match.end() :], {})
        for numbers, shape in members.items():
            whole[(*numbers[:place], match[0], *numbers[place:])] = shape
    return joined


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """All families that the same numbers count.

    Attributes:
        prefixes: What stands before each number; () for what is in no block.
        families: The families.
        numbers: Numbers of all blocks, in order.
        scope: Scope of the leaves of a stack; "" for all others.
    """

    prefixes: tuple[str, ...]
    families: Sequence[Family]
    numbers: Sequence[Numbers]
    scope: str = ""

    @property
    def is_stacked(self) -> bool:
        """True if each leaf holds all blocks."""
        return self.families[0].stack_axis is not None

    @property
    def label(self) -> str:
        """What the blocks are called, `*` for the number."""
        return self.scope or "*".join((*self.prefixes, ""))


def group_by_numbers(
    families: Iterable[Family], collections_of_leaves: Set[str] = frozenset()
) -> list[Group]:
    """Puts families that the same numbers count into groups.

    Args:
        families: The families of one side.
        collections_of_leaves: First components of names that do not belong to them:
            a block has leaves in several collections.
    """
    groups: dict[tuple[str, ...], list[Family]] = {}
    for family in families:
        prefixes = family.group
        if prefixes:
            first, slash, below = prefixes[0].partition("/")
            if slash and below and first in collections_of_leaves:
                prefixes = (below, *prefixes[1:])
        groups.setdefault(prefixes, []).append(family)
    return [
        Group(
            prefixes,
            members,
            in_order({numbers for family in members for numbers in family.members}),
        )
        for prefixes, members in groups.items()
    ]


def find_stacks(leaves: Mapping[str, Shape], count: int) -> list[Group]:
    """Finds scopes of a target whose leaves may all be stacks of some blocks.

    Args:
        leaves: Shapes by name.
        count: Number of blocks.

    Returns:
        A group for each outermost scope and axis.
    """
    groups: list[Group] = []
    for axis in (0, 1):
        fitting = {
            name
            for name, shape in leaves.items()
            if len(shape) > axis and shape[axis] == count
        }
        for scope in _outermost_scopes(leaves, fitting):
            families = [
                Family(name, {(): shape[:axis] + shape[axis + 1 :]}, axis)
                for name, shape in leaves.items()
                if name.startswith(scope)
            ]
            groups.append(Group(("",), families, [()], scope))
    return groups


def _outermost_scopes(names: Iterable[str], chosen: set[str]) -> list[str]:
    """Scopes of which all leaves are chosen, and no scope above them is such."""
    refused: set[str] = {""}
    scopes: dict[str, int] = {}
    for name in names:
        parts = name.split("/")
        for length in range(1, len(parts)):
            scope = "/".join(parts[:length]) + "/"
            if name in chosen:
                scopes[scope] = scopes.get(scope, 0) + 1
            else:
                refused.add(scope)
    good = {scope for scope in scopes if scope not in refused}
    return [s for s in good if not any(s[: s[:-1].rfind("/") + 1] == g for g in good)]
