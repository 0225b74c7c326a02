"""New checkpoints of a run that is still training, as they are finished.

Source: `checkpoints_iterator` and `wait_for_new_checkpoint`,
tensorflow/python/training/checkpoint_utils.py.
"""

from __future__ import annotations

import pathlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tf2flax._base.caller import show_value
from tf2flax._base.errors import (
    AssignmentError,
    CheckpointNotFoundError,
    DamagedError,
    UnsupportedError,
)
from tf2flax._base.manifest import Piece
from tf2flax._storage.base import Storage
from tf2flax._storage.stores import storage_of

from .opening import locate_in, manifest_at
from .state import PathLike, latest_in, require_listing

if TYPE_CHECKING:
    from tf2flax._storage.requests import KvStore

# How often a directory is looked at while nothing new is there, as TensorFlow does
# (seconds).
POLL_INTERVAL_S: Final = 1.0


def checkpoints_iterator(
    checkpoint_dir: PathLike | KvStore,
    min_interval_secs: float = 0,
    timeout: float | None = None,
    timeout_fn: Callable[[], bool] | None = None,
) -> Iterator[str]:
    """Waits for new checkpoints and yields each once it is whole.

    As in TensorFlow, checkpoints that appear and are replaced while the caller works on
    one are skipped: it is the latest that counts. Unlike there, one that is still being
    copied (data missing or cut short) is waited for.

    Args:
        checkpoint_dir: The directory that checkpoints are saved to; it need not exist
            yet. Local, or a URL of a store that can list.
        min_interval_secs: Least time between two of them, in seconds.
        timeout: How long to wait for a new one, in seconds; None waits for ever.
        timeout_fn: Called when that time is over; where it returns something true, the
            iteration ends, else it goes on waiting. None ends it.

    Yields:
        The prefix of each new checkpoint, as `latest_checkpoint` gives it.

    Raises:
        AssignmentError: An argument is not valid, or a file in place of a directory.
        UnsupportedError: The store cannot list.
        ReadError: The system or the store refuses.

    Examples:
        >>> import pathlib, tempfile, tf2flax
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     saved = tf2flax.save_checkpoint(f"{folder}/model.ckpt-7", {"step": 7})
        ...     for prefix in tf2flax.checkpoints_iterator(folder, timeout=0):
        ...         print(pathlib.Path(prefix).name)
        model.ckpt-7

    Source: `checkpoints_iterator`, tensorflow/python/training/checkpoint_utils.py.
    """
    interval = _check_seconds("min_interval_secs", min_interval_secs)
    limit = None if timeout is None else _check_seconds("timeout", timeout)
    if timeout_fn is not None and not callable(timeout_fn):
        raise AssignmentError(
            "Option timeout_fn: expected a function without arguments, or None, got "
            f"{show_value(timeout_fn)}."
        )
    require_listing(checkpoint_dir)
    _refuse_file(checkpoint_dir)
    return _iterate(checkpoint_dir, interval, limit, timeout_fn)


def _refuse_file(directory: PathLike | KvStore) -> None:
    """Refuses a checkpoint or file in place of a directory: nothing ever appears there.

    Raises:
        AssignmentError: It is one.
    """
    storage, text = storage_of(directory)
    if not storage.is_local or storage.is_directory(text):
        return
    if storage.is_file(text) or storage.is_file(f"{text}.index"):
        raise AssignmentError(
            f"Expected a directory, got a file or checkpoint - at "
            f"`{storage.show(text)}`. Give its directory: "
            f"`{pathlib.Path(text).parent}`."
        )


def _check_seconds(option: str, value: Any) -> float:
    """Checks a number of seconds; longer than the system can wait is for ever."""
    try:
        is_number = not isinstance(value, (bool, str, bytes, np.ndarray))
        seconds = float(value) if is_number else -1.0
    except Exception:  # which the value's own methods raise
        seconds = -1.0
    if not seconds >= 0:  # NaN is not
        raise AssignmentError(
            f"Option {option}: expected a number of seconds, 0 or more, got "
            f"{show_value(value)}."
        )
    return min(seconds, threading.TIMEOUT_MAX)


def _iterate(
    directory: PathLike | KvStore,
    min_interval_s: float,
    timeout_s: float | None,
    timeout_fn: Callable[[], bool] | None,
) -> Iterator[str]:
    last: str | None = None
    while True:
        new = _wait_for_new(directory, last, timeout_s)
        if new is None:
            if timeout_fn is None or timeout_fn():
                return
            continue
        last, found_at = new, time.monotonic()
        yield new
        time.sleep(max(0.0, found_at + min_interval_s - time.monotonic()))


def _wait_for_new(
    directory: PathLike | KvStore, last: str | None, timeout_s: float | None
) -> str | None:
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        latest = _latest(directory)
        if latest is not None:
            storage, path = latest
            prefix = path if storage.is_local else storage.show(path)
            if prefix != last and _is_whole(storage, path):
                return prefix
        wait = POLL_INTERVAL_S
        if deadline is not None:
            wait = min(wait, deadline - time.monotonic())
            if wait <= 0:
                return None
        time.sleep(wait)


def _latest(directory: PathLike | KvStore) -> tuple[Storage, str] | None:
    try:
        return latest_in(directory)
    except CheckpointNotFoundError:  # a state file that is being written
        return None


def _is_whole(storage: Storage, path: str) -> bool:
    """Tells whether the index parses and every data file is as long as it must be."""
    try:
        manifest = manifest_at(locate_in(storage, path))
        last: dict[str, Piece] = {}
        for name in manifest.names:
            for piece in manifest.entry(name).pieces:
                if piece.data_file is not None:
                    file = piece.data_file.path
                    if file not in last or piece.span.stop > last[file].span.stop:
                        last[file] = piece
        for piece in last.values():
            piece.data_file.check_span(piece.span, subject="The checkpoint")
    except (CheckpointNotFoundError, DamagedError, UnsupportedError):
        return False
    return True
