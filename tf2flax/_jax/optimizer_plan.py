"""`optimizer_plan` and `optimizer_state`: the state of an optimizer from slots.

A plan of its own, made out of that of the parameters: `optimizer_states` says what the
state consists of, `optimizer_fields` which slot fills which leaf, and the engine plans
that as any other map. Decides itself only how many steps were done.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX and Flax leave many of their types unknown; what leaves this file is annotated.

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

import jax
from jax.sharding import NamedSharding, PartitionSpec

from tf2flax._assignment.language.captures import literal_pattern, parse_name
from tf2flax._assignment.language.entries import Rule
from tf2flax._assignment.language.expressions import Expression, Source
from tf2flax._assignment.plans.inverse import InverseAssignment, InversePlan
from tf2flax._assignment.plans.plan import RestorePlan
from tf2flax._assignment.resolution.assignments import Assignment
from tf2flax._assignment.resolution.policies import (
    DtypeChoice,
    Policy,
    UnusedPolicy,
)
from tf2flax._base.caller import is_whole_number, show_value
from tf2flax._base.collapsing import list_collapsed, summarise
from tf2flax._base.errors import AssignmentError
from tf2flax._base.manifest import Manifest
from tf2flax._checkpoint.checkpoint import Checkpoint
from tf2flax._checkpoint.moment_slots import MomentSlots
from tf2flax._checkpoint.optimizer_view import OptimizerManifest
from tf2flax._checkpoint.step_counts import CountQuestion, StepCount, find_count

from .optimizer_fields import FieldPlanner, SlotChoices, StateEntry, check_keys
from .optimizer_states import StateParts, find_parts
from .options import CheckedOptions
from .plan import Plan
from .restore import Job, make_job, take_target
from .sharding_option import ShardedLeaf
from .targets import Target
from .trees import Slot

# Leaves that a message names.
_MAX_NAMED: Final = 20


@dataclasses.dataclass(frozen=True, slots=True)
class OptimizerParts:
    """What of a plan for a state is written back, in terms of the checkpoint.

    Attributes:
        manifest: The checkpoint that the plan of the parameters is for.
        assignments: Those of slots.
        kept: Names of leaves that were not loaded, and hold something of the training.
        counts: Names of leaves that count steps.
        count: How many there were when it was loaded; None where nothing counts.
    """

    manifest: Manifest
    assignments: tuple[Assignment, ...]
    kept: tuple[str, ...]
    counts: tuple[str, ...]
    count: StepCount | None


class OptimizerPlan(Plan):
    """A plan for the state of an optimizer; made by `tf2flax.optimizer_plan`."""

    __slots__ = ("_parts",)

    def __init__(self, job: Job, parts: OptimizerParts) -> None:
        """Wraps a job, and what the way back needs."""
        super().__init__(job)
        self._parts = parts

    @property
    def parts(self) -> OptimizerParts:
        """What is written back."""
        return self._parts

    def inverse(self) -> InversePlan:
        """Turns the plan round: what slots, powers and counters are in terms of leaves.

        `tf2flax.save_checkpoint(..., plan=plan, opt_state=(opt_plan, state))` writes
        what it says.

        Returns:
            The inverse.

        Raises:
            DamagedError: The entry of a tensor is malformed.
        """
        parts, plan = self._parts, self._job.plan
        # Not in terms of the view of slots, but of the checkpoint that is written.
        used = {name for a in parts.assignments for name in a.sources}
        plan = dataclasses.replace(
            plan,
            resolution=dataclasses.replace(
                plan.resolution, assignments=parts.assignments
            ),
            unused=tuple(name for name in parts.manifest.names if name not in used),
        )
        inverse = InversePlan(plan, parts.manifest)
        counters = () if parts.count is None else parts.count.counters
        names = {place for c in counters for place in inverse.stored.places(c.name)}
        inverse.assignments = (
            *inverse.assignments,
            *(InverseAssignment(n, parts.counts, None, True) for n in sorted(names)),
        )
        inverse.copied = tuple(n for n in inverse.copied if n not in names)
        return inverse

    def __copy__(self) -> OptimizerPlan:
        """Another plan for the same job, which nothing changes."""
        return OptimizerPlan(self._job, self._parts)


def optimizer_plan(
    plan: Plan,
    opt_state: Any,
    *,
    slots: Mapping[str, str | None] | None = None,
    prefix: str | None = None,
    betas: tuple[float, float] = (0.9, 0.999),
    count: int | str | None = None,
    negate: bool | None = None,
) -> Plan:
    """Plans how the state of an optimizer is filled from the slots of a checkpoint.

    Slots take the way of their parameters: the map, its expressions and the shardings
    of the plan. They go through views, slices, joins and casts; constants that are
    added leave them as they are. Through sums, products, signs and vocabularies they
    are refused, and those of a factored Adafactor through anything but transposes.

    Args:
        plan: The plan of the parameters (`tf2flax.plan`).
        opt_state: What `tx.init(params)` gives, abstract or not, or a TrainState or
            `nnx.Optimizer` that holds it. Leaves of parameters that the plan keeps, and
            all that TensorFlow has no slot for, keep what the state holds.
        slots: Fields of the state -> slots, as `checkpoint.slots` calls them, where
            spelling does not tell: `{"mu": "Adam_2", "nu": "Adam_3"}`. A field is
            called by its name, or by its path (`"1/mu"`); None keeps it.
        prefix: Scope of the optimizer, where several have slots or powers: "nfsp0/sl/".
        betas: Those of the optimizer, whose powers say how many steps were done.
        count: Number of steps, or the tensor that says it (`"beta2_power_1"`,
            `"global_step"`). None takes the power of beta2; where there is none, or it
            has run out, the optimizer's own counter, else `global_step`.
        negate: Whether the trace of optax is minus the slot; None goes by the
            optimizer: so it is of RMSProp, and not of Momentum.

    Returns:
        A plan as others are: print it, look at its cost, `restore()` it.

    Raises:
        AssignmentError: A field has no slot, or several that may be meant; slots do not
            go through an expression; the number of steps is not clear; or a leaf that
            is not loaded is abstract. All problems are listed.

    Examples:
        >>> import jax.numpy as jnp, optax, tf2flax
        >>> ones = jnp.ones((2, 2))
        >>> checkpoint = {"w": ones, "w/Momentum": ones}  # or a path
        >>> params = {"w": jnp.zeros((2, 2))}
        >>> plan = tf2flax.plan(checkpoint, {"w": "w"}, params)
        >>> tx = optax.sgd(0.1, momentum=0.9)
        >>> opt_plan = tf2flax.optimizer_plan(plan, tx.init(params))
        >>> [(a.leaf, a.source) for a in opt_plan.assignments]
        [('0/trace/w', 'w/Momentum')]
    """
    job = _job_of(plan)
    choices = SlotChoices(_check_slots(slots), _check_negate(negate))
    target = take_target(opt_state, "The state of the optimizer")
    parts = find_parts(opt_state)
    check_keys(choices, parts.fields)
    found_slots = MomentSlots(job.manifest, _check_prefix(prefix))
    planner = FieldPlanner(job, target, found_slots, choices)
    entries = [entry for field in parts.fields for entry in planner.entries(field)]
    problems = planner.problems
    names = {slot.leaf.name for slot in target.slots}
    counts = tuple(name for name in parts.counts if name in names)
    steps: StepCount | None = None
    asked = CountQuestion(
        _check_betas(betas), prefix, found_slots.scopes, _check_count(count)
    )
    try:
        steps = find_count(job.manifest, asked) if counts else None
    except AssignmentError as error:  # said together with what else is wrong
        problems.append(str(error))
    if problems:
        raise AssignmentError(summarise(problems))
    if not entries and steps is None:
        raise AssignmentError(
            "No leaf of the state has a slot: it holds nothing of parameters that the "
            "plan loads. Give what tx.init(params) returns, or a TrainState or "
            "nnx.Optimizer that holds it."
        )
    state_job = _make_job(job, target, entries, counts, steps)
    _check_kept(state_job)
    return OptimizerPlan(state_job, _parts_of(state_job, job.manifest, parts, steps))


def optimizer_state(
    plan: Plan,
    opt_state: Any,
    *,
    slots: Mapping[str, str | None] | None = None,
    prefix: str | None = None,
    betas: tuple[float, float] = (0.9, 0.999),
    count: int | str | None = None,
    negate: bool | None = None,
) -> Any:
    """Fills the state of an optimizer from the slots of a checkpoint.

    The same as `tf2flax.optimizer_plan(...).restore()`, which says what the arguments
    mean.

    Returns:
        The state, with arrays in the leaves that are loaded and all others as they are;
        an `nnx.Optimizer` is updated in place.

    Raises:
        CheckpointError: As `optimizer_plan`, and as `Plan.restore`.

    Examples:
        >>> import jax.numpy as jnp, optax, tf2flax
        >>> checkpoint = {"w": jnp.ones(2), "w/Momentum": jnp.ones(2)}  # or a path
        >>> params = {"w": jnp.zeros(2)}
        >>> plan = tf2flax.plan(checkpoint, {"w": "w"}, params)
        >>> state = optax.sgd(0.1, momentum=0.9).init(params)
        >>> tf2flax.optimizer_state(plan, state)[0].trace
        {'w': Array([1., 1.], dtype=float32)}
    """
    return optimizer_plan(
        plan,
        opt_state,
        slots=slots,
        prefix=prefix,
        betas=betas,
        count=count,
        negate=negate,
    ).restore()


def _make_job(
    job: Job,
    target: Target,
    entries: Sequence[StateEntry],
    counts: Sequence[str],
    steps: StepCount | None,
) -> Job:
    """Plans the state as any other target, with the options of the parameters."""
    values = {} if steps is None else {str(steps): steps.steps}
    manifest = OptimizerManifest(job.manifest, values)
    pairs: list[tuple[str | Expression, Any]] = [
        (entry.expression, literal_pattern(entry.target)) for entry in entries
    ]
    pairs += [
        (Source(literal_pattern(name)), literal_pattern(leaf))
        for name in values
        for leaf in counts
    ]
    options = _options_of(job, target, entries)
    state_job = make_job(Checkpoint(manifest, job.tuning), pairs, target, options)
    resolution = dataclasses.replace(
        state_job.plan.resolution,
        assignments=tuple(_labelled(state_job.plan, entries)),
    )
    # Half-loaded normalisations are those of parameters, whose plan has named them.
    plan = dataclasses.replace(state_job.plan, resolution=resolution, half_norms=())
    return dataclasses.replace(state_job, plan=plan)


def _options_of(
    job: Job, target: Target, entries: Iterable[StateEntry]
) -> CheckedOptions:
    """The options of the parameters; leaves lie where their parameters do."""
    slots = {slot.leaf.name: slot for slot in target.slots}
    shardings: dict[str, jax.sharding.Sharding] = {}
    for entry in entries:
        for leaf, parameter in entry.parameters.items():
            sharding = job.shardings.get(parameter)
            if sharding is not None and not slots[leaf].has_place:
                shardings[leaf] = _without_axis(sharding, slots[leaf], entry.lacking)

    def sharding_of(leaf: ShardedLeaf) -> jax.sharding.Sharding | None:
        return shardings.get(leaf.name)

    return dataclasses.replace(
        job.options,
        aliases=None,
        dtype=DtypeChoice(),
        sharding=sharding_of,
        on_missing=Policy(),
        on_mismatch=Policy(),
        on_unused=UnusedPolicy(),
    )


def _without_axis(
    sharding: jax.sharding.Sharding, slot: Slot, lacking: int | None
) -> jax.sharding.Sharding:
    """The sharding of a parameter, for a leaf that lacks one of its axes."""
    if lacking is None or not isinstance(sharding, NamedSharding):
        return sharding
    axes = [*sharding.spec, *[None] * (len(slot.leaf.shape) + 1)]
    del axes[lacking]
    return NamedSharding(sharding.mesh, PartitionSpec(*axes[: len(slot.leaf.shape)]))


def _labelled(plan: RestorePlan, entries: Sequence[StateEntry]) -> list[Assignment]:
    """The assignments, each with a label of its field in place of its own rule."""
    labels: dict[str, Rule] = {}
    numbers: dict[str, int] = {}
    for entry in entries:
        path = entry.field.path
        number = numbers.setdefault(path, len(numbers) + 1)
        rule = Rule(
            number,
            Source(literal_pattern(entry.slot)),
            parse_name(literal_pattern(f"{path}/")),
            f"slots {entry.slot}",
        )
        labels |= dict.fromkeys(entry.parameters, rule)
    last = len(numbers) + 1
    assignments: list[Assignment] = []
    for assignment in plan.assignments:
        rule = labels.get(assignment.leaf)
        if rule is None:  # a count
            source = assignment.expression
            target = parse_name(literal_pattern(assignment.leaf))
            rule = Rule(last, source, target, assignment.source)
        assignments.append(dataclasses.replace(assignment, entry=rule))
    return assignments


def _parts_of(
    job: Job, manifest: Manifest, parts: StateParts, steps: StepCount | None
) -> OptimizerParts:
    kept = set(job.plan.resolution.kept)
    # A TrainState has parameters beside its state, which are written as such.
    scopes = tuple(f"{field.path}/" for field in parts.fields)
    counts = {slot.leaf.name for slot in job.target.slots}.intersection(parts.counts)
    return OptimizerParts(
        manifest=manifest,
        assignments=tuple(a for a in job.plan.assignments if a.leaf not in counts),
        # Optax puts arrays of one element where a parameter has nothing.
        kept=tuple(
            slot.leaf.name
            for slot in job.target.slots
            if slot.leaf.name in kept
            and slot.leaf.name.startswith(scopes)
            and slot.leaf.shape not in ((), (1,))
        ),
        counts=tuple(name for name in parts.counts if name in counts),
        count=steps,
    )


def _check_kept(job: Job) -> None:
    """Refuses leaves that are not loaded and hold no values."""
    kept = set(job.plan.resolution.kept)
    grown = {assignment.leaf for assignment in job.grown}
    abstract = [
        slot.leaf.name
        for slot in job.target.slots
        if slot.is_abstract and slot.leaf.name in kept | grown
    ]
    abstract += job.target.abstract_states
    if abstract:
        raise AssignmentError(
            f"Leaves of the state that are not loaded keep what they hold, and these "
            f"({len(abstract)}) are jax.ShapeDtypeStruct: "
            f"{list_collapsed(abstract, _MAX_NAMED)}. Give the state with values: "
            "tx.init(params)."
        )


def _job_of(plan: Any) -> Job:
    if isinstance(plan, Plan) and not isinstance(plan, OptimizerPlan):
        return plan._job  # pyright: ignore[reportPrivateUsage]
    kind = "a plan of optimizer_plan" if isinstance(plan, Plan) else show_value(plan)
    raise AssignmentError(
        f"Expected the plan of the parameters, got {kind}. Give what "
        "tf2flax.plan(checkpoint, assignment_map, params) returns."
    )


def _check_slots(slots: object) -> Mapping[str, str | None]:
    if slots is None:
        return {}
    given = cast("Mapping[object, object]", slots)
    if isinstance(slots, Mapping) and all(
        isinstance(key, str) and isinstance(value, (str, type(None)))
        for key, value in given.items()
    ):
        return cast("Mapping[str, str | None]", dict(given))
    raise AssignmentError(
        "slots: expected a mapping of fields of the state to names of slots, got "
        f'{show_value(slots)}. Write slots={{"mu": "Adam", "nu": "Adam_1"}}.'
    )


def _check_prefix(prefix: object) -> str | None:
    if prefix is None or (isinstance(prefix, str) and prefix):
        return prefix
    raise AssignmentError(
        f"prefix: expected the scope of an optimizer, got {show_value(prefix)}."
    )


def _check_betas(betas: Any) -> tuple[float, float]:
    try:
        beta1, beta2 = map(float, betas)
    except (TypeError, ValueError):
        beta1 = beta2 = -1.0
    if 0 <= beta1 < 1 and 0 <= beta2 < 1:
        return beta1, beta2
    raise AssignmentError(
        f"betas: expected two numbers from 0 to 1, got {show_value(betas)}. Write "
        "betas=(0.9, 0.999)."
    )


def _check_count(count: Any) -> int | str | None:
    if is_whole_number(count) and count >= 0:
        return int(count)
    if count is None or (isinstance(count, str) and count):
        return count
    raise AssignmentError(
        "count: expected a number of steps, or the name of the tensor that says it, "
        f"got {show_value(count)}."
    )


def _check_negate(negate: Any) -> bool | None:
    if negate is None or isinstance(negate, bool):
        return negate
    raise AssignmentError(
        f"negate: expected True, False or None, got {show_value(negate)}."
    )
