"""The bytes of a Keras file: a local file or memory, whole or a member of an archive.

Gives windows onto them. Parses zip archives (`.keras`) as far as the one member that
holds weights; nothing is ever extracted to disk. Knows nothing of HDF5.

Source: keras-team/keras, keras/src/saving/saving_lib.py; PKWARE's APPNOTE.TXT.
"""

from __future__ import annotations

import dataclasses
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from tf2flax._base.errors import (
    DamagedError,
    MalformedError,
    ReadError,
    UnsupportedError,
)
from tf2flax._base.values import ByteRange
from tf2flax._storage.snapshots import FileSnapshot

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# Where the weights lie in an archive. Source: `_VARS_FNAME_H5`, saving_lib.py.
MEMBER: Final = "model.weights.h5"
# What describes the model, in an archive and in a folder. Source: `_CONFIG_FILENAME`.
CONFIG: Final = "config.json"
# zlib makes at most 1032 bytes of one. A file that announces more is a trap, and no
# read takes more memory than this multiple of the file's size.
MAX_EXPANSION: Final = 1100
# How much of a member is read at once (bytes).
_BLOCK_NBYTES: Final = 1 << 20
_HDF5_MAGIC: Final = b"\x89HDF\r\n\x1a\n"
_ZIP_MAGIC: Final = b"PK\x03\x04"
# What precedes the name of a member. Source: APPNOTE.TXT, 4.3.7.
_LOCAL_HEADER: Final = struct.Struct("<4s5H3I2H")
_IS_ENCRYPTED: Final = 0x1
# What zipfile raises on damaged archives.
_ZIP_ERRORS: Final = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    LookupError,
    RuntimeError,
    ValueError,
)


@dataclasses.dataclass(frozen=True, slots=True)
class KerasFile:
    """Where the bytes of an HDF5 file lie; picklable.

    Attributes:
        path: The file; a name for messages where `contents` are given.
        contents: All its bytes; None for a local file.
        span: Which of its bytes are the HDF5; None for all.
        crc32: Their checksum, where they lie in an archive.
        snapshot: What a local file was when it was opened.
        is_member: Whether the HDF5 lies in an archive, or did.
    """

    path: str
    contents: bytes | None = dataclasses.field(default=None, repr=False)
    span: ByteRange | None = None
    crc32: int | None = None
    snapshot: FileSnapshot | None = None
    is_member: bool = False

    def open(self, *, is_exact: bool = False) -> FileSlice:
        """Opens a window onto the bytes; the caller closes it.

        Args:
            is_exact: Whether reads beyond the end fail, instead of giving less.

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
    """Some bytes of a file or of memory, as a file of their own."""

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
            is_exact: Whether reads beyond the end fail, instead of giving less.
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
        # What the system itself refused, which h5py would hide.
        self.failure: OSError | None = None

    @property
    def nbytes(self) -> int:
        """How many bytes there are."""
        return self._span.nbytes

    def snapshot(self, path: str) -> FileSnapshot | None:
        """What the file is now; None for memory.

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
            EOFError: There are fewer, and the window is exact.
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
        """Reads so many bytes.

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
            yield self.read_exactly(min(_BLOCK_NBYTES, self.nbytes - self._position))

    def check_unchanged(self, subject: str) -> None:
        """Checks that nobody has written while it was read: Keras does so in place.

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
                count = os.preadv(self._origin, [target[done:]], start + done)
            except OSError as error:
                self.failure = error
                raise
            if count == 0:  # it became shorter
                break
            done += count
        return done


