"""Leaves that have grown: what the checkpoint has, between the leaf's own elements.

    src("emb").pad(((0, 2), (0, 0)), fill="keep")      loaded   kept     result
                                                       a b c    . . .   a b c
                                                       d e f    . . .   d e f
                                                       1 1 1    u v w   u v w
                                                       1 1 1    x y z   x y z

Both lie on the same devices, so that every shard is put together where it lives, and
nothing is compared or moved between processes.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX and Flax leave many of their types unknown; what leaves this file is annotated.

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, Sharding

from tf2flax._assignment.language.nodes import Padded, TakenRows
from tf2flax._assignment.layouts.lowering import lower
from tf2flax._assignment.resolution.assignments import Assignment
from tf2flax._base.dtypes import cast_checked
from tf2flax._base.errors import AssignmentError
from tf2flax._base.manifest import Manifest

from .isolation import explicit_transfers, isolated, put_shards
from .meshes import with_auto_axes
from .restore import Job

# For some axes of a leaf, True where the checkpoint has elements: an element is loaded
# where all of them are True.
Loaded = Mapping[int, np.ndarray]


def with_own_elements(
    job: Job, arrays: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """Puts what grown leaves of a target keep into what was loaded.

    Args:
        job: The job that loaded it.
        arrays: What was loaded, by leaf; perhaps of some leaves alone.

    Returns:
        The same leaves.
    """
    grown = [assignment for assignment in job.grown if assignment.leaf in arrays]
    kept = {slot.leaf.name: slot.value for slot in job.target.slots} if grown else {}
    return {**arrays, **merge_grown(grown, arrays, kept, job.manifest)}


def merge_grown(
    assignments: Iterable[Assignment],
    loaded: Mapping[str, jax.Array],
    kept: Mapping[str, Any],
    manifest: Manifest,
) -> dict[str, jax.Array]:
    """Puts a leaf's own elements where the checkpoint has none.

    Args:
        assignments: The leaves that have grown.
        loaded: What was loaded of each, in the leaf's shape.
        kept: What each leaf holds itself.
        manifest: The checkpoint.

    Returns:
        The leaves, placed as the loaded ones are.
    """
    merged: dict[str, jax.Array] = {}
    for assignment in assignments:
        name = assignment.leaf
        places = loaded_places(assignment, manifest)
        if all(places_of_axis.all() for places_of_axis in places.values()):
            merged[name] = loaded[name]
            continue
        _check_own_elements(assignment, kept[name], loaded[name].dtype, places)
        with isolated(), explicit_transfers():
            merged[name] = _merge(loaded[name], kept[name], places)
    return merged


def _check_own_elements(
    assignment: Assignment, kept: Any, dtype: np.dtype, places: Loaded
) -> None:
    """Refuses elements that a leaf keeps and that its new dtype cannot hold.

    Raises:
        AssignmentError: There are such elements; the option forces no dtype.
    """
    is_here = not isinstance(kept, jax.Array) or kept.is_fully_addressable
    if not is_here or assignment.is_forced:
        return
    host = np.asarray(kept)
    if host.dtype == dtype:
        return
    is_loaded = np.ones(host.shape, np.bool_)
    for axis, along in places.items():
        shape = [-1 if number == axis else 1 for number in range(host.ndim)]
        is_loaded &= along.reshape(shape)
    try:
        cast_checked(host[~is_loaded], dtype, is_forced=False)
    except AssignmentError as error:
        raise AssignmentError(
            f'Leaf `{assignment.leaf}`: elements of its own, which fill="keep" '
            f"keeps, do not fit: {error}"
        ) from error


def loaded_places(assignment: Assignment, manifest: Manifest) -> Loaded:
    """Finds out where the checkpoint has elements of a leaf.

    Args:
        assignment: The leaf, whose expression keeps elements.
        manifest: The checkpoint.
    """
    expression = assignment.expression
    assert isinstance(expression, Padded | TakenRows)
    operand = lower(expression.operand, manifest.spec)
    places: dict[int, np.ndarray] = {}
    if isinstance(expression, TakenRows):
        axis = expression.axis % len(operand.shape)
        places[axis] = np.array(expression.numbers) >= 0
    else:
        pairs = zip(expression.widths, operand.shape, strict=True)
        for axis, ((before, after), length) in enumerate(pairs):
            number = np.arange(before + length + after)
            places[axis] = (number >= before) & (number < before + length)
    if assignment.box is None:
        return places
    # A part of a partitioned variable.
    starts, stops = assignment.box.starts, assignment.box.stops
    return {axis: p[starts[axis] : stops[axis]] for axis, p in places.items()}


def _merge(loaded: jax.Array, kept: Any, places: Loaded) -> jax.Array:
    """Puts one leaf together."""
    if not loaded.committed:
        array = _as_array(kept, loaded.dtype)
        return _merge_shard(loaded, array, places, (slice(None),) * loaded.ndim)
    kept = _placed(kept, loaded.dtype, loaded.sharding)
    shards = {shard.device: shard.data for shard in kept.addressable_shards}
    merged = [
        _merge_shard(shard.data, shards[shard.device], places, shard.index)
        for shard in loaded.addressable_shards
    ]
    return jax.make_array_from_single_device_arrays(
        loaded.shape, loaded.sharding, merged, dtype=loaded.dtype
    )


def _merge_shard(
    loaded: jax.Array, kept: jax.Array, places: Loaded, index: Sequence[slice]
) -> jax.Array:
    """Puts one shard together on its device."""
    axes = tuple(places)
    masks = [places[axis][index[axis]] for axis in axes]
    # As integers, since XLA changes NaNs of small floats where it computes.
    bits = _as_bits(loaded), _as_bits(kept)
    result = _select(*bits, masks, axes)
    return _as_dtype(result, loaded.dtype)


@functools.partial(jax.jit, static_argnums=3)
def _select(
    loaded: jax.Array, kept: jax.Array, masks: Sequence[Any], axes: tuple[int, ...]
) -> jax.Array:
    is_loaded: Any = True
    for mask, axis in zip(masks, axes, strict=True):
        is_loaded &= jax.lax.broadcast_in_dim(mask, loaded.shape, (axis,))
    return jnp.where(is_loaded, loaded, kept)


def _carrier(dtype: Any) -> np.dtype | None:
    """The integers in which floats of at most two bytes travel; None for others."""
    if not jnp.issubdtype(dtype, jnp.floating):
        return None
    width = jnp.finfo(dtype).bits
    return np.dtype(f"u{width // 8}") if width in (8, 16) else None


@jax.jit
def _as_bits(array: jax.Array) -> jax.Array:
    carrier = _carrier(array.dtype)
    return array if carrier is None else jax.lax.bitcast_convert_type(array, carrier)


@functools.partial(jax.jit, static_argnums=1)
def _as_dtype(array: jax.Array, dtype: np.dtype) -> jax.Array:
    if array.dtype == dtype:
        return array
    return jax.lax.bitcast_convert_type(array, dtype)


def _as_array(kept: Any, dtype: np.dtype) -> jax.Array:
    """A leaf's own value in the dtype that it gets."""
    if isinstance(kept, jax.Array):
        return kept if kept.dtype == dtype else kept.astype(dtype)
    return jax.device_put(np.asarray(kept).astype(dtype, copy=False))


def _placed(kept: Any, dtype: np.dtype, sharding: Sharding) -> jax.Array:
    """A leaf's own value on the devices where it will live."""
    if not isinstance(kept, jax.Array):
        host = np.asarray(kept).astype(dtype, copy=False)
        return put_shards(host.shape, sharding, lambda index: host[index], dtype)
    array = _as_array(kept, dtype)
    if array.sharding.is_equivalent_to(sharding, array.ndim):
        return array
    if array.is_fully_addressable and sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    if array.is_fully_addressable:
        host = np.asarray(array)
        return put_shards(host.shape, sharding, lambda index: host[index], dtype)
    # Between processes XLA moves it; all of them are here, with the same leaves.
    plain = (
        with_auto_axes(sharding) if isinstance(sharding, NamedSharding) else sharding
    )
    return jax.jit(_same, out_shardings=plain)(array)


def _same(array: jax.Array) -> jax.Array:
    return array
