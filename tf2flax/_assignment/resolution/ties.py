"""Tied leaves: one leaf with several names, of which several tensors are stored.

A map fills such a leaf once. To find the tensors of its other names, the same map is
resolved again as if each name were a leaf.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final

from tf2flax._assignment.language.entries import MapEntry
from tf2flax._assignment.language.expressions import Expression
from tf2flax._base.errors import AssignmentError
from tf2flax._base.manifest import Manifest

from .assignments import Assignment, Gap, Leaf, Resolution, Tie
from .matching import resolve_map
from .policies import MapOptions, Policy

# Weakness of an entry that reaches a leaf by a scope, more than any number of captures.
_SCOPE: Final = 1 << 30


def find_ties(
    entries: Sequence[MapEntry],
    leaves: Sequence[Leaf],
    manifest: Manifest,
    options: MapOptions,
    resolution: Resolution,
    *,
    x64: bool,
) -> tuple[Tie, ...]:
    """Finds the tensors that belong to tied leaves but do not fill them.

    Args:
        entries: The map.
        leaves: All leaves of the target.
        manifest: The checkpoint's names and specs.
        options: Options that decide what the map means.
        resolution: Meaning of the map for these leaves.
        x64: True if JAX holds 64-bit dtypes.

    Returns:
        The ties, in the order of the leaves; () for most targets.
    """
    tied = [leaf for leaf in leaves if len(leaf.names) > 1]
    if not tied:
        return ()
    untied = _resolve_names_apart(entries, leaves, manifest, options, x64=x64)
    if untied is None:
        return ()
    by_name = _found_for_leaves(untied)
    by_leaf = _found_for_leaves(resolution)
    ties = [_find_tie(leaf, by_leaf.get(leaf.name), by_name) for leaf in tied]
    return tuple(tie for tie in ties if tie.twins or tie.mismatches)


def _resolve_names_apart(
    entries: Sequence[MapEntry],
    leaves: Sequence[Leaf],
    manifest: Manifest,
    options: MapOptions,
    *,
    x64: bool,
) -> Resolution | None:
    """Resolves the map as if each name were a leaf; None if entries then clash."""
    apart = [
        dataclasses.replace(leaf, names=(name,))
        for leaf in leaves
        for name in leaf.names
    ]
    # A source that does not fit another name of a leaf must not fail the restore.
    keep = Policy(default="keep")
    lenient = dataclasses.replace(options, on_missing=keep, on_mismatch=keep)
    try:
        return resolve_map(entries, apart, manifest, lenient, x64=x64)
    except AssignmentError:
        return None


def _found_for_leaves(resolution: Resolution) -> dict[str, Assignment | Gap]:
    """Sources that entries give to leaves, those that do not fit included."""
    gaps: dict[str, Assignment | Gap] = {gap.leaf: gap for gap in resolution.mismatched}
    return gaps | {assignment.leaf: assignment for assignment in resolution.assignments}


def _find_tie(
    leaf: Leaf,
    chosen: Assignment | Gap | None,
    by_name: Mapping[str, Assignment | Gap],
) -> Tie:
    """Finds the sources of a leaf's names that were not chosen for the leaf.

    Args:
        leaf: The leaf.
        chosen: Source that the map gives to the leaf; None if it gives none.
        by_name: Source that it gives to each name by itself.

    Returns:
        The tie, which may be empty.
    """
    seen: set[Expression | None] = {chosen.expression} if chosen else set()
    max_weakness = _SCOPE if chosen is None else _weakness_of(chosen.entry, leaf.names)
    twins: list[Assignment] = []
    mismatches: list[Gap] = []
    for name in leaf.names:
        candidate = by_name.get(name)
        if candidate is None or candidate.expression in seen:
            continue
        # Another entry names the leaf, and so overrides this one on purpose.
        if _weakness_of(candidate.entry, (name,)) > max_weakness:
            continue
        seen.add(candidate.expression)
        if isinstance(candidate, Assignment):
            twins.append(dataclasses.replace(candidate, leaf=leaf.name))
        else:
            mismatches.append(dataclasses.replace(candidate, leaf=leaf.name))
    return Tie(leaf.name, tuple(twins), tuple(mismatches))


def _weakness_of(entry: MapEntry, names: Sequence[str]) -> int:
    """How little of a leaf's name an entry says: captures, or that it is a scope.

    Args:
        entry: The entry.
        names: Names of the leaf; that counts of which the entry says most.
    """
    target = entry.target
    if isinstance(target, tuple):
        return 0
    if isinstance(target, str):
        return _SCOPE if target.endswith("/") else 0
    if target.text.endswith("/"):
        return _SCOPE
    bindings = (target.matches(name) for name in names)
    counts = (target.count_captured(b) for b in bindings if b is not None)
    return min(counts, default=_SCOPE)
