"""A leaf that comes onto its devices portion by portion, into memory that waits there.

So the host never holds all of a leaf, and a device never holds it twice.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX leaves many of its types unknown; what leaves this file is annotated.

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding, SingleDeviceSharding

from tf2flax._base.memory import view_at
from tf2flax._base.values import Box

from .isolation import isolated
from .meshes import box_of


class PortionedLeaf:
    """A leaf on its way, of which some portions are there."""

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype,
        sharding: Sharding | None,
        boxes: Sequence[Box],
    ) -> None:
        """Makes room on the devices.

        Args:
            shape: Shape of the leaf there; zeros where no portion comes.
            dtype: Its dtype there.
            sharding: Where it lives; None leaves that to JAX.
            boxes: The boxes that will come, each once.
        """
        self._shape = shape
        self._dtype = dtype
        self._sharding = sharding
        self._left = sum(box.size for box in boxes)
        indices: Mapping[Any, Any] = {None: None}
        if sharding is not None:
            indices = sharding.addressable_devices_indices_map(shape)
        self._shards = {device: box_of(i, shape) for device, i in indices.items()}
        with isolated():
            self._buffers = {
                device: _zeros(box.shape, dtype, _place(device))
                for device, box in self._shards.items()
            }

    @property
    def is_whole(self) -> bool:
        """True if all portions are there."""
        return not self._left

    def take(self, arrays: Mapping[Box, np.ndarray]) -> list[jax.Array]:
        """Copies a portion into the shards that share it.

        Args:
            arrays: Arrays by box of the leaf.

        Returns:
            What is on its way; host memory is free again when it is ready.
        """
        moving: list[jax.Array] = []
        for box, array in arrays.items():
            self._left -= box.size
            for device, shard in self._shards.items():
                shared = box.intersection(shard)
                if shared is None:
                    continue
                part = view_at(array, shared.within(box)).view(self._dtype)
                starts = np.array(shared.relative_to(shard).starts, np.int32)
                with isolated():
                    portion, corner = jax.device_put([part, starts], _place(device))
                    buffer = _updated(self._buffers[device], portion, corner)
                self._buffers[device] = buffer
                moving.append(portion)
        return moving

    def array(self) -> jax.Array:
        """The leaf, once it is whole."""
        buffers = list(self._buffers.values())
        if self._sharding is None:
            return buffers[0]
        return jax.make_array_from_single_device_arrays(
            self._shape, self._sharding, buffers, dtype=self._dtype
        )


def _place(device: Any) -> Sharding | None:
    return None if device is None else SingleDeviceSharding(device)


def _zeros(
    shape: tuple[int, ...], dtype: np.dtype, place: Sharding | None
) -> jax.Array:
    """Zeros, of which one alone comes from the host."""
    return jax.lax.broadcast(jax.device_put(np.zeros((), dtype), place), shape)


@functools.partial(jax.jit, donate_argnums=0)
def _updated(buffer: jax.Array, portion: jax.Array, starts: jax.Array) -> jax.Array:
    """Writes a portion into a buffer, where it lies."""
    return jax.lax.dynamic_update_slice(buffer, portion, list(starts))
