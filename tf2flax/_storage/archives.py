"""Compressed members of zip archives: uncompressed once, not for each request.

tensorstore reads what a zip archive holds, by its URL. A compressed member can only be
read from its beginning, so that it uncompresses all that lies before a range, and
downloads it first where the archive lies on a server: a data file of 440 MB that is
read in ranges of 2 MiB would be downloaded 200 times. Here it is uncompressed the first
time that some of it is wanted, into a temporary file, of which ranges are then read::

    archive           |header|deflated bytes|…|table|end|      read once, in order
                               |
    temporary file    |bytes of the member           |         any range, any number

The file has no name, and its room is free again when nothing refers to the checkpoint.
Members that are stored as they are, and what this does not know (other methods than
deflate, passwords), are left to tensorstore.

Source: PKWARE's APPNOTE.TXT, 4.3.7 (the header of a member).
"""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from tf2flax._base.data_files import DataFile
from tf2flax._base.errors import DamagedError, ReadError, UnsupportedError
from tf2flax._base.text import format_nbytes
from tf2flax._base.values import encode_name

from .faults import write_error
from .local import read_at
from .writing import write_all
from .zip_table import TAIL_NBYTES, Member, read_table, unpack_archive

_DEFLATE: Final = 8
_HEADER_NBYTES: Final = 30
_HEADER_MAGIC: Final = b"PK\x03\x04"
# The table is looked for in so much, and then in `TAIL_NBYTES` (bytes).
_SHORT_TAIL_NBYTES: Final = 64 << 10
# How much is read of the archive, and uncompressed, at a time (bytes).
_BLOCK_NBYTES: Final = 8 << 20


