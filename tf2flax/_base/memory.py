"""Memory of host arrays: the only place that allocates it uninitialised.

Such memory holds what was there before until somebody writes it. With
`TF2FLAX_POISON=1` in the environment it holds 0xFF bytes (NaN, -1) instead, so that
tests see elements that nobody wrote. Also keeps Python's collector of cycles out of the
way. Imports nothing of the package.
"""

from __future__ import annotations

import contextlib
import gc
import math
import mmap
import os
from collections.abc import Generator
from typing import Any, Final

import numpy as np

# JAX on CPU uses numpy buffers of this alignment without a copy (bytes).
ALIGNMENT: Final = 64
# A huge page of Linux on x86 and ARM (bytes), and an ordinary one.
HUGE_NBYTES: Final = 2 << 20
_PAGE_NBYTES: Final = mmap.PAGESIZE
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
    return _poisoned(np.empty(shape, dtype))


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Allocates an uninitialised row-major array that JAX on CPU uses without a copy.

    From 2 MiB on it has a mapping of its own, in huge pages where the system has them:
    one page fault for 2 MiB instead of 512, and its memory is free as soon as nobody
    holds it, whatever became of its neighbours.

    Args:
        shape: Shape of the array.
        dtype: Its dtype; not `object`.

    Returns:
        The array; its first byte lies at a multiple of 64.
    """
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes >= HUGE_NBYTES:
        try:
            buffer, start = _map_huge(nbytes)
        except (OSError, AttributeError):  # no more mappings, or not Linux
            pass
        else:
            return _poisoned(np.ndarray(shape, dtype, buffer, start))
    raw = empty(nbytes + ALIGNMENT, np.uint8)
    start = -_address(raw) % ALIGNMENT
    return np.ndarray(shape, dtype, raw, start)


def _map_huge(nbytes: int) -> tuple[mmap.mmap, int]:
    """Maps private memory of which all whole huge pages are huge.

    ::

        mapping    |-----|=========|=========|====-----|
                     start   huge      huge     tail      boundaries of huge pages
        array            |-----------------------|

    The rest of the last one lies in ordinary pages, unless it is so full that what it
    takes beyond the array is less than a hundredth.

    Returns:
        The mapping, which lives as long as somebody holds it, and where to begin in it.

    Raises:
        OSError: There is no memory, or there are too many mappings.
        AttributeError: The system knows no such advice.
    """
    tail = nbytes % HUGE_NBYTES
    is_full = (-tail % HUGE_NBYTES) * 100 <= nbytes
    size = nbytes + (-tail % HUGE_NBYTES if is_full else 0)
    mapping = mmap.mmap(
        -1,
        size + HUGE_NBYTES - _PAGE_NBYTES,
        flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
    )
    start = -_address(np.frombuffer(mapping, np.uint8)) % HUGE_NBYTES
    if is_full:  # of the whole mapping: the system joins neighbours that are alike
        mapping.madvise(mmap.MADV_HUGEPAGE)
    else:
        mapping.madvise(mmap.MADV_HUGEPAGE, start, nbytes - tail)
        end_of_huge = start + nbytes - tail
        mapping.madvise(mmap.MADV_NOHUGEPAGE, end_of_huge, len(mapping) - end_of_huge)
    return mapping, start


def _poisoned(array: np.ndarray) -> np.ndarray:
    """An array that nobody has written yet: poisoned, where the tests ask for it."""
    if _POISON is not None and not array.dtype.hasobject and array.size:
        bytes_of(array).fill(_POISON)
    return array


def _address(array: np.ndarray) -> int:
    """Where the first byte of an array lies."""
    address: int = array.__array_interface__["data"][0]
    return address


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


@contextlib.contextmanager
def collection_paused() -> Generator[None]:
    """Keeps the collector of cycles from running in a block, or in a function.

    It would look through all that is there again and again, while hundreds of thousands
    of entries are made that have no cycles: a third of the time of a listing. Only for
    work that ends soon, and that holds on to what it makes.

    Examples:
        >>> with collection_paused():
        ...     gc.isenabled()
        False
        >>> gc.isenabled()
        True
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
