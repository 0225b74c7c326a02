"""Zip archives that are no checkpoint: what lies in them, and how to open that.

Reads the end of an archive, where its table lies, and nothing else. tensorstore opens
what a zip archive holds by a URL; this finds the URL.

Source: PKWARE's APPNOTE.TXT, 4.3.12 and 4.3.16; URLs of tensorstore's zip driver:
https://google.github.io/tensorstore/kvstore/zip/index.html
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

from tf2flax._base.errors import CheckpointError
from tf2flax._storage.base import Storage
from tf2flax._storage.foreign import PATH, ForeignFile

ZIP_MAGIC: Final = b"PK\x03\x04"
_EMPTY_MAGIC: Final = b"PK\x05\x06"
# How much of the end is read: the table of some ten thousand members (bytes).
_TAIL_NBYTES: Final = 1 << 20
# The end of the table, which says how long the table is, and one row of it.
_END: Final = struct.Struct("<4s4H2IH")
_ROW: Final = struct.Struct("<4s6H3I5H2I")
_ROW_MAGIC: Final = b"PK\x01\x02"
_UTF8: Final = 0x800
# What may come first in an archive that Keras wrote, or that was made of its folder.
_KERAS_MEMBERS: Final = ("metadata.json", "config.json", "model.weights.h5", "assets/")
_LOCAL_NBYTES: Final = 30


def is_zip(head: bytes) -> bool:
    """True if a file begins as a zip archive."""
    return head.startswith((ZIP_MAGIC, _EMPTY_MAGIC))


def is_keras_archive(head: bytes, path: str) -> bool:
    """Tells whether an archive is one of Keras's, by its name and its first member."""
    if not head.startswith(ZIP_MAGIC):
        return False
    size = int.from_bytes(head[26:28], "little")
    member = head[_LOCAL_NBYTES : _LOCAL_NBYTES + size].decode("utf-8", "replace")
    return path.endswith(".keras") or member.startswith(_KERAS_MEMBERS)


def describe_zip(storage: Storage, path: str, endings: tuple[str, ...]) -> ForeignFile:
    """Says what a zip archive holds.

    Args:
        storage: Where it lies.
        path: Its path.
        endings: Endings of files that are checkpoints by themselves.

    Returns:
        Its kind, and a way out: URLs of the checkpoints in it.
    """
    try:
        names = _names_in(storage.file(path).tail(_TAIL_NBYTES))
    except CheckpointError:
        names = None
    if names is None:
        return ForeignFile(
            "a zip archive that was cut short", "Copy the file again.", None
        )
    checkpoints = [name for name in names if not _is_metadata(name)]
    prefixes = [n.removesuffix(".index") for n in checkpoints if n.endswith(".index")]
    prefixes += [name for name in checkpoints if name.endswith(endings)]
    # tensorstore opens each by a URL of its own: nothing need be unpacked.
    if prefixes:
        url = _url_of(storage, path)
        which = " or ".join(f"`{url}|zip:{quote(name)}`" for name in prefixes[:4])
        return ForeignFile("a zip archive of a checkpoint", f"Give {which}.", None)
    return _kind_of(names)


def _kind_of(names: Sequence[str]) -> ForeignFile:
    """What archives of a program are known by."""
    if any(name.rpartition("/")[2] == "data.pkl" for name in names):
        if any(name.rpartition("/")[2] == "constants.pkl" for name in names):
            reader, kind = f"torch.jit.load({PATH})", "a TorchScript model"
        else:
            reader = f"torch.load({PATH}, weights_only=True)"
            kind = "a checkpoint of PyTorch"
    elif names and all(name.endswith(".npy") for name in names):
        reader, kind = f"numpy.load({PATH})", "arrays of NumPy (`.npz`)"
    else:
        # Names may hold anything, escapes of terminals too.
        shown_names = (repr(name[:80])[1:-1] for name in names[:4])
        holds = ", ".join(f"`{name}`" for name in shown_names) or "nothing"
        return ForeignFile(
            f"a zip archive that holds no checkpoint, but {holds}",
            "Give the prefix of a checkpoint, or a file of Keras weights.",
            None,
        )
    return ForeignFile(
        kind,
        f"`{reader}` reads it; tf2flax reads checkpoints of TensorFlow and Keras "
        "weights.",
        None,
    )


def _names_in(tail: bytes) -> list[str] | None:
    """The names of all files in an archive.

    Args:
        tail: Its last bytes.

    Returns:
        The names, in the order of the table, of a table longer than `tail` the last
        ones; None where the table is not there.
    """
    end = tail.rfind(_EMPTY_MAGIC)
    if end < 0 or len(tail) - end < _END.size:
        return None
    nbytes = _END.unpack_from(tail, end)[5]
    position = end - nbytes
    if position < 0 or (nbytes and tail[position : position + 4] != _ROW_MAGIC):
        # A table longer than the tail, or of a large archive (zip64).
        position = tail.find(_ROW_MAGIC)
    names: list[str] = []
    while 0 <= position <= end - _ROW.size:
        row = _ROW.unpack_from(tail, position)
        if row[0] != _ROW_MAGIC:
            break
        start = position + _ROW.size
        name = tail[start : start + row[10]]
        names.append(name.decode("utf-8" if row[3] & _UTF8 else "cp437", "replace"))
        position = start + row[10] + row[11] + row[12]
    return [name for name in names if not name.endswith("/")]


def _is_metadata(name: str) -> bool:
    """True for what macOS puts beside each file."""
    return name.startswith("__MACOSX/") or name.rpartition("/")[2].startswith("._")


def _url_of(storage: Storage, path: str) -> str:
    full_path = storage.show(path)
    return f"file://{quote(full_path)}" if storage.is_local else full_path
