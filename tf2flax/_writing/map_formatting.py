"""Assignment map -> text in TOML or JSON; comments of an old text are kept.

Opens no file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

from tf2flax._assignment.language.expressions import Expression
from tf2flax._assignment.language.grammar import check_entry
from tf2flax._assignment.language.literals import quote
from tf2flax._assignment.language.syntax import is_expression
from tf2flax._base.caller import show_value
from tf2flax._base.collapsing import summarise
from tf2flax._base.errors import AssignmentError

from .map_parsing import COMMENT_KEY, STRING, TABLE_KEY, find_strings

# A pair of strings, as `json.dumps` writes it: on four lines.
_PAIR: Final = re.compile(r'\[\s+("(?:[^"\\]|\\.)*"),\s+("(?:[^"\\]|\\.)*")\s+\]')
_TABLE_START: Final = re.compile(rf"\[{TABLE_KEY}\]|{TABLE_KEY}\s*=")


def check_entries(
    assignment_map: Mapping[Any, str] | Sequence[tuple[Any, str]],
) -> list[tuple[str, str]]:
    """Turns keys and values into text.

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
    entries: list[tuple[str, str]] = []
    problems: list[str] = []
    for number, pair in enumerate(pairs, start=1):
        try:
            entries.append(_check_pair(pair))
        except AssignmentError as error:
            problems.append(f"Entry {number}: {error}")
    if problems:
        raise AssignmentError(summarise(problems))
    return entries


def _check_pair(pair: Any) -> tuple[str, str]:
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
    return (key if isinstance(key, str) else repr(key)), target


def format_toml(
    entries: Sequence[tuple[str, str]], old_text: str, *, is_table: bool
) -> str:
    """Writes entries as TOML, with the comments of an old text.

    Args:
        entries: Keys and targets.
        old_text: Text of the file that is replaced; "" where there is none.
        is_table: Whether they are a table; else they are pairs.
    """
    comments = _Comments(old_text)
    lines = [*comments.header, f"[{TABLE_KEY}]" if is_table else f"{TABLE_KEY} = ["]
    indent = "" if is_table else "    "
    for key, target in entries:
        lines += [f"{indent}{line}".rstrip() for line in comments.above.get(key, ())]
        left, right = _toml_string(key), _toml_string(target)
        entry = f"{left} = {right}" if is_table else f"{indent}[{left}, {right}],"
        lines.append(f"{entry}  {comments.behind.get(key, '')}".rstrip())
    lines += comments.footer
    if not is_table:
        lines.append("]")
    return "\n".join(lines) + "\n"


def format_json(
    entries: Sequence[tuple[str, str]], old_text: str, *, is_table: bool
) -> str:
    """Writes entries as JSON, with the comment of an old text; see `format_toml`."""
    comment = _json_comment(old_text)
    head = {} if comment is None else {COMMENT_KEY: comment}
    table: Any = dict(entries) if is_table else [list(entry) for entry in entries]
    text = json.dumps({**head, TABLE_KEY: table}, indent=2, ensure_ascii=False)
    return _PAIR.sub(r"[\1, \2]", text) + "\n"  # each pair on one line


class _Comments:
    """Comments and empty lines of a TOML file.

    Attributes:
        header: Lines before the table.
        above: Lines above an entry, by its key.
        behind: The comment at the end of an entry's line, by its key.
        footer: Lines after the last entry.
    """

    def __init__(self, text: str) -> None:
        self.header: list[str] = []
        self.above: dict[str, list[str]] = {}
        self.behind: dict[str, str] = {}
        # Lines that belong to whatever follows them.
        waiting: list[str] = []
        is_header = True
        for line in map(str.strip, text.split("\n")):
            if _TABLE_START.match(line):
                self.header, waiting, is_header = waiting, [], False
            elif not line or line.startswith("#"):
                waiting.append(line)
            elif not is_header and (key_and_comment := _split_entry(line)):
                key, comment = key_and_comment
                self.above[key] = waiting
                if comment:
                    self.behind[key] = comment
                waiting = []
        self.footer: list[str] = [] if is_header else waiting
        while self.footer and not self.footer[-1]:
            self.footer.pop()


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


def _toml_string(text: str) -> str:
    if '"' in text and "'" not in text and text.isprintable():
        return f"'{text}'"
    return quote(text)


def _json_comment(text: str) -> Any:
    """The comment of a JSON file; None where it has none or is not valid."""
    try:
        contents: Any = json.loads(text) if text else {}
    except (RecursionError, ValueError):
        return None
    is_table = isinstance(contents, dict)
    return cast("dict[str, Any]", contents).get(COMMENT_KEY) if is_table else None
