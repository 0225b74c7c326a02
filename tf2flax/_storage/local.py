"""Local files: bytes of them, what lies in a directory, and what something else is.

Reads without holding the GIL and without mmap (a truncated file would be a SIGBUS
there). `Storage` is what every place of checkpoints can do; `stores` has the one for
whatever is not local.
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
from typing import Final, Protocol, Self

from tf2flax._base.errors import DamagedError, ReadError, ReplacedError
from tf2flax._base.manifest import DataFile
from tf2flax._base.values import ByteRange

from .identity import FileSnapshot, IndexSnapshot, Snapshot

# How much of a local file is read before its checksum is computed: small enough to be
# still in the cache, large enough for the disk (bytes).
LOCAL_CHUNK_NBYTES: Final = 4 << 20
# Indexes and state files are read whole; one of a million tensors takes some 80 MB
# (bytes).
MAX_INDEX_NBYTES: Final = 512 << 20
# What is needed to recognise a file by its beginning (bytes).
HEAD_NBYTES: Final = 4096
# Files that one restore keeps open at most, and of those that a process may have open,
# one in so many; of more, each read opens its own.
MAX_OPEN_FILES: Final = 16
_OPEN_FILES_SHARE: Final = 32
_NO_MORE_FILES: Final = (errno.EMFILE, errno.ENFILE)
# Without O_NONBLOCK a pipe in a data file's place would hang (it has no meaning else).
_OPEN_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
# First bytes of what lies in a checkpoint's place when something else was downloaded.
_IMPOSTORS: Final = (
    (b"version https://git-lfs", "a git-LFS pointer", "Run `git lfs pull`."),
    (b"<!doctype html", "an HTML page", "Download the file itself."),
    (b"<html", "an HTML page", "Download the file itself."),
)


class Storage(Protocol):
    """A place where checkpoints lie: a file system, or a store of keys."""

    @property
    def is_local(self) -> bool:
        """Whether it is this machine's file system, which knows directories."""
        ...

    def show(self, path: str) -> str:
        """Names a path for users: absolute, or as a URL."""
        ...

    def join_state(self, directory: str, named: str) -> str | None:
        """Where a state file leads.

        Args:
            directory: The directory of the state file, as given.
            named: The path that it names.

        Returns:
            The path, joined with the directory unless it is absolute; None where it
            leads out of this storage.
        """
        ...

    def is_file(self, path: str) -> bool:
        """Whether a file lies at a path."""
        ...

    def is_directory(self, path: str) -> bool:
        """Whether a path is a directory, as far as its spelling or the system tells."""
        ...

    def names_in(self, directory: str) -> list[str]:
        """Names of the files in a directory, sorted.

        Raises:
            UnsupportedError: The store cannot list.
            ReadError: The system or the store refuses.
        """
        ...

    def folders_in(self, directory: str) -> list[str]:
        """Names of the folders in a directory, sorted.

        Raises:
            UnsupportedError: The store cannot list.
            ReadError: The system or the store refuses.
        """
        ...

    def matches(self, pattern: str) -> list[str]:
        """Paths that a pattern (`*`, `?`, `[...]`) matches, sorted; or itself.

        Folders that are there are no patterns, whatever their names.

        Raises:
            UnsupportedError: The store cannot list.
            ReadError: The store refuses.
        """
        ...

    def read(self, path: str) -> bytes | None:
        """All bytes of a small file; None where there is none.

        Raises:
            DamagedError: It is larger than any index.
            ReadError: The system or the store refuses.
        """
        ...

    def read_index(self, path: str) -> Index | None:
        """All bytes of an index, and what it is; None where there is none.

        Raises:
            DamagedError: It is larger than any index.
            ReadError: The system or the store refuses.
        """
        ...

    def file(self, path: str) -> DataFile:
        """The file at a path, which need not be there."""
        ...

    def whole_file(self, path: str) -> DataFile:
        """The file at a path, which must stay what it is now.

        Raises:
            DamagedError: It is not there.
            ReadError: The system refuses.
        """
        ...


class Index(Protocol):
    """The index of a checkpoint, and with it the files that belong to it; picklable."""

    @property
    def contents(self) -> bytes:
        """All its bytes; none in a copy."""
        ...

    def file(self, path: str) -> DataFile:
        """A data file, which must stay what it was when the index was read."""
        ...

    def settle(self, paths: Iterable[str]) -> bool:
        """Looks at data files, where that is cheap.

        Args:
            paths: The data files; they need not be there.

        Returns:
            Whether the index is still what it was, so that they belong to it.
        """
        ...


