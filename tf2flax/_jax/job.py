"""A job: the plan of a restore together with all that running it takes.

Reads no tensor and changes nothing; `restore` runs jobs.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX and Flax leave many of their types unknown; what leaves this file is annotated.

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any, Final

import jax
import numpy as np
from jax.core import Tracer

from tf2flax._assignment.language.grammar import FrozenMap, parse_map
from tf2flax._assignment.plans.plan import RestorePlan, make_plan
from tf2flax._assignment.resolution.matching import resolve_map
from tf2flax._assignment.resolution.ties import find_ties
from tf2flax._assignment.resolution.unfilled import describe_unfilled, describe_unused
from tf2flax._base.errors import AssignmentError, UnsupportedError
from tf2flax._base.manifest import Manifest
from tf2flax._base.text import list_names
from tf2flax._checkpoint.checkpoint import Checkpoint
from tf2flax._checkpoint.opening import open_checkpoint
from tf2flax._checkpoint.state import PathLike
from tf2flax._restoring.plan_reads import plan_reads
from tf2flax._restoring.reads import ReadPlan

from .costs import count_costs
from .empty_targets import empty_target_error
from .meshes import is_abstract
from .options import AssignmentMap, CheckedOptions, Strategy
from .plan_cost import PlanCost
from .read_once import ReadSharding, choose_read_shardings
from .shardings import Placement, choose_placement
from .targets import Target, take_apart
from .transfer import Transfer, large_leaves, plan_transfer
from .trees import check_depth

# Leaves that a message names.
_MAX_NAMED: Final = 20


@dataclasses.dataclass(frozen=True)
class Job:
    """A plan together with all that running it takes.

    What is read is planned once, when it is first asked for: the report of the plan
    and the restore use the same.

    Attributes:
        plan: What fills each leaf.
        target: The target, taken apart.
        manifest: Where the tensors lie.
        shardings: Where leaves live; those without an opinion are left out.
        options: What the caller says.
    """

    plan: RestorePlan
    target: Target
    manifest: Manifest
    shardings: Mapping[str, jax.sharding.Sharding]
    options: CheckedOptions

    @property
    def is_abstract(self) -> bool:
        """True if it is over devices that do not exist here."""
        return any(map(is_abstract, self.shardings.values()))

    @functools.cached_property
    def read_shardings(self) -> Mapping[str, ReadSharding]:
        """Leaves that processes share in reading; {} where each works alone."""
        if jax.process_count() == 1:
            return {}
        return choose_read_shardings(
            self.plan.assignments, self.shardings, self.manifest, self.options.strategy
        )

    @functools.cached_property
    def transfers(self) -> Mapping[str, Transfer]:
        """Transfers of the loaded leaves onto devices, by leaf."""
        return {
            assignment.leaf: plan_transfer(
                assignment,
                self.shardings.get(assignment.leaf),
                self.read_shardings.get(assignment.leaf),
            )
            for assignment in self.plan.assignments
        }

    @functools.cached_property
    def reads(self) -> ReadPlan:
        """All that this process reads, in the order in which it does."""
        assignments = self.plan.assignments
        limit = self.options.max_in_flight_bytes
        return plan_reads(
            assignments,
            {leaf: transfer.boxes for leaf, transfer in self.transfers.items()},
            self.manifest,
            dict.fromkeys(large_leaves(assignments, self.shardings, limit), limit),
        )

    def cost(self, processes: int | None, strategy: Strategy | None) -> PlanCost:
        """Counts what the restore costs each process.

        Args:
            processes: Over how many processes the devices are split, in their order;
                None takes those they belong to.
            strategy: How processes share in reading; None takes the job's own.

        Returns:
            The costs.

        Raises:
            AssignmentError: The devices cannot be split so.
        """
        strategy = strategy or self.options.strategy
        # Other strategies, and other numbers of processes, are other plans.
        is_as_planned = processes is None and strategy == self.options.strategy
        return count_costs(
            self.plan.assignments,
            self.shardings,
            self.manifest,
            strategy=strategy,
            processes=processes,
            max_in_flight_bytes=self.options.max_in_flight_bytes,
            reads_here=self.reads if is_as_planned and not self.is_abstract else None,
        )


def take_target(target: Any, subject: str = "The target") -> Target:
    """Takes a target apart into named leaves, of which one at least can be filled.

    Args:
        target: As `take_apart`.
        subject: What it is, for messages.

    Returns:
        Its leaves, and how to put new values back.

    Raises:
        AssignmentError: It holds no leaf of numbers, or as `take_apart`.
    """
    parts = take_apart(target)
    if not any(slot.holds_numbers for slot in parts.slots):
        raise empty_target_error(target, parts, subject)
    return parts


def make_job(
    checkpoint: PathLike | Checkpoint,
    assignment_map: AssignmentMap | FrozenMap,
    target: Target,
    options: CheckedOptions,
    *,
    is_initialised: bool = False,
) -> Job:
    """Makes a plan whose kept leaves may still be abstract.

    Args:
        checkpoint: As `plan`.
        assignment_map: As `plan`.
        target: The target, taken apart.
        options: What the caller says.
        is_initialised: Whether kept leaves are made anew, and placed too.

    Returns:
        The plan, and all that running it takes.

    Raises:
        CheckpointError: As `plan`.
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = open_checkpoint(checkpoint)
    manifest = checkpoint.manifest
    _refuse_tracers(slot.value for slot in target.slots)
    entries = parse_map(assignment_map, target.identify)
    leaves, x64 = target.leaves, is_x64()
    resolution = resolve_map(entries, leaves, manifest, options, x64=x64)
    if any(len(leaf.names) > 1 for leaf in leaves):
        ties = find_ties(entries, leaves, manifest, options, resolution, x64=x64)
        resolution = dataclasses.replace(resolution, ties=ties)
    placement = Placement()
    if options.sharding is not None or any(slot.has_place for slot in target.slots):
        placement = choose_placement(
            resolution.assignments,
            target.slots,
            manifest,
            options,
            initialised=resolution.kept if is_initialised else (),
        )
    return Job(
        plan=make_plan(resolution, manifest, placement.report, options.aliases),
        target=target,
        manifest=manifest,
        shardings=placement.shardings,
        options=options,
    )


