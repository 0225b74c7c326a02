"""One leaf of a target: what the engine sees of it, and where it should live.

Takes no target apart, and changes nothing.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX and Flax leave many of their types unknown; what leaves this file is annotated.

from __future__ import annotations

import dataclasses
import numbers
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from flax.core import meta
from jax.core import Tracer

from tf2flax._assignment.resolution.assignments import Leaf
from tf2flax._base.dtypes import kind_of

from .variables import inner_value, is_reference

# Python scalars become what JAX makes of them.
_SCALARS: Final = (bool, int, float, complex)


@dataclasses.dataclass(frozen=True, slots=True)
class Partitioning:
    """Flax's partitioning metadata of a leaf.

    Attributes:
        names: Of every axis, a mesh axis or a logical name, several, or None.
        mesh: The mesh that the leaf names itself, if any.
        rules: What logical names mean, if the leaf says so itself.
    """

    names: tuple[Any, ...]
    mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh | None
    rules: tuple[tuple[str, Any], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Slot:
    """One leaf of a target.

    Attributes:
        leaf: What the engine sees of it.
        value: The array, scalar or ShapeDtypeStruct that stands there.
        owners: Objects of the user that identify it: the value, its box or Variable.
        sharding: Sharding that the target gives the array; None for no opinion.
        partitioning: Flax's metadata about that, if there is any.
    """

    leaf: Leaf
    value: Any
    owners: tuple[Any, ...]
    sharding: jax.sharding.Sharding | None
    partitioning: Partitioning | None = None

    @property
    def holds_numbers(self) -> bool:
        """True if a tensor could fill it."""
        # A Module may have fields called `shape` and `dtype`, but it is not an array.
        return self.leaf.dtype is not None and not isinstance(self.value, linen.Module)

    @property
    def has_place(self) -> bool:
        """True if the target says where the array should live."""
        return self.sharding is not None or self.partitioning is not None

    @property
    def is_abstract(self) -> bool:
        """True if no array stands there yet."""
        return isinstance(self.value, jax.ShapeDtypeStruct)


def is_array(value: Any) -> bool:
    """Tells whether a value is an array, or the description of one, and nothing else.

    Args:
        value: The value.

    Returns:
        True if it is.
    """
    return type(value) in (jax.ShapeDtypeStruct, np.ndarray) or isinstance(
        value, jax.Array
    )


def make_slot(names: tuple[str, ...], holder: Any, *, refusal: str = "") -> Slot:
    """Looks at what stands at a leaf.

    Args:
        names: Its names.
        holder: The array, scalar or ShapeDtypeStruct, its Variable or its box.
        refusal: Why no tensor may fill it; "" where that depends on its dtype alone.

    Returns:
        The leaf.
    """
    is_bare = is_array(holder)  # as most are: NNX takes its time to say so
    value = holder if is_bare else inner_value(holder)
    shape, dtype = _shape_and_dtype(value)
    if refusal:
        if isinstance(value, _SCALARS):
            value = np.asarray(value, dtype)  # as it is saved
        dtype = None
    owners = (holder,) if value is holder else (holder, value)
    sharding = _sharding_of(value)
    partitioning = None if is_bare else _partitioning_of(holder)
    if isinstance(partitioning, jax.sharding.Sharding):
        sharding, partitioning = sharding or partitioning, None
    leaf = Leaf(names, shape, dtype, refusal)
    return Slot(leaf, value, owners, sharding, partitioning)


def _shape_and_dtype(value: Any) -> tuple[tuple[int, ...], np.dtype | None]:
    if isinstance(value, _SCALARS) and isinstance(value, numbers.Number):
        return (), np.dtype(jnp.result_type(value))
    shape, dtype = _attribute(value, "shape"), _attribute(value, "dtype")
    if not isinstance(shape, tuple) or dtype is None:
        return (), None
    if not isinstance(dtype, np.dtype) or kind_of(dtype) is None:
        return shape, None  # a PRNG key, or an array of objects
    return shape, dtype.newbyteorder("=")


def _attribute(value: Any, name: str) -> Any:
    """An attribute of whatever stands in a tree; None where looking at it raises."""
    try:
        return getattr(value, name, None)
    except Exception:  # of a user's `__getattr__`
        return None


def _sharding_of(value: Any) -> jax.sharding.Sharding | None:
    """The sharding that a target gives a leaf; an uncommitted array gives none."""
    if isinstance(value, jax.ShapeDtypeStruct):
        return value.sharding
    if isinstance(value, jax.Array) and not isinstance(value, Tracer):
        return value.sharding if value.committed else None
    if is_reference(value) and value.sharding.num_devices > 1:
        return value.sharding
    return None


def _partitioning_of(holder: Any) -> Partitioning | jax.sharding.Sharding | None:
    """Reads the metadata of a Variable, or of a box, about its sharding."""
    while isinstance(holder, nnx.Variable):
        metadata = holder.get_metadata()
        # Flax has called it by all of these names.
        keys = ("out_sharding", "sharding_names", "sharding")
        values = (metadata.get(key) for key in keys)
        names = next((value for value in values if value is not None), None)
        if isinstance(names, jax.sharding.Sharding):
            return names
        if isinstance(names, (tuple, list, jax.sharding.PartitionSpec)):
            rules = tuple(metadata.get("sharding_rules") or ())
            return Partitioning(tuple(names), metadata.get("mesh"), rules)
        holder = holder.get_raw_value()
    if isinstance(holder, meta.Partitioned):
        rules = tuple(getattr(holder, "rules", None) or ())
        return Partitioning(tuple(holder.names), holder.mesh, rules)
    return None
