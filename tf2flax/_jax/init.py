"""`init_from_checkpoint` and `warm_start`: the whole job in one call.

Nothing is decided here: maps are resolved below, plans are run below, and an
initialisation is traced below.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX and Flax leave many of their types unknown; what leaves this file is annotated.

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, ParamSpec, TypeVar

import jax
from jax.sharding import AbstractMesh, Mesh, Sharding

from tf2flax._assignment.language.aliases import FLAX_ALIASES
from tf2flax._assignment.language.grammar import FrozenMap, check_map, freeze_map
from tf2flax._base.progress import ProgressFunction
from tf2flax._checkpoint.checkpoint import Checkpoint
from tf2flax._checkpoint.opening import open_checkpoint
from tf2flax._checkpoint.state import PathLike
from tf2flax._restoring.tied import describe_ties, warn_of_ties

from .agreement import all_or_none
from .empty_targets import check_init_function, take_target
from .lending import held
from .meshes import Device, devices_of, participants
from .restore import (
    MAX_IN_FLIGHT_BYTES,
    AssignmentMap,
    JobOptions,
    PolicyOption,
    check_filled,
    check_kept,
    common_work,
    make_job,
    read_leaves,
    refuse_tracing,
    warn_of_leftovers,
)
from .shardings import LogicalRules, ShardingOption, expected_shardings
from .targets import take_apart
from .traced_init import TracedInit, reachable_rngs

P = ParamSpec("P")
T = TypeVar("T")


def init_from_checkpoint(
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
) -> Any:
    """Loads tensors of a checkpoint into a target, as TensorFlow's function does.

    Args:
        checkpoint: A path, or an open checkpoint.
        assignment_map: Checkpoint names or scopes -> names, scopes or leaves of the
            target, or lists of the parts of a partitioned leaf. A dict, or pairs;
            plain entries apply in ascending order of their keys. Keys may be
            expressions (`tf2flax.src`), keys and values may have captures; the entry
            that says most of a leaf's name fills it: docs/maps.md.
        target: A pytree, linen variables, an `nnx.State` or an `nnx.Module`.
        aliases: Leaf name -> checkpoint names that may stand in for it within scopes;
            None is exactly TensorFlow.
        dtype: None gives leaves their own dtype where the cast is safe; "exact"
            refuses every cast; "checkpoint" keeps the file's; a dtype forces it on
            leaves of its own kind; pairs of a regex and one of these force any. As
            `tf2flax.plan`.
        sharding: Where loaded leaves live; as `tf2flax.plan`.
        mesh: As `tf2flax.plan`; not an AbstractMesh.
        logical_axis_rules: As `tf2flax.plan`.
        strategy: As `tf2flax.plan`.
        on_missing: As `tf2flax.plan`.
        on_mismatch: As `tf2flax.plan`.
        on_uneven: As `tf2flax.plan`.
        verify: Whether CRC-32C checksums are compared.
        max_in_flight_bytes: As `tf2flax.plan`.
        progress: True draws a bar on stderr; a function is called with a
            `tf2flax.Progress`.

    Returns:
        The target with `jax.Array`s in the leaves that are loaded and the other leaves
        as they are: a new tree; an `nnx.Module` is updated in place and returned.
        UserWarnings are as those of `Plan.restore`.
        Where anything is raised, nothing of the target has changed.

    Raises:
        CheckpointNotFoundError: There is no checkpoint at the path.
        AssignmentError: Map, options and target do not fit; every problem is listed.
            The map has entries, and none of them fills a leaf; the target has no leaf.
        DamagedError: The checkpoint is malformed, or a checksum differs.
        UnsupportedError: Another kind of checkpoint, or JAX is tracing.
        ReadError: The operating system refuses, or another process failed.

    Examples:
        >>> import jax, tf2flax
        >>> kernel = jax.ShapeDtypeStruct((32, 32), "float32")
        >>> params = tf2flax.init_from_checkpoint(
        ...     "tests/data/bert/model.ckpt",
        ...     {"bert/pooler/": "params/pooler/"},
        ...     {"params": {"pooler": {"dense": {"kernel": kernel}}}},
        ... )
        >>> params["params"]["pooler"]["dense"]["kernel"].shape
        (32, 32)

    Source: tensorflow/python/training/checkpoint_utils.py.
    """
    refuse_tracing()
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
    parts = take_target(target)
    expected = expected_shardings(parts.slots, options.placement)
    with all_or_none(participants(expected)) as agreed:
        job = make_job(checkpoint, assignment_map, parts, options)
        check_kept(job)
        check_filled(job)
        agreed.set_participants(participants(job.shardings.values()))
        placer = read_leaves(job, progress)
        differing = describe_ties(job.plan.resolution, job.manifest)
        agreed.require_same(common_work(job, placer))
    placer.redistribute()
    warn_of_leftovers(job)
    warn_of_ties(differing)
    return job.target.rebuild(placer.arrays)


def warm_start(
    init_fn: Callable[P, T],
    checkpoint: PathLike | Checkpoint,
    assignment_map: AssignmentMap,
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
) -> Callable[P, T]:
    """Makes an init function that takes what it can from a checkpoint.

    Leaves that the checkpoint supplies are never initialised; the others equal those
    of `jax.jit(init_fn)` bit for bit. Those that live sharded equal those of
    `jax.jit(init_fn, out_shardings=...)`, which where `init_fn` sums up along a sharded
    dimension may differ from it in the last bits. Array and PRNG-key arguments are
    traced; every other argument reaches `init_fn` as the Python value it is.

    Args:
        init_fn: A linen module's `init`, or a function that builds an `nnx.Module`.
        checkpoint: A path, or an open checkpoint; opened at once.
        assignment_map: As for `init_from_checkpoint`; copied at once, so that
            what becomes of it before the function is called has no effect.
        aliases: As for `init_from_checkpoint`.
        dtype: As for `init_from_checkpoint`.
        sharding: Where leaves live, those that are initialised included (they have no
            `.sources`); as `tf2flax.plan`.
        mesh: As `tf2flax.plan`; not an AbstractMesh.
        logical_axis_rules: As `tf2flax.plan`.
        strategy: As `tf2flax.plan`.
        on_missing: As `tf2flax.plan`.
        on_mismatch: As `tf2flax.plan`.
        on_uneven: As `tf2flax.plan`.
        verify: Whether CRC-32C checksums are compared.
        max_in_flight_bytes: As `tf2flax.plan`.
        progress: As for `init_from_checkpoint`.

    Returns:
        A function with `init_fn`'s signature. It reads tensors when it is called, and
        leaves any `nnx.Rngs` in the state that `init_fn` alone would leave; in threads,
        calls that share one go one after the other.

    Raises:
        AssignmentError: At once: `init_fn` is a module, or nothing that can be called;
            keys, values or captures of the map are wrong whatever the target is.
        CheckpointError: At once: there is no checkpoint, or it is malformed. When
            called: as `init_from_checkpoint`. Under `jax.distributed` other processes
            hear of the latter alone.

    Examples:
        >>> import jax, tf2flax
        >>> from flax import linen as nn
        >>> init = tf2flax.warm_start(
        ...     nn.Dense(32).init,
        ...     "tests/data/bert/model.ckpt",
        ...     {"bert/pooler/dense/kernel": "params/kernel"},
        ... )
        >>> variables = init(jax.random.key(0), jax.numpy.ones((1, 32)))
        >>> sorted(variables["params"])
        ['bias', 'kernel']
    """
    check_init_function(init_fn)
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
    opened = (
        checkpoint
        if isinstance(checkpoint, Checkpoint)
        else open_checkpoint(checkpoint)
    )
    frozen = freeze_map(assignment_map)
    check_map(frozen)

    @functools.wraps(init_fn)
    def warm(*args: P.args, **kwargs: P.kwargs) -> T:
        rngs = reachable_rngs(init_fn, args, kwargs)
        with held(rngs):  # the next call must see the state that this one leaves
            refuse_tracing((args, kwargs))
            traced = TracedInit(init_fn, args, kwargs, rngs)
            arrays, others = _run(traced, opened, frozen, options)
            result = traced.assemble([arrays[i] for i in range(len(traced.outputs))])
            if others:
                result = take_apart(result).rebuild(others)
            traced.advance_rngs(arrays)
            return result

    return warm


def _run(
    traced: TracedInit,
    checkpoint: Checkpoint,
    assignment_map: FrozenMap,
    options: JobOptions,
) -> tuple[dict[int, jax.Array], dict[str, jax.Array]]:
    """Reads what the map names and initialises the rest.

    Returns:
        Every output, by number; and by name leaves that are no outputs, such as numbers
        in a configuration that is returned along with the parameters.
    """
    parts = take_target(traced.abstract, "What the init function gives")
    expected = expected_shardings(parts.slots, options.placement)
    with all_or_none(participants(expected)) as agreed:
        job = make_job(checkpoint, assignment_map, parts, options, is_initialised=True)
        check_filled(job)
        agreed.set_participants(participants(job.shardings.values()))
        placer = read_leaves(job, options.progress)
        differing = describe_ties(job.plan.resolution, job.manifest)
        agreed.require_same(common_work(job, placer))
    placer.redistribute()
    warn_of_leftovers(job)
    warn_of_ties(differing)
    numbers = {id(output): i for i, output in enumerate(traced.outputs)}
    names = {slot.leaf.name: numbers.get(id(slot.value)) for slot in parts.slots}
    leaves = {i: name for name, i in names.items() if i is not None}
    arrays: dict[int, jax.Array] = {}
    others: dict[str, jax.Array] = {}
    for name, array in placer.arrays.items():
        number = names[name]
        if number is None:
            others[name] = array
        else:
            arrays[number] = array
    # One computation for each order of devices; XLA drops what a part does not need.
    wanted: dict[tuple[Device, ...] | None, dict[int, Sharding | None]] = {}
    for i in range(len(traced.outputs)):
        if i not in arrays:
            sharding = job.shardings.get(leaves.get(i, ""))
            devices = None if sharding is None else tuple(devices_of(sharding))
            wanted.setdefault(devices, {})[i] = sharding
    for devices, shardings in wanted.items():
        own = None if devices is None else list(shardings.values())
        arrays |= traced.compute(list(shardings), own)
    return arrays, others
