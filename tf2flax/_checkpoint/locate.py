"""A path as a user gives it -> the checkpoint it means: its kind and its files.

Follows TensorFlow's rules for directories, state files, prefixes and patterns, and
recognises kinds by content. Reads state files, the indexes of prefixes, and the first
and last bytes of what it must recognise.

Source: tensorflow/python/training/checkpoint_management.py, checkpoint_utils.py.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import glob
import os
import re
from typing import TYPE_CHECKING, Final

from tf2flax._base.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    DamagedError,
    ReadError,
    UnsupportedError,
)
from tf2flax._formats.wire.protos import parse_checkpoint_state
from tf2flax._formats.wire.sstable import TABLE_MAGIC
from tf2flax._storage.base import Index, Storage
from tf2flax._storage.faults import recognise_wrong_file
from tf2flax._storage.stores import storage_of

from .folders import interrupted_save, is_part, keras_files, keras_weights, v1_patterns

if TYPE_CHECKING:
    from tf2flax._storage.requests import Context, KvStore

STATE_FILE: Final = "checkpoint"
# Files of one V2 checkpoint, of which any stands for all.
_MEMBER: Final = re.compile(r"(?P<prefix>.*)\.(index|meta|data-\d{5}-of-\d{5})", re.S)
_HDF5_MAGIC: Final = b"\x89HDF\r\n\x1a\n"
# An HDF5 file may begin with a block of the user's, whose length is a power of two.
_HDF5_STARTS: Final = (0, 512, 1024, 2048)
_ZIP_MAGIC: Final = b"PK\x03\x04"

PathLike = str | bytes | os.PathLike[str] | os.PathLike[bytes]


class Kind(enum.Enum):
    """What kind of checkpoint was found."""

    BUNDLE = enum.auto()
    V1 = enum.auto()
    KERAS = enum.auto()
    KERAS_SHARDS = enum.auto()


@dataclasses.dataclass(frozen=True, slots=True)
class Location:
    """Where a checkpoint lies.

    Attributes:
        kind: Which kind it is.
        storage: The place where it lies.
        path: Prefix of a V2 checkpoint; else the file, or a pattern of files.
        files: The files of a V1 checkpoint, or the one of another kind; () for V2.
        index: The index of a V2 checkpoint, as it was read.
        config: The config of a Keras model whose folder was given; "" for none.
    """

    kind: Kind
    storage: Storage
    path: str
    files: tuple[str, ...] = ()
    index: Index | None = None
    config: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class State:
    """What the state file of a directory says.

    Attributes:
        path: The state file.
        prefix: The checkpoint it names, joined with the directory; None where there
            is no such file, it does not parse, or it leads out of the storage; ""
            where it names none.
        is_present: Whether the file is there.
        named: The path as it is written there.
    """

    path: str
    prefix: str | None
    is_present: bool
    named: str = ""


def locate(path: PathLike | KvStore, context: Context | None = None) -> Location:
    """Finds the checkpoint that a path means.

    Args:
        path: A prefix, a directory, one of the checkpoint's files, or a pattern of V1
            files; local, a URL, or a KvStore.
        context: tensorstore's, for URLs.

    Returns:
        Where it lies.

    Raises:
        CheckpointNotFoundError: Nothing there is a checkpoint.
        UnsupportedError: It is a kind of file that cannot be read.
        DamagedError: Something else lies in the checkpoint's place.
        ReadError: The system or the store refuses.
    """
    return locate_in(*_place(path, context))


def locate_in(storage: Storage, text: str) -> Location:
    """Finds the checkpoint that a path of a storage means.

    Args:
        storage: The place.
        text: The path in it.

    Returns:
        Where the checkpoint lies.

    Raises:
        CheckpointError: As `locate`.
    """
    if storage.is_directory(text):
        state = _read_state(storage, text)
        found = _led_to(storage, text, state)
        if found is None:
            raise _nothing_in_directory(storage, text, state)
        return found
    found = _at(storage, text)
    if found is None and not storage.is_local:  # stores do not know directories
        found = _led_to(storage, f"{text}/", _read_state(storage, f"{text}/"))
    if found is None:
        raise _not_found(storage, text)
    return found


def latest_checkpoint(directory: PathLike | KvStore) -> str | None:
    """Finds the checkpoint that a directory's state file names.

    Args:
        directory: The directory that `tf.train.Saver` saved to; local, or a URL.

    Returns:
        The prefix, joined with `directory` as given; None where there is no state
        file, it does not parse, or what it names is not there.

    Raises:
        CheckpointNotFoundError: The state file names no checkpoint at all.
        UnsupportedError: `directory` is no path.
        ReadError: The store refuses.

    Examples:
        >>> import tf2flax
        >>> tf2flax.latest_checkpoint("tests/data/bert")
        'tests/data/bert/model.ckpt'

    Source: `latest_checkpoint`, tensorflow/python/training/checkpoint_management.py.
    """
    latest = latest_in(directory)
    if latest is None:
        return None
    storage, prefix = latest
    return prefix if storage.is_local else storage.show(prefix)


def latest_in(directory: PathLike | KvStore) -> tuple[Storage, str] | None:
    """Finds the same as `latest_checkpoint`, in its storage.

    Args:
        directory: The directory.

    Returns:
        The storage and the prefix in it; None where there is none.

    Raises:
        CheckpointError: As `latest_checkpoint`.
    """
    storage, text = _place(directory, None)
    state = _read_state(storage, text)
    if state.prefix == "":
        raise CheckpointNotFoundError(
            f"The state file names no checkpoint - at `{storage.show(state.path)}`. "
            "Give the prefix of a checkpoint instead of the directory."
        )
    if not state.prefix or not _exists(storage, state.prefix):
        return None
    return storage, state.prefix


def checkpoint_exists(path: PathLike | KvStore) -> bool:
    """Tells whether files of a checkpoint are there, as TensorFlow tells it.

    Args:
        path: A prefix; `*`, `?` and `[...]` are patterns.

    Returns:
        Whether `<path>.index` or `<path>` matches anything; so it is also true for a
        directory without a trailing slash, and for an index without its data.

    Raises:
        UnsupportedError: `path` is no path, or a pattern where a store cannot list.
        ReadError: The store refuses.

    Examples:
        >>> import tf2flax
        >>> tf2flax.checkpoint_exists("tests/data/bert/model.ckpt")
        True
        >>> tf2flax.checkpoint_exists("tests/data/bert/model.ckpt-1")
        False

    Source: `checkpoint_exists`, tensorflow/python/training/checkpoint_management.py.
    """
    return _exists(*_place(path, None))


def require_listing(directory: PathLike | KvStore) -> None:
    """Checks that the place of a directory can be listed, as watching it needs.

    Args:
        directory: The directory; it need not exist.

    Raises:
        UnsupportedError: Its store cannot list, or it is no path.
        ReadError: The store refuses.
    """
    storage, text = _place(directory, None)
    if not storage.is_local:
        storage.names_in(text)


def _place(path: PathLike | KvStore, context: Context | None) -> tuple[Storage, str]:
    storage, text = storage_of(path, context)
    if "\0" in text:
        raise CheckpointNotFoundError(f"No file can be called {text!r}.")
    return storage, text


def _exists(storage: Storage, text: str) -> bool:
    if storage.matches(f"{text}.index"):
        return True
    return bool(text) and not text.endswith("/") and bool(storage.matches(text))


def _at(storage: Storage, text: str) -> Location | None:
    """The checkpoint that a prefix, a file or a pattern means; None for none."""
    if not text:
        return None
    found = _bundle(storage, text)
    if found is not None:
        return found
    member = _MEMBER.fullmatch(text)
    if member:
        found = _bundle(storage, member["prefix"])
        if found is not None:
            return found
        if member[2] == "meta" and storage.is_file(member["prefix"]):
            text = member["prefix"]  # the graph next to a V1 checkpoint
    if storage.is_file(text):
        return _recognised(storage, text)
    if glob.has_magic(text):
        files = tuple(path for path in storage.matches(text) if storage.is_file(path))
        if files and all(_is_table(storage, path) for path in files):
            return Location(Kind.V1, storage, text, files)
    return None


def _bundle(storage: Storage, prefix: str) -> Location | None:
    index = storage.read_index(f"{prefix}.index")
    if index is None:
        return None
    return Location(Kind.BUNDLE, storage, prefix, index=index)


def _is_table(storage: Storage, path: str) -> bool:
    return storage.file(path).tail(len(TABLE_MAGIC)) == TABLE_MAGIC


def _recognised(storage: Storage, path: str) -> Location:
    """What a file is that is no part of a V2 checkpoint with an index."""
    file = storage.file(path)
    shown = storage.show(path)
    tail = file.tail(len(TABLE_MAGIC))
    if tail == TABLE_MAGIC:
        return Location(Kind.V1, storage, path, (path,))
    head = file.head()
    if any(head.startswith(_HDF5_MAGIC, start) for start in _HDF5_STARTS):
        return Location(Kind.KERAS, storage, path, (path,))
    if head.startswith(_ZIP_MAGIC):
        return Location(Kind.KERAS, storage, path, (path,))
    if path.endswith(".json") and head.lstrip().startswith(b"{"):
        return Location(Kind.KERAS_SHARDS, storage, path, (path,))
    found = recognise_wrong_file(head)
    if found:
        raise DamagedError(
            f"Expected a checkpoint, got {found[0]} - at `{shown}`. {found[1]}"
        )
    member = _MEMBER.fullmatch(shown)
    if member:
        raise DamagedError(
            f"`{shown}` belongs to a checkpoint whose index is missing - at "
            f"`{member['prefix']}.index`. Copy it next to this file."
        )
    raise UnsupportedError(f"`{shown}` is {_nothing_known(shown, head)}")


def _nothing_known(path: str, head: bytes) -> str:
    if not head:
        return "an empty file, no TensorFlow checkpoint. Copy the file again."
    if os.path.basename(path) == STATE_FILE:
        return f"a state file. Give its directory: `{os.path.dirname(path) or '.'}`."
    if path.endswith((".pb", ".pbtxt")):
        return (
            "a graph, not a checkpoint. Give the prefix of the variables next to it: "
            f"`{os.path.join(os.path.dirname(path), 'variables', 'variables')}`."
        )
    return (
        "no TensorFlow checkpoint, or a V1 checkpoint that was cut short. Give the "
        "prefix of one (without `.index`), or copy the file again."
    )


def _read_state(storage: Storage, directory: str) -> State:
    path = os.path.join(directory, STATE_FILE)
    try:
        contents = storage.read(path)
    except (DamagedError, ReadError):
        if not storage.is_local:
            raise
        return State(path, None, is_present=True)
    if contents is None:
        return State(path, None, is_present=False)
    try:
        named = parse_checkpoint_state(contents.decode("utf-8"))
    except UnicodeDecodeError:
        return State(path, None, is_present=True)
    if not named:
        return State(path, named, is_present=True)
    return State(
        path, storage.join_state(directory, named), is_present=True, named=named
    )


def _led_to(storage: Storage, directory: str, state: State) -> Location | None:
    """The checkpoint that a directory leads to: by its state file, or its layout."""
    found = _at(storage, state.prefix) if state.prefix else None
    if found is None:  # a SavedModel, or a module of TensorFlow Hub
        variables = os.path.join(directory, "variables", "variables")
        found = _bundle(storage, variables)
    if found is None:
        found = _bundle(storage, os.path.join(directory, ""))
    if found is None and not state.is_present:
        found = _keras_folder(storage, directory)
    return found


def _keras_folder(storage: Storage, directory: str) -> Location | None:
    found = keras_weights(storage, directory)
    if found is None:
        return None
    path, config = found
    return dataclasses.replace(_recognised(storage, path), config=config)


def _nothing_in_directory(
    storage: Storage, directory: str, state: State
) -> CheckpointNotFoundError:
    shown = storage.show(directory)
    if storage.is_local and not os.path.isdir(directory):
        return CheckpointNotFoundError(f"No directory at `{shown}`.")
    prefixes = _prefixes(storage, directory)
    interrupted = interrupted_save(storage, directory)
    keras = keras_files(storage, directory)
    if not state.is_present:
        found = "it holds no `checkpoint` state file"
    elif state.named:
        named = state.prefix or state.named
        found = (
            f"its state file names `{named}`, which is not there "
            f"- in `{storage.show(state.path)}`"
        )
        # Checkpoints are often moved together with a state file of absolute paths.
        moved = os.path.join(directory, os.path.basename(named))
        prefixes.sort(key=lambda prefix: prefix != moved)
    else:
        found = f"its state file names no checkpoint - in `{storage.show(state.path)}`"
    finished = [prefix for prefix in prefixes if not is_part(prefix)]
    if finished:
        fix = f"Did you mean the prefix `{storage.show(finished[0])}`?"
    elif keras and not interrupted:
        which = " or ".join(f"`{storage.show(path)}`" for path in keras[:3])
        fix = f"Did you mean {which}?"
    else:
        fix = "Give the prefix of a checkpoint (its files without `.index`)."
    if interrupted:
        fix = f"{fix} {interrupted}" if finished else interrupted
    return CheckpointNotFoundError(
        f"Couldn't find a checkpoint in the directory `{shown}`: {found}. {fix}"
    )


def _not_found(storage: Storage, text: str) -> CheckpointNotFoundError:
    shown = storage.show(text)
    folder = os.path.dirname(text)
    if storage.is_local and not os.path.isdir(folder or "."):
        return CheckpointNotFoundError(
            f"No checkpoint at `{shown}`: there is no directory `{folder or '.'}`."
        )
    near = [*_prefixes(storage, folder), *keras_files(storage, folder)]
    # Keras, too, takes the index where a file is named that it was saved in parts for.
    index = f"{text.removesuffix('.h5')}.json"
    close = [index] if index in near else difflib.get_close_matches(text, near, n=1)
    patterns = v1_patterns(storage, text)
    interrupted = interrupted_save(storage, folder, os.path.basename(text))
    if glob.has_magic(os.path.basename(text)) and _prefixes_matching(storage, text):
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
        f"No checkpoint at `{shown}`: there is no `{shown}.index`. {fix}"
    )


def _prefixes_matching(storage: Storage, pattern: str) -> list[str]:
    try:
        return storage.matches(f"{pattern}.index")
    except CheckpointError:
        return []


def _prefixes(storage: Storage, directory: str) -> list[str]:
    """Prefixes of the V2 checkpoints that lie in a directory, as far as can be told."""
    paths = _paths_in(storage, directory)
    return [path.removesuffix(".index") for path in paths if path.endswith(".index")]


def _paths_in(storage: Storage, directory: str) -> list[str]:
    try:
        names = storage.names_in(directory)
    except CheckpointError:  # a message does without
        return []
    return [os.path.join(directory, name) for name in names]
