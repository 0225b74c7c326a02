"""The way back: a plan -> what each tensor of the checkpoint is, in terms of leaves.

Reads no leaf and writes no file: `_writing.save` does.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from tf2flax._assignment.language.captures import literal_pattern
from tf2flax._assignment.language.expressions import Expression, Source
from tf2flax._assignment.layouts.inverting import inverse_of
from tf2flax._assignment.layouts.lowering import lower
from tf2flax._assignment.layouts.scattering import scatter_value
from tf2flax._assignment.resolution.assignments import (
    Assignment,
    Gap,
    Resolution,
)
from tf2flax._base.collapsing import summarise
from tf2flax._base.dtypes import kind_of
from tf2flax._base.errors import AssignmentError
from tf2flax._base.manifest import Manifest, StoredNames
from tf2flax._base.memory import empty
from tf2flax._base.values import TensorSpec

from .plan import RestorePlan
from .renewing import Renewal, find_renewals, way_out

# Gives the array of a leaf, by name, on the host.
FetchLeaf = Callable[[str], np.ndarray]


@dataclasses.dataclass(frozen=True, slots=True)
class InverseAssignment:
    """One tensor of the checkpoint, and the leaves that it is made of.

    Attributes:
        name: Name of the tensor, as it is stored, also where the plan was made for a
            view. What a Keras 3 export stores twice has two such assignments.
        leaves: Names of the leaves, each once.
        expression: What it is, with leaves as sources; None where several leaves tell
            parts of it.
        is_complete: Whether the leaves tell every element; the others are copied from
            the checkpoint.
    """

    name: str
    leaves: tuple[str, ...]
    expression: Expression | None
    is_complete: bool

    def __str__(self) -> str:
        """The tensor and what it is."""
        if self.expression is None:
            told = " and ".join(f"`{leaf}`" for leaf in self.leaves)
            return f"`{self.name}` <- parts in {told}"
        plain = isinstance(self.expression, Source)
        return f"`{self.name}` <- `{self.leaves[0] if plain else self.expression}`"


class InversePlan:
    """What a checkpoint of the same layout holds, for a tree that was loaded.

    Made by `Plan.inverse`, used by `tf2flax.save_checkpoint(..., plan=plan)`.

    Examples:
        >>> import jax, tf2flax
        >>> target = {"head": jax.ShapeDtypeStruct((32, 2), "float32")}
        >>> key = tf2flax.src("cls/seq_relationship/output_weights").transpose()
        >>> plan = tf2flax.plan("tests/data/bert/model.ckpt", {key: "head"}, target)
        >>> print(plan.inverse().assignments[0])
        `cls/seq_relationship/output_weights` <- `src("head").transpose()`
    """

    __slots__ = (
        "_groups",
        "_manifest",
        "_problems",
        "_stored",
        "assignments",
        "copied",
        "left_out",
        "renewals",
    )

    assignments: tuple[InverseAssignment, ...]
    copied: tuple[str, ...]
    left_out: tuple[str, ...]
    # Leaves that `on_mismatch` kept, which are written in their own shape.
    renewals: tuple[Renewal, ...]

    def __init__(self, plan: RestorePlan, manifest: Manifest) -> None:
        """Turns a plan round; made by `Plan.inverse`, not by users.

        Args:
            plan: The plan.
            manifest: The checkpoint, or the view of it, that the plan was made for.

        Raises:
            AssignmentError: The view is no single checkpoint.
            DamagedError: The entry of a tensor is malformed.
        """
        self._manifest = manifest
        self._stored = manifest.stored()
        resolution = plan.resolution
        # A tied leaf is written to all tensors that its names have.
        twins = [twin for tie in resolution.ties for twin in tie.twins]
        self._groups = _families([*plan.assignments, *twins])
        inverted = self._inverted()
        spec_of = specs_of(manifest)
        self.renewals, self._problems = find_renewals(
            _kept_gaps(resolution),
            {one.name for one in inverted},
            spec_of,
            self._stored.places,
        )
        renewed = [
            InverseAssignment(place, renewal.leaves, expression, True)
            for renewal in self.renewals
            for place, (expression, _) in renewal.tensors(
                renewal.gap.shape, spec_of
            ).items()
        ]
        self.assignments = tuple(
            sorted([*inverted, *renewed], key=lambda one: one.name)
        )
        written = {one.name for one in self.assignments}
        present = self.manifest.names if self._stored.is_view else plan.unused
        self.copied = tuple(name for name in present if name not in written)
        leaves = set(self.leaves)
        self.left_out = tuple(one for one in resolution.kept if one not in leaves)

    @property
    def leaves(self) -> tuple[str, ...]:
        """Names of the leaves that are written, each once."""
        loaded = [one.leaf for group in self._groups for one in group]
        kept = [leaf for renewal in self.renewals for leaf in renewal.leaves]
        return tuple(dict.fromkeys([*loaded, *kept]))

    @property
    def manifest(self) -> Manifest:
        """The checkpoint under stored names, for the layers above."""
        return self._stored.manifest

    @property
    def view(self) -> Manifest:
        """The checkpoint under the names that the plan was made for."""
        return self._manifest

    @property
    def stored(self) -> StoredNames:
        """The way from the names of the plan to the stored ones."""
        return self._stored

    @property
    def groups(self) -> Sequence[Sequence[Assignment]]:
        """Assignments, those of the parts of one family together."""
        return self._groups

    def to_dict(self) -> dict[str, Any]:
        """The inverse as plain values, ready for `json.dumps`."""
        return {
            "checkpoint": self._manifest.prefix,
            "tensors": [
                {
                    "name": one.name,
                    "leaves": list(one.leaves),
                    "expression": None
                    if one.expression is None
                    else repr(one.expression),
                    "complete": one.is_complete,
                }
                for one in self.assignments
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
        """The inverse for people: a line for each tensor."""
        lines = [
            f"{len(self.assignments)} tensors from {len(self.leaves)} leaves, "
            f"{len(self.copied)} copied, {len(self.left_out)} leaves left out",
            *(f"  {one}" for one in self.assignments),
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
            specs: Shape and dtype of every leaf of the tree that the plan writes.
            present: Names of all leaves of the tree.
            is_copying: Whether the checkpoint supplies what leaves do not tell.

        Raises:
            AssignmentError: A leaf is missing or of another shape, or a tensor would
                have gaps; all are named.
        """
        problems: list[str] = []
        for one in (one for group in self._groups for one in group):
            leaf = one.leaf
            if leaf not in specs:
                problems.append(
                    f"Leaf `{leaf}`, which the plan loaded, is not in the tree."
                )
            elif specs[leaf].shape != one.shape:
                problems.append(
                    f"Leaf `{leaf}`: expected shape {list(one.shape)}, as in the plan, "
                    f"got {list(specs[leaf].shape)}."
                )
            elif kind_of(specs[leaf].dtype.numpy) != kind_of(one.dtype):
                problems.append(
                    f"Leaf `{leaf}`: expected dtype {one.dtype}, as in the plan, got "
                    f"{specs[leaf].dtype.name}. Cast it first."
                )
        if is_copying:
            problems += [
                way_out(leaf, problem)
                for leaf, problem in self._problems.items()
                if leaf in present
            ]
        problems += self._problems_of_kept(specs, is_copying=is_copying)
        for one in () if is_copying else self.assignments:
            if not one.is_complete:
                told = ", ".join(f"`{leaf}`" for leaf in one.leaves)
                problems.append(
                    f"Tensor `{one.name}` is told only in part, by {told}: "
                    'unused="copy" takes the rest from the checkpoint.'
                )
        if problems:
            raise AssignmentError(summarise(problems))

    def _problems_of_kept(
        self, specs: Mapping[str, TensorSpec], *, is_copying: bool
    ) -> list[str]:
        """Kept leaves in whose place the checkpoint's tensors would be copied."""
        problems: list[str] = []
        for renewal in self.renewals:
            missing = [leaf for leaf in renewal.leaves if leaf not in specs]
            if missing and (is_copying or len(missing) < len(renewal.leaves)):
                names = ", ".join(f"`{name}`" for name in renewal.places)
                problems.append(
                    f"Leaf `{missing[0]}`, which belongs in the place of {names}, is "
                    'not in the tree. Give unused="drop" to leave both out.'
                )
            elif not missing and not renewal.parts:
                try:
                    self.resized(renewal, specs[renewal.leaf].shape)
                except AssignmentError as error:
                    problems.append(way_out(renewal.leaf, str(error)))
        return problems

    def resized(
        self, renewal: Renewal, shape: tuple[int, ...]
    ) -> dict[str, tuple[Expression, tuple[int, ...]]]:
        """What each tensor of a kept leaf is, and its shape; see `Renewal.tensors`.

        Args:
            renewal: One of `renewals`.
            shape: Shape of the leaf that is to be written.

        Returns:
            Expressions with the leaf as source, and shapes, by stored name.

        Raises:
            AssignmentError: The shape of a tensor does not follow from that of the
                leaf.
        """
        return renewal.tensors(shape, specs_of(self._manifest))

    def _inverted(self) -> tuple[InverseAssignment, ...]:
        spec_of = specs_of(self._manifest)
        places = self._stored.places
        masks: dict[tuple[str, ...], list[np.ndarray | None]] = {}
        # Of each variable: the names by which it was loaded, views may have several,
        # and the leaves that it was loaded into.
        loaded: dict[tuple[str, ...], list[tuple[str, Sequence[Assignment]]]] = {}
        for group in self._groups:
            _, mask = join_group(group, None, spec_of)
            for share in scatter_value(group[0].expression, None, mask, spec_of):
                masks.setdefault(places(share.name), []).append(share.mask)
            for name in group[0].sources:
                loaded.setdefault(places(name), []).append((name, group))
        written: dict[int, Mapping[str, Expression]] = {}
        result: list[InverseAssignment] = []
        for variable, uses in loaded.items():
            name = uses[0][0]
            groups = list({id(group): group for _, group in uses}.values())
            is_complete = _covers(masks.get(variable, []), spec_of(name).shape)
            expression = None
            if len(uses) == 1 and is_complete:
                (group,) = groups
                if id(group) not in written:
                    source = Source(literal_pattern(_family_name(group)))
                    written[id(group)] = inverse_of(
                        group[0].expression, source, spec_of
                    )
                expression = written[id(group)].get(name)
            leaves = tuple(one.leaf for group in groups for one in group)
            result += [
                InverseAssignment(place, leaves, expression, is_complete)
                for place in variable
            ]
        return tuple(sorted(result, key=lambda one: one.name))


