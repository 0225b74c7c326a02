"""An initialisation traced once: the shapes it gives, and any part of it on demand.

XLA drops whatever an asked-for part does not need, so that leaves which a checkpoint
supplies cost neither time nor memory. Reads no checkpoint.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX and Flax leave many of their types unknown; what leaves this file is annotated.

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
from flax import nnx
from flax.errors import TraceContextError
from jax.errors import UnexpectedTracerError
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tf2flax._base.errors import UnsupportedError

from .empty_targets import check_init_result
from .isolation import (
    ambient_mesh,
    explicit_transfers,
    isolated,
    put_shards,
    without_mesh,
)
from .lending import find_rngs, lent_to_trace
from .meshes import devices_of
from .outputs import Structure, flatten_output, is_nnx, is_traceable, left_behind
from .trees import check_depth
from .variables import set_all


class TracedInit:
    """One call of an init function, traced.

    Attributes:
        abstract: What it gives, with `jax.ShapeDtypeStruct` in place of arrays.
    """

    def __init__(
        self,
        init_fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        rngs: Sequence[nnx.Rngs | nnx.RngStream] | None = None,
    ) -> None:
        """Traces a call.

        Array and PRNG-key arguments are traced; all others reach `init_fn` as they are.

        Args:
            init_fn: The function.
            args: Its positional arguments.
            kwargs: Its keyword arguments.
            rngs: What `reachable_rngs` finds, where that is known.

        Raises:
            UnsupportedError: It changes an NNX object that cannot be found from here,
                or keeps an array of the trace where it cannot be found.
        """
        flat, treedef = jax.tree.flatten((args, dict(kwargs)), is_leaf=is_nnx)
        self._arrays = list(filter(is_traceable, flat))
        self._rngs = find_rngs((init_fn, flat)) if rngs is None else rngs
        self._rng_slots: list[tuple[nnx.Variable[Any], int]] = []
        self._structure: Structure | None = None
        self._is_consumed = False

        def traced(*arrays: jax.Array) -> list[Any]:
            remaining = iter(arrays)
            filled = [next(remaining) if is_traceable(x) else x for x in flat]
            traced_args, traced_kwargs = treedef.unflatten(filled)
            with lent_to_trace(self._rngs) as changed_state:
                output = init_fn(*traced_args, **traced_kwargs)
                leaves, self._structure = flatten_output(output)
                check_init_result(self._structure.foreign)
                changed = changed_state()
            first = len(leaves)
            self._rng_slots = [
                (variable, first + i) for i, (variable, _) in enumerate(changed)
            ]
            return [*leaves, *(value for _, value in changed)]

        trace = _trace(traced, self._arrays)
        self._function = jax.extend.core.jaxpr_as_fun(trace.jaxpr)
        self.outputs: tuple[jax.ShapeDtypeStruct, ...] = tuple(
            jax.ShapeDtypeStruct(info.shape, info.dtype, sharding=_explicit(info))
            for info in jax.tree.leaves(trace.out_info)
        )
        self.abstract: Any = self.assemble(self.outputs)
        if (place := left_behind(self.abstract)) is not None:
            raise UnsupportedError(
                f"The init function leaves an array that JAX is tracing in `{place}`, "
                "where a restore cannot put its value. Make it an nnx.Variable "
                "or an attribute of the nnx.Module itself, and return the module."
            )

    def lower(
        self,
        wanted: Sequence[int],
        shardings: Sequence[jax.sharding.Sharding | None] | None,
    ) -> Callable[..., list[jax.Array]]:
        """Makes a jitted function of some outputs alone.

        Args:
            wanted: Numbers of the outputs.
            shardings: Where each lives; None leaves all of that to JAX.

        Returns:
            The function, of the array arguments.
        """

        def compute(*arrays: jax.Array) -> list[jax.Array]:
            outputs = self._function(*arrays)
            return [outputs[i] for i in wanted]

        if shardings is None:
            return jax.jit(compute)
        return jax.jit(compute, out_shardings=list(shardings))

    def compute(
        self,
        wanted: Sequence[int],
        shardings: Sequence[jax.sharding.Sharding | None] | None = None,
    ) -> dict[int, jax.Array]:
        """Computes some outputs, and nothing that they do not need.

        Args:
            wanted: Numbers of the outputs.
            shardings: Where each lives, all on the same devices; None leaves that to
                JAX.

        Returns:
            The arrays, by number.
        """
        if not wanted:
            return {}
        with contextlib.ExitStack() as stack:
            stack.enter_context(jax.disable_jit(False))
            stack.enter_context(explicit_transfers())
            if self._is_consumed:  # the same keys, for other outputs
                stack.enter_context(jax.debug_key_reuse(False))
            self._is_consumed = True
            return dict(zip(wanted, self._compute(wanted, shardings), strict=True))

    def _compute(
        self,
        wanted: Sequence[int],
        shardings: Sequence[jax.sharding.Sharding | None] | None,
    ) -> list[jax.Array]:
        mesh = ambient_mesh()
        beside = shardings[0] if shardings else None
        if mesh is None or beside is None or _is_over(mesh, beside):
            arguments = [_beside(array, beside) for array in self._arrays]
            return self.lower(wanted, shardings)(*arguments)
        everywhere = NamedSharding(mesh, PartitionSpec())
        if _processes(everywhere) >= _processes(beside):
            # What was traced under a mesh may mean nothing on other devices.
            arguments = [_beside(array, everywhere) for array in self._arrays]
            arrays = self.lower(wanted, [everywhere] * len(wanted))(*arguments)
            return list(map(_moved, arrays, shardings or ()))
        with without_mesh():
            arguments = [_beside(array, beside) for array in self._arrays]
            try:
                return self.lower(wanted, shardings)(*arguments)
            except ValueError as error:
                raise UnsupportedError(
                    "Leaves are to be initialised on devices of processes of which the "
                    "mesh of jax.set_mesh has none, and what init_fn does under that "
                    "mesh cannot be done elsewhere. Call it under a mesh with devices "
                    f"of all these processes. JAX says: {error}"
                ) from error

    def assemble(self, outputs: Sequence[Any]) -> Any:
        """Puts outputs into the structure that `init_fn` gives.

        Args:
            outputs: One value for each output, in order.

        Returns:
            The tree or the module.
        """
        assert self._structure is not None  # set by the trace
        count = len(outputs) - len(self._rng_slots)
        return self._structure.assemble(outputs[:count])

    def advance_rngs(self, arrays: Mapping[int, jax.Array]) -> None:
        """Leaves the caller's `nnx.Rngs` as `init_fn` alone would have left them.

        Args:
            arrays: All outputs that `compute` gives, by number.
        """
        set_all([(variable, arrays[i]) for variable, i in self._rng_slots], None)


def _trace(function: Callable[..., Any], arrays: Sequence[Any]) -> Any:
    """Traces a function, and says what an init function must not do.

    Raises:
        UnsupportedError: It does that.
    """
    try:
        with jax.disable_jit(False):  # it is a trace whatever is being debugged
            return jax.jit(function).trace(*arrays)
    except TraceContextError as error:
        raise UnsupportedError(
            "The init function changes an NNX object that it neither takes as an "
            f"argument nor closes over directly: {error} Pass the object (an "
            "nnx.Rngs, say) as an argument."
        ) from error
    except UnexpectedTracerError as error:
        raise UnsupportedError(
            "The init function uses an array of a transformation of JAX that has "
            f"ended: {str(error).partition('. ')[0]}. In an nnx.Module, make it an "
            "nnx.Variable."
        ) from error


def _explicit(info: Any) -> jax.sharding.Sharding | None:
    """The sharding that an output's type says, as it does over Explicit axes."""
    sharding = info.sharding
    if not isinstance(sharding, NamedSharding):
        return None
    return sharding if AxisType.Explicit in sharding.mesh.axis_types else None


