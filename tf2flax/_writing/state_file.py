"""The state file `checkpoint`, which leads from a directory to its latest checkpoint.

Source: `update_checkpoint_state_internal`,
tensorflow/python/training/checkpoint_management.py.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from tf2flax._base.errors import CheckpointError
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


def publish(
    destination: SaveDestination,
    index: bytes,
    suffixes: Sequence[str],
    replaced: Sequence[str],
) -> str:
    """Makes the data files a checkpoint, which the state file of the folder names.

    Args:
        destination: The place of the checkpoint.
        index: All bytes of the index.
        suffixes: Those of all data files.
        replaced: Those of other files that go then; see `refuse_present`.

    Returns:
        What went wrong once the checkpoint was there, and what to do, in sentences: for
        `complete_error`; "" for nothing.

    Raises:
        OSError: The system refuses; no checkpoint was written.
        ReadError: The store refuses; likewise.
    """
    problem = destination.publish(index, suffixes, replaced)
    try:
        _update_state(destination)
    except (OSError, CheckpointError) as error:
        folder, name = os.path.split(destination.location)
        state = destination.storage.show(os.path.join(folder, STATE_FILE))
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        line = format_checkpoint_state(name, []).strip()
        problem = (
            f"The state file `{state}`, by which its folder leads to it, could not be "
            f"written: {reason}. Open the checkpoint by its prefix. Once the state "
            f"file can be written, save again with overwrite=True, or give it the line "
            f"`{line}`. {problem}"
        ).strip()
    return problem


def _update_state(destination: SaveDestination) -> None:
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

    def named_last(before: bytes) -> bytes:
        paths = [
            named
            for named in parse_checkpoint_paths(before.decode("utf-8", "replace"))
            if os.path.join(folder, named) != path
        ]
        return format_checkpoint_state(name, [*paths, name]).encode()

    destination.update(os.path.join(folder, STATE_FILE), named_last)


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
