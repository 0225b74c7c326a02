"""Parts of sharded saves that were interrupted before TensorFlow merged them.

Recognises them by their names, and says how they can still be opened; reads no file.

Source: tensorflow/python/training/saver.py (`_AddShardedSaveOps`: parts that are
merged, and removed, at the end).
"""

from __future__ import annotations

import collections
import json
import os
import re
from typing import Final

from tf2flax._base.errors import CheckpointError
from tf2flax._storage.base import Storage

# Where a sharded save puts its parts until it merges them, with a number or without.
# S3 has no folders: there they lie beside the checkpoint.
_TEMPORARY: Final = re.compile(r"(?P<prefix>.*)_temp(_[0-9a-f]{32})?", re.S)
_PART: Final = re.compile(
    r"(?P<stem>(?P<prefix>.*\.)?part)-(?P<number>\d{5})-of-(?P<count>\d{5})\.index",
    re.S,
)


def is_part(prefix: str) -> bool:
    """Tells whether a prefix is that of a part of a sharded save, by its name."""
    return bool(_PART.fullmatch(f"{os.path.basename(prefix)}.index"))


def describe_interrupted_save(
    storage: Storage, directory: str, prefix: str = ""
) -> str:
    """Describes the parts of a sharded save that never ended.

    Args:
        storage: The place.
        directory: Where they lie, or the folders that hold them.
        prefix: The end of the path of one checkpoint, whose parts alone are meant; ""
            for those of any.

    Returns:
        Sentences that say what is there and what to do; "" where there are none.
    """
    parts = _parts_in(storage, directory, prefix)
    for folder in _folders_in(storage, directory):
        temporary = _TEMPORARY.fullmatch(folder)
        if temporary and prefix in ("", temporary["prefix"]):
            parts |= _parts_in(storage, os.path.join(directory, folder), "")
    for (stem, count), numbers in sorted(parts.items()):
        total = int(count)
        full_stem = storage.show(stem)
        what = (
            f"{len(numbers)} of the {total} parts of a sharded save that was "
            f"interrupted before it merged them lie at `{full_stem}-?????-of-{count}`"
        )
        if len(numbers) < total:
            number = min(numbers)
            way = (
                "The checkpoint is not complete: use an earlier one, or give a part as "
                f"a prefix: `{full_stem}-{number:05d}-of-{count}`."
            )
        elif total == 1:
            way = f"Give it as a prefix: `{full_stem}-00000-of-00001`."
        else:
            # A literal of Python: paths may have quotes and braces.
            path = re.sub(r"[{}]", r"\g<0>\g<0>", full_stem)
            path = json.dumps(f"{path}-{{i:05d}}-of-{count}", ensure_ascii=False)
            way = (
                "Open all together: tf2flax.merge_checkpoints("
                f"[f{path} for i in range({total})])."
            )
        return f"{what}. {way}"
    return ""


def _parts_in(
    storage: Storage, directory: str, prefix: str
) -> dict[tuple[str, str], set[int]]:
    """Numbers of parts by their common path and count."""
    parts: dict[tuple[str, str], set[int]] = collections.defaultdict(set)
    for name in _names_in(storage, directory):
        match = _PART.fullmatch(name)
        if match and int(match["number"]) < int(match["count"]):
            start = (match["prefix"] or "").removesuffix(".")
            if prefix in ("", start):
                key = (os.path.join(directory, match["stem"]), match["count"])
                parts[key].add(int(match["number"]))
    return parts


def _names_in(storage: Storage, directory: str) -> list[str]:
    try:
        return storage.names_in(directory)
    except CheckpointError:  # the message does without
        return []


def _folders_in(storage: Storage, directory: str) -> list[str]:
    try:
        return storage.folders_in(directory)
    except CheckpointError:
        return []
