"""Lines of the keys in the text of a map file, which parsers do not give.

Opens no file.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from typing import Final

# Comments, strings of all kinds, and bare keys of TOML.
STRING: Final = re.compile(
    r'#[^\n]*|"""(?:[^\\]|\\.)*?"""|\'\'\'.*?\'\'\'|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\''
    r"|(?m:^)[ \t]*[A-Za-z0-9_.-]+(?=[ \t]*=)",
    re.S,
)
# What stands behind a key.
_BEHIND_KEY: Final = re.compile(r"[ \t]*[=:]|[ \t\n]*:")


def find_lines(
    text: str,
    keys: Sequence[str],
    *,
    is_json: bool,
    section: str = "",
    is_table: bool = True,
) -> list[int]:
    """The line of each key, which are in the order of the file.

    The parsers do not give lines, so the strings of the text are searched for the keys,
    from the beginning of the section on. A key may also be a table of its own, as in
    `[options.dtype]`. One that is not found gets the line of the section; 0 for none.
    """
    start = _start_of(text, section, is_json=is_json) if section else 0
    strings = [
        (string, line)
        for string, line, kind in find_strings(text, is_json=is_json)
        if kind == ("key" if is_table else "first") and line >= start
    ]
    lines: list[int] = []
    position = 0
    for key in keys:
        matches = (i for i in range(position, len(strings)) if strings[i][0] == key)
        index = next(matches, None)
        if index is not None:
            lines.append(strings[index][1])
        else:
            table = (
                0 if is_json else _header_line(text, rf"{section}\.{re.escape(key)}")
            )
            lines.append(table or start)
        # A key that is not found (a dotted one of TOML, say) skips nothing.
        position = position if index is None else index + 1
    return lines


def _start_of(text: str, section: str, *, is_json: bool) -> int:
    """The line on which a section begins; 0 if it is not found."""
    if not is_json:
        return _header_line(text, section)
    strings = find_strings(text, is_json=True)
    keys = ((string, line) for string, line, kind in strings if kind == "key")
    return next((line for string, line in keys if string == section), 0)


def _header_line(text: str, name: str) -> int:
    """The line of TOML on which a table begins; 0 if it is not found.

    Args:
        text: All of the text.
        name: Name of the table, as a regex.
    """
    quoted = rf"[\"']?{name}[\"']?"
    # A header first: an entry may be called `options`.
    for start in (rf"\[[ \t]*{quoted}[ \t]*[\].]", rf"{quoted}[ \t]*[=.]"):
        if match := re.search(rf"(?m)^[ \t]*{start}", text):
            return text.count("\n", 0, match.start()) + 1
    return 0


def find_strings(text: str, *, is_json: bool) -> Iterator[tuple[str, int, str]]:
    """Yields the strings and bare keys of a text, each with its line and what it is.

    That is "key" in a table, "first" behind the bracket of a list, else "".
    """
    line, end, last = 1, 0, 0
    for match in STRING.finditer(text):
        line += text.count("\n", end, match.start())
        end = match.start()
        between, last = text[last : match.start()], match.end()
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
        if _BEHIND_KEY.match(text, match.end()):
            yield value, line, "key"
        else:
            yield value, line, "first" if between.rstrip().endswith("[") else ""
