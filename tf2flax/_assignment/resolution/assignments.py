"""Input and result of a resolution: leaves, and what fills each of them.

Values alone. `matching` makes them, `_assignment.plans` prints them, and what reads and
writes goes by their layouts.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from tf2flax._assignment.language.captures import literal_pattern
from tf2flax._assignment.language.entries import MapEntry, PlainEntry
from tf2flax._assignment.language.expressions import Expression, Source
from tf2flax._assignment.language.writing import write_expression
from tf2flax._assignment.layouts.nodes import (
    Layout,
    StridedView,
    is_exact,
    needed_elements,
    views_of,
    whole_view,
)
from tf2flax._base.values import Box, StoredDtype, TensorSpec


@dataclasses.dataclass(frozen=True, slots=True)
class Leaf:
    """One leaf of the target.

    Attributes:
        names: All names of the leaf. A tied Variable has several; the first one is
            its name in messages and results.
        shape: Shape of the leaf.
        dtype: Dtype of the leaf. None if it does not hold numbers (a PRNG key or
            another object): no scope reaches it, and no tensor can fill it.
        refusal: Why no tensor can fill it and what to do; "" if the dtype explains it.
        is_abstract: True if it has a shape and no elements, so that it cannot stay as
            it is.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype | None
    refusal: str = ""
    is_abstract: bool = False

    @property
    def name(self) -> str:
        """First name of the leaf."""
        return self.names[0]


@dataclasses.dataclass(frozen=True, slots=True)
class Assignment:
    """A leaf of the target and the tensors of the checkpoint that fill it.

    Made by `tf2flax.plan`; a plan has one for each leaf that it loads.

    Attributes:
        leaf: Name of the leaf.
        expression: Source of the leaf, with names in place of captures. If the leaf is
            a part of a partitioned variable, source of the whole variable.
        layout: Positions of the elements of the leaf in the tensors.
        shape: Shape of the leaf.
        dtype: Dtype that the leaf gets.
        entry: The entry of the assignment map that fills the leaf.
        alias: Last component of the leaf's name if an alias replaced it in the
            tensor's name (`scale`, where the tensor is called `gamma`); else None.
        box: The box of the partitioned variable that this leaf is; None for a leaf
            that is not a part of one.
        is_forced: True if option `dtype` forces the last cast, so that values may
            overflow or wrap around.
        alternatives: Names of the tensors that `first_of` could have chosen as well.
        parts: Names of all leaves that are parts of the same partitioned variable; ()
            for a leaf that is not a part of one.

    Examples:
        >>> import jax, tf2flax
        >>> target = {"step": jax.ShapeDtypeStruct((), "int32")}
        >>> plan = tf2flax.plan({"global_step": 7}, {"global_step": "step"}, target)
        >>> (assignment,) = plan.assignments
        >>> assignment.leaf, assignment.source, assignment.shape
        ('step', 'global_step', ())
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
    alternatives: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """Name of the tensor, or the expression if the key does more than name one.

        More than 16 rows by number are cut: `expression` has all of them.
        """
        if isinstance(self.expression, Source):
            return self.views[0].source
        return write_expression(self.expression)

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of all tensors that the leaf needs, each once."""
        return tuple(dict.fromkeys(view.source for view in self.views))

    @property
    def views(self) -> tuple[StridedView, ...]:
        """Views of tensors that together make up the leaf."""
        return tuple(views_of(self.layout))

    @property
    def stored(self) -> StoredDtype:
        """Dtype of the tensor in the checkpoint; of the first tensor of several."""
        return self.views[0].base.dtype

    @property
    def region(self) -> Box | None:
        """Box of the tensor that fills the leaf; None if more is done than to cut it.

        A transpose, a step or a join of several tensors has no box.
        """
        return self.layout.box if isinstance(self.layout, StridedView) else None

    @property
    def is_whole(self) -> bool:
        """True if the leaf is one whole tensor, with its axes in the same order."""
        return isinstance(self.layout, StridedView) and self.layout.is_whole

    @property
    def is_exact(self) -> bool:
        """True if any shard of the leaf can be read from the bytes it needs alone."""
        return is_exact(self.layout)

    @property
    def nbytes(self) -> int:
        """Number of bytes of the checkpoint that the leaf needs."""
        return count_nbytes(self.views)

    @property
    def casts(self) -> tuple[np.dtype, ...]:
        """Dtypes that elements pass through, from the stored one to the leaf's.

        If tensors of several dtypes are joined, those of the first one; see
        `cast_chains`.
        """
        return self.cast_chains[0]

    @property
    def cast_chains(self) -> tuple[tuple[np.dtype, ...], ...]:
        """As `casts`, for all tensors that fill the leaf; each chain once."""
        chains: dict[tuple[np.dtype, ...], None] = {}
        for view in self.views:
            chain = [view.base.dtype.numpy, *view.casts, self.layout.dtype, self.dtype]
            chains[drop_repeats(chain)] = None
        return tuple(chains)


