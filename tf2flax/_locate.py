"""A path as a user gives it -> the prefix of the checkpoint it means.

Follows TensorFlow's rules for directories, state files and prefixes, and recognises
what is something else, so that the error can name it. Reads state files and the first
bytes of what it must recognise; never an index.

Source: tensorflow/python/training/checkpoint_management.py, checkpoint_utils.py.
"""

from __future__ import annotations

import dataclasses
import difflib
import glob
import os
import re
from typing import Final

from ._errors import (
    CheckpointNotFoundError,
    DamagedError,
    ReadError,
    UnsupportedError,
)
from ._store import impostor, read_file
from ._wire.protos import parse_checkpoint_state

STATE_FILE: Final = "checkpoint"
# Files of one V2 checkpoint, of which any stands for all.
_MEMBER: Final = re.compile(r"(?P<prefix>.*)\.(index|meta|data-\d{5}-of-\d{5})", re.S)
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# Last 8 bytes of an SSTable: tensorflow/core/lib/io/format.h.
_TABLE_MAGIC: Final = bytes.fromhex("57fb808b247547db")
_HDF5_MAGIC: Final = b"\x89HDF\r\n\x1a\n"
_ZIP_MAGIC: Final = b"PK\x03\x04"


@dataclasses.dataclass(frozen=True, slots=True)
class State:
    """What the state file of a directory says.

    Attributes:
        path: The state file.
        prefix: The checkpoint it names, joined with the directory; None where there
            is no such file or it does not parse; "" where it names none.
    """

    path: str
    prefix: str | None


