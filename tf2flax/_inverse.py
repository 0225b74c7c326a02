"""The way back: a plan -> what each tensor of the checkpoint is, in terms of leaves.

Reads no leaf and writes no file: `_saving` does.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from ._assignment.captures import literal_pattern
from ._assignment.collapsing import screenful
from ._assignment.dtypes import cast, kind_of
from ._assignment.expressions import Expression, Source
from ._assignment.lowering import lower
from ._assignment.scattering import Share, inverse_of, same_bits, scatter
from ._assignment.values import Assignment
from ._errors import AssignmentError
from ._manifest import Entry, Manifest
from ._memory import empty
from ._plan import RestorePlan
from ._reading import read_entry
from ._specs import TensorSpec
from ._stored_names import StoredNames, stored_names

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

    __slots__ = ("_groups", "_manifest", "_stored", "assignments", "copied", "left_out")

    assignments: tuple[InverseAssignment, ...]
    copied: tuple[str, ...]
    left_out: tuple[str, ...]

    def __init__(self, plan: RestorePlan, manifest: Manifest) -> None:
        """Turns a plan round; made by `Plan.inverse`, not by users.

        Args:
            plan: The plan.
            manifest: The checkpoint, or the view of it, that the plan was made for.

        Raises:
            AssignmentError: Some of it cannot be inverted; every leaf is named. Or the
                view is no single checkpoint.
        """
        self._manifest = manifest
        self._stored = stored_names(manifest)
        problems = [
            f"Leaf `{one.leaf}`: {problem}"
            for one in plan.assignments
            if (problem := _cast_problem(one))
        ]
        if problems:
            raise AssignmentError(screenful(problems))
        self._groups = _families(plan.assignments)
        self.assignments = self._inverted()
        self.copied = self._not_written() if self._stored.is_view else plan.unused
        self.left_out = plan.resolution.kept

    @property
    def leaves(self) -> tuple[str, ...]:
        """Names of the leaves that are written, each once."""
        return tuple(one.leaf for group in self._groups for one in group)

    @property
    def manifest(self) -> Manifest:
        """The checkpoint under stored names, for the layers above."""
        return self._stored.manifest

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

    def check(self, specs: Mapping[str, TensorSpec], *, is_copying: bool) -> None:
        """Checks a tree against the plan, before anything of it is fetched.

        Args:
            specs: Shape and dtype of every leaf of the tree.
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
        for one in () if is_copying else self.assignments:
            if not one.is_complete:
                told = ", ".join(f"`{leaf}`" for leaf in one.leaves)
                problems.append(
                    f"Tensor `{one.name}` is told only in part, by {told}: "
                    'unused="copy" takes the rest from the checkpoint.'
                )
        if problems:
            raise AssignmentError(screenful(problems))

    def begin(self, fetch: FetchLeaf) -> Backwards:
        """Begins to put tensors together.

        Args:
            fetch: Gives the array of a leaf, on the host; called once for each.

        Returns:
            What gives the tensors.
        """
        return Backwards(self._groups, self._manifest, self._stored, fetch)

    def _not_written(self) -> tuple[str, ...]:
        """All stored tensors that no leaf tells, those that the view hides as well."""
        written = {one.name for one in self.assignments}
        return tuple(name for name in self.manifest.names if name not in written)

    def _inverted(self) -> tuple[InverseAssignment, ...]:
        spec_of = _specs_of(self._manifest)
        places = self._stored.places
        masks: dict[tuple[str, ...], list[np.ndarray | None]] = {}
        # Of each variable: the names by which it was loaded, views may have several,
        # and the leaves that it was loaded into.
        told: dict[tuple[str, ...], list[tuple[str, Sequence[Assignment]]]] = {}
        for group in self._groups:
            _, mask = _joined(group, None, spec_of)
            for share in scatter(group[0].expression, None, mask, spec_of):
                masks.setdefault(places(share.name), []).append(share.mask)
            for name in group[0].sources:
                told.setdefault(places(name), []).append((name, group))
        written: dict[int, Mapping[str, Expression]] = {}
        result: list[InverseAssignment] = []
        for variable, tellers in told.items():
            name = tellers[0][0]
            groups = list({id(group): group for _, group in tellers}.values())
            is_complete = _covers(masks.get(variable, []), spec_of(name).shape)
            expression = None
            if len(tellers) == 1 and is_complete:
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