def whole_assignment(
    name: str, spec: TensorSpec, entry: MapEntry | None = None
) -> Assignment:
    """All of a tensor as a leaf of the same name, for who has no target.

    Args:
        name: Name of the tensor.
        spec: Its spec; not of strings.
        entry: The entry of a map that asks for it; None where there is no map.
    """
    return Assignment(
        leaf=name,
        expression=Source(literal_pattern(name)),
        layout=whole_view(name, spec),
        shape=spec.shape,
        dtype=spec.dtype.numpy,
        entry=entry or PlainEntry(0, name, name),
    )


def drop_repeats(dtypes: Iterable[np.dtype]) -> tuple[np.dtype, ...]:
    """Leaves out casts of a chain that change nothing: f4, f4, f2 becomes f4, f2."""
    return tuple(dtype for dtype, _ in itertools.groupby(dtypes))


def count_nbytes(views: Sequence[StridedView]) -> int:
    """Counts the bytes that views need: of each tensor at most all of its bytes."""
    itemsizes = {view.source: view.base.dtype.numpy.itemsize for view in views}
    return sum(
        count * itemsizes[name] for name, count in needed_elements(views).items()
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Gap:
    """A leaf that an entry reaches but cannot fill, so that an option keeps it.

    Made by `tf2flax.plan` with `on_missing="keep"` or `on_mismatch="keep"`.

    Attributes:
        leaf: Name of the leaf.
        source: The tensor or expression that does not fill the leaf.
        entry: The entry of the assignment map that reaches the leaf.
        fact: Why the source does not fill the leaf.
        expression: The source as an expression. None if the leaf does not hold
            numbers, or if the checkpoint lacks the source and nothing says which of
            several tensors it would be.
        parts: Names of all leaves that are parts of the same partitioned variable; ()
            for a leaf that is not a part of one.
        shape: Shape of the leaf.
        present: Names of those of its tensors that the checkpoint has, where it lacks
            others.

    Examples:
        >>> import jax, tf2flax
        >>> target = {"step": jax.ShapeDtypeStruct((), "int32"), "rate": 0.1}
        >>> plan = tf2flax.plan(
        ...     {"global_step": 7},  # or a path
        ...     {"global_step": "step", "learning_rate": "rate"},
        ...     target,
        ...     on_missing="keep",
        ... )
        >>> (gap,) = plan.missing
        >>> gap.leaf, gap.source
        ('rate', 'learning_rate')
    """

    leaf: str
    source: str
    entry: MapEntry
    fact: str
    expression: Expression | None = None
    parts: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    present: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Override:
    """An assignment that a stronger entry of the map replaced, or a later one.

    Attributes:
        leaf: Name of the leaf.
        source: The tensor or expression that would have filled the leaf.
        entry: The entry that lost the leaf.
        by: The entry that fills the leaf instead.
    """

    leaf: str
    source: str
    entry: MapEntry
    by: MapEntry


@dataclasses.dataclass(frozen=True, slots=True)
class Tie:
    """A leaf with several names, to which the map gives different tensors.

    Attributes:
        leaf: First name of the leaf.
        twins: Assignments of its other names: tensors of a tied Variable that are not
            read.
        mismatches: Sources of its other names that do not fit the leaf.
    """

    leaf: str
    twins: tuple[Assignment, ...]
    mismatches: tuple[Gap, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Resolution:
    """Meaning of an assignment map for one target and one checkpoint.

    Attributes:
        assignments: One for each leaf that is filled, in the target's order.
        kept: Names of the leaves that stay as they are, in the target's order: those
            that no entry reaches, and those in `missing` and `mismatched`.
        overridden: Assignments that other entries replaced.
        unused_entries: Entries that reach no leaf.
        missing: Leaves whose source is not in the checkpoint, kept by `on_missing`.
        mismatched: Leaves whose source does not fit, kept by `on_mismatch`.
        ties: Leaves with several names for which the checkpoint has several tensors.
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
