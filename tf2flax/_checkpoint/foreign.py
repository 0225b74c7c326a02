"""The errors for files that are of no format: what they are, and what to give instead.

Reads of the file no more than its beginning, and of a zip archive its end.
"""

from __future__ import annotations

import os

from tf2flax._base.errors import CheckpointError, DamagedError, UnsupportedError
from tf2flax._formats import formats
from tf2flax._formats.foreign_zip import describe_zip, is_zip
from tf2flax._formats.format import Candidate
from tf2flax._storage.base import Storage
from tf2flax._storage.foreign import recognise_file, recognise_wrong_file

from .choosing import MEMBER
from .state import STATE_FILE


def not_a_checkpoint(storage: Storage, candidate: Candidate) -> CheckpointError:
    """The error for a file that no format recognises.

    Args:
        storage: Where it lies.
        candidate: The file.

    Returns:
        A DamagedError, if something lies in the place of a checkpoint's file or its
        index is missing; else an UnsupportedError.
    """
    path, head = candidate.path, candidate.head
    full_path = storage.show(path)
    wrong_file = recognise_wrong_file(head)
    if wrong_file:
        kind, way_out = wrong_file
        return DamagedError(
            f"Expected a checkpoint, got {kind} - at `{full_path}`. {way_out}"
        )
    member = MEMBER.fullmatch(full_path)
    if member and member[2] == "meta":
        return DamagedError(
            f"`{full_path}` is the graph of a checkpoint, without its values. Copy "
            f"`{member['prefix']}.index` and its data next to it."
        )
    if member:
        return DamagedError(
            f"`{full_path}` belongs to a checkpoint whose index is missing - at "
            f"`{member['prefix']}.index`. Copy it next to this file."
        )
    return UnsupportedError(f"`{full_path}` is {_describe(storage, path, head)}")


def _describe(storage: Storage, path: str, head: bytes) -> str:
    """What a file is, and what to do: a message without its beginning, the path."""
    if not head:
        return "an empty file, not a TensorFlow checkpoint. Copy the file again."
    if is_zip(head):
        foreign = describe_zip(storage, path, formats.endings())
    else:
        foreign = recognise_file(head, path)
    folder, name = os.path.split(path)
    # Names tell more than contents where any text or protobuf would do.
    is_text = foreign is not None and foreign.pattern is None
    if name == STATE_FILE and (foreign is None or is_text):
        return f"a state file. Give its directory: `{storage.show(folder or '.')}`."
    if name in ("saved_model.pb", "saved_model.pbtxt"):
        variables = os.path.join(folder, "variables", "variables")
        if storage.is_file(f"{variables}.index"):
            return (
                "the graph of a SavedModel, not a checkpoint. Give the prefix of the "
                f"variables next to it: `{storage.show(variables)}`."
            )
        return (
            "the graph of a SavedModel, without the variables that belong to it, not a "
            "TensorFlow checkpoint. Copy the folder `variables/` next to it."
        )
    if foreign is None:
        return (
            "not a TensorFlow checkpoint, or a V1 checkpoint that was cut short. Give "
            "the prefix of one (without `.index`), or copy the file again."
        )
    fix = foreign.fix(storage.show(path))
    return f"{foreign.kind}, not a TensorFlow checkpoint. {fix}"
