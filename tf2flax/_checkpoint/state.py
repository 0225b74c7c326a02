"""The state file of a directory, and which checkpoints are there, as TensorFlow says.

Reads no more than that file.

Source: tensorflow/python/training/checkpoint_management.py.
"""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Final

from tf2flax._base.errors import CheckpointNotFoundError, DamagedError, ReadError
from tf2flax._formats.wire.state_messages import parse_checkpoint_state
from tf2flax._storage.base import Storage
from tf2flax._storage.stores import storage_of

if TYPE_CHECKING:
    from tf2flax._storage.requests import KvStore

STATE_FILE: Final = "checkpoint"

PathLike = str | bytes | os.PathLike[str] | os.PathLike[bytes]


@dataclasses.dataclass(frozen=True, slots=True)
class State:
    """The state file of a directory, parsed.

    Attributes:
        path: The state file.
        prefix: The checkpoint that it names, joined with the directory; None if there
            is no such file, it does not parse, or it leads out of the storage; "" if
            it names none.
        is_present: True if the file is there.
        named: The path as it is written there.
        contents: The file; empty where it cannot be read.
    """

    path: str
    prefix: str | None
    is_present: bool
    named: str = ""
    contents: bytes = dataclasses.field(default=b"", repr=False)


def latest_checkpoint(directory: PathLike | KvStore) -> str | None:
    """Finds the checkpoint that a directory's state file names.

    Args:
        directory: The directory that `tf.train.Saver` saved to; local, or a URL.

    Returns:
        The prefix, joined with `directory` as given; None where there is no state
        file, it does not parse, or what it names is not there.

    Raises:
        CheckpointNotFoundError: The state file names no checkpoint at all.
        UnsupportedError: `directory` is not a path.
        ReadError: The store refuses.

    Examples:
        >>> import pathlib, tempfile, tf2flax
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     saved = tf2flax.save_checkpoint(f"{folder}/model.ckpt-7", {"step": 7})
        ...     pathlib.Path(tf2flax.latest_checkpoint(folder)).name
        'model.ckpt-7'

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
    storage, text = storage_of(directory)
    state = read_state(storage, text)
    if state.prefix == "":
        raise CheckpointNotFoundError(
            f"The state file names no checkpoint - at `{storage.show(state.path)}`. "
            "Give the prefix of a checkpoint instead of the directory."
        )
    if not state.prefix or not _exists(storage, state.prefix):
        return None
    return storage, state.prefix


def checkpoint_exists(path: PathLike | KvStore) -> bool:
    """Tells whether files of a checkpoint are there, by TensorFlow's own rule.

    Args:
        path: A prefix; `*`, `?` and `[...]` are patterns.

    Returns:
        Whether `<path>.index` or `<path>` matches anything; so it is also true for a
        directory without a trailing slash, and for an index without its data.

    Raises:
        UnsupportedError: `path` is not a path, or a pattern where a store cannot list.
        ReadError: The store refuses.

    Examples:
        >>> import tempfile, tf2flax
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     saved = tf2flax.save_checkpoint(f"{folder}/model.ckpt-7", {"step": 7})
        ...     [tf2flax.checkpoint_exists(f"{folder}/model.ckpt-{i}") for i in (7, 8)]
        [True, False]

    Source: `checkpoint_exists`, tensorflow/python/training/checkpoint_management.py.
    """
    return _exists(*storage_of(path))


def require_listing(directory: PathLike | KvStore) -> None:
    """Checks that the place of a directory can be listed, as watching it needs.

    Args:
        directory: The directory; it need not exist.

    Raises:
        UnsupportedError: Its store cannot list, or it is not a path.
        ReadError: The store refuses.
    """
    storage, text = storage_of(directory)
    if not storage.is_local:
        storage.names_in(text)


def _exists(storage: Storage, text: str) -> bool:
    if storage.matches(f"{text}.index"):
        return True
    return bool(text) and not text.endswith("/") and bool(storage.matches(text))


def read_state(storage: Storage, directory: str) -> State:
    """Reads the state file of a directory.

    Raises:
        DamagedError: In a store: it is larger than any index.
        ReadError: The store refuses.
    """
    path = os.path.join(directory, STATE_FILE)
    try:
        contents = storage.read(path)
    except (DamagedError, ReadError):
        # TensorFlow takes a local file that it cannot read for one that says nothing.
        if not storage.is_local:
            raise
        return State(path, None, is_present=True)
    if contents is None:
        return State(path, None, is_present=False)
    try:
        named = parse_checkpoint_state(contents.decode("utf-8"))
    except UnicodeDecodeError:
        return State(path, None, is_present=True, contents=contents)
    prefix = storage.join_state(directory, named) if named else named
    return State(path, prefix, True, named or "", contents)
