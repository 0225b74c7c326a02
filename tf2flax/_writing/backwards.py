"""Tensors put together from leaves, for what is written."""

from __future__ import annotations

import collections
from collections.abc import Sequence

import numpy as np

from tf2flax._assignment.layouts.scattering import (
    Contribution,
    same_bits,
    scatter_value,
)
from tf2flax._assignment.layouts.uncasting import (
    Conflict,
    LeafValue,
    is_one_to_one,
    settle_values,
    uncast_value,
)
from tf2flax._assignment.plans.inverse import (
    FetchLeaf,
    InversePlan,
    join_group,
    specs_of,
)
from tf2flax._assignment.resolution.assignments import (
    Assignment,
    without_repeats,
)
from tf2flax._base.dtypes import forced_cast, kind_of
from tf2flax._base.errors import AssignmentError
from tf2flax._base.manifest import TensorEntry
from tf2flax._base.values import TensorSpec
from tf2flax._reading.whole import read_entry


class TensorWriter:
    """Tensors put together from leaves, of which each is fetched once and then dropped.

    What a leaf says is kept until the last of its tensors has been asked for. Where
    variables are stored in two places, the second ones are other tensors: their leaves
    are fetched again, since places of one variable may be far apart.

    A tied leaf counts as one for each of its tensors.
    """

    def __init__(
        self,
        inverse: InversePlan,
        fetch: FetchLeaf,
    ) -> None:
        """Begins to put tensors together.

        Args:
            inverse: What each tensor is, in terms of leaves.
            fetch: Gives the array of a leaf, on the host; called once for each, and
                for a tied leaf once for each of its tensors.
        """
        groups, self._stored = inverse.groups, inverse.stored
        self._fetch = fetch
        self._spec_of = specs_of(inverse.view)
        self._groups_of: dict[str, list[int]] = {}
        # Which of the places of its variable a stored tensor is.
        self._turn_of: dict[str, int] = {}
        self._groups = groups
        # Both by the number of the group and the turn.
        self._left: collections.Counter[tuple[int, int]] = collections.Counter()
        self._shares: dict[tuple[int, int], dict[str, list[Contribution]]] = {}
        for number, group in enumerate(groups):
            variables = dict.fromkeys(map(self._stored.places, group[0].sources))
            for places in variables:
                for turn, place in enumerate(places):
                    self._left[number, turn] += 1
                    self._turn_of[place] = turn
                    self._groups_of.setdefault(place, []).append(number)

    def tensor(self, name: str) -> np.ndarray:
        """Puts one tensor together; each may be asked for once.

        The checkpoint is read again only where casts may have lost something, and for
        elements that no leaf tells.

        Args:
            name: Its stored name.

        Returns:
            Array of the tensor's shape and dtype.

        Raises:
            AssignmentError: Values do not fit the tensor's dtype, or leaves disagree.
            DamagedError: What is to be copied is damaged.
            ReadError: The operating system refuses.
        """
        entry = self._stored.manifest.entry(name)
        leaf_values = self._leaf_values(name, entry)
        if not all(leaf_value.is_reversible for leaf_value in leaf_values):
            return self._settled(entry, leaf_values)
        out: np.ndarray | None = None
        known: np.ndarray | None = None
        leaves: list[str] = []
        for leaf_value in leaf_values:
            leaves.append(leaf_value.leaf)
            value = uncast_value(leaf_value)
            if value is None:  # tells which element it is
                return self._settled(entry, leaf_values)
            out, known = _merged(out, known, value, leaf_value.mask, name, leaves)
        assert out is not None
        if known is None or known.all():
            return np.ascontiguousarray(out)
        return np.where(known, out, read_entry(entry))

    def _leaf_values(self, name: str, entry: TensorEntry) -> list[LeafValue]:
        """What leaves say about one tensor, each with the casts of loading it."""
        leaf_values: list[LeafValue] = []
        for number in self._groups_of[name]:
            assignment = self._groups[number][0]
            try:
                shares = self._shares_of(number, name)
            except _CannotWriteError as error:
                raise AssignmentError(
                    f"Leaf `{assignment.leaf}` cannot be written as `{name}`: {error}"
                ) from error
            stored = entry.spec.dtype.numpy
            leaf_values += [_leaf_value(assignment, stored, share) for share in shares]
        return leaf_values

    def _settled(
        self, entry: TensorEntry, leaf_values: Sequence[LeafValue]
    ) -> np.ndarray:
        """The tensor as the checkpoint has it, but for what leaves have changed."""
        stored = np.require(read_entry(entry), requirements=["C", "W"])
        conflict = settle_values(stored, leaf_values)
        if conflict is None:
            return stored
        if conflict.leaf is None:
            raise _disagreement(
                entry.name, [leaf_value.leaf for leaf_value in leaf_values]
            )
        culprit = next(
            leaf_value for leaf_value in leaf_values if leaf_value.leaf == conflict.leaf
        )
        raise AssignmentError(
            f"Leaf `{conflict.leaf}` cannot be written as `{entry.name}`: "
            f"{_misfit(conflict, culprit, entry.spec)}"
        )

    def _shares_of(self, number: int, name: str) -> list[Contribution]:
        group = self._groups[number]
        turn = self._turn_of[name]
        key = number, turn
        if key not in self._shares:
            value, mask = join_group(group, self._fetch, self._spec_of)
            found: dict[str, list[Contribution]] = {}
            try:
                shares = scatter_value(group[0].expression, value, mask, self._spec_of)
            except AssignmentError as error:
                raise _CannotWriteError(str(error)) from error
            for share in shares:
                if place := self._stored.places(share.name)[turn : turn + 1]:
                    found.setdefault(place[0], []).append(share)
            self._shares[key] = found
        shares = self._shares[key].pop(name)
        self._left[key] -= 1
        if not self._left[key]:
            del self._shares[key]
        return shares


