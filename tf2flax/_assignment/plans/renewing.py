"""Leaves that `on_mismatch` kept, on their way back: tensors in the leaf's own shape.

Reads no leaf and writes no file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping

from tf2flax._assignment.language.captures import literal_pattern
from tf2flax._assignment.language.expressions import Expression, Source
from tf2flax._assignment.layouts.resizing import Resized, resize_backwards
from tf2flax._assignment.resolution.assignments import Gap
from tf2flax._base.errors import AssignmentError
from tf2flax._base.values import TensorSpec

SpecOf = Callable[[str], TensorSpec]
PlacesOf = Callable[[str], tuple[str, ...]]


@dataclasses.dataclass(frozen=True, slots=True)
class Renewal:
    """A leaf that did not fit its tensors, and is written in their place.

    Attributes:
        leaf: Name of the leaf; of a family of parts, that of the family.
        parts: The leaves that are its slices, where it is a family; else ().
        gap: Why it was kept.
        expression: What would have filled it.
        stored: Stored names of the tensors, by those that the plan was made for.
    """

    leaf: str
    parts: tuple[str, ...]
    gap: Gap
    expression: Expression
    stored: Mapping[str, tuple[str, ...]]

    @property
    def leaves(self) -> tuple[str, ...]:
        """Names of its leaves, each once."""
        return self.parts or (self.leaf,)

    @property
    def places(self) -> tuple[str, ...]:
        """Stored names of the tensors."""
        return tuple(place for places in self.stored.values() for place in places)

    def tensors(self, shape: tuple[int, ...], spec_of: SpecOf) -> dict[str, Resized]:
        """Says what each tensor is, and which shape it gets.

        Args:
            shape: Shape of the leaf; of a family, that of the whole.
            spec_of: Gives shape and dtype of a tensor, as the checkpoint has it.

        Returns:
            By stored name: an expression with the leaf as source, and the shape.

        Raises:
            AssignmentError: The shape of a tensor does not follow from that of the
                leaf.
        """
        source = Source(literal_pattern(self.leaf))
        if self.parts:  # of one tensor: slices, which the writer puts together
            return dict.fromkeys(self.places, (source, shape))
        return {
            place: tensor
            for name, tensor in resize_backwards(
                self.expression, shape, source, spec_of
            ).items()
            for place in self.stored[name]
        }


def find_renewals(
    gaps: Iterable[Gap], taken: Collection[str], spec_of: SpecOf, places_of: PlacesOf
) -> tuple[tuple[Renewal, ...], dict[str, str]]:
    """Finds the leaves that can be written in a shape of their own.

    Args:
        gaps: The leaves that do not fit.
        taken: Stored names of tensors that other leaves are written to.
        spec_of: Gives shape and dtype of a tensor.
        places_of: Gives the stored names of a tensor.

    Returns:
        Those that can; and why others cannot, by leaf.
    """
    families: dict[object, list[Gap]] = {}
    for gap in gaps:
        if gap.expression is not None:
            key = gap.parts or gap.leaf
            families.setdefault((key, gap.expression), []).append(gap)
    renewals: list[Renewal] = []
    problems: dict[str, str] = {}
    users = dict.fromkeys(taken, "another leaf")
    for group in families.values():
        try:
            renewal = _renewal(group, spec_of, places_of)
            for name in renewal.places:
                if name in users:
                    raise AssignmentError(f"`{name}` is written from {users[name]}.")
            renewals.append(renewal)
            users |= dict.fromkeys(renewal.places, f"`{renewal.leaf}`")
        except AssignmentError as error:
            problems |= {gap.leaf: f"{gap.fact.rstrip('.')}; {error}" for gap in group}
    return tuple(renewals), problems


def _renewal(group: list[Gap], spec_of: SpecOf, places_of: PlacesOf) -> Renewal:
    gap = group[0]
    expression = gap.expression
    assert expression is not None
    source = Source(literal_pattern(gap.leaf))
    names = resize_backwards(expression, gap.shape, source, spec_of)
    stored = {name: places_of(name) for name in names}
    if not gap.parts:
        return Renewal(gap.leaf, (), gap, expression, stored)
    if missing := set(gap.parts).difference(member.leaf for member in group):
        raise AssignmentError(f"its part `{min(missing)}` is not kept with it.")
    if not isinstance(expression, Source):
        raise AssignmentError("parts of a family are put together from plain names.")
    family = gap.parts[0].rpartition("/part_")[0]
    return Renewal(family, gap.parts, gap, expression, stored)


def way_out(leaf: str, problem: str) -> str:
    """Says why a kept leaf cannot be written, and what to do.

    Args:
        leaf: The leaf.
        problem: Why it cannot be written.

    Returns:
        A few sentences.
    """
    return (
        f"Leaf `{leaf}` was kept because it does not fit, and cannot be written in its "
        f'own shape: {problem} Give unused="drop" to leave it out together with what '
        "the plan did not load, or save a flat mapping of names to arrays."
    )
