"""Plan and restore: reads what a plan names, checks it, casts it and places it.

Everything is read and placed before anything of the target changes.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX and Flax leave many of their types unknown; what leaves this file is annotated.

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ._assignment.aliases import FLAX_ALIASES
from ._assignment.dtypes import WIDE_DTYPES, parse_dtype
from ._assignment.expressions import Expression
from ._assignment.grammar import parse_map
from ._assignment.matching import Options, resolve
from ._assignment.policies import parse_policy
from ._assignment.problems import unused_entry
from ._assignment.values import Assignment, Gap
from ._checkpoint import Checkpoint, PathLike, open_checkpoint
from ._demands import plan_reading
from ._errors import AssignmentError, UnsupportedError
from ._inverse import InversePlan
from ._manifest import Manifest
from ._placing import Placer, choose_shardings
from ._plan import RestorePlan, make_plan
from ._report import is_terminal, render, render_html
from ._scheduling import assemble
from ._targets import Target, take_apart

# Keys of mappings are invariant, so that each kind of mapping is a case of its own.
AssignmentMap = (
    Mapping[str, Any]
    | Mapping[Expression, Any]
    | Mapping[str | Expression, Any]
    | Iterable[tuple[str | Expression, Any]]
)
DEFAULT_MAX_IN_FLIGHT_BYTES = 1 << 30
# What `on_missing` and `on_mismatch` take.
PolicyOption = Literal["error", "keep"] | Sequence[tuple[str, Literal["error", "keep"]]]


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """A plan together with all that running it takes.

    Attributes:
        plan: What fills each leaf.
        target: The target, taken apart.
        manifest: Where the tensors lie.
        shardings: Where loaded leaves live; those without an opinion are left out.
        is_forced: Whether casts may change values.
        verify: Whether CRC-32C checksums are compared.
    """

    plan: RestorePlan
    target: Target
    manifest: Manifest
    shardings: Mapping[str, jax.sharding.Sharding]
    is_forced: bool
    verify: bool


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
        """Entries of the map that fill no leaf, as they read."""
        return self._job.plan.unused_rules

    @property
    def nbytes(self) -> int:
        """Bytes of the checkpoint that a restore needs."""
        return self._job.plan.nbytes

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values, ready for `json.dumps`."""
        return self._job.plan.to_dict()

    def restore(self) -> Any:
        """Reads, checks, casts and places what the plan names.

        Returns:
            The target with `jax.Array`s in the leaves that are loaded and all other
            leaves as they are: a new tree, or the same `nnx.Module`, updated.

        Raises:
            DamagedError: A data file is missing or short, or a checksum differs.
            AssignmentError: A value does not fit the leaf's dtype.
            UnsupportedError: JAX is tracing.
            ReadError: The operating system refuses.
        """
        return self._job.target.rebuild(restore_leaves(self._job))

    def inverse(self) -> InversePlan:
        """Turns the plan round: what each tensor is, in terms of leaves.

        `tf2flax.save_checkpoint(..., plan=plan)` writes what it says.

        Returns:
            The inverse: print it, look at `.assignments`, `.copied`, `.left_out`.

        Raises:
            AssignmentError: Some of it cannot be inverted; every leaf is named.
        """
        return InversePlan(self._job.plan, self._job.manifest)

    def __str__(self) -> str:
        """The plan as a report for people; in colour where that is a terminal."""
        return render(self._job.plan, is_coloured=is_terminal())

    def __format__(self, spec: str) -> str:
        """The plan as a report without colours, wherever it goes."""
        return format(render(self._job.plan), spec)

    def _repr_html_(self) -> str:
        """The plan as a report for notebooks."""
        return render_html(self._job.plan)

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
    sharding: jax.sharding.Sharding | None = None,
    on_missing: PolicyOption = "error",
    on_mismatch: PolicyOption = "error",
    verify: bool = True,
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
        dtype: None gives leaves their own dtype where the cast is safe; "exact"
            refuses every cast; "checkpoint" keeps the file's; a dtype forces it.
        sharding: Where all loaded leaves live; None leaves that to the target.
        on_missing: What happens to a leaf that an entry reaches and whose source is not
            in the checkpoint: "error", "keep", or pairs of a regex, searched in the
            leaf's name, and one of these; the first that matches counts, else "error".
        on_mismatch: The same for a source of another shape, or a dtype that cannot be
            cast.
        verify: Whether a restore compares CRC-32C checksums.

    Returns:
        The plan: print it, look at it, `restore()` it.

    Raises:
        CheckpointNotFoundError: There is no checkpoint at the path.
        AssignmentError: Map, options and target do not fit; every problem is listed.
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
    job = make_job(
        checkpoint,
        assignment_map,
        target,
        aliases=aliases,
        dtype=dtype,
        sharding=sharding,
        on_missing=on_missing,
        on_mismatch=on_mismatch,
        verify=verify,
    )
    check_kept(job)
    return Plan(job)


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
    if isinstance(jnp.zeros(()), Tracer):
        raise _tracing_error()
    refuse_tracers(trees)


