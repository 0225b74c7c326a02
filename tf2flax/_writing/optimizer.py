"""The state of an optimizer, written with the parameters: slots, powers, counters.

A plan for a state is joined to that of its parameters, so that both are written, and
copied around, as one:

    params plan     layer/kernel          <- params/layer/kernel
    state plan      layer/kernel/adam_m   <- opt_state/0/mu/layer/kernel
                    global_step           <- what `opt_state/0/count` has counted
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tf2flax._assignment.plans.inverse import InversePlan
from tf2flax._assignment.resolution.assignments import Assignment
from tf2flax._base.caller import show_value
from tf2flax._base.errors import AssignmentError
from tf2flax._base.values import TensorSpec

from .arrays import prepare_tensor
from .new_tensors import NewTensor, whole_tensor
from .trees import leaves_of

if TYPE_CHECKING:
    from tf2flax._checkpoint.step_counts import Counter
    from tf2flax._jax.optimizer_plan import OptimizerParts


@dataclasses.dataclass(frozen=True, slots=True)
class JoinedState:
    """A plan backwards of parameters and state, and what follows from counts.

    Attributes:
        inverse: Both plans backwards, as one.
        leaves: Leaves of the state that are written, or lost, by their names in it.
        counters: Powers and counters, by stored name.
    """

    inverse: InversePlan
    leaves: Mapping[str, Any]
    counters: Mapping[str, NewTensor]


def join_state(
    inverse: InversePlan, opt_state: Any, taken: Iterable[str]
) -> JoinedState:
    """Joins the state of an optimizer to the plan of its parameters, backwards.

    Args:
        inverse: That of the parameters.
        opt_state: A plan of `optimizer_plan`, and the state.
        taken: Names of the leaves of the parameters' tree.

    Returns:
        What is written of both.

    Raises:
        AssignmentError: It is not such a pair, the plan is for other parameters, or
            leaves that count steps disagree.
    """
    parts, state = _check_pair(opt_state)
    if parts.manifest is not inverse.view:
        raise AssignmentError(
            "opt_state: its plan was made for other parameters. Give the plan of "
            "tf2flax.optimizer_plan(plan, state), where plan is the one given here."
        )
    given = leaves_of(state)
    prefix = _free_prefix(taken, given)
    assignments = [_renamed(assignment, prefix) for assignment in parts.assignments]
    loaded = [assignment.leaf for assignment in parts.assignments]
    names = [name for name in (*loaded, *parts.kept) if name in given]
    written = {prefix + name: given[name] for name in names}
    counters = _counters(parts, given, inverse)
    return JoinedState(inverse.extended(assignments), written, counters)


def refuse_state_without_plan(opt_state: object) -> None:
    """Refuses a state of an optimizer without the plan of its parameters.

    Raises:
        AssignmentError: There is one.
    """
    if opt_state is not None:
        raise AssignmentError(
            "opt_state: which variables the slots belong to, the plan of the "
            "parameters says. Give it as plan=."
        )


def _check_pair(opt_state: object) -> tuple[OptimizerParts, Any]:
    # Here, and not above, since it imports JAX and Flax.
    from tf2flax._jax.optimizer_plan import OptimizerPlan

    is_pair = isinstance(opt_state, (tuple, list))
    pair = cast("Sequence[Any]", opt_state if is_pair else ())
    if len(pair) == 2 and isinstance(pair[0], OptimizerPlan):
        return pair[0].parts, pair[1]
    raise AssignmentError(
        "opt_state: expected a pair of a plan and a state, got "
        f"{show_value(opt_state)}. Write opt_state=(tf2flax.optimizer_plan(plan, "
        "state), state)."
    )


def _free_prefix(taken: Iterable[str], names: Iterable[str]) -> str:
    """What names of leaves of the state begin with; no parameter is called so.

    Args:
        taken: Names of the leaves of the parameters' tree.
        names: Those of the state; a TrainState has them below `opt_state` already.
    """
    prefix = "opt_state"
    scopes = {name.partition("/")[0] for name in taken}
    if prefix in {name.partition("/")[0] for name in names} - scopes:
        return ""
    while prefix in scopes:
        prefix += "_"
    return f"{prefix}/"


def _renamed(assignment: Assignment, prefix: str) -> Assignment:
    return dataclasses.replace(
        assignment,
        leaf=prefix + assignment.leaf,
        parts=tuple(prefix + part for part in assignment.parts),
    )


def _counters(
    parts: OptimizerParts, leaves: Mapping[str, Any], inverse: InversePlan
) -> dict[str, NewTensor]:
    """Powers and counters, by stored name, as they are after the present steps."""
    count = parts.count
    if count is None:
        return {}
    steps = _steps(parts, leaves)
    # What the tree itself has, such as its own `global_step`, it writes itself.
    taken = {assignment.name for assignment in inverse.assignments}
    return {
        place: _tensor(place, counter, steps, count.steps)
        for counter in count.counters
        for place in inverse.stored.places(counter.name)
        if place not in taken
    }


def _tensor(place: str, counter: Counter, steps: int, before: int) -> NewTensor:
    spec = prepare_tensor(place, counter.value).spec
    dtype = counter.value.dtype
    if counter.beta is None and dtype.kind in "iu":
        value = int(counter.value) + steps - before
        if not np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
            raise AssignmentError(
                f"Counter `{place}` of dtype {dtype} cannot hold {value} steps, and "
                "neither could it in TensorFlow. Give the state counts of at most "
                f"{np.iinfo(dtype).max - int(counter.value) + before} steps; they "
                "steer schedules and Adam's bias correction alone."
            )
    return whole_tensor(
        place,
        TensorSpec((), spec.dtype),
        functools.partial(counter.after, steps, before),
    )


def _read_count(name: str, leaf: object) -> int:
    """A number of steps as a leaf has it.

    Raises:
        AssignmentError: It is no number of steps.
    """
    value = np.asarray(leaf)
    if value.shape or value.dtype.kind not in "iu" or value < 0:
        raise AssignmentError(
            f"Leaf `{name}` of opt_state: expected a number of steps, an integer of "
            f"shape () from 0 on, got {show_value(leaf)}."
        )
    return int(value)


def _steps(parts: OptimizerParts, leaves: Mapping[str, Any]) -> int:
    """The steps that the state has done: what its transformations count.

    Raises:
        AssignmentError: A count is missing, or they have different values.
    """
    if missing := [name for name in parts.counts if name not in leaves]:
        raise AssignmentError(
            f"Leaf `{missing[0]}` of opt_state, which the plan loaded, is not in the "
            "state."
        )
    counts = {name: _read_count(name, leaves[name]) for name in parts.counts}
    # A TrainState may count other steps than its optimizer: under MultiSteps, say.
    inner = {n: c for n, c in counts.items() if n.rpartition("/")[2] != "step"}
    values = set((inner or counts).values())
    if len(values) > 1:
        listed = ", ".join(f"`{name}` {value}" for name, value in counts.items())
        raise AssignmentError(
            f"Leaves of opt_state count different steps: {listed}. Make them equal."
        )
    return values.pop()
