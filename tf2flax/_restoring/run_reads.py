"""Runs what `plan_reads` planned: arrays of leaves are filled, and handed on by group.

Knows no device; threads, files and checksums are `_reading`'s.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tf2flax._assignment.layouts.filling import fill_array
from tf2flax._assignment.layouts.nodes import Layout, StridedView, constants_within
from tf2flax._assignment.layouts.steps import ValueRangeError
from tf2flax._base.boxes import distance
from tf2flax._base.collapsing import summarise
from tf2flax._base.dtypes import MisfitCounter, Misfits, cast_into, forced_cast
from tf2flax._base.errors import AssignmentError
from tf2flax._base.manifest import Piece, TensorEntry
from tf2flax._base.memory import aligned_empty, collection_paused, view_at
from tf2flax._base.progress import Advance
from tf2flax._base.tuning import Tuning
from tf2flax._base.values import Box
from tf2flax._reading.checks import check_readable
from tf2flax._reading.destinations import Destination
from tf2flax._reading.parts import count_read_nbytes, read_view_into
from tf2flax._reading.scheduling import (
    Wait,
    count_workers,
    run_groups,
    wait_for_nothing,
)
from tf2flax._reading.strides import strided, strides_of
from tf2flax._reading.targets import SmallRead, UnitReceiver, ViewReceiver
from tf2flax._reading.units import ReadUnit, ViewRead

from .destinations import LeafDestination, within_piece
from .misfits import describe_misfits
from .reads import Copy, LeafReads, PartRead, ReadGroup, ReadPlan, WholeRead

# Arrays by box, of each leaf of a group.
HostLeaves = Mapping[str, Mapping[Box, np.ndarray]]


# Takes leaves over; what it returns waits until their host memory is free again.
PutLeaves = Callable[[HostLeaves], Wait]


def run_reads(
    plan: ReadPlan,
    put: PutLeaves,
    *,
    verify: bool,
    max_in_flight_bytes: int,
    advance: Advance,
    in_order: bool = False,
) -> None:
    """Reads groups of leaves and hands them on, a bounded number of bytes at a time.

    Args:
        plan: What is read.
        put: Called with some groups at a time, in this thread.
        verify: True compares CRC-32C checksums.
        max_in_flight_bytes: Host memory of groups that are begun and not yet handed
            on; a larger group passes alone.
        advance: Called, from several threads, with bytes read and the tensor's name.
        in_order: True hands groups on in their order.

    Raises:
        DamagedError: A data file is missing or short, or a checksum differs.
        AssignmentError: Values do not fit the leaves' dtypes; every leaf is named.
        ReadError: The operating system refuses.
    """
    misfits: dict[str, Misfits] = {}
    refusals: dict[str, str] = {}

    @collection_paused()
    def hand_on(groups: Sequence[LeafArrays]) -> Wait:
        leaves: dict[str, dict[Box, np.ndarray]] = {}
        # A leaf in portions may have several groups here.
        for group in groups:
            for leaf, leaf_misfits in group.misfits.items():
                before = misfits.get(leaf)
                misfits[leaf] = leaf_misfits.joined(before) if before else leaf_misfits
            for leaf, arrays in group.arrays.items():
                leaves[leaf] = leaves[leaf] | arrays if leaf in leaves else arrays
            refusals.update(group.refusals)
        # Once a value does not fit, all that is left to do is to find the others.
        return wait_for_nothing if misfits or refusals else put(leaves)

    is_local, tuning = plan.is_local, plan.tuning
    run_groups(
        (LeafArrays(group, advance, tuning) for group in plan.groups),
        hand_on,
        workers=count_workers(
            plan.nbytes, groups=len(plan.groups), is_local=is_local, tuning=tuning
        ),
        is_local=is_local,
        verify=verify,
        advance=advance,
        max_in_flight_bytes=max_in_flight_bytes,
        tuning=tuning,
        in_order=in_order,
    )
    if misfits or refusals:
        problems = describe_misfits(plan, misfits, refusals)
        raise AssignmentError(summarise(sorted(problems)))


class LeafArrays:
    """What a group of leaves becomes on the host; a target of `_reading`."""

    def __init__(self, group: ReadGroup, advance: Advance, tuning: Tuning) -> None:
        """Allocates nothing yet; `advance` is called with bytes and a tensor's name."""
        self._group = group
        self._advance = advance
        self._tuning = tuning
        self._misfits = MisfitCounter()
        # Why arithmetic has no result for a leaf: integers that leave their dtype.
        self.refusals: dict[str, str] = {}
        # By leaf: a portioned leaf has one group for each portion.
        self._boxes: dict[str, list[LeafBox]] = {}
        # Tensors that are kept until leaves are put together from them.
        self._held: dict[str, np.ndarray] = {}

    @property
    def arrays(self) -> dict[str, dict[Box, np.ndarray]]:
        """The arrays, complete after `finish`."""
        return {
            leaf: {leaf_box.box: leaf_box.array for leaf_box in boxes}
            for leaf, boxes in self._boxes.items()
        }

    @property
    def misfits(self) -> Mapping[str, Misfits]:
        """Values that do not fit the dtypes of their leaves, by leaf."""
        return self._misfits.by_leaf

    @property
    def host_nbytes(self) -> int:
        """Bytes of host memory that it takes until it is placed."""
        return self._group.host_nbytes

    @property
    def small(self) -> list[SmallRead]:
        """Small pieces, and what takes them."""
        return [
            (read.unit.stored, read.unit.entry, _UnitCopies(self, read))
            for read in self._group.wholes
            if read.unit.is_small(self._tuning)
        ]

    @property
    def units(self) -> Sequence[tuple[ReadUnit, UnitReceiver]]:
        """What else is read whole, and what takes it."""
        return [
            (read.unit, _UnitCopies(self, read))
            for read in self._group.wholes
            if not read.unit.is_small(self._tuning)
        ]

    @property
    def views(self) -> Sequence[tuple[ViewRead, ViewReceiver]]:
        """What is read in part, and what takes it."""
        return [(read.view, _ViewCopies(self, read)) for read in self._group.parts]

    def allocate(self) -> None:
        """Makes the arrays.

        Raises:
            UnsupportedError: A dtype holds no array.
        """
        # Also those that leaves fetch themselves, which no unit names.
        for entry in self._group.entries.values():
            check_readable(entry)
        for leaf_reads in self._group.leaves:
            assignment = leaf_reads.assignment
            boxes = self._boxes.setdefault(assignment.leaf, [])
            for box in leaf_reads.boxes:
                leaf_box = LeafBox(
                    assignment.leaf,
                    box,
                    aligned_empty(box.shape, assignment.dtype),
                    self._misfits,
                    is_forced=assignment.is_forced,
                )
                boxes.append(leaf_box)
                # A view alone, as most leaves are, fills all of it.
                is_view = isinstance(assignment.layout, StridedView)
                if leaf_reads.is_streamed and not is_view:
                    _fill_constants(assignment.layout, leaf_box)
        for read in self._group.wholes:
            spec = read.unit.entry.spec
            # Of a tensor in several units, they share one array.
            if read.is_held and read.unit.entry.name not in self._held:
                held = aligned_empty(spec.shape, spec.dtype.numpy)
                self._held[read.unit.entry.name] = held

    def finish(self) -> None:
        """Puts together the leaves that are not filled while their tensors are read.

        Raises:
            DamagedError: A data file is missing or short.
            ReadError: The system or the store refuses.
        """
        for leaf_reads in self._group.leaves:
            if not leaf_reads.is_streamed:
                try:
                    self._put_together(leaf_reads)
                except ValueRangeError as error:
                    self.refusals[leaf_reads.assignment.leaf] = str(error)
        # The group may wait until devices have taken others over.
        self._held.clear()

    def boxes_of(self, copy: Copy) -> list[tuple[LeafBox, Box]]:
        """The arrays that a copy goes into, and the box of the leaf it fills there."""
        return [
            (leaf_box, shared)
            for leaf_box in self._boxes[copy.leaf]
            if (shared := leaf_box.box.intersection(copy.box)) is not None
        ]

    def only_box_of(self, copy: Copy) -> LeafBox | None:
        """The array that a copy goes into, if the leaf has one alone, and it fits."""
        boxes = self._boxes[copy.leaf]
        is_only = len(boxes) == 1 and boxes[0].box.contains(copy.box)
        return boxes[0] if is_only else None

    def held(self, name: str) -> np.ndarray:
        """The array of a tensor that is kept."""
        return self._held[name]

    def _put_together(self, leaf_reads: LeafReads) -> None:
        assignment = leaf_reads.assignment
        layout, boxes = assignment.layout, self._boxes[assignment.leaf]
        # Without another copy of the leaf, where that is possible.
        if leaf_reads.is_filled_in_place:
            fill_array(layout, leaf_reads.boxes[0], boxes[0].array, self._fetch)
            return
        # Boxes that overlap or touch are put together once, then cut and cast.
        for merged_box in leaf_reads.merged_boxes:
            out = aligned_empty(merged_box.shape, layout.dtype)
            fill_array(layout, merged_box, out, self._fetch)
            for leaf_box in boxes:
                shared = leaf_box.box.intersection(merged_box)
                if shared is not None:
                    leaf_box.put(
                        view_at(out, shared.within(merged_box)),
                        leaf_box.part(shared),
                        casts=(),
                        origin=shared.starts,
                    )

    def _fetch(self, view: StridedView, out: np.ndarray) -> None:
        """Fills an array with a view: from a tensor that is held, or from its file."""
        held = self._held.get(view.source)
        if held is not None:
            out[...] = strided(held, view.offset, view.shape, view.strides)
            return
        entry = self._group.entries[view.source]
        read_view_into(entry, view.offset, view.strides, out, self._tuning)
        nbytes = count_read_nbytes(
            entry, view.offset, view.shape, view.strides, self._tuning
        )
        self._advance(nbytes, entry.name)


