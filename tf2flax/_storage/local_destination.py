"""Files of this machine as the destination of a save.

Everything is written under temporary names, and renamed at the end: see `exchanging`.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from tf2flax._base.errors import ReadError

from .base import Storage
from .bridges import FindOtherNames
from .exchanging import (
    Exchange,
    existing_files,
    locked,
    name_endings,
    remove_stale,
    uninterrupted,
)
from .local import LOCAL
from .writing import (
    new_folders,
    remove,
    sync_directory,
    temporary_name,
    write_all,
    write_new_file,
    write_whole,
)

# As `open(path, "xb")`.
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
# Files that a message names.
_MAX_LEFTOVERS: Final = 3


class LocalDestination:
    """A prefix in a folder of this machine."""

    def __init__(
        self,
        path: str,
        token: str = "",
        *,
        find_names: FindOtherNames | None = None,
    ) -> None:
        """Chooses temporary names.

        Args:
            path: Absolute path of the checkpoint, without suffix.
            token: What tells this save from others; "" for a new one.
            find_names: What an old checkpoint may be called while it is replaced.
        """
        self._find_names = find_names
        self._path = path
        self._temporary = temporary_name(path, token)

    @property
    def path(self) -> str:
        """The prefix."""
        return self._path

    @property
    def storage(self) -> Storage:
        """The file system."""
        return LOCAL

    @property
    def location(self) -> str:
        """The prefix."""
        return self._path

    @property
    def token(self) -> str:
        """The end of all temporary names."""
        return self._temporary[-16:]

    @property
    def max_file_nbytes(self) -> None:
        """None: files are written bit by bit."""
        return None

    def existing(self) -> list[str]:
        """Files of a checkpoint with this prefix; see `existing_files`."""
        return existing_files(self._path)

    def suffixes(self) -> list[str]:
        """From a listing of the folder."""
        return name_endings(self._path)

    def free_count(self, count: int) -> int:
        """The count itself: old files have their names until all is written."""
        return count

    def folders(self) -> contextlib.AbstractContextManager[None]:
        """Makes the folder of the prefix."""
        return new_folders(self._path)

    def mark(self) -> None:
        """Writes the token into a file."""
        write_new_file(self._temporary, self.token.encode())

    def unmark(self) -> None:
        """Removes the file, as far as the system lets us."""
        with contextlib.suppress(OSError):
            remove(self._temporary)

    def is_marked(self) -> bool:
        """True if the file is there."""
        return LOCAL.read(self._temporary) == self.token.encode()

    def create(self, suffix: str) -> LocalSink:
        """Begins a data file, under its temporary name."""
        return LocalSink(f"{self._temporary}{suffix}")

    def settle(self) -> None:
        """Nothing: a finished file is on the disk."""

    def check(self, suffix: str, nbytes: int) -> None:
        """Compares the size of a data file."""
        path = f"{self._temporary}{suffix}"
        size = os.stat(path).st_size
        if size != nbytes:
            raise ReadError(
                f"Cannot write `{self._path}`: `{path}` has {size} bytes, and its "
                f"process has written {nbytes}. Give a folder that shows all processes "
                "the same."
            )

    def publish(
        self, index: bytes, suffixes: Sequence[str], replaced: Sequence[str] = ()
    ) -> str:
        """Writes the index, and renames all files; see `Exchange`."""
        remove_stale(self._path)
        try:
            write_new_file(f"{self._temporary}.index", index)
        except BaseException:
            self.discard(suffixes)
            raise
        # Everything is on the disk; what follows only renames.
        exchange = self._exchange(suffixes)
        exchange.run()
        for suffix in replaced:
            exchange.remove(f"{self._path}{suffix}")
        problems = _describe_leftovers(exchange.leftovers)
        try:
            sync_directory(self._path)
        except OSError as error:
            problems.append(
                f"Its folder could not be synced: {error.strerror or error}. Run "
                "`sync`, or a crash of the machine may undo the save."
            )
        return " ".join(problems)

    def discard(self, suffixes: Sequence[str]) -> None:
        """Removes the files with temporary names."""
        uninterrupted(self._exchange(suffixes).discard)

    def update(self, location: str, change: Callable[[bytes], bytes]) -> None:
        """Writes a small file anew, whole or not at all, while others wait."""
        with locked(os.path.dirname(location)):
            if os.path.isdir(location):
                raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
            write_whole(location, change(LOCAL.read(location) or b""))
        with contextlib.suppress(OSError):  # of which `publish` tells
            sync_directory(location)

    def _exchange(self, suffixes: Sequence[str]) -> Exchange:
        return Exchange(self._path, self._temporary, tuple(suffixes), self._find_names)


def _describe_leftovers(leftovers: Mapping[str, OSError]) -> list[str]:
    """Says in sentences what could not be removed."""
    sentences = [
        f"`{path}`, which nothing needs, could not be removed: "
        f"{error.strerror or error}. Remove it."
        for path, error in [*leftovers.items()][:_MAX_LEFTOVERS]
    ]
    if (count := len(leftovers) - len(sentences)) > 0:
        sentences.append(f"Nor could {count} more of its old files: remove them, too.")
    return sentences


class LocalSink:
    """A data file under its temporary name."""

    def __init__(self, path: str) -> None:
        """Creates the file."""
        self._descriptor = os.open(path, _NEW_FILE, 0o666)

    def write(self, buffer: memoryview) -> None:
        """Appends bytes."""
        write_all(self._descriptor, buffer)

    def finish(self) -> None:
        """Waits until the file is on the disk."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Closes the file."""
        os.close(self._descriptor)
