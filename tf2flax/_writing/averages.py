"""Moving averages written with their variables, and variables with their averages.

An average or a slot that has grown is written with its variable, or not at all.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Iterator, Mapping

from tf2flax._assignment.plans.inverse import InversePlan
from tf2flax._assignment.plans.renewals import Renewal
from tf2flax._base.collapsing import summarise
from tf2flax._base.errors import AssignmentError, CheckpointError
from tf2flax._base.manifest import Manifest
from tf2flax._base.role_patterns import DEBIASING
from tf2flax._checkpoint.object_based import ObjectBasedManifest


def write_both(inverse: InversePlan) -> InversePlan:
    """Makes leaves be written to a variable and to its moving averages alike.

        leaf w  <- read from  w/ExponentialMovingAverage
        leaf w  -> written to w/ExponentialMovingAverage, and w

    Args:
        inverse: A plan backwards.

    Returns:
        One that writes at least the same tensors. What a leaf was loaded from is
        written from that leaf alone. A tensor of which leaves have only a part is
        written alone: its own other elements are not those of its partner.
    """
    stored, manifest = inverse.stored, inverse.manifest
    variables = _variables_of_averages(inverse)
    averages: dict[str, list[str]] = {}
    for average, variable in variables.items():
        averages.setdefault(variable, []).append(average)
    twins = _twins_of(manifest)
    loaded = {assignment.name for assignment in inverse.assignments}
    partners_of: dict[str, list[str]] = {}
    sources_of: dict[str, list[str]] = {}
    for assignment in inverse.assignments:
        if not assignment.is_complete:
            continue
        name = assignment.name
        candidates = averages.get(name, [])
        if name in variables:
            candidates = [variables[name], *candidates]
        for partner in (p for c in candidates for p in twins.get(c, (c,))):
            if partner not in loaded:
                partners_of.setdefault(name, []).append(partner)
                sources_of.setdefault(partner, []).append(name)

    def places(name: str) -> tuple[str, ...]:
        written = stored.places(name)
        more = (partner for place in written for partner in partners_of.get(place, ()))
        return (*written, *dict.fromkeys(more))

    # A cast may lose something, and what it lost is read again from where the leaf came
    # from: not from the partner, which never had it.
    partners = {
        partner: names[0]
        for partner, names in sources_of.items()
        if len(names) == 1
        and manifest.entry(partner).spec == manifest.entry(names[0]).spec
    }
    return inverse.stored_elsewhere(
        dataclasses.replace(stored, places=places, is_view=True, partners=partners)
    )


def refuse_outgrown(inverse: InversePlan, copied: Collection[str]) -> None:
    """Refuses averages and slots of a new shape whose variables keep the old one.

    Args:
        inverse: The plan backwards.
        copied: Stored names of the tensors that are copied as they are.

    Raises:
        AssignmentError: There are such; all are named.
    """
    problems = [
        problem
        for renewal in inverse.renewals
        if not renewal.is_new
        for problem in _describe_outgrown(inverse, renewal, copied)
    ]
    if problems:
        raise AssignmentError(summarise(problems))


def _describe_outgrown(
    inverse: InversePlan, renewal: Renewal, copied: Collection[str]
) -> Iterator[str]:
    roles = inverse.manifest.roles()
    for place in renewal.places:
        average_of = inverse.stored.averages.get(place)
        lineage = [average_of] if average_of else roles.lineage(place)
        variable = next((name for name in lineage if name in copied), None)
        if variable is None:
            continue
        way_out = f"Write `{variable}` from a leaf as well"
        if average_of or roles.of(place).kind == "average":
            way_out = 'Use averages="both" to write both'
        yield (
            f"Leaf `{renewal.leaf}` would give `{place}` another shape or order, while "
            f"its variable `{variable}` is copied as it was: no model could restore "
            f'both. {way_out}, or unused="drop" to leave out what the plan did not '
            "load."
        )


def _twins_of(manifest: Manifest) -> Mapping[str, tuple[str, ...]]:
    """Stored names of variables that are stored twice -> both names."""
    if isinstance(manifest, ObjectBasedManifest):
        # A damaged graph is copied as it is.
        with contextlib.suppress(CheckpointError):
            return manifest.twins()
    return {}


def _variables_of_averages(inverse: InversePlan) -> Mapping[str, str]:
    """Stored names of averages -> those of their variables.

    In a view of averages, only those that it shows: a variable may have another one in
    another scope, which nobody asked for.
    """
    if inverse.stored.averages:
        return inverse.stored.averages
    variables: dict[str, str] = {}
    roles = inverse.manifest.roles()
    for name in inverse.manifest.names:
        role = roles.of(name)
        if role.kind == "average" and role.name not in DEBIASING and role.variable:
            variables[name] = role.variable
    return variables