def specs_of(manifest: Manifest) -> Callable[[str], TensorSpec]:
    """Shape and dtype of each tensor by name, each decoded once.

    Args:
        manifest: The checkpoint, or a view of it.

    Returns:
        What gives the spec of a name.
    """

    @functools.cache
    def spec_of(name: str) -> TensorSpec:
        return manifest.entry(name).spec

    return spec_of


def _kept_gaps(resolution: Resolution) -> list[Gap]:
    """Leaves that do not fit, also what the other names of a tied one lead to."""
    kept = {gap.leaf for gap in resolution.mismatched}
    misfits = [gap for tie in resolution.ties for gap in tie.misfits]
    return [*resolution.mismatched, *(gap for gap in misfits if gap.leaf in kept)]


def _covers(masks: Sequence[np.ndarray | None], shape: tuple[int, ...]) -> bool:
    """Whether masks, of which None is everything, leave nothing out."""
    known = np.zeros(shape, bool)
    for mask in masks:
        if mask is None:
            return True
        known |= mask
    return bool(known.all())


def _families(users: Sequence[Assignment]) -> list[list[Assignment]]:
    """Groups the parts of each family; other leaves stand alone."""
    groups: dict[object, list[Assignment]] = {}
    for one in users:
        family = one.leaf.rpartition("/part_")[0] if one.box is not None else None
        # Parts of several dtypes are joined apart: an array has one.
        # A tied leaf is told to several tensors.
        key = (one.expression, family or one.leaf, one.dtype)
        groups.setdefault(key, []).append(one)
    return list(groups.values())


def _family_name(group: Sequence[Assignment]) -> str:
    leaf = group[0].leaf
    return leaf if group[0].box is None else leaf.rpartition("/part_")[0]


def join_group(
    group: Sequence[Assignment],
    fetch: FetchLeaf | None,
    spec_of: Callable[[str], TensorSpec],
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Joins the parts of a family, or takes the one leaf.

    Args:
        group: Assignments of one leaf, or of the parts of one family.
        fetch: Gives the array of a leaf; None where only the mask is of interest.
        spec_of: Shape and dtype of each tensor.

    Returns:
        The value of the group's expression (None without `fetch`), and which of its
        elements the parts have; None for all of them.
    """
    if group[0].box is None:
        return (None if fetch is None else fetch(group[0].leaf)), None
    shape = lower(group[0].expression, spec_of).shape
    mask = np.zeros(shape, bool)
    value: np.ndarray | None = None
    for one in group:
        assert one.box is not None
        index = tuple(map(slice, one.box.starts, one.box.stops))
        mask[index] = True
        if fetch is not None:
            part = fetch(one.leaf)
            value = empty(shape, part.dtype) if value is None else value
            value[index] = part
    return value, None if mask.all() else mask
