"""Boxes of leaves -> what a process reads of a checkpoint, in which order.

Whatever is needed whole is read whole, once, and checked; of the rest, the views that
leaves need. Pure functions: nothing is read or allocated here, and no device is known.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from tf2flax._assignment.layouts.filling import views_in_box
from tf2flax._assignment.layouts.nodes import (
    ConstantLayout,
    JoinedLayout,
    Layout,
    StridedView,
    all_views,
)
from tf2flax._assignment.layouts.operations import slice_layout
from tf2flax._assignment.resolution.assignments import Assignment
from tf2flax._base.boxes import boxes_in_run, distance, merge_boxes
from tf2flax._base.manifest import Manifest, TensorEntry
from tf2flax._base.tuning import DEFAULT_TUNING, Tuning
from tf2flax._base.values import Box, is_row_major
from tf2flax._reading.checks import are_local
from tf2flax._reading.parts import count_read_nbytes
from tf2flax._reading.strides import along_axes
from tf2flax._reading.units import ReadUnit, ViewRead, cut_unit, units_of

from .portions import cut_in_portions, limits_of_sole
from .reads import (
    Copy,
    LeafReads,
    PartRead,
    ReadOfLeaves,
    ReadPlan,
    WholeRead,
    form_groups,
    with_coverage,
)


def plan_reads(
    assignments: Iterable[Assignment],
    boxes: Mapping[str, Iterable[Box]],
    manifest: Manifest,
    limits: Mapping[str, int] | None = None,
    tuning: Tuning = DEFAULT_TUNING,
) -> ReadPlan:
    """Finds out what to read for some boxes of leaves.

    Args:
        assignments: What fills each leaf.
        boxes: The boxes that are needed, by leaf; any of them may be listed twice.
        manifest: Where the tensors lie.
        limits: Leaves that are handed on in portions if more than so many bytes of them
            are needed.
        tuning: How much is read at once.

    Returns:
        What is read.

    Raises:
        CheckpointError: An entry is malformed.
    """
    assignments = tuple(assignments)  # which are gone through more than once
    planner = ReadPlanner(manifest, assignments, limits or {}, tuning)
    for assignment in assignments:
        leaf_boxes = tuple(boxes[assignment.leaf])
        if len(leaf_boxes) > 1:
            leaf_boxes = tuple(dict.fromkeys(leaf_boxes))
        planner.add(assignment, leaf_boxes)
    return planner.plan()


@dataclasses.dataclass(slots=True)
class _UnitNeeds:
    """What is needed of one unit, as it is collected.

    Attributes:
        unit: The unit.
        copies: The views of it that fill streamed leaves.
        is_held: True if some leaf keeps all of its tensor.
        leaves: Numbers of all leaves that need it; some may stand there twice.
    """

    unit: ReadUnit
    copies: list[Copy] = dataclasses.field(default_factory=list[Copy])
    is_held: bool = False
    leaves: list[int] = dataclasses.field(default_factory=list[int])

    @property
    def needed(self) -> int:
        """Elements that are needed, at most all of them."""
        # Most units of most models fill one leaf, which needs all of it.
        if self.is_held or self.copies[0].is_all:
            return self.unit.size
        if len(self.copies) == 1:
            return self.copies[0].box.size
        # The same view is needed once, whoever needs it. Other views may overlap.
        sizes = {copy.view: copy.box.size for copy in self.copies}
        return min(self.unit.size, sum(sizes.values()))


class ReadPlanner:
    """What leaves need, as it is collected, leaf by leaf."""

    def __init__(
        self,
        manifest: Manifest,
        assignments: Sequence[Assignment],
        limits: Mapping[str, int],
        tuning: Tuning,
    ) -> None:
        # Decoding an entry takes longer than planning its reads.
        self._entry = functools.cache(manifest.entry)
        self._assignments = assignments
        # Most restores have none.
        self._limits: Mapping[str, int] = (
            limits_of_sole(assignments, limits) if limits else {}
        )
        self._tuning = tuning
        self._portioned: set[str] = set()
        self._leaves: list[LeafReads] = []
        # By name of the tensor, its units in order.
        self._needs: dict[str, tuple[_UnitNeeds, ...]] = {}
        # Views that leaves read themselves, since they need no whole tensor: by number
        # of the leaf, then by tensor.
        self._fetched: dict[int, dict[str, list[StridedView]]] = {}

    @functools.cached_property
    def _mixed(self) -> frozenset[str]:
        """Tensors of which runs are needed that boxes would cut; for sliced ones."""
        return _mixed_sources(self._assignments, self._entry)

    def add(self, assignment: Assignment, boxes: tuple[Box, ...]) -> None:
        """Adds a leaf, or portions of it."""
        if assignment.leaf in self._limits and (
            portions := self._portions_of(assignment, boxes)
        ):
            for portion in portions:
                self._add_boxes(assignment, portion)
            self._portioned.add(assignment.leaf)
        else:
            self._add_boxes(assignment, boxes)

    def _portions_of(
        self, assignment: Assignment, boxes: tuple[Box, ...]
    ) -> tuple[tuple[Box, ...], ...]:
        """Boxes of each portion of a leaf; () where it is needed in one.

        Its tensor is read in units that begin and end where portions do.
        """
        # Only leaves of one tensor, which fills nothing else, have a limit here.
        (view,) = assignment.views
        units = units_of(self._entry(view.source))
        portions = cut_in_portions(
            view,
            boxes,
            assignment.dtype.itemsize,
            self._limits[assignment.leaf],
            self._tuning,
        )
        is_run = all(unit.is_plain and not unit.is_box for unit in units)
        if portions is None or not is_run:
            return ()
        # The checksum of a piece then covers several units, perhaps of several groups.
        self._needs[view.source] = tuple(
            _UnitNeeds(part) for unit in units for part in cut_unit(unit, portions.cuts)
        )
        return portions.boxes

    def _add_boxes(self, assignment: Assignment, boxes: tuple[Box, ...]) -> None:
        """Adds a leaf, or a portion of it, as one number."""
        number = len(self._leaves)
        merged_boxes = merge_boxes(boxes) if len(boxes) > 1 else boxes
        layout = assignment.layout
        if not is_streamed(layout):
            self._add_put_together(assignment, boxes, merged_boxes)
            return
        self._leaves.append(LeafReads(assignment, boxes, merged_boxes, True))
        whole = Box.whole(assignment.shape)
        for merged_box in merged_boxes:
            # Of most leaves of most models all is needed, at once.
            views = (
                all_views(layout)
                if merged_box == whole
                else views_within(layout, merged_box)
            )
            for view, box in views:
                for need in self._needs_of(view.source):
                    for copy in _copies_of(assignment.leaf, view, box, need.unit):
                        need.copies.append(copy)
                        need.leaves.append(number)

    def _add_put_together(
        self,
        assignment: Assignment,
        boxes: tuple[Box, ...],
        merged_boxes: tuple[Box, ...],
    ) -> None:
        """Adds a leaf that is put together once its tensors are there.

        Tensors of which it needs all are held until then; of others it fetches views.
        """
        number = len(self._leaves)
        views: dict[str, list[StridedView]] = {}
        for box in merged_boxes:
            for view in views_in_box(assignment.layout, box):
                views.setdefault(view.source, []).append(view)
        self._fetched[number] = {}
        for source, source_views in views.items():
            needs = self._needs_of(source)
            # Views may overlap, where rows are taken twice; the same view counts once.
            needed = sum(math.prod(view.shape) for view in dict.fromkeys(source_views))
            if needed < sum(need.unit.size for need in needs):
                self._fetched[number][source] = source_views
                continue
            for need in needs:
                need.is_held = True
                need.leaves.append(number)
        held = tuple(name for name in views if name not in self._fetched[number])
        self._leaves.append(LeafReads(assignment, boxes, merged_boxes, False, held))

    def _needs_of(self, name: str) -> tuple[_UnitNeeds, ...]:
        needs = self._needs.get(name)
        if needs is None:
            entry = self._entry(name)
            is_mixed = entry.is_sliced and name in self._mixed
            units = units_of(entry, is_mixed=is_mixed)
            needs = self._needs[name] = tuple(map(_UnitNeeds, units))
        return needs

    def _share_what_is_held(self) -> None:
        """Lets leaves take from tensors that others hold whole, instead of reading."""
        for number, views in self._fetched.items():
            shared = [
                name
                for name in views
                if all(need.is_held for need in self._needs[name])
            ]
            for name in shared:
                del views[name]
                for need in self._needs[name]:
                    need.leaves.append(number)
            if shared:
                leaf_reads = self._leaves[number]
                self._leaves[number] = leaf_reads._replace(
                    held=(*leaf_reads.held, *shared)
                )

    def plan(self) -> ReadPlan:
        """Decides what is read whole, and forms groups."""
        self._share_what_is_held()
        unverified: set[str] = set()
        needed: dict[str, int] = {}
        reads: list[ReadOfLeaves] = []
        for name, needs in self._needs.items():
            for need in needs:
                if not need.leaves:  # a unit of which no box has an element
                    continue
                size = need.needed
                needed[name] = needed.get(name, 0) + size
                parts: Sequence[PartRead] = ()
                if size < need.unit.size:
                    parts = self._part_reads(need)
                # Parts with the gaps between them may be as much as all of it.
                if parts and sum(p.view.nbytes for p in parts) < need.unit.nbytes:
                    reads += [(part, need.leaves) for part in parts]
                    unverified.add(name)
                else:
                    whole = WholeRead(need.unit, tuple(need.copies), need.is_held)
                    reads.append((whole, need.leaves))
        if self._portioned:  # nothing else cuts units
            reads = list(with_coverage(reads, unverified))
        fetched_nbytes: dict[int, int] = {}
        for number, views in self._fetched.items():
            unverified.update(views)
            fetched_nbytes[number] = 0
            for name, source_views in views.items():
                needed[name] = needed.get(name, 0) + sum(
                    math.prod(view.shape) for view in dict.fromkeys(source_views)
                )
                fetched_nbytes[number] += sum(
                    self._count_nbytes(name, view.offset, view.shape, view.strides)
                    for view in source_views
                )
        needed_nbytes = 0
        # Of several views that overlap, no more than the tensor has.
        for name, size in needed.items():
            spec = self._entry(name).spec
            needed_nbytes += min(size, spec.size) * spec.dtype.numpy.itemsize
        return ReadPlan(
            form_groups(self._leaves, reads, fetched_nbytes, self._entry, self._tuning),
            needed_nbytes,
            tuple(sorted(unverified)),
            frozenset(self._portioned),
            is_local=are_local(map(self._entry, self._needs)),
            tuning=self._tuning,
        )

    def _part_reads(self, need: _UnitNeeds) -> list[PartRead]:
        """One read for each view that is needed, whoever needs it."""
        # Tied leaves, and replicas of a shard, share one read.
        copies_of: dict[object, list[Copy]] = {}
        for copy in need.copies:
            copies_of.setdefault(copy.view, []).append(copy)
        entry = need.unit.entry
        result: list[PartRead] = []
        for copies in copies_of.values():
            offset, shape, strides = copies[0].view
            nbytes = self._count_nbytes(entry.name, offset, shape, strides)
            view = ViewRead(entry, offset, shape, strides, nbytes)
            result.append(PartRead(view, tuple(copies)))
        return result

    def _count_nbytes(
        self,
        name: str,
        offset: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
    ) -> int:
        """Bytes that are read for a view, gaps included."""
        return count_read_nbytes(
            self._entry(name), offset, shape, strides, self._tuning
        )


def _mixed_sources(
    assignments: Sequence[Assignment], entry_of: Callable[[str], TensorEntry]
) -> frozenset[str]:
    """Sliced tensors of which some view is no box of it, or that leaves hold whole."""
    mixed: set[str] = set()
    for assignment in assignments:
        for view in assignment.views:
            # Of a view without elements, as beside a constant, nothing is read.
            if 0 in view.shape or not entry_of(view.source).is_sliced:
                continue
            # A leaf that is put together holds the tensor as a whole.
            axes = None
            if is_streamed(assignment.layout):
                axes = along_axes(
                    view.base.shape, view.offset, view.shape, view.strides
                )
            if axes is None or not axes.is_box:
                mixed.add(view.source)
    return frozenset(mixed)


def is_streamed(layout: Layout) -> bool:
    """Tells whether a layout is made of views alone, and of constants.

    Then elements go straight into it while their tensors are read.
    """
    if isinstance(layout, JoinedLayout):
        return all(is_streamed(operand) for _, operand in layout.operands)
    return isinstance(layout, (StridedView, ConstantLayout))


def views_within(layout: Layout, box: Box) -> Iterator[tuple[StridedView, Box]]:
    """Lists the views that make up a box of a streamed layout.

    ::

        layout    +-----+---------+     box    +-----+---------+     a view of `a`,
                  |  a  |    b    |            |  [--|---]     |     a view of `b`
                  +-----+---------+            +-----+---------+

    Args:
        layout: Views, constants and joined ones alone.
        box: The box.

    Yields:
        Views, and the boxes of the layout that they fill.
    """
    if not box.size:
        return
    if isinstance(layout, JoinedLayout):
        for operand_box, operand in layout.placed():
            shared = operand_box.intersection(box)
            if shared is not None:
                in_operand = shared.relative_to(operand_box)
                for view, inner in views_within(operand, in_operand):
                    yield view, inner.moved(operand_box.starts)
        return
    if isinstance(layout, ConstantLayout):  # nothing is read for it
        return
    # A box of a strided view is a strided view.
    bounds = zip(box.starts, box.stops, strict=True)
    view = slice_layout(layout, [(start, 1, stop - start) for start, stop in bounds])
    assert isinstance(view, StridedView)
    yield view, box


def _copies_of(
    leaf: str, view: StridedView, box: Box, unit: ReadUnit
) -> Iterator[Copy]:
    """The parts of a view that lie in a unit, and the boxes of the leaf they fill."""
    if unit.size == view.base.size and not unit.is_box:  # all of the tensor
        is_all = _is_all(view.offset, view.shape, view.strides, view.base.shape)
        yield Copy(leaf, box, view.offset, view.strides, view.casts, is_all)
        return
    if not box.size:
        return
    parts: Iterable[Box | None]
    # A box of the tensor shares a box with a view, if any; a run of it shares several.
    if unit.is_box:
        assert unit.piece is not None
        axes = along_axes(view.base.shape, view.offset, view.shape, view.strides)
        assert axes is not None
        parts = (axes.part_in(unit.piece.box, view.shape),)
    else:
        stop = unit.start + unit.size
        parts = boxes_in_run(view.offset, view.shape, view.strides, unit.start, stop)
    for part in parts:
        if part is not None:
            # From elements of the view to those of the tensor, and to the leaf's.
            offset = view.offset + distance(part.starts, view.strides)
            box_of_part = part.moved(box.starts)
            yield Copy(leaf, box_of_part, offset, view.strides, view.casts)


@functools.lru_cache(maxsize=1024)  # many tensors are alike
def _is_all(
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    base_shape: tuple[int, ...],
) -> bool:
    """True if a view is all elements of a tensor, in their own order."""
    is_as_large = math.prod(shape) == math.prod(base_shape)
    return is_as_large and not offset and is_row_major(shape, strides)