def weights_in(path: str, contents: bytes | None) -> KerasFile:
    """Finds the HDF5 in a file: all of it, or a member of the archive that it is.

    Args:
        path: As for `KerasFile`.
        contents: As for `KerasFile`.

    Returns:
        Where the HDF5 lies; uncompressed, where it was compressed.

    Raises:
        DamagedError: The archive is cut or malformed, or announces too much.
        UnsupportedError: It holds no weights, or holds them encrypted.
        ReadError: The system refuses.
    """
    whole = KerasFile(path, contents)
    window = whole.open()
    try:
        whole = dataclasses.replace(whole, snapshot=window.snapshot(path))
        if window.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC:
            return _member(whole, window)
        return _without_user_block(whole, window)
    except MalformedError as error:
        raise damaged("The archive", error, path) from error
    except OSError as error:
        raise read_error(path, error) from error
    finally:
        window.close()


def _without_user_block(whole: KerasFile, window: FileSlice) -> KerasFile:
    """HDF5 may follow bytes of the user's own, as many as a power of two from 512."""
    start = 512
    window.seek(0)
    if window.read(len(_HDF5_MAGIC)) == _HDF5_MAGIC:
        return whole
    while start < window.nbytes:
        window.seek(start)
        if window.read(len(_HDF5_MAGIC)) == _HDF5_MAGIC:
            span = ByteRange(start, window.nbytes)
            return dataclasses.replace(whole, span=span)
        start *= 2
    return whole


def checksum_damage(file: KerasFile) -> str | None:
    """Compares the checksum that an archive keeps of its member.

    Args:
        file: The member.

    Returns:
        What is wrong with it; None where nothing is, or there is no checksum.

    Raises:
        DamagedError: The file is gone, or shorter than it was.
        ReadError: The system refuses.
    """
    if file.crc32 is None:
        return None
    window = file.open()
    crc = 0
    try:
        for block in window.blocks():
            crc = zlib.crc32(block, crc)
        window.check_unchanged("The file")
    except MalformedError as error:
        window.check_unchanged("The file")
        raise damaged("The file", error, file.path) from error
    except OSError as error:
        raise read_error(file.path, error) from error
    finally:
        window.close()
    if crc == file.crc32:
        return None
    fact = f"stored crc32 {file.crc32:08x}, computed {crc:08x}"
    return str(damaged(f"`{MEMBER}`", fact, file.path))


def config_in(archive: KerasFile) -> bytes | None:
    """Reads what describes the model in an archive.

    Args:
        archive: All of it.

    Returns:
        The bytes of `config.json`; None where there is none.

    Raises:
        DamagedError: The archive is cut or malformed, or announces too much.
        UnsupportedError: The file is encrypted, or compressed in another way.
        ReadError: The system refuses.
    """
    window = archive.open()
    try:
        found = _named(CONFIG, _infos(window))
        if found is None:
            return None
        span = _checked_span(found, archive.path, window)
        if found.compress_type == zipfile.ZIP_DEFLATED:
            return _inflated(found, window, span)
        stored = window.slice(span.start, span.nbytes)
        if zlib.crc32(stored) != found.CRC:
            raise MalformedError(f"`{CONFIG}` is not what its checksum says")
        return stored
    except MalformedError as error:
        raise damaged("The archive", error, archive.path) from error
    except OSError as error:
        raise read_error(archive.path, error) from error
    finally:
        window.close()


def _member(whole: KerasFile, window: FileSlice) -> KerasFile:
    info = _listed(whole.path, window)
    span = _checked_span(info, whole.path, window)
    whole = dataclasses.replace(whole, is_member=True)
    if info.compress_type == zipfile.ZIP_DEFLATED:
        return dataclasses.replace(whole, contents=_inflated(info, window, span))
    return dataclasses.replace(whole, span=span, crc32=info.CRC)


