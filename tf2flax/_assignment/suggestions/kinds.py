"""Kinds of blocks: numbers of layers mean the same only within one of them.

    block_0/bn    block_0/bn_1                     depthwise, project
    block_1/bn    block_1/bn_1    block_1/bn_2     expand, depthwise, project

TensorFlow and Flax number layers in the order in which a block makes them. Where one
block has a layer more, a name stands for another layer in it: such blocks are aligned
apart.
"""

from __future__ import annotations

from collections.abc import Sequence

from .blocks import LAST_NUMBERS, MARK, Family, Group, Numbers, in_order
from .fitting import Alignment


def split_by_kinds(whole: Alignment) -> list[Alignment]:
    """Splits an alignment into one for each kind of blocks, the most common first.

    Args:
        whole: Blocks of both sides.

    Returns:
        The alignment itself where all blocks are of one kind, or where leaves hold all
        of them.
    """
    if whole.target.is_stacked:
        return [whole]
    uneven = find_uneven(whole.source), find_uneven(whole.target)
    if not any(uneven):
        return [whole]
    kinds: dict[object, list[Numbers]] = {}
    for target in whole.target.numbers:
        source = whole.pairs[target][0]
        kind = _names_in(source, uneven[0]), _names_in(target, uneven[1])
        kinds.setdefault(kind, []).append(target)
    if len(kinds) == 1:
        return [whole]
    by_count = sorted(kinds.values(), key=len, reverse=True)
    return [
        Alignment(
            only_blocks(whole.source, [whole.pairs[target][0] for target in targets]),
            only_blocks(whole.target, targets),
            {target: whole.pairs[target] for target in targets},
            whole=whole,
            is_most=targets is by_count[0],
        )
        for targets in by_count
    ]


def only_blocks(group: Group, numbers: Sequence[Numbers]) -> Group:
    """Some of the blocks of a group."""
    kept = set(numbers)
    families = [
        Family(family.pattern, {n: s for n, s in family.members.items() if n in kept})
        for family in group.families
    ]
    families = [family for family in families if family.members]
    return Group(group.prefixes, families, in_order(kept))


def find_uneven(group: Group) -> list[Family]:
    """Families of layers that some blocks number higher than others."""
    stems: dict[str, list[Family]] = {}
    for family in group.families:
        stem = LAST_NUMBERS.sub("", family.pattern.rpartition(MARK)[2])
        stems.setdefault(stem, []).append(family)
    return [
        family
        for families in stems.values()
        if len({frozenset(family.members) for family in families}) > 1
        for family in families
    ]


def _names_in(numbers: Numbers, families: list[Family]) -> frozenset[str]:
    return frozenset(f.pattern for f in families if numbers in f.members)
