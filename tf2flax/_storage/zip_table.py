"""The table at the end of a zip archive: names of its members, and where they lie.

    |header|bytes of a member|header|…|  row  |  row  |…| end |
     ^ offset of the first row's member  ^ table, which the end says the length of

Source: PKWARE's APPNOTE.TXT, 4.3.12 (a row), 4.3.16 (the end), 4.5.3 (zip64).
"""

from __future__ import annotations

import shlex
import struct
from typing import Final, NamedTuple
from urllib.parse import unquote

# How much of the end is read: the table of some ten thousand members (bytes).
TAIL_NBYTES: Final = 1 << 20
END_MAGIC: Final = b"PK\x05\x06"
_END: Final = struct.Struct("<4s4H2IH")
_ROW: Final = struct.Struct("<4s6H3I5H2I")
_ROW_MAGIC: Final = b"PK\x01\x02"
_UTF8: Final = 0x800
_ENCRYPTED: Final = 0x1
_DESCRIPTOR: Final = 0x8
# Methods that tensorstore reads: none, deflate, bzip2, Zstandard and xz.
_READ_METHODS: Final = (0, 8, 12, 93, 95)
_METHOD_NAMES: Final = {9: "Deflate64", 14: "LZMA", 98: "PPMd"}
# A field of 4 bytes whose number needs 8, which stand in the extra of this kind.
_IN_EXTRA: Final = 0xFFFFFFFF
_ZIP64: Final = 1


class Member(NamedTuple):
    """A member of an archive.

    Attributes:
        key: Its name, as it is stored.
        is_utf8: True if the name is stored as UTF-8, else it is of code page 437.
        is_encrypted: True if a password is needed.
        has_descriptor: True if its size follows its bytes, as in an archive that was
            written into a pipe.
        method: How it is compressed: 0 not at all, 8 by deflate.
        crc32: CRC-32 of what it is uncompressed.
        packed_nbytes: Bytes in the archive.
        nbytes: Bytes uncompressed.
        offset: Where its header begins.
    """

    key: bytes
    is_utf8: bool
    is_encrypted: bool
    has_descriptor: bool
    method: int
    crc32: int
    packed_nbytes: int
    nbytes: int
    offset: int

    @property
    def name(self) -> str:
        """Its name; what is no text of its encoding is replaced."""
        return self.key.decode("utf-8" if self.is_utf8 else "cp437", "replace")

    @property
    def obstacle(self) -> str:
        """What keeps tensorstore from reading it; "" for nothing."""
        if self.is_encrypted:
            return "encrypted"
        if self.method not in _READ_METHODS:
            name = _METHOD_NAMES.get(self.method, f"method {self.method} of zip")
            return f"compressed by {name}"
        if self.has_descriptor:
            return "followed by a data descriptor"
        return ""


def unpack_archive(path: str, obstacle: str) -> str:
    """The command that unpacks an archive which tensorstore cannot read.

    Args:
        path: The archive, for messages.
        obstacle: What keeps tensorstore from reading a member.
    """
    is_here = "://" not in path or path.lower().startswith("file:")
    local = unquote(path.partition("://")[2]) if "://" in path else path
    name = shlex.quote(local if is_here else local.rpartition("/")[2])
    # `unzip` asks for the password, and knows no LZMA.
    is_encrypted = obstacle == "encrypted"
    command = f"unzip {name}" if is_encrypted else f"python -m zipfile -e {name} ."
    return f"{'Unpack' if is_here else 'Download and unpack'} it, `{command}`"


def read_table(tail: bytes) -> list[Member] | None:
    """Reads the table of an archive.

    Args:
        tail: The last bytes of the archive.

    Returns:
        All files, in the order of the table, of a table longer than `tail` the last
        ones; None where the table is not there.
    """
    end = tail.rfind(END_MAGIC)
    if end < 0 or len(tail) - end < _END.size:
        return None
    nbytes = _END.unpack_from(tail, end)[5]
    position = end - nbytes
    if position < 0 or (nbytes and tail[position : position + 4] != _ROW_MAGIC):
        # A table longer than the tail, or of a large archive (zip64).
        position = tail.find(_ROW_MAGIC)
    members: list[Member] = []
    while 0 <= position <= end - _ROW.size:
        row = _ROW.unpack_from(tail, position)
        if row[0] != _ROW_MAGIC:
            break
        start = position + _ROW.size
        key = tail[start : start + row[10]]
        position = start + row[10] + row[11]
        extra = tail[start + row[10] : position]
        position += row[12]  # a comment
        nbytes, packed_nbytes, offset = _wide_fields((row[9], row[8], row[16]), extra)
        members.append(
            Member(
                key,
                is_utf8=bool(row[3] & _UTF8),
                is_encrypted=bool(row[3] & _ENCRYPTED),
                has_descriptor=bool(row[3] & _DESCRIPTOR),
                method=row[4],
                crc32=row[7],
                packed_nbytes=packed_nbytes,
                nbytes=nbytes,
                offset=offset,
            )
        )
    return [member for member in members if not member.key.endswith(b"/")]


def _wide_fields(fields: tuple[int, ...], extra: bytes) -> tuple[int, ...]:
    """Fields of 4 bytes; of those that need 8, the number from the extra."""
    if _IN_EXTRA not in fields:
        return fields
    position = 0
    while position + 4 <= len(extra):
        kind, nbytes = struct.unpack_from("<2H", extra, position)
        position += 4
        if kind == _ZIP64:
            stored = extra[position : position + nbytes]
            numbers = iter(struct.unpack_from(f"<{len(stored) // 8}Q", stored))
            # Only those that are needed are there, in this order.
            return tuple(
                next(numbers, field) if field == _IN_EXTRA else field
                for field in fields
            )
        position += nbytes
    return fields
