"""What a restore reads and where it goes, as values: leaves, units, views, groups."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tf2flax._assignment.resolution.assignments import Assignment
from tf2flax._base.manifest import TensorEntry
from tf2flax._base.tuning import DEFAULT_TUNING, Tuning
from tf2flax._base.values import Box
from tf2flax._reading.units import ReadUnit, ViewRead


class Copy(NamedTuple):
    """A view of a tensor, and the box of a leaf that it fills.

    A tuple, since there are more than leaves, and it is made in half the time.

    Attributes:
        leaf: Name of the leaf.
        box: The box.
        offset: The view's first element, in the tensor's row-major order.
        strides: Its steps.
        casts: Dtypes that the elements go through before the leaf's own.
        is_all: True if it is all of a unit, in its own order, as for most leaves.
    """

    leaf: str
    box: Box
    offset: int
    strides: tuple[int, ...]
    casts: tuple[np.dtype, ...] = ()
    is_all: bool = False

    @property
    def view(self) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
        """Offset, shape and strides: equal for copies of the same elements."""
        return self.offset, self.box.shape, self.strides


class WholeRead(NamedTuple):
    """A unit that is read whole, and checked.

    Attributes:
        unit: The unit.
        copies: The views of it that fill leaves.
        is_held: True if it is kept besides, for leaves that are put together later.
    """

    unit: ReadUnit
    copies: tuple[Copy, ...]
    is_held: bool = False

    @property
    def is_buffered(self) -> bool:
        """True if all of it is in memory at once, besides what it fills."""
        return self.is_held or not self.unit.is_plain


class PartRead(NamedTuple):
    """A view of a tensor that is read alone.

    Attributes:
        view: The view.
        copies: The boxes of leaves that it fills; all are of this very view.
    """

    view: ViewRead
    copies: tuple[Copy, ...]


class LeafReads(NamedTuple):
    """What is needed of one leaf, or of one portion of it.

    Attributes:
        assignment: What fills it.
        boxes: The boxes that are needed, each once.
        merged_boxes: The same elements in as few boxes as possible.
        is_streamed: True if it is filled while its tensors are read; otherwise it is
            put together when they are there.
        held: Tensors that are kept whole until then; it reads its part of the others.
    """

    assignment: Assignment
    boxes: tuple[Box, ...]
    merged_boxes: tuple[Box, ...]
    is_streamed: bool
    held: tuple[str, ...] = ()

    @property
    def is_filled_in_place(self) -> bool:
        """True if nothing else is needed to put it together but its only array."""
        # A cast needs the elements in the layout's dtype first.
        is_cast = self.assignment.layout.dtype != self.assignment.dtype
        return len(self.boxes) == 1 and not is_cast

    @property
    def host_nbytes(self) -> int:
        """Bytes of host memory: its boxes, and what is put together for them."""
        # A loop, not a generator: it runs for every leaf, and most have one box.
        boxes_nbytes = 0
        for box in self.boxes:
            boxes_nbytes += box.size * self.assignment.dtype.itemsize
        if self.is_streamed or self.is_filled_in_place:
            return boxes_nbytes
        # One merged box at a time.
        largest = max((box.size for box in self.merged_boxes), default=0)
        return boxes_nbytes + largest * self.assignment.layout.dtype.itemsize


@dataclasses.dataclass(frozen=True, slots=True)
class ReadGroup:
    """Leaves that are read and placed together: they share tensors, or are small.

    Attributes:
        leaves: The leaves.
        wholes: What is read whole.
        parts: What is read in part.
        entries: The tensors, by name.
        nbytes: Bytes that are read.
        host_nbytes: Bytes of host memory that it takes until it is placed.
    """

    leaves: tuple[LeafReads, ...]
    wholes: tuple[WholeRead, ...]
    parts: tuple[PartRead, ...]
    entries: Mapping[str, TensorEntry]
    nbytes: int
    host_nbytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class ReadPlan:
    """All that one process reads.

    Attributes:
        groups: What is read and placed together, in the order of the files.
        needed_nbytes: Bytes of the checkpoint that its leaves are made of.
        unverified: Names of the tensors of which parts are read, which no checksum
            covers; sorted.
        portioned: Names of the leaves that are handed on in portions.
        is_local: True if no other machine is asked.
        tuning: How much is read at once.
    """

    groups: tuple[ReadGroup, ...]
    needed_nbytes: int
    unverified: tuple[str, ...]
    portioned: frozenset[str] = frozenset()
    is_local: bool = True
    tuning: Tuning = DEFAULT_TUNING

    @property
    def nbytes(self) -> int:
        """Bytes that are read."""
        return sum(group.nbytes for group in self.groups)

    @property
    def host_nbytes(self) -> int:
        """Bytes that the largest group takes on the host."""
        return max((group.host_nbytes for group in self.groups), default=0)