class _CannotWriteError(Exception):
    """Why the value of a leaf cannot be written."""


def _leaf_value(
    assignment: Assignment, stored: np.dtype, share: Contribution
) -> LeafValue:
    """What a share says, and the casts that led to it."""
    value = share.value
    assert value is not None
    casts = [stored, *share.casts, assignment.dtype]
    is_widened = False
    if value.dtype != assignment.dtype:  # it was cast after it had been loaded
        if is_one_to_one(value.dtype, assignment.dtype):
            value = forced_cast(value, assignment.dtype)
        elif is_one_to_one(assignment.dtype, value.dtype):
            casts.append(value.dtype)
            is_widened = True
        else:
            casts = [stored, value.dtype]
    chain = without_repeats(casts)
    return LeafValue(assignment.leaf, value, share.mask, chain, is_widened)


def _misfit(conflict: Conflict, leaf_value: LeafValue, spec: TensorSpec) -> str:
    """Why a leaf cannot be written, and what to do."""
    place = [int(i) for i in np.unravel_index(conflict.place, spec.shape)]
    where = (
        f"{conflict.count} of {spec.size}, the first is {conflict.value} at {place} of "
        "the tensor"
    )
    stored, leaf = leaf_value.casts[0], leaf_value.casts[-1]
    if len(leaf_value.casts) > 2 and not leaf_value.is_widened:
        chain = " -> ".join(map(str, leaf_value.casts))
        return (
            f"loading it, by {chain}, gives no such values: {where}. Give it values "
            "that loading can give, or save it without the plan."
        )
    way_out = f"Cast the leaf to {stored} first, to round it."
    if kind_of(stored) != kind_of(leaf):
        way_out = f"Give it values that {stored} holds, or save it without the plan."
    return f"its values do not fit {stored} without rounding: {where}. {way_out}"


def _disagreement(name: str, leaves: Sequence[str]) -> AssignmentError:
    names = " and ".join(f"`{leaf}`" for leaf in dict.fromkeys(leaves))
    return AssignmentError(
        f"Tensor `{name}` is told by {names}, which differ where they should be one. "
        "Make them equal, or save one of them under another name."
    )


def _merged(
    out: np.ndarray | None,
    known: np.ndarray | None,
    value: np.ndarray,
    mask: np.ndarray | None,
    name: str,
    leaves: Sequence[str],
) -> tuple[np.ndarray, np.ndarray | None]:
    """Adds what one more share tells; what is told twice must agree, bit for bit."""
    if out is None:
        return value, mask
    both = mask if known is None else known
    if mask is not None and known is not None:
        both = known & mask
    if not same_bits(out, value, both):
        raise _disagreement(name, leaves)
    if known is None or mask is None:
        return (out, None) if known is None else (value, None)
    return np.where(mask, value, out), known | mask
