"""The errors for a path at which no checkpoint lies: what may have been meant instead.

Looks around by names alone, and reads no file.
"""

from __future__ import annotations

import difflib
import glob
import os
import re
from typing import Final

from tf2flax._base.errors import CheckpointError, CheckpointNotFoundError
from tf2flax._formats.formats import endings
from tf2flax._storage.base import Storage

from .interrupted_saves import describe_interrupted_save, is_part
from .state import State

# One of the files of a V1 checkpoint that was saved by several devices.
_V1_FILE: Final = re.compile(r"(?P<prefix>.*)-\d{5}-of-(?P<count>\d{5})", re.S)


def no_checkpoint_in(
    storage: Storage, directory: str, state: State
) -> CheckpointNotFoundError:
    """The error for a directory that leads to no checkpoint."""
    full_path = storage.show(directory)
    if storage.is_local and not os.path.isdir(directory):
        return CheckpointNotFoundError(f"No directory at `{full_path}`.")
    prefixes = _prefixes_in(storage, directory)
    state_path = storage.show(state.path)
    if not state.is_present:
        reason = "it holds no `checkpoint` state file"
    elif state.named:
        named = state.prefix or state.named
        reason = (
            f"its state file names `{named}`, which is not there - in `{state_path}`"
        )
        # Checkpoints are often moved together with a state file of absolute paths.
        moved = os.path.join(directory, os.path.basename(named))
        prefixes.sort(key=lambda prefix: prefix != moved)
    else:
        reason = f"its state file names no checkpoint - in `{state_path}`"
    interrupted = describe_interrupted_save(storage, directory)
    files = _files_of_formats(storage, directory)
    finished = [prefix for prefix in prefixes if not is_part(prefix)]
    if finished:
        fix = f"Did you mean the prefix `{storage.show(finished[0])}`?"
    elif files and not interrupted:
        which = " or ".join(f"`{storage.show(path)}`" for path in files[:3])
        fix = f"Did you mean {which}?"
    else:
        fix = "Give the prefix of a checkpoint (its files without `.index`)."
    if interrupted:
        fix = f"{fix} {interrupted}" if finished else interrupted
    return CheckpointNotFoundError(
        f"Couldn't find a checkpoint in the directory `{full_path}`: {reason}. {fix}"
    )


def no_checkpoint_at(storage: Storage, path: str) -> CheckpointNotFoundError:
    """The error for a prefix, file or pattern that means no checkpoint."""
    full_path = storage.show(path)
    folder, name = os.path.split(path)
    if storage.is_local and not os.path.isdir(folder or "."):
        return CheckpointNotFoundError(
            f"No checkpoint at `{full_path}`: there is no directory `{folder or '.'}`."
        )
    near = [*_prefixes_in(storage, folder), *_files_of_formats(storage, folder)]
    # Keras, too, takes the index for a file of weights that was saved as several.
    index = f"{path.removesuffix('.h5')}.json"
    close = [index] if index in near else difflib.get_close_matches(path, near, n=1)
    patterns = _v1_patterns(storage, path)
    interrupted = describe_interrupted_save(storage, folder, name)
    if glob.has_magic(name) and _prefixes_matching(storage, path):
        fix = "A V2 checkpoint is given by its prefix, not by a pattern."
    elif patterns:
        which = " or ".join(f"`{storage.show(pattern)}`" for pattern in patterns[:4])
        fix = f"Did you mean the pattern {which}?"
    elif interrupted:
        fix = interrupted
    elif close:
        fix = f"Did you mean `{storage.show(close[0])}`?"
    else:
        fix = "Give its prefix (its files without `.index`) or its directory."
    return CheckpointNotFoundError(
        f"No checkpoint at `{full_path}`: there is no `{full_path}.index`. {fix}"
    )


def _prefixes_matching(storage: Storage, pattern: str) -> list[str]:
    try:
        return storage.matches(f"{pattern}.index")
    except CheckpointError:  # the message does without
        return []


def _prefixes_in(storage: Storage, directory: str) -> list[str]:
    """Prefixes of the V2 checkpoints that lie in a directory."""
    names = _names_ending(storage, directory, (".index",))
    return [os.path.join(directory, name.removesuffix(".index")) for name in names]


def _files_of_formats(storage: Storage, directory: str) -> list[str]:
    """Files that may be checkpoints by themselves, by their names alone."""
    names = _names_ending(storage, directory, endings())
    return [os.path.join(directory, name) for name in names]


def _names_ending(
    storage: Storage, directory: str, name_endings: tuple[str, ...]
) -> list[str]:
    try:
        names = storage.names_in(directory)
    except CheckpointError:  # the message does without
        return []
    return [name for name in names if name.endswith(name_endings)]


def _v1_patterns(storage: Storage, prefix: str) -> list[str]:
    """Patterns of V1 checkpoints in several files that have a prefix.

    Args:
        storage: The place.
        prefix: What comes before `-00000-of-00002`.

    Returns:
        A pattern for each number of files, sorted.
    """
    folder, start = os.path.split(prefix)
    matches = map(_V1_FILE.fullmatch, _names_ending(storage, folder, ("",)))
    counts = {match["count"] for match in matches if match and match["prefix"] == start}
    # Folders are taken as they are written; a file's name may look like a pattern.
    stem = prefix.removesuffix(start) + glob.escape(start)
    return [f"{stem}-?????-of-{count}" for count in sorted(counts)]
