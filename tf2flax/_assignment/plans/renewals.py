"""Writing leaves in their own shape: those that options kept, and grown ones.

Such a leaf, a new head for example, or a table with more words, is written in place of
the tensors that did not fit it, or as those that the checkpoint lacks. Only says what
to write; `_writing.save` reads leaves and writes files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping

from tf2flax._assignment.language.captures import literal_pattern
from tf2flax._assignment.language.expressions import Expression, Source
from tf2flax._assignment.language.nodes import Cast, Negated, WithNumber
from tf2flax._assignment.layouts.absent_shapes import shapes_of_absent
from tf2flax._assignment.layouts.resizing import Resized, resize_backwards
from tf2flax._assignment.resolution.assignments import Assignment, Gap, Resolution
from tf2flax._base.errors import AssignmentError
from tf2flax._base.manifest import StoredNames
from tf2flax._base.values import STORED_DTYPES, TensorSpec

# What happens to elements one by one; whoever writes a loaded leaf takes it back.
_STEPS = (Cast, Negated, WithNumber)

SpecOf = Callable[[str], TensorSpec]
# Stored names of a tensor, by the name that the plan was made for.
PlacesOf = Callable[[str], tuple[str, ...]]


@dataclasses.dataclass(frozen=True, slots=True)
class Renewal:
    """A leaf that did not fit its tensors, or had none, and is written as them.

    Attributes:
        leaf: Name of the leaf, or of a family of parts.
        parts: Names of the leaves that are parts of the family; () for a single leaf.
        gap: Why the leaf was kept; of a family, that of its first leaf.
        expression: Source that did not fit the leaf.
        stored: Stored names of the tensors, by the names that the plan was made for.
        loaded: How a leaf that has grown was loaded, by its name or by those of parts;
            empty for a leaf that was kept.
        is_new: True if the checkpoint lacks the tensors.
    """

    leaf: str
    parts: tuple[str, ...]
    gap: Gap
    expression: Expression
    stored: Mapping[str, tuple[str, ...]]
    loaded: Mapping[str, Assignment] = dataclasses.field(
        default_factory=dict[str, Assignment]
    )
    is_new: bool = False

    @property
    def is_grown(self) -> bool:
        """True if the leaf was loaded, and has grown."""
        return bool(self.loaded)

    @property
    def has_arithmetic(self) -> bool:
        """True if the leaf was computed from its tensors, and not only rearranged."""
        return _has_arithmetic(self.expression)

    @property
    def leaves(self) -> tuple[str, ...]:
        """Names of the leaves."""
        return self.parts or (self.leaf,)

    @property
    def places(self) -> tuple[str, ...]:
        """Stored names of the tensors."""
        return tuple(place for places in self.stored.values() for place in places)

    def tensors(self, shape: tuple[int, ...], spec_of: SpecOf) -> dict[str, Resized]:
        """What each tensor is in terms of the leaf, and the shape that it gets.

        Args:
            shape: Shape of the leaf, or of the whole family.
            spec_of: Gives shape and dtype of a tensor in the checkpoint.

        Returns:
            Stored name -> an expression with the leaf as source, and the new shape.

        Raises:
            AssignmentError: The shape of a tensor does not follow from that of the
                leaf.
        """
        source = Source(literal_pattern(self.leaf))
        # Parts belong to one tensor, and the writer stores them as its slices.
        if self.parts:
            return dict.fromkeys(self.places, (source, shape))
        if self.is_new:
            spec_of = _absent_specs(self.expression, shape)
        return {
            place: tensor
            for name, tensor in resize_backwards(
                self.expression, shape, source, spec_of, is_grown=self.is_grown
            ).items()
            for place in self.stored[name]
        }


def _has_arithmetic(expression: Expression) -> bool:
    is_step = isinstance(expression, Negated | WithNumber)
    return is_step or any(map(_has_arithmetic, expression.children))


def _absent_specs(expression: Expression, shape: tuple[int, ...]) -> SpecOf:
    """What tensors that the checkpoint lacks would be, for a leaf of some shape."""
    shapes = shapes_of_absent(expression, shape)
    # Of the dtype nothing depends here.
    return lambda name: TensorSpec(shapes[name], STORED_DTYPES[1])


def find_kept(
    resolution: Resolution,
    taken: Collection[str],
    spec_of: SpecOf,
    stored: StoredNames,
) -> tuple[tuple[Renewal, ...], dict[str, str]]:
    """Finds the leaves that options kept and that can be written in their own shape.

    Args:
        resolution: The resolution.
        taken: Stored names of tensors that other leaves are written to.
        spec_of: Gives shape and dtype of a tensor.
        stored: Stored names of the tensors.

    Returns:
        The leaves that can be written; and for each other leaf that does not fit its
        tensors, why it cannot. Leaves without tensors that cannot be written are left
        out.
    """
    gaps = _mismatches(resolution)
    kept, problems = find_renewals(gaps, taken, spec_of, stored.places)
    taken = {*taken, *(place for renewal in kept for place in renewal.places)}
    # Where some tensors of a leaf are there, the others do not follow from the leaf.
    gaps = [gap for gap in resolution.missing if not gap.present]
    new, _ = find_renewals(gaps, taken, spec_of, _places_of_new(stored), is_new=True)
    return (*kept, *new), problems


def _mismatches(resolution: Resolution) -> list[Gap]:
    """Leaves that do not fit; for tied ones, what all their names lead to."""
    kept = {gap.leaf for gap in resolution.mismatched}
    mismatches = [gap for tie in resolution.ties for gap in tie.mismatches]
    return [*resolution.mismatched, *(gap for gap in mismatches if gap.leaf in kept)]


def find_renewals(
    gaps: Iterable[Gap],
    taken: Collection[str],
    spec_of: SpecOf,
    places_of: PlacesOf,
    loaded: Iterable[Assignment] = (),
    *,
    is_new: bool = False,
) -> tuple[tuple[Renewal, ...], dict[str, str]]:
    """Finds the kept leaves that can be written in their own shape.

    Args:
        gaps: The leaves that do not fit.
        taken: Stored names of tensors that other leaves are written to.
        spec_of: Gives shape and dtype of a tensor.
        places_of: Gives the stored names of a tensor.
        loaded: How they were loaded, if they have grown; a tied one several times.
        is_new: True if the checkpoint lacks the tensors.

    Returns:
        The leaves that can be written; and for each other leaf, why it cannot.
    """
    assignments: dict[tuple[str, Expression | None], Assignment] = {
        (assignment.leaf, assignment.expression): assignment for assignment in loaded
    }
    families: dict[object, list[Gap]] = {}
    for gap in gaps:
        # Without an expression there is no tensor in whose place to write.
        if gap.expression is not None:
            key = gap.parts or gap.leaf
            families.setdefault((key, gap.expression), []).append(gap)
    renewals: list[Renewal] = []
    problems: dict[str, str] = {}
    writers = dict.fromkeys(taken, "another leaf")
    for group in families.values():
        try:
            grown = {
                gap.leaf: assignments[gap.leaf, gap.expression]
                for gap in (group if assignments else ())
            }
            renewal = _make_renewal(group, grown, spec_of, places_of, is_new=is_new)
            for name in renewal.places:
                if name in writers:
                    raise AssignmentError(f"`{name}` is written from {writers[name]}.")
        except AssignmentError as error:
            problems |= {gap.leaf: f"{gap.fact.rstrip('.')}; {error}" for gap in group}
        else:
            renewals.append(renewal)
            writers |= dict.fromkeys(renewal.places, f"`{renewal.leaf}`")
    return tuple(renewals), problems


def _make_renewal(
    group: list[Gap],
    loaded: Mapping[str, Assignment],
    spec_of: SpecOf,
    places_of: PlacesOf,
    *,
    is_new: bool,
) -> Renewal:
    """The renewal of a single leaf, or of all parts of a family."""
    gap = group[0]
    expression = gap.expression
    assert expression is not None
    source = Source(literal_pattern(gap.leaf))
    if is_new:
        spec_of = _absent_specs(expression, gap.shape)
    names = resize_backwards(
        expression, gap.shape, source, spec_of, is_grown=bool(loaded)
    )
    stored = {name: places_of(name) for name in names}
    if not gap.parts:
        return Renewal(gap.leaf, (), gap, expression, stored, loaded, is_new=is_new)
    if missing := set(gap.parts).difference(member.leaf for member in group):
        raise AssignmentError(f"its part `{min(missing)}` is not kept with it.")
    # Rows for another vocabulary, or more of them, lie in the parts as in the tensor.
    while expression.is_growth or (loaded and isinstance(expression, _STEPS)):
        (expression,) = expression.children
    if not isinstance(expression, Source):
        raise AssignmentError(
            "parts of one variable can only be written to a tensor that the key names."
        )
    family = gap.parts[0].rpartition("/part_")[0]
    whole = gap.expression or expression
    return Renewal(family, gap.parts, gap, whole, stored, loaded, is_new=is_new)


def _places_of_new(stored: StoredNames) -> PlacesOf:
    """What gives the stored names of tensors that the checkpoint lacks.

    Args:
        stored: The stored names of those that it has.
    """

    def places_of(name: str) -> tuple[str, ...]:
        # A view may hide a tensor of that name.
        if not stored.takes_new_names or name in stored.manifest:
            raise AssignmentError(f"`{name}` has no stored name in this view.")
        return (name,)

    return places_of


def describe_unwritable(leaf: str, problem: str, *, is_grown: bool = False) -> str:
    """States why a leaf cannot be written in its own shape, and what to do."""
    if is_grown:
        return (
            f"Leaf `{leaf}` cannot be written in its own shape: {problem} Save a flat "
            "mapping of names to arrays."
        )
    return (
        f"Leaf `{leaf}` was kept because it does not fit, and cannot be written in its "
        f"own shape: {problem} Name it in new=, a tensor of another name; or use "
        'unused="drop" to leave it out together with what the plan did not load; or '
        "save a flat mapping of names to arrays."
    )
