"""Where a save writes: contracts without code.

`local_destination` and `store_destination` fulfil them. A destination is made for one
save, by every process that takes part in it. What it writes becomes a checkpoint at one
moment, when `publish` puts the index there; whoever is killed before leaves nothing
that opens, or what was there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Protocol

from .base import Storage


class DataSink(Protocol):
    """A data file that is being written, from its beginning to its end."""

    def write(self, buffer: memoryview) -> None:
        """Appends bytes, which must not change any more.

        Raises:
            OSError: The system refuses.
            ReadError: The store refuses.
        """
        ...

    def finish(self) -> None:
        """Ends the file, which is whole.

        Raises:
            OSError: The system refuses.
            ReadError: The store refuses.
        """
        ...

    def close(self) -> None:
        """Lets go of the file, whether it is whole or not."""
        ...


class SaveDestination(Protocol):
    """The place of a checkpoint that is being written."""

    @property
    def path(self) -> str:
        """The prefix, for users: an absolute path, or a URL."""
        ...

    @property
    def storage(self) -> Storage:
        """What the prefix lies in, to read it again."""
        ...

    @property
    def location(self) -> str:
        """The prefix in the storage."""
        ...

    @property
    def token(self) -> str:
        """What tells this save from others; all its processes have the same."""
        ...

    @property
    def max_file_nbytes(self) -> int | None:
        """Size that a data file should not exceed; None where any will do."""
        ...

    def existing(self) -> list[str]:
        """What of a checkpoint with this prefix is there, for users.

        Raises:
            ReadError: The store refuses.
        """
        ...

    def suffixes(self) -> list[str]:
        """How names go on that begin like the prefix; none where none are listed.

        Raises:
            ReadError: The store refuses.
        """
        ...

    def free_count(self, count: int) -> int:
        """Number of data files, at least `count`, with which no old one is in the way.

        Raises:
            ReadError: The store refuses.
        """
        ...

    def folders(self) -> contextlib.AbstractContextManager[None]:
        """Makes the folder; a block that fails leaves none that was made for it."""
        ...

    def mark(self) -> None:
        """Leaves a small file with the token, until `unmark`.

        Raises:
            OSError: The system refuses.
            ReadError: The store refuses.
        """
        ...

    def unmark(self) -> None:
        """Removes what `mark` left, if it is there."""
        ...

    def is_marked(self) -> bool:
        """True if this process sees what another one left by `mark`.

        Raises:
            ReadError: The system or the store refuses.
        """
        ...

    def create(self, suffix: str) -> DataSink:
        """Begins a data file.

        Args:
            suffix: How its name goes on after the prefix.

        Raises:
            OSError: The system refuses.
        """
        ...

    def settle(self) -> None:
        """Waits until all finished data files of this process are there.

        Raises:
            ReadError: The store refuses.
        """
        ...

    def check(self, suffix: str, nbytes: int) -> None:
        """Checks a data file of another process, where that is cheap.

        Args:
            suffix: That of the file.
            nbytes: Its size.

        Raises:
            OSError: It is not there.
            ReadError: It has another size.
        """
        ...

    def publish(
        self, index: bytes, suffixes: Sequence[str], replaced: Sequence[str] = ()
    ) -> str:
        """Makes the data files a checkpoint, in place of an old one.

        Args:
            index: All bytes of the index.
            suffixes: Those of all data files, of all processes.
            replaced: Those of other files that go then: of a V1 checkpoint.

        Returns:
            What went wrong once the checkpoint was there, and what to do, in sentences;
            "" for nothing.

        Raises:
            OSError: The system refuses. The data files are removed, and what was there
                is still there, unless the message says something else.
            ReadError: The store refuses; likewise.
        """
        ...

    def discard(self, suffixes: Sequence[str]) -> None:
        """Removes data files that were not published, as far as they exist."""
        ...

    def update(self, location: str, change: Callable[[bytes], bytes]) -> None:
        """Changes a small file; another save that changes it comes before, or after.

        Args:
            location: Its path in the storage.
            change: Makes its new contents of those that it has, b"" where it is not
                there; called again where another save was faster.

        Raises:
            OSError: The system refuses; what was there is still there.
            ReadError: The system or the store refuses; likewise.
        """
        ...
