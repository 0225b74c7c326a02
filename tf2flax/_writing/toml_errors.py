"""A line of a map file that is not TOML -> what is wrong, and the line to write.

A suggestion is made only if it parses. Opens no file.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any, Final

from tf2flax._assignment.language.literals import quote
from tf2flax._assignment.language.syntax import is_expression, parse_expression
from tf2flax._base.errors import AssignmentError

# The one key that a map file has.
TABLE_KEY: Final = "assignment_map"
# A whole string, of which no quote within ends it.
_QUOTED: Final = re.compile(r"\"[^\"]*\"|'[^']*'")


def describe_toml_error(text: str, number: int, fact: str) -> str:
    """Says what is wrong with a text, and what to write.

    Args:
        text: All of the text.
        number: The line that the parser names, counted from 1.
        fact: What the parser says.

    Returns:
        A sentence, or several.
    """
    lines = text.split("\n")
    line = lines[number - 1] if 0 < number <= len(lines) else ""
    entry = _parse_entry(line)
    if fact.startswith("Cannot overwrite a value") and entry is not None:
        key, value = entry
        values = [*_values_of(key, lines[: number - 1]), value]
        pairs = ", ".join(f"[{quote(key)}, {quote(value)}]" for value in values)
        return (
            f"key {quote(key)} occurs twice. Write the map as a list of pairs, in "
            f"place of the table: `{TABLE_KEY} = [{pairs}]`. Other entries become "
            "pairs in it as well."
        )
    fix = _repaired(line)
    if not fix:
        return f"invalid TOML: {fact}."
    return (
        f"invalid TOML: {fact}. Names and expressions stand in quotes, single ones "
        f"where they hold double ones: `{fix}`."
    )


def _parse_entry(line: str) -> tuple[str, str] | None:
    """Key and value of a line that is an entry by itself; else None."""
    try:
        contents: dict[str, Any] = tomllib.loads(line)
    except ValueError:
        return None
    if len(contents) != 1:
        return None
    ((key, value),) = contents.items()
    return (key, value) if isinstance(value, str) else None


def _values_of(key: str, lines: list[str]) -> Iterator[str]:
    for line in lines:
        entry = _parse_entry(line)
        if entry is not None and entry[0] == key:
            yield entry[1]


def _repaired(line: str) -> str:
    """The line with its key and value quoted as they must be; "" for no idea."""
    for match in re.finditer("=", line):  # `axis=1` of an expression has one as well
        key = _quoted_key(line[: match.start()].strip())
        value = _quoted_value(line[match.end() :].strip())
        fix = f"{key} = {value}"
        if key and value and fix != line.strip() and _parse_entry(fix) is not None:
            return fix
    return ""


def _quoted_key(key: str) -> str:
    """A key in quotes; "" where it is cut, or is not a valid expression."""
    if _QUOTED.fullmatch(key):
        return key
    if key[:1] in ("'", '"'):
        if len(key) < 2 or key[-1] != key[0]:
            return ""
        key = key[1:-1]
    if key.count("(") != key.count(")"):
        return ""
    if is_expression(key):
        try:
            return _single(repr(parse_expression(key)))
        except AssignmentError:
            return ""
    return _single(key)


def _quoted_value(value: str) -> str:
    if _QUOTED.fullmatch(value):
        return value
    return quote(value.strip("\"'")) if value and value[0] not in "[{#" else ""


def _single(text: str) -> str:
    """A text in single quotes; in double ones, escaped, if it holds both kinds."""
    return quote(text) if "'" in text else f"'{text}'"
