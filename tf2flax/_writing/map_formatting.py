"""Assignment map -> text in TOML or JSON; comments of an old text are kept.

Opens no file.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

from tf2flax._assignment.language.expressions import Expression
from tf2flax._assignment.language.grammar import check_entry, facts_of
from tf2flax._assignment.language.syntax import is_expression
from tf2flax._base.caller import show_value
from tf2flax._base.collapsing import summarise
from tf2flax._base.errors import AssignmentError

from .map_lines import STRING, find_strings
from .map_parsing import COMMENT_KEY, TABLE_KEY
from .toml_values import toml_string, toml_value
from .vocabularies import move_vocabularies

# A pair of strings, as `json.dumps` writes it: on four lines.
_PAIR: Final = re.compile(r'\[\s+("(?:[^"\\]|\\.)*"),\s+("(?:[^"\\]|\\.)*")\s+\]')
_SECTION_START: Final = re.compile(
    rf"\[?({TABLE_KEY}|optional|parameters|options)\s*(?:\]|=\s*\[)"
)


@dataclasses.dataclass(frozen=True, slots=True)
class MapText:
    """What is written of a map: text, in the order of its entries.

    Attributes:
        entries: Keys and targets.
        optional: Keys and targets of optional entries.
        options: Options of `plan`, by name.
        is_table: Whether entries are tables; else they are pairs.
    """

    entries: list[tuple[str, str]]
    optional: list[tuple[str, str]]
    options: Mapping[str, Any]
    is_table: bool

    @property
    def sections(self) -> dict[str, list[tuple[str, str]]]:
        """The lists of entries that are written, by name."""
        sections = {TABLE_KEY: self.entries, "optional": self.optional}
        return {k: v for k, v in sections.items() if v or k == TABLE_KEY}


def check_map_to_write(
    assignment_map: Mapping[Any, str] | Sequence[tuple[Any, str]], folder: str
) -> MapText:
    """Turns keys and values into text.

    Args:
        assignment_map: The map.
        folder: The folder of its file, from which paths of vocabularies count.

    Raises:
        AssignmentError: A file cannot hold an entry, or it is malformed; all are named.
    """
    if isinstance(assignment_map, Mapping):
        pairs: list[Any] = list(assignment_map.items())
    elif isinstance(assignment_map, (str, bytes)) or not isinstance(
        assignment_map,  # pyright: ignore[reportUnnecessaryIsInstance]
        Iterable,
    ):
        raise AssignmentError(
            f"Expected an assignment map, got {show_value(assignment_map)}."
        )
    else:
        pairs = list(assignment_map)
    facts = facts_of(assignment_map)
    entries: list[tuple[str, str]] = []
    optional: list[tuple[str, str]] = []
    problems: list[str] = []
    for number, pair in enumerate(pairs, start=1):
        try:
            entry = _check_pair(pair, folder)
        except AssignmentError as error:
            problems.append(f"Entry {number}: {error}")
        else:
            is_optional = tuple(pair) in facts.optional
            (optional if is_optional else entries).append(entry)
    if problems:
        raise AssignmentError(summarise(problems))
    is_table = isinstance(assignment_map, Mapping)
    return MapText(entries, optional, facts.options, is_table)


def _check_pair(pair: Any, folder: str) -> tuple[str, str]:
    if not isinstance(pair, (tuple, list)) or len(cast("Sequence[Any]", pair)) != 2:
        raise AssignmentError(
            "expected a pair of a key and a name, got "
            f"{show_value(cast('object', pair))}."
        )
    key, target = cast("Sequence[Any]", pair)
    if not isinstance(key, (str, Expression)):
        raise AssignmentError(
            f"expected a name or an expression, got {show_value(key)}."
        )
    if not isinstance(target, str):
        raise AssignmentError(
            f"{key!r}: expected the name of a leaf or scope, got a "
            f"{type(target).__name__}: files hold names, not objects."
        )
    if isinstance(key, str) and is_expression(key):
        raise AssignmentError(
            f"{key!r} is a name that would be read from a file as an expression. Write "
            "it as tf2flax.src(name)."
        )
    check_entry(key, target)
    if isinstance(key, Expression):
        key = repr(move_vocabularies(key, folder))
    return key, target


def format_toml(contents: MapText, old_text: str) -> str:
    """Writes a map as TOML, with the comments of an old text.

    Args:
        contents: What is written.
        old_text: Text of the file that is replaced; "" where there is none.
    """
    comments = _Comments(old_text)
    is_table = contents.is_table
    lines = [*comments.header]
    for section, entries in contents.sections.items():
        before = comments.before.get(section, [""] if section != TABLE_KEY else [])
        lines += [*before, f"[{section}]" if is_table else f"{section} = ["]
        indent = "" if is_table else "    "
        for key, target in entries:
            left, right = toml_string(key), toml_string(target)
            entry = f"{left} = {right}" if is_table else f"[{left}, {right}],"
            texts = comments.around(section, key, entry)
            lines += [f"{indent}{text}".rstrip() for text in texts]
        if section == comments.last:
            lines += comments.footer
        if not is_table:
            lines.append("]")
    if contents.options:
        lines += _options_lines(contents.options, comments)
    return "\n".join(lines) + "\n"


def _options_lines(options: Mapping[str, Any], comments: _Comments) -> list[str]:
    """The table of options."""
    lines = [*comments.before.get("options", [""]), "[options]"]
    for key, value in options.items():
        # TOML has no null, which is the default of all but the aliases.
        if value is not None or key == "aliases":
            entry = f"{key} = {toml_value(value)}"
            lines += comments.around("options", key, entry)
    return [*lines, *(comments.footer if comments.last == "options" else [])]


def format_json(contents: MapText, old_text: str) -> str:
    """Writes a map as JSON, with the comment of an old text; see `format_toml`."""
    comment = _json_comment(old_text)
    document: dict[str, Any] = {} if comment is None else {COMMENT_KEY: comment}
    for section, entries in contents.sections.items():
        pairs = [list(entry) for entry in entries]
        document[section] = dict(entries) if contents.is_table else pairs
    if contents.options:
        document["options"] = dict(contents.options)
    text = json.dumps(document, indent=2, ensure_ascii=False)
    return _PAIR.sub(r"[\1, \2]", text) + "\n"  # each pair on one line


class _Comments:
    """Comments and empty lines of a TOML file.

    Attributes:
        header: Lines before the first section.
        before: Lines before another section, by its name.
        last: Name of the last section.
        footer: Lines after its last entry.
    """

    def __init__(self, text: str) -> None:
        self.header: list[str] = []
        self.before: dict[str, list[str]] = {}
        # By section and key, which may occur several times: the lines above an entry,
        # and the comment at the end of its own.
        self._entries: dict[tuple[str, str], list[tuple[list[str], str]]] = {}
        self.last = ""
        # Lines that belong to whatever follows them.
        waiting: list[str] = []
        for line in map(str.strip, text.split("\n")):
            if section := _SECTION_START.match(line):
                if self.last:
                    self.before[section[1]] = waiting
                else:
                    self.header = waiting
                self.last, waiting = section[1], []
            elif not line or line.startswith("#"):
                waiting.append(line)
            elif self.last and (key_and_comment := _split_entry(line)):
                key, comment = key_and_comment
                comments = self._entries.setdefault((self.last, key), [])
                comments.append((waiting, comment))
                waiting = []
        self.footer: list[str] = waiting if self.last else []
        while self.footer and not self.footer[-1]:
            self.footer.pop()

    def around(self, section: str, key: str, entry: str) -> list[str]:
        """The lines of an entry: its comments, once each, and itself."""
        comments = self._entries.get((section, key))
        above, behind = comments.pop(0) if comments else ([], "")
        return [*above, f"{entry}  {behind}".rstrip()]


def _split_entry(line: str) -> tuple[str, str] | None:
    """The key that a line begins with, and the comment at its end or ""."""
    key: str | None = None
    comment = ""
    for match in STRING.finditer(line):
        token = match[0].strip()
        if token.startswith("#"):
            comment = token
            break
        if key is None:
            strings = list(find_strings(token, is_json=False))
            key = strings[0][0] if strings else token
    return None if key is None else (key, comment)


def _json_comment(text: str) -> Any:
    """The comment of a JSON file; None where it has none or is not valid."""
    try:
        contents: Any = json.loads(text) if text else {}
    except (RecursionError, ValueError):
        return None
    is_table = isinstance(contents, dict)
    return cast("dict[str, Any]", contents).get(COMMENT_KEY) if is_table else None
