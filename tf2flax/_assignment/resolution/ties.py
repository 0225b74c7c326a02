"""Tied leaves: one leaf under several names, for which there are several tensors.

A map fills such a leaf once. Here the same map is resolved as if each name were a leaf.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

from tf2flax._assignment.language.entries import MapEntry
from tf2flax._assignment.language.expressions import Expression
from tf2flax._base.errors import AssignmentError
from tf2flax._base.manifest import Manifest

from .assignments import Assignment, Gap, Leaf, Resolution, Tie
from .claims import Options
from .matching import resolve
from .policies import Policy

# How little of a leaf's name an entry of a scope says.
_SCOPE: Final = 1 << 30


def _weakness(entry: MapEntry) -> int:
    """How little of a leaf's name an entry says: captures, or that it is a scope."""
    target = entry.target
    if isinstance(target, tuple):
        return 0
    if isinstance(target, str):
        return _SCOPE if target.endswith("/") else 0
    return _SCOPE if target.text.endswith("/") else target.captured_components


def find_ties(
    entries: Sequence[MapEntry],
    leaves: Sequence[Leaf],
    manifest: Manifest,
    options: Options,
    resolution: Resolution,
) -> tuple[Tie, ...]:
    """Finds the tensors that belong to tied leaves, besides those that fill them.

    Args:
        entries: The map.
        leaves: All leaves of the target.
        manifest: The checkpoint's names and specs.
        options: How the map is read.
        resolution: What the map means for the leaves.

    Returns:
        The ties, in the order of the leaves; most targets have none.
    """
    tied = [leaf for leaf in leaves if len(leaf.names) > 1]
    if not tied:
        return ()
    apart = [
        dataclasses.replace(leaf, names=(name,))
        for leaf in leaves
        for name in leaf.names
    ]
    keep = Policy(default="keep")
    lenient = dataclasses.replace(options, on_missing=keep, on_mismatch=keep)
    try:
        untied = resolve(entries, apart, manifest, lenient)
    except AssignmentError:  # names of one leaf clash: the map does not tell them apart
        return ()
    by_name = {one.leaf: one for one in untied.assignments}
    gaps = {one.leaf: one for one in untied.mismatched}
    filled = {one.leaf: one for one in resolution.assignments}
    kept = {gap.leaf: gap for gap in resolution.mismatched}
    ties: list[Tie] = []
    for leaf in tied:
        read = filled.get(leaf.name) or kept.get(leaf.name)
        taken: set[Expression | None] = {read.expression} if read else set()
        least = _SCOPE if read is None else _weakness(read.entry)
        twins: list[Assignment] = []
        misfits: list[Gap] = []
        for name in leaf.names:
            one, gap = by_name.get(name), gaps.get(name)
            if any(each and _weakness(each.entry) > least for each in (one, gap)):
                continue  # overridden: another entry names the leaf
            if one is not None and one.expression not in taken:
                taken.add(one.expression)
                twins.append(dataclasses.replace(one, leaf=leaf.name))
            elif gap is not None and gap.expression not in taken:
                taken.add(gap.expression)
                misfits.append(dataclasses.replace(gap, leaf=leaf.name))
        if twins or misfits:
            ties.append(Tie(leaf.name, tuple(twins), tuple(misfits)))
    return tuple(ties)
