"""What identified the files of a checkpoint when it was opened.

An index says where tensors lie in data files. Where another checkpoint has taken the
place of these files, the same bytes belong to another tensor, and slices of tensors
have no checksum that could show it. So every file is compared with its snapshot when it
is opened for reading. Stores have generations for that; see `store_files`.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import time
from collections.abc import Iterable
from typing import Any, Final, NamedTuple, Protocol

from tf2flax._base.errors import ReplacedError

# Linux sets the times of files in steps of its timer: two writes within one step leave
# the same time. `CLOCK_REALTIME_COARSE` has the same steps (ns).
_CLOCK_REALTIME_COARSE: Final = 5
_DEFAULT_TICK_NS: Final = 10_000_000
# At most so much time goes into looking at data files when a checkpoint is opened: a
# thousand on a local disk take 3 ms, and on a network 10 s. The others are looked at
# when they are first read (seconds; files).
_MAX_LOOKING_S: Final = 0.25
_MAX_LOOKED_AT: Final = 10_000
# Where only the inode of a file differs, so much of both its ends shows that it is the
# same file: the headers and directories of all formats lie there (bytes).
_ENDS_NBYTES: Final = 64 << 10


class FileStamp(NamedTuple):
    """What a file system knows of a file without reading it.

    Attributes:
        nbytes: Length of the file.
        mtime_ns: Time of the last change of its contents.
        device: Number of its file system.
        inode: Number of the file there. Some network file systems give the same file
            another one after a while.
        ctime_ns: Time of the last change of anything, a new name or owner as well;
            `cp -p` cannot set it back.
    """

    nbytes: int
    mtime_ns: int
    device: int
    inode: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileStamp:
        """Picks these out of what the system knows."""
        return cls(
            status.st_size,
            status.st_mtime_ns,
            status.st_dev,
            status.st_ino,
            status.st_ctime_ns,
        )

    def is_alike(self, stamp: FileStamp) -> bool:
        """True if length and time are equal: then it may be the same file."""
        return self[:2] == stamp[:2]


class Snapshot(Protocol):
    """What identified files when their checkpoint was opened; picklable, hashable."""

    def check(self, path: str, status: os.stat_result, subject: str) -> None:
        """Compares a file that has just been opened with what it was.

        Args:
            path: The file.
            status: What the system knows of it.
            subject: What is read, for messages.

        Raises:
            ReplacedError: It is another file.
        """
        ...

    def check_unchanged(self, path: str, status: os.stat_result, subject: str) -> None:
        """Compares a file that has just been read from with what it was.

        Args:
            path: The file.
            status: What the system knows of it while it is open.
            subject: What was read, for messages.

        Raises:
            ReplacedError: It has been written since it was opened.
        """
        ...

    def check_missing(self, path: str, subject: str) -> None:
        """Looks for the reason why a file does not exist.

        Args:
            path: The file.
            subject: What is read, for messages.

        Raises:
            ReplacedError: Another checkpoint is in its place, which has no such file.
        """
        ...


class IndexSnapshot:
    """The index and the data files of a local checkpoint, as they were."""

    def __init__(self, path: str, contents: bytes, status: os.stat_result) -> None:
        """Remembers the index.

        Args:
            path: The index.
            contents: All its bytes.
            status: What the system knew of it before they were read.
        """
        self._path: str = path
        self._contents: bytes | None = contents
        self._digest: bytes = b""
        self._index: FileStamp = FileStamp.of(status)
        self._files: dict[str, FileStamp] = {}
        # What it is compared and hashed by: all files as they were at first.
        self._value: tuple[Any, ...] = (path, self._index)

    def settle(self, paths: Iterable[str]) -> bool:
        """Looks at the data files, as soon after the index as possible.

        A writer removes the index before it touches the data. So data files belong to
        the index that was read if that index is still there afterwards.

        Args:
            paths: The data files; those that do not exist are left out.

        Returns:
            True if the index is still there, and the same.
        """
        deadline = time.monotonic() + _MAX_LOOKING_S
        for path in itertools.islice(paths, _MAX_LOOKED_AT):
            # A file that is missing is reported when it is read.
            with contextlib.suppress(OSError, ValueError):
                self._files[path] = FileStamp.of(os.stat(path))
            if time.monotonic() > deadline:
                break
        is_same = self._wait_for_tick()
        self._value = (*self._value, *self._files.items())
        return is_same

    def _wait_for_tick(self) -> bool:
        """Waits where files may still change unseen; True if the index is the same."""
        young = [path for path, stamp in self._files.items() if _is_young(stamp)]
        if not young and not _is_young(self._index):
            return self._index_is_same() is True
        # A file that is written to from now on gets another time.
        time.sleep(_TICK_NS / 1e9)
        for path in young:
            try:
                self._files[path] = FileStamp.of(os.stat(path))
            except OSError:
                del self._files[path]
        return self._index_is_same() is True and self._holds_contents()

    def check(self, path: str, status: os.stat_result, subject: str) -> None:
        """Compares a data file, and the index, with what they were."""
        stamp, old_stamp = FileStamp.of(status), self._files.get(path)
        is_same = self._index_is_same()
        if stamp == old_stamp:
            # None: a data file is still what it was when its index has been removed.
            if is_same is not False:
                return
            raise replaced(subject, self._path)
        # What is new here, or has another inode only, is right if its index is.
        if (old_stamp is None or stamp.is_alike(old_stamp)) and is_same:
            self._files[path] = stamp
            return
        raise replaced(subject, path, old_stamp, stamp)

    def check_unchanged(self, path: str, status: os.stat_result, subject: str) -> None:
        """Compares a data file that is open with what it was."""
        _check_alike(self._files.get(path), status, path, subject)

    def check_missing(self, path: str, subject: str) -> None:
        """Looks at the index: another index names other data files."""
        if self._index_is_same() is False:
            raise replaced(subject, self._path)

    def _index_is_same(self) -> bool | None:
        """True if the index is what it was; None where there is none now."""
        try:
            stamp = FileStamp.of(os.stat(self._path))
        except OSError:
            return None
        if stamp != self._index:
            if not self._holds_contents():
                return False
            self._index = stamp
        return True

    def _holds_contents(self) -> bool:
        try:
            with open(self._path, "rb") as file:
                contents = file.read()
        except OSError:
            return False
        if self._contents is not None:
            return contents == self._contents
        return hashlib.sha256(contents).digest() == self._digest

    def __getstate__(self) -> dict[str, Any]:
        """Pickles a digest instead of the contents, of which a tensor needs little."""
        state = dict(self.__dict__)
        if self._contents is not None:
            state["_digest"] = hashlib.sha256(self._contents).digest()
            state["_contents"] = None
        return state

    def __eq__(self, other: object) -> bool:
        """True if both are of one index, and it was the same."""
        return isinstance(other, IndexSnapshot) and self._value == other._value

    def __hash__(self) -> int:
        """Hashes the index as it was at first."""
        return hash(self._value[:2])


class FileSnapshot:
    """A local file that holds a whole checkpoint or some of its tensors, as it was."""

    def __init__(self, path: str, descriptor: int) -> None:
        """Remembers a file, before anything else of it is read.

        Args:
            path: The file.
            descriptor: The open file.

        Raises:
            OSError: The system refuses.
        """
        self._path: str = path
        self._stamp: FileStamp = FileStamp.of(os.fstat(descriptor))
        if _is_young(self._stamp):
            time.sleep(_TICK_NS / 1e9)
            self._stamp = FileStamp.of(os.fstat(descriptor))
        self._ends: bytes = _ends(descriptor)
        self._value: FileStamp = self._stamp

    def check(self, path: str, status: os.stat_result, subject: str) -> None:
        """Compares the file with what it was."""
        stamp = FileStamp.of(status)
        if stamp == self._stamp:
            return
        if not stamp.is_alike(self._stamp) or not self._has_same_ends():
            raise replaced(subject, path, self._stamp, stamp)
        self._stamp = stamp

    def check_unchanged(self, path: str, status: os.stat_result, subject: str) -> None:
        """Compares the file, which is open, with what it was."""
        _check_alike(self._stamp, status, path, subject)

    def check_missing(self, path: str, subject: str) -> None:
        """Does nothing: the file itself is all that there was."""

    def _has_same_ends(self) -> bool:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return False
        try:
            return _ends(descriptor) == self._ends
        except OSError:
            return False
        finally:
            os.close(descriptor)

    def __eq__(self, other: object) -> bool:
        """True if both are of one file, and it was the same."""
        return isinstance(other, FileSnapshot) and self._value == other._value

    def __hash__(self) -> int:
        """Hashes the file as it was at first."""
        return hash(self._value)


def replaced(
    subject: str,
    path: str,
    before: FileStamp | None = None,
    after: FileStamp | None = None,
) -> ReplacedError:
    """The error for a checkpoint that is no longer the one that was opened.

    Args:
        subject: What is read: "Tensor `a/kernel`".
        path: The file that was replaced.
        before: What it was; None where that is not known.
        after: What it is now.
    """
    fact = ""
    if before is not None and after is not None:
        if before.nbytes != after.nbytes:
            fact = f" (it had {before.nbytes} bytes, and has {after.nbytes})"
        elif before.mtime_ns != after.mtime_ns:
            fact = " (it has been written since)"
    return ReplacedError(
        f"{subject} cannot be read: the checkpoint has been replaced, its file is not "
        f"the one that was opened{fact} - at `{path}`. Open the checkpoint again, and "
        "make its plans again."
    )


def _check_alike(
    before: FileStamp | None, status: os.stat_result, path: str, subject: str
) -> None:
    after = FileStamp.of(status)
    if before is not None and not after.is_alike(before):
        raise replaced(subject, path, before, after)


def _ends(descriptor: int) -> bytes:
    """A digest of the first and the last bytes of a file."""
    size = os.fstat(descriptor).st_size
    digest = hashlib.sha256(os.pread(descriptor, _ENDS_NBYTES, 0))
    digest.update(os.pread(descriptor, _ENDS_NBYTES, max(0, size - _ENDS_NBYTES)))
    return digest.digest()


def _is_young(stamp: FileStamp) -> bool:
    """True if the file may change again within the tick of its last change, unseen."""
    return 0 <= time.time_ns() - stamp.mtime_ns < _TICK_NS


def _tick_ns() -> int:
    try:
        return int(time.clock_getres(_CLOCK_REALTIME_COARSE) * 1e9)
    except OSError:  # not Linux
        return _DEFAULT_TICK_NS


_TICK_NS: Final = _tick_ns()
