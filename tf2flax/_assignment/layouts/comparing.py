"""Arrays compared element by element, by the bits that belong to each value."""

from __future__ import annotations

import typing
from typing import Any, Final

import ml_dtypes
import numpy as np

from tf2flax._base.dtypes import kind_of

# Integers that take a byte each, of which only the low bits count.
NARROW: Final = frozenset(
    map(np.dtype, (ml_dtypes.int2, ml_dtypes.uint2, ml_dtypes.int4, ml_dtypes.uint4))
)
FLOAT4: Final = np.dtype(ml_dtypes.float4_e2m1fn)


def is_nan(array: np.ndarray) -> np.ndarray:
    """True for the elements that are NaN."""
    with np.errstate(invalid="ignore"):  # of NaNs that signal
        return np.asarray(np.isnan(array))


def has_nan(dtype: np.dtype) -> bool:
    """True if a dtype may have NaNs."""
    return kind_of(dtype) in ("float", "complex")


def equal_elements(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compares element by element: the same bits, or both NaN.

    Args:
        first: An array.
        second: The array to compare with, of the same shape and dtype.

    Returns:
        True for the elements that are equal; 0.0 and -0.0 are not.
    """
    if first.dtype.kind == "c":
        first, second = _parts(first), _parts(second)
        return np.asarray(equal_elements(first, second).all(axis=-1))
    result = np.asarray(comparable(first) == comparable(second))
    if has_nan(first.dtype) and not result.all():
        result |= is_nan(first) & is_nan(second)
    return result


def _parts(array: np.ndarray) -> np.ndarray:
    """Real and imaginary parts, along a new last axis."""
    array = np.ascontiguousarray(array).reshape(array.shape)
    parts = array.reshape(*array.shape, 1).view(f"f{array.dtype.itemsize // 2}")
    return typing.cast("np.ndarray[Any, np.dtype[Any]]", parts)


def comparable(array: np.ndarray) -> np.ndarray:
    """Elements as integers, equal where all bits are equal that belong to the value."""
    if array.dtype in NARROW:
        return array.astype(np.int8)
    if array.dtype.kind == "c":
        array = _parts(array)
    array = np.ascontiguousarray(array).reshape(array.shape)
    bits = array.view(f"u{array.dtype.itemsize}")
    return bits & 15 if array.dtype == FLOAT4 else bits
