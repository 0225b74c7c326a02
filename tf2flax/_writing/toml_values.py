"""Strings and values of options -> TOML. Opens no file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from tf2flax._assignment.language.literals import quote


def toml_string(text: str) -> str:
    """Writes a string; in single quotes if it holds double ones."""
    if '"' in text and "'" not in text and text.isprintable():
        return f"'{text}'"
    return quote(text)


def toml_value(value: Any) -> str:
    """Writes the value of an option: one that came from a file, or an example."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return toml_string(value)
        case list() | tuple():
            members = cast("Sequence[Any]", value)
            return f"[{', '.join(map(toml_value, members))}]"
        case dict():
            members = cast("dict[str, Any]", value).items()
            pairs = (f"{toml_string(k)} = {toml_value(v)}" for k, v in members)
            return f"{{{', '.join(pairs)}}}"
        case None:
            return "{}"  # of JSON: no aliases
        case _:
            return repr(value)
