"""HDF5 in a file of Keras's: all of it, behind a user block, or a member of an archive.

Parses zip archives (`.keras`) as far as the members that hold weights and config;
nothing is ever extracted to disk, and nothing of HDF5 is parsed.

Source: keras-team/keras, keras/src/saving/saving_lib.py; PKWARE's APPNOTE.TXT.
"""

from __future__ import annotations

import dataclasses
import struct
import zipfile
import zlib
from typing import Final

from tf2flax._base.errors import MalformedError, UnsupportedError
from tf2flax._base.values import ByteRange

from .file import BLOCK_NBYTES, MAX_EXPANSION, FileSlice, KerasFile, damaged, read_error

# Where the weights lie in an archive. Source: `_VARS_FNAME_H5`, saving_lib.py.
MEMBER: Final = "model.weights.h5"
# What describes the model, in an archive and in a folder. Source: `_CONFIG_FILENAME`.
CONFIG: Final = "config.json"
HDF5_MAGIC: Final = b"\x89HDF\r\n\x1a\n"
ZIP_MAGIC: Final = b"PK\x03\x04"
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
    stream = whole.open()
    try:
        whole = dataclasses.replace(whole, snapshot=stream.snapshot(path))
        if stream.read(len(ZIP_MAGIC)) == ZIP_MAGIC:
            return _member(whole, stream)
        return _without_user_block(whole, stream)
    except MalformedError as error:
        raise damaged("The archive", error, path) from error
    except OSError as error:
        raise read_error(path, error) from error
    finally:
        stream.close()


def _without_user_block(whole: KerasFile, stream: FileSlice) -> KerasFile:
    """Finds HDF5 behind bytes of the user's: as many as a power of two, from 512 on."""
    start = 512
    stream.seek(0)
    if stream.read(len(HDF5_MAGIC)) == HDF5_MAGIC:
        return whole
    while start < stream.nbytes:
        stream.seek(start)
        if stream.read(len(HDF5_MAGIC)) == HDF5_MAGIC:
            span = ByteRange(start, stream.nbytes)
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
    stream = file.open()
    crc = 0
    try:
        for block in stream.blocks():
            crc = zlib.crc32(block, crc)
        stream.check_unchanged("The file")
    except MalformedError as error:
        stream.check_unchanged("The file")
        raise damaged("The file", error, file.path) from error
    except OSError as error:
        raise read_error(file.path, error) from error
    finally:
        stream.close()
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
    stream = archive.open()
    try:
        info = _info_of(CONFIG, _infos_of(stream))
        if info is None:
            return None
        span = _checked_span(info, archive.path, stream)
        if info.compress_type == zipfile.ZIP_DEFLATED:
            return _inflated(info, stream, span)
        stored = stream.slice(span.start, span.nbytes)
        if zlib.crc32(stored) != info.CRC:
            raise MalformedError(f"`{CONFIG}` is not what its checksum says")
        return stored
    except MalformedError as error:
        raise damaged("The archive", error, archive.path) from error
    except OSError as error:
        raise read_error(archive.path, error) from error
    finally:
        stream.close()


def _member(whole: KerasFile, stream: FileSlice) -> KerasFile:
    info = _weights_info(whole.path, stream)
    span = _checked_span(info, whole.path, stream)
    whole = dataclasses.replace(whole, is_member=True)
    if info.compress_type == zipfile.ZIP_DEFLATED:
        return dataclasses.replace(whole, contents=_inflated(info, stream, span))
    return dataclasses.replace(whole, span=span, crc32=info.CRC)


def _checked_span(info: zipfile.ZipInfo, path: str, stream: FileSlice) -> ByteRange:
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
    return _member_span(info, stream)


def _weights_info(path: str, stream: FileSlice) -> zipfile.ZipInfo:
    """The entry of the weights in the archive's index."""
    infos = _infos_of(stream)
    info = _info_of(MEMBER, infos)
    if info is None:
        holds = ", ".join(f"`{info.filename[:80]}`" for info in infos[:4]) or "nothing"
        raise UnsupportedError(
            f"The archive holds no `{MEMBER}`, but {holds} - at `{path}`. Give a file "
            "of weights: `.weights.h5`, `.h5` or `.keras`."
        )
    return info


def _infos_of(stream: FileSlice) -> list[zipfile.ZipInfo]:
    """All entries of the archive's index."""
    try:
        with zipfile.ZipFile(stream) as archive:
            return archive.infolist()
    except _ZIP_ERRORS as error:
        raise MalformedError(f"it is not a whole zip archive ({error})") from error


def _info_of(name: str, infos: list[zipfile.ZipInfo]) -> zipfile.ZipInfo | None:
    """The entry of a name; None if there is none."""
    named = [info for info in infos if info.filename == name]
    if len(named) > 1:
        raise MalformedError(f"it holds `{name}` {len(named)} times")
    return named[0] if named else None


def _member_span(info: zipfile.ZipInfo, stream: FileSlice) -> ByteRange:
    """The bytes of a member, which follow its local header."""
    name = info.filename
    if info.header_offset < 0:
        raise MalformedError(f"`{name}` does not lie where its index says")
    stream.seek(info.header_offset)
    header = _LOCAL_HEADER.unpack(stream.read_exactly(_LOCAL_HEADER.size))
    magic, *_, name_nbytes, extra_nbytes = header
    if magic != ZIP_MAGIC or stream.read_exactly(name_nbytes) != name.encode():
        raise MalformedError(f"`{name}` does not lie where its index says")
    start = stream.tell() + extra_nbytes
    stop = start + info.compress_size
    if stop > stream.nbytes:
        raise MalformedError(f"`{name}` is cut {stop - stream.nbytes} bytes short")
    return ByteRange(start, stop)


def _inflated(info: zipfile.ZipInfo, stream: FileSlice, span: ByteRange) -> bytes:
    """Uncompresses a member, to the size that it announces and no further."""
    name = info.filename
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    out = bytearray()
    stream.seek(span.start)
    try:
        for start in range(span.start, span.stop, BLOCK_NBYTES):
            block = stream.read_exactly(min(BLOCK_NBYTES, span.stop - start))
            # One byte more than announced, so that too much data is noticed.
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
