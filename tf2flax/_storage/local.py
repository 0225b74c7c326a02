"""Files of this machine, as a place of checkpoints.

Reads without holding the GIL and without mmap (a truncated file would be a SIGBUS
there).
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import glob
import io
import os
import re
import resource
import stat
from collections.abc import Generator, Iterable, Sequence
from typing import Final, Self

from tf2flax._base.data_files import BufferRead, DataFile
from tf2flax._base.errors import DamagedError, ReadError, ReplacedError
from tf2flax._base.values import ByteRange

from .base import HEAD_NBYTES
from .faults import (
    describe_bytes,
    missing_file,
    not_a_file,
    short_file,
    system_error,
)
from .snapshots import FileSnapshot, IndexSnapshot, Snapshot

# Indexes and state files are read whole; one of a million tensors takes some 80 MB
# (bytes).
MAX_INDEX_NBYTES: Final = 512 << 20
# Files that one restore keeps open: at most so many, and at most this fraction of those
# that a process may have open. Each read of further files opens its file.
MAX_OPEN_FILES: Final = 16
_MAX_OPEN_FRACTION: Final = 1 / 32
_NO_MORE_FILES: Final = (errno.EMFILE, errno.ENFILE)
# Where the system lacks `preadv`, bytes are copied once more; not more than so many at
# a time, so that memory stays bounded (bytes).
_MAX_COPY_NBYTES: Final = 4 << 20
# Without O_NONBLOCK, opening a pipe in a data file's place would hang; regular files
# ignore it.
_OPEN_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


class LocalStorage:
    """The file system of this machine."""

    __slots__ = ()

    @property
    def is_local(self) -> bool:
        """True."""
        return True

    def show(self, path: str) -> str:
        """Joins with the current directory; `..` stays, it may follow a link."""
        return path if os.path.isabs(path) else os.path.join(os.getcwd(), path)

    def join_state(self, directory: str, path: str) -> str | None:
        """Joins as TensorFlow does: an absolute path may lead elsewhere."""
        return os.path.join(directory, path)

    def is_file(self, path: str) -> bool:
        """True if a file lies at a path."""
        return os.path.isfile(path)

    def is_directory(self, path: str) -> bool:
        """True if a path is a directory, or ends like one."""
        return os.path.isdir(path) or path.endswith("/")

    def names_in(self, directory: str) -> list[str]:
        """Names of the files in a directory, sorted."""
        try:
            return sorted(os.listdir(directory or "."))
        except (FileNotFoundError, NotADirectoryError, UnicodeEncodeError):
            return []  # names with half a character are no folder's
        except OSError as error:
            raise system_error(directory, error) from error

    def folders_in(self, directory: str) -> list[str]:
        """Names of the folders in a directory, sorted."""
        return [
            name
            for name in self.names_in(directory)
            if os.path.isdir(os.path.join(directory, name))
        ]

    def matches(self, pattern: str) -> list[str]:
        """Paths that a pattern matches; `run[1]` may well be a directory's name."""
        if os.path.exists(pattern):
            return [pattern]
        if not glob.has_magic(pattern):
            return []
        folder, pattern = _literal_folder(pattern)
        # TensorFlow's patterns match hidden files too.
        names = glob.glob(pattern, root_dir=folder or None, include_hidden=True)
        return sorted(os.path.join(folder, name) for name in names)

    def read(self, path: str) -> bytes | None:
        """All bytes of a file; None where there is none."""
        contents_and_status = self._read(path)
        return None if contents_and_status is None else contents_and_status[0]

    def read_index(self, path: str) -> LocalIndex | None:
        """All bytes of an index, and what identifies it; None where there is none."""
        contents_and_status = self._read(path)
        if contents_and_status is None:
            return None
        contents, status = contents_and_status
        return LocalIndex(contents, IndexSnapshot(self.show(path), contents, status))

    def file(self, path: str) -> LocalFile:
        """The file at a path."""
        return LocalFile(self.show(path))

    def whole_file(self, path: str) -> LocalFile:
        """The file at a path, which must stay what it is now."""
        return self.file(path).as_it_is()

    def _read(self, path: str) -> tuple[bytes, os.stat_result] | None:
        if not os.path.isfile(path):  # a pipe would hang
            return None
        try:
            with open(path, "rb") as file:
                status = os.fstat(file.fileno())
                if status.st_size > MAX_INDEX_NBYTES:
                    raise DamagedError(
                        f"`{path}` has {status.st_size} bytes, more than any index. "
                        "Copy the file again."
                    )
                return file.read(), status
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise system_error(path, error) from error