def refuse_tracers(tree: Any) -> None:
    """Raises where a tree holds traced arrays.

    Args:
        tree: The tree.

    Raises:
        UnsupportedError: It does.
    """
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree)):
        raise _tracing_error()


def _tracing_error() -> UnsupportedError:
    return UnsupportedError(
        "A restore was called while JAX is tracing (jit, grad, vmap, eval_shape). "
        "Restore outside, and pass the arrays in."
    )


def make_job(
    checkpoint: PathLike | Checkpoint,
    assignment_map: AssignmentMap,
    target: Any,
    *,
    aliases: Mapping[str, tuple[str, ...]] | None,
    dtype: Any,
    sharding: jax.sharding.Sharding | None,
    on_missing: PolicyOption,
    on_mismatch: PolicyOption,
    verify: bool,
) -> Job:
    """Makes a plan whose kept leaves may still be abstract.

    Args:
        checkpoint: As `plan`.
        assignment_map: As `plan`.
        target: As `plan`.
        aliases: As `plan`.
        dtype: As `plan`.
        sharding: As `plan`.
        on_missing: As `plan`.
        on_mismatch: As `plan`.
        verify: As `plan`.

    Returns:
        The plan, and all that running it takes.

    Raises:
        CheckpointError: As `plan`.
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = open_checkpoint(checkpoint)
    manifest = checkpoint.manifest
    policy = parse_dtype(dtype)
    _check_aliases(aliases)
    parts = take_apart(target)
    refuse_tracers([slot.value for slot in parts.slots])
    resolution = resolve(
        parse_map(assignment_map, parts.identify),
        parts.leaves,
        manifest,
        Options(
            aliases=aliases,
            dtype=policy,
            x64=is_x64(),
            on_missing=parse_policy("on_missing", on_missing),
            on_mismatch=parse_policy("on_mismatch", on_mismatch),
        ),
    )
    return Job(
        plan=make_plan(resolution, manifest),
        target=parts,
        manifest=manifest,
        shardings=choose_shardings(resolution.assignments, parts.slots, sharding),
        is_forced=isinstance(policy, np.dtype),
        verify=verify,
    )


def restore_leaves(job: Job) -> dict[str, jax.Array]:
    """Reads, checks, casts and places what a plan names.

    Args:
        job: The plan and what running it takes.

    Returns:
        One array for each leaf that is loaded.

    Raises:
        CheckpointError: As `Plan.restore`.
    """
    refuse_tracing()
    _check_width(job)
    assignments = job.plan.assignments
    placer = Placer(assignments, job.shardings)
    reading = plan_reading(assignments, placer.boxes(), job.manifest)
    assemble(
        reading,
        placer.deliver,
        is_forced=job.is_forced,
        verify=job.verify,
        max_in_flight_bytes=DEFAULT_MAX_IN_FLIGHT_BYTES,
        advance=lambda nbytes, name: None,
    )
    return placer.arrays


def check_kept(job: Job) -> None:
    """Refuses leaves that would stay abstract.

    Args:
        job: The plan and its target.

    Raises:
        AssignmentError: A leaf that no entry fills is a `jax.ShapeDtypeStruct`.
    """
    kept = set(job.plan.resolution.kept)
    abstract = [
        slot.leaf.name
        for slot in job.target.slots
        if slot.is_abstract and slot.leaf.name in kept
    ]
    abstract += job.target.abstract_states
    if abstract:
        shown = ", ".join(f"`{name}`" for name in abstract[:20])
        more = f" and {len(abstract) - 20} more" if len(abstract) > 20 else ""
        said = (
            f"No entry fills these leaves ({len(abstract)}), which would stay "
            f"jax.ShapeDtypeStruct: {shown}{more}. Add entries for them, or "
            "initialise them with tf2flax.warm_start."
        )
        if unused := said_of_unused(job):
            said = f"{said} Entries that reach no leaf: {unused}"
        raise AssignmentError(said)


def said_of_unused(job: Job) -> str:
    """Names the entries of a map that reach no leaf, each with the nearest scope.

    Args:
        job: The plan and its target.

    Returns:
        One sentence for each; "" where every entry reaches one.
    """
    names = [name for leaf in job.target.leaves for name in leaf.names]
    entries = job.plan.resolution.unused_entries
    return "; ".join(unused_entry(entry, names) for entry in entries)


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
                f"Option aliases: expected a tuple of names for {name!r}, "
                f"got {others!r}."
            )
