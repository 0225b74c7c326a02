"""What a place of checkpoints can do: contracts without code.

`local` and `stores` fulfil them. A data file is `_base.manifest.DataFile`, since the
pieces of a manifest name it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from tf2flax._base.data_files import DataFile

# What is needed to recognise a file by its beginning (bytes).
HEAD_NBYTES: Final = 4096


class Storage(Protocol):
    """A place where checkpoints lie: a file system, or a store of keys."""

    @property
    def is_local(self) -> bool:
        """True if it is this machine's file system, which knows directories."""
        ...

    def show(self, path: str) -> str:
        """Names a path for users: absolute, or as a URL."""
        ...

    def join_state(self, directory: str, path: str) -> str | None:
        """Resolves a path that a state file names.

        Args:
            directory: The directory of the state file, as given.
            path: The path that it names.

        Returns:
            The path, joined with the directory unless it is absolute; None where it
            leads out of this storage.
        """
        ...

    def is_file(self, path: str) -> bool:
        """True if a file lies at a path."""
        ...

    def is_directory(self, path: str) -> bool:
        """True if a path is a directory, by the file system or by its spelling."""
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

        A folder that exists is not a pattern, even if its name looks like one.

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
        """All bytes of an index, and what identifies it; None where there is none.

        Raises:
            DamagedError: It is larger than any index.
            ReadError: The system or the store refuses.
        """
        ...

    def file(self, path: str) -> DataFile:
        """The file at a path, which need not exist."""
        ...

    def whole_file(self, path: str) -> DataFile:
        """The file at a path, which must stay what it is now.

        Raises:
            DamagedError: It does not exist.
            ReadError: The system refuses.
        """
        ...


class Index(Protocol):
    """The index of a checkpoint, and with it the files that belong to it; picklable."""

    @property
    def contents(self) -> bytes:
        """All its bytes; empty in a copy, since a manifest has them."""
        ...

    def file(self, path: str) -> DataFile:
        """A data file, which must stay what it was when the index was read."""
        ...

    def settle(self, paths: Iterable[str]) -> bool:
        """Looks at data files, where that is cheap.

        Args:
            paths: The data files; they need not exist.

        Returns:
            False if the index has been replaced since it was read: then the data files
            may belong to another one.
        """
        ...
