"""Text in TOML or JSON -> assignment map, with the line of every entry.

A file has a table `assignment_map`, or a list of pairs if a key occurs twice; perhaps
the same as `optional`, and tables `parameters` and `options`. Keys of entries are
names, scopes, or the text of an expression. Opens no file.
"""

from __future__ import annotations

import collections
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, cast

from tf2flax._assignment.language.grammar import MapFacts, check_entry
from tf2flax._assignment.language.literals import quote
from tf2flax._assignment.language.syntax import parse_key
from tf2flax._base.errors import AssignmentError, ReadError
from tf2flax._base.names import nearest
from tf2flax._base.text import and_more

from .json_errors import (
    describe_json_error,
    describe_missing_table,
    describe_repeated_key,
)
from .loaded_maps import Key, MapPairs, MapTable
from .map_lines import find_lines
from .map_options import (
    Parameter,
    check_file_option,
    check_parameter,
    fill_key,
    fill_name,
    hint_at_parameter,
    override,
    refuse_near_parameter,
)
from .toml_errors import ENTRY_TABLES, TABLE_KEY, describe_toml_error
from .vocabularies import folder_of, read_vocabularies

# JSON has no comments; this key may hold one.
COMMENT_KEY: Final = "comment"
# So many lines that are wrong are listed.
_MAX_PROBLEMS: Final = 20
# How much of a key and of a value a message shows (characters).
_MAX_KEY: Final = 160
_MAX_VALUE: Final = 60
# Where `tomllib` says that a text is wrong.
_AT_LINE: Final = re.compile(r" ?\(at (line (\d+), column \d+|end of document)\)")

_SECTIONS: Final = (*ENTRY_TABLES, "parameters", "options")


def parse_map_text(
    text: str, name: str, given: Mapping[str, object], *, is_json: bool
) -> MapTable | MapPairs:
    """Parses the text of a map file, and checks its grammar.

    Args:
        text: All of the file.
        name: The file, for messages.
        given: Values for its parameters, by name.
        is_json: Whether it is JSON; else it is TOML.

    Raises:
        AssignmentError: The text or an entry is malformed; all such lines are named.
    """
    contents = _parse_json(text, name) if is_json else _parse_toml(text, name)
    _check_sections(contents, name, is_json=is_json)
    reader = _Reader(text, name, is_json=is_json)
    parameters = reader.read_parameters(contents.get("parameters", {}), given)
    options = reader.read_options(contents.get("options", {}))
    tables = {key: contents[key] for key in ENTRY_TABLES if key in contents}
    for key, table in tables.items():
        reader.read_entries(key, table, parameters)
    is_table = all(isinstance(table, dict) for table in tables.values())
    if is_table:
        reader.problems += _find_equal_keys(reader.entries, reader.places)
    if reader.problems:
        raise AssignmentError(_join_problems(reader.problems, name))
    facts = MapFacts(
        reader.places, reader.optional, options, reader.option_places, parameters
    )
    kind = MapTable if is_table else MapPairs
    return kind(reader.entries, facts)


