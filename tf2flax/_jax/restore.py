"""A job: the plan of a restore together with all that running it takes; and its run.

Making a job reads no tensor. Running it reads what its plan names, checks it, casts it
and puts it on devices, all before anything of the target changes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import posixpath
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from tf2flax._assignment.language.expressions import Source
from tf2flax._assignment.language.grammar import FrozenMap, parse_map
from tf2flax._assignment.plans.leftovers import check_leftovers, describe_leftovers
from tf2flax._assignment.plans.misplaced import describe_misplaced
from tf2flax._assignment.plans.plan import RestorePlan, make_plan
from tf2flax._assignment.resolution.assignments import Assignment
from tf2flax._assignment.resolution.half_norms import describe_half_norms
from tf2flax._assignment.resolution.matching import resolve_map
from tf2flax._assignment.resolution.ties import find_ties
from tf2flax._assignment.resolution.unfilled import describe_unfilled, describe_unused
from tf2flax._base.caller import warn_caller
from tf2flax._base.dtypes import WIDE_DTYPES
from tf2flax._base.errors import AssignmentError, UnsupportedError
from tf2flax._base.manifest import Manifest
from tf2flax._base.memory import collection_paused
from tf2flax._base.progress import ProgressFunction, reporting
from tf2flax._base.tuning import Tuning
from tf2flax._checkpoint.checkpoint import Checkpoint
from tf2flax._checkpoint.opening import manifest_of, tuning_of
from tf2flax._checkpoint.state import PathLike
from tf2flax._reading.scheduling import report_nothing
from tf2flax._restoring.plan_reads import plan_reads
from tf2flax._restoring.reads import ReadPlan
from tf2flax._restoring.run_reads import run_reads
from tf2flax._restoring.tied import describe_ties, warn_of_ties

from .abstract_leaves import (
    abstract_growth_error,
    abstract_leaves_error,
    refuse_rng_states,
)
from .agreement import all_or_none, describe_common_work
from .box_classes import ReadSharding
from .costs import count_costs
from .empty_targets import empty_target_error
from .half_loaded import without_statistics
from .meshes import is_abstract, participants
from .options import AssignmentMap, CheckedOptions, Strategy
from .plan_cost import PlanCost
from .read_once import choose_read_shardings
from .shardings import Placement, choose_placement
from .targets import Target, take_apart
from .transfer import Placer, Transfer, large_leaves, plan_transfer
from .trees import check_depth, leaves_once


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
        tuning: How the tensors are read.
    """

    plan: RestorePlan
    target: Target
    manifest: Manifest
    shardings: Mapping[str, jax.sharding.Sharding]
    options: CheckedOptions
    tuning: Tuning

    @property
    def is_abstract(self) -> bool:
        """True if it is over devices that do not exist here."""
        return any(map(is_abstract, self.shardings.values()))

    @functools.cached_property
    def grown(self) -> tuple[Assignment, ...]:
        """The loaded leaves that keep some of their own elements."""
        return tuple(
            assignment
            for assignment in self.plan.assignments
            # Most leaves are a tensor as it is, which keeps nothing.
            if not isinstance(assignment.expression, Source)
            and assignment.expression.keeps_leaf
        )

    @functools.cached_property
    def read_shardings(self) -> Mapping[str, ReadSharding]:
        """Leaves that processes share in reading; {} where each works alone."""
        if jax.process_count() == 1:
            return {}
        return choose_read_shardings(
            self.plan.assignments,
            self.shardings,
            self.manifest,
            self.options.strategy,
            tuning=self.tuning,
        )

    @functools.cached_property
    @collection_paused()
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
    @collection_paused()
    def reads(self) -> ReadPlan:
        """All that this process reads, in the order in which it does."""
        assignments = self.plan.assignments
        limit = self.options.max_in_flight_bytes
        return plan_reads(
            assignments,
            {leaf: transfer.boxes for leaf, transfer in self.transfers.items()},
            self.manifest,
            dict.fromkeys(large_leaves(assignments, self.shardings, limit), limit),
            self.tuning,
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
            tuning=self.tuning,
            reads_here=self.reads if is_as_planned and not self.is_abstract else None,
        )


@collection_paused()
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


