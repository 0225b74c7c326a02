"""Leaves of a plan -> the tensors that they came from, one after the other.

Of a leaf that joins tensors, each is fetched alone, when it is written:

    leaf w [3, 2]  (= stack of l_0/w, l_1/w, l_2/w)
        | split_portion
        +-> portion w[0:1] -> l_0/w [2]
        +-> portion w[1:2] -> l_1/w [2]
        +-> portion w[2:3] -> l_2/w [2]

A portion is fetched once, scattered over its tensors and dropped after the last:

    portion v[0:4]  (= concat of q, k, reshaped)
        | scatter_value
        +-> contribution to q [2]            each with a mask of what it covers
        +-> contribution to k [2]            (None: everything)

Contributions of several leaves to one tensor are merged; where they overlap, they must
be equal. Elements that no leaf covers are read from the checkpoint again.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence

import numpy as np

from tf2flax._assignment.layouts.portions import (
    Portion,
    split_portion,
    whole_portion,
)
from tf2flax._assignment.layouts.scattering import (
    Contribution,
    same_bits,
    scatter_value,
)
from tf2flax._assignment.layouts.steps import cast_chain, has_numbers
from tf2flax._assignment.layouts.uncasting import (
    Conflict,
    LeafValue,
    is_one_to_one,
    settle_values,
    uncast_value,
)
from tf2flax._assignment.plans.families import join_group
from tf2flax._assignment.plans.inverse import InversePlan, spec_lookup
from tf2flax._assignment.resolution.assignments import Assignment
from tf2flax._base.dtypes import forced_cast, kind_of
from tf2flax._base.errors import AssignmentError
from tf2flax._base.manifest import TensorEntry
from tf2flax._base.values import Box, TensorSpec
from tf2flax._reading.whole import read_entry

from .new_tensors import NewTensor

# Contributions to tensors, by stored name.
_Contributions = dict[str, list[Contribution]]


class TensorWriter:
    """Puts tensors together from leaves, of which each element is fetched once.

    The contributions of a portion are kept until the last of its tensors has been asked
    for: those of one tensor alone are not kept. Where variables are stored in two
    places, leaves are fetched again for the second ones, since the places of one
    variable may be far apart in the file.

    A tied leaf counts as a leaf for each of its tensors.
    """

    def __init__(self, inverse: InversePlan, leaves: Mapping[str, NewTensor]) -> None:
        """Begins to put tensors together.

        Args:
            inverse: What each tensor is, in terms of leaves.
            leaves: The leaves, by name, none of which spans processes.
        """
        self._leaves, self._stored = leaves, inverse.stored
        self._spec_of = spec_lookup(inverse.view)
        self._portions = [
            (group, portion)
            for group in inverse.groups
            for portion in self._split_group(group)
        ]
        self._portions_of: dict[str, list[int]] = {}
        # Which of the places of its variable a stored tensor is: 0 for the first.
        self._turn_of: dict[str, int] = {}
        # By the number of the portion and the turn: how many tensors have not been
        # asked for, and the contributions to them, by stored name.
        self._num_left: collections.Counter[tuple[int, int]] = collections.Counter()
        self._contributions: dict[tuple[int, int], _Contributions] = {}
        for number, (_, portion) in enumerate(self._portions):
            variables = dict.fromkeys(map(self._stored.places, portion.sources))
            for places in variables:
                for turn, place in enumerate(places):
                    self._num_left[number, turn] += 1
                    self._turn_of[place] = turn
                    self._portions_of.setdefault(place, []).append(number)

    def _split_group(self, group: Sequence[Assignment]) -> Sequence[Portion]:
        """What of a group of leaves is fetched alone."""
        first = group[0]
        whole = whole_portion(first.expression, first.shape)
        # Parts of a family are joined first; and of some leaves, as of tensors that are
        # read from a file, a part takes as much as all.
        if first.box is not None or self._leaves[first.leaf].pieces[0].part is None:
            return [whole]
        return list(split_portion(whole, self._spec_of))

    def tensor(self, name: str) -> np.ndarray:
        """Puts one tensor together; each may be asked for once.

        The checkpoint is read again only where casts may have lost something, and for
        elements that no leaf covers.

        Args:
            name: Its stored name.

        Returns:
            Array of the tensor's shape and dtype.

        Raises:
            AssignmentError: Values do not fit the tensor's dtype, or leaves disagree.
            DamagedError: What is to be copied is damaged.
            ReadError: The operating system refuses.
        """
        # A partner gets the bits of the tensor that its leaves were loaded from.
        origin = self._stored.partners.get(name, name)
        entry = self._stored.manifest.entry(origin)
        leaf_values = self._leaf_values(name, entry)
        if not all(leaf_value.is_reversible for leaf_value in leaf_values):
            return self._settle(entry, leaf_values)
        merged = _MergedValue(name)
        for leaf_value in leaf_values:
            value = uncast_value(leaf_value)
            if value is None:  # settling finds the element that does not fit
                return self._settle(entry, leaf_values)
            merged.add(leaf_value.leaf, value, leaf_value.mask)
        assert merged.value is not None
        if merged.covered is None or merged.covered.all():
            return np.ascontiguousarray(merged.value)
        return np.where(merged.covered, merged.value, read_entry(entry))

    def _leaf_values(self, name: str, entry: TensorEntry) -> list[LeafValue]:
        """The values of one tensor in leaves, each with the casts of loading it."""
        leaf_values: list[LeafValue] = []
        for number in self._portions_of[name]:
            assignment = self._portions[number][0][0]
            try:
                contributions = self._take_contributions(number, name)
            except _CannotWriteError as error:
                raise AssignmentError(
                    f"Leaf `{assignment.leaf}` cannot be written as `{name}`: {error}"
                ) from error
            stored = entry.spec.dtype.numpy
            leaf_values += [
                leaf_value_of(assignment, stored, contribution)
                for contribution in contributions
            ]
        return leaf_values

    def _settle(
        self, entry: TensorEntry, leaf_values: Sequence[LeafValue]
    ) -> np.ndarray:
        """The stored tensor, except for elements that leaves have changed."""
        stored = np.require(read_entry(entry), requirements=["C", "W"])
        conflict = settle_values(stored, leaf_values)
        if conflict is None:
            return stored
        if conflict.leaf is None:
            leaves = [leaf_value.leaf for leaf_value in leaf_values]
            raise _disagreement(entry.name, leaves)
        culprit = next(
            leaf_value for leaf_value in leaf_values if leaf_value.leaf == conflict.leaf
        )
        raise misfit_error(conflict, culprit, entry.name, entry.spec)

    def _take_contributions(self, number: int, name: str) -> list[Contribution]:
        """Contributions of a portion to one tensor; dropped here."""
        turn = self._turn_of[name]
        key = number, turn
        if key not in self._contributions:
            self._contributions[key] = self._scatter_portion(number, turn)
        contributions = self._contributions[key].pop(name)
        self._num_left[key] -= 1
        if not self._num_left[key]:
            del self._contributions[key]
        return contributions

    def _scatter_portion(self, number: int, turn: int) -> _Contributions:
        """Fetches a portion, and scatters it over its tensors of one turn."""
        group, portion = self._portions[number]
        leaf, dtype = group[0].leaf, group[0].dtype
        if group[0].box is None:
            value, mask = portion.value_of(self._fetch(leaf, portion.box)), None
        else:
            value, mask = join_group(group, self._fetch, self._spec_of)
        try:
            contributions = scatter_value(
                portion.expression, value, mask, self._spec_of, dtype, portion.casts
            )
        except AssignmentError as error:
            raise _CannotWriteError(str(error)) from error
        by_place: _Contributions = {}
        for contribution in contributions:
            places = self._stored.places(contribution.name)
            if turn < len(places):
                by_place.setdefault(places[turn], []).append(contribution)
        return by_place

    def _fetch(self, leaf: str, box: Box) -> np.ndarray:
        return self._leaves[leaf].pieces[0].elements(box)


class _CannotWriteError(Exception):
    """The reason why the value of a leaf cannot be written."""


class _MergedValue:
    """The value of a tensor, to which leaves contribute one after the other.

    Attributes:
        value: What they contribute together; None before the first.
        covered: True where an element is covered; None where all are.
    """

    def __init__(self, name: str) -> None:
        self.value: np.ndarray | None = None
        self.covered: np.ndarray | None = None
        self._name = name
        self._leaves: list[str] = []

    def add(self, leaf: str, value: np.ndarray, mask: np.ndarray | None) -> None:
        """Adds a contribution; elements that are covered twice must have equal bits.

        Args:
            leaf: The leaf, for the message.
            value: Array of the tensor's shape.
            mask: True where it covers an element; None where it covers all.
        """
        self._leaves.append(leaf)
        if self.value is None:
            self.value, self.covered = value, mask
            return
        if not same_bits(self.value, value, _intersection(self.covered, mask)):
            raise _disagreement(self._name, self._leaves)
        if self.covered is None:
            return
        if mask is None:
            self.value, self.covered = value, None
            return
        self.value = np.where(mask, value, self.value)
        self.covered = self.covered | mask


def _intersection(
    first: np.ndarray | None, second: np.ndarray | None
) -> np.ndarray | None:
    """True where both masks are; None stands for a mask that is True everywhere."""
    if first is None:
        return second
    return first if second is None else first & second


def leaf_value_of(
    assignment: Assignment, stored: np.dtype, contribution: Contribution
) -> LeafValue:
    """The value of a contribution, and the casts by which it was loaded.

    Args:
        assignment: How the leaf was loaded.
        stored: Dtype of the tensor.
        contribution: Elements of the leaf.
    """
    value = contribution.value
    assert value is not None
    casts = [*contribution.casts, assignment.dtype]
    is_widened = False
    if value.dtype != assignment.dtype:  # the user has cast the leaf since
        # Back to the loaded dtype if that loses nothing; else the cast is one more to
        # undo, or, if it loses something itself, the only one.
        if is_one_to_one(value.dtype, assignment.dtype):
            value = forced_cast(value, assignment.dtype)
        elif is_one_to_one(assignment.dtype, value.dtype):
            casts.append(value.dtype)
            is_widened = True
        else:
            has_steps = has_numbers(contribution.casts)
            casts = [*(contribution.casts if has_steps else ()), value.dtype]
    chain = cast_chain(stored, casts)
    return LeafValue(assignment.leaf, value, contribution.mask, chain, is_widened)


def misfit_error(
    conflict: Conflict,
    leaf_value: LeafValue,
    name: str,
    spec: TensorSpec,
    box: Box | None = None,
) -> AssignmentError:
    """The error that says why a leaf cannot be written, and what to do.

    Args:
        conflict: The elements that do not fit.
        leaf_value: The value of the leaf.
        name: Name of the tensor.
        spec: Shape and dtype of the tensor.
        box: The box of it that was looked at; None for all of it.
    """
    fact = _describe_misfit(conflict, leaf_value, spec, box)
    return AssignmentError(
        f"Leaf `{leaf_value.leaf}` cannot be written as `{name}`: {fact}"
    )


def _describe_misfit(
    conflict: Conflict, leaf_value: LeafValue, spec: TensorSpec, box: Box | None
) -> str:
    box = Box.whole(spec.shape) if box is None else box
    within = np.unravel_index(conflict.place, box.shape)
    place = [start + int(i) for start, i in zip(box.starts, within, strict=True)]
    where = (
        f"{conflict.count} of {spec.size}, the first is {conflict.value} at {place} of "
        "the tensor"
    )
    stored, leaf = leaf_value.stored, leaf_value.value.dtype
    if has_numbers(leaf_value.casts) or (
        len(leaf_value.casts) > 2 and not leaf_value.is_widened
    ):
        chain = " -> ".join(map(str, leaf_value.casts))
        return (
            f"loading by {chain} cannot give its values: {where}. Give it values "
            "that loading can give, or save it without the plan."
        )
    way_out = f"Cast the leaf to {stored} first, to round it."
    if kind_of(stored) != kind_of(leaf):
        way_out = f"Give it values that {stored} holds, or save it without the plan."
    return f"its values do not fit {stored} without rounding: {where}. {way_out}"


def _disagreement(name: str, leaves: Sequence[str]) -> AssignmentError:
    names = " and ".join(f"`{leaf}`" for leaf in dict.fromkeys(leaves))
    return AssignmentError(
        f"Tensor `{name}` is written from {names}, with different values for the same "
        "elements. Make them equal, or save one of them under another name."
    )
