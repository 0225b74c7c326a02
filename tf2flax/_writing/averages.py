"""Moving averages written with their variables, and variables with their averages."""

from __future__ import annotations

import dataclasses

from tf2flax._assignment.plans.inverse import InversePlan
from tf2flax._base.roles import DEBIASING


def write_both(inverse: InversePlan) -> InversePlan:
    """Makes leaves be written to a variable and to its moving averages alike.

        leaf w  <- read from  w/ExponentialMovingAverage
        leaf w  -> written to w/ExponentialMovingAverage, and w

    Args:
        inverse: A plan backwards.

    Returns:
        One that writes at least the same tensors. What a leaf was loaded from is
        written from that leaf alone.
    """
    stored, manifest = inverse.stored, inverse.manifest
    roles = manifest.roles()
    variables = dict(stored.averages)
    for name in manifest.names:
        role = roles.of(name)
        if role.kind == "average" and role.name not in DEBIASING and role.variable:
            variables[name] = role.variable
    averages: dict[str, list[str]] = {}
    for average, variable in variables.items():
        averages.setdefault(variable, []).append(average)
    loaded = {assignment.name for assignment in inverse.assignments}

    def places(name: str) -> tuple[str, ...]:
        written = stored.places(name)
        more: dict[str, None] = {}
        for place in written:
            if place in variables:
                more[variables[place]] = None
            more.update(dict.fromkeys(averages.get(place, ())))
        return (*written, *(place for place in more if place not in loaded))

    return inverse.stored_elsewhere(
        dataclasses.replace(stored, places=places, is_view=True)
    )
