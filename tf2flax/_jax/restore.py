"""Plan and restore: reads what a plan names, checks it, casts it and places it.

Everything is read and placed before anything of the target changes.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX and Flax leave many of their types unknown; what leaves this file is annotated.

from __future__ import annotations

import dataclasses
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NoReturn

import jax
import numpy as np
from jax.core import Tracer
from jax.sharding import AbstractMesh, Mesh

from tf2flax._assignment.language.aliases import FLAX_ALIASES
from tf2flax._assignment.language.expressions import Expression
from tf2flax._assignment.language.grammar import FrozenMap, parse_map
from tf2flax._assignment.plans.inverse import InversePlan
from tf2flax._assignment.plans.plan import PlacementReport, RestorePlan, make_plan
from tf2flax._assignment.plans.report import Reads, is_terminal, render, render_html
from tf2flax._assignment.resolution.assignments import Assignment, Gap
from tf2flax._assignment.resolution.half_norms import describe_half_norms
from tf2flax._assignment.resolution.matching import Options, resolve
from tf2flax._assignment.resolution.policies import parse_dtype_choice, parse_policy
from tf2flax._assignment.resolution.ties import find_ties
from tf2flax._assignment.resolution.unfilled import describe_unfilled, describe_unused
from tf2flax._base.caller import check_switch, is_one_of, show_value, warn_caller
from tf2flax._base.dtypes import WIDE_DTYPES
from tf2flax._base.errors import AssignmentError, UnsupportedError
from tf2flax._base.manifest import Manifest
from tf2flax._base.progress import ProgressFunction, check_progress, reporting
from tf2flax._base.text import list_names
from tf2flax._checkpoint.checkpoint import Checkpoint
from tf2flax._checkpoint.opening import open_checkpoint
from tf2flax._checkpoint.state import PathLike
from tf2flax._restoring.plan_reads import ReadPlan, plan_reading
from tf2flax._restoring.scheduling import run_reads
from tf2flax._restoring.tied import describe_ties, warn_of_ties

from .agreement import all_or_none
from .costs import (
    STRATEGIES,
    Strategy,
    choose_read_shardings,
    count_costs,
    large_leaves,
)
from .depth import check_depth
from .empty_targets import take_target
from .half_loaded import without_statistics
from .meshes import is_abstract, participants
from .plan_cost import PlanCost
from .shardings import LogicalRules, PlacementOptions, ShardingOption, choose_placement
from .targets import Target
from .transfer import Placer, Transfer, plan_transfer

# Keys of mappings are invariant, so that each kind of mapping is a case of its own.
AssignmentMap = (
    Mapping[str, Any]
    | Mapping[Expression, Any]
    | Mapping[str | Expression, Any]
    | Iterable[tuple[str | Expression, Any]]
)
# Enough for the largest leaves of most models to be read side by side; a few hundredths
# of a host's memory.
MAX_IN_FLIGHT_BYTES: Final = 1 << 30
# Processes whose costs are counted, a row each.
MAX_PROCESSES: Final = 16_384
# What `on_missing` and `on_mismatch` take.
PolicyOption = (
    Literal["error", "keep"]
    | Sequence[tuple[str | re.Pattern[str], Literal["error", "keep"]]]
)


# Options that may be dicts and lists of the caller.
_CONTAINERS: Final = (
    "aliases", "dtype", "sharding", "logical_axis_rules", "on_missing", "on_mismatch"
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """What `plan`, `init_from_checkpoint` and `warm_start` take; see `plan`."""

    aliases: Mapping[str, tuple[str, ...]] | None
    dtype: Any
    sharding: ShardingOption
    mesh: Mesh | AbstractMesh | None
    logical_axis_rules: LogicalRules | None
    strategy: Strategy
    on_missing: PolicyOption
    on_mismatch: PolicyOption
    on_uneven: Literal["error", "replicate"]
    verify: bool
    max_in_flight_bytes: int
    progress: bool | ProgressFunction

    def __post_init__(self) -> None:
        # `warm_start` runs later: what the caller changes by then has no effect.
        for name in _CONTAINERS:
            try:
                object.__setattr__(self, name, _copied(getattr(self, name)))
            except RecursionError:
                raise AssignmentError(
                    f"Option {name}: it holds itself, or is nested too deeply."
                ) from None
        _check_aliases(self.aliases)
        if self.aliases is not None:  # any mapping, not only a dict
            aliases = {name: tuple(others) for name, others in self.aliases.items()}
            object.__setattr__(self, "aliases", aliases)
        check_switch("verify", self.verify)
        check_progress(self.progress)
        if not is_one_of(self.strategy, STRATEGIES):
            raise AssignmentError(
                "Option strategy: expected 'auto', 'local' or 'read-once', got "
                f"{show_value(self.strategy)}."
            )
        limit: object = self.max_in_flight_bytes
        if not _is_count(limit):
            raise AssignmentError(
                "Option max_in_flight_bytes: expected a positive whole number of "
                f"bytes, got {show_value(limit)}."
            )

    @property
    def placement(self) -> PlacementOptions:
        """Those that say where leaves live."""
        return PlacementOptions(
            sharding=self.sharding,
            mesh=self.mesh,
            logical_axis_rules=self.logical_axis_rules,
            on_uneven=self.on_uneven,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """A plan together with all that running it takes.

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
    options: JobOptions

    def reading(self, transfers: Mapping[str, Transfer] | None = None) -> ReadPlan:
        """What this process reads, for leaves that come onto devices in some way."""
        transfers = self.transfers() if transfers is None else transfers
        loaded, limit = self.plan.assignments, self.options.max_in_flight_bytes
        return plan_reading(
            loaded,
            {leaf: transfer.boxes for leaf, transfer in transfers.items()},
            self.manifest,
            dict.fromkeys(large_leaves(loaded, self.shardings, limit), limit),
        )

    def transfers(self) -> dict[str, Transfer]:
        """How each loaded leaf comes onto devices."""
        loaded = self.plan.assignments
        read_shardings = choose_read_shardings(
            loaded, self.shardings, self.manifest, self.options.strategy
        )
        return {
            one.leaf: plan_transfer(
                one, self.shardings.get(one.leaf), read_shardings.get(one.leaf)
            )
            for one in loaded
        }


