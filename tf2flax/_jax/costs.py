"""What a plan costs each process: bytes needed, bytes read, memory.

Works for meshes that do not exist here; reads nothing.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX leaves many of its types unknown; what leaves this file is annotated.

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import jax
from jax.sharding import Sharding

from tf2flax._assignment.resolution.assignments import Assignment
from tf2flax._base.manifest import Manifest
from tf2flax._base.values import Box
from tf2flax._restoring.plan_reads import ReadPlan, plan_reading
from tf2flax._restoring.scheduling import STAGING_NBYTES

from .meshes import (
    ProcessLayout,
    ReadSharding,
    boxes_by_process,
    device_boxes,
    device_processes,
    is_on_host,
    read_shardings,
    split_devices,
)
from .plan_cost import PlanCost, ProcessCost

Strategy = Literal["auto", "local", "read-once"]
STRATEGIES: Final = ("auto", "local", "read-once")
# Smaller leaves are read by every process under "auto": a collective operation takes
# longer than reading them (bytes).
READ_ONCE_NBYTES: Final = 1 << 20


def choose_read_shardings(
    assignments: Sequence[Assignment],
    shardings: Mapping[str, Sharding],
    manifest: Manifest,
    strategy: Strategy,
    split: ProcessLayout | None = None,
) -> dict[str, ReadSharding]:
    """Decides which leaves processes share in reading.

    Args:
        assignments: The leaves.
        shardings: Where they will live.
        manifest: Where the tensors lie.
        strategy: "local", none; "read-once", all of which processes would read any byte
            twice; "auto", those of 1 MiB and more of which they would read each byte
            twice or more.
        split: How devices are split over processes; None takes those they belong to.

    Returns:
        How each of them is read.
    """
    if strategy == "local" or (split.processes if split else jax.process_count()) == 1:
        return {}
    chosen: dict[str, ReadSharding] = {}
    known: dict[Any, ReadSharding | None] = {}  # leaves of layers are alike
    for one in assignments:
        sharding = shardings.get(one.leaf)
        if sharding is None or (strategy == "auto" and one.nbytes < READ_ONCE_NBYTES):
            continue
        if split is None and sharding.is_fully_addressable:
            continue
        is_alike = one.is_whole and not manifest.entry(one.source).is_sliced
        key = (sharding, one.shape, one.stored.name) if is_alike else one.leaf
        if key not in known:
            known[key] = _choose_read_sharding(one, sharding, manifest, strategy, split)
        read_sharding = known[key]
        if read_sharding is not None:
            chosen[one.leaf] = read_sharding
    return chosen


def _choose_read_sharding(
    assignment: Assignment,
    sharding: Sharding,
    manifest: Manifest,
    strategy: Strategy,
    split: ProcessLayout | None,
) -> ReadSharding | None:
    """Finds the way of sharing that reads least, if sharing is worth it."""

    def count(read_sharding: ReadSharding | None = None) -> int:
        return _read_nbytes(assignment, sharding, manifest, split, read_sharding)

    chosen, least = None, count()
    # Under "read-once", a thousandth is left for padding.
    if least < (2 if strategy == "auto" else 1.001) * assignment.nbytes:
        return None
    for read_sharding in read_shardings(sharding, assignment.shape, split):
        nbytes = count(read_sharding)
        if nbytes < 0.99 * least:
            chosen, least = read_sharding, nbytes
        if least <= assignment.nbytes:
            break
    return chosen


def _read_nbytes(
    assignment: Assignment,
    sharding: Sharding,
    manifest: Manifest,
    split: ProcessLayout | None,
    read_sharding: ReadSharding | None = None,
) -> int:
    """Bytes that all processes read of one leaf, taking boxes of one shape as alike."""
    boxes = boxes_by_process(sharding, assignment.shape, split, read_sharding)
    known: dict[tuple[tuple[int, ...], ...], int] = {}
    total = 0
    for own in boxes.values():
        shapes = tuple(box.shape for box in own)
        if shapes not in known:
            reading = plan_reading([assignment], {assignment.leaf: own}, manifest)
            known[shapes] = reading.nbytes
        total += known[shapes]
    return total


def large_leaves(
    assignments: Sequence[Assignment],
    shardings: Mapping[str, Sharding],
    max_in_flight_bytes: int,
) -> frozenset[str]:
    """Finds the leaves that are too large to be on the host at once.

    Args:
        assignments: The leaves.
        shardings: Where they will live; those that live on the host are there anyway.
        max_in_flight_bytes: Host memory that reading takes at once.

    Returns:
        Names of those that come in portions where a process needs so much of them.
    """
    return frozenset(
        one.leaf
        for one in assignments
        if math.prod(one.shape) * one.dtype.itemsize > max_in_flight_bytes
        and not is_on_host(shardings.get(one.leaf))
    )


def count_costs(
    assignments: Sequence[Assignment],
    shardings: Mapping[str, Sharding],
    manifest: Manifest,
    *,
    strategy: Strategy,
    processes: int | None,
    max_in_flight_bytes: int,
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

    Returns:
        The costs.

    Raises:
        AssignmentError: The devices cannot be split so.
    """
    split = split_devices(shardings.values(), processes) if processes else None
    chosen = choose_read_shardings(assignments, shardings, manifest, strategy, split)
    count = processes or jax.process_count()
    boxes: dict[int, dict[str, tuple[Box, ...]]] = {n: {} for n in range(count)}
    device_nbytes = dict.fromkeys(boxes, 0)
    for one in assignments:
        sharding = shardings.get(one.leaf)
        itemsize = one.dtype.itemsize
        if sharding is None:
            for number in boxes:
                boxes[number][one.leaf] = (Box.whole(one.shape),)
                device_nbytes[number] += math.prod(one.shape) * itemsize
            continue
        read_sharding = chosen.get(one.leaf)
        found = boxes_by_process(sharding, one.shape, split, read_sharding)
        for number in boxes:
            boxes[number][one.leaf] = found.get(number, ())
        owners = device_processes(sharding, split)
        held = device_boxes(sharding, one.shape)[0].size * itemsize
        for number in owners:
            device_nbytes[number] += held
    large = large_leaves(assignments, shardings, max_in_flight_bytes)
    portions = dict.fromkeys(large, max_in_flight_bytes)
    readings: dict[tuple[tuple[Box, ...], ...], ReadPlan] = {}
    costs: list[ProcessCost] = []
    for number, own_boxes in boxes.items():
        key = tuple(own_boxes.values())  # replicas need the same
        if key not in readings:
            readings[key] = plan_reading(assignments, own_boxes, manifest, portions)
        reading = readings[key]
        costs.append(
            ProcessCost(
                process=number,
                needed_nbytes=reading.needed_nbytes,
                read_nbytes=reading.nbytes,
                host_nbytes=_peak(reading, max_in_flight_bytes),
                device_nbytes=device_nbytes[number],
            )
        )
    return PlanCost(strategy, tuple(costs))


def _peak(reading: ReadPlan, max_in_flight_bytes: int) -> int:
    """Host memory of a restore at most, besides what stays on the host."""
    total = sum(group.host_nbytes for group in reading.groups)
    bound = max(max_in_flight_bytes, reading.host_nbytes)
    return min(total, bound) + min(reading.nbytes, STAGING_NBYTES)
