"""Which dtype a leaf gets, and casts that change no value beyond rounding."""

from __future__ import annotations

import dataclasses
import functools
from typing import Final, Literal

import ml_dtypes
import numpy as np

from tf2flax._errors import AssignmentError
from tf2flax._memory import empty
from tf2flax._specs import STORED_DTYPES, StoredDtype

# None: the target's dtype where the cast is safe; "exact": no cast, as TensorFlow;
# "checkpoint": the file's dtype; a dtype: that one.
DtypePolicy = None | Literal["exact", "checkpoint"] | np.dtype

# What JAX can hold at all: what a tensor can be, strings excepted.
_JAX_DTYPES: Final = frozenset(
    dtype.numpy for dtype in STORED_DTYPES.values() if dtype.numpy.kind != "O"
)
# What JAX narrows without a word while jax_enable_x64 is off.
WIDE_DTYPES: Final = frozenset(
    map(np.dtype, ("int64", "uint64", "float64", "complex128"))
)


def parse_dtype(dtype: object) -> DtypePolicy:
    """Checks the `dtype` option.

    Args:
        dtype: None, "exact", "checkpoint", or anything numpy takes for a dtype.

    Returns:
        The policy.

    Raises:
        AssignmentError: It is none of these.
    """
    if dtype is None:
        return None
    if isinstance(dtype, str) and dtype in ("exact", "checkpoint"):
        return dtype
    try:
        parsed = np.dtype(getattr(ml_dtypes, dtype) if _is_ml_name(dtype) else dtype)  # pyright: ignore[reportArgumentType, reportCallIssue]
    except TypeError as error:
        raise AssignmentError(
            f"Option dtype: expected None, 'exact', 'checkpoint' or a dtype, got "
            f"{dtype!r}."
        ) from error
    if kind_of(parsed) is None:
        raise AssignmentError(
            f"Option dtype: expected a dtype of numbers, got {parsed}."
        )
    return parsed.newbyteorder("=")


def _is_ml_name(dtype: object) -> bool:
    return isinstance(dtype, str) and isinstance(getattr(ml_dtypes, dtype, None), type)


@functools.cache
def kind_of(dtype: np.dtype) -> str | None:
    """Sorts a dtype of numbers.

    Args:
        dtype: Any numpy dtype, those of ml_dtypes included.

    Returns:
        "bool", "int", "float" or "complex"; None for anything else.
    """
    name = dtype.name
    if dtype.kind == "b":
        return "bool"
    if dtype.kind == "c":
        return "complex"
    if dtype.kind in "iu" or name in ("int2", "uint2", "int4", "uint4"):
        return "int"
    if dtype.kind == "f" or name == "bfloat16" or name.startswith(("float8", "float4")):
        return "float"
    return None


def result_dtype(
    stored: StoredDtype, leaf: np.dtype, policy: DtypePolicy, *, x64: bool
) -> np.dtype:
    """Chooses the dtype that a leaf gets.

    Args:
        stored: Dtype of the tensor.
        leaf: Dtype of the leaf.
        policy: The `dtype` option.
        x64: Whether JAX holds 64-bit dtypes.

    Returns:
        The dtype of the restored array.

    Raises:
        AssignmentError: The policy refuses the cast, or JAX would narrow the result.
    """
    check_holds_numbers(stored)
    if isinstance(policy, np.dtype):
        result = policy
    elif policy == "checkpoint":
        result = stored.numpy
    elif policy == "exact" and stored.numpy != leaf:
        raise AssignmentError(
            f"expected dtype {leaf}, got {stored.name}, and dtype='exact' refuses to "
            "cast. Give the leaf the tensor's dtype, or leave dtype out."
        )
    elif kind_of(stored.numpy) != kind_of(leaf):
        raise AssignmentError(
            f"expected dtype {leaf}, got {stored.name}; a cast from one to the other "
            f"is not safe. Force it with dtype={leaf.name!r}, or keep the tensor's "
            "with dtype='checkpoint'."
        )
    else:
        result = leaf
    if result not in _JAX_DTYPES:
        raise AssignmentError(
            f"JAX has no dtype {result}. Give the leaf one that it has, or name one "
            "with option dtype."
        )
    if result in WIDE_DTYPES and not x64:
        raise AssignmentError(
            f"JAX would narrow {result} without a word, because jax_enable_x64 is off. "
            "Switch it on with jax.config.update('jax_enable_x64', True), or choose a "
            "32-bit dtype for the leaf."
        )
    return result


