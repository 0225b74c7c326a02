"""A line of a map file that is not TOML -> what is wrong, and the line to write.

A suggestion is made only if it parses. Opens no file.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator, Sequence
from typing import Any, Final

from tf2flax._assignment.language.literals import quote
from tf2flax._assignment.language.syntax import is_expression, parse_expression
from tf2flax._base.errors import AssignmentError

# The table of entries that a map file has, and both that it may have.
TABLE_KEY: Final = "assignment_map"
ENTRY_TABLES: Final = (TABLE_KEY, "optional")
# A whole string, of which no quote within ends it.
_QUOTED: Final = re.compile(r"\"[^\"]*\"|'[^']*'")
# The line that begins a table, with the first part of its name; pairs have a comma.
_HEADER: Final = re.compile(
    r"[ \t]*\[\[?[ \t]*[\"']?([A-Za-z0-9_-]+)[^,\n]*\][ \t]*(?:#.*)?"
)
# A name of several parts, as the parser shows it.
_TUPLE: Final = re.compile(r"\(('(?:[^'\\]|\\.)*'(?:, ?)?)+\)")


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
    fact = _TUPLE.sub(lambda match: _dotted(match[0]), fact)
    if table := re.fullmatch("Cannot declare (.*) twice", fact):
        return (
            f"table [{table[1]}] occurs twice. Put the lines of both below the first "
            "of them."
        )
    if fact.startswith("Cannot overwrite a value"):
        return _describe_repeated_key(lines[: number - 1], line)
    fix = _repaired(line)
    if not fix:
        return f"invalid TOML: {fact}."
    return (
        f"invalid TOML: {fact}. Names and expressions stand in quotes, single ones "
        f"where they hold double ones: `{fix}`."
    )


def _dotted(name: str) -> str:
    """A name of several parts as TOML has it, from a tuple of Python."""
    parts = ast.literal_eval(name)
    return ".".join(p if re.fullmatch("[A-Za-z0-9_-]+", p) else quote(p) for p in parts)


def _describe_repeated_key(before: Sequence[str], line: str) -> str:
    """Says that a key occurs twice, and what to write.

    Args:
        before: The lines before it.
        line: The line on which it occurs once more.
    """
    section, section_lines = _last_table(before)
    entry = _parse_entry(line)
    if entry is None or section not in ENTRY_TABLES:
        contents = _parse_line(line)
        key = f"key {quote(next(iter(contents)))}" if contents else "a key"
        where = f" in [{section}]" if section else ""
        return f"{key} occurs twice{where}. Leave one out."
    key, value = entry
    values = [*_values_of(key, section_lines), value]
    pairs = ", ".join(f"[{quote(key)}, {quote(value)}]" for value in values)
    return (
        f"key {quote(key)} occurs twice. Write the map as a list of pairs, before the "
        f"first table: `{section} = [{pairs}]`. Other entries become pairs in it as "
        "well."
    )


def _last_table(lines: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The name of the last table that begins in some lines, and its lines."""
    for number in reversed(range(len(lines))):
        if header := _HEADER.fullmatch(lines[number].rstrip()):
            return header[1], lines[number + 1 :]
    return "", lines


def _parse_line(line: str) -> dict[str, Any]:
    """Keys and values of a line; none if it is not TOML by itself."""
    try:
        return tomllib.loads(line)
    except ValueError:
        return {}


def _parse_entry(line: str) -> tuple[str, str] | None:
    """Key and value of a line that is an entry by itself; else None."""
    contents = _parse_line(line)
    if len(contents) != 1:
        return None
    ((key, value),) = contents.items()
    return (key, value) if isinstance(value, str) else None


def _values_of(key: str, lines: Sequence[str]) -> Iterator[str]:
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
        # Three quotes, as of a text of several lines, begin no key.
        quotes = key[:3] if key[:3] == key[0] * 3 else key[0]
        if len(key) < 2 * len(quotes) or not key.endswith(quotes):
            return ""
        key = key[len(quotes) : -len(quotes)]
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
