"""Arrays, scalars and stored tensors -> tensors to write.

Each is checked and named; nothing is fetched from a device or read from a file.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from tf2flax._base.errors import AssignmentError
from tf2flax._base.memory import view_at
from tf2flax._base.values import STRING, STRING_KINDS, Box, TensorSpec
from tf2flax._checkpoint.mapping import refuse_masked, strings_as_bytes
from tf2flax._checkpoint.stored_tensor import StoredTensor

from .device_arrays import fetch_array, is_jax_array, prepare_jax_array
from .new_tensors import NewTensor, stored_dtype, whole_tensor
from .slicing import copy_tensor


def is_flat_mapping(value: Any) -> bool:
    """True if a value maps names to arrays, one level deep."""
    if not isinstance(value, Mapping):
        return False
    flat = cast("Mapping[Any, Any]", value)
    return all(
        isinstance(name, str) and _is_array(member) for name, member in flat.items()
    )


def _is_array(value: Any) -> bool:
    if isinstance(value, (np.ndarray, np.generic, StoredTensor, bytes, str)):
        return True
    return isinstance(value, (bool, int, float, complex)) or is_jax_array(value)


def prepare_tensor(name: str, value: Any) -> NewTensor:
    """Checks one value that is to be saved under a name.

    Args:
        name: The name.
        value: An array, a scalar, text, bytes, or a `StoredTensor`.

    Raises:
        AssignmentError: The name or the value cannot be saved.
        UnsupportedError: No checkpoint holds the dtype; or the array is being traced.
    """
    if isinstance(value, StoredTensor):
        return copy_tensor(name, value)
    if is_jax_array(value):
        spec = prepare_jax_array(name, value)
        if not value.is_fully_addressable:
            # Here, since only jobs of several processes have such arrays.
            from .sharded import sharded_tensor

            return sharded_tensor(name, spec, value)
        fetch = functools.partial(fetch_array, value)
        whole = functools.partial(fetch, Box.whole(spec.shape))
        return whole_tensor(name, spec, whole, fetch)
    spec, array = _prepare_host_array(name, value)
    whole = Box.whole(spec.shape)
    return whole_tensor(
        name, spec, lambda: array, lambda box: view_at(array, box.within(whole))
    )


def _prepare_host_array(name: str, value: Any) -> tuple[TensorSpec, np.ndarray]:
    if not _is_array(value):
        raise AssignmentError(_describe_no_array(name, value))
    refuse_masked(f"Leaf `{name}`", value)
    array: np.ndarray[Any, np.dtype[Any]]
    # As `object`, since NumPy would cut zero bytes off the end of a byte string.
    array = np.asarray(value, object if isinstance(value, bytes) else None)
    if array.dtype.kind in STRING_KINDS:
        strings = strings_as_bytes(f"Leaf `{name}`", array)
        return TensorSpec(array.shape, STRING), strings
    return TensorSpec(array.shape, stored_dtype(name, array.dtype)), array


def _describe_no_array(name: str, value: object) -> str:
    """States what stands in place of an array, and what to give instead."""
    kind = type(value).__name__
    if not name:
        return (
            f"Expected arrays to save, got a {kind}. Give a mapping of names to "
            "arrays, a tree of arrays (`variables` of a linen Module) or an nnx.Module."
        )
    fix = "Leave it out of the tree."
    if kind == "ShapeDtypeStruct":
        fix = "Initialise or restore it first, or leave it out of the tree."
    return f"Leaf `{name}` is not an array but a {kind}. {fix}"


def array_of_scalar(
    name: str, value: complex, dtype: np.dtype
) -> np.ndarray[Any, np.dtype[Any]]:
    """A Python scalar of a tree as an array.

    Args:
        name: Name of the leaf, for the message.
        value: The scalar.
        dtype: What JAX makes of it; 64 bits are used where it does not fit.

    Raises:
        AssignmentError: It is an integer that does not fit 64 bits either.
    """
    try:
        with np.errstate(all="ignore"):
            array = np.asarray(value, dtype)
        fits = bool(np.isfinite(array)) or not np.isfinite(value)
        return array if fits else np.asarray(value)
    except OverflowError:
        array = np.asarray(value)
    if array.dtype == object:
        raise AssignmentError(
            f"Leaf `{name}` is an integer of {value.bit_length()} bits, which no "  # pyright: ignore[reportAttributeAccessIssue]
            "checkpoint holds. Save it as text, or as a float."
        )
    return array
