"""Boxes of leaves -> what a process reads of a checkpoint, in which order.

Whatever is needed whole is read whole, once, and checked; of the rest, the views that
leaves need. Pure functions: nothing is read or allocated here, and no device is known.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from tf2flax._assignment.layouts.filling import views_in_box
from tf2flax._assignment.layouts.nodes import JoinedLayout, Layout, StridedView
from tf2flax._assignment.layouts.operations import slice_layout
from tf2flax._assignment.resolution.assignments import Assignment
from tf2flax._base.boxes import boxes_in_run, distance, merge_boxes
from tf2flax._base.manifest import EncodedPiece, Manifest, Piece, TensorEntry
from tf2flax._base.values import Box
from tf2flax._reading.parts import count_read_nbytes
from tf2flax._reading.runs import along_axes
from tf2flax._reading.whole import SMALL_NBYTES

from .portions import cut_in_portions

# Small leaves whose tensors are neighbours are read, and placed, together until they
# take this much (bytes).
GROUP_NBYTES: Final = 4 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class ReadUnit:
    """What is read and checked at once where all of it is needed.

    Attributes:
        entry: The tensor.
        piece: The piece of it; None for all pieces of a tensor that is not cut along
            its first axis.
        start: First element, in the tensor's row-major order.
        size: Number of elements.
        nbytes: Bytes that it takes on disk.
        skipped: Elements of the piece that come before it, where it is a part of one.
        is_box: Whether the piece is no run of the tensor's elements, but a box of it;
            then elements are counted in the piece's own row-major order.
    """

    entry: TensorEntry
    piece: Piece | EncodedPiece | None
    start: int
    size: int
    nbytes: int
    skipped: int = 0
    is_box: bool = False

    @property
    def is_cut(self) -> bool:
        """Whether it is a part of a piece, whose checksum covers others too."""
        return self.piece is not None and self.nbytes != self.piece.nbytes


@dataclasses.dataclass(frozen=True, slots=True)
class Copy:
    """A view of a tensor, and the box of a leaf that it fills.

    Attributes:
        leaf: Name of the leaf.
        box: The box.
        offset: The view's first element, in the tensor's row-major order.
        strides: Its steps.
        casts: Dtypes that the elements go through before the leaf's own.
    """

    leaf: str
    box: Box
    offset: int
    strides: tuple[int, ...]
    casts: tuple[np.dtype, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class WholeRead:
    """A unit that is read whole, and checked.

    Attributes:
        unit: The unit.
        demands: What of it goes where.
        is_held: Whether it is kept besides, for leaves that are put together later.
        is_covered: Whether all that its checksum covers is read.
    """

    unit: ReadUnit
    demands: tuple[Copy, ...]
    is_held: bool = False
    is_covered: bool = True

    @property
    def is_buffered(self) -> bool:
        """Whether all of it is in memory at once, besides what it fills."""
        return self.is_held or not isinstance(self.unit.piece, Piece)


@dataclasses.dataclass(frozen=True, slots=True)
class PartRead:
    """A view of a tensor that is read alone; all demands are for the same view."""

    entry: TensorEntry
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    demands: tuple[Copy, ...]
    nbytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class LeafReads:
    """What is needed of one leaf, or of one portion of it.

    Attributes:
        assignment: What fills it.
        boxes: The boxes that are needed, each once.
        regions: The same elements in as few boxes as possible.
        is_streamed: Whether it is filled while its tensors are read; otherwise it is
            put together when they are there.
        held: Tensors that are kept whole until then; it reads its part of the others.
    """

    assignment: Assignment
    boxes: tuple[Box, ...]
    regions: tuple[Box, ...]
    is_streamed: bool
    held: tuple[str, ...] = ()

    @property
    def is_filled_in_place(self) -> bool:
        """Whether nothing else is needed to put it together but its only array."""
        is_cast = self.assignment.layout.dtype != self.assignment.dtype
        return len(self.boxes) == 1 and not is_cast


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

    @property
    def place(self) -> tuple[str, int]:
        """Where the first byte of its tensors lies."""
        places = [_place(entry) for entry in self.entries.values()]
        return min(places, default=("", 0))


@dataclasses.dataclass(frozen=True, slots=True)
class ReadPlan:
    """All that one process reads.

    Attributes:
        groups: What is read and placed together, in the order of the files.
        needed_nbytes: Bytes of the checkpoint that its leaves are made of.
        unverified: Names of the tensors of which parts are read, which no checksum
            covers; sorted.
        portioned: Names of the leaves that are handed on in portions.
    """

    groups: tuple[ReadGroup, ...]
    needed_nbytes: int
    unverified: tuple[str, ...]
    portioned: frozenset[str] = frozenset()

    @property
    def nbytes(self) -> int:
        """Bytes that are read."""
        return sum(group.nbytes for group in self.groups)

    @property
    def host_nbytes(self) -> int:
        """Bytes that the largest group takes on the host."""
        return max((group.host_nbytes for group in self.groups), default=0)


def plan_reading(
    assignments: Iterable[Assignment],
    boxes: Mapping[str, Iterable[Box]],
    manifest: Manifest,
    large: Mapping[str, int] | None = None,
) -> ReadPlan:
    """Finds out what to read for some boxes of leaves.

    Args:
        assignments: What fills each leaf.
        boxes: The boxes that are needed, by leaf; any of them may be listed twice.
        manifest: Where the tensors lie.
        large: Leaves that are handed on in portions if more than so many bytes of them
            are needed.

    Returns:
        What is read.

    Raises:
        CheckpointError: An entry is malformed.
    """
    assignments = tuple(assignments)
    needs = ReadPlanner(manifest, assignments, _sole_sources(assignments, large or {}))
    for assignment in assignments:
        needs.add(assignment, tuple(dict.fromkeys(boxes[assignment.leaf])))
    return needs.reading()


@dataclasses.dataclass(slots=True)
class _Tally:
    """What is demanded of one unit, as it is collected.

    Attributes:
        unit: The unit.
        demands: What streamed leaves demand of it.
        is_held: Whether some leaf keeps all of its tensor.
        leaves: Numbers of all leaves that need it.
    """

    unit: ReadUnit
    demands: list[Copy]
    is_held: bool
    leaves: set[int]

    @property
    def needed(self) -> int:
        """Elements that are needed, at most all of them."""
        if self.is_held:
            return self.unit.size
        if len(self.demands) == 1:
            return self.demands[0].box.size
        shapes = {_view_of(demand): demand.box.size for demand in self.demands}
        return min(self.unit.size, sum(shapes.values()))


class ReadPlanner:
    """What leaves need, as it is collected."""

    def __init__(
        self,
        manifest: Manifest,
        assignments: Sequence[Assignment],
        large: Mapping[str, int],
    ) -> None:
        self._entry = functools.cache(manifest.entry)
        self._mixed = _mixed_sources(assignments, self._entry)
        self._large = large
        self._portioned: set[str] = set()
        self._leaves: list[LeafReads] = []
        self._tallies: dict[str, tuple[_Tally, ...]] = {}
        # Views that leaves read themselves, since they need no whole tensor.
        self._pulled: dict[int, dict[str, list[StridedView]]] = {}

    def add(self, assignment: Assignment, boxes: tuple[Box, ...]) -> None:
        """Adds a leaf, or portions of it."""
        if assignment.leaf in self._large and (
            portions := self._portions_of(assignment, boxes)
        ):
            for own in portions:
                self._add(assignment, own)
            self._portioned.add(assignment.leaf)
        else:
            self._add(assignment, boxes)

    def _portions_of(
        self, assignment: Assignment, boxes: tuple[Box, ...]
    ) -> tuple[tuple[Box, ...], ...]:
        """Boxes of each portion of a leaf; () where it is needed in one.

        Its tensor is read in units that begin and end where portions do.
        """
        (view,) = assignment.views
        entry = self._entry(view.source)
        units = units_of(entry)
        portions = cut_in_portions(
            view, boxes, assignment.dtype.itemsize, self._large[assignment.leaf]
        )
        is_run = all(isinstance(u.piece, Piece) and not u.is_box for u in units)
        if portions is None or not is_run:
            return ()
        cut_units = [part for unit in units for part in _cut(unit, portions.cuts)]
        self._tallies[view.source] = tuple(
            _Tally(u, [], False, set()) for u in cut_units
        )
        return portions.boxes

    def _add(self, assignment: Assignment, boxes: tuple[Box, ...]) -> None:
        number = len(self._leaves)
        regions = merge_boxes(boxes) if len(boxes) > 1 else boxes
        if not is_streamed(assignment.layout):
            self._add_mixed(assignment, boxes, regions)
            return
        self._leaves.append(LeafReads(assignment, boxes, regions, is_streamed=True))
        whole = Box.whole(assignment.shape)
        if assignment.is_whole and list(regions) == [whole]:
            (view,) = assignment.views
            tallies = self._tallies_of(view.source)
            if len(tallies) == 1:  # most leaves of most models
                tally = tallies[0]
                tally.demands.append(
                    Copy(assignment.leaf, whole, 0, view.strides, view.casts)
                )
                tally.leaves.add(number)
                return
        for region in regions:
            for view, box in views_within(assignment.layout, region):
                for tally in self._tallies_of(view.source):
                    for demand in _demands(assignment.leaf, view, box, tally.unit):
                        tally.demands.append(demand)
                        tally.leaves.add(number)

    def _add_mixed(
        self,
        assignment: Assignment,
        boxes: tuple[Box, ...],
        regions: tuple[Box, ...],
    ) -> None:
        number = len(self._leaves)
        views: dict[str, list[StridedView]] = {}
        for region in regions:
            for view in views_in_box(assignment.layout, region):
                views.setdefault(view.source, []).append(view)
        self._pulled[number] = {}
        for source, own in views.items():
            tallies = self._tallies_of(source)
            needed = sum(math.prod(view.shape) for view in dict.fromkeys(own))
            if needed < sum(tally.unit.size for tally in tallies):
                self._pulled[number][source] = own
                continue
            for tally in tallies:
                tally.is_held = True
                tally.leaves.add(number)
        held = tuple(name for name in views if name not in self._pulled[number])
        self._leaves.append(LeafReads(assignment, boxes, regions, False, held))

    def _tallies_of(self, name: str) -> tuple[_Tally, ...]:
        if name not in self._tallies:
            units = units_of(self._entry(name), is_mixed=name in self._mixed)
            self._tallies[name] = tuple(_Tally(u, [], False, set()) for u in units)
        return self._tallies[name]

    def _share_what_is_held(self) -> None:
        """Lets leaves take from tensors that others hold whole, instead of reading."""
        for number, views in self._pulled.items():
            shared = [
                name
                for name in views
                if all(tally.is_held for tally in self._tallies[name])
            ]
            for name in shared:
                del views[name]
                for tally in self._tallies[name]:
                    tally.leaves.add(number)
            if shared:
                need = self._leaves[number]
                self._leaves[number] = dataclasses.replace(
                    need, held=(*need.held, *shared)
                )

    def reading(self) -> ReadPlan:
        """Decides what is read whole, and forms groups."""
        self._share_what_is_held()
        needed: dict[str, int] = {}  # elements of each tensor
        unverified = set[str]()
        reads: list[tuple[WholeRead | PartRead, set[int]]] = []
        for name, tallies in self._tallies.items():
            for tally in tallies:
                if not tally.leaves:
                    continue
                needed[name] = needed.get(name, 0) + tally.needed
                parts = [] if tally.needed == tally.unit.size else _part_reads(tally)
                if parts and sum(part.nbytes for part in parts) < tally.unit.nbytes:
                    reads += [(part, tally.leaves) for part in parts]
                    unverified.add(name)
                else:
                    whole = WholeRead(tally.unit, tuple(tally.demands), tally.is_held)
                    reads.append((whole, tally.leaves))
        if self._portioned:
            reads = list(_with_coverage(reads, unverified))
        pulled_nbytes = [0] * len(self._leaves)
        for number, views in self._pulled.items():
            unverified.update(views)
            for name, own in views.items():
                entry = self._entry(name)
                sizes = [math.prod(view.shape) for view in dict.fromkeys(own)]
                needed[name] = needed.get(name, 0) + sum(sizes)
                pulled_nbytes[number] += sum(
                    count_read_nbytes(entry, view.offset, view.shape, view.strides)
                    for view in own
                )
        groups = [
            self._group(leaves, own, sum(pulled_nbytes[i] for i in leaves))
            for leaves, own in _components(len(self._leaves), reads)
        ]
        groups.sort(key=lambda group: group.place)
        needed_nbytes = 0
        for name, size in needed.items():
            spec = self._entry(name).spec
            needed_nbytes += min(size, spec.size) * spec.dtype.numpy.itemsize
        return ReadPlan(
            tuple(_joined(groups)),
            needed_nbytes,
            tuple(sorted(unverified)),
            frozenset(self._portioned),
        )

    def _group(
        self,
        numbers: Sequence[int],
        reads: Sequence[WholeRead | PartRead],
        pulled_nbytes: int,
    ) -> ReadGroup:
        leaves = tuple(self._leaves[number] for number in numbers)
        wholes = tuple(read for read in reads if isinstance(read, WholeRead))
        parts = tuple(read for read in reads if isinstance(read, PartRead))
        nbytes = sum(r.unit.nbytes for r in wholes) + sum(r.nbytes for r in parts)
        names = dict.fromkeys(name for one in leaves for name in one.assignment.sources)
        return ReadGroup(
            leaves=leaves,
            wholes=wholes,
            parts=parts,
            entries={name: self._entry(name) for name in names},
            nbytes=nbytes + pulled_nbytes,
            host_nbytes=sum(map(_host_nbytes, leaves))
            + pulled_nbytes
            + sum(read.unit.nbytes for read in wholes if read.is_buffered),
        )


def units_of(entry: TensorEntry, *, is_mixed: bool = False) -> tuple[ReadUnit, ...]:
    """Finds what of a tensor can be read and checked alone.

    Args:
        entry: The tensor.
        is_mixed: Whether its elements are asked for in runs that boxes of it cut.

    Returns:
        One unit for each piece, in the order of their elements where each piece is a
        run of them; but one for all pieces of others that are mixed, or encoded.
    """
    shape = entry.spec.shape
    if not entry.is_sliced:
        return (ReadUnit(entry, entry.pieces[0], 0, entry.spec.size, entry.nbytes),)
    row = math.prod(shape[1:])
    units: list[ReadUnit] = []
    for piece in sorted(entry.pieces, key=lambda piece: piece.box):
        region = piece.box
        if (
            region.starts[1:] != (0,) * (len(shape) - 1)
            or region.stops[1:] != shape[1:]
        ):
            return _boxes_of(entry, is_mixed=is_mixed)
        start = region.starts[0] * row if shape else 0
        units.append(ReadUnit(entry, piece, start, region.size, piece.nbytes))
    return tuple(units)


def _boxes_of(entry: TensorEntry, *, is_mixed: bool) -> tuple[ReadUnit, ...]:
    """The units of a tensor whose pieces are no runs of its elements."""
    if is_mixed or not all(isinstance(piece, Piece) for piece in entry.pieces):
        return (ReadUnit(entry, None, 0, entry.spec.size, entry.nbytes),)
    return tuple(
        ReadUnit(entry, piece, 0, piece.box.size, piece.nbytes, is_box=True)
        for piece in entry.pieces
    )


def _mixed_sources(
    assignments: Sequence[Assignment], entry_of: Callable[[str], TensorEntry]
) -> frozenset[str]:
    """Sliced tensors of which some view is no box of it, or that leaves hold whole."""
    mixed: set[str] = set()
    for one in assignments:
        is_put_together = not is_streamed(one.layout)
        for view in one.views:
            if not entry_of(view.source).is_sliced:
                continue
            axes = None
            if 0 not in view.shape and not is_put_together:
                axes = along_axes(
                    view.base.shape, view.offset, view.shape, view.strides
                )
            if axes is None or not axes.is_box:
                mixed.add(view.source)
    return frozenset(mixed)


def _cut(unit: ReadUnit, cuts: Sequence[int]) -> Iterator[ReadUnit]:
    """Cuts a unit at elements of its tensor, in ascending order."""
    itemsize = unit.entry.spec.dtype.numpy.itemsize
    end = unit.start + unit.size
    edges = [unit.start, *(cut for cut in cuts if unit.start < cut < end), end]
    for start, stop in itertools.pairwise(edges):
        size = stop - start
        yield ReadUnit(
            unit.entry, unit.piece, start, size, size * itemsize, start - unit.start
        )


def _sole_sources(
    assignments: Iterable[Assignment], large: Mapping[str, int]
) -> Mapping[str, int]:
    """Those leaves of which one tensor, that fills nothing else, is all there is."""
    if not large:
        return {}
    uses = collections.Counter(name for one in assignments for name in one.sources)
    return {
        one.leaf: large[one.leaf]
        for one in assignments
        if one.leaf in large
        and isinstance(one.layout, StridedView)
        and uses[one.layout.source] == 1
    }


def _with_coverage(
    reads: Iterable[tuple[WholeRead | PartRead, set[int]]], unverified: set[str]
) -> Iterator[tuple[WholeRead | PartRead, set[int]]]:
    """Finds parts of pieces whose checksums cover what is not read whole."""
    listed = list(reads)
    read_nbytes = collections.Counter[tuple[str, Piece | EncodedPiece | None]]()
    for read, _ in listed:
        if isinstance(read, WholeRead):
            read_nbytes[read.unit.entry.name, read.unit.piece] += read.unit.nbytes
    for read, leaves in listed:
        if isinstance(read, WholeRead) and read.unit.is_cut:
            name, piece = read.unit.entry.name, read.unit.piece
            assert piece is not None
            is_covered = read_nbytes[name, piece] == piece.nbytes
            if not is_covered:
                unverified.add(name)
            yield dataclasses.replace(read, is_covered=is_covered), leaves
        else:
            yield read, leaves


def _place(entry: TensorEntry) -> tuple[str, int]:
    """Where a tensor begins: a file, and a position there."""
    return min(
        (one.data_file.path, one.span.start)
        if isinstance(one, Piece)
        else (one.path, 0)
        for one in entry.pieces
    )


def is_streamed(layout: Layout) -> bool:
    """Whether a layout is made of views alone, so that elements go straight into it."""
    if isinstance(layout, JoinedLayout):
        return all(is_streamed(operand) for _, operand in layout.operands)
    return isinstance(layout, StridedView)


def views_within(layout: Layout, box: Box) -> Iterator[tuple[StridedView, Box]]:
    """Lists the views that make up a box of a streamed layout.

    Args:
        layout: Views and tiles alone.
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
                below = shared.relative_to(operand_box)
                for view, inner in views_within(operand, below):
                    yield view, inner.moved(operand_box.starts)
        return
    bounds = zip(box.starts, box.stops, strict=True)
    view = slice_layout(layout, [(start, 1, stop - start) for start, stop in bounds])
    assert isinstance(view, StridedView)
    yield view, box


