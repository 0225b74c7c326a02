"""The state file `checkpoint`, which leads from a directory to its latest checkpoint.

Source: `update_checkpoint_state_internal`,
tensorflow/python/training/checkpoint_management.py.
"""

from __future__ import annotations

import os
from typing import Final

from tf2flax._checkpoint.state import STATE_FILE
from tf2flax._formats.wire.state_messages import (
    format_checkpoint_state,
    parse_checkpoint_paths,
)
from tf2flax._storage.base import Storage
from tf2flax._storage.save_destinations import SaveDestination

# What makes a directory a SavedModel, and the folders in it.
# Source: tensorflow/cc/saved_model/constants.h.
_SAVED_MODEL_FILES: Final = ("saved_model.pb", "saved_model.pbtxt", "saved_model.cpb")
_SAVED_MODEL_FOLDERS: Final = ("variables", "assets", "assets.extra", "debug")


def update_state(destination: SaveDestination) -> None:
    """Makes the state file name a checkpoint, and keep those that it named before.

    A SavedModel has no state file and gets none: who opened its directory would be led
    away from the variables of the model.

    Args:
        destination: The place of the checkpoint.

    Raises:
        OSError: The system refuses.
        ReadError: The store refuses.
    """
    storage, path = destination.storage, destination.location
    folder, name = os.path.split(path)
    if _is_in_saved_model(storage, folder):
        return
    state = os.path.join(folder, STATE_FILE)
    before = storage.read(state) or b""
    paths = [
        named
        for named in parse_checkpoint_paths(before.decode("utf-8", "replace"))
        if os.path.join(folder, named) != path
    ]
    contents = format_checkpoint_state(name, [*paths, name])
    destination.replace(state, contents.encode())


def _is_in_saved_model(storage: Storage, folder: str) -> bool:
    folders = [folder]
    if storage.is_local:
        # A link to `variables`, or a path with `..`, does not show where it leads.
        folders.append(os.path.realpath(folder))
    for path in tuple(folders):
        if os.path.basename(path) in _SAVED_MODEL_FOLDERS:
            folders.append(os.path.dirname(path))
    return any(
        storage.is_file(os.path.join(candidate, name))
        for candidate in folders
        for name in _SAVED_MODEL_FILES
    )
