"""What the engine works on: leaves, entries of the map, and what they resolve to."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from tf2flax._assignment.language.entries import MapEntry
from tf2flax._assignment.language.expressions import Expression, Source
from tf2flax._assignment.layouts.nodes import (
    Layout,
    StridedView,
    is_exact,
    needed_elements,
    views_of,
)
from tf2flax._base.values import Box, StoredDtype


@dataclasses.dataclass(frozen=True, slots=True)
class Leaf:
    """One leaf of the target.

    Attributes:
        names: Every name it answers to; the first is the one it is called by.
        shape: Its shape.
        dtype: Its dtype; None where it holds no numbers (PRNG keys, other objects),
            so that no scope reaches it and no tensor fits it.
        refusal: Why none fits, and what to do, where that has another reason.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype | None
    refusal: str = ""

    @property
    def name(self) -> str:
        """The name it is called by."""
        return self.names[0]


@dataclasses.dataclass(frozen=True, slots=True)
class Assignment:
    """One leaf and what fills it.

    Attributes:
        leaf: Name of the leaf.
        expression: What fills it, with names in place of captures; where the leaf is
            a part of a family, what fills the family.
        layout: Where each of the leaf's elements lies.
        shape: Shape of the leaf.
        dtype: The dtype that the leaf gets.
        entry: The entry of the map that says so.
        alias: The last component of the leaf's name, where an alias stood in for it.
        box: The box of the expression that the leaf is, where it is a part of a family.
        is_forced: Whether option `dtype` forces the last cast, whatever it does.
    """

    leaf: str
    expression: Expression
    layout: Layout
    shape: tuple[int, ...]
    dtype: np.dtype
    entry: MapEntry
    alias: str | None = None
    box: Box | None = None
    is_forced: bool = False

    @property
    def source(self) -> str:
        """The tensor's name; of rules that do more than name one, the expression."""
        views = self.views
        is_plain = isinstance(self.expression, Source)
        return views[0].source if is_plain else repr(self.expression)

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of all tensors that the leaf needs, each once."""
        return tuple(dict.fromkeys(view.source for view in self.views))

    @property
    def views(self) -> tuple[StridedView, ...]:
        """The views of tensors that the leaf is put together from."""
        return tuple(views_of(self.layout))

    @property
    def stored(self) -> StoredDtype:
        """Dtype of the tensor, of the first where there are several."""
        return self.views[0].base.dtype

    @property
    def region(self) -> Box | None:
        """The box of the one tensor that fills the leaf as it is, else None."""
        return self.layout.box if isinstance(self.layout, StridedView) else None

    @property
    def is_whole(self) -> bool:
        """Whether it is all of one tensor, in its own order."""
        return isinstance(self.layout, StridedView) and self.layout.is_whole

    @property
    def is_exact(self) -> bool:
        """Whether a shard is read from its own bytes alone."""
        return is_exact(self.layout)

    @property
    def nbytes(self) -> int:
        """Bytes of the checkpoint that the leaf needs."""
        return count_nbytes(self.views)

    @property
    def casts(self) -> tuple[np.dtype, ...]:
        """Dtypes that the elements go through, from the stored one to the leaf's.

        Those of the first tensor, where several take different ways.
        """
        return self.cast_chains[0]

    @property
    def cast_chains(self) -> tuple[tuple[np.dtype, ...], ...]:
        """As `casts`, for every way that some tensor takes, each once."""
        chains: dict[tuple[np.dtype, ...], None] = {}
        for view in self.views:
            chain = [view.base.dtype.numpy, *view.casts, self.dtype]
            chains[without_repeats(chain)] = None
        return tuple(chains)

    @property
    def is_cast(self) -> bool:
        """Whether the dtype changes on the way."""
        return any(len(chain) > 1 for chain in self.cast_chains)


def without_repeats(dtypes: Iterable[np.dtype]) -> tuple[np.dtype, ...]:
    """Leaves out casts that change nothing.

    Args:
        dtypes: Dtypes that elements go through.

    Returns:
        The same without repetitions of the one before.
    """
    return tuple(dtype for dtype, _ in itertools.groupby(dtypes))


def count_nbytes(views: Sequence[StridedView]) -> int:
    """Counts the bytes of tensors that views need.

    Args:
        views: The views.

    Returns:
        Bytes; of each tensor no more than it has.
    """
    itemsizes = {view.source: view.base.dtype.numpy.itemsize for view in views}
    return sum(
        count * itemsizes[name] for name, count in needed_elements(views).items()
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Gap:
    """A leaf that an entry reaches and that an option says to keep nevertheless.

    Attributes:
        leaf: Name of the leaf.
        source: The tensor, or expression, that does not fill it.
        entry: The entry of the map.
        fact: What is wrong.
        expression: The source as an expression; None where it is not there, or the leaf
            holds no numbers.
        parts: All leaves of the family that the leaf is a part of, else ().
        shape: Shape of the leaf.
    """

    leaf: str
    source: str
    entry: MapEntry
    fact: str
    expression: Expression | None = None
    parts: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Override:
    """An assignment that a stronger entry, or a later one, replaced."""

    leaf: str
    source: str
    entry: MapEntry
    by: MapEntry


@dataclasses.dataclass(frozen=True, slots=True)
class Tie:
    """A leaf with several names, for each of which the map names another tensor.

    Attributes:
        leaf: The name that the leaf is called by.
        twins: What would fill it under its other names: the tensors of a tied Variable
            that are not read.
        misfits: What its other names lead to, and does not fit the leaf.
    """

    leaf: str
    twins: tuple[Assignment, ...]
    misfits: tuple[Gap, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Resolution:
    """What a map means for a target and a checkpoint.

    Attributes:
        assignments: One for each leaf that is filled, in the target's order.
        kept: Names of the leaves that stay as they are, in the target's order: those
            that no entry reaches, and those of the gaps.
        overridden: What other entries replaced.
        unused_entries: Entries that reach no leaf.
        missing: Leaves whose source is not in the checkpoint, kept by `on_missing`.
        mismatched: Leaves whose source does not fit, kept by `on_mismatch`.
        ties: Leaves with several names of which tensors of their own are there.
    """

    assignments: tuple[Assignment, ...]
    kept: tuple[str, ...]
    overridden: tuple[Override, ...]
    unused_entries: tuple[MapEntry, ...]
    missing: tuple[Gap, ...] = ()
    mismatched: tuple[Gap, ...] = ()
    ties: tuple[Tie, ...] = ()

    @property
    def unreached(self) -> tuple[str, ...]:
        """Names of the leaves that no entry reaches."""
        gaps = {gap.leaf for gap in (*self.missing, *self.mismatched)}
        return tuple(name for name in self.kept if name not in gaps)
