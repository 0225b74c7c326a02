"""What to write instead of a map, a key or a value of a wrong type.

Only for messages: entered where something is wrong already. Knows no checkpoint and no
target; what they are is seen from their attributes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Final, cast

from tf2flax._base.caller import attribute_of, show_value

from .expressions import Expression
from .literals import quote

_MAP_FILE: Final = re.compile(r".*\.(toml|json)", re.I | re.S)


def suggest_map(value: object) -> str:
    """What to write where something is no assignment map; begins with a space."""
    text = path_text(value)
    if text is not None and (_MAP_FILE.fullmatch(text) or not isinstance(value, str)):
        return f" Read the file first: tf2flax.load_map({quote(text)})."
    if text is not None:
        return (
            f' Write {{{quote(text)}: "name or scope of the target"}}. Arguments '
            "come in this order: checkpoint, assignment map, target."
        )
    if isinstance(value, Expression):
        return f' Write {{{show_value(value)}: "name of the leaf"}}.'
    if callable(attribute_of(value, "restore")):
        return " A plan has its map already: call its `restore()`."
    if value is None:
        return " An empty map is {}."
    return ' Write {"checkpoint/scope/": "target/scope/"}.'


def suggest_pair(pair: object) -> str:
    """What to write where a member of a map is no pair; begins with a space."""
    if isinstance(pair, str):
        return f' Write [({quote(pair)}, "name or scope of the target"), ...].'
    return ' Write [("checkpoint/scope/", "target/scope/"), ...].'


def suggest_key(key: object) -> str:
    """What to write where a key is of a wrong type; begins with a space, or is ""."""
    text = path_text(key)
    if text is not None:
        return f" Write {quote(text)}."
    name = attribute_of(key, "name")
    if isinstance(name, str):  # a stored tensor, or a variable of TensorFlow
        return f" Give its name: {quote(name)}."
    if isinstance(key, re.Pattern):
        return (
            " Names are not patterns; {i} captures a part of a name: "
            '{"layer_{i}/": "layers_{i}/"}.'
        )
    if is_words(key):
        return f" Join them with `/`: {_joined(key)}."
    return ""


def suggest_value(value: object) -> str:
    """What to write where a value is of a wrong type; begins with a space, or is ""."""
    text = path_text(value)
    if text is not None:
        return f" Write {quote(text)}."
    if isinstance(value, Expression) or callable(value):
        return (
            " What is done to a tensor stands in the key: "
            '{src("name").transpose(): "name of the leaf"}.'
        )
    if isinstance(value, Mapping):
        return " Maps are flat: write whole names, joined with `/`."
    if value is None:
        return " To leave a leaf as it is, leave its entry out."
    return ""


def suggest_tuple(value: tuple[object, ...]) -> str:
    """What to write instead of a tuple as a value."""
    if is_words(value):
        return f"Join the keys of a leaf with `/`: {_joined(value)}."
    return "Make it a list."


def path_text(value: object) -> str | None:
    """The text of a str, bytes or path; None for anything else."""
    if not isinstance(value, (str, bytes, os.PathLike)):
        return None
    try:
        return os.fsdecode(cast("Any", value))
    except Exception:  # of a path's own code
        return None


def is_words(value: object) -> bool:
    """True for a tuple of names and numbers, as the keys on the way to a leaf are."""
    if not isinstance(value, tuple) or not value:
        return False
    parts = cast("tuple[object, ...]", value)
    return all(isinstance(part, (str, int)) for part in parts)


def _joined(parts: Any) -> str:
    return quote("/".join(map(str, parts)))