class LocalStorage:
    """The file system of this machine."""

    __slots__ = ()

    @property
    def is_local(self) -> bool:
        """True: this machine's file system."""
        return True

    def show(self, path: str) -> str:
        """Joins with the current directory; `..` stays, it may follow a link."""
        return path if os.path.isabs(path) else os.path.join(os.getcwd(), path)

    def join_state(self, directory: str, named: str) -> str | None:
        """Joins as TensorFlow does: an absolute path leads elsewhere."""
        return os.path.join(directory, named)

    def is_file(self, path: str) -> bool:
        """Whether a file lies at a path."""
        return os.path.isfile(path)

    def is_directory(self, path: str) -> bool:
        """Whether a path is a directory, or ends like one."""
        return os.path.isdir(path) or path.endswith("/")

    def names_in(self, directory: str) -> list[str]:
        """Names of the files in a directory, sorted."""
        try:
            return sorted(os.listdir(directory or "."))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise _read_error(directory, error) from error

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
        folder, rest = _literal_folder(pattern)
        # TensorFlow's patterns match hidden files too.
        names = glob.glob(rest, root_dir=folder or None, include_hidden=True)
        return sorted(os.path.join(folder, name) for name in names)

    def read(self, path: str) -> bytes | None:
        """All bytes of a file; None where there is none."""
        found = self._read(path)
        return None if found is None else found[0]

    def read_index(self, path: str) -> LocalIndex | None:
        """All bytes of an index, and what it is; None where there is none."""
        found = self._read(path)
        if found is None:
            return None
        contents, status = found
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
            raise _read_error(path, error) from error


def _literal_folder(pattern: str) -> tuple[str, str]:
    """Splits a pattern behind the folders that are there as they are written."""
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
            snapshot: What the index was then.
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
        """Pickles what the files were; the contents are a manifest's."""
        return LocalIndex, (b"", self._snapshot)


