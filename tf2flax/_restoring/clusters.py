"""Leaves that share tensors, and what a process reads of them, counted once for a kind.

Leaves of layers are alike: a process reads of each what it reads of the first. Pure
functions; what is really read is planned by `plan_reads`, leaf by leaf.
"""

from __future__ import annotations

import dataclasses
from collections.abc import (
    Callable,
    Collection,
    Hashable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from typing import Final, NamedTuple

from tf2flax._assignment.layouts.nodes import JoinedLayout, StridedView
from tf2flax._assignment.resolution.assignments import Assignment
from tf2flax._base.manifest import Manifest, TensorEntry
from tf2flax._base.tuning import DEFAULT_TUNING, Tuning
from tf2flax._base.values import Box

from .plan_reads import plan_reads
from .reads import join_leaves, join_small, place_of


def cluster_leaves(assignments: Sequence[Assignment]) -> list[tuple[Assignment, ...]]:
    """Sorts leaves into clusters that share no tensor with each other.

    Args:
        assignments: What fills each leaf.

    Returns:
        Clusters, and the leaves of each, in their order.
    """
    users: dict[str, list[int]] = {}
    for number, assignment in enumerate(assignments):
        for source in assignment.sources:
            users.setdefault(source, []).append(number)
    roots = join_leaves(len(assignments), users.values())
    clusters: dict[int, list[Assignment]] = {}
    for root, assignment in zip(roots, assignments, strict=True):
        clusters.setdefault(root, []).append(assignment)
    return [tuple(cluster) for cluster in clusters.values()]


def describe_kind(
    cluster: Iterable[Assignment],
    entry_of: Callable[[str], TensorEntry],
    large: Collection[str] = (),
) -> Hashable:
    """Describes leaves but for the names of leaves and tensors.

    Args:
        cluster: The leaves.
        entry_of: Finds the entry of a tensor.
        large: Names of leaves that may come in portions.

    Returns:
        A key: of clusters of one kind, the same boxes take the same reads.
    """
    numbers: dict[str, int] = {}
    leaves = [
        (_nameless(a.layout, numbers), a.shape, a.dtype, a.leaf in large)
        for a in cluster
    ]
    entries = [_describe_entry(entry_of(name)) for name in numbers]
    return tuple(leaves), tuple(entries)


def _nameless(value: object, numbers: dict[str, int]) -> Hashable:
    """A layout, or what a layout holds, with numbers in place of names of tensors."""
    if isinstance(value, StridedView):
        number = numbers.setdefault(value.source, len(numbers))
        return number, value.offset, value.shape, value.strides, value.casts
    if isinstance(value, JoinedLayout):
        operands = ((at, _nameless(node, numbers)) for at, node in value.operands)
        return value.shape, tuple(operands)
    if not dataclasses.is_dataclass(value):
        return value  # a number, a shape, rows
    fields = [getattr(value, field.name) for field in dataclasses.fields(value)]
    return type(value), *(_nameless(field, numbers) for field in fields)


def _describe_entry(entry: TensorEntry) -> Hashable:
    """What decides how a tensor is read, wherever it lies."""
    if not entry.is_sliced:  # most tensors of most checkpoints
        piece = entry.pieces[0]
        return entry.spec, piece.nbytes, piece.is_local, piece.data_file is None
    return entry.spec, *(
        (piece.box, piece.nbytes, piece.is_local, piece.data_file is None)
        for piece in entry.pieces
    )


def is_placeless(
    cluster: Sequence[Assignment], entry_of: Callable[[str], TensorEntry]
) -> bool:
    """Tells whether boxes that differ in their place alone take the same reads.

    So they do of one leaf that is a view of one piece of a file: elements between two
    of the view, which are read or skipped, are as many everywhere.

    Args:
        cluster: The leaves.
        entry_of: Finds the entry of a tensor.
    """
    if len(cluster) > 1 or not isinstance(cluster[0].layout, StridedView):
        return False
    entry = entry_of(cluster[0].layout.source)
    return not entry.is_sliced and entry.pieces[0].data_file is not None


class GroupSize(NamedTuple):
    """Leaves that are read together, before small neighbours are joined.

    Attributes:
        place: The file, and the position there, where their first tensor begins.
        order: The number of the first of them among all leaves, which decides where
            places are equal.
        host_nbytes: Bytes of host memory that they take.
    """

    place: tuple[str, int]
    order: int
    host_nbytes: int


class ReadCounts(NamedTuple):
    """What one process reads of a cluster.

    Attributes:
        needed_nbytes: Bytes of the checkpoint that its boxes are made of.
        nbytes: Bytes that it reads.
        groups: Of each group, numbers of the leaves in the cluster, each once, and
            bytes of host memory.
    """

    needed_nbytes: int
    nbytes: int
    groups: tuple[tuple[tuple[int, ...], int], ...]

    @property
    def host_nbytes(self) -> int:
        """Bytes of host memory that all groups take."""
        return sum(host_nbytes for _, host_nbytes in self.groups)

    def group_sizes(
        self,
        cluster: Sequence[Assignment],
        orders: Mapping[str, int],
        entry_of: Callable[[str], TensorEntry],
    ) -> Iterator[GroupSize]:
        """Sizes and places of the groups, of any cluster of the same kind.

        Args:
            cluster: The leaves.
            orders: Numbers of all leaves, by name.
            entry_of: Finds the entry of a tensor.
        """
        for numbers, host_nbytes in self.groups:
            leaves = [cluster[number] for number in numbers]
            sources = [name for leaf in leaves for name in leaf.sources]
            place = min(map(place_of, map(entry_of, sources)), default=("", 0))
            yield GroupSize(place, orders[leaves[0].leaf], host_nbytes)


# Small neighbours stay apart, since those of other clusters may lie between them.
_APART: Final = -1


def count_reads(
    cluster: Sequence[Assignment],
    boxes: Sequence[tuple[Box, ...]],
    manifest: Manifest,
    limits: Mapping[str, int] | None = None,
    tuning: Tuning = DEFAULT_TUNING,
) -> ReadCounts:
    """Counts what a process reads of a cluster.

    Args:
        cluster: The leaves.
        boxes: The boxes of each that it needs.
        manifest: Where the tensors lie.
        limits: As `plan_reads`.
        tuning: How much is read at once.

    Returns:
        The counts.
    """
    names = [assignment.leaf for assignment in cluster]
    numbers = {name: number for number, name in enumerate(names)}
    tuning = dataclasses.replace(tuning, small_nbytes=_APART)
    needed = dict(zip(names, boxes, strict=True))
    plan = plan_reads(cluster, needed, manifest, limits, tuning)
    groups: list[tuple[tuple[int, ...], int]] = []
    for group in plan.groups:
        leaves = dict.fromkeys(leaf.assignment.leaf for leaf in group.leaves)
        groups.append((tuple(numbers[leaf] for leaf in leaves), group.host_nbytes))
    return ReadCounts(plan.needed_nbytes, plan.nbytes, tuple(groups))


def largest_group_nbytes(
    groups: Iterable[GroupSize], tuning: Tuning = DEFAULT_TUNING
) -> int:
    """Bytes of host memory of the largest group once small neighbours are joined.

    Args:
        groups: The groups; those of one leaf in the order of its portions.
        tuning: Up to which size neighbours are joined.
    """
    ordered = sorted(groups, key=lambda group: (group.place, group.order))
    joined = join_small(ordered, tuning)
    return max(
        (sum(group.host_nbytes for group in neighbours) for neighbours in joined),
        default=0,
    )