def _demands(leaf: str, view: StridedView, box: Box, unit: ReadUnit) -> Iterator[Copy]:
    """The parts of a view that lie in a unit."""
    if unit.is_box:
        assert unit.piece is not None
        axes = along_axes(view.base.shape, view.offset, view.shape, view.strides)
        assert axes is not None
        part = axes.part_in(unit.piece.box, view.shape)
        if part is not None:
            yield _demand(leaf, view, box, part)
        return
    stop = unit.start + unit.size
    for part in boxes_in_run(view.offset, view.shape, view.strides, unit.start, stop):
        yield _demand(leaf, view, box, part)


def _demand(leaf: str, view: StridedView, box: Box, part: Box) -> Copy:
    """A part of a view that fills a box of a leaf."""
    offset = view.offset + distance(part.starts, view.strides)
    return Copy(leaf, part.moved(box.starts), offset, view.strides, view.casts)


def _view_of(demand: Copy) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    return demand.offset, demand.box.shape, demand.strides


def _part_reads(tally: _Tally) -> list[PartRead]:
    """One read for each view that is demanded, whoever demands it."""
    views: dict[tuple[int, tuple[int, ...], tuple[int, ...]], list[Copy]] = {}
    for demand in tally.demands:
        views.setdefault(_view_of(demand), []).append(demand)
    entry = tally.unit.entry
    return [
        PartRead(
            entry,
            *view,
            demands=tuple(demands),
            nbytes=count_read_nbytes(entry, *view),
        )
        for view, demands in views.items()
    ]


