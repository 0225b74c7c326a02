"""Arrays of JAX that are to be saved: checked first, fetched when they are written.

Never imports JAX: who has an array of JAX has imported it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from tf2flax._base.errors import AssignmentError, UnsupportedError
from tf2flax._base.memory import empty
from tf2flax._base.values import TensorSpec

from .new_tensors import stored_dtype


def is_jax_array(value: Any) -> bool:
    """True for an array of JAX, also for one that is being traced."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(value, jax.Array)


def prepare_jax_array(
    name: str, value: Any
) -> tuple[TensorSpec, Callable[[], np.ndarray]]:
    """Checks an array of JAX.

    Args:
        name: Name of the leaf, for messages.
        value: The array.

    Returns:
        Shape and dtype, and what fetches the elements; of an array that spans
        processes, it fetches those of this one.

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
    spec = TensorSpec(value.shape, stored_dtype(name, dtype))
    return spec, lambda: fetch_array(jax, value)


def fetch_array(jax: Any, value: Any) -> np.ndarray:
    """Copies an array of JAX to the host, shard by shard, each once."""
    # By index, so that one replica of each shard is left.
    shards = {
        tuple((axis.start, axis.stop) for axis in shard.index): shard
        for shard in value.addressable_shards
    }
    if len(shards) == 1:
        return fetch_shard(jax, next(iter(shards.values())))
    out = empty(value.shape, value.dtype)
    for shard in shards.values():
        out[shard.index] = fetch_shard(jax, shard)
    return out


def fetch_shard(jax: Any, shard: Any) -> np.ndarray:
    """Copies a shard to the host, unless it is there."""
    # An array keeps its copy on the host once it was asked for. This array of the same
    # buffer is dropped at once, and with it the copy.
    data = shard.data
    passing = jax.make_array_from_single_device_arrays(
        data.shape, data.sharding, [data]
    )
    return jax.device_get(passing)
