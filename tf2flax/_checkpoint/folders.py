"""What lies in a folder besides checkpoints of TensorFlow, and what is left of them.

Finds the weights in a folder of Keras's, tells the parts of a save that was interrupted
from checkpoints, and names patterns of V1 files. Reads no weights.

Source: keras-team/keras, keras/src/saving/saving_lib.py (`_save_model_to_dir`);
tensorflow/python/training/saver.py (`_AddShardedSaveOps`: parts that are merged, and
removed, at the end).
"""

from __future__ import annotations

import collections
import glob
import json
import os
import re
from typing import Final

from tf2flax._base.errors import CheckpointError, CheckpointNotFoundError
from tf2flax._formats.keras.file import CONFIG, MEMBER
from tf2flax._storage.base import Storage

# Keras weights in several files have an index; in a folder of Keras's it is this.
SHARDS: Final = "model.weights.json"
_INDEX: Final = ".weights.json"
# What else may hold Keras weights, for messages.
_WEIGHTS: Final = (".weights.h5", ".keras", ".h5", ".hdf5", _INDEX)
# One of the files of a V1 checkpoint that was saved by several devices.
_V1_PART: Final = re.compile(r"(?P<prefix>.*)-\d{5}-of-(?P<count>\d{5})", re.S)
# Where a sharded save puts its parts until it merges them, with a number or without.
# S3 has no folders: there they lie beside the checkpoint.
_TEMPORARY: Final = re.compile(r"(?P<prefix>.*)_temp(_[0-9a-f]{32})?", re.S)
_PART: Final = re.compile(
    r"(?P<stem>(?P<prefix>.*\.)?part)-(?P<number>\d{5})-of-(?P<count>\d{5})\.index",
    re.S,
)


def keras_weights(storage: Storage, directory: str) -> tuple[str, str] | None:
    """Finds the weights of a model that Keras saved as a folder.

    Args:
        storage: The place.
        directory: The folder: an unzipped `.keras`, a preset of KerasHub, or one that
            holds weights in several files.

    Returns:
        The file of weights or the index of several, and the model's config, "" where
        there is none; None where it is no such folder.

    Raises:
        CheckpointNotFoundError: It holds several indexes of weights.
        ReadError: The store refuses.
    """
    names = _names_in(storage, directory)
    if names is not None and any(name.endswith(".index") for name in names):
        return None  # of which it is not clear that Keras's weights are meant
    for name in (MEMBER, SHARDS):
        path = os.path.join(directory, name)
        if (name in names) if names is not None else storage.is_file(path):
            config = os.path.join(directory, CONFIG)
            return path, config if storage.is_file(config) else ""
    indexes = [name for name in names or () if name.endswith(_INDEX)]
    if len(indexes) > 1:
        which = " or ".join(f"`{name}`" for name in indexes[:4])
        raise CheckpointNotFoundError(
            f"`{storage.show(directory)}` holds {len(indexes)} indexes of Keras "
            f"weights. Give the one that is meant: {which}."
        )
    return (os.path.join(directory, indexes[0]), "") if indexes else None


def keras_files(storage: Storage, directory: str) -> list[str]:
    """Files in a folder that may hold Keras weights, by their names alone."""
    names = _names_in(storage, directory) or []
    return [os.path.join(directory, name) for name in names if name.endswith(_WEIGHTS)]


def v1_patterns(storage: Storage, prefix: str) -> list[str]:
    """Patterns of V1 checkpoints in several files that have a prefix.

    Args:
        storage: The place.
        prefix: What comes before `-00000-of-00002`.

    Returns:
        A pattern for each number of files, sorted.
    """
    folder, start = os.path.split(prefix)
    counts = {
        part["count"]
        for part in map(_V1_PART.fullmatch, _names_in(storage, folder) or ())
        if part and part["prefix"] == start
    }
    # Folders are taken as they are written; files are not.
    stem = prefix.removesuffix(start) + glob.escape(start)
    return [f"{stem}-?????-of-{count}" for count in sorted(counts)]


def is_part(prefix: str) -> bool:
    """Whether a prefix is that of a part of a sharded save, by its name alone."""
    return bool(_PART.fullmatch(f"{os.path.basename(prefix)}.index"))


def interrupted_save(storage: Storage, directory: str, prefix: str = "") -> str:
    """Describes the parts of a sharded save that never ended.

    Args:
        storage: The place.
        directory: Where they lie, or the folders that hold them.
        prefix: The end of the path of one checkpoint, whose parts alone are meant; ""
            for those of any.

    Returns:
        Sentences that say what is there and what to do; "" where there are none.
    """
    found = _parts_in(storage, directory, prefix)
    for folder in _folders_in(storage, directory):
        temporary = _TEMPORARY.fullmatch(folder)
        if temporary and prefix in ("", temporary["prefix"]):
            found |= _parts_in(storage, os.path.join(directory, folder), "")
    for (stem, count), numbers in sorted(found.items()):
        total = int(count)
        shown = storage.show(stem)
        what = (
            f"{len(numbers)} of the {total} parts of a sharded save that was "
            f"interrupted before it merged them lie at `{shown}-?????-of-{count}`"
        )
        if len(numbers) < total:
            number = min(numbers)
            way = (
                "The checkpoint is not complete: use an earlier one, or give a part as "
                f"a prefix: `{shown}-{number:05d}-of-{count}`."
            )
        elif total == 1:
            way = f"Give it as a prefix: `{shown}-00000-of-00001`."
        else:
            # A literal of Python: paths may have quotes and braces.
            path = re.sub(r"[{}]", r"\g<0>\g<0>", shown)
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
    for name in _names_in(storage, directory) or ():
        part = _PART.fullmatch(name)
        if part and int(part["number"]) < int(part["count"]):
            start = (part["prefix"] or "").removesuffix(".")
            if prefix in ("", start):
                key = (os.path.join(directory, part["stem"]), part["count"])
                parts[key].add(int(part["number"]))
    return parts


def _names_in(storage: Storage, directory: str) -> list[str] | None:
    """Names in a folder; None where they cannot be listed."""
    try:
        return storage.names_in(directory)
    except CheckpointError:
        return None


def _folders_in(storage: Storage, directory: str) -> list[str]:
    try:
        return storage.folders_in(directory)
    except CheckpointError:
        return []