class Backwards:
    """Tensors put together from leaves, of which each is fetched once and then dropped.

    What a leaf says is kept until the last of its tensors has been asked for. Where
    variables are stored in two places, the second ones are other tensors: their leaves
    are fetched again, since places of one variable may be far apart.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[Assignment]],
        manifest: Manifest,
        stored: StoredNames,
        fetch: FetchLeaf,
    ) -> None:
        """Made by `InversePlan.begin`."""
        self._stored = stored
        self._fetch = fetch
        self._spec_of = _specs_of(manifest)
        self._groups_of: dict[str, list[int]] = {}
        # Which of the places of its variable a stored tensor is.
        self._turn_of: dict[str, int] = {}
        self._groups = groups
        # Both by the number of the group and the turn.
        self._left: collections.Counter[tuple[int, int]] = collections.Counter()
        self._shares: dict[tuple[int, int], dict[str, list[Share]]] = {}
        for number, group in enumerate(groups):
            variables = dict.fromkeys(map(stored.places, group[0].sources))
            for places in variables:
                for turn, place in enumerate(places):
                    self._left[number, turn] += 1
                    self._turn_of[place] = turn
                    self._groups_of.setdefault(place, []).append(number)

    def tensor(self, name: str) -> np.ndarray:
        """Puts one tensor together; each may be asked for once.

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
        out: np.ndarray | None = None
        known: np.ndarray | None = None
        told: list[str] = []
        for number in self._groups_of[name]:
            leaf = self._groups[number][0].leaf
            told.append(leaf)
            try:
                for share in self._shares_of(number, name):
                    value = self._cast_back(share, entry, self._groups[number][0])
                    out, known = _merged(out, known, value, share.mask, name, told)
            except _CannotWriteError as error:
                raise AssignmentError(
                    f"Leaf `{leaf}` cannot be written as `{name}`: {error}"
                ) from error
        assert out is not None
        if known is None or known.all():
            return np.ascontiguousarray(out)
        return np.where(known, out, read_entry(entry))

    def _shares_of(self, number: int, name: str) -> list[Share]:
        group = self._groups[number]
        turn = self._turn_of[name]
        key = number, turn
        if key not in self._shares:
            value, mask = _joined(group, self._fetch, self._spec_of)
            found: dict[str, list[Share]] = {}
            try:
                shares = scatter(group[0].expression, value, mask, self._spec_of)
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

    def _cast_back(self, share: Share, entry: Entry, one: Assignment) -> np.ndarray:
        """Casts to a tensor's dtype; what would lose digits is refused.

        Where loading lost digits, elements that are as they were loaded get the
        checkpoint's own again.
        """
        dtype = entry.spec.dtype.numpy
        assert share.value is not None
        chain = next(
            [dtype, *view.casts, one.dtype]
            for view in one.views
            if entry.name in self._stored.places(view.source)
        )
        is_lossy = any(_loses(*pair) for pair in itertools.pairwise(chain))
        if not is_lossy or share.value.dtype != one.dtype:
            return _cast_exactly(share, dtype)
        original = loaded = read_entry(entry)
        for step in chain[1:]:
            loaded = cast(loaded, step, is_forced=True)
        is_as_loaded = _bits_of(loaded) == _bits_of(share.value)
        if is_as_loaded.all():
            return original
        kept = dataclasses.replace(
            share,
            mask=~is_as_loaded if share.mask is None else share.mask & ~is_as_loaded,
        )
        return np.where(is_as_loaded, original, _cast_exactly(kept, dtype))