@dataclasses.dataclass(frozen=True, slots=True)
class LocalFile:
    """A file of this machine.

    Attributes:
        path: Its absolute path.
        snapshot: What it was when its checkpoint was opened; None for any file.
    """

    path: str
    snapshot: Snapshot | None = None

    @property
    def chunk_nbytes(self) -> int:
        """How much is best read at once, in bytes."""
        return LOCAL_CHUNK_NBYTES

    @property
    def is_local(self) -> bool:
        """True: reading it asks no other machine."""
        return True

    def size(self) -> int | None:
        """Its length, in bytes."""
        try:
            status = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self._missing("The checkpoint") from error
        except OSError as error:
            raise _read_error(self.path, error) from error
        if self.snapshot is not None:
            self.snapshot.check(self.path, status, "The checkpoint")
        return status.st_size

    def as_it_is(self) -> LocalFile:
        """The same file, which must stay what it is now.

        Raises:
            DamagedError: It is not there.
            ReadError: The system refuses.
        """
        with self._open("The checkpoint") as file:
            try:
                snapshot = FileSnapshot(self.path, file.fileno())
            except OSError as error:
                raise _read_error(self.path, error) from error
        return LocalFile(self.path, snapshot)

    def head(self) -> bytes:
        """Its first bytes; none where it cannot be read."""
        try:
            return self._pread(0, HEAD_NBYTES)
        except ReplacedError:
            raise  # that is what is wrong with it, whatever it was asked for
        except (OSError, DamagedError, ReadError):
            return b""

    def tail(self, nbytes: int) -> bytes:
        """Its last bytes, at most all.

        Args:
            nbytes: How many.

        Raises:
            DamagedError: It is not there.
            ReadError: The system refuses.
        """
        try:
            return self._pread(-nbytes, nbytes)
        except OSError as error:
            raise _read_error(self.path, error) from error

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
                    done = os.preadv(descriptor, [run], start) if nbytes else 0
                    while done < nbytes:
                        count = os.preadv(descriptor, [run[done:]], start + done)
                        if count == 0:
                            span = ByteRange(start, start + nbytes)
                            raise self._too_short(descriptor, span, subject)
                        done += count
            except OSError as error:
                span = ByteRange(start, start + nbytes)
                raise _read_error(self.path, error, part_of(subject, span)) from error
            self._check_unchanged(descriptor, subject)

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
            The same file.

        Raises:
            DamagedError: It is not there.
            ReadError: The system refuses.
        """
        with self._open(subject) as held:
            size = os.fstat(held.fileno()).st_size
            yield _OpenLocalFile(self.path, self.snapshot, held=held, held_nbytes=size)

    def _open(self, subject: str) -> contextlib.AbstractContextManager[io.FileIO]:
        """Opens it: as an object, which an interrupt cannot leave open."""
        try:
            # An opener of ours runs Python, where an interrupt could lose the file.
            is_regular = stat.S_ISREG(os.stat(self.path).st_mode)
            file = io.FileIO(self.path, opener=os.open if is_regular else _open_at_once)
            status = os.fstat(file.fileno())
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self._missing(subject) from error
        except OSError as error:
            raise _read_error(self.path, error, f" - for {subject}") from error
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
            found = os.pread(
                file.fileno(), nbytes, start if start >= 0 else max(0, size + start)
            )
            self._check_unchanged(file.fileno(), "The checkpoint")
            return found

    def _check_unchanged(self, descriptor: int, subject: str) -> None:
        """Checks that nobody has written where something was read meanwhile."""
        if self.snapshot is not None:
            status = os.fstat(descriptor)
            self.snapshot.check_unchanged(self.path, status, subject)

    def _missing(self, subject: str) -> DamagedError:
        if self.snapshot is not None:
            self.snapshot.check_missing(self.path, subject)
        return missing(self.path, subject)

    def _too_short(
        self, descriptor: int, span: ByteRange, subject: str
    ) -> DamagedError:
        self._check_unchanged(descriptor, subject)
        size = os.fstat(descriptor).st_size
        return too_short(self.path, span, subject, size=size, head=self.head())


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _OpenLocalFile(LocalFile):
    """A file that is open: each read is one system call."""

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
        is_limited = soft != resource.RLIM_INFINITY
        share = soft // _OPEN_FILES_SHARE if is_limited else MAX_OPEN_FILES
        self._most = min(MAX_OPEN_FILES, share)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def of(self, file: DataFile, *, subject: str) -> DataFile:
        """A file as it is read best.

        Args:
            file: The file.
            subject: What is read, for messages.

        Returns:
            The same file, open if it is of this machine and not many are open already.

        Raises:
            DamagedError: It is not there.
            ReadError: The system refuses.
        """
        found = self._files.get(file)
        if found is None:
            found = file
            if isinstance(file, LocalFile) and len(self._files) < self._most:
                found = self._opened(file, subject)
            self._files[file] = found
        return found

    def _opened(self, file: LocalFile, subject: str) -> LocalFile:
        try:
            return self._stack.enter_context(file.opened(subject))
        except ReadError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno in _NO_MORE_FILES:
                return file  # which each read opens for a moment
            raise


def _open_at_once(path: str, _flags: int) -> int:
    return os.open(path, _OPEN_FLAGS)


def recognise_wrong_file(head: bytes) -> tuple[str, str] | None:
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


def missing(path: str, subject: str) -> DamagedError:
    """The error for a data file that is not there."""
    return DamagedError(
        f"{subject} cannot be read: its data file is missing - at `{path}`. "
        "Copy it next to its index."
    )


def too_short(
    path: str, span: ByteRange, subject: str, *, size: int | None, head: bytes
) -> DamagedError:
    """The error for a data file that ends before the bytes that are wanted.

    Args:
        path: The file, for messages.
        span: The bytes that were wanted.
        subject: What was read, for messages.
        size: Bytes that the file has, where that is known.
        head: Its first bytes.
    """
    found = recognise_wrong_file(head)
    if found:
        what = f"`{path}` is {found[0]}"
    elif size is None:
        what = f"`{path}` ends before"
    else:
        what = f"`{path}` has only {size} bytes, {span.stop - size} are missing"
    return DamagedError(
        f"{subject} is damaged: expected bytes [{span.start}:{span.stop}], but "
        f"{what}. {found[1] if found else 'Copy the file again.'}"
    )


def part_of(subject: str, span: ByteRange) -> str:
    """Says which bytes could not be read, at the end of a message.

    Args:
        subject: What was read.
        span: The bytes that were wanted.

    Returns:
        A part of a sentence.
    """
    return f" - for {subject}, bytes [{span.start}:{span.stop}]"


def _read_error(path: str, error: OSError, where: str = "") -> ReadError:
    return ReadError(f"Cannot read `{path}`: {error.strerror or error}{where}.")