def read_at(descriptor: int, buffer: memoryview, start: int) -> int:
    """Reads from a position into a buffer, perhaps less than it holds.

    Args:
        descriptor: An open file.
        buffer: Where to; contiguous bytes.
        start: Position of the first byte in the file.

    Returns:
        How many bytes were read; 0 at the end of the file.
    """
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [buffer], start)
    # Some systems (macOS before 11) have `pread` alone, which makes bytes of its own.
    contents = os.pread(descriptor, min(len(buffer), _MAX_COPY_NBYTES), start)
    buffer[: len(contents)] = contents
    return len(contents)


def _literal_folder(pattern: str) -> tuple[str, str]:
    """Splits a pattern after the folders that exist under their very names."""
    start = 0
    for slash in re.finditer("/+", pattern):
        if not os.path.isdir(pattern[: slash.end()]):
            break
        start = slash.end()
    return pattern[:start], pattern[start:]


LOCAL: Final = LocalStorage()


class LocalIndex:
    """The index of a checkpoint of this machine."""

    __slots__ = ("_snapshot", "contents")

    def __init__(self, contents: bytes, snapshot: IndexSnapshot) -> None:
        """Holds what was read.

        Args:
            contents: All bytes of the index.
            snapshot: What identified it then.
        """
        self.contents = contents
        self._snapshot = snapshot

    def file(self, path: str) -> LocalFile:
        """A data file, which must stay what it was when the index was read."""
        return LocalFile(path, self._snapshot)

    def settle(self, paths: Iterable[str]) -> bool:
        """Looks at data files; see `Index`."""
        return self._snapshot.settle(paths)

    def __reduce__(self) -> tuple[type[LocalIndex], tuple[bytes, IndexSnapshot]]:
        """Pickles what identifies the files; a manifest has the contents."""
        return LocalIndex, (b"", self._snapshot)


