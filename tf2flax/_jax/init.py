"""`init_from_checkpoint` and `warm_start`: the whole job in one call.

Nothing is decided here: maps are resolved below, plans are run below, and an
initialisation is traced below.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX and Flax leave many of their types unknown; what leaves this file is annotated.

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar, Unpack

import jax
from jax.sharding import Sharding

from tf2flax._assignment.language.grammar import FrozenMap, check_map, freeze_map
from tf2flax._checkpoint.checkpoint import Checkpoint
from tf2flax._checkpoint.opening import open_checkpoint
from tf2flax._checkpoint.state import PathLike

from .empty_targets import check_init_function
from .growth import merge_grown
from .lending import held
from .meshes import Device, devices_of
from .options import (
    AssignmentMap,
    CheckedOptions,
    RestoreOptions,
    check_options,
    takes_options,
)
from .restore import (
    Job,
    check_filled,
    check_kept,
    make_job,
    refuse_tracing,
    run_job,
    take_target,
)
from .shardings import expected_shardings
from .targets import take_apart
from .traced_init import TracedInit, reachable_rngs

P = ParamSpec("P")
T = TypeVar("T")


@takes_options
def init_from_checkpoint(
    checkpoint: PathLike | Checkpoint | Mapping[str, Any],
    assignment_map: AssignmentMap,
    target: Any,
    **options: Unpack[RestoreOptions],
) -> Any:
    """Loads tensors of a checkpoint into a target, as TensorFlow's function does.

    Args:
        checkpoint: A path, an open checkpoint, or a flat mapping of names to arrays.
        assignment_map: Checkpoint names or scopes -> names, scopes or leaves of the
            target, or lists of the parts of a partitioned leaf. A dict, or pairs;
            plain entries apply in ascending order of their keys. Keys may be
            expressions (`tf2flax.src`), keys and values may have captures; the entry
            that says most of a leaf's name fills it: docs/maps.md.
        target: A pytree, linen variables, an `nnx.State` or an `nnx.Module`.
        **options: As `tf2flax.plan` describes them; `mesh` is not an AbstractMesh.

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
        >>> checkpoint = {"bert/pooler/kernel": jax.numpy.ones((32, 32))}  # or a path
        >>> kernel = jax.ShapeDtypeStruct((32, 32), "float32")
        >>> params = tf2flax.init_from_checkpoint(
        ...     checkpoint,
        ...     {"bert/pooler/": "params/pooler/"},
        ...     {"params": {"pooler": {"kernel": kernel}}},
        ... )
        >>> params["params"]["pooler"]["kernel"].shape
        (32, 32)

    Source: tensorflow/python/training/checkpoint_utils.py.
    """
    refuse_tracing()
    checked = check_options("init_from_checkpoint", options, assignment_map)
    parts = take_target(target)

    def make() -> Job:
        job = make_job(checkpoint, assignment_map, parts, checked)
        check_kept(job)
        check_filled(job)
        return job

    job, arrays = run_job(make, lambda: expected_shardings(parts.slots, checked))
    return parts.rebuild(job.with_own_elements(arrays))


@takes_options
def warm_start(
    init_fn: Callable[P, T],
    checkpoint: PathLike | Checkpoint | Mapping[str, Any],
    assignment_map: AssignmentMap,
    **options: Unpack[RestoreOptions],
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
        **options: As `tf2flax.plan` describes them; `mesh` is not an AbstractMesh, and
            `sharding` is also for leaves that are initialised (they have no
            `.sources`).

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
        ...     {"pooler/kernel": jax.numpy.ones((32, 32))},  # or a path
        ...     {"pooler/kernel": "params/kernel"},
        ... )
        >>> variables = init(jax.random.key(0), jax.numpy.ones((1, 32)))
        >>> sorted(variables["params"])
        ['bias', 'kernel']
    """
    check_init_function(init_fn)
    checked = check_options("warm_start", options, assignment_map)
    opened = open_checkpoint(checkpoint)
    frozen = freeze_map(assignment_map)
    check_map(frozen)

    @functools.wraps(init_fn)
    def warm(*args: P.args, **kwargs: P.kwargs) -> T:
        rngs = reachable_rngs(init_fn, args, kwargs)
        with held(rngs):  # the next call must see the state that this one leaves
            refuse_tracing((args, kwargs))
            traced = TracedInit(init_fn, args, kwargs, rngs)
            arrays, others = _run(traced, opened, frozen, checked)
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
    options: CheckedOptions,
) -> tuple[dict[int, jax.Array], dict[str, jax.Array]]:
    """Reads what the map names and initialises the rest.

    Returns:
        Every output, by number; and by name leaves that are no outputs, such as numbers
        in a configuration that is returned along with the parameters.
    """
    parts = take_target(traced.abstract, "What the init function gives")

    def make() -> Job:
        job = make_job(checkpoint, assignment_map, parts, options, is_initialised=True)
        check_filled(job)
        return job

    job, loaded = run_job(make, lambda: expected_shardings(parts.slots, options))
    numbers = {id(output): i for i, output in enumerate(traced.outputs)}
    names = {slot.leaf.name: numbers.get(id(slot.value)) for slot in parts.slots}
    leaves = {i: name for name, i in names.items() if i is not None}
    arrays: dict[int, jax.Array] = {}
    others: dict[str, jax.Array] = {}
    # Grown leaves are initialised as well: they keep some elements of that.
    grown = {a.leaf for a in job.grown if names[a.leaf] is not None}
    for name, array in loaded.items():
        number = names[name]
        if number is None:
            others[name] = array
        elif name not in grown:
            arrays[number] = array
    # One computation for each order of devices; XLA drops what its outputs do not need.
    wanted: dict[tuple[Device, ...] | None, dict[int, Sharding | None]] = {}
    for i in range(len(traced.outputs)):
        if i not in arrays:
            sharding = job.shardings.get(leaves.get(i, ""))
            devices = None if sharding is None else tuple(devices_of(sharding))
            wanted.setdefault(devices, {})[i] = sharding
    for devices, shardings in wanted.items():
        places = None if devices is None else list(shardings.values())
        arrays |= traced.compute(list(shardings), places)
    if grown:
        kept = {name: arrays[i] for i, name in leaves.items() if name in grown}
        merged = merge_grown(
            [a for a in job.grown if a.leaf in grown], loaded, kept, job.manifest
        )
        arrays |= {i: merged[name] for i, name in leaves.items() if name in grown}
    return arrays, dict(job.with_own_elements(others))
