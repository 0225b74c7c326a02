"""Leaves handed on in the order of their elements, for whoever writes a file of them.

A large leaf that is one whole tensor is never whole on the host: it comes box by box,
in the order of the file. Its checksum is compared all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from tf2flax._assignment.resolution.assignments import Assignment
from tf2flax._base.manifest import Manifest
from tf2flax._base.progress import Advance
from tf2flax._base.tuning import Tuning
from tf2flax._base.values import Box
from tf2flax._reading.scheduling import Wait, report_nothing, wait_for_nothing

from .plan_reads import plan_reads
from .run_reads import HostLeaves, run_reads

# Host memory that reads may hold at once (bytes).
IN_FLIGHT_NBYTES: Final = 128 << 20

# Takes a box of a leaf, in memory that may be used again afterwards.
TakeElements = Callable[[Box, np.ndarray], None]


def read_in_order(
    assignment: Assignment,
    manifest: Manifest,
    take: TakeElements,
    *,
    tuning: Tuning,
    verify: bool = True,
    advance: Advance = report_nothing,
) -> None:
    """Reads a leaf, and hands it on in row-major order.

    Args:
        assignment: What fills it.
        manifest: Where the tensors lie.
        take: Takes boxes, each one run of elements that follows the one before; one
            box of all elements, where they are no whole tensor or not many.
        tuning: How much is read at once.
        verify: True compares CRC-32C checksums: what was handed on before one is found
            to differ is damaged.
        advance: Called with bytes that were read and the tensor's name.

    Raises:
        DamagedError: A data file is missing or short, or a checksum differs.
        AssignmentError: Values do not fit the leaf's dtype.
        ReadError: The operating system refuses.
    """
    leaf = assignment.leaf
    # Boxes of other layouts would not be whole rows.
    limits = {leaf: IN_FLIGHT_NBYTES} if assignment.is_whole else {}

    def put(leaves: HostLeaves) -> Wait:
        # Groups come in their order, which is that of the file; of each, its boxes.
        for box in sorted(leaves[leaf], key=lambda box: box.starts):
            take(box, leaves[leaf][box])
        return wait_for_nothing

    run_reads(
        plan_reads(
            [assignment],
            {leaf: (Box.whole(assignment.shape),)},
            manifest,
            limits,
            tuning,
        ),
        put,
        verify=verify,
        max_in_flight_bytes=IN_FLIGHT_NBYTES,
        advance=advance,
        in_order=True,
    )
