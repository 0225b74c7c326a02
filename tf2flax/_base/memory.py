"""Memory of host arrays: the only place that allocates it uninitialised.

Such memory holds what was there before until somebody writes it. With
`TF2FLAX_POISON=1` in the environment it holds 0xFF bytes (NaN, -1) instead, so that
tests see elements that nobody wrote. Imports nothing of the package.
"""

from __future__ import annotations

import math
import os
from typing import Any, Final

import numpy as np

# JAX on CPU uses numpy buffers of this alignment without a copy (bytes).
ALIGNMENT: Final = 64
# Memory that small arrays share (bytes).
_BLOCK_NBYTES: Final = 16 << 10
# Fills fresh memory in tests; None leaves it as it is.
_POISON: Final = 0xFF if os.environ.get("TF2FLAX_POISON") == "1" else None


def empty(shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
    """Allocates an uninitialised row-major array.

    Args:
        shape: Shape of the array.
        dtype: Its dtype; elements of `object` are None.

    Returns:
        The array.
    """
    out = np.empty(shape, dtype)
    if _POISON is not None and not out.dtype.hasobject and out.size:
        out.reshape(-1).view(np.uint8).fill(_POISON)
    return out


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Allocates an uninitialised row-major array that JAX on CPU uses without a copy.

    Args:
        shape: Shape of the array.
        dtype: Its dtype; not `object`.

    Returns:
        The array; its first byte lies at a multiple of 64.
    """
    nbytes = math.prod(shape) * dtype.itemsize
    raw = empty(nbytes + ALIGNMENT, np.uint8)
    start = -raw.__array_interface__["data"][0] % ALIGNMENT
    return np.ndarray(shape, dtype, raw, start)


def shape_only(shape: tuple[int, ...]) -> np.ndarray:
    """A read-only array of bytes that takes no memory, for dry runs."""
    return np.broadcast_to(np.zeros((), np.uint8), shape)


def bytes_of(array: np.ndarray) -> np.ndarray:
    """Views a contiguous array as bytes."""
    return array.reshape(-1).view(np.uint8)


def view_at(array: np.ndarray, index: tuple[Any, ...]) -> np.ndarray:
    """Views a box of an array.

    Of rank 0, `array[()]` is an element, that is a copy: what is written to it is lost.
    With an ellipsis, NumPy gives a view for every rank.

    Args:
        array: The array.
        index: Slices, at most one for each axis, as `Box.within` gives them; also
            numbers, None and an ellipsis.

    Returns:
        The view.

    Examples:
        >>> scalar = np.zeros(())
        >>> view_at(scalar, ())[...] = 7
        >>> scalar
        array(7.)
    """
    has_ellipsis = any(axis is Ellipsis for axis in index)
    return array[index if has_ellipsis else (*index, ...)]


class SmallArrays:
    """Allocates small arrays as `aligned_empty` does, many in one block of 16 KiB.

    An array keeps its whole block alive. Not for several threads.
    """

    def __init__(self) -> None:
        """Allocates nothing yet."""
        self._block: memoryview | None = None
        self._used = 0

    def copy(
        self, shape: tuple[int, ...], dtype: np.dtype, stored: memoryview
    ) -> np.ndarray:
        """Copies the bytes of an array into new memory.

        Args:
            shape: Its shape.
            dtype: Its dtype; not `object`.
            stored: Its bytes.

        Returns:
            The array.
        """
        nbytes = len(stored)
        if nbytes > _BLOCK_NBYTES // 8:
            array = aligned_empty(shape, dtype)
            bytes_of(array).data[:] = stored
            return array
        if self._block is None or self._used + nbytes > _BLOCK_NBYTES:
            self._block = aligned_empty((_BLOCK_NBYTES,), np.dtype(np.uint8)).data
            self._used = 0
        start = self._used
        self._used += -(-nbytes // ALIGNMENT) * ALIGNMENT
        self._block[start : start + nbytes] = stored
        return np.ndarray(shape, dtype, self._block, start)