@collection_paused()
def make_job(
    checkpoint: PathLike | Checkpoint | Mapping[str, Any],
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
    manifest = manifest_of(checkpoint)
    _refuse_tracers(slot.value for slot in target.slots)
    entries = parse_map(assignment_map, target.identify)
    if target.rng_states:
        refuse_rng_states(entries, target.rng_states)
    leaves, x64 = target.leaves, is_x64()
    resolution = resolve_map(
        entries, leaves, manifest, options, x64=x64, is_initialised=is_initialised
    )
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
    plan = make_plan(resolution, manifest, placement.report, options.aliases)
    policy = options.on_unused
    if policy.rules or policy.default != "ignore":
        leftovers = check_leftovers(resolution, plan.unused, entries, manifest, policy)
        plan = dataclasses.replace(plan, leftovers=leftovers)
    return Job(
        plan=plan,
        target=target,
        manifest=manifest,
        shardings=placement.shardings,
        options=options,
        tuning=options.tuning or tuning_of(checkpoint),
    )


def check_kept(job: Job) -> None:
    """Refuses leaves that would stay abstract.

    Args:
        job: The plan and its target.

    Raises:
        AssignmentError: A leaf that no entry fills is a `jax.ShapeDtypeStruct`.
    """
    kept = set(job.plan.resolution.kept)
    abstract = [
        slot.leaf
        for slot in job.target.slots
        if slot.is_abstract and slot.leaf.name in kept
    ]
    target = job.target
    # Leaves that are loaded keep something as well, if they have grown.
    grown = {assignment.leaf for assignment in job.grown}
    shapes = [
        slot.leaf.name
        for slot in (target.slots if grown else ())
        if slot.is_abstract and slot.leaf.name in grown
    ]
    if shapes:
        raise abstract_growth_error(shapes)
    if abstract or target.abstract_states or any(target.rng_states.values()):
        raise abstract_leaves_error(abstract, target, job.plan.resolution)


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
        _refuse_tracers(leaves_once(tree))


def _refuse_tracers(leaves: Iterable[object]) -> None:
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        raise _tracing_error()


def _tracing_error() -> UnsupportedError:
    return UnsupportedError(
        "A restore was called while JAX is tracing (jit, grad, vmap, eval_shape). "
        "Restore outside, and pass the arrays in."
    )


def run_job(
    make: Callable[[], Job],
    expected: Callable[[], Iterable[jax.sharding.Sharding]],
    progress: bool | ProgressFunction = False,
) -> tuple[Job, Mapping[str, jax.Array]]:
    """Makes and runs a job; under `jax.distributed`, on all processes or on none.

    Args:
        make: Makes the job. What it raises is heard of by the other processes.
        expected: Lists where leaves may come to live, as far as that is known before.
        progress: As `Plan.restore`; False leaves that to the job's own option.

    Returns:
        The job, and the arrays of the leaves that it loads. Nothing has changed yet.

    Raises:
        CheckpointError: As `Plan.restore`.
    """
    if jax.process_count() == 1:  # nobody to agree with, nothing to redistribute
        with collection_paused():  # once: each time it goes on, it looks at all of it
            job = make()
            placer = _make_placer(job)
        _read_leaves(job, placer, progress)
        differing = _describe_ties(job)
    else:
        with all_or_none(participants(expected())) as agreement:
            job = make()
            agreement.set_participants(participants(job.shardings.values()))
            placer = _make_placer(job)
            _read_leaves(job, placer, progress)
            differing = _describe_ties(job)
            agreement.require_same(
                describe_common_work(
                    job.plan.assignments, placer.redistribution, job.manifest
                )
            )
        placer.redistribute()
    _warn_of_leftovers(job, differing)
    return job, placer.arrays


def warn_of_leftovers(job: Job) -> None:
    """Warns of what a restore would warn of, for who takes the values elsewhere.

    Args:
        job: The job.
    """
    _warn_of_leftovers(job, _describe_ties(job))


def _describe_ties(job: Job) -> str:
    """Names the tied leaves whose tensors differ; reads those where that is unclear."""
    resolution = job.plan.resolution
    return describe_ties(resolution, job.manifest) if resolution.ties else ""


def _make_placer(job: Job) -> Placer:
    """Plans what is read, and makes what takes it; refuses what cannot be run."""
    if job.is_abstract:
        raise UnsupportedError(
            "The plan is over an AbstractMesh, which has no devices. Plan again with "
            "mesh=jax.sharding.Mesh(...) to restore."
        )
    _check_width(job)
    return Placer(job.transfers, job.reads.portioned)


def _read_leaves(job: Job, placer: Placer, progress: bool | ProgressFunction) -> None:
    """Reads, checks and casts what a plan names, and puts it on devices."""
    title = f"Restoring {posixpath.basename(job.manifest.prefix)}"
    progress = progress or job.options.progress
    with (
        reporting(progress, job.reads.nbytes, title)
        if progress
        else contextlib.nullcontext(report_nothing)
    ) as advance:
        run_reads(
            job.reads,
            placer.put,
            verify=job.options.verify,
            max_in_flight_bytes=job.options.max_in_flight_bytes,
            advance=advance,
        )
        placer.finish()


def _check_width(job: Job) -> None:
    """Refuses what JAX would narrow, had x64 been switched off since planning."""
    for assignment in job.plan.assignments:
        if assignment.dtype in WIDE_DTYPES and not is_x64():
            raise AssignmentError(
                f"Leaf `{assignment.leaf}` is planned as {assignment.dtype}, but "
                "jax_enable_x64 is off by now. Restore under the same setting."
            )


def _warn_of_leftovers(job: Job, differing: str) -> None:
    """Warns of what a restore leaves undone without an error, each kind once."""
    if job.plan.resolution.unused_entries:
        unused = describe_unused(job.plan.resolution, job.target.leaves)
        warn_caller(
            f"Entries of the assignment map reach no leaf of the target: {unused}"
        )
    if leftovers := job.plan.leftovers:
        text = describe_leftovers(leftovers, job.options.on_unused, "warn")
        if text:
            warn_caller(text)
    if job.plan.misplaced:
        warn_caller(describe_misplaced(job.plan.misplaced))
    if job.plan.half_norms:
        norms = without_statistics(job.plan.half_norms, job.target.slots, job.manifest)
        if norms:
            warn_caller(describe_half_norms(norms))
    if differing:
        warn_of_ties(differing)
