"""Leaves handed on in the order of their elements, for whoever writes a file of them.

A large leaf that is one whole tensor is never whole on the host: it comes box by box,
each as soon as all before it have come. Its checksum is compared all the same.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from typing import Final

import numpy as np

from tf2flax._assignment.layouts.operations import slice_layout
from tf2flax._assignment.resolution.assignments import Assignment
from tf2flax._base.manifest import Manifest
from tf2flax._base.progress import Advance
from tf2flax._base.tuning import Tuning
from tf2flax._base.values import Box, row_major
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
    in_order = _InOrder(assignment.shape, take)

    def put(leaves: HostLeaves) -> Wait:
        for box, array in leaves[leaf].items():
            in_order.take(box, array)
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
    )


def cut_assignment(assignment: Assignment, box: Box) -> Assignment:
    """What fills a box of a leaf, as a leaf of its own."""
    bounds = zip(box.starts, box.stops, strict=True)
    layout = slice_layout(
        assignment.layout, [(start, 1, stop - start) for start, stop in bounds]
    )
    return dataclasses.replace(assignment, layout=layout, shape=box.shape)


class _InOrder:
    """Hands on boxes of one leaf in the order of its elements.

    Some may be there before their turn: they wait, within what may be in flight.
    """

    def __init__(self, shape: tuple[int, ...], take: TakeElements) -> None:
        self._strides = row_major(shape)
        self._take = take
        self._num_taken = 0
        self._waiting: dict[int, tuple[Box, np.ndarray]] = {}

    def take(self, box: Box, array: np.ndarray) -> None:
        """Takes a box, in any order; of its memory a copy waits."""
        start = sum(map(operator.mul, box.starts, self._strides))
        if start != self._num_taken:
            self._waiting[start] = (box, array.copy())
            return
        self._hand_on(box, array)
        while self._num_taken in self._waiting:
            self._hand_on(*self._waiting.pop(self._num_taken))

    def _hand_on(self, box: Box, array: np.ndarray) -> None:
        self._take(box, array)
        self._num_taken += box.size
