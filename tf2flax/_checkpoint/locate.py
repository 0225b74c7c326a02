"""A path as a user gives it -> the checkpoint that it means: its format and its files.

Follows TensorFlow's rules for directories, state files, prefixes and patterns; which
format a file has is asked of the formats. Reads state files, the indexes of prefixes,
and the first and last bytes of what must be recognised.

Source: tensorflow/python/training/checkpoint_management.py, checkpoint_utils.py.
"""

from __future__ import annotations

import dataclasses
import glob
import os
import re
from typing import TYPE_CHECKING, Final

from tf2flax._base.errors import DamagedError, UnsupportedError
from tf2flax._formats.format import Candidate, Location
from tf2flax._formats.recognise import (
    files_in_folder,
    find_by_pattern,
    find_by_prefix,
    recognise,
)
from tf2flax._storage.base import Storage
from tf2flax._storage.faults import recognise_wrong_file

from .not_found import no_checkpoint_at, no_checkpoint_in
from .state import STATE_FILE, PathLike, State, place_of, read_state

if TYPE_CHECKING:
    from tf2flax._storage.requests import Context, KvStore

# Files of one V2 checkpoint, of which any stands for all.
_MEMBER: Final = re.compile(r"(?P<prefix>.*)\.(index|meta|data-\d{5}-of-\d{5})", re.S)


def locate(path: PathLike | KvStore, context: Context | None = None) -> Location:
    """Finds the checkpoint that a path means.

    Args:
        path: A prefix, a directory, one of the checkpoint's files, or a pattern of V1
            files; local, a URL, or a KvStore.
        context: tensorstore's, for URLs.

    Returns:
        Where it lies, and its format.

    Raises:
        CheckpointNotFoundError: Nothing there is a checkpoint.
        UnsupportedError: It is a kind of file that cannot be read.
        DamagedError: Something else lies in the checkpoint's place.
        ReadError: The system or the store refuses.
    """
    return locate_in(*place_of(path, context))


def locate_in(storage: Storage, path: str) -> Location:
    """Finds the checkpoint that a path of a storage means; see `locate`."""
    if storage.is_directory(path):
        state = read_state(storage, path)
        location = _in_directory(storage, path, state)
        if location is None:
            raise no_checkpoint_in(storage, path, state)
        return location
    location = _at(storage, path)
    if location is None and not storage.is_local:  # stores do not know directories
        directory = f"{path}/"
        location = _in_directory(storage, directory, read_state(storage, directory))
    if location is None:
        raise no_checkpoint_at(storage, path)
    return location


def _at(storage: Storage, path: str) -> Location | None:
    """The checkpoint that a prefix, a file or a pattern means; None for none."""
    if not path:
        return None
    location = find_by_prefix(storage, path)
    if location is not None:
        return location
    member = _MEMBER.fullmatch(path)
    if member:
        location = find_by_prefix(storage, member["prefix"])
        if location is not None:
            return location
        if member[2] == "meta" and storage.is_file(member["prefix"]):
            path = member["prefix"]  # the graph next to a V1 checkpoint
    if storage.is_file(path):
        return _of_file(storage, path)
    if glob.has_magic(path):
        matches = storage.matches(path)
        paths = tuple(match for match in matches if storage.is_file(match))
        return find_by_pattern(storage, path, paths) if paths else None
    return None


def _of_file(storage: Storage, path: str) -> Location:
    """The checkpoint that a file is, which does not belong to one that has an index.

    Raises:
        DamagedError: Something else lies in its place, or its index is missing.
        UnsupportedError: It is of no format.
    """
    candidate = Candidate(storage, path)
    location = recognise(storage, candidate)
    if location is not None:
        return location
    full_path, head = storage.show(path), candidate.head
    wrong_file = recognise_wrong_file(head)
    if wrong_file:
        raise DamagedError(
            f"Expected a checkpoint, got {wrong_file[0]} - at `{full_path}`. "
            f"{wrong_file[1]}"
        )
    member = _MEMBER.fullmatch(full_path)
    if member:
        raise DamagedError(
            f"`{full_path}` belongs to a checkpoint whose index is missing - at "
            f"`{member['prefix']}.index`. Copy it next to this file."
        )
    raise UnsupportedError(f"`{full_path}` is {_describe_unknown(full_path, head)}")


def _describe_unknown(path: str, head: bytes) -> str:
    """The end of a message about a file of no format: what it is, and what to do."""
    if not head:
        return "an empty file, not a TensorFlow checkpoint. Copy the file again."
    if os.path.basename(path) == STATE_FILE:
        return f"a state file. Give its directory: `{os.path.dirname(path) or '.'}`."
    if path.endswith((".pb", ".pbtxt")):
        return (
            "a graph, not a checkpoint. Give the prefix of the variables next to it: "
            f"`{os.path.join(os.path.dirname(path), 'variables', 'variables')}`."
        )
    return (
        "not a TensorFlow checkpoint, or a V1 checkpoint that was cut short. Give the "
        "prefix of one (without `.index`), or copy the file again."
    )


def _in_directory(storage: Storage, directory: str, state: State) -> Location | None:
    """The checkpoint that a directory leads to: by its state file, or its layout."""
    location = _at(storage, state.prefix) if state.prefix else None
    if location is None:  # a SavedModel, or a module of TensorFlow Hub
        variables = os.path.join(directory, "variables", "variables")
        location = find_by_prefix(storage, variables)
    if location is None:  # an empty basename
        location = find_by_prefix(storage, os.path.join(directory, ""))
    # A state file that leads nowhere is an error, whatever else lies beside it.
    if location is None and not state.is_present:
        files = files_in_folder(storage, directory)
        if files:
            location = dataclasses.replace(_of_file(storage, files[0]), files=files)
    return location
