"""Claims on leaves: the state of one resolution, which entries of every kind change.

Plain entries and rules first claim leaves by names alone. Only when all entries have
been applied are the claims that remain compared with shapes and dtypes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tf2flax._assignment.language.captures import parse_name
from tf2flax._assignment.language.entries import MapEntry
from tf2flax._assignment.language.expressions import Expression, Source, sources_of
from tf2flax._assignment.language.grammar import has_braces
from tf2flax._assignment.language.writing import (
    BRIEF,
    COLLAPSED,
    Style,
    write_expression,
)
from tf2flax._assignment.layouts.lowering import lower
from tf2flax._assignment.layouts.nodes import (
    Layout,
    StridedView,
    views_of,
    whole_view,
)
from tf2flax._assignment.layouts.operations import slice_layout
from tf2flax._base.dtypes import DtypePolicy, check_holds_numbers, result_dtype
from tf2flax._base.errors import AssignmentError, UnsupportedError
from tf2flax._base.manifest import Manifest
from tf2flax._base.values import Box, StoredDtype, TensorSpec

from . import problems
from .assignments import Assignment, Gap, Leaf, Override, Resolution
from .mismatches import ShapeMismatchError, describe_untiled_parts
from .partitions import boxes_of_parts, family_of, parts_of
from .policies import MapOptions
from .problem_report import describe_problems
from .suggestions import Surroundings


class Claim(NamedTuple):
    """A leaf that an entry fills, before shapes and dtypes are compared.

    A tuple, since there are as many as leaves, and it is made in half the time.

    Attributes:
        leaf: Name of the leaf.
        source: Source of the leaf, with names in place of captures.
        entry: The entry.
        parts: All leaves of the family that the leaf is a part of; () if none.
        alias: Last component of the leaf's name, if an alias replaced it.
        alternatives: Tensors that `first_of` could have chosen as well.
    """

    leaf: str
    source: Expression
    entry: MapEntry
    parts: tuple[str, ...] = ()
    alias: str | None = None
    alternatives: tuple[str, ...] = ()


class Claims:
    """The state of one resolution: the claims and the problems so far.

    Attributes:
        leaves: The leaves, by their first name.
        index: All names of leaves, also second ones of tied Variables -> first name.
        manifest: The checkpoint.
        options: Options that decide what the map means.
        rule_leaves: Leaves that a rule reaches -> the entry that gets them, which may
            be a plain one.
        problems: Problems of the map so far.
    """

    def __init__(
        self,
        leaves: Sequence[Leaf],
        manifest: Manifest,
        options: MapOptions,
        *,
        x64: bool,
        is_initialised: bool = False,
    ) -> None:
        """Begins a resolution, without any claim."""
        self.leaves: Mapping[str, Leaf] = {leaf.name: leaf for leaf in leaves}
        self.index: Mapping[str, str] = {
            name: leaf.name for leaf in leaves for name in leaf.names
        }
        self.manifest = manifest
        self.options = options
        self._x64 = x64
        self._is_initialised = is_initialised
        self.rule_leaves: dict[str, MapEntry] = {}
        self.problems: list[problems.Problem] = []
        self._claims: dict[str, Claim] = {}
        self._layouts: dict[Expression, Layout] = {}
        self._overridden: list[Override] = []
        self._missing: dict[str, Gap] = {}
        self._mismatched: dict[str, Gap] = {}
        self._used: set[int] = set()  # ids of entries

    def mark_used(self, entry: MapEntry) -> None:
        """Records that an entry reaches a leaf, even if it will not fill it."""
        self._used.add(id(entry))

    def record_override(
        self, leaf: str, source: str, entry: MapEntry, by: MapEntry
    ) -> None:
        """Records that an entry lost a leaf to another one."""
        self.mark_used(entry)
        self._overridden.append(Override(leaf, source, entry, by))

    def build_resolution(self, entries: Sequence[MapEntry]) -> Resolution:
        """Compares shapes and dtypes of the claims that remain.

        Args:
            entries: All entries of the map.

        Returns:
            The resolution.

        Raises:
            AssignmentError: There are problems, which may be older ones.
        """
        assignments = self._check_claims()
        if self.problems:
            around = self._surroundings()
            raise AssignmentError(
                describe_problems(self.problems, around, len(assignments))
            )
        return Resolution(
            assignments=tuple(
                assignments[name] for name in self.leaves if name in assignments
            ),
            kept=tuple(name for name in self.leaves if name not in assignments),
            overridden=tuple(self._overridden),
            unused_entries=tuple(
                e for e in entries if id(e) not in self._used and not e.is_optional
            ),
            missing=self._unfilled(self._missing, assignments),
            mismatched=self._unfilled(self._mismatched, assignments),
        )

    def _surroundings(self) -> Surroundings:
        """What the map was meant for, as problems are explained by it."""
        claimed: dict[int, list[tuple[Expression, tuple[int, ...]]]] = {}
        for claim in self._claims.values():
            leaf = self.leaves[claim.leaf]
            place = (claim.source, leaf.shape)
            claimed.setdefault(claim.entry.number, []).append(place)
        shapes = {name: self.leaves[leaf].shape for name, leaf in self.index.items()}
        stay = self._is_initialised
        abstract = {
            n for n, leaf in self.index.items() if self.leaves[leaf].is_abstract
        }
        return Surroundings(
            self.manifest, shapes, claimed, frozenset() if stay else abstract
        )

    def _check_claims(self) -> dict[str, Assignment]:
        """Makes assignments of claims; what does not fit is reported."""
        assignments: dict[str, Assignment] = {}
        for claim in self._claims.values():
            try:
                assignments[claim.leaf] = self._check_claim(claim)
            except AssignmentError as error:
                self.report_mismatch(claim, error)
        return assignments

    def _unfilled(
        self, gaps: Mapping[str, Gap], assignments: Mapping[str, Assignment]
    ) -> tuple[Gap, ...]:
        """Gaps of leaves that no later entry fills, in the target's order."""
        open_gaps = gaps.keys() - assignments
        return tuple(gaps[name] for name in self.leaves if name in open_gaps)

    def assign(self, claim: Claim) -> None:
        """Gives a leaf to an entry and takes it from the one that had it."""
        self.mark_used(claim.entry)
        self._take(claim.leaf, claim.entry)
        self._claims[claim.leaf] = claim

    def _take(self, leaf: str, entry: MapEntry) -> None:
        """Takes a leaf from the entry that had it, or that keeps it as a gap."""
        # Popped, so that the order of claims is that of their entries.
        claim, gap = self._claims.pop(leaf, None), self._missing.pop(leaf, None)
        if claim and claim.entry is not entry:
            self._overridden.append(
                Override(leaf, name_of(claim.source), claim.entry, entry)
            )
        if gap and gap.entry is not entry:
            self._overridden.append(Override(leaf, gap.source, gap.entry, entry))

    def entry_of(self, leaf: str) -> MapEntry | None:
        """The entry that has claimed a leaf, or keeps it; None if no entry does."""
        claim = self._claims.get(leaf) or self._missing.get(leaf)
        return claim.entry if claim else None

    def report_mismatch(self, claim: Claim, error: AssignmentError) -> None:
        """Reports that a source does not fit a leaf, or keeps the leaf if it may.

        The parts of a family have one problem together.
        """
        self.mark_used(claim.entry)
        # A name that several tensors share does not say which tensor is meant. That is
        # an error of the map, which on_mismatch="keep" must not hide.
        if self.options.on_mismatch.keeps(claim.leaf) and not any(
            map(self.manifest.is_shared, _names_of(claim.source))
        ):
            leaf = self.leaves[claim.leaf]
            self._mismatched[claim.leaf] = Gap(
                claim.leaf,
                name_of(claim.source),
                claim.entry,
                str(error),
                expression=None if leaf.dtype is None else claim.source,
                parts=claim.parts,
                shape=leaf.shape,
            )
            return
        name = claim.leaf
        if claim.parts:
            name = claim.parts[0].removesuffix("0") + "*"
        is_shape = isinstance(error, ShapeMismatchError)
        problem = problems.Mismatch(
            claim.entry,
            name,
            name_of(claim.source, COLLAPSED),
            error.fact if is_shape else str(error),
            None if claim.parts else claim.source,
            self.leaves[claim.leaf].shape,
            error.source_shape if is_shape else None,
        )
        # The search is for families only: a target may have 100,000 leaves.
        if not claim.parts or problem not in self.problems:
            self.problems.append(problem)

    def report_missing(
        self,
        entry: MapEntry,
        leaves: Sequence[str],
        missing: Sequence[str],
        present: tuple[str, ...] = (),
        *,
        source: Expression | None,
        parts: tuple[str, ...] = (),
    ) -> None:
        """Reports tensors that the checkpoint lacks, or keeps the leaves that may be.

        Args:
            entry: The entry that names the tensors.
            leaves: Names of the leaves that need them.
            missing: Names of the tensors.
            present: Names of tensors of the same source that the checkpoint has.
            source: The source; None if it does not say which tensors the leaves are.
            parts: All leaves of the family that the leaves are parts of; () if none.
        """
        self.mark_used(entry)
        strict: list[str] = []
        for leaf in leaves:
            if entry.is_optional or self.options.on_missing.keeps(leaf):
                fact = "not in the checkpoint"
                # Names alone decide: what a weaker entry claimed does not fill it.
                if not self.options.on_missing.yields:
                    self._take(leaf, entry)
                self._missing[leaf] = Gap(
                    leaf,
                    ", ".join(missing),
                    entry,
                    fact,
                    expression=None if self.leaves[leaf].dtype is None else source,
                    parts=parts,
                    shape=self.leaves[leaf].shape,
                    present=present,
                )
            else:
                strict.append(leaf)
        if strict:
            for name in missing:
                self.problems.append(
                    problems.SourceNotFound(entry, name, _family_name(strict))
                )

    def find_family(self, entry: MapEntry, names: Sequence[str]) -> tuple[str, ...]:
        """Finds all parts of the family that some leaves are parts of.

        Args:
            entry: The entry that lists the leaves, for the message.
            names: Names of the leaves, at least one.

        Returns:
            All parts, in order; () if the leaves are not parts of one family, which is
            then a problem.
        """
        families = [family_of(name) for name in names]
        named = {family[0] for family in families if family}
        if len(named) > 1 or None in families:
            self.problems.append(problems.NotOneFamily(entry, tuple(names)))
            return ()
        parts = parts_of(named.pop(), self.index)
        if missing := [name for name in names if name not in parts]:
            self.problems.append(problems.GapInFamily(entry, missing[0], parts))
            return ()
        return parts

    def names_within(self, member: str, scope: str) -> list[str]:
        """A member's name, then other names of the same leaf within the scope."""
        leaf = self.index.get(member)
        names = self.leaves[leaf].names if leaf else ()
        if len(names) < 2:  # nearly always
            return [member]
        prefix = f"{scope}/" if scope else ""
        return [member] + [
            name for name in names if name != member and name.startswith(prefix)
        ]

    def layout_of(self, source: Expression) -> Layout:
        """Where the elements of a source lie, which has names in place of captures.

        Raises:
            AssignmentError: Shapes or dtypes do not fit the operations.
        """
        if isinstance(source, Source):  # most: made sooner than found again
            name = name_of(source)
            return whole_view(name, self.spec_of(name))
        layout = self._layouts.get(source)
        if layout is None:
            layout = self._layouts[source] = lower(source, self.spec_of)
        return layout

    def spec_of(self, name: str) -> TensorSpec:
        """Shape and dtype of a tensor in the checkpoint."""
        try:
            return self.manifest.spec(name)
        except UnsupportedError as error:  # a name that several tensors share
            raise AssignmentError(str(error)) from error

    def box_of(self, claim: Claim, layout: Layout) -> Box | None:
        """Finds the box of a source that fills a leaf.

        Args:
            claim: The claim on the leaf.
            layout: That of its source.

        Returns:
            The box if the leaf is a part of a family; None if it is all of the source.

        Raises:
            AssignmentError: The source cannot be made, its shape and that of the leaf
                differ, or the leaf does not hold numbers.
        """
        leaf = self.leaves[claim.leaf]
        if leaf.dtype is None:
            raise AssignmentError(
                leaf.refusal
                or "the leaf holds no numbers (it is a PRNG key or another object). "
                "Leave it out of the map."
            )
        if not claim.parts:
            if layout.shape != leaf.shape:
                raise ShapeMismatchError(
                    claim.source, leaf.shape, layout.shape, self.spec_of
                )
            return None
        parts = [self.leaves[self.index[part]] for part in claim.parts]
        shapes = [part.shape for part in parts]
        boxes = boxes_of_parts(shapes, layout.shape)
        if boxes is None:
            raise AssignmentError(describe_untiled_parts(shapes, layout.shape))
        return boxes[[part.name for part in parts].index(claim.leaf)]

    def _check_claim(self, claim: Claim) -> Assignment:
        """Makes an assignment of a claim."""
        layout = self.layout_of(claim.source)
        box = self.box_of(claim, layout)
        if box is not None:
            layout = cut_box(layout, box)
        leaf = self.leaves[claim.leaf]
        assert leaf.dtype is not None  # `box_of` refuses such leaves
        choice, policy = self.options.dtype, None
        # Mostly the leaf's own. Not `==`: NumPy takes None for float64.
        if choice.rules or choice.default is not None:
            policy = choice.policy_of(leaf.name, leaf.dtype)
        return Assignment(
            leaf=claim.leaf,
            expression=claim.source,
            layout=layout,
            shape=leaf.shape,
            dtype=self._dtype_of(layout, leaf.dtype, policy),
            entry=claim.entry,
            alias=claim.alias,
            box=box,
            is_forced=isinstance(policy, np.dtype),
            alternatives=claim.alternatives,
            parts=claim.parts,
        )

    def _dtype_of(
        self, layout: Layout, leaf: np.dtype, policy: DtypePolicy
    ) -> np.dtype:
        """The dtype that a leaf gets; all tensors of the layout must hold numbers."""
        if isinstance(layout, StridedView) and not layout.casts:  # as for most leaves
            return result_dtype(layout.base.dtype, leaf, policy, x64=self._x64)
        views = list(views_of(layout))
        stored = {view.base.dtype.name: view.base.dtype for view in views}
        for dtype in stored.values():
            # `result_dtype` checks a single tensor that is not cast before.
            if views[0].casts or len(stored) > 1:
                check_holds_numbers(dtype)
        first = views[0].base.dtype
        # Arithmetic may be cast after it, where views do not show that.
        if views[0].casts or layout.dtype != views[0].dtype:
            check_holds_numbers(first)
            first = StoredDtype(layout.dtype.name, layout.dtype)
        return result_dtype(first, leaf, policy, x64=self._x64)


def cut_box(layout: Layout, box: Box) -> Layout:
    """Cuts a box out of a layout; the box lies within the layout's shape."""
    # `slice_layout` takes (first index, step, number of indices) for each axis.
    ranges = zip(box.starts, box.stops, strict=True)
    return slice_layout(layout, [(start, 1, stop - start) for start, stop in ranges])


def _names_of(expression: Expression) -> Iterator[str]:
    """Names of the tensors of an expression; sources with captures are left out."""
    for source in sources_of(expression):
        pattern = parse_name(source.pattern)
        if not pattern.captures:
            yield pattern.literal


def name_of(expression: Expression, style: Style = BRIEF) -> str:
    """The text of a source in messages: the tensor's name, or the expression."""
    if not isinstance(expression, Source):
        return write_expression(expression, style)
    pattern = expression.pattern
    return parse_name(pattern).literal if has_braces(pattern) else pattern


def _family_name(leaves: Sequence[str]) -> str:
    """Name of the family that leaves are parts of; of a single leaf, its name."""
    family = family_of(leaves[0]) if len(leaves) > 1 else None
    return family[0] if family else leaves[0]
