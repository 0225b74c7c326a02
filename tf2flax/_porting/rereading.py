"""Assignments -> arrays, read whole as a restore reads them; on the host, unplaced."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tf2flax._assignment.resolution.assignments import Assignment
from tf2flax._base.manifest import Manifest
from tf2flax._base.values import Box
from tf2flax._reading.scheduling import Wait, report_nothing, wait_for_nothing
from tf2flax._restoring.plan_reads import plan_reads
from tf2flax._restoring.run_reads import HostLeaves, run_reads

# Host memory that reads may hold at once, beside the arrays themselves (bytes).
_IN_FLIGHT_NBYTES = 256 << 20


def read_assignments(
    assignments: Sequence[Assignment], manifest: Manifest
) -> dict[str, np.ndarray]:
    """Reads what fills leaves.

    Args:
        assignments: What fills them.
        manifest: Where the tensors lie.

    Returns:
        Arrays by leaf.

    Raises:
        CheckpointError: A value does not fit, or a file is damaged.
    """
    arrays: dict[str, np.ndarray] = {}

    def put(leaves: HostLeaves) -> Wait:
        for leaf, boxes in leaves.items():
            (arrays[leaf],) = boxes.values()
        return wait_for_nothing

    boxes = {a.leaf: (Box.whole(a.shape),) for a in assignments}
    plan = plan_reads(assignments, boxes, manifest, {})
    run_reads(
        plan,
        put,
        verify=False,  # the restore of the plan has done so
        max_in_flight_bytes=_IN_FLIGHT_NBYTES,
        advance=report_nothing,
    )
    return arrays