class Plan:
    """What a restore will do; made by `tf2flax.plan`, printed, then run.

    Examples:
        >>> import jax, tf2flax
        >>> target = {"step": jax.ShapeDtypeStruct((), "int32")}
        >>> plan = tf2flax.plan(
        ...     "tests/data/bert/model.ckpt", {"global_step": "step"}, target
        ... )
        >>> plan.nbytes
        8
        >>> plan.restore()
        {'step': Array(123456, dtype=int32)}
    """

    __slots__ = ("_job",)

    def __init__(self, job: Job) -> None:
        """Wraps a job; made by `tf2flax.plan`, not by users."""
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
        """Where loaded leaves will live; those that JAX may place are left out."""
        loaded = [one.leaf for one in self.assignments]
        shardings = self._job.shardings
        return {leaf: shardings[leaf] for leaf in loaded if leaf in shardings}

    @property
    def placement(self) -> PlacementReport:
        """What is worth knowing about shardings.

        It has `.replicated` (dimensions, by `on_uneven`), and of `partition_rules` the
        leaves that are `.unmatched` and the `.unused_rules`.
        """
        return self._job.plan.placement

    @property
    def unverified(self) -> tuple[str, ...]:
        """Names of tensors that this process reads in part: no checksum covers that."""
        return () if self._is_abstract else self._job.reading().unverified

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
            ...     "tests/data/bert/model.ckpt",
            ...     {"bert/pooler/dense/kernel": "kernel"},
            ...     {"kernel": kernel},
            ...     sharding=P("rows"),
            ...     mesh=AbstractMesh((16,), ("rows",)),
            ... )
            >>> [one.read_nbytes for one in plan.cost(processes=2).processes]
            [2048, 2048]
        """
        job = self._job
        count: Any = processes
        if count is not None and not _is_count(count):
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
            job = dataclasses.replace(
                job, options=dataclasses.replace(job.options, strategy=strategy)
            )
        return count_costs(
            job.plan.assignments,
            job.shardings,
            job.manifest,
            strategy=job.options.strategy,
            processes=processes,
            max_in_flight_bytes=job.options.max_in_flight_bytes,
        )

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
        check_progress(progress)
        with all_or_none(participants(self._job.shardings.values())) as agreed:
            placer = read_leaves(self._job, progress or self._job.options.progress)
            differing = describe_ties(self._job.plan.resolution, self._job.manifest)
            agreed.require_same(common_work(self._job, placer))
        placer.redistribute()
        warn_of_leftovers(self._job)
        warn_of_ties(differing)
        return self._job.target.rebuild(placer.arrays)

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

    def __str__(self) -> str:
        """The plan as a report for people; in colour where that is a terminal."""
        return render(self._job.plan, self._reads(), is_coloured=is_terminal())

    def __format__(self, spec: str) -> str:
        """The plan as a report without colours, wherever it goes."""
        return format(render(self._job.plan, self._reads()), spec)

    def _repr_html_(self) -> str:
        """The plan as a report for notebooks."""
        return render_html(self._job.plan, self._reads())

    @property
    def _is_abstract(self) -> bool:
        """Whether it is over devices that do not exist here."""
        return any(map(is_abstract, self._job.shardings.values()))

    def _reads(self) -> Reads:
        """What the report says about reading, where that is any news."""
        if self._is_abstract:
            return Reads()
        shardings = self._job.shardings.values()
        is_sharded = any(one.num_devices > 1 for one in shardings)
        by_process = self.cost().section() if is_sharded else None
        return Reads(by_process, self.unverified)

    def __repr__(self) -> str:
        """The plan in one line."""
        return (
            f"Plan({self._job.plan.prefix!r}, {len(self.assignments)} leaves loaded, "
            f"{len(self.kept)} kept, {len(self.unused)} tensors unused)"
        )


def plan(
    checkpoint: PathLike | Checkpoint,
    assignment_map: AssignmentMap,
    target: Any,
    *,
    aliases: Mapping[str, tuple[str, ...]] | None = FLAX_ALIASES,
    dtype: Any = None,
    sharding: ShardingOption = None,
    mesh: Mesh | AbstractMesh | None = None,
    logical_axis_rules: LogicalRules | None = None,
    strategy: Literal["auto", "local", "read-once"] = "auto",
    on_missing: PolicyOption = "error",
    on_mismatch: PolicyOption = "error",
    on_uneven: Literal["error", "replicate"] = "error",
    verify: bool = True,
    max_in_flight_bytes: int = MAX_IN_FLIGHT_BYTES,
    progress: bool | ProgressFunction = False,
) -> Plan:
    """Checks a map against a checkpoint and a target; reads no tensor.

    Args:
        checkpoint: A path, or an open checkpoint.
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
        on_uneven: What happens to a dimension that its mesh axes do not divide:
            "error", or "replicate", that dimension alone.
        verify: Whether a restore compares CRC-32C checksums.
        max_in_flight_bytes: Host memory that a restore takes at once for arrays which
            are not yet handed over to JAX (bytes). A larger leaf, all of one tensor,
            comes onto accelerators in portions; on CPU, or where it is made of several
            tensors, what a process needs of it passes alone.
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
        ...     "tests/data/bert/model.ckpt",
        ...     {"bert/pooler/": "params/pooler/"},
        ...     {"params": {"pooler": {"dense": {"kernel": kernel}}}},
        ... )
        >>> [a.source for a in plan.assignments]
        ['bert/pooler/dense/kernel']

    Source: tensorflow/python/training/checkpoint_utils.py.
    """
    options = JobOptions(
        aliases=aliases,
        dtype=dtype,
        sharding=sharding,
        mesh=mesh,
        logical_axis_rules=logical_axis_rules,
        strategy=strategy,
        on_missing=on_missing,
        on_mismatch=on_mismatch,
        on_uneven=on_uneven,
        verify=verify,
        max_in_flight_bytes=max_in_flight_bytes,
        progress=progress,
    )
    job = make_job(checkpoint, assignment_map, take_target(target), options)
    check_kept(job)
    check_filled(job)
    return Plan(job)


def _copied(value: Any) -> Any:
    """Copies dicts and lists, and those within; everything else is as it was."""
    if type(value) is dict:
        return {key: _copied(item) for key, item in value.items()}
    if type(value) is list:
        return [_copied(item) for item in value]
    return value


def _is_count(value: Any) -> bool:
    is_whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return is_whole and bool(value > 0)


def is_x64() -> bool:
    """Whether JAX holds 64-bit dtypes, here and now."""
    return jax.dtypes.canonicalize_dtype(np.int64) == np.int64


def refuse_tracing(*trees: Any) -> None:
    """Raises where JAX is tracing: reading files is no computation.

    Args:
        trees: What was passed in; under vmap and grad, tracing shows there alone.

    Raises:
        UnsupportedError: JAX is tracing.
    """
    # Explicit, and on a device of this process, whatever guard or mesh is in force.
    if isinstance(jax.device_put(np.zeros((), np.bool_)), Tracer):
        raise _tracing_error()
    refuse_tracers(trees)


def refuse_tracers(tree: Any) -> None:
    """Raises where a tree holds traced arrays.

    Args:
        tree: The tree.

    Raises:
        UnsupportedError: It does.
    """
    check_depth(tree, "an argument")
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree)):
        raise _tracing_error()


def _tracing_error() -> UnsupportedError:
    return UnsupportedError(
        "A restore was called while JAX is tracing (jit, grad, vmap, eval_shape). "
        "Restore outside, and pass the arrays in."
    )


def make_job(
    checkpoint: PathLike | Checkpoint,
    assignment_map: AssignmentMap | FrozenMap,
    target: Target,
    options: JobOptions,
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
    refuse_tracers([slot.value for slot in target.slots])
    entries = parse_map(assignment_map, target.identify)
    engine = Options(
        aliases=options.aliases,
        dtype=parse_dtype_choice(options.dtype),
        x64=is_x64(),
        on_missing=parse_policy("on_missing", options.on_missing),
        on_mismatch=parse_policy("on_mismatch", options.on_mismatch),
    )
    resolution = resolve(entries, target.leaves, manifest, engine)
    ties = find_ties(entries, target.leaves, manifest, engine, resolution)
    resolution = dataclasses.replace(resolution, ties=ties)
    placement = choose_placement(
        resolution.assignments,
        target.slots,
        manifest,
        options.placement,
        initialised=resolution.kept if is_initialised else (),
    )
    return Job(
        plan=make_plan(resolution, manifest, placement.report, options.aliases),
        target=target,
        manifest=manifest,
        shardings=placement.shardings,
        options=options,
    )


def read_leaves(job: Job, progress: bool | ProgressFunction) -> Placer:
    """Reads, checks and casts what a plan names, and puts it on devices.

    Args:
        job: The plan and what running it takes.
        progress: As `Plan.restore`.

    Returns:
        What has the arrays, once leaves that processes share in are redistributed.

    Raises:
        CheckpointError: As `Plan.restore`.
    """
    if any(map(is_abstract, job.shardings.values())):
        raise UnsupportedError(
            "The plan is over an AbstractMesh, which has no devices. Plan again with "
            "mesh=jax.sharding.Mesh(...) to restore."
        )
    _check_width(job)
    transfers = job.transfers()
    reading = job.reading(transfers)
    placer = Placer(transfers, reading.portioned)
    what = f"Restoring {posixpath.basename(job.manifest.prefix)}"
    with reporting(progress, reading.nbytes, what) as advance:
        run_reads(
            reading,
            placer.put,
            verify=job.options.verify,
            max_in_flight_bytes=job.options.max_in_flight_bytes,
            advance=advance,
        )
    return placer


def common_work(job: Job, placer: Placer) -> str:
    """Says what processes do together: which elements of what go where.

    Args:
        job: The plan.
        placer: What has the leaves.

    Returns:
        A text that must be the same in all processes; "" where each works alone.
    """
    shared = placer.redistribution
    lines: list[str] = []
    for one in job.plan.assignments:
        if one.leaf not in shared:
            continue
        lines.append(f"{one.leaf} {shared[one.leaf]} {one.layout}")
        for entry in map(job.manifest.entry, one.sources):
            lines += [
                f"{piece.box} {getattr(piece, 'crc32c', piece.nbytes)}"
                for piece in entry.pieces
            ]
    return "\n".join(lines)


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
        said = (
            f"No entry fills these leaves ({len(abstract)}), which would stay "
            f"jax.ShapeDtypeStruct: {list_names(abstract, 20)}. {way_out} them with "
            "tf2flax.warm_start."
        )
        if unused := describe_unused(job.plan.resolution, job.target.leaves):
            said = f"{said} Entries that reach no leaf: {unused}"
        raise AssignmentError(said)


def check_filled(job: Job) -> None:
    """Refuses a map with entries of which none fills a leaf.

    Args:
        job: The plan and its target.

    Raises:
        AssignmentError: No leaf is filled, though the map is not empty.
    """
    message = describe_unfilled(job.plan.resolution, job.target.leaves)
    if message:
        raise AssignmentError(message)


def warn_of_leftovers(job: Job) -> None:
    """Warns of what a restore leaves undone without an error, each kind once.

    Args:
        job: The plan and its target.
    """
    if unused := describe_unused(job.plan.resolution, job.target.leaves):
        warn_caller(
            f"Entries of the assignment map reach no leaf of the target: {unused}"
        )
    norms = without_statistics(job.plan.half_norms, job.target.slots, job.manifest)
    if half := describe_half_norms(norms):
        warn_caller(half)


def _check_width(job: Job) -> None:
    """Refuses what JAX would narrow, had x64 been switched off since planning."""
    for assignment in job.plan.assignments:
        if assignment.dtype in WIDE_DTYPES and not is_x64():
            raise AssignmentError(
                f"Leaf `{assignment.leaf}` is planned as {assignment.dtype}, but "
                "jax_enable_x64 is off by now. Restore under the same setting."
            )


def _check_aliases(aliases: object) -> None:
    if aliases is None:
        return
    if not isinstance(aliases, Mapping):
        raise AssignmentError(
            "Option aliases: expected a mapping of leaf names to tuples of checkpoint "
            f"names, or None, got {type(aliases).__name__}."
        )
    for name, others in aliases.items():
        if (
            not isinstance(name, str)
            or not isinstance(others, (tuple, list))
            or not all(isinstance(other, str) for other in others)
        ):
            raise AssignmentError(
                f"Option aliases: expected a tuple of names for {show_value(name)}, "
                f"got {show_value(others)}."
            )