class _Reader:
    """Reads the sections of one file; problems are collected.

    One attempt shall name every line that is wrong.

    Attributes:
        entries: Entries so far.
        places: File and line of each.
        optional: Those of the table `optional`.
        option_places: File and line of each option.
        problems: What is wrong, each with file and line.
    """

    def __init__(self, text: str, name: str, *, is_json: bool) -> None:
        self._text = text
        self._name = name
        self._is_json = is_json
        self.entries: list[tuple[Key, str]] = []
        self.places: dict[object, str] = {}
        self.optional: set[object] = set()
        self.option_places: dict[str, str] = {}
        self.problems: list[str] = []

    def read_entries(
        self,
        section: str,
        table: dict[str, Any] | list[Any],
        parameters: Mapping[str, Parameter],
    ) -> None:
        """Reads a table of entries."""
        is_table = isinstance(table, dict)
        pairs = list(table.items()) if is_table else _pairs_in(table, self._name)
        keys = [key for key, _ in pairs]
        places = self._places(section, keys, is_table=is_table)
        for (key_text, target), place in zip(pairs, places, strict=True):
            try:
                key, target = _parse_entry(
                    key_text, target, parameters, is_json=self._is_json
                )
                if not isinstance(key, str):
                    key = read_vocabularies(key, folder_of(self._name))
                entry = key, target
            except AssignmentError as error:
                self.problems.append(f"{place}: {_shorten_key(key_text)}: {error}")
                continue
            except ReadError as error:  # of a vocabulary
                raise ReadError(
                    f"{place}: {_shorten_key(key_text)}: {error}"
                ) from error
            is_twice = entry in self.places
            # A pair may occur twice in one list, not in both.
            is_mixed = (entry in self.optional) != (section == "optional")
            if is_twice and (is_table or is_mixed):
                self.problems.append(
                    f"{place}: {_shorten_key(key_text)}: this entry stands in "
                    f"{self.places[entry]} as well."
                )
                continue
            self.entries.append(entry)
            self.places[entry] = place
            if section == "optional":
                self.optional.add(entry)

    def read_parameters(
        self, table: dict[str, Any], given: Mapping[str, object]
    ) -> dict[str, Parameter]:
        """Reads the table of parameters, and puts values of the call into it."""
        parameters: dict[str, Parameter] = {}
        places = self._places("parameters", list(table))
        for (key, value), place in zip(table.items(), places, strict=True):
            try:
                parameters[key] = check_parameter(key, value)
            except AssignmentError as error:
                self.problems.append(f"{place}: {error}")
        try:
            return override(parameters, given)
        except AssignmentError as error:
            raise AssignmentError(f"`{self._name}`: {error}") from error

    def read_options(self, table: dict[str, Any]) -> dict[str, Any]:
        """Reads the table of options."""
        places = self._places("options", list(table))
        for (key, value), place in zip(table.items(), places, strict=True):
            self.option_places[key] = place
            try:
                check_file_option(key, value, is_json=self._is_json)
            except AssignmentError as error:
                self.problems.append(f"{place}: {error}")
        return dict(table)

    def _places(
        self, section: str, keys: list[str], *, is_table: bool = True
    ) -> list[str]:
        """File and line of each key of a section."""
        lines = find_lines(
            self._text, keys, is_json=self._is_json, section=section, is_table=is_table
        )
        return [f"{self._name}:{line}" if line else self._name for line in lines]


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
    # By the object in which a key occurs twice: the first such key, and its values.
    repeated: list[tuple[dict[str, Any], str, list[Any]]] = []

    def check_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        counts = collections.Counter(key for key, _ in pairs)
        for key in [key for key, count in counts.items() if count > 1][:1]:
            values = [member for name, member in pairs if name == key]
            repeated.append((members, key, values))
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
        table, key, values = repeated[0]
        sections = cast("dict[str, Any]", contents if type(contents) is dict else {})
        section = next((k for k, member in sections.items() if member is table), "")
        lines = find_lines(text, [key, key], is_json=True, section=section)
        fact = describe_repeated_key(section, key, values)
        raise AssignmentError(f"{name}:{lines[-1]}: {fact}")
    return contents


def _check_sections(contents: Any, name: str, *, is_json: bool) -> None:
    """Checks the keys of a file: tables of entries, parameters, options, a comment."""
    members = cast("dict[str, Any]", contents) if isinstance(contents, dict) else {}
    kind = "an object" if is_json else "a table"
    if not any(key in members for key in ENTRY_TABLES):
        fix = f"Begin it with [{TABLE_KEY}]."
        raise AssignmentError(
            f"`{name}`: expected {kind} `{TABLE_KEY}`. "
            f"{describe_missing_table(members) if is_json else fix}"
        )
    for key, section in members.items():
        if key == COMMENT_KEY:
            continue
        if key not in _SECTIONS:
            close = nearest(key, _SECTIONS, count=1)
            fix = f" Did you mean `{close[0]}`?" if close else ""
            raise AssignmentError(
                f"`{name}`: expected the tables {', '.join(_SECTIONS)}, got "
                f"{quote(key)} as well.{fix}"
            )
        # Only entries may be pairs: where a key occurs twice, a table cannot hold them.
        is_entries = key in ENTRY_TABLES
        if isinstance(section, dict) or (isinstance(section, list) and is_entries):
            continue
        raise AssignmentError(
            f"`{name}`: expected {kind}{', or a list of pairs,' * is_entries} as "
            f"`{key}`, got {_show_json(section)}."
        )


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


def _parse_entry(
    key_text: str, target: Any, parameters: Mapping[str, Parameter], *, is_json: bool
) -> tuple[Key, str]:
    if not isinstance(target, str):
        fix = ""
        if isinstance(target, dict):
            fix = " Put a name that holds dots into quotes."
        if is_json and isinstance(target, dict):
            fix = " Maps are flat: write whole names, joined with `/`."
        raise AssignmentError(
            f"expected the name of a leaf or scope, got {_show_json(target)}.{fix}"
        )
    try:
        key = fill_key(parse_key(key_text, parameters), parameters)
        target = fill_name(target, parameters)
        check_entry(key, target)
    except AssignmentError as error:
        hint = hint_at_parameter([key_text, target], parameters)
        raise AssignmentError(f"{error}{hint}") from error
    refuse_near_parameter(key, target, parameters)
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
                "differently or in another table."
            )
        places_by_key[key] = place


def _shorten_key(key: str) -> str:
    text = quote(key)
    return text if len(text) <= _MAX_KEY else f"{text[:_MAX_KEY]}…"


def _show_json(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= _MAX_VALUE else f"{text[:_MAX_VALUE]}…"
