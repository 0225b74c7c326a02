"""The text of a state file, which names the checkpoints of a directory.

Source: tensorflow/python/training/checkpoint_state.proto.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from google.protobuf import (
    text_format,
)

from .messages import MESSAGE_CLASSES

_STATE: Final[Any] = MESSAGE_CLASSES["CheckpointState"]


def parse_checkpoint_paths(text: str) -> tuple[str, ...]:
    """Parses the paths of all checkpoints that a state file names, oldest first.

    Args:
        text: A `CheckpointState` in text format.

    Returns:
        The paths as they are written; () where the text does not parse.
    """
    state = _STATE()
    try:
        text_format.Merge(text, state)
    except (text_format.ParseError, UnicodeError):
        return ()
    return tuple(state.all_model_checkpoint_paths)


def format_checkpoint_state(latest: str, paths: Sequence[str]) -> str:
    """Formats a state file.

    Args:
        latest: Path of the latest checkpoint.
        paths: Paths of all, oldest first.

    Returns:
        A `CheckpointState` in text format.

    Examples:
        >>> format_checkpoint_state("m-2", ["m-1", "m-2"]).splitlines()[0]
        'model_checkpoint_path: "m-2"'
    """
    state = _STATE(model_checkpoint_path=latest, all_model_checkpoint_paths=paths)
    return text_format.MessageToString(state)


def parse_checkpoint_state(text: str) -> str | None:
    """Parses the state file that names the latest checkpoint of a directory.

    Args:
        text: A `CheckpointState` in text format.

    Returns:
        The path it names, "" where it names none; None where it does not parse.

    Examples:
        >>> parse_checkpoint_state('model_checkpoint_path: "model.ckpt-5"')
        'model.ckpt-5'
    """
    state = _STATE()
    try:
        # Merge lets the last of several values win, as TensorFlow does.
        text_format.Merge(text, state)
    except (text_format.ParseError, UnicodeError):
        return None
    return state.model_checkpoint_path


def checkpoint_state_error(text: str) -> str:
    """Says where the text of a state file does not parse.

    Args:
        text: A text.

    Returns:
        The fact, in one line; "" where it parses.

    Examples:
        >>> checkpoint_state_error('model_checkpoint_path: "m"')
        ''
    """
    try:
        text_format.Merge(text, _STATE())
    except (text_format.ParseError, UnicodeError) as error:
        where, _, fact = str(error).partition(" : ")
        line = where.partition(":")[0]
        fact = " ".join((fact or where)[:200].split())
        return f"line {line}: {fact}" if fact and line.isdecimal() else fact
    return ""