def _fill_constants(layout: Layout, leaf_box: LeafBox) -> None:
    """Fills what no tensor fills while it is read."""
    for constant, box in constants_within(layout, leaf_box.box):
        elements = np.broadcast_to(constant.value, box.shape)
        leaf_box.put(elements, leaf_box.part(box), casts=(), origin=box.starts)


class LeafBox:
    """A box of a leaf, and the array that holds it.

    Attributes:
        leaf: Name of the leaf.
        box: The box.
        array: Array of its shape and the leaf's dtype.
    """

    __slots__ = ("_is_forced", "_misfits", "array", "box", "leaf")

    def __init__(
        self,
        leaf: str,
        box: Box,
        array: np.ndarray,
        misfits: MisfitCounter,
        *,
        is_forced: bool,
    ) -> None:
        """Takes an array; values that a forced cast changes are not misfits."""
        self.leaf = leaf
        self.box = box
        self.array = array
        self._misfits = misfits
        self._is_forced = is_forced

    def part(self, box: Box) -> np.ndarray:
        """Views the part of the array that holds a box of the leaf, within this one."""
        if box == self.box:  # as for most leaves; an index takes longer
            return self.array
        return view_at(self.array, box.within(self.box))

    def put(
        self,
        elements: np.ndarray,
        part: np.ndarray,
        *,
        casts: tuple[np.dtype, ...],
        origin: tuple[int, ...],
    ) -> None:
        """Casts elements into a part of the array.

        Args:
            elements: What was read.
            part: A view of the array, of the same shape.
            casts: Dtypes that the elements go through before the leaf's own.
            origin: Position of the part's first element in the leaf.
        """
        # The casts that a map asks for change values by intention; only the last one,
        # to the leaf's dtype, is checked.
        for dtype in casts:
            elements = forced_cast(elements, dtype)
        misfits = cast_into(elements, part, is_forced=self._is_forced, origin=origin)
        if misfits:
            self._misfits.add(self.leaf, misfits)


