"""What the files of a checkpoint were when it was opened: replaced ones are noticed.

An index says where tensors lie in data files. Where another checkpoint has taken the
place of these files, the same bytes belong to another tensor, and parts of tensors have
no checksum that could show it. So every file is compared with what it was whenever it
is opened for reading. Stores of keys have generations for that; see `_storage.stores`.
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

# Linux changes the time of files in steps of its timer: what is written within one step
# has one time. `CLOCK_REALTIME_COARSE` has the same steps (ns).
_CLOCK_REALTIME_COARSE: Final = 5
_DEFAULT_TICK_NS: Final = 10_000_000
# At most so much time goes into looking at data files when a checkpoint is opened: a
# thousand of a local disk take 3 ms, and of a network 10 s. The others are looked at
# when they are first read (s).
_MAX_LOOKING_S: Final = 0.25
_MAX_LOOKED_AT: Final = 10_000
# How much of both ends of a file shows, where only its inode differs, that it is the
# same file: what leads to everything else lies there (bytes).
_ENDS_NBYTES: Final = 64 << 10


class FileStamp(NamedTuple):
    """What a file system tells of a file without reading it.

    Attributes:
        nbytes: Its length.
        mtime_ns: Time of its last change.
        device: The number of its file system.
        inode: Its own number there. Some network file systems give another one to the
            same file after a while.
        ctime_ns: Time of the last change of anything, which `cp -p` cannot set back; a
            new name or another owner counts as well.
    """

    nbytes: int
    mtime_ns: int
    device: int
    inode: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileStamp:
        """Takes it out of what the system tells."""
        return cls(
            status.st_size,
            status.st_mtime_ns,
            status.st_dev,
            status.st_ino,
            status.st_ctime_ns,
        )

    def is_alike(self, other: FileStamp) -> bool:
        """Whether length and time are equal; with all else it may be the same file."""
        return self[:2] == other[:2]


class Snapshot(Protocol):
    """What files were when their checkpoint was opened; picklable and hashable."""

    def check(self, path: str, status: os.stat_result, subject: str) -> None:
        """Compares a file, which has just been opened, with what it was.

        Args:
            path: The file.
            status: What the system tells of it.
            subject: What is read, for messages.

        Raises:
            ReplacedError: It is another file.
        """
        ...

    def check_unchanged(self, path: str, status: os.stat_result, subject: str) -> None:
        """Compares a file, of which something has just been read, with what it was.

        Args:
            path: The file.
            status: What the system tells of it while it is open.
            subject: What was read, for messages.

        Raises:
            ReplacedError: It has been written since it was opened.
        """
        ...

    def check_missing(self, path: str, subject: str) -> None:
        """Tells why a file is not there.

        Args:
            path: The file.
            subject: What is read, for messages.

        Raises:
            ReplacedError: Another checkpoint is there, which has no such file.
        """
        ...


class IndexSnapshot:
    """The index and the data files of a local checkpoint, as they were."""

    def __init__(self, path: str, contents: bytes, status: os.stat_result) -> None:
        """Remembers the index.

        Args:
            path: The index.
            contents: All its bytes.
            status: What the system told of it before they were read.
        """
        self._path: str = path
        self._contents: bytes | None = contents
        self._digest: bytes = b""
        self._index: FileStamp = FileStamp.of(status)
        self._files: dict[str, FileStamp] = {}
        # What it is compared by: what all files were at first.
        self._value: tuple[Any, ...] = (path, self._index)

    def settle(self, paths: Iterable[str]) -> bool:
        """Looks at the data files, as soon after the index as possible.

        A writer removes the index before it touches the data. So data files belong to
        the index that was read if that still is there afterwards.

        Args:
            paths: The data files; those that are not there are left out.

        Returns:
            Whether the index is still there, and the same.
        """
        deadline = time.monotonic() + _MAX_LOOKING_S
        for path in itertools.islice(paths, _MAX_LOOKED_AT):
            # Of what is not there, reading it says what is wrong.
            with contextlib.suppress(OSError, ValueError):
                self._files[path] = FileStamp.of(os.stat(path))
            if time.monotonic() > deadline:
                break
        is_same = self._wait_for_tick()
        self._value = (*self._value, *self._files.items())
        return is_same

    def _wait_for_tick(self) -> bool:
        """Waits where files may still change unseen; whether the index is the same."""
        young = [path for path, stamp in self._files.items() if _is_young(stamp)]
        if not young and not _is_young(self._index):
            return self._index_is_same() is True
        # Whatever is written from now on changes the times.
        time.sleep(_TICK_NS / 1e9)
        for path in young:
            try:
                self._files[path] = FileStamp.of(os.stat(path))
            except OSError:
                del self._files[path]
        return self._index_is_same() is True and self._holds_contents()

    def check(self, path: str, status: os.stat_result, subject: str) -> None:
        """Compares a data file, and the index, with what they were."""
        stamp, known = FileStamp.of(status), self._files.get(path)
        is_same = self._index_is_same()
        if stamp == known:
            # Without its index, a data file is still what it was.
            if is_same is not False:
                return
            raise replaced(subject, self._path)
        if (known is None or stamp.is_alike(known)) and is_same:
            self._files[path] = stamp
            return
        raise replaced(subject, path, known, stamp)

    def check_unchanged(self, path: str, status: os.stat_result, subject: str) -> None:
        """Compares a data file that is open with what it was."""
        _check_alike(self._files.get(path), status, path, subject)

    def check_missing(self, path: str, subject: str) -> None:
        """Looks at the index: another one names other data files."""
        if self._index_is_same() is False:
            raise replaced(subject, self._path)

    def _index_is_same(self) -> bool | None:
        """Whether the index is what it was; None where there is none now."""
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
        """A digest takes the place of the contents, of which a tensor needs little."""
        state = dict(self.__dict__)
        if self._contents is not None:
            state["_digest"] = hashlib.sha256(self._contents).digest()
            state["_contents"] = None
        return state

    def __eq__(self, other: object) -> bool:
        """Whether both are of one index, and it was the same."""
        return isinstance(other, IndexSnapshot) and self._value == other._value

    def __hash__(self) -> int:
        """Hashes what the index was at first."""
        return hash(self._value[:2])


class FileSnapshot:
    """A local file that holds a whole checkpoint, or some of its tensors, as it was."""

    def __init__(self, path: str, descriptor: int) -> None:
        """Remembers a file before anything else of it is read.

        Args:
            path: The file.
            descriptor: The same, open.

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
        """Nothing else tells of it."""

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
        """Whether both are of one file, and it was the same."""
        return isinstance(other, FileSnapshot) and self._value == other._value

    def __hash__(self) -> int:
        """Hashes what it was at first."""
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
        path: The file that is another one.
        before: What it was, where that is known.
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
    """Whether the file may change again within the tick of its last change, unseen."""
    return 0 <= time.time_ns() - stamp.mtime_ns < _TICK_NS


def _tick_ns() -> int:
    try:
        return int(time.clock_getres(_CLOCK_REALTIME_COARSE) * 1e9)
    except OSError:  # not Linux
        return _DEFAULT_TICK_NS


_TICK_NS: Final = _tick_ns()
