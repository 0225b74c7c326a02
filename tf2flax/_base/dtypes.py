"""The dtype that a leaf gets, and casts that change no value beyond rounding.

A value fits a dtype if rounding alone makes it a value of that dtype. Many of the
narrow dtypes have no infinity; some have no NaN, no zero or no sign. No dtype is
chosen here without the leaf or the user asking for it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import threading
import typing
from collections.abc import Mapping
from typing import Any, Final, Literal

import ml_dtypes
import numpy as np

from .caller import show_value, wrong_value
from .errors import AssignmentError
from .memory import empty
from .names import nearest
from .values import STORED_DTYPES, StoredDtype

# Option `dtype` for one leaf. None: the leaf's dtype if the cast is safe; "exact": no
# cast, as TensorFlow; "checkpoint": the tensor's dtype; a dtype: that one, by force.
DtypePolicy = None | Literal["exact", "checkpoint"] | np.dtype

# Dtypes of JAX's arrays: those of tensors, strings excepted.
_JAX_DTYPES: Final = frozenset(
    dtype.numpy for dtype in STORED_DTYPES.values() if dtype.numpy.kind != "O"
)
# What dtypes are called elsewhere.
_SHORT_NAMES: Final = {
    "bf16": "bfloat16",
    "f16": "float16",
    "f32": "float32",
    "f64": "float64",
    "fp16": "float16",
    "fp32": "float32",
    "fp64": "float64",
    "half": "float16",
}
# Dtypes that JAX narrows silently while jax_enable_x64 is off.
WIDE_DTYPES: Final = frozenset(
    map(np.dtype, ("int64", "uint64", "float64", "complex128"))
)


def parse_dtype(dtype: object) -> DtypePolicy:
    """Checks the `dtype` option, given as one value for all leaves.

    Args:
        dtype: None, "exact", "checkpoint", or anything that NumPy takes for a dtype.

    Raises:
        AssignmentError: It is something else.
    """
    if dtype is None:
        return None
    if isinstance(dtype, str) and dtype in ("exact", "checkpoint"):
        return dtype
    try:
        parsed = np.dtype(getattr(ml_dtypes, dtype) if _is_ml_name(dtype) else dtype)  # pyright: ignore[reportArgumentType, reportCallIssue]
    except Exception as error:  # TypeError, ValueError, or an object's own
        fact = (
            "Option dtype: expected None, 'exact', 'checkpoint' or a dtype, got "
            f"{show_value(dtype)}."
        )
        if isinstance(dtype, Mapping):
            pairs = [("kernel$", "bfloat16")]
            raise wrong_value(f"{fact} Write pairs:", pairs, ".") from error
        raise AssignmentError(f"{fact}{suggest_dtype(dtype)}") from error
    if kind_of(parsed) is None:
        raise AssignmentError(
            f"Option dtype: expected a dtype of numbers, got {parsed}."
        )
    return parsed.newbyteorder("=")


def suggest_dtype(value: object) -> str:
    """What to write instead of something that is no dtype; begins with a space."""
    if isinstance(value, str):
        short = _SHORT_NAMES.get(value.lower())
        close = (
            (short,)
            if short
            else nearest(value, sorted(dtype.name for dtype in _JAX_DTYPES), count=1)
        )
        return f" Did you mean {close[0]!r}?" if close else ""
    return ""


def _is_ml_name(dtype: object) -> bool:
    return isinstance(dtype, str) and isinstance(getattr(ml_dtypes, dtype, None), type)


@functools.cache
def kind_of(dtype: np.dtype) -> str | None:
    """Sorts a dtype of numbers.

    Args:
        dtype: Any NumPy dtype, those of ml_dtypes included.

    Returns:
        "bool", "int", "float" or "complex"; None for anything else.
    """
    # `dtype.kind` is "V" for most dtypes of ml_dtypes, so that these go by name.
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


def _describe_force(stored: np.dtype, leaf: np.dtype) -> str:
    """The way out where a cast is refused: by force only where values survive it."""
    keep = "the tensor's dtype with dtype='checkpoint'"
    kinds = ("bool", "int", "float", "complex")
    if kinds.index(str(kind_of(leaf))) < kinds.index(str(kind_of(stored))):
        return f"A cast to {leaf.name} would lose values. Keep {keep}."
    return f"Force it with dtype={leaf.name!r}, or keep {keep}."


def result_dtype(
    stored: StoredDtype, leaf: np.dtype, policy: DtypePolicy, *, x64: bool
) -> np.dtype:
    """Chooses the dtype that a leaf gets.

    Args:
        stored: Dtype of the tensor.
        leaf: Dtype of the leaf.
        policy: Option `dtype` for this leaf.
        x64: True if jax_enable_x64 is on.

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
            f"is not safe. {_describe_force(stored.numpy, leaf)}"
        )
    else:
        result = leaf
    if result not in _JAX_DTYPES:
        raise AssignmentError(
            f"JAX has no dtype {result}. Give the leaf a dtype that JAX has, or choose "
            "one with option dtype."
        )
    if result in WIDE_DTYPES and not x64:
        raise AssignmentError(
            f"JAX would narrow {result} silently, because jax_enable_x64 is off. "
            "Switch it on with jax.config.update('jax_enable_x64', True), or choose a "
            "32-bit dtype for the leaf."
        )
    return result


