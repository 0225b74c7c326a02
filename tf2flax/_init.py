"""`init_from_checkpoint` and `warm_start`: the whole job in one call.

Nothing is decided here: maps are resolved below, plans are run below, and an
initialisation is traced below.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX and Flax leave many of their types unknown; what leaves this file is annotated.

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import jax

from ._assignment.aliases import FLAX_ALIASES
from ._checkpoint import Checkpoint, PathLike, open_checkpoint
from ._errors import AssignmentError
from ._placing import sharding_problem
from ._restore import (
    AssignmentMap,
    Job,
    PolicyOption,
    check_kept,
    make_job,
    refuse_tracing,
    restore_leaves,
    said_of_unused,
)
from ._traced_init import TracedInit

P = ParamSpec("P")
T = TypeVar("T")


def init_from_checkpoint(
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
) -> Any:
    """Loads tensors of a checkpoint into a target, as TensorFlow's function does.

    Args:
        checkpoint: A path, or an open checkpoint.
        assignment_map: Checkpoint names or scopes -> names, scopes or leaves of the
            target, or lists of the parts of a partitioned leaf. A dict, or pairs;
            entries apply in ascending order of their keys. Keys may be expressions
            (`tf2flax.src`), keys and values may have captures: docs/maps.md.
        target: A pytree, linen variables, an `nnx.State` or an `nnx.Module`.
        aliases: Leaf name -> checkpoint names that may stand in for it within scopes;
            None is exactly TensorFlow.
        dtype: None gives leaves their own dtype where the cast is safe; "exact"
            refuses every cast; "checkpoint" keeps the file's; a dtype forces it.
        sharding: Where all loaded leaves live; None leaves that to the target.
        on_missing: As `tf2flax.plan`.
        on_mismatch: As `tf2flax.plan`.
        verify: Whether CRC-32C checksums are compared.

    Returns:
        The target with `jax.Array`s in the leaves that are loaded and the other leaves
        as they are: a new tree; an `nnx.Module` is updated in place and returned.

    Raises:
        CheckpointNotFoundError: There is no checkpoint at the path.
        AssignmentError: Map, options and target do not fit; every problem is listed.
        DamagedError: The checkpoint is malformed, or a checksum differs.
        UnsupportedError: Another kind of checkpoint, or JAX is tracing.
        ReadError: The operating system refuses.

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
    arrays = restore_leaves(job)
    _warn_of_unused(job)
    return job.target.rebuild(arrays)


def warm_start(
    init_fn: Callable[P, T],
    checkpoint: PathLike | Checkpoint,
    assignment_map: AssignmentMap,
    *,
    aliases: Mapping[str, tuple[str, ...]] | None = FLAX_ALIASES,
    dtype: Any = None,
    sharding: jax.sharding.Sharding | None = None,
    on_missing: PolicyOption = "error",
    on_mismatch: PolicyOption = "error",
    verify: bool = True,
) -> Callable[P, T]:
    """Makes an init function that takes what it can from a checkpoint.

    Leaves that the checkpoint supplies are never initialised; the others equal those
    of `jax.jit(init_fn)` bit for bit. Array and PRNG-key arguments are traced; every
    other argument reaches `init_fn` as the Python value it is.

    Args:
        init_fn: A linen module's `init`, or a function that builds an `nnx.Module`.
        checkpoint: A path, or an open checkpoint; opened at once.
        assignment_map: As for `init_from_checkpoint`.
        aliases: As for `init_from_checkpoint`.
        dtype: As for `init_from_checkpoint`.
        sharding: Where all leaves live, the initialised ones too.
        on_missing: As `tf2flax.plan`.
        on_mismatch: As `tf2flax.plan`.
        verify: Whether CRC-32C checksums are compared.

    Returns:
        A function with `init_fn`'s signature. It reads tensors when it is called, and
        leaves any `nnx.Rngs` in the state that `init_fn` alone would leave.

    Raises:
        CheckpointError: When opened: there is no checkpoint, or it is malformed. When
            called: as `init_from_checkpoint`.

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
    opened = (
        checkpoint
        if isinstance(checkpoint, Checkpoint)
        else open_checkpoint(checkpoint)
    )

    @functools.wraps(init_fn)
    def warm(*args: P.args, **kwargs: P.kwargs) -> T:
        refuse_tracing((args, kwargs))
        traced = TracedInit(init_fn, args, kwargs)
        job = make_job(
            opened,
            assignment_map,
            traced.abstract,
            aliases=aliases,
            dtype=dtype,
            sharding=sharding,
            on_missing=on_missing,
            on_mismatch=on_mismatch,
            verify=verify,
        )
        arrays = _run(traced, job, sharding)
        _warn_of_unused(job)
        result = traced.assemble([arrays[i] for i in range(len(traced.outputs))])
        traced.advance_rngs(arrays)
        return result

    return warm


def _run(
    traced: TracedInit, job: Job, sharding: jax.sharding.Sharding | None
) -> dict[int, jax.Array]:
    """Reads what the plan names and initialises the rest: every output, by number."""
    numbers = {id(output): i for i, output in enumerate(traced.outputs)}
    number_of = {slot.leaf.name: numbers[id(slot.value)] for slot in job.target.slots}
    loaded = {number_of[assignment.leaf] for assignment in job.plan.assignments}
    wanted = [i for i in range(len(traced.outputs)) if i not in loaded]
    shardings = None
    if sharding is not None:
        names = {number: leaf for leaf, number in number_of.items()}
        for i in wanted:
            problem = sharding_problem(sharding, traced.outputs[i].shape)
            if problem and i in names:
                raise AssignmentError(f"Leaf `{names[i]}`: {problem}")
        shardings = [sharding if i in names else None for i in wanted]
    arrays = {number_of[leaf]: array for leaf, array in restore_leaves(job).items()}
    return arrays | traced.compute(wanted, shardings)


def _warn_of_unused(job: Job) -> None:
    """Names scope entries that reached no leaf, which TensorFlow lets pass silently."""
    if said := said_of_unused(job):
        warnings.warn(
            f"Entries of the assignment map reach no leaf of the target: {said}",
            UserWarning,
            stacklevel=3,
        )
