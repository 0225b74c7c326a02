"""The prefix that a caller gives -> the destination of a save."""

from __future__ import annotations

import collections
import contextlib
import os
import re
from collections.abc import Generator
from typing import Final

from tf2flax._base.caller import show_value
from tf2flax._base.errors import (
    AssignmentError,
    CheckpointError,
    ExistsError,
    ReadError,
)
from tf2flax._checkpoint.choosing import MEMBER
from tf2flax._checkpoint.state import STATE_FILE, PathLike
from tf2flax._formats.format import Candidate
from tf2flax._formats.v1 import V1Format
from tf2flax._formats.wire.sstable import TABLE_MAGIC
from tf2flax._storage.faults import write_error
from tf2flax._storage.local import LOCAL
from tf2flax._storage.local_destination import LocalDestination
from tf2flax._storage.save_destinations import SaveDestination
from tf2flax._storage.stores import KvStorage, storage_of

from .bridging import name_data_files_anew

_V1: Final = V1Format()
# How the names of its files go on where it is in several.
_V1_SHARD: Final = re.compile(r"-\d{5}-of-(\d{5})")


def open_destination(prefix: PathLike, token: str = "") -> SaveDestination:
    """Checks a prefix, and makes the destination of a save of it.

    Args:
        prefix: A local path or a URL, without suffix.
        token: As that of `SaveDestination`; "" for a new one.

    Raises:
        AssignmentError: No file can have this name, or it is a directory.
        UnsupportedError: It is not a path, or a URL that tensorstore does not know.
        ReadError: The store cannot be opened.
    """
    storage, text = storage_of(prefix)
    _check_name(text)
    _refuse_member(text)
    if isinstance(storage, KvStorage):
        # Here, since who writes local files needs none of it.
        from tf2flax._storage.store_destination import StoreDestination

        _refuse_directory(storage.show(text), text.endswith("/") or not text)
        return StoreDestination(storage, text, token)
    path = LOCAL.show(text)
    _refuse_directory(path, not os.path.basename(path) or os.path.isdir(path))
    return LocalDestination(path, token, find_names=name_data_files_anew)


def _check_name(path: str) -> None:
    """Refuses names that no file, or no line of the state file, can have."""
    if "\0" in path:
        raise AssignmentError(f"{path!r} is not a valid file name: it has a NUL.")
    try:
        os.fsencode(path)
        os.path.basename(path).encode()  # as the state file must
    except UnicodeEncodeError as error:
        raise AssignmentError(
            f"{show_value(path)} is not a valid file name: {error.reason}."
        ) from error


def _refuse_member(path: str) -> None:
    """Refuses the names of files of checkpoints: `m.index` is not a prefix, `m` is.

    What lies at a prefix is replaced, so that a file of another checkpoint would go.
    """
    name = os.path.basename(path)
    member = MEMBER.fullmatch(name)
    if member is not None and member["prefix"]:
        given = path.removesuffix(name) + member["prefix"]
        raise AssignmentError(
            f"`{path}` is the name of a file of the checkpoint `{given}`. Give its "
            f"prefix, `{given}`."
        )
    if name == STATE_FILE:
        raise AssignmentError(
            f"`{path}` is the name of the state file, which lists the checkpoints of a "
            "directory. Choose another prefix."
        )


def _refuse_directory(path: str, is_directory: bool) -> None:
    if is_directory:
        raise AssignmentError(
            f"`{path}` is a directory, and a checkpoint needs a name in it: "
            f"`{os.path.join(path, 'model.ckpt')}`."
        )


def refuse_present(destination: SaveDestination, *, is_replacing: bool) -> list[str]:
    """Refuses a place where a checkpoint is already.

    Args:
        destination: The place.
        is_replacing: Whether what is there is to be replaced.

    Returns:
        What else is replaced, for `publish`: see `v1_shards`.

    Raises:
        ExistsError: One is there, and is not to be replaced; or another file is.
        ReadError: The store refuses.
    """
    shards = v1_shards(destination)
    present = destination.existing()
    if shards and not present:
        present = [f"{destination.path}{shards[0]}"]
    if present and not is_replacing:
        raise ExistsError(
            f"A checkpoint is there already - at `{present[0]}`. Choose another "
            "prefix, or give overwrite=True."
        )
    for path in present:
        if path == destination.path and _is_foreign(path):
            raise ExistsError(
                f"A file that is no checkpoint lies at `{path}`, and is not replaced. "
                "Choose another prefix."
            )
    return shards


def v1_shards(destination: SaveDestination) -> list[str]:
    """Finds the files of V1 checkpoints in several files at a prefix.

    Args:
        destination: The prefix.

    Returns:
        How their names go on: `-00000-of-00002` … Other programs call files so, too;
        those stay what they are.
    """

    def is_v1(suffix: str) -> bool:
        path = f"{destination.location}{suffix}"
        with contextlib.suppress(CheckpointError):
            return _V1.recognise(Candidate(destination.storage, path))
        return False

    sets: dict[str, list[str]] = collections.defaultdict(list)
    for suffix in sorted(destination.suffixes()):
        if match := _V1_SHARD.fullmatch(suffix):
            sets[match[1]].append(suffix)
    # Of a thousand files of another program, one is looked at.
    return [
        s for names in sets.values() if is_v1(names[0]) for s in filter(is_v1, names)
    ]


def _is_foreign(path: str) -> bool:
    """True for a local file that is no V1 checkpoint, which would lie at its prefix."""
    try:
        with open(path, "rb") as file:
            file.seek(-len(TABLE_MAGIC), os.SEEK_END)
            return file.read() != TABLE_MAGIC
    except OSError:  # also where it is shorter than that, or no local file
        return os.path.isfile(path)


@contextlib.contextmanager
def writing_to(destination: SaveDestination) -> Generator[None]:
    """Names the destination in errors of the system that a block raises.

    Args:
        destination: Where the block writes.

    Raises:
        ReadError: The system refuses.
    """
    try:
        yield
    except (ExistsError, ReadError):  # both are OSErrors, and say what is wrong
        raise
    except OSError as error:
        raise write_error(destination.path, error) from error