def locate(path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> str:
    """Finds the V2 checkpoint that a path means.

    Args:
        path: A prefix, a directory, or one of the checkpoint's files.

    Returns:
        Its prefix, absolute, so that a later change of directory has no effect.

    Raises:
        CheckpointNotFoundError: Nothing there is a checkpoint.
        UnsupportedError: It is a kind of checkpoint that cannot be read, or a URL.
        DamagedError: Something else lies in the checkpoint's place.
        ReadError: The operating system refuses.
    """
    text = path_text(path)
    if os.path.isdir(text) or text.endswith("/"):
        return _absolute(_in_directory(text))
    prefix = _prefix_of(text)
    if prefix is None:
        raise _not_found(text)
    return _absolute(prefix)


def latest_checkpoint(
    directory: str | bytes | os.PathLike[str] | os.PathLike[bytes],
) -> str | None:
    """Finds the checkpoint that a directory's state file names.

    Args:
        directory: The directory that `tf.train.Saver` saved to.

    Returns:
        The prefix, joined with `directory` as given; None where there is no state
        file, it does not parse, or what it names is not there.

    Raises:
        CheckpointNotFoundError: The state file names no checkpoint at all.
        UnsupportedError: `directory` is a URL, or no path.

    Examples:
        >>> import tf2flax
        >>> tf2flax.latest_checkpoint("tests/data/bert")
        'tests/data/bert/model.ckpt'

    Source: `latest_checkpoint`, tensorflow/python/training/checkpoint_management.py.
    """
    state = _read_state(path_text(directory))
    if state.prefix == "":
        raise CheckpointNotFoundError(
            f"The state file names no checkpoint - at `{state.path}`. "
            "Give the prefix of a checkpoint instead of the directory."
        )
    if state.prefix is None or not checkpoint_exists(state.prefix):
        return None
    return state.prefix


def checkpoint_exists(
    path: str | bytes | os.PathLike[str] | os.PathLike[bytes],
) -> bool:
    """Tells whether files of a checkpoint are there, as TensorFlow tells it.

    Args:
        path: A prefix; `*`, `?` and `[...]` are patterns.

    Returns:
        Whether `<path>.index` or `<path>` matches anything; so it is also true for a
        directory without a trailing slash, and for an index without its data.

    Raises:
        UnsupportedError: `path` is a URL, or no path.

    Examples:
        >>> import tf2flax
        >>> tf2flax.checkpoint_exists("tests/data/bert/model.ckpt")
        True
        >>> tf2flax.checkpoint_exists("tests/data/bert/model.ckpt-1")
        False

    Source: `checkpoint_exists`, tensorflow/python/training/checkpoint_management.py.
    """
    text = path_text(path)
    if _matches(f"{text}.index"):
        return True
    return bool(text) and not text.endswith("/") and bool(_matches(text))


def path_text(path: object) -> str:
    """Turns an argument that should be a local path into text.

    Args:
        path: str, bytes or os.PathLike.

    Returns:
        The path, as given.

    Raises:
        UnsupportedError: It is a URL, or no path at all.
        CheckpointNotFoundError: No file can have this name.
    """
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise UnsupportedError(
            "Expected the path of a checkpoint (str, bytes or os.PathLike), "
            f"got {type(path).__name__}."
        )
    text = os.fsdecode(path)  # pyright: ignore[reportUnknownArgumentType]
    url = _URL.match(text)
    if url:
        raise UnsupportedError(
            f"`{text}` is a {url[0]} URL; only local paths can be read. "
            "Copy the checkpoint's files to a local directory."
        )
    if "\0" in text:
        raise CheckpointNotFoundError(f"No file can be called {text!r}.")
    return text


def _absolute(prefix: str) -> str:
    """Joins with the current directory; `..` stays, it may follow a link."""
    return prefix if os.path.isabs(prefix) else os.path.join(os.getcwd(), prefix)


def _matches(pattern: str) -> list[str]:
    if os.path.exists(pattern):  # `run[1]` may well be a directory's name
        return [pattern]
    # TensorFlow's patterns match hidden files too.
    return glob.glob(pattern, include_hidden=True)


def _prefix_of(text: str) -> str | None:
    """The V2 checkpoint that a prefix, or one of its files, means; None for none."""
    if not text:
        return None
    if os.path.isfile(f"{text}.index"):
        return text
    member = _MEMBER.fullmatch(text)
    if member and os.path.isfile(f"{member['prefix']}.index"):
        return member["prefix"]
    if os.path.isfile(text):
        raise _recognised(text)
    if glob.has_magic(text) and any(map(os.path.isfile, _matches(text))):
        raise UnsupportedError(
            f"`{text}` is a pattern of V1 checkpoint files, which cannot be read. "
            "Save the checkpoint in V2 format."
        )
    return None


def _read_state(directory: str) -> State:
    path = os.path.join(directory, STATE_FILE)
    if not os.path.isfile(path):
        return State(path, None)
    try:
        text = read_file(path).decode("utf-8")
    except (CheckpointNotFoundError, ReadError, UnicodeDecodeError):
        return State(path, None)
    named = parse_checkpoint_state(text)
    return State(path, os.path.join(directory, named) if named else named)


def _in_directory(directory: str) -> str:
    state = _read_state(directory)
    named = _prefix_of(state.prefix) if state.prefix else None
    if named is not None:
        return named
    variables = os.path.join(directory, "variables", "variables")
    if os.path.isfile(f"{variables}.index"):
        raise UnsupportedError(
            f"`{directory}` is a SavedModel directory. "
            f"Give the prefix of its variables: `{variables}`."
        )
    empty_basename = os.path.join(directory, "")
    if os.path.isfile(f"{empty_basename}.index"):
        return empty_basename
    raise _nothing_in_directory(directory, state)


def _nothing_in_directory(directory: str, state: State) -> CheckpointNotFoundError:
    if not os.path.isdir(directory):
        return CheckpointNotFoundError(f"No directory at `{directory}`.")
    prefixes = _prefixes(directory)
    if not os.path.exists(state.path):
        found = "it holds no `checkpoint` state file"
    elif state.prefix:
        found = (
            f"its state file names `{state.prefix}`, which is not there "
            f"- in `{state.path}`"
        )
        # Checkpoints are often moved together with a state file of absolute paths.
        moved = os.path.join(directory, os.path.basename(state.prefix))
        prefixes.sort(key=lambda prefix: prefix != moved)
    else:
        found = f"its state file names no checkpoint - in `{state.path}`"
    fix = "Give the prefix of a checkpoint (its files without `.index`)."
    if prefixes:
        fix = f"Did you mean the prefix `{prefixes[0]}`?"
    return CheckpointNotFoundError(
        f"Couldn't find a checkpoint in the directory `{directory}`: {found}. {fix}"
    )


def _not_found(text: str) -> CheckpointNotFoundError:
    parent = os.path.dirname(text) or "."
    if not os.path.isdir(parent):
        return CheckpointNotFoundError(
            f"No checkpoint at `{text}`: there is no directory `{parent}`."
        )
    close = difflib.get_close_matches(text, _prefixes(os.path.dirname(text)), n=1)
    if glob.has_magic(text) and _matches(f"{text}.index"):
        fix = "A V2 checkpoint is given by its prefix, not by a pattern."
    elif close:
        fix = f"Did you mean `{close[0]}`?"
    else:
        fix = "Give its prefix (its files without `.index`) or its directory."
    return CheckpointNotFoundError(
        f"No checkpoint at `{text}`: there is no `{text}.index`. {fix}"
    )


def _prefixes(directory: str) -> list[str]:
    """Prefixes of the V2 checkpoints that lie in a directory."""
    try:
        names = sorted(os.listdir(directory or "."))
    except OSError:
        return []
    suffix = ".index"
    return [
        os.path.join(directory, name.removesuffix(suffix))
        for name in names
        if name.endswith(suffix)
    ]


def _recognised(path: str) -> UnsupportedError | DamagedError | ReadError:
    """The error for a file that is there and no part of a V2 checkpoint."""
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
            file.seek(max(0, os.fstat(file.fileno()).st_size - len(_TABLE_MAGIC)))
            tail = file.read()
    except OSError as error:
        return ReadError(f"Cannot read `{path}`: {error.strerror or error}.")
    found = impostor(head)
    if found:
        return DamagedError(
            f"Expected a checkpoint, got {found[0]} - at `{path}`. {found[1]}"
        )
    member = _MEMBER.fullmatch(path)
    if member:
        return DamagedError(
            f"`{path}` belongs to a checkpoint whose index is missing - at "
            f"`{member['prefix']}.index`. Copy it next to this file."
        )
    return UnsupportedError(f"`{path}` is {_kind(path, head, tail)}")


def _kind(path: str, head: bytes, tail: bytes) -> str:
    if tail == _TABLE_MAGIC:
        return (
            "a V1 checkpoint, which cannot be read. Save the checkpoint in V2 format."
        )
    if head.startswith(_HDF5_MAGIC):
        return "an HDF5 file (Keras weights), not a TensorFlow checkpoint."
    if head.startswith(_ZIP_MAGIC):
        return "a zip file (.keras, .npz), not a TensorFlow checkpoint."
    if os.path.basename(path) == STATE_FILE:
        return f"a state file. Give its directory: `{os.path.dirname(path) or '.'}`."
    if path.endswith((".pb", ".pbtxt")):
        return (
            "a graph, not a checkpoint. Give the prefix of the variables next to it: "
            f"`{os.path.join(os.path.dirname(path), 'variables', 'variables')}`."
        )
    return "no TensorFlow checkpoint. Give the prefix of one (without `.index`)."
