"""The cost of a plan for each process: bytes needed, bytes read, memory.

Works for meshes that do not exist here; reads nothing.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX leaves many of its types unknown; what leaves this file is annotated.

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Sharding

from tf2flax._assignment.resolution.assignments import Assignment
from tf2flax._base.manifest import Manifest
from tf2flax._base.tuning import Tuning
from tf2flax._restoring.clusters import (
    ReadCounts,
    cluster_leaves,
    count_reads,
    describe_kind,
    is_placeless,
    largest_group_nbytes,
)
from tf2flax._restoring.reads import ReadPlan

from .box_classes import LeafPlace, classify_processes
from .meshes import ProcessLayout, device_bounds, device_processes, split_devices
from .options import Strategy
from .plan_cost import PlanCost, ProcessCost
from .read_once import choose_read_shardings
from .transfer import large_leaves

# Leaves that share tensors, and no tensor with another leaf.
Cluster = tuple[Assignment, ...]


class _ReadCost(NamedTuple):
    """What reading costs one process.

    Attributes:
        needed_nbytes: Bytes of the checkpoint that its devices need.
        nbytes: Bytes that it reads.
        peak_nbytes: Host memory that it takes at most, besides what stays on the host.
    """

    needed_nbytes: int
    nbytes: int
    peak_nbytes: int


def count_costs(
    assignments: Sequence[Assignment],
    shardings: Mapping[str, Sharding],
    manifest: Manifest,
    *,
    strategy: Strategy,
    processes: int | None,
    max_in_flight_bytes: int,
    tuning: Tuning,
    reads_here: ReadPlan | None = None,
) -> PlanCost:
    """Counts what a plan costs each process.

    Args:
        assignments: What fills each leaf.
        shardings: Where leaves will live; those without one are needed by every
            process.
        manifest: Where the tensors lie.
        strategy: How processes share in reading.
        processes: Over how many processes the devices are split, in their order; None
            takes those they belong to.
        max_in_flight_bytes: Host memory that reading takes at once.
        tuning: How much is read at once.
        reads_here: What this process reads, where that is planned already.

    Returns:
        The costs.

    Raises:
        AssignmentError: The devices cannot be split so.
    """
    layout = split_devices(shardings.values(), processes) if processes else None
    count = processes or jax.process_count()
    if reads_here is not None and count == 1:
        reads = [_cost_of_plan(reads_here, max_in_flight_bytes)]
    else:
        read_shardings = choose_read_shardings(
            assignments, shardings, manifest, strategy, layout, tuning
        )
        places = {
            leaf: LeafPlace(shape, shardings.get(leaf), read_shardings.get(leaf))
            for leaf, shape in ((a.leaf, a.shape) for a in assignments)
        }
        large = large_leaves(assignments, shardings, max_in_flight_bytes)
        counter = _ReadCounter(
            assignments,
            places,
            manifest,
            dict.fromkeys(large, max_in_flight_bytes),
            max_in_flight_bytes,
            tuning,
            layout,
            count,
        )
        reads = counter.costs()
    device_nbytes = _device_nbytes(assignments, shardings, count, layout)
    numbered = enumerate(zip(reads, device_nbytes.tolist(), strict=True))
    costs = tuple(
        ProcessCost(
            process=number,
            needed_nbytes=read.needed_nbytes,
            read_nbytes=read.nbytes,
            host_nbytes=read.peak_nbytes,
            device_nbytes=nbytes,
        )
        for number, (read, nbytes) in numbered
    )
    return PlanCost(strategy, costs)


def _cost_of_plan(reads: ReadPlan, max_in_flight_bytes: int) -> _ReadCost:
    total = sum(group.host_nbytes for group in reads.groups)
    bound = max(max_in_flight_bytes, reads.host_nbytes)
    peak_nbytes = min(total, bound) + _staging_nbytes(reads.nbytes, reads.tuning)
    return _ReadCost(reads.needed_nbytes, reads.nbytes, peak_nbytes)


def _staging_nbytes(read_nbytes: int, tuning: Tuning) -> int:
    """Bytes that readers hold besides the arrays that they fill."""
    return min(read_nbytes, tuning.staging_nbytes)


class _KindCounts(NamedTuple):
    """What processes read of clusters of one kind.

    Attributes:
        clusters: The clusters.
        counts: What a process of each class reads of one of them.
        classes: The class of each process.
    """

    clusters: list[Cluster]
    counts: list[ReadCounts]
    classes: np.ndarray


class _ReadCounter:
    """Counts reads of all processes, those of leaves and processes that are alike once.

    Nothing is done for each leaf of each process: there may be 100,000 of the former
    and thousands of the latter.
    """

    def __init__(
        self,
        assignments: Sequence[Assignment],
        places: Mapping[str, LeafPlace],
        manifest: Manifest,
        limits: Mapping[str, int],
        max_in_flight_bytes: int,
        tuning: Tuning,
        layout: ProcessLayout | None,
        count: int,
    ) -> None:
        """Takes what `count_costs` is given.

        Args:
            assignments: What fills each leaf.
            places: Where each leaf is read.
            manifest: Where the tensors lie.
            limits: Leaves that may come in portions, and bytes of a portion at most.
            max_in_flight_bytes: Host memory that reading takes at once.
            tuning: How much is read at once.
            layout: How devices are split over processes.
            count: Number of processes.
        """
        self._assignments = assignments
        self._places = places
        self._manifest = manifest
        self._entry_of = functools.cache(manifest.entry)
        self._limits = limits
        self._max_in_flight_bytes = max_in_flight_bytes
        self._tuning = tuning
        self._layout = layout
        self._count = count

    def costs(self) -> list[_ReadCost]:
        """Adds up what each process reads of clusters of all kinds."""
        kinds = [self._count_kind(clusters) for clusters in self._sort_by_kind()]
        classes = np.zeros((len(kinds), self._count), np.int64)
        # Bytes needed, read, and on the host.
        totals = np.zeros((self._count, 3), np.int64)
        for i, kind in enumerate(kinds):
            classes[i] = kind.classes
            nbytes = [(c.needed_nbytes, c.nbytes, c.host_nbytes) for c in kind.counts]
            totals += np.array(nbytes, np.int64)[kind.classes] * len(kind.clusters)
        # Processes that read the same of every kind have the same groups.
        largest: dict[bytes, int] = {}
        result: list[_ReadCost] = []
        for number, (needed, read, host) in enumerate(totals.tolist()):
            peak = host
            # Where all leaves fit at once, it does not matter which come together.
            if host > self._max_in_flight_bytes:
                key = classes[:, number].tobytes()
                if key not in largest:
                    largest[key] = self._largest_group_nbytes(kinds, number)
                peak = min(host, max(self._max_in_flight_bytes, largest[key]))
            peak += _staging_nbytes(read, self._tuning)
            result.append(_ReadCost(needed, read, peak))
        return result

    def _sort_by_kind(self) -> list[list[Cluster]]:
        """Sorts clusters of leaves by what is read of them, in whichever process."""
        kinds: dict[Hashable, list[Cluster]] = {}
        for cluster in cluster_leaves(self._assignments):
            places = tuple(self._places[assignment.leaf] for assignment in cluster)
            kind = describe_kind(cluster, self._entry_of, self._limits), places
            kinds.setdefault(kind, []).append(cluster)
        return list(kinds.values())

    def _count_kind(self, clusters: list[Cluster]) -> _KindCounts:
        """Counts what processes read of clusters of one kind."""
        first = clusters[0]
        box_classes = classify_processes(
            [self._places[assignment.leaf] for assignment in first],
            self._layout,
            range(self._count),
            is_placeless=is_placeless(first, self._entry_of),
        )
        classes = np.zeros(self._count, np.int64)
        counts: list[ReadCounts] = []
        for boxes, processes in box_classes:
            classes[processes] = len(counts)
            counts.append(
                count_reads(first, boxes, self._manifest, self._limits, self._tuning)
            )
        return _KindCounts(clusters, counts, classes)

    def _largest_group_nbytes(self, kinds: Sequence[_KindCounts], number: int) -> int:
        """Host memory of the leaves that a process reads together, at most."""
        orders = {a.leaf: order for order, a in enumerate(self._assignments)}
        groups = (
            group
            for kind in kinds
            for cluster in kind.clusters
            for group in kind.counts[kind.classes[number]].group_sizes(
                cluster, orders, self._entry_of
            )
        )
        return largest_group_nbytes(groups, self._tuning)


def _device_nbytes(
    assignments: Sequence[Assignment],
    shardings: Mapping[str, Sharding],
    count: int,
    layout: ProcessLayout | None,
) -> np.ndarray:
    """Bytes of the leaves on all devices of each process."""
    # Leaves of one sharding lie on the same devices.
    by_sharding: dict[Sharding | None, int] = {None: 0}
    for assignment in assignments:
        sharding, size = shardings.get(assignment.leaf), math.prod(assignment.shape)
        if sharding is not None:  # otherwise on one device of every process
            low, high = device_bounds(sharding, assignment.shape)[0].tolist()
            size = math.prod(b - a for a, b in zip(low, high, strict=True))
        nbytes = size * assignment.dtype.itemsize
        by_sharding[sharding] = by_sharding.get(sharding, 0) + nbytes
    result = np.full(count, by_sharding.pop(None), np.int64)
    for sharding, nbytes in by_sharding.items():
        assert sharding is not None
        owners = device_processes(sharding, layout)
        result += np.bincount(owners, minlength=count) * nbytes  # once for each device
    return result
