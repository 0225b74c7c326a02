"""What a restore reads and where it goes, as values: leaves, units, views, groups.

Groups are formed here too: what shares a tensor goes together, small neighbours too.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from tf2flax._assignment.layouts.nodes import StridedView, scratch_itemsize
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
        if self.is_streamed:
            return boxes_nbytes
        layout = self.assignment.layout
        # One merged box at a time, with the operands of its arithmetic.
        largest = max((box.size for box in self.merged_boxes), default=0)
        boxes_nbytes += largest * scratch_itemsize(layout)
        if self.is_filled_in_place:
            return boxes_nbytes
        return boxes_nbytes + largest * layout.dtype.itemsize


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


# What is read, and the numbers of the leaves that need it; at least one.
ReadOfLeaves = tuple[WholeRead | PartRead, list[int]]


class _Component(NamedTuple):
    """Leaves that share tensors with each other, and with no other leaf.

    There are as many as leaves in most models, so that it is made of little.

    Attributes:
        place: The file, and the position there, where its first tensor begins.
        leaves: The leaves.
        reads: What is read for them.
        entries: Their tensors.
        nbytes: Bytes that are read.
        host_nbytes: Bytes of host memory that it takes until it is placed.
    """

    place: tuple[str, int]
    leaves: list[LeafReads]
    reads: list[WholeRead | PartRead]
    entries: list[TensorEntry]
    nbytes: int
    host_nbytes: int


def with_coverage(
    reads: Sequence[ReadOfLeaves], unverified: set[str]
) -> Iterator[ReadOfLeaves]:
    """Finds parts of pieces whose checksums cover what is not read whole.

    Args:
        reads: What is read, and the leaves that need it.
        unverified: Names of such tensors are added here.

    Yields:
        The same reads, marked.
    """
    # Bytes that are read of each piece, by whichever units and groups.
    read_nbytes: collections.Counter[object] = collections.Counter()
    for read, _ in reads:
        if isinstance(read, WholeRead):
            read_nbytes[read.unit.entry.name, read.unit.piece] += read.unit.nbytes
    for read, leaves in reads:
        if isinstance(read, WholeRead) and read.unit.is_cut:
            name, piece = read.unit.entry.name, read.unit.piece
            assert piece is not None
            is_covered = read_nbytes[name, piece] == piece.nbytes
            if not is_covered:
                unverified.add(name)
            unit = read.unit._replace(is_covered=is_covered)
            yield read._replace(unit=unit), leaves
        else:
            yield read, leaves


def form_groups(
    leaves: Sequence[LeafReads],
    reads: Sequence[ReadOfLeaves],
    fetched_nbytes: Mapping[int, int],
    entry_of: Callable[[str], TensorEntry],
    tuning: Tuning,
) -> tuple[ReadGroup, ...]:
    """Forms groups of leaves that are read and placed together.

    Args:
        leaves: The leaves.
        reads: What is read for them.
        fetched_nbytes: Bytes that leaves read themselves, by number of the leaf.
        entry_of: Finds the entry of a tensor.
        tuning: Up to which size neighbours are joined.

    Returns:
        Groups in the order of the files.
    """
    components = [
        _measured(
            [leaves[number] for number in numbers],
            component_reads,
            sum(fetched_nbytes.get(number, 0) for number in numbers)
            if fetched_nbytes
            else 0,
            entry_of,
        )
        for numbers, component_reads in _components(len(leaves), reads)
    ]
    # Disks, and the operating system's reading ahead, like ascending positions.
    components.sort(key=lambda component: component.place)
    return tuple(map(_group_of, join_small(components, tuning)))


def _components(
    count: int, reads: Sequence[ReadOfLeaves]
) -> Iterable[tuple[list[int], list[WholeRead | PartRead]]]:
    """Sorts leaves, and what they read, into groups that share nothing."""
    roots = join_leaves(count, [leaves for _, leaves in reads])
    groups: dict[int, tuple[list[int], list[WholeRead | PartRead]]] = {}
    # In the order of the leaves, so that equal places keep it.
    for number, root in enumerate(roots):
        groups.setdefault(root, ([], []))[0].append(number)
    for read, leaves in reads:
        groups[roots[leaves[0]]][1].append(read)
    return groups.values()


def join_leaves(count: int, sharing: Iterable[Sequence[int]]) -> list[int]:
    """Finds which leaves share something, directly or by way of others.

    By union-find: each leaf points to another of its group, the root to itself. Leaves
    0 and 2 need tensor `a`, 2 and 3 need `b`::

        0   1   2   3      a: 2 -> 0      0 <- 2   1   3      b: 3 -> 0, the root of 2

    Args:
        count: How many leaves there are.
        sharing: Numbers of leaves that share something, at least one each time.

    Returns:
        The root of each leaf: the same number for all of a group.

    Examples:
        >>> join_leaves(4, [(0, 2), (1,), (2, 3)])
        [0, 1, 0, 0]
    """
    parents = list(range(count))

    def root(number: int) -> int:
        while parents[number] != number:
            # Halves the way for the next search.
            parents[number] = number = parents[parents[number]]
        return number

    for leaves in sharing:
        for number in leaves[1:]:
            parents[root(number)] = root(leaves[0])
    return [root(number) for number in range(count)]


def _measured(
    leaves: list[LeafReads],
    reads: list[WholeRead | PartRead],
    fetched_nbytes: int,
    entry_of: Callable[[str], TensorEntry],
) -> _Component:
    """Counts what a component reads and holds."""
    names: dict[str, None] = {}
    # What leaves fetch is held until they are put together, as whole tensors are.
    nbytes = host_nbytes = fetched_nbytes
    for leaf_reads in leaves:
        layout = leaf_reads.assignment.layout
        if isinstance(layout, StridedView):  # spares most leaves a walk
            names[layout.source] = None
        else:
            names.update(dict.fromkeys(leaf_reads.assignment.sources))
        host_nbytes += leaf_reads.host_nbytes
    for read in reads:
        if isinstance(read, WholeRead):
            nbytes += read.unit.nbytes
            host_nbytes += read.unit.nbytes if read.is_buffered else 0
        else:
            nbytes += read.view.nbytes
    entries = [entry_of(name) for name in names]
    place = min(map(place_of, entries), default=("", 0))
    return _Component(place, leaves, reads, entries, nbytes, host_nbytes)


def place_of(entry: TensorEntry) -> tuple[str, int]:
    """The file, and the position there, where a tensor begins."""
    return min(
        [
            (piece.path, 0 if piece.data_file is None else piece.span.start)
            for piece in entry.pieces
        ]
    )


class _Sized(Protocol):
    """What takes host memory until it is placed."""

    @property
    def host_nbytes(self) -> int:
        """Bytes of host memory."""
        ...


SizedT = TypeVar("SizedT", bound=_Sized)


def join_small(components: Iterable[SizedT], tuning: Tuning) -> Iterator[list[SizedT]]:
    """Joins small ones that follow each other, whatever large ones lie between.

    ::

        file     | w |b|s|   w   |b|   w   |b|s|      w: large; b, s: small
        groups   [w] [w] [w] [b s b b s]

    Each group costs a reader and a call that places it as much as reading a MiB, and
    in most models small vectors lie between large matrices.

    Args:
        components: Leaves that share nothing, in the order of the files.
        tuning: Up to which size they are joined.

    Yields:
        Some that are placed in one call, or one that is not small.
    """
    small: list[SizedT] = []
    nbytes = 0
    for component in components:
        # What is placed in one call counts, not what is read for it.
        if component.host_nbytes > tuning.small_nbytes:
            yield [component]
            continue
        if small and nbytes + component.host_nbytes > tuning.group_nbytes:
            yield small
            small, nbytes = [], 0
        small.append(component)
        nbytes += component.host_nbytes
    if small:
        yield small


def _group_of(components: Sequence[_Component]) -> ReadGroup:
    reads = [read for component in components for read in component.reads]
    return ReadGroup(
        leaves=tuple(leaf for component in components for leaf in component.leaves),
        wholes=tuple(read for read in reads if isinstance(read, WholeRead)),
        parts=tuple(read for read in reads if isinstance(read, PartRead)),
        entries={
            entry.name: entry for component in components for entry in component.entries
        },
        nbytes=sum(component.nbytes for component in components),
        host_nbytes=sum(component.host_nbytes for component in components),
    )