class _UnitCopies:
    """Takes the elements of one unit to the leaves that it fills."""

    __slots__ = ("_arrays", "_read")

    def __init__(self, arrays: LeafArrays, read: WholeRead) -> None:
        self._arrays = arrays
        self._read = read

    def destinations(self, unit: ReadUnit) -> list[Destination]:
        """Parts of the arrays, and of the tensor itself if it is kept."""
        stored = unit.entry.spec.dtype.numpy
        result: list[Destination] = []
        for copy in self._read.copies:
            for leaf_box, shared in self._arrays.boxes_of(copy):
                offset, strides = copy.offset, copy.strides
                # The view of the part: so many steps further along each axis.
                if shared.starts != copy.box.starts:
                    moves = map(operator.sub, shared.starts, copy.box.starts)
                    offset += distance(moves, strides)
                # Its elements come in the piece's order, not in the tensor's.
                if unit.is_box:
                    offset, strides = within_piece(unit, offset, shared.shape, strides)
                result.append(
                    LeafDestination(
                        leaf_box.part(shared),
                        leaf_box.put,
                        in_leaf=shared.starts,
                        is_stored=leaf_box.array.dtype == stored,
                        offset=offset,
                        strides=strides,
                        casts=copy.casts,
                    )
                )
        # Kept as it is stored; leaves that take part of it come later.
        if self._read.is_held:
            held = self._arrays.held(unit.entry.name)
            result.append(Destination(held, offset=0, strides=strides_of(held.shape)))
        return result

    def receive_stored(
        self, entry: TensorEntry, piece: Piece, stored: memoryview
    ) -> None:
        """Copies all elements of a small piece to where they belong."""
        # `frombuffer` refuses buffers without bytes.
        elements = np.ndarray((piece.box.size,), entry.spec.dtype.numpy, stored)
        self.receive(self._read.unit, elements)

    def receive(self, unit: ReadUnit, elements: np.ndarray) -> None:
        """Copies all elements to where they belong."""
        copies = self._read.copies
        if len(copies) == 1 and copies[0].is_all and not self._read.is_held:
            copy = copies[0]
            leaf_box = self._arrays.only_box_of(copy)
            if leaf_box is not None:  # no arithmetic, as for most leaves
                part = leaf_box.part(copy.box)
                leaf_box.put(
                    elements.reshape(part.shape),
                    part,
                    casts=copy.casts,
                    origin=copy.box.starts,
                )
                return
        for destination in self.destinations(unit):
            destination.take(unit.start, elements)


