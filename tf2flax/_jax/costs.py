"""The cost of a plan for each process: bytes needed, bytes read, memory.

Works for meshes that do not exist here; reads nothing.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX leaves many of its types unknown; what leaves this file is annotated.

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax
from jax.sharding import Sharding

from tf2flax._assignment.resolution.assignments import Assignment
from tf2flax._base.manifest import Manifest
from tf2flax._base.values import Box
from tf2flax._restoring.plan_reads import plan_reads
from tf2flax._restoring.reads import ReadPlan

from .meshes import ProcessLayout, device_boxes, device_processes, split_devices
from .options import Strategy
from .plan_cost import PlanCost, ProcessCost
from .read_once import boxes_by_process, choose_read_shardings
from .transfer import large_leaves

# Boxes that one process needs, by leaf.
BoxesOfLeaves = dict[str, tuple[Box, ...]]


def count_costs(
    assignments: Sequence[Assignment],
    shardings: Mapping[str, Sharding],
    manifest: Manifest,
    *,
    strategy: Strategy,
    processes: int | None,
    max_in_flight_bytes: int,
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
        reads_here: What this process reads, where that is planned already.

    Returns:
        The costs.

    Raises:
        AssignmentError: The devices cannot be split so.
    """
    layout = split_devices(shardings.values(), processes) if processes else None
    boxes = _boxes_of_processes(
        assignments, shardings, manifest, strategy, processes, layout
    )
    device_nbytes = _device_nbytes(assignments, shardings, list(boxes), layout)
    large = large_leaves(assignments, shardings, max_in_flight_bytes)
    portions = dict.fromkeys(large, max_in_flight_bytes)
    plans: dict[tuple[tuple[Box, ...], ...], ReadPlan] = {}
    if reads_here is not None:
        plans[tuple(boxes[jax.process_index()].values())] = reads_here
    costs: list[ProcessCost] = []
    for number, boxes_of_leaves in boxes.items():
        key = tuple(boxes_of_leaves.values())  # replicas need the same
        if key not in plans:
            plans[key] = plan_reads(assignments, boxes_of_leaves, manifest, portions)
        reads = plans[key]
        costs.append(
            ProcessCost(
                process=number,
                needed_nbytes=reads.needed_nbytes,
                read_nbytes=reads.nbytes,
                host_nbytes=_peak_nbytes(reads, max_in_flight_bytes),
                device_nbytes=device_nbytes[number],
            )
        )
    return PlanCost(strategy, tuple(costs))


def _boxes_of_processes(
    assignments: Sequence[Assignment],
    shardings: Mapping[str, Sharding],
    manifest: Manifest,
    strategy: Strategy,
    processes: int | None,
    layout: ProcessLayout | None,
) -> dict[int, BoxesOfLeaves]:
    """Lists the boxes of each leaf that each process needs, in the order of leaves."""
    read_shardings = choose_read_shardings(
        assignments, shardings, manifest, strategy, layout
    )
    count = processes or jax.process_count()
    boxes: dict[int, BoxesOfLeaves] = {number: {} for number in range(count)}
    for assignment in assignments:
        leaf, shape = assignment.leaf, assignment.shape
        sharding = shardings.get(leaf)
        if sharding is None:
            for boxes_of_leaves in boxes.values():
                boxes_of_leaves[leaf] = (Box.whole(shape),)
            continue
        read_sharding = read_shardings.get(leaf)
        by_process = boxes_by_process(sharding, shape, layout, read_sharding)
        for number, boxes_of_leaves in boxes.items():
            boxes_of_leaves[leaf] = by_process.get(number, ())
    return boxes


def _device_nbytes(
    assignments: Sequence[Assignment],
    shardings: Mapping[str, Sharding],
    processes: Sequence[int],
    layout: ProcessLayout | None,
) -> dict[int, int]:
    """Bytes of the leaves on all devices of each process."""
    nbytes = dict.fromkeys(processes, 0)
    for assignment in assignments:
        itemsize = assignment.dtype.itemsize
        sharding = shardings.get(assignment.leaf)
        if sharding is None:  # on one device of every process
            for number in processes:
                nbytes[number] += math.prod(assignment.shape) * itemsize
            continue
        shard = device_boxes(sharding, assignment.shape)[0]
        for number in device_processes(sharding, layout):  # once for each device
            nbytes[number] += shard.size * itemsize
    return nbytes


def _peak_nbytes(reads: ReadPlan, max_in_flight_bytes: int) -> int:
    """Host memory of a restore at most, besides what stays on the host."""
    total = sum(group.host_nbytes for group in reads.groups)
    bound = max(max_in_flight_bytes, reads.host_nbytes)
    return min(total, bound) + min(reads.nbytes, reads.tuning.staging_nbytes)
