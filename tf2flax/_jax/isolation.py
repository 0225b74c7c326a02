"""JAX as if the caller had set nothing: for computations of the library itself.

Under `jax.set_mesh` a computation refuses arrays on other devices; switches for
debugging move results elsewhere, or refuse values that a checkpoint has; a guard of
transfers cannot tell which ones are meant.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping
from typing import Any, Final

import jax
import numpy as np
from jax.sharding import Mesh, Sharding

_NO_MESH: Final = Mesh(np.array(None, object), ())
# The guards of transfers to devices, by the option that has the level in force.
_GUARDS: Final[
    Mapping[str, Callable[[str], contextlib.AbstractContextManager[None]]]
] = {
    "jax_transfer_guard_host_to_device": jax.transfer_guard_host_to_device,
    "jax_transfer_guard_device_to_device": jax.transfer_guard_device_to_device,
}


def ambient_mesh() -> Mesh | None:
    """The mesh of `jax.set_mesh`; None without one."""
    try:
        mesh = jax.sharding.get_mesh()
    except ValueError:  # JAX is tracing
        return None
    return None if mesh.empty else mesh


@contextlib.contextmanager
def without_mesh() -> Generator[None]:
    """Runs a block outside of the caller's mesh.

    Yields:
        Nothing.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ValueError):  # jax.vmap lets nobody change the mesh
            stack.enter_context(jax.set_mesh(_NO_MESH))
        yield


@contextlib.contextmanager
def isolated() -> Generator[None]:
    """Runs a block outside of the caller's mesh and debugging switches.

    Yields:
        Nothing.
    """
    # Without jit, `out_shardings` would be ignored. Moving the NaNs of a checkpoint
    # computes none.
    with (
        without_mesh(),
        jax.disable_jit(False),
        jax.debug_nans(False),
        jax.debug_infs(False),
    ):
        yield


@contextlib.contextmanager
def explicit_transfers() -> Generator[None]:
    """Makes transfers to devices in a block explicit, as `jax.device_put` is.

    So `jax.transfer_guard("disallow")` lets them pass. Guards of explicit transfers
    stay in force.

    Yields:
        Nothing.
    """
    with contextlib.ExitStack() as stack:
        for name, guard in _GUARDS.items():
            level: Any = getattr(jax.config, name, None)
            if not str(level).endswith("_explicit"):
                stack.enter_context(guard("allow"))
        yield


def put_shards(
    shape: tuple[int, ...],
    sharding: Sharding,
    shard: Callable[[Any], np.ndarray],
    dtype: np.dtype,
) -> jax.Array:
    """Puts each shard of an array on its device; compares nothing between processes.

    Args:
        shape: Shape of the array.
        sharding: Where it lives.
        shard: Gives a shard by its index, as JAX writes it.
        dtype: Its dtype.

    Returns:
        The array, which has no shards here where no device of this process has any.
    """
    if not sharding.addressable_devices:
        # JAX would ask for the values of arrays that other processes have alone.
        return jax.make_array_from_single_device_arrays(
            shape, sharding, [], dtype=dtype
        )
    with explicit_transfers():
        return jax.make_array_from_callback(shape, sharding, shard, dtype=dtype)