class _ViewCopies:
    """Takes the elements of one view to the leaves that it fills."""

    __slots__ = ("_arrays", "_read")

    def __init__(self, arrays: LeafArrays, read: PartRead) -> None:
        self._arrays = arrays
        self._read = read

    def room_for(self, box: Box) -> np.ndarray | None:
        """The leaf's own memory, if a box of the view fills one array as it is."""
        targets = self._targets(box)
        # Every box of the view is needed by somebody, else it would not be read.
        copy, leaf_box, shared = targets[0]
        stored = self._read.view.entry.spec.dtype.numpy
        if (
            len(targets) > 1
            or shared.shape != box.shape
            or copy.casts
            or leaf_box.array.dtype != stored
        ):
            return None
        return leaf_box.part(shared)

    def receive(self, box: Box, elements: np.ndarray) -> None:
        """Copies a box of the view into all arrays that share it."""
        for copy, leaf_box, shared in self._targets(box):
            # The view begins where the copy's box begins in the leaf.
            in_leaf = box.moved(copy.box.starts)
            leaf_box.put(
                view_at(elements, shared.within(in_leaf)),
                leaf_box.part(shared),
                casts=copy.casts,
                origin=shared.starts,
            )

    def _targets(self, box: Box) -> list[tuple[Copy, LeafBox, Box]]:
        """Arrays that share a box of the view, and the box of the leaf they share."""
        return [
            (copy, leaf_box, shared)
            for copy in self._read.copies
            for leaf_box, in_copy in self._arrays.boxes_of(copy)
            if (shared := in_copy.intersection(box.moved(copy.box.starts))) is not None
        ]
