"""Bytes in and lazy views out: the only file that opens data files and tensorstore.

Reads byte ranges into buffers that the caller gives, without holding the GIL and
without mmap (a truncated file would be a SIGBUS there). Knows nothing of tensors'
names; `subject` is only for messages.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import numpy as np

from ._errors import CheckpointNotFoundError, DamagedError, ReadError, UnsupportedError
from ._specs import ByteRange, TensorSlice

if TYPE_CHECKING:
    from tensorstore import TensorStore as TensorStore

# JAX on CPU takes numpy buffers of this alignment over without a copy (bytes).
ALIGNMENT: Final = 64
# What a lazy view reads at once: large enough for the disk, small enough that an
# unaligned row range over-reads little (bytes).
VIEW_CHUNK_NBYTES: Final = 4 << 20
# tensorstore's own limit on axes.
MAX_VIEW_RANK: Final = 32
# Without O_NONBLOCK a pipe in a data file's place would hang (it has no meaning else).
_OPEN_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
# First bytes of what lies in a checkpoint's place when something else was downloaded.
_IMPOSTORS: Final = (
    (b"version https://git-lfs", "a git-LFS pointer", "Run `git lfs pull`."),
    (b"<!doctype html", "an HTML page", "Download the file itself."),
    (b"<html", "an HTML page", "Download the file itself."),
)


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Allocates an uninitialised row-major array that JAX on CPU takes over uncopied.

    Args:
        shape: Shape of the array.
        dtype: Its dtype; not `object`.

    Returns:
        The array; its first byte lies at a multiple of 64.
    """
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + nbytes].view(dtype).reshape(shape)


def read_file(path: str) -> bytes:
    """Reads a whole small file.

    Args:
        path: Local path.

    Returns:
        Its bytes.

    Raises:
        CheckpointNotFoundError: It is not there.
        ReadError: It cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointNotFoundError(f"No file at `{path}`.") from error
    except OSError as error:
        raise _read_error(path, error) from error


def read_into(path: str, start: int, buffer: memoryview, *, subject: str) -> None:
    """Fills a buffer from a byte position of a data file.

    Args:
        path: Local path of the data file.
        start: First byte to read.
        buffer: Writable bytes; all of them are filled.
        subject: What is read, for messages: "Tensor `a/kernel`".

    Raises:
        DamagedError: The file is not there, or ends before the buffer is full.
        ReadError: The operating system refuses.
    """
    descriptor = _open_data_file(path, subject)
    try:
        done = 0
        while done < len(buffer):
            count = os.preadv(descriptor, [buffer[done:]], start + done)
            if count == 0:
                span = ByteRange(start, start + len(buffer))
                raise _too_short(path, descriptor, span, subject)
            done += count
    except OSError as error:
        raise _read_error(path, error) from error
    finally:
        os.close(descriptor)


def check_span(path: str, span: ByteRange, *, subject: str) -> None:
    """Checks that a data file is long enough, before memory for it is allocated.

    Args:
        path: Local path of the data file.
        span: The bytes that are wanted of it.
        subject: What is read, for messages.

    Raises:
        DamagedError: The file is not there or too short.
        ReadError: The operating system refuses.
    """
    descriptor = _open_data_file(path, subject)
    try:
        if os.fstat(descriptor).st_size < span.stop:
            raise _too_short(path, descriptor, span, subject)
    finally:
        os.close(descriptor)


def _open_data_file(path: str, subject: str) -> int:
    try:
        return os.open(path, _OPEN_FLAGS)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DamagedError(
            f"{subject} cannot be read: its data file is missing - at `{path}`. "
            "Copy it next to its index."
        ) from error
    except OSError as error:
        raise _read_error(path, error) from error


def impostor(head: bytes) -> tuple[str, str] | None:
    """Recognises what is often found where a checkpoint's file should be.

    Args:
        head: The first bytes of the file.

    Returns:
        What it is and what to do about it; None where it is nothing known.
    """
    for magic, what, way_out in _IMPOSTORS:
        if head.lstrip()[: len(magic)].lower() == magic:
            return what, way_out
    return None


def impostor_at(path: str) -> tuple[str, str] | None:
    """Recognises a file, as `impostor` does, by its first bytes.

    Args:
        path: Local path.

    Returns:
        As `impostor`; None where it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return impostor(file.read(64))
    except OSError:
        return None


def open_view(
    shape: tuple[int, ...],
    dtype: np.dtype,
    read: Callable[[TensorSlice, np.ndarray], None],
    *,
    subject: str,
) -> TensorStore:
    """Makes a lazy view whose chunks are read when they are needed.

    Args:
        shape: Shape of the whole tensor.
        dtype: Its dtype; `object` stands for byte strings.
        read: Fills an array with a box of the tensor.
        subject: What the view shows, for messages.

    Returns:
        The view, with chunks of whole rows of at most 4 MiB (one row at least).

    Raises:
        UnsupportedError: tensorstore lacks the dtype or so many axes.
    """
    import tensorstore as ts

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
        domain: ts.IndexDomain, out: np.ndarray, _: ts.VirtualChunkedReadParameters
    ) -> None:
        read(TensorSlice(domain.inclusive_min, domain.exclusive_max), out)

    chunk = view_chunk_shape(shape, max(dtype.itemsize, 1))
    return ts.virtual_chunked(
        read_function=read_chunk,
        dtype=view_dtype,
        shape=shape,
        chunk_layout=ts.ChunkLayout(
            read_chunk=ts.ChunkLayout.Grid(shape=chunk), rank=len(shape)
        ),
    )


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
    chunk = [1] * len(shape)
    room = VIEW_CHUNK_NBYTES // itemsize
    for axis in reversed(range(len(shape))):
        chunk[axis] = max(1, min(shape[axis], room))
        room //= max(shape[axis], 1)
        if room == 0:
            break
    return tuple(chunk)


def _read_error(path: str, error: OSError) -> ReadError:
    return ReadError(f"Cannot read `{path}`: {error.strerror or error}.")


def _too_short(
    path: str, descriptor: int, span: ByteRange, subject: str
) -> DamagedError:
    size = os.fstat(descriptor).st_size
    try:
        found = impostor(os.pread(descriptor, 64, 0))
    except OSError:  # a pipe or a directory
        found = None
    what = f"`{path}` is {found[0]}" if found else f"`{path}` has only {size} bytes"
    return DamagedError(
        f"{subject} is damaged: expected bytes [{span.start}:{span.stop}], but "
        f"{what}. {found[1] if found else 'Copy the file again.'}"
    )