def _components(
    count: int, reads: Iterable[tuple[WholeRead | PartRead, set[int]]]
) -> Iterator[tuple[list[int], list[WholeRead | PartRead]]]:
    """Sorts leaves, and what they read, into groups that share nothing."""
    parents = list(range(count))

    def root(number: int) -> int:
        while parents[number] != number:
            parents[number] = number = parents[parents[number]]
        return number

    listed = list(reads)
    for _, leaves in listed:
        first, *others = leaves
        for other in others:
            parents[root(other)] = root(first)
    groups: dict[int, tuple[list[int], list[WholeRead | PartRead]]] = {}
    for number in range(count):
        groups.setdefault(root(number), ([], []))[0].append(number)
    for read, leaves in listed:
        groups[root(next(iter(leaves)))][1].append(read)
    yield from groups.values()


def _host_nbytes(need: LeafReads) -> int:
    """Host memory of a leaf: its boxes, and what is put together for them."""
    itemsize = need.assignment.dtype.itemsize
    boxes = sum(box.size for box in need.boxes) * itemsize
    if need.is_streamed or need.is_filled_in_place:
        return boxes
    largest = max((region.size for region in need.regions), default=0)
    return boxes + largest * need.assignment.layout.dtype.itemsize


def _joined(groups: Iterable[ReadGroup]) -> Iterator[ReadGroup]:
    """Joins neighbours that are small."""
    small: list[ReadGroup] = []
    nbytes = 0
    for group in groups:
        is_small = group.host_nbytes <= SMALL_NBYTES
        if small and not (is_small and nbytes + group.host_nbytes <= GROUP_NBYTES):
            yield _join(small)
            small, nbytes = [], 0
        if is_small:
            small.append(group)
            nbytes += group.host_nbytes
        else:
            yield group
    if small:
        yield _join(small)


def _join(groups: Sequence[ReadGroup]) -> ReadGroup:
    if len(groups) == 1:
        return groups[0]
    chain = itertools.chain.from_iterable
    return ReadGroup(
        leaves=tuple(chain(group.leaves for group in groups)),
        wholes=tuple(chain(group.wholes for group in groups)),
        parts=tuple(chain(group.parts for group in groups)),
        entries={k: v for group in groups for k, v in group.entries.items()},
        nbytes=sum(group.nbytes for group in groups),
        host_nbytes=sum(group.host_nbytes for group in groups),
    )
