"""Tries which permutation of the sources of leaves makes a difference go away.

Leaves that one line of a map fills, in all layers, form a group and change together. A
change is tried in all groups that allow it, then in the groups of one entry, then in
single ones: the same mistake is made in several lines more often than two different
ones. Values are read again, as a restore with the changed line would read them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from tf2flax._assignment.language.entries import MapEntry, Rule
from tf2flax._assignment.language.expressions import Expression, Source
from tf2flax._assignment.layouts.lowering import lower
from tf2flax._assignment.resolution.assignments import Assignment
from tf2flax._assignment.resolution.entry_labels import (
    fills_scope,
    label_of,
    target_of,
)
from tf2flax._assignment.resolution.new_entries import propose_entry
from tf2flax._assignment.resolution.scopes import NameTable
from tf2flax._base.errors import CheckpointError
from tf2flax._base.manifest import Manifest
from tf2flax._base.text import counted

from .comparison import MapChange
from .permutations import (
    Key,
    Permutation,
    exchanged,
    permutations_of,
    regrouped,
    source_names,
)
from .rereading import read_assignments
from .rows import Tolerance, compare_arrays
from .running import RunModel

MAX_RUNS: Final = 64
# Kinds of changes, in the order in which they are tried.
_KINDS: Final = (
    ("group", "reshape", "operands", "exchange", "rows", "forget"),
    ("axes", "side", "slices"),
    ("parts", "split"),
)
_DIGITS: Final = re.compile(r"\d+")


class Trials:
    """Runs of a model with other values in some leaves, and how many there were."""

    def __init__(
        self,
        model: RunModel,
        wanted: Mapping[str, np.ndarray],
        pairs: Mapping[str, str],
        first: str,
        tolerance: Tolerance,
    ) -> None:
        """Notes what is compared.

        Args:
            model: The model.
            wanted: Recorded arrays by name.
            pairs: What the model calls each of them.
            first: Name of the first that differs.
            tolerance: What is near.
        """
        self.model = model
        self.count = 0
        self._wanted = wanted
        self._pairs = pairs
        self._first = first
        self._tolerance = tolerance

    def run(self, values: Mapping[str, np.ndarray]) -> tuple[bool, bool]:
        """Runs once.

        Args:
            values: New values of leaves, by name.

        Returns:
            Whether the first difference is gone, and whether all are.
        """
        self.count += 1
        paths = tuple(dict.fromkeys(self._pairs.values()))
        arrays = self.model.run(values, paths)
        near = {
            name: compare_arrays(
                name, path, arrays[path], self._wanted[name], self._tolerance
            ).ok
            for name, path in self._pairs.items()
        }
        return near[self._first], all(near.values())

    def describe(self, changes: int) -> str:
        """What was tried, in a sentence."""
        runs = counted(self.count, "permutation")
        if changes:
            return f"Tried {runs} of what feeds it."
        if self.count == MAX_RUNS:
            return (
                f"None of {runs} of what feeds it makes it equal; more were not tried."
            )
        return (
            f"None of {runs} of what feeds it makes it equal: look at the layer itself "
            "(epsilon, padding, activation, order of operations), or at its inputs."
        )


@dataclasses.dataclass(frozen=True)
class _Group:
    """Leaves that one line of the map fills, in all layers.

    Attributes:
        entry: The entry.
        assignments: What fills them.
        is_fed: True if one of them feeds the first difference.
    """

    entry: MapEntry
    assignments: tuple[Assignment, ...]
    is_fed: bool


def find_changes(
    plan: Any,
    by_leaf: Mapping[str, Assignment],
    fed: Sequence[Assignment],
    trials: Trials,
) -> tuple[MapChange, ...]:
    """Tries changes of the map, until one makes all equal.

    Args:
        plan: The plan.
        by_leaf: Its assignments, by the leaves of the model.
        fed: Those that feed the first difference.
        trials: Runs the model.

    Returns:
        Those that make the first difference equal, the best first.
    """
    search = _Search(plan, by_leaf, fed)
    changes: list[MapChange] = []
    for key, groups in search.attempts():
        if trials.count == MAX_RUNS:
            break
        values = search.values_of(key, groups)
        if values is None:
            continue
        is_equal, are_all_equal = trials.run(values)
        if is_equal:
            changes.append(search.change_of(key, groups, is_complete=are_all_equal))
        if are_all_equal:
            break
    return tuple(sorted(changes, key=lambda change: not change.makes_all_equal))


class _Search:
    """What may be changed, and what it gives."""

    def __init__(
        self, plan: Any, by_leaf: Mapping[str, Assignment], fed: Sequence[Assignment]
    ) -> None:
        self._manifest: Manifest = plan._job.manifest
        self._names = NameTable(sorted(leaf.name for leaf in plan._job.target.leaves))
        self._leaf_of = {a.leaf: leaf for leaf, a in by_leaf.items()}
        self._groups = _group(by_leaf.values(), {a.leaf for a in fed})
        self._whats: dict[Key, str] = {}
        self._variants = functools.cache(self._variants_of)

    def attempts(self) -> Iterator[tuple[Key, tuple[_Group, ...]]]:
        """Yields what is tried, in order: a change, and the groups that change."""
        keys: dict[Key, list[_Group]] = {}
        for group in (group for group in self._groups if group.is_fed):
            for key, permutation in self._variants(group.assignments[0].leaf).items():
                self._whats.setdefault(key, permutation.what)
                keys.setdefault(key, []).append(group)
        for first, second in self._exchanges():
            key = ("exchange", first, second)
            self._whats[key] = f"`{first}` and `{second}` exchanged"
            keys[key] = [g for g in self._groups if self._is_exchanged(g, key)]
        for kinds in _KINDS:
            chosen = {
                key: list(_subsets(groups, is_exchange=key[0] == "exchange"))
                for key, groups in keys.items()
                if key[0] in kinds
            }
            # Changes of many lines are tried before any change of fewer.
            for turn in range(max(map(len, chosen.values()), default=0)):
                for key, subsets in chosen.items():
                    if turn < len(subsets):
                        yield key, subsets[turn]

    def values_of(
        self, key: Key, groups: Sequence[_Group]
    ) -> dict[str, np.ndarray] | None:
        """Values of the leaves of groups after a change; None where it does not fit."""
        changed: list[Assignment] = []
        for assignment in _members(groups):
            expression = self._changed(assignment, key)
            if expression is None:
                return None
            layout = lower(expression, self._manifest.spec)
            changed.append(
                dataclasses.replace(assignment, expression=expression, layout=layout)
            )
        try:
            values = read_assignments(changed, self._manifest)
        except CheckpointError:  # values that do not fit the dtype, say
            return None
        return {self._leaf_of[leaf]: array for leaf, array in values.items()}

    def change_of(
        self, key: Key, groups: Sequence[_Group], *, is_complete: bool
    ) -> MapChange:
        """Writes a change as lines of a map."""
        lines: list[str] = []
        # Lines are added where they say more than entries that stay.
        is_addition = True
        entries = {group.entry.number: group.entry for group in groups}
        for entry in entries.values():
            of_entry = [group for group in groups if group.entry == entry]
            is_whole = len(of_entry) == sum(g.entry == entry for g in self._groups)
            if is_whole and (line := _changed_line(entry, key)):
                lines.append(line)
                is_addition = False
                continue
            is_addition &= fills_scope(entry) or not is_whole
            lines += [self._line_of(group, key) for group in of_entry]
        return MapChange(
            lines=tuple(lines),
            entries=tuple(map(label_of, entries.values())),
            leaves=tuple(assignment.leaf for assignment in _members(groups)),
            what=self._whats[key],
            is_addition=is_addition,
            makes_all_equal=is_complete,
        )

    def _line_of(self, group: _Group, key: Key) -> str:
        """A line for a group, with captures for the numbers of layers."""
        pairs = [
            (expression, assignment.leaf)
            for assignment in group.assignments
            if (expression := self._changed(assignment, key)) is not None
        ]
        proposed = propose_entry(pairs, self._names)
        return _line(proposed.key, proposed.value)

    def _changed(self, assignment: Assignment, key: Key) -> Expression | None:
        if assignment.box is not None:  # a part of a partitioned variable
            return None
        if key[0] == "exchange":
            changed = exchanged(assignment.expression, key[1], key[2])
            return changed if self._fits(changed, assignment) else None
        permutation = self._variants(assignment.leaf).get(key)
        return None if permutation is None else permutation.expression

    def _variants_of(self, leaf: str) -> dict[Key, Permutation]:
        assignment = next(a for a in _members(self._groups) if a.leaf == leaf)
        if assignment.box is not None or assignment.expression.keeps_leaf:
            return {}
        variants = permutations_of(assignment.expression, self._manifest.spec)
        by_key: dict[Key, Permutation] = {}
        for permutation in (*self._by_rows(assignment), *variants):
            by_key.setdefault(permutation.key, permutation)
        return by_key

    def _by_rows(self, assignment: Assignment) -> Iterator[Permutation]:
        """Rows of a partitioned table by `id % parts`, in the order of ids."""
        expression = assignment.expression
        if not isinstance(expression, Source) or not assignment.shape:
            return
        entry = self._manifest.entry(source_names(expression)[0])
        count, rows = len(entry.pieces), assignment.shape[0]
        if count < 2 or count > rows:
            return
        stored = [row for part in range(count) for row in range(part, rows, count)]
        order = [int(row) for row in np.argsort(stored)]
        what = f'rows of {count} parts that "mod" looks up'
        yield Permutation(("rows", count), expression.take(order), what)

    def _exchanges(self) -> Iterator[tuple[str, str]]:
        """Components of names that another tensor of the same shape has there."""
        siblings: dict[tuple[str, ...], list[str]] = {}
        for name in self._manifest.names:
            for pattern in _patterns(name):
                siblings.setdefault(pattern, []).append(name)
        pairs: dict[tuple[str, str], None] = {}
        for group in (group for group in self._groups if group.is_fed):
            for name in source_names(group.assignments[0].expression)[:1]:
                spec = self._manifest.spec(name)
                for place, pattern in enumerate(_patterns(name)):
                    part = name.split("/")[place]
                    for sibling in siblings[pattern]:
                        another = sibling.split("/")[place]
                        # Layers that differ by a number are the matter of captures.
                        if _DIGITS.sub("#", part) == _DIGITS.sub("#", another):
                            continue
                        if self._manifest.spec(sibling).shape == spec.shape:
                            first, second = sorted((part, another))
                            pairs[first, second] = None
        yield from pairs

    def _is_exchanged(self, group: _Group, key: Key) -> bool:
        assignment = group.assignments[0]
        changed = exchanged(assignment.expression, key[1], key[2])
        if changed == assignment.expression:
            return False
        return self._fits(changed, assignment)

    def _fits(self, expression: Expression, assignment: Assignment) -> bool:
        if any(name not in self._manifest for name in source_names(expression)):
            return False
        try:
            layout = lower(expression, self._manifest.spec)
        except CheckpointError:
            return False
        return layout.shape == assignment.shape


def _group(assignments: Iterable[Assignment], fed: set[str]) -> tuple[_Group, ...]:
    groups: dict[tuple[int, str], list[Assignment]] = {}
    for assignment in assignments:
        key = (assignment.entry.number, _DIGITS.sub("#", assignment.leaf))
        groups.setdefault(key, []).append(assignment)
    return tuple(
        _Group(
            members[0].entry,
            # One that feeds the difference stands for all of them.
            tuple(sorted(members, key=lambda a: a.leaf not in fed)),
            any(a.leaf in fed for a in members),
        )
        for members in groups.values()
    )


def _changed_line(entry: MapEntry, key: Key) -> str:
    """An entry with a change, captures and all; "" where only expressions tell."""
    target = target_of(entry)
    if not target or key[0] not in ("group", "exchange"):
        return ""
    source = entry.source if isinstance(entry, Rule) else Source(entry.source)
    if key[0] == "group":
        changed = regrouped(source, key)
    else:
        changed = exchanged(source, key[1], key[2])
    if changed == source:
        return ""
    if isinstance(entry, Rule):
        return _line(repr(changed), target)
    return _line(changed.pattern if isinstance(changed, Source) else "", target)


def _members(groups: Iterable[_Group]) -> Iterator[Assignment]:
    for group in groups:
        yield from group.assignments


def _subsets(
    groups: Sequence[_Group], *, is_exchange: bool
) -> Iterator[tuple[_Group, ...]]:
    """All groups, those of an entry, those of a tensor, single ones, all but one.

    Of an exchange, those first that feed the difference: the others may be right.
    """
    everything = tuple(groups)
    # One mistake in several lines is more likely than several mistakes.
    by_entry: dict[int, list[_Group]] = {}
    by_tensor: dict[str, list[_Group]] = {}
    for group in groups:
        by_entry.setdefault(group.entry.number, []).append(group)
        name = source_names(group.assignments[0].expression)[0]
        by_tensor.setdefault(name, []).append(group)
    subsets = [
        tuple(g for g in groups if g.is_fed) if is_exchange else (),
        everything,
        *map(tuple, by_entry.values()),
        *map(tuple, by_tensor.values()),
        *((group,) for group in groups),
        *(tuple(g for g in groups if g is not group) for group in groups),
    ]
    seen: set[tuple[int, ...]] = set()
    for subset in subsets:
        identity = tuple(map(id, subset))
        if subset and identity not in seen:
            seen.add(identity)
            yield subset


def _patterns(name: str) -> Iterator[tuple[str, ...]]:
    parts = name.split("/")
    for place in range(len(parts)):
        yield (*parts[:place], "", *parts[place + 1 :])


def _line(key: str, value: str) -> str:
    """A line of a map file."""
    quoted = json.dumps(key) if "'" in key or "\\" in key else f"'{key}'"
    return f"{quoted} = {json.dumps(value)}"
