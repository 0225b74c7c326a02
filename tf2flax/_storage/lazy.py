"""Lazy views of tensors: chunks of them are read when they are needed."""

from __future__ import annotations

import concurrent.futures
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tf2flax._base.errors import UnsupportedError
from tf2flax._base.tuning import CHUNK_NBYTES
from tf2flax._base.values import Box

from .requests import load_tensorstore

if TYPE_CHECKING:
    from .requests import Future, IndexDomain, TensorStore, VirtualChunkedReadParameters

# Chunks of lazy views that are read from other machines at once.
MAX_VIEW_READERS: Final = 8
# tensorstore's own limit on axes.
MAX_VIEW_RANK: Final = 32


def open_view(
    shape: tuple[int, ...],
    dtype: np.dtype,
    read: Callable[[Box, np.ndarray], None],
    *,
    subject: str,
    waits: bool = False,
) -> TensorStore:
    """Makes a lazy view whose chunks are read when they are needed.

    Args:
        shape: Shape of the whole tensor.
        dtype: Its dtype; `object` stands for byte strings.
        read: Fills an array with a box of the tensor.
        subject: What the view shows, for messages.
        waits: True if `read` itself waits for tensorstore. It then runs in threads of
            ours, since those of tensorstore would wait for each other.

    Returns:
        The view, with chunks of whole rows of at most 4 MiB (one row at least).

    Raises:
        UnsupportedError: tensorstore lacks the dtype or so many axes.
    """
    ts = load_tensorstore()
    if len(shape) > MAX_VIEW_RANK:
        raise UnsupportedError(
            f"{subject} has {len(shape)} axes, a lazy view can have {MAX_VIEW_RANK}. "
            "Use `read()`."
        )
    try:
        view_dtype = ts.string if dtype.kind == "O" else ts.dtype(dtype)
    except (TypeError, ValueError) as error:
        raise UnsupportedError(
            f"{subject} is of dtype {dtype}, of which tensorstore has no lazy view. "
            "Use `read()`."
        ) from error

    def read_chunk(
        domain: IndexDomain,
        out: np.ndarray,
        _: VirtualChunkedReadParameters,
    ) -> Future[None] | None:
        box = Box(domain.inclusive_min, domain.exclusive_max)
        if not waits:
            read(box, out)
            return None
        promise, future = ts.Promise.new()
        _view_readers().submit(_fulfil, promise, read, box, out)
        return future

    chunk = view_chunk_shape(shape, max(dtype.itemsize, 1))
    return ts.virtual_chunked(
        read_function=read_chunk,
        dtype=view_dtype,
        shape=shape,
        chunk_layout=ts.ChunkLayout(
            read_chunk=ts.ChunkLayout.Grid(shape=chunk), rank=len(shape)
        ),
    )


def _fulfil(
    promise: Any,
    read: Callable[[Box, np.ndarray], None],
    box: Box,
    out: np.ndarray,
) -> None:
    try:
        read(box, out)
    except Exception as error:  # of any kind: somebody waits for the promise
        promise.set_exception(error)
    else:
        promise.set_result(None)


@functools.cache
def _view_readers() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(MAX_VIEW_READERS, "tf2flax-view")


def view_chunk_shape(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Chooses the box that a lazy view reads at once: whole rows, contiguous on disk.

    Args:
        shape: Shape of the whole tensor.
        itemsize: Bytes per element.

    Returns:
        Extents, each at least 1, of at most 4 MiB together where that is possible.

    Examples:
        >>> view_chunk_shape((1_000_000, 1024), itemsize=4)
        (1024, 1024)
    """
    # Row-major: the last axes are taken whole, as long as they fit; the one that does
    # not fit is cut, and all before it have extent 1.
    chunk = [1] * len(shape)
    room = CHUNK_NBYTES // itemsize
    for axis in reversed(range(len(shape))):
        chunk[axis] = max(1, min(shape[axis], room))
        room //= max(shape[axis], 1)
        if room == 0:
            break
    return tuple(chunk)
