"""The bytes of a file of Keras's, local or in memory, as a stream of a slice of them.

Knows neither archives (`archive`) nor HDF5. Refuses a file that somebody has replaced
or changed since it was opened.
"""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from tf2flax._base.errors import DamagedError, MalformedError, ReadError
from tf2flax._base.values import ByteRange
from tf2flax._storage.local import read_at
from tf2flax._storage.snapshots import FileSnapshot

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# zlib makes at most 1032 bytes of one. A file that announces more is a trap, and no
# read takes more memory than this multiple of the file's size.
MAX_EXPANSION: Final = 1100
# How much of a member is read at once (bytes).
BLOCK_NBYTES: Final = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class KerasFile:
    """The place of the bytes of an HDF5 file; picklable.

    Attributes:
        path: The file; a name for messages where `contents` are given.
        contents: All its bytes; None for a local file.
        span: The bytes that are the HDF5; None for all.
        crc32: Their checksum, where they lie in an archive.
        snapshot: The local file as it was when it was opened.
        is_member: True if the HDF5 lies in an archive, or did before it was
            uncompressed.
    """

    path: str
    contents: bytes | None = dataclasses.field(default=None, repr=False)
    span: ByteRange | None = None
    crc32: int | None = None
    snapshot: FileSnapshot | None = None
    is_member: bool = False

    def open(self, *, is_exact: bool = False) -> FileSlice:
        """Opens the bytes as a stream; the caller closes it.

        Args:
            is_exact: True makes reads beyond the end fail, instead of giving less.

        Raises:
            DamagedError: The file is not there, or too short.
            ReadError: The system refuses.
        """
        if self.contents is not None:
            return FileSlice(
                memoryview(self.contents), self.span, self.path, is_exact=is_exact
            )
        try:
            # Without O_NONBLOCK a pipe in the file's place would hang.
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
            descriptor = os.open(self.path, flags)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DamagedError(
                f"The file is missing - at `{self.path}`. Copy it there again."
            ) from error
        except OSError as error:
            raise read_error(self.path, error) from error
        try:
            if self.snapshot is not None:
                self.snapshot.check(self.path, os.fstat(descriptor), "The file")
            return FileSlice(
                descriptor,
                self.span,
                self.path,
                is_exact=is_exact,
                snapshot=self.snapshot,
            )
        except BaseException:
            os.close(descriptor)
            raise