def check_kept(job: Job) -> None:
    """Refuses leaves that would stay abstract.

    Args:
        job: The plan and its target.

    Raises:
        AssignmentError: A leaf that no entry fills is a `jax.ShapeDtypeStruct`.
    """
    kept = set(job.plan.resolution.kept)
    slots = [
        slot for slot in job.target.slots if slot.is_abstract and slot.leaf.name in kept
    ]
    abstract = [slot.leaf.name for slot in slots]
    abstract += job.target.abstract_states
    if abstract:
        way_out = "Add entries for them, or initialise"
        if all(slot.leaf.dtype is None for slot in slots):  # random numbers, say
            way_out = "Initialise"
        message = (
            f"No entry fills these leaves ({len(abstract)}), which would stay "
            f"jax.ShapeDtypeStruct: {list_names(abstract, _MAX_NAMED)}. {way_out} them "
            "with tf2flax.warm_start."
        )
        if unused := describe_unused(job.plan.resolution, job.target.leaves):
            message = f"{message} Entries that reach no leaf: {unused}"
        raise AssignmentError(message)


def check_filled(job: Job) -> None:
    """Refuses a map with entries of which none fills a leaf.

    Args:
        job: The plan and its target.

    Raises:
        AssignmentError: No leaf is filled, though the map is not empty.
    """
    if job.plan.assignments:
        return
    if message := describe_unfilled(job.plan.resolution, job.target.leaves):
        raise AssignmentError(message)


def is_x64() -> bool:
    """True if JAX holds 64-bit dtypes, here and now."""
    return jax.dtypes.canonicalize_dtype(np.int64) == np.int64


def refuse_tracing(*trees: object) -> None:
    """Raises where JAX is tracing: reading files is no computation.

    Args:
        trees: What was passed in; under vmap and grad, tracing shows there alone.

    Raises:
        UnsupportedError: JAX is tracing.
    """
    # Explicit, and on a device of this process, whatever guard or mesh is in force.
    if isinstance(jax.device_put(np.zeros((), np.bool_)), Tracer):
        raise _tracing_error()
    for tree in trees:
        check_depth(tree, "an argument")
        _refuse_tracers(jax.tree.leaves(tree))


def _refuse_tracers(leaves: Iterable[object]) -> None:
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        raise _tracing_error()


def _tracing_error() -> UnsupportedError:
    return UnsupportedError(
        "A restore was called while JAX is tracing (jit, grad, vmap, eval_shape). "
        "Restore outside, and pass the arrays in."
    )
