"""Arrays of JAX that are to be saved: checked first, fetched when they are written.

Imports JAX only to fetch: who has an array of JAX has imported it.
"""

from __future__ import annotations

import sys
from typing import Any, cast

import numpy as np

from tf2flax._base.errors import AssignmentError, UnsupportedError
from tf2flax._base.memory import empty, view_at
from tf2flax._base.values import Box, TensorSpec

from .new_tensors import stored_dtype


def is_jax_array(value: Any) -> bool:
    """True for an array of JAX, also for one that is being traced."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(value, jax.Array)


def prepare_jax_array(name: str, value: Any) -> TensorSpec:
    """Checks an array of JAX; fetches nothing.

    Args:
        name: Name of the leaf, for messages.
        value: The array.

    Returns:
        Shape and dtype.

    Raises:
        AssignmentError: The array was deleted, or holds keys of random numbers.
        UnsupportedError: It is being traced, or no checkpoint holds the dtype.
    """
    jax = sys.modules["jax"]
    if isinstance(value, jax.core.Tracer):
        raise UnsupportedError(
            f"Leaf `{name}` is being traced by JAX. Save outside of jax.jit and of "
            "every other transformation."
        )
    if value.is_deleted():
        raise AssignmentError(
            f"Leaf `{name}` was deleted or donated. Save before it is."
        )
    if not isinstance(value.dtype, np.dtype):
        raise AssignmentError(
            f"Leaf `{name}` is of dtype {value.dtype}. Save jax.random.key_data of it, "
            "or leave it out."
        )
    dtype = cast("np.dtype[Any]", value.dtype)
    return TensorSpec(value.shape, stored_dtype(name, dtype))


def fetch_array(value: Any, box: Box) -> np.ndarray:
    """Copies a box of an array of JAX to the host, each element once.

        shards   | 0 1 2 | 3 4 5 |      box 2:5      fetched   | 2 | 3 4 |

    Args:
        value: The array, all of whose shards this process has.
        box: The box.
    """
    # Here, since it imports JAX.
    from tf2flax._jax.meshes import box_of

    if not box.size:
        return empty(box.shape, value.dtype)
    # By box, so that one replica of each shard is left.
    shards = {
        box_of(shard.index, value.shape): shard for shard in value.addressable_shards
    }
    parts = {
        place: part for place in shards if (part := place.intersection(box)) is not None
    }
    if len(parts) == 1:  # shards tile the array
        ((place, part),) = parts.items()
        return fetch_part(shards[place], part.relative_to(place))
    out = empty(box.shape, value.dtype)
    for place, part in parts.items():
        elements = fetch_part(shards[place], part.relative_to(place))
        view_at(out, part.within(box))[...] = elements
    return out


def fetch_part(shard: Any, box: Box) -> np.ndarray:
    """Copies a box of a shard to the host, unless it is there.

    Whatever is saved of arrays of JAX is fetched here.

    Args:
        shard: The shard.
        box: A box of it, which has elements.
    """
    jax, data = sys.modules["jax"], shard.data
    whole = Box.whole(data.shape)
    if box == whole or _is_on_host(data):
        # An array keeps its copy on the host once it was asked for. This array of the
        # same buffer is dropped at once, and with it the copy.
        passing = jax.make_array_from_single_device_arrays(
            data.shape, data.sharding, [data]
        )
        return view_at(jax.device_get(passing), box.within(whole))
    # Here, since it imports JAX.
    from tf2flax._jax.isolation import explicit_transfers, isolated

    starts = np.array(box.starts, np.int32)
    with isolated(), explicit_transfers():
        part = jax.lax.dynamic_slice(data, jax.device_put(starts), box.shape)
        return jax.device_get(part)


def _is_on_host(data: Any) -> bool:
    """True if a shard is in memory of the host, where a slice of it is no copy."""
    # Here, since it imports JAX.
    from tf2flax._jax.transfer import is_on_host

    return is_on_host(data.sharding)