def _checked_span(info: zipfile.ZipInfo, path: str, window: FileSlice) -> ByteRange:
    """The bytes of a member that can be read."""
    name = info.filename
    if info.flag_bits & _IS_ENCRYPTED:
        raise UnsupportedError(
            f"`{name}` is encrypted - in `{path}`. Give the file that Keras wrote."
        )
    is_deflated = info.compress_type == zipfile.ZIP_DEFLATED
    if not is_deflated and info.compress_type != zipfile.ZIP_STORED:
        raise UnsupportedError(
            f"`{name}` is compressed by method {info.compress_type} - in `{path}`. "
            "Give the file that Keras wrote, which is not compressed."
        )
    ratio = MAX_EXPANSION if is_deflated else 1
    if info.file_size > ratio * info.compress_size:
        raise MalformedError(
            f"`{name}` announces {info.file_size} bytes, stored in {info.compress_size}"
        )
    return _span(info, window)


def _listed(path: str, window: FileSlice) -> zipfile.ZipInfo:
    """What the archive's index says of the member."""
    infos = _infos(window)
    info = _named(MEMBER, infos)
    if info is None:
        holds = ", ".join(f"`{info.filename[:80]}`" for info in infos[:4]) or "nothing"
        raise UnsupportedError(
            f"The archive holds no `{MEMBER}`, but {holds} - at `{path}`. Give a file "
            "of weights: `.weights.h5`, `.h5` or `.keras`."
        )
    return info


def _infos(window: FileSlice) -> list[zipfile.ZipInfo]:
    """The index of the archive."""
    try:
        with zipfile.ZipFile(window) as archive:
            return archive.infolist()
    except _ZIP_ERRORS as error:
        raise MalformedError(f"it is no whole zip archive ({error})") from error


def _named(name: str, infos: list[zipfile.ZipInfo]) -> zipfile.ZipInfo | None:
    """The member of a name; None where there is none."""
    named = [info for info in infos if info.filename == name]
    if len(named) > 1:
        raise MalformedError(f"it holds `{name}` {len(named)} times")
    return named[0] if named else None


def _span(info: zipfile.ZipInfo, window: FileSlice) -> ByteRange:
    """The bytes of the member: behind a header of its own."""
    name = info.filename
    if info.header_offset < 0:
        raise MalformedError(f"`{name}` does not lie where its index says")
    window.seek(info.header_offset)
    header = _LOCAL_HEADER.unpack(window.read_exactly(_LOCAL_HEADER.size))
    magic, *_, name_nbytes, extra_nbytes = header
    if magic != _ZIP_MAGIC or window.read_exactly(name_nbytes) != name.encode():
        raise MalformedError(f"`{name}` does not lie where its index says")
    start = window.tell() + extra_nbytes
    stop = start + info.compress_size
    if stop > window.nbytes:
        raise MalformedError(f"`{name}` is cut {stop - window.nbytes} bytes short")
    return ByteRange(start, stop)


def _inflated(info: zipfile.ZipInfo, window: FileSlice, span: ByteRange) -> bytes:
    """Uncompresses the member, to the size that it announces and no further."""
    name = info.filename
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    out = bytearray()
    window.seek(span.start)
    try:
        for start in range(span.start, span.stop, _BLOCK_NBYTES):
            block = window.read_exactly(min(_BLOCK_NBYTES, span.stop - start))
            # One byte more would show that there is more.
            out += inflater.decompress(block, info.file_size - len(out) + 1)
            if len(out) > info.file_size:
                break
    except zlib.error as error:
        raise MalformedError(f"`{name}` cannot be uncompressed ({error})") from error
    if len(out) != info.file_size or not inflater.eof:
        raise MalformedError(f"`{name}` is not of the size that it announces")
    if zlib.crc32(out) != info.CRC:
        raise MalformedError(
            f"`{name}`: stored crc32 {info.CRC:08x}, computed {zlib.crc32(out):08x}"
        )
    return bytes(out)


def damaged(subject: str, fact: object, path: str) -> DamagedError:
    """The error for bytes that are not what they should be."""
    return DamagedError(
        f"{subject} is damaged: {fact} - in `{path}`. Copy the file again."
    )


def read_error(path: str, error: OSError) -> ReadError:
    """The error for bytes that the system does not deliver."""
    return ReadError(f"Cannot read `{path}`: {error.strerror or error}.")
