"""Costs of a plan counted the slow way: every leaf of every process is planned.

As plainly as it can be said, to compare with: no kinds of leaves, no classes of
processes, and nothing is remembered but which way of sharing a leaf takes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from jax.sharding import Sharding

from tf2flax._assignment.resolution.assignments import Assignment
from tf2flax._base.manifest import Manifest
from tf2flax._base.tuning import Tuning
from tf2flax._base.values import Box
from tf2flax._jax import read_once
from tf2flax._jax.box_classes import ReadSharding
from tf2flax._jax.meshes import (
    ProcessLayout,
    clipped,
    device_boxes,
    device_processes,
    split_devices,
)
from tf2flax._jax.options import Strategy
from tf2flax._jax.plan_cost import PlanCost, ProcessCost
from tf2flax._jax.read_once import read_shardings
from tf2flax._jax.transfer import large_leaves
from tf2flax._restoring.plan_reads import plan_reads

Boxes = Mapping[int, tuple[Box, ...]]


def slow_costs(
    assignments: Sequence[Assignment],
    shardings: Mapping[str, Sharding],
    manifest: Manifest,
    strategy: Strategy,
    processes: int,
    max_in_flight_bytes: int,
    tuning: Tuning,
) -> PlanCost:
    """As `costs.count_costs`."""
    split = split_devices(shardings.values(), processes)
    boxes: dict[str, Boxes] = {}
    for assignment in assignments:
        sharding = shardings.get(assignment.leaf)
        if sharding is None:
            whole = (Box.whole(assignment.shape),)
            boxes[assignment.leaf] = dict.fromkeys(range(processes), whole)
            continue
        chosen = choose(assignment, sharding, manifest, strategy, split, tuning)
        boxes[assignment.leaf] = boxes_read(sharding, assignment.shape, split, chosen)
    large = large_leaves(assignments, shardings, max_in_flight_bytes)
    limits = dict.fromkeys(large, max_in_flight_bytes)
    costs: list[ProcessCost] = []
    for process in range(processes):
        needed = {leaf: of_leaf.get(process, ()) for leaf, of_leaf in boxes.items()}
        reads = plan_reads(assignments, needed, manifest, limits, tuning)
        total = sum(group.host_nbytes for group in reads.groups)
        peak = min(total, max(max_in_flight_bytes, reads.host_nbytes))
        costs.append(
            ProcessCost(
                process,
                reads.needed_nbytes,
                reads.nbytes,
                peak + min(reads.nbytes, reads.tuning.staging_nbytes),
                device_nbytes(assignments, shardings, process, split),
            )
        )
    return PlanCost(strategy, tuple(costs))


def boxes_read(
    sharding: Sharding,
    shape: tuple[int, ...],
    split: ProcessLayout,
    read_sharding: ReadSharding | None,
) -> Boxes:
    """What of a leaf each process reads, device by device."""
    boxes: Sequence[Box | None] = device_boxes(sharding, shape)
    if read_sharding is not None:
        padded = device_boxes(read_sharding.sharding, read_sharding.shape)
        boxes = [clipped(box, shape) for box in padded]
    owners = device_processes(sharding, split)
    by_process: dict[int, dict[Box, None]] = {owner: {} for owner in owners}
    for owner, box in zip(owners, boxes, strict=True):
        if box is not None:
            by_process[owner][box] = None
    return {owner: tuple(held) for owner, held in by_process.items()}


def choose(
    assignment: Assignment,
    sharding: Sharding,
    manifest: Manifest,
    strategy: Strategy,
    split: ProcessLayout,
    tuning: Tuning,
) -> ReadSharding | None:
    """How processes share in reading a leaf."""
    is_small = strategy == "auto" and assignment.nbytes < read_once.READ_ONCE_NBYTES
    if strategy == "local" or split.processes == 1 or is_small:
        return None

    def count(read_sharding: ReadSharding | None) -> int:
        by_shapes: dict[object, int] = {}
        total = 0
        boxes = boxes_read(sharding, assignment.shape, split, read_sharding)
        for held in boxes.values():
            # Boxes of one shape are taken as alike: it is but a choice.
            shapes = tuple(box.shape for box in held)
            if shapes not in by_shapes:
                needed = {assignment.leaf: held}
                reads = plan_reads([assignment], needed, manifest, tuning=tuning)
                by_shapes[shapes] = reads.nbytes
            total += by_shapes[shapes]
        return total

    chosen, least = None, count(None)
    if least < (2 if strategy == "auto" else 1.001) * assignment.nbytes:
        return None
    for read_sharding in read_shardings(sharding, assignment.shape, split):
        nbytes = count(read_sharding)
        if nbytes < 0.99 * least:
            chosen, least = read_sharding, nbytes
        if least <= assignment.nbytes:
            break
    return chosen


def device_nbytes(
    assignments: Sequence[Assignment],
    shardings: Mapping[str, Sharding],
    process: int,
    split: ProcessLayout,
) -> int:
    """Bytes of the leaves on all devices of a process."""
    nbytes = 0
    for assignment in assignments:
        itemsize = assignment.dtype.itemsize
        sharding = shardings.get(assignment.leaf)
        if sharding is None:
            nbytes += math.prod(assignment.shape) * itemsize
            continue
        boxes = device_boxes(sharding, assignment.shape)
        owners = device_processes(sharding, split)
        for owner, box in zip(owners, boxes, strict=True):
            nbytes += box.size * itemsize * (owner == process)
    return nbytes
