"""`plan` and `Plan`: what a restore will do, to be looked at before it is run.

Decides nothing itself: jobs are made, counted and run below.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX and Flax leave many of their types unknown; what leaves this file is annotated.

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final, Literal, NoReturn, Unpack

import jax

from tf2flax._assignment.plans.inverse import InversePlan
from tf2flax._assignment.plans.plan import PlacementReport
from tf2flax._assignment.plans.report import ReadSummary, render, render_html
from tf2flax._assignment.plans.sections import is_terminal
from tf2flax._assignment.resolution.assignments import Assignment, Gap
from tf2flax._assignment.resolution.option_checks import check_strategy, is_count
from tf2flax._base.caller import show_value
from tf2flax._base.errors import AssignmentError, UnsupportedError
from tf2flax._base.memory import collection_paused
from tf2flax._base.progress import ProgressFunction, check_progress
from tf2flax._base.text import counted
from tf2flax._checkpoint.checkpoint import Checkpoint
from tf2flax._checkpoint.state import PathLike

from .growth import with_own_elements
from .meshes import show_sharding
from .options import (
    AssignmentMap,
    RestoreOptions,
    check_options,
    takes_options,
)
from .plan_cost import PlanCost
from .restore import (
    Job,
    check_filled,
    check_kept,
    make_job,
    refuse_tracing,
    run_job,
    take_target,
)

# Processes whose costs are counted, a row each.
MAX_PROCESSES: Final = 16_384


class Plan:
    """What a restore will do; made by `tf2flax.plan`, printed, then run.

    Examples:
        >>> import jax, numpy as np, tf2flax
        >>> checkpoint = {"global_step": np.int64(7)}  # or a path
        >>> target = {"step": jax.ShapeDtypeStruct((), "int32")}
        >>> plan = tf2flax.plan(checkpoint, {"global_step": "step"}, target)
        >>> plan.nbytes
        8
        >>> plan.restore()
        {'step': Array(7, dtype=int32)}
    """

    __slots__ = ("_job",)

    def __init__(self, job: Job) -> None:
        """Wraps a job; made by `tf2flax.plan`, not by users.

        Raises:
            AssignmentError: It is something else, such as a path.
        """
        if not isinstance(job, Job):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise AssignmentError(
                f"A Plan is not made of {show_value(job)}. Write "
                "tf2flax.plan(checkpoint, assignment_map, target)."
            )
        self._job = job

    @property
    def assignments(self) -> tuple[Assignment, ...]:
        """One for each leaf that is loaded, in the target's order.

        Each has `.leaf`, `.source`, `.sources`, `.expression`, `.region`, `.shape`,
        `.stored`, `.dtype`, `.casts`, `.nbytes` (bytes of the checkpoint) and `.entry`
        (of the map).
        """
        return self._job.plan.assignments

    @property
    def missing(self) -> tuple[Gap, ...]:
        """Leaves whose source is not in the checkpoint, kept by `on_missing`.

        Each has `.leaf`, `.source`, `.fact` and `.entry`.
        """
        return self._job.plan.resolution.missing

    @property
    def mismatched(self) -> tuple[Gap, ...]:
        """Leaves whose source does not fit, kept by `on_mismatch`."""
        return self._job.plan.resolution.mismatched

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of the leaves that stay as they are.

        No entry reaches them, or they are in `missing` or `mismatched`.
        """
        return self._job.plan.resolution.kept

    @property
    def unused(self) -> tuple[str, ...]:
        """Names of the tensors that fill no leaf, sorted."""
        return self._job.plan.unused

    @property
    def unused_rules(self) -> tuple[str, ...]:
        """Entries of the map that reach no leaf, of any kind, as they read.

        `restore` warns of them. Those that reach leaves which other entries have, or
        which `on_missing` or `on_mismatch` keep, are no such entries.
        """
        return self._job.plan.unused_rules

    @property
    def nbytes(self) -> int:
        """Bytes of the checkpoint that a restore needs."""
        return self._job.plan.nbytes

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values, ready for `json.dumps`."""
        return self._job.plan.to_dict()

    @property
    def shardings(self) -> Mapping[str, jax.sharding.Sharding]:
        """Shardings of the loaded leaves; those that JAX may place are left out."""
        shardings = self._job.shardings
        return {
            assignment.leaf: shardings[assignment.leaf]
            for assignment in self.assignments
            if assignment.leaf in shardings
        }

    @property
    def placement(self) -> PlacementReport:
        """Facts about shardings that are worth knowing.

        It has `.replicated` (dimensions, by `on_uneven`), and of `partition_rules` the
        leaves that are `.unmatched` and the `.unused_rules`.
        """
        return self._job.plan.placement

    @property
    def unverified(self) -> tuple[str, ...]:
        """Names of tensors that this process reads in part: no checksum covers that."""
        if self._job.is_abstract or self._is_read_whole():
            return ()
        return self._job.reads.unverified

    def _is_read_whole(self) -> bool:
        """True if all of each leaf is needed here, and is one whole tensor.

        Then nothing is read in part. To plan the reads, which says so too, takes longer
        than all else that a report shows; who restores plans them then.
        """
        transfers = self._job.transfers.values()
        return not any(transfer.is_cut for transfer in transfers) and all(
            assignment.is_whole for assignment in self.assignments
        )

    def cost(
        self,
        processes: int | None = None,
        *,
        strategy: Literal["auto", "local", "read-once"] | None = None,
    ) -> PlanCost:
        """Counts what a restore costs each process; reads nothing.

        Args:
            processes: Over how many processes the devices of the mesh are split, in
                their order; None takes the processes that they belong to.
            strategy: How processes share in reading; None takes the plan's own.

        Returns:
            The costs: `.processes`, each with bytes needed, bytes read, host memory and
            bytes on devices; print them.

        Raises:
            AssignmentError: The devices cannot be split so.

        Examples:
            >>> import jax, tf2flax
            >>> from jax.sharding import AbstractMesh, PartitionSpec as P
            >>> kernel = jax.ShapeDtypeStruct((32, 32), "float32")
            >>> plan = tf2flax.plan(
            ...     {"pooler/kernel": jax.numpy.ones((32, 32))},  # or a path
            ...     {"pooler/kernel": "kernel"},
            ...     {"kernel": kernel},
            ...     sharding=P("rows"),
            ...     mesh=AbstractMesh((16,), ("rows",)),
            ... )
            >>> [one.read_nbytes for one in plan.cost(processes=2).processes]
            [2048, 2048]
        """
        count: Any = processes
        if count is not None and not is_count(count):
            raise AssignmentError(
                f"processes: expected a positive whole number, got "
                f"{show_value(processes)}."
            )
        if count is not None and count > MAX_PROCESSES:
            raise AssignmentError(
                f"processes: expected at most {MAX_PROCESSES}, got "
                f"{show_value(processes)}."
            )
        if strategy is not None:
            check_strategy("strategy", strategy)
        return self._job.cost(processes, strategy)

    def restore(self, progress: bool | ProgressFunction = False) -> Any:
        """Reads, checks, casts and places what the plan names.

        Under `jax.distributed`, all processes of a leaf's mesh call it. A UserWarning
        names the entries of the map that reach no leaf, another one normalisations
        that are loaded by half (scale without mean and variance).

        Args:
            progress: True draws a bar on stderr (bytes, rate, time left, tensor); a
                function is called with a `tf2flax.Progress`. False leaves that to the
                plan's own option.

        Returns:
            The target with `jax.Array`s in the leaves that are loaded and all other
            leaves as they are: a new tree, or the same `nnx.Module`, updated.

        Raises:
            DamagedError: A data file is missing or short, or a checksum differs.
            AssignmentError: A value does not fit the leaf's dtype.
            UnsupportedError: JAX is tracing.
            ReadError: The operating system refuses, or another process failed.
        """
        refuse_tracing()
        check_progress(
            progress,
            "A plan has its checkpoint, map and target already: call `restore()`.",
        )
        job = self._job
        _, arrays = run_job(lambda: job, job.shardings.values, progress)
        arrays = with_own_elements(job, arrays) if job.grown else arrays
        return job.target.rebuild(arrays)

    def inverse(self) -> InversePlan:
        """Turns the plan round: what each tensor is, in terms of leaves.

        `tf2flax.save_checkpoint(..., plan=plan)` writes what it says.

        Returns:
            The inverse: print it, look at `.assignments`, `.copied`, `.left_out`.

        Raises:
            DamagedError: The entry of a tensor is malformed.
        """
        return InversePlan(self._job.plan, self._job.manifest)

    def __copy__(self) -> Plan:
        """Another plan for the same job, which nothing changes."""
        return Plan(self._job)

    def __reduce__(self) -> NoReturn:
        """Refuses to be pickled.

        Raises:
            UnsupportedError: Always: a plan holds the target, and how to rebuild it.
        """
        raise UnsupportedError(
            "A Plan cannot be pickled or copied deeply: it belongs to the target that "
            "it was made for. "
            "Pickle the checkpoint (tf2flax.open_checkpoint) and the assignment map, "
            "and call tf2flax.plan again where they are loaded."
        )

    @collection_paused()
    def __str__(self) -> str:
        """The plan as a report for people; in colour where that is a terminal."""
        return render(self._job.plan, self._read_summary(), is_coloured=is_terminal())

    @collection_paused()
    def __format__(self, spec: str) -> str:
        """The plan as a report without colours, wherever it goes."""
        return format(render(self._job.plan, self._read_summary()), spec)

    @collection_paused()
    def _repr_html_(self) -> str:
        """The plan as a report for notebooks."""
        return render_html(self._job.plan, self._read_summary())

    def _read_summary(self) -> ReadSummary:
        """Collects what the report says about reading, where that is any news."""
        shardings = self._job.shardings
        is_sharded = any(sharding.num_devices > 1 for sharding in shardings.values())
        summary = ReadSummary(
            shardings={leaf: show_sharding(s) for leaf, s in shardings.items()}
            if is_sharded
            else {},
            dtypes=self._job.options.dtype,
        )
        if self._job.is_abstract:
            return summary
        return dataclasses.replace(
            summary,
            by_process=self.cost().section() if is_sharded else None,
            unverified=self.unverified,
        )

    def __repr__(self) -> str:
        """The plan in one line."""
        return (
            f"Plan({self._job.plan.prefix!r}, "
            f"{counted(len(self.assignments), 'leaf', 'leaves')} loaded, "
            f"{len(self.kept)} kept, {counted(len(self.unused), 'tensor')} unused)"
        )


@takes_options
def plan(
    checkpoint: PathLike | Checkpoint | Mapping[str, Any],
    assignment_map: AssignmentMap,
    target: Any,
    **options: Unpack[RestoreOptions],
) -> Plan:
    """Checks a map against a checkpoint and a target; reads no tensor.

    Args:
        checkpoint: A path, an open checkpoint, or a flat mapping of names to arrays.
        assignment_map: Checkpoint names or scopes -> names, scopes or leaves of the
            target, with the semantics of `tf.compat.v1.train.init_from_checkpoint`;
            expressions (`tf2flax.src`) and captures (`layer_{i}`) as docs/maps.md.
        target: A pytree, linen variables, an `nnx.State` or an `nnx.Module`.
        aliases: Leaf name -> checkpoint names that may stand in for it within scopes;
            None is exactly TensorFlow.
        dtype: None gives leaves their own dtype where the cast is safe (a value that
            it would change, beyond rounding, is refused when read); "exact" refuses
            every cast; "checkpoint" keeps the file's; a dtype forces it on leaves of
            its own kind (a float dtype on floating point alone: steps and masks keep
            theirs). Pairs of a regex, searched in the leaf's name, and one of these
            force any; the first that matches counts, else None.
        sharding: Where loaded leaves live: a `jax.sharding.Sharding` or PartitionSpec
            for all, a tree of them, or a function of leaves (`.name`, `.shape`,
            `.dtype`, `.sources`): `tf2flax.partition_rules`, `tf2flax.from_partitions`.
            None, there and here, leaves that to the target: its shardings, and Flax's
            partitioning metadata where there is a mesh.
        mesh: What PartitionSpecs, metadata and shardings over an AbstractMesh are put
            on; None takes that of `jax.set_mesh`. An AbstractMesh is good for planning
            alone.
        logical_axis_rules: What logical names in metadata mean on the mesh, in pairs;
            None takes the rules in force in Flax, and the leaf's own.
        strategy: "local", each process reads what its devices need; "read-once", each
            byte is read by one process, and redistributed by XLA; "auto", so for leaves
            of 1 MiB or more of which processes would read each byte twice or more.
        on_missing: What happens to a leaf that an entry reaches and whose source is not
            in the checkpoint: "error", "keep", or pairs of a regex, searched in the
            leaf's name, and one of these; the first that matches counts, else "error".
        on_mismatch: The same for a source of another shape, or a dtype that cannot be
            cast.
        on_unused: What happens to weights of the checkpoint that fill no leaf:
            "ignore", "warn" (when restored), "error", or pairs of a regex, searched in
            the tensor's name, and one of these; the first that matches counts, else
            "ignore". Slots, averages, counters, strings, tensors of which a part is
            used, and sources of leaves that `on_missing` or `on_mismatch` keep are
            never meant, nor are tensors of entries in `[optional]` of a map file.
        on_uneven: What happens to a dimension that its mesh axes do not divide:
            "error", or "replicate", that dimension alone.
        verify: Whether a restore compares CRC-32C checksums.
        max_in_flight_bytes: Host memory that a restore takes at once for arrays which
            are not yet handed over to JAX (bytes). A larger leaf, all of one tensor,
            comes onto accelerators in portions; on CPU, or where it is made of several
            tensors, what a process needs of it passes alone.
        tuning: How the tensors are read: a `tf2flax.Tuning`; None takes that of the
            checkpoint, as given to `open_checkpoint`.
        progress: As `Plan.restore`.

    Returns:
        The plan: print it, look at it, `restore()` it. Under `jax.distributed`, where
        one process fails to plan, the others do not hear of it before they restore,
        and wait; `init_from_checkpoint` tells them.

    Raises:
        CheckpointNotFoundError: There is no checkpoint at the path.
        AssignmentError: Map, options and target do not fit; every problem is listed.
            The map has entries, and none of them fills a leaf; the target has no leaf.
        DamagedError: The index is malformed.

    Examples:
        >>> import jax, tf2flax
        >>> kernel = jax.ShapeDtypeStruct((32, 32), "float32")
        >>> plan = tf2flax.plan(
        ...     {"bert/pooler/kernel": jax.numpy.ones((32, 32))},  # or a path
        ...     {"bert/pooler/": "params/pooler/"},
        ...     {"params": {"pooler": {"kernel": kernel}}},
        ... )
        >>> [a.source for a in plan.assignments]
        ['bert/pooler/kernel']

    Source: tensorflow/python/training/checkpoint_utils.py.
    """
    checked = check_options("plan", options, assignment_map)
    job = make_job(checkpoint, assignment_map, take_target(target), checked)
    check_kept(job)
    check_filled(job)
    return Plan(job)