def check_holds_numbers(stored: StoredDtype) -> None:
    """Refuses tensors of strings, and dtypes that hold no array.

    Raises:
        AssignmentError: The dtype is one of these.
    """
    if not stored.is_readable or stored.is_string:
        raise AssignmentError(
            f"the tensor is of dtype {stored.name}, which fills no leaf. "
            "Leave it out of the map."
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Misfits:
    """Values in a box of a leaf that a cast would make other values.

    Attributes:
        count: Number of these values.
        first: Index of the first one, in the leaf.
        value: The first one, as text.
    """

    count: int
    first: tuple[int, ...]
    value: str

    def joined(self, misfits: Misfits) -> Misfits:
        """Adds the misfits of another box of the leaf."""
        first = min(self, misfits, key=lambda part: part.first)
        return dataclasses.replace(first, count=self.count + misfits.count)

    def describe(self, size: int, dtype: np.dtype) -> str:
        """Says what is wrong and what to do, in two sentences.

        Args:
            size: Number of elements of the leaf.
            dtype: The dtype that they do not fit.
        """
        return (
            f"{self.count} of {size} values do not fit {dtype}, the first is "
            f"{self.value} at {list(self.first)}. Give the leaf a wider dtype, or "
            f"force the cast with dtype={dtype.name!r}, or for some leaves only with "
            f"dtype=[(regex, {dtype.name!r})]."
        )


def cast_into(
    array: np.ndarray, out: np.ndarray, *, is_forced: bool, origin: tuple[int, ...]
) -> Misfits | None:
    """Casts an array into another one; finds values that become other values.

    Args:
        array: The array that was read.
        out: Array of the same shape and of the new dtype, which is filled.
        is_forced: True if the user asked for this dtype: then everything fits.
        origin: Index of the array's first element in its leaf.

    Returns:
        Values that do not fit: numbers beyond the range, and infinities, NaNs, zeros
        and signs that the dtype lacks; None if all fit. Rounding is not a misfit.
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
    """Compares an array before and after a cast within one kind of dtypes.

    Returns:
        True for the elements that have become another value.
    """
    kind = kind_of(out.dtype)
    if kind == "int":
        return _outside(array, out.dtype)
    if kind == "complex":
        # Each by itself: an infinite real part must not hide the imaginary one.
        in_real = _misfits(np.real(array), np.real(out))
        return in_real | _misfits(np.imag(array), np.imag(out))
    # Floats: large numbers become infinite, or the largest value if there is no
    # infinity; infinities and NaN become numbers in dtypes that lack them.
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
    """Values that a dtype of floats cannot hold, found by trying.

    Attributes:
        has_infinity: True if an infinity stays one.
        has_nan: True if a NaN stays one.
        overflow: The least number that rounding takes beyond the largest value, if
            casts give that largest value instead (saturate); else None.
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
        # From halfway to the next value on, rounding goes up, to a value that the
        # dtype lacks.
        overflow = largest + step / 2
    return _Limits(bool(np.isinf(infinity)), bool(np.isnan(nan)), overflow)


def cast_checked(array: np.ndarray, dtype: np.dtype, *, is_forced: bool) -> np.ndarray:
    """Casts an array; refuses it if a value would become another one.

    Args:
        array: The array that was read.
        dtype: The new dtype.
        is_forced: True if the user asked for this dtype: then everything fits.

    Returns:
        The array itself if it has the dtype already, else a new one.

    Raises:
        AssignmentError: Values do not fit, as `cast_into` finds.
    """
    if array.dtype == dtype:
        return array
    out = empty(array.shape, dtype)
    origin = (0,) * array.ndim
    misfits = cast_into(array, out, is_forced=is_forced, origin=origin)
    if misfits:
        raise AssignmentError(misfits.describe(array.size, dtype))
    return out


def forced_cast(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Casts an array by force; of complex numbers, real dtypes get the real parts.

    Values out of range become what NumPy and ml_dtypes make of them: integers wrap
    around; floats become infinite or NaN, or the largest value of a dtype that has
    neither (float4_e2m1fn).

    Returns:
        A new array.
    """
    with np.errstate(all="ignore"):
        if kind_of(array.dtype) == "complex" != kind_of(dtype):
            # As NumPy does, which warns; for bool as well, where NumPy does not.
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
    """Finds integers that do not fit a dtype.

    Bounds are Python integers, which are exact. Bounds outside the array's range would
    overflow its dtype in the comparison, so they are clipped to that range first.

        int8 array          -128 |------------------| 127
        uint16 values          0           |------------------...| 65535
        compared with              0       |--------| 127

    Returns:
        True for the elements outside.
    """
    info, array_info = ml_dtypes.iinfo(dtype), ml_dtypes.iinfo(array.dtype)
    low = max(int(info.min), int(array_info.min))
    high = min(int(info.max), int(array_info.max))
    if array.dtype.itemsize == 1:
        array = array.astype(
            np.int16
        )  # those of ml_dtypes compare poorly with Python's
    return (array < low) | (array > high)


class MisfitCounter:
    """Values that do not fit the dtypes of leaves, counted from several threads."""

    def __init__(self) -> None:
        self._misfits: dict[str, Misfits] = {}
        self._lock = threading.Lock()

    @property
    def by_leaf(self) -> Mapping[str, Misfits]:
        """What does not fit, by name of the leaf."""
        return self._misfits

    def add(self, leaf: str, misfits: Misfits) -> None:
        """Adds those of a part of a leaf."""
        with self._lock:
            before = self._misfits.get(leaf)
            self._misfits[leaf] = misfits.joined(before) if before else misfits