class _CannotWriteError(Exception):
    """Why the value of a leaf cannot be written."""


def _specs_of(manifest: Manifest) -> Callable[[str], TensorSpec]:
    @functools.cache
    def spec_of(name: str) -> TensorSpec:
        return manifest.entry(name).spec

    return spec_of


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
        key = one.leaf if family is None else (one.expression, family)
        groups.setdefault(key, []).append(one)
    return list(groups.values())


def _family_name(group: Sequence[Assignment]) -> str:
    leaf = group[0].leaf
    return leaf if group[0].box is None else leaf.rpartition("/part_")[0]


def _joined(
    group: Sequence[Assignment],
    fetch: FetchLeaf | None,
    spec_of: Callable[[str], TensorSpec],
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The value of an expression, of the parts of a family or of one leaf."""
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


def _cast_problem(one: Assignment) -> str | None:
    steps = {pair for chain in one.cast_chains for pair in itertools.pairwise(chain)}
    for before, after in sorted(steps, key=str):
        if kind_of(before) != kind_of(after):
            return (
                f"the cast from {before} to {after} in entry {one.entry.number} "
                f"{one.entry} cannot be inverted. Save this leaf without the plan."
            )
    return None


def _loses(before: np.dtype, after: np.dtype) -> bool:
    """Whether a cast between floats may lose digits; integers are checked when cast."""
    if before == after or kind_of(before) not in ("float", "complex"):
        return False
    digits, high, low = _reach(before)
    other_digits, other_high, other_low = _reach(after)
    return digits > other_digits or high > other_high or low < other_low


def _reach(dtype: np.dtype) -> tuple[int, int, int]:
    """Digits of a float, its greatest exponent, and that of its smallest step."""
    info = typing.cast("Any", ml_dtypes.finfo(_real(dtype)))
    return int(info.nmant), int(info.maxexp), int(info.minexp - info.nmant)


def _real(dtype: np.dtype) -> np.dtype:
    """The dtype of the parts of complex numbers; itself for others."""
    return np.dtype(f"f{dtype.itemsize // 2}") if dtype.kind == "c" else dtype


def _bits_of(array: np.ndarray) -> np.ndarray:
    """The bits of each element, as an array of the same shape that compares by bits."""
    array = np.ascontiguousarray(array).reshape(array.shape)
    width = array.dtype.itemsize
    if width <= 8:
        return array.view(f"u{width}")
    return np.ascontiguousarray(array).view(f"V{width}")


def _cast_exactly(share: Share, dtype: np.dtype) -> np.ndarray:
    """Casts to a tensor's dtype; what would lose digits is refused."""
    array = share.value
    assert array is not None
    try:
        result = cast(array, dtype, is_forced=False)
    except AssignmentError as error:
        raise _CannotWriteError(str(error)) from error
    if result is not array:
        back = cast(result, array.dtype, is_forced=True)
        if not same_bits(_without_nan(back), _without_nan(array), share.mask):
            raise _CannotWriteError(
                f"its values do not fit {dtype} without rounding. Cast the leaf to "
                f"{dtype} first, to round it."
            )
    return result


def _without_nan(array: np.ndarray) -> np.ndarray:
    """The array with one kind of NaN, since casts do not keep their bits."""
    if kind_of(array.dtype) not in ("float", "complex"):
        return array
    return np.where(np.isnan(array), np.zeros((), array.dtype), array)


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
        told = " and ".join(f"`{leaf}`" for leaf in dict.fromkeys(leaves))
        raise AssignmentError(
            f"Tensor `{name}` is told by {told}, which differ where they should be "
            "one. Make them equal, or save one of them under another name."
        )
    if known is None or mask is None:
        return (out, None) if known is None else (value, None)
    return np.where(mask, value, out), known | mask
