"""Memory of host arrays: allocated in one place, and viewed in part without a copy.

Whatever is allocated here holds what was there before until somebody writes it. With
`TF2FLAX_POISON=1` in the environment it holds 0xFF bytes (NaN, -1) instead, so that a
test sees what nobody wrote. Imports nothing of the package.
"""

from __future__ import annotations

import math
import os
from typing import Any, Final

import numpy as np

# JAX on CPU takes numpy buffers of this alignment over without a copy (bytes).
ALIGNMENT: Final = 64
# What small arrays share (bytes).
_BLOCK_NBYTES: Final = 16 << 10
# What fresh memory is filled with in tests; None leaves it as it is.
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
    """Allocates an uninitialised row-major array that JAX on CPU takes over uncopied.

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
    """An array of bytes of a shape that takes no memory: for dry runs.

    Args:
        shape: Its shape.

    Returns:
        The array; it cannot be written.
    """
    return np.broadcast_to(np.zeros((), np.uint8), shape)


def bytes_of(array: np.ndarray) -> np.ndarray:
    """Views a contiguous array as bytes."""
    return array.reshape(-1).view(np.uint8)


def view_at(array: np.ndarray, index: tuple[Any, ...]) -> np.ndarray:
    """Views the part of an array that an index of slices names.

    NumPy gives an element, a copy, where the rank is 0: what is written there is lost.
    With the dots it gives a view for every rank.

    Args:
        array: The array.
        index: Slices, at most one for each axis, as `Box.within` gives them;
            numbers, None and dots may stand among them.

    Returns:
        The view.

    Examples:
        >>> scalar = np.zeros(())
        >>> view_at(scalar, ())[...] = 7
        >>> scalar
        array(7.)
    """
    has_dots = any(item is Ellipsis for item in index)
    return array[index if has_dots else (*index, ...)]


class SmallArrays:
    """Allocates small arrays as `aligned_empty` does, many from one block.

    One that lives on keeps its block alive: some KiB. Not for several threads.
    """

    def __init__(self) -> None:
        """Allocates nothing yet."""
        self._block: memoryview | None = None
        self._used = 0

    def copy(
        self, shape: tuple[int, ...], dtype: np.dtype, stored: memoryview
    ) -> np.ndarray:
        """Copies the bytes of an array into memory of its own.

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
