"""Files and directories of a conversion: whole, or not at all.

Everything is written under a temporary name beside the output and renamed at the end.
What was there is replaced only then.
"""

from __future__ import annotations

import contextlib
import operator
import os
import shutil
import threading
from collections.abc import Generator, Sequence
from typing import Final

import numpy as np

from tf2flax._base.memory import bytes_of
from tf2flax._base.values import Box, row_major
from tf2flax._storage.exchanging import uninterrupted
from tf2flax._storage.writing import (
    sync_directory,
    temporary_name,
    write_all,
    write_at,
)

from .exporter import ExportedTensor

# After so many bytes, what has been written goes to the disk.
_SYNC_NBYTES: Final = 16 << 20


@contextlib.contextmanager
def new_output(path: str) -> Generator[str]:
    """Makes a file or directory appear once it is whole.

    Args:
        path: Where it appears, in place of what is there.

    Yields:
        A path beside it, where nothing is yet.

    Raises:
        OSError: The system refuses; what was there is still there.
    """
    temporary = temporary_name(path)
    try:
        yield temporary
        uninterrupted(lambda: _replace(temporary, path))
        sync_directory(path)
    finally:
        _remove(temporary)


def _replace(source: str, path: str) -> None:
    """Renames an output; what was there is moved aside first, and back on failure."""
    # One step where the system can do it: a file in place of a file.
    if not os.path.isdir(path) or os.path.islink(path):
        if not os.path.isdir(source):
            os.replace(source, path)
            return
        if not os.path.lexists(path):
            os.rename(source, path)
            return
    aside = f"{source}.old"
    os.rename(path, aside)
    try:
        os.rename(source, path)
    except OSError:
        os.rename(aside, path)
        raise
    _remove(aside)


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


class RawFile:
    """A file that holds elements of tensors as they are, at places known before.

    Tensors come in any order, in boxes that are runs of elements, such as whole rows::

        file    |header|aaaa|bbbbbbbbbbbb|cc|
        boxes                 ^^^^ rows 1 and 2 of b

    What is written goes to the disk while more is read: the system would begin with
    that only when it is told to wait for it. `finish` ends it.
    """

    def __init__(self, descriptor: int, offsets: Sequence[tuple[str, int]]) -> None:
        """Takes an open file.

        Args:
            descriptor: The file.
            offsets: Names of the tensors, and where they begin.
        """
        self._descriptor = descriptor
        self._offsets = dict(offsets)
        self._unsynced_nbytes = 0
        self._syncing: threading.Thread | None = None
        self._failures: list[OSError] = []

    def take(self, tensor: ExportedTensor, box: Box, array: np.ndarray) -> None:
        """Writes a box of a tensor, which is one run of its elements."""
        # Of a tensor of one row, boxes are parts of that row; and so on.
        elements = sum(map(operator.mul, box.starts, row_major(tensor.shape)))
        start = self._offsets[tensor.name] + elements * tensor.dtype.itemsize
        write_at(self._descriptor, bytes_of(np.ascontiguousarray(array)).data, start)
        self._unsynced_nbytes += array.nbytes
        is_syncing = self._syncing is not None and self._syncing.is_alive()
        if self._unsynced_nbytes >= _SYNC_NBYTES and not is_syncing:
            self._unsynced_nbytes = 0
            self._syncing = threading.Thread(target=self._sync, daemon=True)
            self._syncing.start()

    def finish(self) -> None:
        """Waits until all is on the disk.

        Raises:
            OSError: The system refuses; it says so once, perhaps to the thread.
        """
        self.give_up()
        if self._failures:
            raise self._failures[0]
        os.fsync(self._descriptor)

    def give_up(self) -> None:
        """Waits for the thread, after which the file may be closed."""
        if self._syncing is not None:
            self._syncing.join()

    def _sync(self) -> None:
        # macOS lacks the first, which leaves out what tells times.
        sync = os.fdatasync if hasattr(os, "fdatasync") else os.fsync
        try:
            sync(self._descriptor)
        except OSError as error:
            self._failures.append(error)


@contextlib.contextmanager
def raw_file(
    path: str, nbytes: int, offsets: Sequence[tuple[str, int]], *, head: bytes = b""
) -> Generator[RawFile]:
    """Makes a file of elements; it is on the disk when the block has ended.

    Args:
        path: The file, which does not exist yet.
        nbytes: Its size.
        offsets: Names of the tensors, and where they begin.
        head: What it begins with.

    Yields:
        The file, to put tensors into.

    Raises:
        OSError: The system refuses.
    """
    with open(path, "xb", buffering=0) as file:
        write_all(file.fileno(), memoryview(head))
        os.truncate(file.fileno(), nbytes)
        raw = RawFile(file.fileno(), offsets)
        try:
            yield raw
            raw.finish()
        finally:
            raw.give_up()
