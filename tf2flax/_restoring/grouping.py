"""Reads of leaves -> groups: what shares a tensor goes together, small neighbours too.

Pure functions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from tf2flax._base.manifest import TensorEntry
from tf2flax._base.tuning import Tuning

from .reads import LeafReads, PartRead, ReadGroup, WholeRead

# What is read, and the numbers of the leaves that need it; at least one.
ReadOfLeaves = tuple[WholeRead | PartRead, set[int]]


def form_groups(
    leaves: Sequence[LeafReads],
    reads: Sequence[ReadOfLeaves],
    fetched_nbytes: Mapping[int, int],
    entry_of: Callable[[str], TensorEntry],
    tuning: Tuning,
) -> tuple[ReadGroup, ...]:
    """Forms groups of leaves that are read and placed together.

    Args:
        leaves: The leaves.
        reads: What is read for them.
        fetched_nbytes: Bytes that leaves read themselves, by number of the leaf.
        entry_of: Finds the entry of a tensor.
        tuning: Up to which size neighbours are joined.

    Returns:
        Groups in the order of the files.
    """
    groups: list[tuple[tuple[str, int], ReadGroup]] = []
    for numbers, group_reads in _components(len(leaves), reads):
        group = _group(
            [leaves[number] for number in numbers],
            group_reads,
            sum(fetched_nbytes.get(number, 0) for number in numbers),
            entry_of,
        )
        place = min(map(_place, group.entries.values()), default=("", 0))
        groups.append((place, group))
    groups.sort(key=lambda placed: placed[0])
    return tuple(_join_small((group for _, group in groups), tuning))


def _components(
    count: int, reads: Sequence[ReadOfLeaves]
) -> Iterable[tuple[list[int], list[WholeRead | PartRead]]]:
    """Sorts leaves, and what they read, into groups that share nothing.

    Leaves are joined by union-find: each points to another of its group, the root to
    itself. Leaves 0 and 2 need tensor `a`, 2 and 3 need `b`::

        0   1   2   3      a: 2 -> 0      0 <- 2   1   3      b: 3 -> 0, the root of 2
    """
    parents = list(range(count))

    def root(number: int) -> int:
        while parents[number] != number:
            # Halves the way for the next search.
            parents[number] = number = parents[parents[number]]
        return number

    for _, leaves in reads:
        if len(leaves) > 1:
            first, *others = leaves
            for number in others:
                parents[root(number)] = root(first)
    groups: dict[int, tuple[list[int], list[WholeRead | PartRead]]] = {}
    for number in range(count):
        groups.setdefault(root(number), ([], []))[0].append(number)
    for read, leaves in reads:
        groups[root(next(iter(leaves)))][1].append(read)
    return groups.values()


def _group(
    leaves: Sequence[LeafReads],
    reads: Sequence[WholeRead | PartRead],
    fetched_nbytes: int,
    entry_of: Callable[[str], TensorEntry],
) -> ReadGroup:
    wholes = tuple(read for read in reads if isinstance(read, WholeRead))
    parts = tuple(read for read in reads if isinstance(read, PartRead))
    nbytes = sum(read.unit.nbytes for read in wholes)
    nbytes += sum(read.view.nbytes for read in parts)
    # What leaves fetch is held until they are put together, as whole tensors are.
    buffered_nbytes = sum(read.unit.nbytes for read in wholes if read.is_buffered)
    names = dict.fromkeys(
        name for leaf_reads in leaves for name in leaf_reads.assignment.sources
    )
    return ReadGroup(
        leaves=tuple(leaves),
        wholes=wholes,
        parts=parts,
        entries={name: entry_of(name) for name in names},
        nbytes=nbytes + fetched_nbytes,
        host_nbytes=sum(leaf_reads.host_nbytes for leaf_reads in leaves)
        + fetched_nbytes
        + buffered_nbytes,
    )


def _place(entry: TensorEntry) -> tuple[str, int]:
    """The file, and the position there, where a tensor begins."""
    return min(
        (piece.path, 0 if piece.data_file is None else piece.span.start)
        for piece in entry.pieces
    )


def _join_small(groups: Iterable[ReadGroup], tuning: Tuning) -> Iterator[ReadGroup]:
    """Joins neighbours that are small."""
    small: list[ReadGroup] = []
    nbytes = 0
    for group in groups:
        is_small = group.host_nbytes <= tuning.small_nbytes
        is_full = nbytes + group.host_nbytes > tuning.group_nbytes
        if small and (is_full or not is_small):
            yield _join(small)
            small, nbytes = [], 0
        if is_small:
            small.append(group)
            nbytes += group.host_nbytes
        else:
            yield group
    if small:
        yield _join(small)


def _join(groups: Sequence[ReadGroup]) -> ReadGroup:
    if len(groups) == 1:
        return groups[0]
    chain = itertools.chain.from_iterable
    return ReadGroup(
        leaves=tuple(chain(group.leaves for group in groups)),
        wholes=tuple(chain(group.wholes for group in groups)),
        parts=tuple(chain(group.parts for group in groups)),
        entries={k: v for group in groups for k, v in group.entries.items()},
        nbytes=sum(group.nbytes for group in groups),
        host_nbytes=sum(group.host_nbytes for group in groups),
    )