class UnpackedFile:
    """A member of an archive, uncompressed into a file without a name."""

    __slots__ = ("_descriptor", "nbytes")
    # Still there when Python ends, and modules may have been emptied.
    _close = staticmethod(os.close)

    def __init__(self, descriptor: int, nbytes: int) -> None:
        """Takes an open file, which it closes.

        Args:
            descriptor: The file.
            nbytes: Its size.
        """
        self._descriptor = descriptor
        self.nbytes = nbytes

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fills a buffer from a byte position; the file is long enough."""
        while len(buffer):
            count = read_at(self._descriptor, buffer, start)
            assert count, "the file has become shorter"
            buffer, start = buffer[count:], start + count

    def read(self, start: int, nbytes: int) -> bytes:
        """Bytes from a position; fewer at the end of the file."""
        buffer = bytearray(max(0, min(nbytes, self.nbytes - start)))
        self.read_into(start, memoryview(buffer))
        return bytes(buffer)

    def __del__(self) -> None:
        """Closes the file, and with it removes it."""
        self._close(self._descriptor)


class Archive:
    """A zip archive whose compressed members are uncompressed once."""

    __slots__ = ("_damage", "_file", "_lock", "_members", "_tail_nbytes", "_unpacked")

    def __init__(self, file: DataFile) -> None:
        """Reads nothing yet.

        Args:
            file: The archive.
        """
        self._file = file
        self._lock = threading.Lock()
        self._members: Mapping[bytes, Member] = {}
        # How much of its end has been read.
        self._tail_nbytes = 0
        # None for members that tensorstore reads.
        self._unpacked: dict[bytes, UnpackedFile | None] = {}
        # What is wrong with members that cannot be uncompressed.
        self._damage: dict[bytes, str] = {}

    def unpacked(
        self, key: str, *, subject: str, check: Callable[[], None]
    ) -> UnpackedFile | None:
        """A compressed member, uncompressed; other threads wait for it.

        Args:
            key: Name of the member.
            subject: What is read, for messages.
            check: Called when a member has been uncompressed, to see whether it still
                belongs to what was read before.

        Returns:
            The file; None where tensorstore reads the member itself.

        Raises:
            DamagedError: What comes out is not what was compressed.
            UnsupportedError: There is no room for it.
            ReadError: The system or the store refuses.
        """
        name = encode_name(key)
        with self._lock:
            if name in self._damage:  # not uncompressed again for each tensor
                raise DamagedError(self._damage[name])
            if name not in self._unpacked:
                member = self._find(name)
                try:
                    unpacked = None if member is None else self._unpack(member, subject)
                except DamagedError as error:
                    self._damage[name] = str(error)
                    raise
                if unpacked is not None:
                    check()
                self._unpacked[name] = unpacked
            return self._unpacked[name]

    @property
    def path(self) -> str:
        """Its path or URL, for messages."""
        return self._file.path

    def exists(self) -> bool:
        """True if there is an archive, or the store does not say that there is none."""
        try:
            return bool(self._file.tail(1))
        except DamagedError:
            return False
        except ReadError:
            return True

    def why_unread(self, prefix: str) -> str:
        """Says why tensorstore cannot read the members below a prefix.

        Args:
            prefix: How their names begin.

        Returns:
            The fact and the way out, in sentences; "" where nothing is in the way.
        """
        try:
            members = read_table(self._file.tail(TAIL_NBYTES)) or []
        except (DamagedError, ReadError):
            return ""
        start = encode_name(prefix)
        for member in members:
            if member.key.startswith(start) and member.obstacle:
                fix = unpack_archive(self.path, member.obstacle)
                return (
                    f"`{member.name}` is {member.obstacle}, which is not read in an "
                    f"archive - in `{self.path}`. {fix}, and give "
                    f"`{prefix.removesuffix('.index')}`."
                )
        return ""

    def _find(self, name: bytes) -> Member | None:
        """A member that is uncompressed here."""
        for nbytes in (_SHORT_TAIL_NBYTES, TAIL_NBYTES):
            if name not in self._members and nbytes > self._tail_nbytes:
                members = read_table(self._file.tail(nbytes)) or []
                self._members = {member.key: member for member in members}
                self._tail_nbytes = nbytes
        member = self._members.get(name)
        if member is None or member.is_encrypted or member.method != _DEFLATE:
            return None
        return member

    def _unpack(self, member: Member, subject: str) -> UnpackedFile | None:
        """Uncompresses a member into a temporary file; None if it is not there."""
        start = self._start_of(member, subject)
        if start is None:
            return None
        folder = "TMPDIR"
        try:
            folder = tempfile.gettempdir()
            self._check_room(member, folder)
            with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
                self._write_unpacked(member, start, file.fileno(), subject)
                return UnpackedFile(os.dup(file.fileno()), member.nbytes)
        except (DamagedError, ReadError, UnsupportedError):
            raise
        except OSError as error:
            raise write_error(folder, error) from error

    def _start_of(self, member: Member, subject: str) -> int | None:
        """Where the bytes of a member begin; None if something else lies there."""
        header = bytearray(_HEADER_NBYTES)
        self._file.read_into(member.offset, memoryview(header), subject=subject)
        if not header.startswith(_HEADER_MAGIC):
            return None
        name_nbytes, extra_nbytes = struct.unpack_from("<2H", header, 26)
        return member.offset + _HEADER_NBYTES + name_nbytes + extra_nbytes

    def _check_room(self, member: Member, folder: str) -> None:
        free = shutil.disk_usage(folder).free
        if member.nbytes > free:
            raise UnsupportedError(
                f"`{member.name}` is compressed, and uncompressing it takes "
                f"{format_nbytes(member.nbytes)} in `{folder}`, where "
                f"{format_nbytes(free)} are free - in `{self._file.path}`. Set TMPDIR "
                "to a folder with more room, or uncompress the archive yourself."
            )

    def _write_unpacked(
        self, member: Member, start: int, descriptor: int, subject: str
    ) -> None:
        """Writes what a member is uncompressed, and checks it."""
        nbytes = crc32 = 0
        try:
            for block in self._inflated(member, start, subject):
                nbytes += len(block)
                if nbytes > member.nbytes:
                    break
                crc32 = zlib.crc32(block, crc32)
                write_all(descriptor, memoryview(block))
        except zlib.error as error:
            raise self._damaged(member, subject, str(error)) from error
        if nbytes != member.nbytes:
            sizes = f"uncompressed it has not {member.nbytes} bytes"
            raise self._damaged(member, subject, sizes)
        if crc32 != member.crc32:
            sums = f"stored CRC-32 {member.crc32:08x}, computed {crc32:08x}"
            raise self._damaged(member, subject, sums)

    def _inflated(self, member: Member, start: int, subject: str) -> Iterator[bytes]:
        """Yields the bytes of a member, block by block."""
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        for offset in range(0, member.packed_nbytes, _BLOCK_NBYTES):
            packed = bytearray(min(_BLOCK_NBYTES, member.packed_nbytes - offset))
            self._file.read_into(start + offset, memoryview(packed), subject=subject)
            pending, block = bytes(packed), b""
            # zlib may hold back bytes after it has taken all that it was given.
            while pending or len(block) == _BLOCK_NBYTES:
                block = inflater.decompress(pending, _BLOCK_NBYTES)
                pending = inflater.unconsumed_tail
                yield block

    def _damaged(self, member: Member, subject: str, fact: str) -> DamagedError:
        return DamagedError(
            f"{subject} cannot be read: `{member.name}` is damaged: {fact} - in "
            f"`{self._file.path}`. Copy the archive again."
        )

    def __eq__(self, other: object) -> bool:
        """True if both are the same archive."""
        return isinstance(other, Archive) and self._file == other._file

    def __hash__(self) -> int:
        """Hashes what equal archives share."""
        return hash(self._file)

    def __reduce__(self) -> tuple[type[Archive], tuple[DataFile]]:
        """Pickles the archive alone: a copy uncompresses members anew."""
        return Archive, (self._file,)
