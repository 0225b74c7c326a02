"""Zip archives that are no checkpoint: what lies in them, and how to open that.

Reads the end of an archive, where its table lies, and nothing else. tensorstore opens
what a zip archive holds by a URL; this finds the URL.

Source: PKWARE's APPNOTE.TXT, 4.3.7; URLs of tensorstore's zip driver:
https://google.github.io/tensorstore/kvstore/zip/index.html
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

from tf2flax._base.errors import CheckpointError
from tf2flax._base.text import printable
from tf2flax._storage.base import Storage
from tf2flax._storage.foreign import PATH, ForeignFile
from tf2flax._storage.zip_table import (
    END_MAGIC,
    TAIL_NBYTES,
    read_table,
    unpack_archive,
)

ZIP_MAGIC: Final = b"PK\x03\x04"
# What may come first in an archive that Keras wrote, or that was made of its folder.
_KERAS_MEMBERS: Final = ("metadata.json", "config.json", "model.weights.h5", "assets/")
_LOCAL_NBYTES: Final = 30


def is_zip(head: bytes) -> bool:
    """True if a file begins as a zip archive."""
    return head.startswith((ZIP_MAGIC, END_MAGIC))


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
        members = read_table(storage.file(path).tail(TAIL_NBYTES))
    except CheckpointError:
        members = None
    if members is None:
        return ForeignFile(
            "a zip archive that was cut short", "Copy the file again.", None
        )
    names = [member.name for member in members]
    checkpoints = [name for name in names if not _is_metadata(name)]
    prefixes = [n.removesuffix(".index") for n in checkpoints if n.endswith(".index")]
    prefixes += [name for name in checkpoints if name.endswith(endings)]
    # tensorstore opens each by a URL of its own: nothing need be unpacked.
    if prefixes:
        obstacles = [m.obstacle for m in members if m.name.startswith(prefixes[0])]
        if obstacle := next(filter(None, obstacles), ""):
            fix = unpack_archive(storage.show(path), obstacle)
            return ForeignFile(
                f"a zip archive of a checkpoint that is {obstacle}",
                f"{fix}, and give `{printable(prefixes[0])}`.",
                None,
            )
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


def _is_metadata(name: str) -> bool:
    """True for what macOS puts beside each file."""
    return name.startswith("__MACOSX/") or name.rpartition("/")[2].startswith("._")


def _url_of(storage: Storage, path: str) -> str:
    full_path = storage.show(path)
    return f"file://{quote(full_path)}" if storage.is_local else full_path