def _beside(array: Any, sharding: jax.sharding.Sharding | None) -> Any:
    """An argument where a computation for a sharding can use it.

    One that the caller put on other devices would be refused by JAX.
    """
    if (
        sharding is None
        or not isinstance(array, jax.Array)
        or not array.committed
        or array.sharding.device_set == sharding.device_set
    ):
        return array
    if not (array.is_fully_addressable and sharding.is_fully_addressable):
        is_here = _processes(array.sharding) >= _processes(sharding)
        with isolated():
            return _host_copy(array) if is_here and array.is_fully_replicated else array
    is_named = isinstance(sharding, NamedSharding)
    everywhere = NamedSharding(sharding.mesh, PartitionSpec()) if is_named else sharding
    with isolated():
        return jax.device_put(array, everywhere)


def _is_over(mesh: Mesh, sharding: jax.sharding.Sharding) -> bool:
    """True if a sharding is over the devices of a mesh, in its order."""
    return list(devices_of(sharding)) == list(mesh.devices.flat)


def _processes(sharding: jax.sharding.Sharding) -> set[int]:
    return {device.process_index for device in sharding.device_set}


def _host_copy(array: jax.Array) -> Any:
    """A replicated array as this process has it, on no device in particular."""
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        data = _host_copy(jax.random.key_data(array))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(array))
    return jax.device_get(array.addressable_data(0))


def _moved(array: jax.Array, sharding: jax.sharding.Sharding | None) -> jax.Array:
    """An array that every device holds, on other devices."""
    if sharding is None:
        return array
    if array.is_fully_addressable and sharding.is_fully_addressable:
        with isolated():  # between orders of the same devices JAX computes
            return jax.device_put(array, sharding)
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        data = _moved(jax.random.key_data(array), sharding)
        with isolated():
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(array))
    host = jax.device_get(array.addressable_data(0))
    return put_shards(array.shape, sharding, lambda index: host[index], array.dtype)


def reachable_rngs(
    init_fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> list[nnx.Rngs | nnx.RngStream]:
    """Finds the `nnx.Rngs` that a call of an init function can use.

    Args:
        init_fn: The function.
        args: Its positional arguments.
        kwargs: Its keyword arguments.

    Returns:
        Each once, and each of their streams.
    """
    check_depth((args, kwargs), "an argument")
    return find_rngs((init_fn, jax.tree.leaves((args, dict(kwargs)), is_leaf=is_nnx)))
