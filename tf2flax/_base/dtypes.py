"""Which dtype a leaf gets, and casts that change no value beyond rounding.

A value fits a dtype where rounding alone makes it a value of that dtype. Many of the
narrow dtypes have no infinity, some no NaN, zero or sign.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import typing
from typing import Any, Final, Literal

import ml_dtypes
import numpy as np

from .caller import show_value
from .errors import AssignmentError
from .memory import empty
from .values import STORED_DTYPES, StoredDtype

# What holds for one leaf. None: its own dtype where the cast is safe; "exact": no cast,
# as TensorFlow; "checkpoint": the file's dtype; a dtype: that one, whatever it does.
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
    """Checks the `dtype` option, where it is the same for all leaves.

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
    except Exception as error:  # TypeError, ValueError, and whatever objects raise
        raise AssignmentError(
            f"Option dtype: expected None, 'exact', 'checkpoint' or a dtype, got "
            f"{show_value(dtype)}."
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
        policy: What the `dtype` option says about it.
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
            f"force the cast with dtype={dtype.name!r}, or of some leaves alone with "
            f"dtype=[(regex, {dtype.name!r})]."
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
        What does not fit: numbers beyond the range, and infinities, NaNs, zeros and
        signs that the dtype lacks; None where all do. Rounding of floats is no misfit.
    """
    if array.dtype == out.dtype:
        out[...] = array
        return None
    if is_forced:
        out[...] = forced_cast(array, out.dtype)
        return None
    with np.errstate(all="ignore"):
        try:
            np.copyto(out, array, casting="unsafe")
        except TypeError:  # no direct cast
            out[...] = _converted(array, out.dtype)
        bad = _misfits(array, out)
    if not bad.any():
        return None
    first = tuple(int(i) for i in np.argwhere(bad)[0])
    place = tuple(a + b for a, b in zip(origin, first, strict=True))
    return Misfits(int(bad.sum()), place, str(array[first]))


def _misfits(array: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Where values have become other ones, in a cast within one kind."""
    kind = kind_of(out.dtype)
    if kind == "int":
        return _outside(array, out.dtype)
    if kind == "complex":
        # Each part by itself: one that is infinite must not hide the other.
        in_real = _misfits(np.real(array), np.real(out))
        return in_real | _misfits(np.imag(array), np.imag(out))
    limits = _limits_of(out.dtype)
    bad = np.isfinite(array) & ~np.isfinite(out)
    if not limits.has_infinity:
        bad |= np.isinf(array)
    if not limits.has_nan:
        bad |= np.isnan(array)
    if limits.overflow is not None:
        bad |= np.abs(array.astype(np.float64)) >= limits.overflow
    return bad


@dataclasses.dataclass(frozen=True, slots=True)
class _Limits:
    """What a dtype of floating point cannot hold, found by trying it.

    Attributes:
        has_infinity: Whether an infinity stays one.
        has_nan: Whether a NaN stays one.
        overflow: The least number that is beyond the largest value even when rounded,
            where casts give that largest value instead (saturate); else None.
    """

    has_infinity: bool
    has_nan: bool
    overflow: float | None


@functools.cache
def _limits_of(dtype: np.dtype) -> _Limits:
    with np.errstate(all="ignore"):
        infinity, nan, huge = np.array([np.inf, np.nan, 1e300]).astype(dtype)
        saturates = bool(np.isfinite(huge)) and float(huge) < 1e300
    overflow = None
    if saturates:
        largest = float(huge)
        info = typing.cast("Any", ml_dtypes.finfo(dtype))
        step = math.ldexp(1.0, math.frexp(largest)[1] - 1 - int(info.nmant))
        # Halfway to the next value, which the dtype lacks, rounding goes up.
        overflow = largest + step / 2
    return _Limits(bool(np.isinf(infinity)), bool(np.isnan(nan)), overflow)


def cast_checked(array: np.ndarray, dtype: np.dtype, *, is_forced: bool) -> np.ndarray:
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

    What is out of range becomes what NumPy and ml_dtypes make of it: integers wrap
    around, floats become infinite or NaN, and the largest value where the dtype has
    neither (float4_e2m1fn).

    Args:
        array: The array.
        dtype: The dtype to give.

    Returns:
        A new array.
    """
    with np.errstate(all="ignore"):
        if kind_of(array.dtype) == "complex" != kind_of(dtype):
            array = np.real(array)
        return _converted(array, dtype)


def _converted(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Casts an array, by way of a wider dtype where ml_dtypes has no direct cast."""
    if dtype == np.uint32 and kind_of(array.dtype) == "float":
        # Out of range, NumPy's result would depend on how the array lies in memory.
        array = array.astype(np.int64)
    try:
        return array.astype(dtype)
    except TypeError:  # both are narrow, so that the wider dtype holds every value
        is_integers = kind_of(array.dtype) == kind_of(dtype) == "int"
        return array.astype(np.int8 if is_integers else np.float32).astype(dtype)


def _outside(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Where integers do not fit a dtype; compared as Python integers, which are exact.

    Bounds outside the array's own range would overflow it, so they are clipped first.
    """
    wanted, own = ml_dtypes.iinfo(dtype), ml_dtypes.iinfo(array.dtype)
    low, high = max(int(wanted.min), int(own.min)), min(int(wanted.max), int(own.max))
    if array.dtype.itemsize == 1:
        array = array.astype(np.int16)  # ml_dtypes' narrow integers compare poorly
    return (array < low) | (array > high)