class FileSlice(io.RawIOBase):
    """Some bytes of a file or of memory, as a file by themselves."""

    def __init__(
        self,
        origin: int | memoryview,
        span: ByteRange | None,
        path: str,
        *,
        is_exact: bool,
        snapshot: FileSnapshot | None = None,
    ) -> None:
        """Takes over what it reads from.

        Args:
            origin: An open file, or all of its bytes.
            span: Which of them; None for all.
            path: The file, for messages.
            is_exact: True makes reads beyond the end fail, instead of giving less.
            snapshot: What the file must stay while it is read.

        Raises:
            DamagedError: There are not so many bytes.
        """
        super().__init__()
        self._origin: int | memoryview | None = None  # `close` may come at any time
        is_view = isinstance(origin, memoryview)
        size = len(origin) if is_view else os.fstat(origin).st_size
        self._span: ByteRange = span or ByteRange(0, size)
        if self._span.stop > size:
            missing = self._span.stop - size
            fact = f"it has only {size} bytes, {missing} are missing"
            raise damaged("The file", fact, path)
        self._origin = origin
        self._is_exact: bool = is_exact
        self._position: int = 0
        self._path: str = path
        self._snapshot: FileSnapshot | None = snapshot
        # The system's own error, which h5py would hide behind one of HDF5.
        self.failure: OSError | None = None

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return self._span.nbytes

    def snapshot(self, path: str) -> FileSnapshot | None:
        """The file as it is now, to notice a later change; None for memory.

        Args:
            path: The file.

        Raises:
            OSError: The system refuses.
        """
        origin = self._origin
        return FileSnapshot(path, origin) if isinstance(origin, int) else None

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Goes to a byte, which need not be there."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.nbytes}
        if start[whence] + offset < 0:
            raise ValueError(f"Expected a byte >= 0, got {start[whence] + offset}.")
        self._position = start[whence] + offset
        return self._position

    def tell(self) -> int:
        """The byte that is read next."""
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fills a buffer as far as there are bytes.

        Raises:
            EOFError: There are fewer, and the stream is exact.
        """
        target = memoryview(buffer).cast("B")
        wanted = len(target)
        target = target[: max(self.nbytes - self._position, 0)]
        start = self._span.start + self._position
        if isinstance(self._origin, memoryview):
            target[:] = self._origin[start : start + len(target)]
        else:
            target = target[: self._read_file(target, start)]
        self._position += len(target)
        if self._is_exact and len(target) < wanted:
            raise EOFError(f"Expected {wanted} bytes, got {len(target)}.")
        return len(target)

    def read_exactly(self, nbytes: int) -> bytes:
        """Reads a number of bytes.

        Raises:
            MalformedError: There are fewer.
        """
        # No more than there is, before memory is allocated.
        data = self.read(min(nbytes, self.nbytes))
        if data is None or len(data) < nbytes:
            raise MalformedError(f"it ends {nbytes - len(data or b'')} bytes too early")
        return data

    def fill(self, start: int, buffer: memoryview) -> None:
        """Fills a buffer from a byte position.

        Raises:
            MalformedError: The bytes are not there.
        """
        self.seek(start)
        if start + len(buffer) > self.nbytes or self.readinto(buffer) < len(buffer):
            raise MalformedError(
                f"expected bytes [{start}:{start + len(buffer)}] of {self.nbytes}"
            )

    def slice(self, start: int, nbytes: int) -> bytes:
        """Reads bytes from a byte position.

        Raises:
            MalformedError: They are not there.
        """
        self.seek(start)
        return self.read_exactly(nbytes)

    def blocks(self) -> Iterator[bytes]:
        """Reads all bytes, block by block.

        Raises:
            MalformedError: The file became shorter.
        """
        self._position = 0
        while self._position < self.nbytes:
            yield self.read_exactly(min(BLOCK_NBYTES, self.nbytes - self._position))

    def check_unchanged(self, subject: str) -> None:
        """Checks that nobody wrote to the file meanwhile: Keras writes in place.

        Args:
            subject: What was read, for messages.

        Raises:
            ReplacedError: Somebody has.
        """
        if self._snapshot is not None and isinstance(self._origin, int):
            status = os.fstat(self._origin)
            self._snapshot.check_unchanged(self._path, status, subject)

    def close(self) -> None:
        """Closes the file."""
        origin, self._origin = self._origin, None
        if isinstance(origin, int):
            os.close(origin)
        super().close()

    def _read_file(self, target: memoryview, start: int) -> int:
        if not isinstance(self._origin, int):
            raise ValueError("The file is closed.")
        done = 0
        while done < len(target):
            try:
                count = read_at(self._origin, target[done:], start + done)
            except OSError as error:
                # Without its traceback, of which the frames hold what h5py has open:
                # kept until Python ends, HDF5 would then call what is gone.
                self.failure = OSError(error.errno, error.strerror)
                raise
            if count == 0:  # it became shorter
                break
            done += count
        return done


def damaged(subject: str, fact: object, path: str) -> DamagedError:
    """The error for bytes that are not what they should be."""
    return DamagedError(
        f"{subject} is damaged: {fact} - in `{path}`. Copy the file again."
    )


def read_error(path: str, error: OSError) -> ReadError:
    """The error for bytes that the system does not deliver."""
    return ReadError(f"Cannot read `{path}`: {error.strerror or error}.")
