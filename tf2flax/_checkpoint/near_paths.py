"""What is most like a path at which nothing lies: a checkpoint, or a folder.

Goes by names, and recognises files by their contents where names do not tell.
"""

from __future__ import annotations

import os
from typing import Final

from tf2flax._base.errors import CheckpointError
from tf2flax._base.names import nearest
from tf2flax._storage.base import Storage

from .choosing import (
    INDEX,
    files_in,
    is_checkpoint,
    newest_first,
    prefixes_in,
    stem_of,
)

# Longer names than these are no file's (letters).
_MAX_NAME: Final = 255


def close_to(storage: Storage, path: str) -> str:
    """The checkpoint beside a path that is most like it; "" for none.

    Of one run, which differ by their steps alone, the newest.
    """
    folder, name = os.path.split(path)
    prefixes = prefixes_in(storage, folder)
    near = {os.path.basename(p): p for p in [*prefixes, *files_in(storage, folder)]}
    # Keras, too, takes the index for a file of weights that was saved as several.
    index = f"{name.removesuffix('.h5')}.json"
    if index in near:
        return near[index]
    same_run = [path for path in prefixes if stem_of(path) == stem_of(name)]
    if same_run:
        return newest_first(same_run)[0]
    # By its name alone a file may be anything.
    for close in nearest(name[:_MAX_NAME], near):
        if near[close] in prefixes or is_checkpoint(storage, near[close]):
            return near[close]
    return ""


def is_there(storage: Storage, path: str) -> bool:
    """Tells whether a checkpoint lies at a path, by its names."""
    try:
        return storage.is_file(f"{path}{INDEX}") or storage.is_file(path)
    except CheckpointError:
        return False


def suggest_folder(storage: Storage, path: str) -> str:
    """Says what may be meant by a local path of which a folder is not there.

    Args:
        storage: The file system.
        path: The path.

    Returns:
        A sentence; what it suggests is there.
    """
    folder, name = os.path.split(path)
    there, missing = folder, list[str]()
    while there and not os.path.lexists(there):
        there, part = os.path.split(there)
        missing.insert(0, part)
    if there and not os.path.isdir(there):
        return f"`{storage.show(there)}` is a file, not a folder."
    # Folders first: the name is looked for in the one that is meant.
    corrected = _corrected(storage, there, missing)
    if corrected == there:
        place = storage.show(there).rstrip("/") or "/"
        return f"The nearest folder that is there is `{place}`."
    meant = os.path.join(corrected, name)
    if not name or not is_there(storage, meant):
        meant = (name and close_to(storage, meant)) or corrected
    return f"Did you mean `{storage.show(meant)}`?"


def _corrected(storage: Storage, there: str, missing: list[str]) -> str:
    """Follows names of folders, each as it is or as the nearest that is there."""
    folder = there
    for name in missing:
        candidate = os.path.join(folder, name[:_MAX_NAME])
        if not os.path.isdir(candidate):
            try:
                close = nearest(name[:_MAX_NAME], storage.folders_in(folder), 1)
            except CheckpointError:  # it cannot be listed
                return folder
            if not close:
                return folder
            candidate = os.path.join(folder, close[0])
        folder = candidate
    return folder
