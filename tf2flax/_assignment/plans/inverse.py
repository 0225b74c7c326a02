"""The way back: a plan -> what each tensor of the checkpoint is, in terms of leaves.

Only says what to write; `_writing.save` reads leaves and writes files.

A leaf covers the elements of a tensor that it was loaded from. A tensor of which leaves
cover every element is *complete*. Of other tensors, the checkpoint supplies the missing
elements.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from tf2flax._assignment.language.captures import literal_pattern
from tf2flax._assignment.language.expressions import Expression, Source
from tf2flax._assignment.layouts.inverting import inverse_of
from tf2flax._assignment.layouts.scattering import scatter_value
from tf2flax._assignment.resolution.assignments import Assignment
from tf2flax._base.collapsing import summarise
from tf2flax._base.dtypes import kind_of
from tf2flax._base.errors import AssignmentError
from tf2flax._base.manifest import Manifest, StoredNames
from tf2flax._base.text import counted, printable
from tf2flax._base.values import TensorSpec

from .families import family_name, group_families, join_group
from .one_way import find_ways_back, gap_of
from .plan import RestorePlan
from .renewals import Renewal, describe_unwritable, find_kept, find_renewals


@dataclasses.dataclass(frozen=True, slots=True)
class InverseAssignment:
    """A tensor of the checkpoint and the leaves that it is written from.

    Attributes:
        name: Stored name of the tensor, even if the plan was made for a view. A
            variable that a Keras 3 export stores twice has two such assignments.
        leaves: Names of the leaves.
        expression: The tensor as an expression with leaves as sources; None if several
            leaves have parts of it, if they do not have all of it, or if it was
            multiplied by a number.
        is_complete: True if the leaves cover every element. Other elements are copied
            from the checkpoint.

    Examples:
        >>> import jax, tf2flax
        >>> target = {"step": jax.ShapeDtypeStruct((), "int32")}
        >>> plan = tf2flax.plan({"global_step": 7}, {"global_step": "step"}, target)
        >>> [assignment.leaves for assignment in plan.inverse().assignments]
        [('step',)]
    """

    name: str
    leaves: tuple[str, ...]
    expression: Expression | None
    is_complete: bool

    def __str__(self) -> str:
        """The tensor and what it is written from."""
        if self.expression is None:
            leaves = " and ".join(f"`{leaf}`" for leaf in self.leaves)
            if self.is_complete and len(self.leaves) == 1:
                # A product, say, which the language does not take back.
                return printable(f"`{self.name}` <- by the opposite from {leaves}")
            return printable(f"`{self.name}` <- in parts from {leaves}")
        is_plain = isinstance(self.expression, Source)
        source = self.leaves[0] if is_plain else self.expression
        return printable(f"`{self.name}` <- `{source}`")


class InversePlan:
    """A plan backwards: how the tree that it loaded is written as a checkpoint.

    Made by `Plan.inverse`, used by `tf2flax.save_checkpoint(..., plan=plan)`.

    Attributes:
        assignments: One for each tensor that leaves are written to, sorted by name.
        copied: Names of the tensors that no leaf is written to; `unused="copy"` copies
            them from the checkpoint.
        left_out: Names of the leaves that are not written.
        renewals: Leaves that are written in their own shape: `on_mismatch` kept them,
            they have grown, or the checkpoint lacks their tensors.

    Examples:
        >>> import jax, tf2flax
        >>> target = {"head": jax.ShapeDtypeStruct((32, 2), "float32")}
        >>> key = tf2flax.src("output_weights").transpose()
        >>> weights = {"output_weights": jax.numpy.ones((2, 32))}
        >>> plan = tf2flax.plan(weights, {key: "head"}, target)
        >>> print(plan.inverse().assignments[0])
        `output_weights` <- `src("head").transpose()`
    """

    __slots__ = (
        "_groups",
        "_manifest",
        "_plan",
        "_problems",
        "_stored",
        "_unwritable",
        "_ways",
        "assignments",
        "copied",
        "left_out",
        "renewals",
    )

    assignments: tuple[InverseAssignment, ...]
    copied: tuple[str, ...]
    left_out: tuple[str, ...]
    renewals: tuple[Renewal, ...]

    def __init__(
        self, plan: RestorePlan, manifest: Manifest, stored: StoredNames | None = None
    ) -> None:
        """Inverts a plan; called by `Plan.inverse`, not by users.

        Args:
            plan: The plan.
            manifest: The checkpoint, or the view of it, that the plan was made for.
            stored: Where its tensors are written; None for where they were read.

        Raises:
            AssignmentError: The view merges several checkpoints.
            DamagedError: The entry of a tensor is malformed.
        """
        self._plan = plan
        self._manifest = manifest
        self._stored = manifest.stored() if stored is None else stored
        resolution = plan.resolution
        # A tied leaf is written to the tensors of all its names.
        twins = [twin for tie in resolution.ties for twin in tie.twins]
        spec_of = spec_lookup(manifest)
        self._ways = find_ways_back([*plan.assignments, *twins], spec_of)
        self._groups = group_families(self._ways.inverted)
        inverted = self._invert_groups()
        taken = {assignment.name for assignment in inverted}
        grown, self._unwritable = find_renewals(
            map(gap_of, self._ways.grown),
            taken,
            spec_of,
            self._stored.places,
            loaded=self._ways.grown,
        )
        taken |= {place for renewal in grown for place in renewal.places}
        kept, self._problems = find_kept(resolution, taken, spec_of, self._stored)
        self.renewals = (*grown, *kept)
        renewed = [
            InverseAssignment(
                place,
                renewal.leaves,
                None if renewal.has_arithmetic else expression,
                True,
            )
            for renewal in self.renewals
            for place, (expression, _) in renewal.tensors(
                renewal.gap.shape, spec_of
            ).items()
        ]
        self.assignments = tuple(
            sorted([*inverted, *renewed], key=lambda assignment: assignment.name)
        )
        written = {assignment.name for assignment in self.assignments}
        # A view hides tensors, which are copied too.
        present = self.manifest.names if self._stored.is_view else plan.unused
        self.copied = tuple(name for name in present if name not in written)
        leaves = set(self.leaves)
        self.left_out = tuple(leaf for leaf in resolution.kept if leaf not in leaves)

    @property
    def leaves(self) -> tuple[str, ...]:
        """Names of the leaves that are written, each once."""
        loaded = [assignment.leaf for group in self._groups for assignment in group]
        kept = [leaf for renewal in self.renewals for leaf in renewal.leaves]
        # `check` refuses the last ones.
        return tuple(dict.fromkeys([*loaded, *kept, *self._ways.problems]))

    @property
    def manifest(self) -> Manifest:
        """The checkpoint under its stored names."""
        return self._stored.manifest

    @property
    def view(self) -> Manifest:
        """The checkpoint under the names that the plan was made for."""
        return self._manifest

    @property
    def stored(self) -> StoredNames:
        """Stored names by the names that the plan was made for."""
        return self._stored

    @property
    def groups(self) -> Sequence[Sequence[Assignment]]:
        """Assignments in groups: the parts of a family, or one leaf."""
        return self._groups

    def stored_elsewhere(self, stored: StoredNames) -> InversePlan:
        """The same plan backwards, which writes tensors under other stored names."""
        return InversePlan(self._plan, self._manifest, stored)

    def extended(self, assignments: Sequence[Assignment]) -> InversePlan:
        """The same plan backwards, with leaves of another tree.

        Args:
            assignments: What was loaded into that tree.
        """
        resolution = self._plan.resolution
        resolution = dataclasses.replace(
            resolution, assignments=(*resolution.assignments, *assignments)
        )
        plan = dataclasses.replace(self._plan, resolution=resolution)
        return InversePlan(plan, self._manifest, self._stored)

    def alternatives(self) -> dict[str, list[str]]:
        """Stored names of tensors -> those that `first_of` did not choose for them."""
        result: dict[str, list[str]] = {}
        for assignment in itertools.chain.from_iterable(self._groups):
            names = [p for n in assignment.alternatives for p in self._stored.places(n)]
            for source in assignment.sources if names else ():
                for place in self._stored.places(source):
                    result.setdefault(place, []).extend(names)
        return result

    def to_dict(self) -> dict[str, Any]:
        """The inverse as plain values, ready for `json.dumps`."""
        return {
            "checkpoint": self._manifest.prefix,
            "tensors": [
                {
                    "name": assignment.name,
                    "leaves": list(assignment.leaves),
                    "expression": None
                    if assignment.expression is None
                    else repr(assignment.expression),
                    "complete": assignment.is_complete,
                }
                for assignment in self.assignments
            ],
            "copied": list(self.copied),
            "left_out": list(self.left_out),
        }

    def __repr__(self) -> str:
        """The inverse in one line."""
        return (
            f"InversePlan({self._manifest.prefix!r}, {len(self.assignments)} tensors, "
            f"{len(self.copied)} copied)"
        )

    def __str__(self) -> str:
        """The inverse as text: a line for each tensor."""
        lines = [
            f"{counted(len(self.assignments), 'tensor')} from "
            f"{counted(len(self.leaves), 'leaf', 'leaves')}, "
            f"{len(self.copied)} copied, "
            f"{counted(len(self.left_out), 'leaf', 'leaves')} left out",
            *(f"  {assignment}" for assignment in self.assignments),
        ]
        return "\n".join(lines)

    def check(
        self,
        specs: Mapping[str, TensorSpec],
        *,
        is_copying: bool,
        present: Collection[str] = (),
    ) -> None:
        """Checks a tree against the plan, before anything of it is fetched.

        Args:
            specs: Shape and dtype of the leaves of the tree that the plan writes.
            present: Names of the leaves of the tree that this plan alone writes.
            is_copying: True if the checkpoint supplies what leaves do not cover.

        Raises:
            AssignmentError: A leaf is missing or has another shape, or a tensor would
                have gaps. All problems are listed.
        """
        problems = self._check_loaded(specs)
        problems += self._ways.problems.values()
        problems += [
            describe_unwritable(leaf, problem, is_grown=True)
            for leaf, problem in self._unwritable.items()
        ]
        if is_copying:
            problems += [
                describe_unwritable(leaf, problem)
                for leaf, problem in self._problems.items()
                if leaf in present
            ]
        problems += self._check_kept(specs, is_copying=is_copying)
        for assignment in () if is_copying else self.assignments:
            if not assignment.is_complete:
                leaves = ", ".join(f"`{leaf}`" for leaf in assignment.leaves)
                problems.append(
                    f"Tensor `{assignment.name}` is covered only partly by {leaves}. "
                    'Use unused="copy" to take the other elements from the checkpoint.'
                )
        if problems:
            raise AssignmentError(summarise(problems))

    def _check_loaded(self, specs: Mapping[str, TensorSpec]) -> list[str]:
        """Problems of leaves that the plan loaded: missing, or changed meanwhile."""
        problems: list[str] = []
        for assignment in itertools.chain.from_iterable(self._groups):
            spec = specs.get(assignment.leaf)
            if spec is None:
                fact = ", which the plan loaded, is not in the tree."
            elif spec.shape != assignment.shape:
                fact = (
                    f": expected shape {list(assignment.shape)}, as in the plan, got "
                    f"{list(spec.shape)}."
                )
            else:
                fact = _other_kind(spec, assignment)
            if fact:
                problems.append(f"Leaf `{assignment.leaf}`{fact}")
        return problems

    def _check_kept(
        self, specs: Mapping[str, TensorSpec], *, is_copying: bool
    ) -> list[str]:
        """Problems of leaves that were kept and are written in their own shape."""
        problems: list[str] = []
        for renewal in self.renewals:
            missing = [leaf for leaf in renewal.leaves if leaf not in specs]
            if renewal.is_new and len(missing) == len(renewal.leaves):
                continue
            if missing:
                # The tensors would be copied instead, or lack slices. If nothing is
                # copied, a leaf that is missing as a whole leaves its tensors out.
                if is_copying or len(missing) < len(renewal.leaves):
                    names = ", ".join(f"`{name}`" for name in renewal.places)
                    problems.append(
                        f"Leaf `{missing[0]}`, which replaces {names}, is not in the "
                        'tree. Use unused="drop" to leave both out.'
                    )
                continue
            problems += [
                f"Leaf `{leaf}`{fact}"
                for leaf, assignment in renewal.loaded.items()
                if (fact := _other_kind(specs[leaf], assignment))
            ]
            if renewal.parts:
                continue
            try:
                self.resized(renewal, specs[renewal.leaf].shape)
            except AssignmentError as error:
                is_grown = renewal.is_grown or renewal.is_new
                problems.append(
                    describe_unwritable(renewal.leaf, str(error), is_grown=is_grown)
                )
        return problems

    def resized(
        self, renewal: Renewal, shape: tuple[int, ...]
    ) -> dict[str, tuple[Expression, tuple[int, ...]]]:
        """What each tensor of a kept leaf is, and its shape; see `Renewal.tensors`.

        Args:
            renewal: One of `renewals`.
            shape: Shape of the leaf that is written.
        """
        return renewal.tensors(shape, spec_lookup(self._manifest))

    def _invert_groups(self) -> tuple[InverseAssignment, ...]:
        """What each tensor is that leaves were loaded from, sorted by stored name."""
        spec_of = spec_lookup(self._manifest)
        places = self._stored.places
        # Both by the stored names of a variable. Views may have several names for one,
        # so that the same variable may have been loaded several times.
        masks: dict[tuple[str, ...], list[np.ndarray | None]] = {}
        loaded: dict[tuple[str, ...], list[tuple[str, Sequence[Assignment]]]] = {}
        for group in self._groups:
            # A dry run: no leaf is fetched, only masks are computed.
            _, mask = join_group(group, None, spec_of)
            expression = group[0].expression
            for contribution in scatter_value(expression, None, mask, spec_of):
                variable = places(contribution.name)
                masks.setdefault(variable, []).append(contribution.mask)
            for name in group[0].sources:
                loaded.setdefault(places(name), []).append((name, group))
        written: dict[int, Mapping[str, Expression]] = {}
        result: list[InverseAssignment] = []
        for variable, uses in loaded.items():
            name = uses[0][0]
            groups = list({id(group): group for _, group in uses}.values())
            is_complete = _is_covered(masks.get(variable, []), spec_of(name).shape)
            expression = None
            if len(uses) == 1 and is_complete:
                (group,) = groups
                if id(group) not in written:
                    source = Source(literal_pattern(family_name(group)))
                    written[id(group)] = inverse_of(
                        group[0].expression, source, spec_of
                    )
                expression = written[id(group)].get(name)
            leaves = tuple(assignment.leaf for group in groups for assignment in group)
            result += [
                InverseAssignment(place, leaves, expression, is_complete)
                for place in variable
            ]
        return tuple(sorted(result, key=lambda assignment: assignment.name))


def _other_kind(spec: TensorSpec, assignment: Assignment) -> str:
    """Says that a leaf holds numbers of another kind now; "" if it does not."""
    if kind_of(spec.dtype.numpy) == kind_of(assignment.dtype):
        return ""
    return (
        f": expected dtype {assignment.dtype}, as in the plan, got {spec.dtype.name}. "
        "Cast it first."
    )


def spec_lookup(manifest: Manifest) -> Callable[[str], TensorSpec]:
    """A function that gives the spec of a tensor by its name, and decodes each once."""

    @functools.cache
    def spec_of(name: str) -> TensorSpec:
        return manifest.entry(name).spec

    return spec_of


def _is_covered(masks: Sequence[np.ndarray | None], shape: tuple[int, ...]) -> bool:
    """True if masks together leave no element out; a mask of None covers all."""
    covered = np.zeros(shape, bool)
    for mask in masks:
        if mask is None:
            return True
        covered |= mask
    return bool(covered.all())