@dataclasses.dataclass(frozen=True, slots=True)
class LocalFile:
    """A file of this machine.

    Attributes:
        path: Its absolute path.
        snapshot: What identified it when its checkpoint was opened; None where it may
            change.
    """

    path: str
    snapshot: Snapshot | None = None

    @property
    def is_local(self) -> bool:
        """True: reading it asks no other machine."""
        return True

    def size(self) -> int | None:
        """Length of the file, in bytes."""
        try:
            status = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self._missing("The checkpoint") from error
        except OSError as error:
            raise system_error(self.path, error) from error
        if stat.S_ISDIR(status.st_mode):
            raise not_a_file(self.path, "The checkpoint")
        if self.snapshot is not None:
            self.snapshot.check(self.path, status, "The checkpoint")
        return status.st_size

    def as_it_is(self) -> LocalFile:
        """The same file, which must stay what it is now.

        Raises:
            DamagedError: It does not exist.
            ReadError: The system refuses.
        """
        with self._open("The checkpoint") as file:
            try:
                snapshot = FileSnapshot(self.path, file.fileno())
            except OSError as error:
                raise system_error(self.path, error) from error
        return LocalFile(self.path, snapshot)

    def head(self) -> bytes:
        """First bytes of the file; empty where it cannot be read."""
        try:
            return self._pread(0, HEAD_NBYTES)
        except ReplacedError:
            raise  # what lies there now says nothing about the file that was opened
        except (OSError, DamagedError, ReadError):
            return b""

    def tail(self, nbytes: int) -> bytes:
        """Last bytes of the file, at most all.

        Args:
            nbytes: How many.

        Raises:
            DamagedError: It does not exist.
            ReadError: The system refuses.
        """
        try:
            return self._pread(-nbytes, nbytes)
        except OSError as error:
            raise system_error(self.path, error) from error

    def read_into(self, start: int, buffer: memoryview, *, subject: str) -> None:
        """Fills a buffer from a byte position; see `DataFile`."""
        self.read_runs_into((start,), buffer, subject=subject)

    def read_runs_into(
        self, starts: Sequence[int], buffer: memoryview, *, subject: str
    ) -> None:
        """Fills a buffer with runs of equal length; see `DataFile`."""
        nbytes = len(buffer) // len(starts)
        start = starts[0]
        with self._open(subject) as file:
            descriptor = file.fileno()
            try:
                for number, start in enumerate(starts):
                    run = buffer[number * nbytes : (number + 1) * nbytes]
                    done = read_at(descriptor, run, start) if nbytes else 0
                    while done < nbytes:
                        count = read_at(descriptor, run[done:], start + done)
                        if count == 0:
                            span = ByteRange(start, start + nbytes)
                            raise self._too_short(descriptor, span, subject)
                        done += count
            except OSError as error:
                where = describe_bytes(subject, ByteRange(start, start + nbytes))
                raise system_error(self.path, error, where) from error
            self._check_unchanged(descriptor, subject)

    def read_each_into(self, reads: Iterable[BufferRead]) -> Generator[None]:
        """Fills buffers, one after the other; see `DataFile`."""
        for starts, buffer, subject in reads:
            self.read_runs_into(starts, buffer, subject=subject)
            yield

    def check_span(self, span: ByteRange, *, subject: str) -> None:
        """Checks that the file is long enough; see `DataFile`."""
        with self._open(subject) as file:
            if os.fstat(file.fileno()).st_size < span.stop:
                raise self._too_short(file.fileno(), span, subject)

    @contextlib.contextmanager
    def opened(self, subject: str) -> Generator[LocalFile]:
        """Keeps it open for many reads.

        Args:
            subject: What is read, for messages.

        Yields:
            The same file, of which each read is one system call.

        Raises:
            DamagedError: It does not exist.
            ReadError: The system refuses.
        """
        with self._open(subject) as held:
            size = os.fstat(held.fileno()).st_size
            yield _OpenLocalFile(self.path, self.snapshot, held=held, held_nbytes=size)

    def _open(self, subject: str) -> contextlib.AbstractContextManager[io.FileIO]:
        """Opens it as an object, which is closed whatever interrupts us."""
        try:
            # An opener in Python could be interrupted once the file is open, and would
            # lose it; so it is used only for what `os.open` might wait for.
            is_regular = stat.S_ISREG(os.stat(self.path).st_mode)
            file = io.FileIO(self.path, opener=os.open if is_regular else _open_at_once)
            status = os.fstat(file.fileno())
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self._missing(subject) from error
        except IsADirectoryError as error:
            raise not_a_file(self.path, subject) from error
        except OSError as error:
            raise system_error(self.path, error, f" - for {subject}") from error
        if self.snapshot is not None:
            try:
                self.snapshot.check(self.path, status, subject)
            except BaseException:
                file.close()
                raise
        return file

    def _pread(self, start: int, nbytes: int) -> bytes:
        with self._open("The checkpoint") as file:
            size = os.fstat(file.fileno()).st_size
            # A negative start counts from the end.
            start = start if start >= 0 else max(0, size + start)
            contents = os.pread(file.fileno(), nbytes, start)
            self._check_unchanged(file.fileno(), "The checkpoint")
            return contents

    def _check_unchanged(self, descriptor: int, subject: str) -> None:
        """Checks that nobody wrote to the file while it was read."""
        if self.snapshot is not None:
            status = os.fstat(descriptor)
            self.snapshot.check_unchanged(self.path, status, subject)

    def _missing(self, subject: str) -> DamagedError:
        if self.snapshot is not None:
            self.snapshot.check_missing(self.path, subject)
        return missing_file(self.path, subject)

    def _too_short(
        self, descriptor: int, span: ByteRange, subject: str
    ) -> DamagedError:
        self._check_unchanged(descriptor, subject)
        size = os.fstat(descriptor).st_size
        return short_file(self.path, span, subject, size=size, head=self.head())


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _OpenLocalFile(LocalFile):
    """A file that is kept open."""

    held: io.FileIO
    held_nbytes: int

    def check_span(self, span: ByteRange, *, subject: str) -> None:
        """Checks that the file was long enough when it was opened."""
        if self.held_nbytes < span.stop:
            raise self._too_short(self.held.fileno(), span, subject)

    def _open(self, subject: str) -> contextlib.AbstractContextManager[io.FileIO]:
        return contextlib.nullcontext(self.held)


class OpenFiles:
    """Keeps files open until a block ends; not for several threads."""

    def __init__(self) -> None:
        """Opens nothing yet."""
        self._stack = contextlib.ExitStack()
        self._files: dict[DataFile, DataFile] = {}
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._max_open = MAX_OPEN_FILES
        if soft != resource.RLIM_INFINITY:
            self._max_open = min(MAX_OPEN_FILES, int(soft * _MAX_OPEN_FRACTION))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def of(self, file: DataFile, *, subject: str) -> DataFile:
        """The same file, open if it is of this machine and few are open already.

        Args:
            file: The file.
            subject: What is read, for messages.

        Raises:
            DamagedError: It does not exist.
            ReadError: The system refuses.
        """
        open_file = self._files.get(file)
        if open_file is None:
            open_file = file
            if isinstance(file, LocalFile) and len(self._files) < self._max_open:
                open_file = self._opened(file, subject)
            self._files[file] = open_file
        return open_file

    def _opened(self, file: LocalFile, subject: str) -> LocalFile:
        try:
            return self._stack.enter_context(file.opened(subject))
        except ReadError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno in _NO_MORE_FILES:
                return file  # each read opens it for a moment
            raise


def _open_at_once(path: str, _flags: int) -> int:
    """Opens what may be a pipe, without waiting for its writer."""
    return os.open(path, _OPEN_FLAGS)
