"""Runs what `plan_reads` planned: leaves are read, and handed on group by group.

When groups begin, and in which threads, is `_reading`'s; knows no device.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from tf2flax._assignment.resolution.assignments import Assignment
from tf2flax._base.collapsing import summarise
from tf2flax._base.dtypes import Misfits
from tf2flax._base.errors import AssignmentError
from tf2flax._base.progress import Advance
from tf2flax._base.values import Box
from tf2flax._reading.scheduling import Wait, count_workers, run_groups

from .leaf_arrays import HostLeaves, LeafArrays
from .reads import ReadPlan

# Takes leaves over; what it returns waits until their host memory is free again.
PutLeaves = Callable[[HostLeaves], Wait]


def run_reads(
    plan: ReadPlan,
    put: PutLeaves,
    *,
    verify: bool,
    max_in_flight_bytes: int,
    advance: Advance,
) -> None:
    """Reads groups of leaves and hands them on, a bounded number of bytes at a time.

    Args:
        plan: What is read.
        put: Called with some groups at a time, in this thread.
        verify: True compares CRC-32C checksums.
        max_in_flight_bytes: Host memory of groups that are begun and not yet handed
            on; a larger group passes alone.
        advance: Called, from several threads, with bytes read and the tensor's name.

    Raises:
        DamagedError: A data file is missing or short, or a checksum differs.
        AssignmentError: Values do not fit the leaves' dtypes; every leaf is named.
        ReadError: The operating system refuses.
    """
    misfits: dict[str, Misfits] = {}

    def hand_on(groups: Sequence[LeafArrays]) -> Wait:
        leaves: dict[str, dict[Box, np.ndarray]] = {}
        # A leaf in portions may have several groups here.
        for group in groups:
            for leaf, leaf_misfits in group.misfits.items():
                before = misfits.get(leaf)
                misfits[leaf] = leaf_misfits.joined(before) if before else leaf_misfits
            for leaf, arrays in group.arrays.items():
                leaves.setdefault(leaf, {}).update(arrays)
        # Once a value does not fit, all that is left to do is to find the others.
        return _wait_for_nothing if misfits else put(leaves)

    run_groups(
        (LeafArrays(group, advance, plan.tuning) for group in plan.groups),
        hand_on,
        workers=count_workers(
            plan.nbytes,
            groups=len(plan.groups),
            is_local=plan.is_local,
            tuning=plan.tuning,
        ),
        is_local=plan.is_local,
        verify=verify,
        advance=advance,
        max_in_flight_bytes=max_in_flight_bytes,
        tuning=plan.tuning,
    )
    if misfits:
        raise AssignmentError(summarise(sorted(_describe_misfits(plan, misfits))))


def _describe_misfits(plan: ReadPlan, misfits: Mapping[str, Misfits]) -> Iterator[str]:
    """Says which leaves have values that do not fit their dtypes."""
    sizes = collections.Counter[str]()
    assignments: dict[str, Assignment] = {}
    # A leaf in portions stands in several groups.
    for leaf_reads in itertools.chain.from_iterable(g.leaves for g in plan.groups):
        assignment = leaf_reads.assignment
        if assignment.leaf in misfits:
            assignments[assignment.leaf] = assignment
            sizes[assignment.leaf] += sum(box.size for box in leaf_reads.boxes)
    for leaf, assignment in assignments.items():
        what = misfits[leaf].describe(sizes[leaf], assignment.dtype)
        yield f"Leaf `{leaf}` cannot take tensor `{assignment.source}`: {what}"


def _wait_for_nothing() -> None:
    """Waits for host memory that was not handed on."""
