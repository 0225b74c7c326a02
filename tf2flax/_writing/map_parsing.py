"""Text in TOML or JSON -> assignment map, with the line of every entry.

A file has one key, `assignment_map`: a table, or a list of pairs if a key occurs twice.
Keys are names, scopes, or the text of an expression. Opens no file.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

from tf2flax._assignment.language.expressions import Expression
from tf2flax._assignment.language.grammar import Placed, check_entry
from tf2flax._assignment.language.literals import quote
from tf2flax._assignment.language.syntax import parse_key
from tf2flax._base.errors import AssignmentError
from tf2flax._base.text import and_more

from .json_errors import (
    describe_json_error,
    describe_missing_table,
    describe_repeated_key,
)
from .toml_errors import TABLE_KEY, describe_toml_error

# JSON has no comments; this key may hold one.
COMMENT_KEY: Final = "comment"
# So many lines that are wrong are listed.
_MAX_PROBLEMS: Final = 20
# How much of a key and of a value a message shows (characters).
_MAX_KEY: Final = 160
_MAX_VALUE: Final = 60
# Comments, strings of all kinds, and bare keys of TOML.
STRING: Final = re.compile(
    r'#[^\n]*|"""(?:[^\\]|\\.)*?"""|\'\'\'.*?\'\'\'|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\''
    r"|(?m:^)[ \t]*[A-Za-z0-9_.-]+(?=[ \t]*=)",
    re.S,
)
# Where `tomllib` says that a text is wrong.
_AT_LINE: Final = re.compile(r" ?\(at (line (\d+), column \d+|end of document)\)")

Key = str | Expression


class MapTable(dict[Key, str], Placed):
    """A map from a file in which every key occurs once: a dict that knows its lines."""

    def __init__(
        self, entries: Iterable[tuple[Key, str]], places: Mapping[object, str]
    ) -> None:
        """Makes it; `load_map` does."""
        super().__init__(entries)
        self.places = places


class MapPairs(list[tuple[Key, str]], Placed):
    """A map from a file that holds pairs: a list that knows its lines."""

    def __init__(
        self, entries: Iterable[tuple[Key, str]], places: Mapping[object, str]
    ) -> None:
        """Makes it; `load_map` does."""
        super().__init__(entries)
        self.places = places


def parse_map_text(text: str, name: str, *, is_json: bool) -> MapTable | MapPairs:
    """Parses the text of a map file, and checks its grammar.

    Args:
        text: All of the file.
        name: The file, for messages.
        is_json: Whether it is JSON; else it is TOML.

    Raises:
        AssignmentError: The text or an entry is malformed; all such lines are named.
    """
    contents = _parse_json(text, name) if is_json else _parse_toml(text, name)
    table = _table_in(contents, name, is_json=is_json)
    is_table = isinstance(table, dict)
    pairs = list(table.items()) if is_table else _pairs_in(table, name)
    lines = find_lines(text, [key for key, _ in pairs], is_json=is_json)
    entries: list[tuple[Key, str]] = []
    places: dict[object, str] = {}
    # Collected, so that one attempt names every line that is wrong.
    problems: list[str] = []
    for (key_text, target), line in zip(pairs, lines, strict=True):
        place = f"{name}:{line}" if line else name
        try:
            entry = _parse_entry(key_text, target, is_json=is_json)
        except AssignmentError as error:
            problems.append(f"{place}: {_shorten_key(key_text)}: {error}")
        else:
            entries.append(entry)
            places[entry] = place
    if is_table:
        problems += _find_equal_keys(entries, places)
    if problems:
        raise AssignmentError(_join_problems(problems, name))
    return MapTable(entries, places) if is_table else MapPairs(entries, places)


def _join_problems(problems: Sequence[str], name: str) -> str:
    """A screen of lines, each of which begins with the file."""
    text = "\n".join(problems[:_MAX_PROBLEMS])
    num_hidden = len(problems) - _MAX_PROBLEMS
    if num_hidden <= 0:
        return text
    return and_more(text, num_hidden, separator=f"\n{name}: ") + "."


def _parse_toml(text: str, name: str) -> Any:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        match = _AT_LINE.search(message)
        line = match[2] if match and match[2] else text.count("\n") + 1
        fact = _AT_LINE.sub("", message)
        raise AssignmentError(
            f"{name}:{line}: {describe_toml_error(text, int(line), fact)}"
        ) from error
    except (RecursionError, ValueError) as error:
        raise AssignmentError(f"{name}: invalid TOML: {error}.") from error


def _parse_json(text: str, name: str) -> Any:
    repeated: list[tuple[str, list[Any]]] = []

    def check_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members: dict[str, Any] = {}
        for key, value in pairs:
            if key in members:
                values = [member for name, member in pairs if name == key]
                repeated.append((key, values))
            members[key] = value
        return members

    try:
        contents = json.loads(text, object_pairs_hook=check_keys)
    except json.JSONDecodeError as error:
        raise AssignmentError(
            f"{name}:{error.lineno}: {describe_json_error(text, error)}"
        ) from error
    except (RecursionError, ValueError) as error:
        raise AssignmentError(f"{name}: invalid JSON: {error}.") from error
    if repeated:
        key, values = repeated[0]
        line = find_lines(text, [key, key], is_json=True)[-1]
        raise AssignmentError(f"{name}:{line}: {describe_repeated_key(key, values)}")
    return contents


def _table_in(contents: Any, name: str, *, is_json: bool) -> dict[str, Any] | list[Any]:
    """The table or list under the one key that a map file has."""
    members = cast("dict[str, Any]", contents) if isinstance(contents, dict) else {}
    table = members.get(TABLE_KEY)
    kind = "an object" if is_json else "a table"
    if table is None:
        fix = f"Begin it with [{TABLE_KEY}]."
        raise AssignmentError(
            f"`{name}`: expected {kind} `{TABLE_KEY}`. "
            f"{describe_missing_table(contents) if is_json else fix}"
        )
    for key in members:
        if key not in (TABLE_KEY, COMMENT_KEY):
            raise AssignmentError(
                f"`{name}`: expected `{TABLE_KEY}` alone, got {quote(key)} as well."
            )
    if not isinstance(table, (dict, list)):
        raise AssignmentError(
            f"`{name}`: expected {kind}, or a list of pairs, as `{TABLE_KEY}`, got "
            f"{_show_json(table)}."
        )
    return cast("dict[str, Any] | list[Any]", table)


def _pairs_in(table: list[Any], name: str) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for number, pair in enumerate(table, start=1):
        members = cast("list[Any]", pair) if isinstance(pair, list) else []
        if len(members) != 2 or not isinstance(members[0], str):
            raise AssignmentError(
                f"`{name}`: entry {number}: expected a pair of strings, got "
                f"{_show_json(pair)}."
            )
        pairs.append((members[0], members[1]))
    return pairs


def _parse_entry(key_text: str, target: Any, *, is_json: bool) -> tuple[Key, str]:
    if not isinstance(target, str):
        fix = ""
        if isinstance(target, dict):
            fix = " Put a name that holds dots into quotes."
        if is_json and isinstance(target, dict):
            fix = " Maps are flat: write whole names, joined with `/`."
        raise AssignmentError(
            f"expected the name of a leaf or scope, got {_show_json(target)}.{fix}"
        )
    key = parse_key(key_text)
    check_entry(key, target)
    return key, target


def _find_equal_keys(
    entries: Sequence[tuple[Key, str]], places: Mapping[object, str]
) -> Iterator[str]:
    """Describes keys of a table that differ as text and are equal as expressions."""
    places_by_key: dict[Key, str] = {}
    for entry in entries:
        key, place = entry[0], places[entry]
        if key in places_by_key:
            yield (
                f"{place}: {key!r} is the same key as in {places_by_key[key]}, spelled "
                "differently."
            )
        places_by_key[key] = place


def _shorten_key(key: str) -> str:
    text = quote(key)
    return text if len(text) <= _MAX_KEY else f"{text[:_MAX_KEY]}…"


def _show_json(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= _MAX_VALUE else f"{text[:_MAX_VALUE]}…"


def find_lines(text: str, keys: Sequence[str], *, is_json: bool) -> list[int]:
    """The line of each key, which are in the order of the file; 0 if it is not found.

    The parsers do not give lines, so the strings of the text are searched for the keys.
    """
    strings = list(find_strings(text, is_json=is_json))
    lines: list[int] = []
    position = 0
    for key in keys:
        matches = (i for i in range(position, len(strings)) if strings[i][0] == key)
        index = next(matches, None)
        lines.append(0 if index is None else strings[index][1])
        # A key that is not found (a dotted one of TOML, say) skips nothing.
        position = position if index is None else index + 1
    return lines


def find_strings(text: str, *, is_json: bool) -> Iterator[tuple[str, int]]:
    """Yields the strings and bare keys of a text, each with its line."""
    line, end = 1, 0
    for match in STRING.finditer(text):
        line += text.count("\n", end, match.start())
        end = match.start()
        token = match[0].strip()
        if token.startswith("#") or not token:
            continue
        try:
            if token[0] not in "\"'":
                value = token.partition(".")[0]
            elif is_json:
                value = json.loads(token)
            else:
                value = tomllib.loads(f"k = {token}")["k"]
        except ValueError:
            continue
        yield value, line