def check_holds_numbers(stored: StoredDtype) -> None:
    """Refuses tensors of strings and of what holds no array.

    Args:
        stored: Dtype of the tensor.

    Raises:
        AssignmentError: It is one of these.
    """
    if not stored.is_readable or stored.is_string:
        raise AssignmentError(
            f"the tensor is of dtype {stored.name}, which fills no leaf. "
            "Leave it out of the map."
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Misfits:
    """Values that a cast would make others, found in a part of a leaf.

    Attributes:
        count: How many there are.
        first: Where the first of them is, in the leaf.
        value: What it is, as text.
    """

    count: int
    first: tuple[int, ...]
    value: str

    def joined(self, other: Misfits) -> Misfits:
        """Those of two parts together."""
        first = min(self, other, key=lambda one: one.first)
        return dataclasses.replace(first, count=self.count + other.count)

    def said(self, size: int, dtype: np.dtype) -> str:
        """What is wrong, and what to do.

        Args:
            size: Elements of the leaf.
            dtype: The dtype that they do not fit.

        Returns:
            Two sentences.
        """
        return (
            f"{self.count} of {size} values do not fit {dtype}, the first is "
            f"{self.value} at {list(self.first)}. Give the leaf a wider dtype, or "
            f"force the cast with dtype={dtype.name!r}."
        )


def cast_into(
    array: np.ndarray, out: np.ndarray, *, is_forced: bool, origin: tuple[int, ...]
) -> Misfits | None:
    """Casts an array into another one; finds values that become other ones.

    Args:
        array: What was read.
        out: Array of the same shape, of the dtype to give.
        is_forced: Whether the user asked for this very dtype, whatever it does.
        origin: Where the array's first element lies in its leaf.

    Returns:
        What does not fit: finite floats that become infinite (or NaN), and integers out
        of range; None where all do. Rounding of floats is no misfit.
    """
    if array.dtype == out.dtype:
        out[...] = array
        return None
    if is_forced:
        out[...] = forced_cast(array, out.dtype)
        return None
    with np.errstate(all="ignore"):
        np.copyto(out, array, casting="unsafe")
        if kind_of(out.dtype) == "int":
            bad = _outside(array, out.dtype)
        else:
            bad = np.isfinite(array) & ~np.isfinite(out)
            bad |= np.isinf(array) & ~np.isinf(out)
    if not bad.any():
        return None
    first = tuple(int(i) for i in np.argwhere(bad)[0])
    place = tuple(a + b for a, b in zip(origin, first, strict=True))
    return Misfits(int(bad.sum()), place, str(array[first]))


def cast(array: np.ndarray, dtype: np.dtype, *, is_forced: bool) -> np.ndarray:
    """Casts an array; refuses where a value would become another one.

    Args:
        array: What was read.
        dtype: The dtype to give.
        is_forced: Whether the user asked for this very dtype, whatever it does.

    Returns:
        The array itself where it has the dtype already, otherwise a new one.

    Raises:
        AssignmentError: Values do not fit, as `cast_into` finds.
    """
    if array.dtype == dtype:
        return array
    out = empty(array.shape, dtype)
    origin = (0,) * array.ndim
    misfits = cast_into(array, out, is_forced=is_forced, origin=origin)
    if misfits:
        raise AssignmentError(misfits.said(array.size, dtype))
    return out


def forced_cast(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Casts an array, whatever that does to the values; real parts of complex ones.

    Args:
        array: The array.
        dtype: The dtype to give.

    Returns:
        A new array.
    """
    with np.errstate(all="ignore"):
        if kind_of(array.dtype) == "complex" != kind_of(dtype):
            array = np.real(array)
        return array.astype(dtype)


def _outside(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Where integers do not fit a dtype; compared as Python integers, which are exact.

    Bounds outside the array's own range would overflow it, so they are clipped first.
    """
    wanted, own = ml_dtypes.iinfo(dtype), ml_dtypes.iinfo(array.dtype)
    low, high = max(int(wanted.min), int(own.min)), min(int(wanted.max), int(own.max))
    if array.dtype.itemsize == 1:
        array = array.astype(np.int16)  # ml_dtypes' narrow integers compare poorly
    return (array < low) | (array > high)
