"""A line of a map file that is not JSON -> what is wrong, and the line to write.

A suggestion is made only if it parses. Opens no file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from tf2flax._assignment.language.syntax import is_expression, parse_expression
from tf2flax._base.errors import AssignmentError
from tf2flax._base.text import and_more

from .toml_errors import ENTRY_TABLES, TABLE_KEY

# A map file without entries.
_EMPTY: Final = f'{{"{TABLE_KEY}": {{}}}}'
# Pairs that a message writes out.
_MAX_PAIRS: Final = 4
# Begins a table, or a line with a comment.
_TOML: Final = re.compile(rf"\s*(#[^\n]*\s*)*(\[{TABLE_KEY}\]|{TABLE_KEY}\s*=)")


def describe_json_error(text: str, error: json.JSONDecodeError) -> str:
    """Says what is wrong with a text, and what to write.

    Args:
        text: All of the text.
        error: What the parser says.

    Returns:
        A sentence, or several.
    """
    fact = f"invalid JSON: {error.msg}."
    if not text.strip():
        return f"invalid JSON: the file is empty. Write {_EMPTY}."
    if _TOML.match(text):
        return f"{fact} It is TOML: give the file a name that ends in `.toml`."
    before, after = text[: error.pos].rstrip(), text[error.pos :].lstrip()
    if before.endswith(",") and after[:1] in ("}", "]", ","):
        return f"{fact} Leave out the comma before `{after[0]}`."
    # Python names the comma itself from 3.13 on.
    if comma := re.match(r",\s*([}\]])", after):
        return f"{fact} Leave out the comma before `{comma[1]}`."
    if after.startswith(("#", "//", "/*")):
        return (
            f"{fact} JSON has no comments: give them as a text, "
            f'"comment": "...", beside "{TABLE_KEY}".'
        )
    if "escape" in error.msg:
        return f"{fact} A backslash in a name is written twice: \\\\."
    if "',' delimiter" in error.msg and "\n" in text[len(before) : error.pos]:
        line = text.count("\n", 0, len(before)) + 1
        return f"{fact} Put a comma at the end of line {line}."
    if not after:
        return f"{fact} The text ends early: a brace or a bracket is not closed."
    lines = text.split("\n")
    fix = _repaired(lines[error.lineno - 1])
    if not fix:
        return fact
    return (
        f"{fact} Names and expressions stand in double quotes, and those within them "
        f"have a backslash: `{fix}`."
    )


def describe_repeated_key(section: str, key: str, values: Iterable[Any]) -> str:
    """Says that a key occurs more than once, and what to write.

    Args:
        section: The object in which it does, by its own key; "" for the whole file.
        key: The key.
        values: What it is given, in the order of the text.
    """
    values = list(values)
    if section not in ENTRY_TABLES or not all(isinstance(v, str) for v in values):
        return f"key {_quoted(key)} occurs twice. Leave one out."
    pairs = [json.dumps([key, value], ensure_ascii=False) for value in values]
    listed = and_more(", ".join(pairs[:_MAX_PAIRS]), len(pairs) - _MAX_PAIRS)
    return (
        f"key {_quoted(key)} occurs twice. Write the map as a list of pairs, in place "
        f'of the object: `"{section}": [{listed}]`. Other entries become pairs in it '
        "as well."
    )


def describe_missing_table(contents: object) -> str:
    """What to write where a file lacks the one key that it must have."""
    members: list[object] = []
    if isinstance(contents, Mapping):
        members = [*cast("Mapping[object, object]", contents).values()]
    if any(isinstance(member, str) for member in members):
        return f'Put its entries into {{"{TABLE_KEY}": {{...}}}}.'
    return f'Write {{"{TABLE_KEY}": {{"checkpoint/scope/": "target/scope/"}}}}.'


def _repaired(line: str) -> str:
    """The entry of a line with its key and value quoted; "" for no idea."""
    for match in re.finditer(":", line):  # a slice of an expression has one as well
        key = _bare(line[: match.start()].lstrip(" \t{,"))
        value = _bare(line[match.end() :].rstrip(" \t,}"))
        if not key or not value or value[0] in "[{" or not _is_whole(key):
            continue
        fix = f"{_quoted(key)}: {_quoted(value)}"
        if fix not in line:
            return fix
    return ""


def _bare(text: str) -> str:
    """A name or an expression without the quotes around it."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1]
    return text.replace('\\"', '"')


def _is_whole(key: str) -> bool:
    """True for a name, or a valid expression, that is not cut."""
    if not is_expression(key):
        return '"' not in key and key.count("(") == key.count(")")
    try:
        parse_expression(key)
    except AssignmentError:
        return False
    return True


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
