"""Files of a checkpoint, wherever they lie, and what is read of them at once.

What readers know of a file; `_storage` has those of this machine and of stores.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import NamedTuple, Protocol

from .values import ByteRange


class DataFile(Protocol):
    """A file of a checkpoint, wherever it lies; a picklable, hashable value."""

    @property
    def path(self) -> str:
        """Its absolute path or URL, for messages."""
        ...

    @property
    def is_local(self) -> bool:
        """True if reading it asks no other machine."""
        ...

    def size(self) -> int | None:
        """Its length, in bytes; None where the store does not tell.

        Raises:
            DamagedError: It is not there.
            ReadError: The system or the store refuses.
        """
        ...

    def head(self) -> bytes:
        """Its first bytes, at most 4096; none where it cannot be read."""
        ...

    def tail(self, nbytes: int) -> bytes:
        """Its last bytes, at most all.

        Raises:
            DamagedError: It is not there.
            ReadError: The system or the store refuses.
        """
        ...

    def read_into(self, start: int, buffer: memoryview, *, subject: str) -> None:
        """Fills a buffer from a byte position.

        Args:
            start: First byte to read.
            buffer: Writable bytes; all of them are filled.
            subject: What is read, for messages: "Tensor `a/kernel`".

        Raises:
            DamagedError: The file is not there, or ends before the buffer is full.
            ReadError: The system or the store refuses.
        """
        ...

    def read_runs_into(
        self, starts: Sequence[int], buffer: memoryview, *, subject: str
    ) -> None:
        """Fills a buffer with runs of equal length, one behind the other.

        Args:
            starts: First byte of each; their number divides the buffer's length.
            buffer: Writable bytes; all of them are filled.
            subject: What is read, for messages.

        Raises:
            DamagedError: The file is not there, or ends before the buffer is full.
            ReadError: The system or the store refuses.
        """
        ...

    def read_each_into(self, reads: Iterable[BufferRead]) -> Generator[None]:
        """Fills buffers, one after the other, each as `read_runs_into` does.

        Of a file on another machine, some are asked for before the first one is full.

        Args:
            reads: The buffers, each asked for when there is room for it.

        Yields:
            Nothing, each time a buffer is full.

        Raises:
            DamagedError: As `read_runs_into`.
            ReadError: As `read_runs_into`.
        """
        ...

    def check_span(self, span: ByteRange, *, subject: str) -> None:
        """Checks that the file is long enough, before memory for it is allocated.

        Args:
            span: The bytes that are wanted of it.
            subject: What is read, for messages.

        Raises:
            DamagedError: The file is not there or too short.
            ReadError: The system or the store refuses.
        """
        ...


class BufferRead(NamedTuple):
    """A buffer, and the runs of a file that fill it.

    Attributes:
        starts: First byte of each run; their number divides the buffer's length.
        buffer: Writable bytes; all of them are filled.
        subject: What is read, for messages: "Tensor `a/kernel`".
    """

    starts: Sequence[int]
    buffer: memoryview
    subject: str
