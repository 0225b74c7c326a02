"""Claims on leaves: the state that entries of every kind work on, and its end.

Claims are compared with shapes and dtypes only when all entries have been applied.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from tf2flax._assignment.language.captures import parse_name
from tf2flax._assignment.language.entries import MapEntry
from tf2flax._assignment.language.expressions import Expression, Source, sources_of
from tf2flax._assignment.layouts.lowering import lower
from tf2flax._assignment.layouts.nodes import Layout, views_of
from tf2flax._assignment.layouts.operations import slice_layout
from tf2flax._base.dtypes import DtypePolicy, check_holds_numbers, result_dtype
from tf2flax._base.errors import AssignmentError, UnsupportedError
from tf2flax._base.manifest import Manifest
from tf2flax._base.values import Box, StoredDtype, TensorSpec

from . import problems
from .assignments import Assignment, Gap, Leaf, Override, Resolution
from .partitions import family_of, parts_of, tile
from .policies import STRICT, DtypeChoice, Policy
from .problem_report import report


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """How a map is read.

    Attributes:
        aliases: Leaf name -> tensor names to try within scopes; None for none.
        dtype: Which dtype a leaf gets.
        x64: Whether JAX holds 64-bit dtypes.
        on_missing: What happens to leaves whose source is not in the checkpoint.
        on_mismatch: What happens to leaves whose source does not fit.
    """

    aliases: Mapping[str, tuple[str, ...]] | None
    dtype: DtypeChoice
    x64: bool
    on_missing: Policy = STRICT
    on_mismatch: Policy = STRICT


@dataclasses.dataclass(frozen=True, slots=True)
class Claim:
    """A leaf that an entry fills, before shapes and dtypes are compared.

    `parts` are all leaves of the family that the leaf is a part of, else ().
    """

    leaf: str
    source: Expression
    entry: MapEntry
    parts: tuple[str, ...] = ()
    alias: str | None = None


class Claims:
    """The state of one resolution: claims so far, and everything wrong so far.

    Attributes:
        leaves: The leaves, by the name they are called by.
        index: Every name, also a second one of a tied Variable, to the leaf it means.
        manifest: The checkpoint.
        options: How the map is read.
        taken: Leaves that a rule reaches, and the entry, a rule or a plain one, that
            gets them.
        problems: What is wrong.
    """

    def __init__(
        self, leaves: Sequence[Leaf], manifest: Manifest, options: Options
    ) -> None:
        """Begins a resolution.

        Args:
            leaves: All leaves of the target.
            manifest: The checkpoint's names and specs.
            options: How the map is read.
        """
        self.leaves: Mapping[str, Leaf] = {leaf.name: leaf for leaf in leaves}
        self.index: Mapping[str, str] = {
            name: leaf.name for leaf in leaves for name in leaf.names
        }
        self.manifest = manifest
        self.options = options
        self.taken: dict[str, MapEntry] = {}
        self.problems: list[problems.Problem] = []
        self._claims: dict[str, Claim] = {}
        self._overridden: list[Override] = []
        self._missing: dict[str, Gap] = {}
        self._mismatched: dict[str, Gap] = {}
        self._useful: set[int] = set()

    def use(self, entry: MapEntry) -> None:
        """Notes that an entry reaches a leaf, whatever becomes of that."""
        self._useful.add(id(entry))

    def override(self, leaf: str, source: str, entry: MapEntry, by: MapEntry) -> None:
        """Notes that an entry lost a leaf to another one."""
        self.use(entry)
        self._overridden.append(Override(leaf, source, entry, by))

    def finish(self, entries: Sequence[MapEntry]) -> Resolution:
        """Compares shapes and dtypes of what won, and reports every problem."""
        assignments: dict[str, Assignment] = {}
        layouts: dict[Expression, Layout] = {}
        for claim in self._claims.values():
            try:
                assignments[claim.leaf] = self._checked(claim, layouts)
            except AssignmentError as error:
                self.misfit(claim, str(error))
        if self.problems:
            raise AssignmentError(report(self.problems, self.manifest))
        self._useful.update(id(gap.entry) for gap in self._mismatched.values())
        return Resolution(
            assignments=tuple(
                assignments[name] for name in self.leaves if name in assignments
            ),
            kept=tuple(name for name in self.leaves if name not in assignments),
            overridden=tuple(self._overridden),
            unused_entries=tuple(e for e in entries if id(e) not in self._useful),
            missing=self._gaps(self._missing, assignments),
            mismatched=self._gaps(self._mismatched, assignments),
        )

    def _gaps(
        self, gaps: Mapping[str, Gap], assignments: Mapping[str, Assignment]
    ) -> tuple[Gap, ...]:
        open_gaps = gaps.keys() - assignments
        return tuple(gaps[name] for name in self.leaves if name in open_gaps)

    def claim(self, claim: Claim) -> None:
        """Lets an entry have a leaf, whichever had it before."""
        self.use(claim.entry)
        earlier = self._claims.pop(claim.leaf, None)
        if earlier and earlier.entry is not claim.entry:
            self._overridden.append(
                Override(
                    claim.leaf, name_of(earlier.source), earlier.entry, claim.entry
                )
            )
        self._claims[claim.leaf] = claim

    def filler(self, leaf: str) -> MapEntry | None:
        """The entry that has a leaf by now."""
        claim = self._claims.get(leaf)
        return claim.entry if claim else None

    def misfit(self, claim: Claim, fact: str) -> None:
        """Reports that a leaf and its source do not fit; a family's parts together."""
        self.use(claim.entry)
        source = name_of(claim.source)
        # A shared name is no mismatch of the leaf, which must not hide what is meant.
        is_shared = any(map(self.manifest.is_shared, _names_of(claim.source)))
        if self.options.on_mismatch.keeps(claim.leaf) and not is_shared:
            leaf = self.leaves[claim.leaf]
            self._mismatched[claim.leaf] = Gap(
                claim.leaf,
                source,
                claim.entry,
                fact,
                expression=None if leaf.dtype is None else claim.source,
                parts=claim.parts,
                shape=leaf.shape,
            )
            return
        leaf = claim.leaf
        if claim.parts:
            leaf = claim.parts[0].removesuffix("0") + "*"
        problem = problems.Misfit(claim.entry, leaf, source, fact)
        if problem not in self.problems:
            self.problems.append(problem)

    def lacks(
        self, entry: MapEntry, leaves: Sequence[str], missing: Sequence[str]
    ) -> None:
        """Reports tensors that are not there, for the leaves that may not be kept.

        Args:
            entry: The entry that asks for them.
            leaves: Names of the leaves that need them.
            missing: Names of the tensors.
        """
        self.use(entry)
        strict: list[str] = []
        for leaf in leaves:
            if self.options.on_missing.keeps(leaf):
                fact = "not in the checkpoint"
                self._missing[leaf] = Gap(leaf, ", ".join(missing), entry, fact)
            else:
                strict.append(leaf)
        if strict:
            for name in missing:
                self.problems.append(
                    problems.SourceNotFound(entry, name, _family_name(strict))
                )

    def family_parts(self, entry: MapEntry, names: Sequence[str]) -> tuple[str, ...]:
        """Finds all parts of the family that leaves are parts of.

        Args:
            entry: The entry that lists them, for the message.
            names: Names of parts, at least one.

        Returns:
            The parts, in order; () where the leaves are no parts of one family, which
            is a problem then.
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
        """A member's name, and the others of a tied Variable within the scope."""
        leaf = self.index.get(member)
        prefix = f"{scope}/" if scope else ""
        others = self.leaves[leaf].names if leaf else ()
        return [member] + [
            other for other in others if other != member and other.startswith(prefix)
        ]

    def spec_of(self, name: str) -> TensorSpec:
        try:
            return self.manifest.spec(name)
        except UnsupportedError as error:  # a name that several tensors share
            raise AssignmentError(str(error)) from error

    def box(self, claim: Claim, layout: Layout) -> Box | None:
        """The box of a layout that fills a part, None for a leaf; shapes must agree."""
        leaf = self.leaves[claim.leaf]
        if leaf.dtype is None:
            raise AssignmentError(
                leaf.refusal
                or "the leaf holds no numbers (a PRNG key or another object). "
                "Leave it out of the map."
            )
        if not claim.parts:
            if layout.shape != leaf.shape:
                raise AssignmentError(
                    problems.shapes_differ(leaf.shape, layout.shape, claim.source)
                )
            return None
        parts = [self.leaves[self.index[part]] for part in claim.parts]
        boxes = tile([part.shape for part in parts], layout.shape)
        if boxes is None:
            raise AssignmentError(
                problems.parts_do_not_tile([part.shape for part in parts], layout.shape)
            )
        return boxes[[part.name for part in parts].index(claim.leaf)]

    def _checked(self, claim: Claim, layouts: dict[Expression, Layout]) -> Assignment:
        layout = layouts.get(claim.source)
        if layout is None:
            layout = layouts[claim.source] = lower(claim.source, self.spec_of)
        box = self.box(claim, layout)
        if box is not None:
            layout = cut_box(layout, box)
        leaf = self.leaves[claim.leaf]
        assert leaf.dtype is not None  # `box` refuses such leaves
        policy = self.options.dtype.policy_of(leaf.name, leaf.dtype)
        return Assignment(
            leaf=claim.leaf,
            expression=claim.source,
            layout=layout,
            shape=leaf.shape,
            dtype=self._dtype(layout, leaf.dtype, policy),
            entry=claim.entry,
            alias=claim.alias,
            box=box,
            is_forced=isinstance(policy, np.dtype),
        )

    def _dtype(self, layout: Layout, leaf: np.dtype, policy: DtypePolicy) -> np.dtype:
        """The dtype that a leaf gets; every tensor in a layout must hold numbers."""
        views = list(views_of(layout))
        stored = {view.base.dtype.name: view.base.dtype for view in views}
        for dtype in stored.values():
            if views[0].casts or len(stored) > 1:
                check_holds_numbers(dtype)
        first = views[0].base.dtype
        if views[0].casts:
            first = StoredDtype(views[0].dtype.name, views[0].dtype)
        return result_dtype(first, leaf, policy, x64=self.options.x64)


def cut_box(layout: Layout, box: Box) -> Layout:
    """Cuts a box out of a layout.

    Args:
        layout: The layout.
        box: The box, within its shape.

    Returns:
        The layout of the box.
    """
    spans = zip(box.starts, box.stops, strict=True)
    return slice_layout(layout, [(start, 1, stop - start) for start, stop in spans])


def _names_of(expression: Expression) -> Iterator[str]:
    """The tensors of an expression without captures; what has some names none."""
    for source in sources_of(expression):
        pattern = parse_name(source.pattern)
        if not pattern.captures:
            yield pattern.literal


def name_of(expression: Expression) -> str:
    """A source as messages show it.

    Args:
        expression: The source.

    Returns:
        The tensor's name, or the expression.
    """
    if isinstance(expression, Source):
        return parse_name(expression.pattern).literal
    return repr(expression)


def _family_name(leaves: Sequence[str]) -> str:
    family = family_of(leaves[0]) if len(leaves) > 1 else None
    return family[0] if family else leaves[0]
