"""Map files: assignment maps in TOML or JSON, to be published, reviewed and checked.

One key, `assignment_map`: a table, or a list of pairs where a key stands twice. Keys
are names, scopes, or the text of an expression. What is wrong is said with its line.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

from tf2flax._assignment.language.arguments import quoted
from tf2flax._assignment.language.expressions import Expression
from tf2flax._assignment.language.grammar import Placed, check_entry
from tf2flax._assignment.language.syntax import is_expression, parse_key
from tf2flax._base.caller import show_value
from tf2flax._base.collapsing import MAX_LINES, summarise
from tf2flax._base.errors import AssignmentError, ExistsError, ReadError
from tf2flax._checkpoint.state import PathLike
from tf2flax._storage.local import LOCAL
from tf2flax._storage.stores import storage_of

from .bundle import write_state

# A map of a million entries is some 100 MB; no map is (bytes).
_MAX_NBYTES: Final = 64 << 20
# How much of a key a message shows (characters).
_MAX_SHOWN: Final = 160
_TABLE: Final = "assignment_map"
_COMMENT: Final = "comment"
_STRING: Final = re.compile(
    r'#[^\n]*|"""(?:[^\\]|\\.)*?"""|\'\'\'.*?\'\'\'|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\''
    r"|(?m:^)[ \t]*[A-Za-z0-9_.-]+(?=[ \t]*=)",
    re.S,
)
_PAIR: Final = re.compile(r'\[\s+("(?:[^"\\]|\\.)*"),\s+("(?:[^"\\]|\\.)*")\s+\]')
_AT_LINE: Final = re.compile(r" ?\(at (line (\d+), column \d+|end of document)\)")

Key = str | Expression


class MapTable(dict[Key, str], Placed):
    """A map from a file whose keys stand once each: a dict that knows its lines."""

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


def load_map(path: PathLike) -> MapTable | MapPairs:
    """Reads an assignment map from a TOML or JSON file, and checks its grammar.

    Args:
        path: The file: `.toml` or `.json`.

    Returns:
        A dict of names, scopes and expressions to names and scopes, or a list of pairs
        where the file holds pairs. Problems with it name file and line.

    Raises:
        AssignmentError: The file is malformed, or an entry is; every line is named.
        ReadError: The file cannot be read.

    Examples:
        >>> import tf2flax
        >>> tf2flax.load_map("examples/maps/bert_linen.toml")["bert/pooler/dense/"]
        'params/pooler/'
    """
    name = _name_of(path)
    is_json = _is_json(name)
    text = _read(path, name)
    contents = _parse_json(text, name) if is_json else _parse_toml(text, name)
    pairs, is_table = _pairs(contents, name)
    lines = _lines_of(text, [key for key, _ in pairs], is_json=is_json)
    entries: list[tuple[Key, str]] = []
    places: dict[object, str] = {}
    problems: list[str] = []
    for (key_text, target), line in zip(pairs, lines, strict=True):
        place = f"{name}:{line}" if line else name
        try:
            if not isinstance(target, str):
                raise AssignmentError(
                    f"expected the name of a leaf or scope, got {_kind(target)}."
                )
            key = parse_key(key_text)
            check_entry(key, target)
        except AssignmentError as error:
            problems.append(f"{place}: {_shortened(key_text)}: {error}")
        else:
            entries.append((key, target))
            places[key, target] = place
    if is_table and len({key for key, _ in entries}) < len(entries):
        problems += _spelled_twice(entries, places)
    if problems:
        hidden = len(problems) - MAX_LINES
        more = [f"{name}: and {hidden} more."] if hidden > 0 else []
        raise AssignmentError("\n".join([*problems[:MAX_LINES], *more]))
    return MapTable(entries, places) if is_table else MapPairs(entries, places)


def save_map(
    path: PathLike,
    assignment_map: Mapping[Any, str] | Sequence[tuple[Any, str]],
    *,
    overwrite: bool = False,
) -> None:
    """Writes an assignment map to a TOML or JSON file.

    Args:
        path: The file: `.toml` or `.json`.
        assignment_map: A dict, or pairs, of names, scopes and expressions to names and
            scopes.
        overwrite: Whether a file that is there already is replaced. Its comments stay:
            those at the top, and those with the entries that are still there.

    Raises:
        AssignmentError: Keys or values that no file can hold (objects), or that
            `load_map` would refuse.
        ExistsError: The file is there already.
        ReadError: The system refuses.

    Examples:
        >>> import pathlib, tempfile, tf2flax
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "map.toml"
        ...     key = tf2flax.src("head/weights").transpose()
        ...     tf2flax.save_map(path, {key: "params/head/kernel"})
        ...     print(path.read_text().strip())
        [assignment_map]
        'src("head/weights").transpose()' = "params/head/kernel"
    """
    if isinstance(path, (Mapping, list, tuple)):
        raise AssignmentError("Expected the path first, then the map.")
    name = _name_of(path)
    is_json = _is_json(name)
    is_table = isinstance(assignment_map, Mapping)
    entries = _checked_entries(assignment_map)
    exists = os.path.exists(name)
    if exists and not overwrite:
        raise ExistsError(
            f"A file is there already - at `{name}`. Choose another path, or give "
            "overwrite=True."
        )
    old = _read(path, name) if exists else ""
    if is_json:
        text = _format_json(entries, _json_comment(old), is_table=is_table)
    else:
        text = _format_toml(entries, _Comments(old), is_table=is_table)
    _replace(name, text)


def _name_of(path: object) -> str:
    """The path of a map file as text."""
    try:
        name = os.fsdecode(cast("PathLike", path))
    except TypeError as error:
        raise AssignmentError(
            "Expected the path of a map file (str, bytes or os.PathLike), got "
            f"{type(path).__name__}."
        ) from error
    if "\0" in name:
        raise AssignmentError(f"No file can be called {name!r}.")
    return name


def _is_json(name: str) -> bool:
    suffix = os.path.splitext(name)[1].lower()
    if suffix not in (".toml", ".json"):
        raise AssignmentError(
            f"`{name}`: expected a map file, `.toml` or `.json`, got `{suffix}`."
        )
    return suffix == ".json"


def _read(path: PathLike, name: str) -> str:
    storage, text = storage_of(path)
    if not storage.is_local:
        raise AssignmentError(
            f"`{name}`: map files are local files. Download it first."
        )
    try:
        with open(LOCAL.show(text), "rb") as file:
            contents = file.read(_MAX_NBYTES + 1)
    except OSError as error:
        raise ReadError(f"Cannot read `{name}`: {error.strerror or error}.") from error
    if len(contents) > _MAX_NBYTES:
        raise AssignmentError(f"`{name}`: expected a map file, got more than 64 MiB.")
    try:
        return contents.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = contents[: error.start].count(b"\n") + 1
        raise AssignmentError(f"{name}:{line}: expected text in UTF-8.") from error


def _parse_toml(text: str, name: str) -> Any:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        said = str(error)
        match = _AT_LINE.search(said)
        line = match[2] if match and match[2] else text.count("\n") + 1
        fact = _AT_LINE.sub("", said)
        raise AssignmentError(f"{name}:{line}: no TOML: {fact}.") from error
    except (RecursionError, ValueError) as error:
        raise AssignmentError(f"{name}: no TOML: {error}.") from error


def _parse_json(text: str, name: str) -> Any:
    twice: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for key, value in pairs:
            if key in seen:
                twice.append(key)
            seen[key] = value
        return seen

    try:
        contents = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise AssignmentError(
            f"{name}:{error.lineno}: no JSON: {error.msg}."
        ) from error
    except (RecursionError, ValueError) as error:
        raise AssignmentError(f"{name}: no JSON: {error}.") from error
    if twice:
        lines = _lines_of(text, [twice[0], twice[0]], is_json=True)
        raise AssignmentError(
            f"{name}:{lines[-1]}: key {quoted(twice[0])} stands twice. Write the map "
            "as a list of pairs."
        )
    return contents


def _pairs(contents: Any, name: str) -> tuple[list[tuple[str, Any]], bool]:
    table: Any = None
    others: list[str] = []
    if isinstance(contents, dict):
        top = cast("dict[str, Any]", contents)
        table = top.get(_TABLE)
        others = [key for key in top if key not in (_TABLE, _COMMENT)]
    if table is None:
        raise AssignmentError(
            f"`{name}`: expected a table `{_TABLE}`. Begin it with [{_TABLE}]."
        )
    if others:
        raise AssignmentError(
            f"`{name}`: expected `{_TABLE}` alone, got {quoted(others[0])} as well."
        )
    if isinstance(table, dict):
        return list(cast("dict[str, Any]", table).items()), True
    if not isinstance(table, list):
        raise AssignmentError(
            f"`{name}`: expected a table, or a list of pairs, as `{_TABLE}`."
        )
    pairs: list[tuple[str, Any]] = []
    for number, pair in enumerate(cast("list[Any]", table), start=1):
        items = cast("list[Any]", pair) if isinstance(pair, list) else []
        if len(items) != 2 or not isinstance(items[0], str):
            raise AssignmentError(
                f"`{name}`: entry {number}: expected a pair of strings, got "
                f"{_kind(pair)}."
            )
        pairs.append((items[0], items[1]))
    return pairs, False


def _shortened(key: str) -> str:
    """A key as messages show it."""
    text = quoted(key)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def _kind(value: Any) -> str:
    return json.dumps(value, default=str)[:60]


def _spelled_twice(
    entries: Sequence[tuple[Key, str]], places: Mapping[object, str]
) -> Iterator[str]:
    seen: dict[Key, str] = {}
    for key, target in entries:
        if key in seen:
            yield (
                f"{places[key, target]}: {key!r} is the same key as in {seen[key]}, "
                "written in another way."
            )
        seen[key] = places[key, target]


def _lines_of(text: str, keys: Sequence[str], *, is_json: bool) -> list[int]:
    """The line on which each key stands, in order; 0 where it was not found."""
    tokens = list(_strings(text, is_json=is_json))
    lines: list[int] = []
    position = 0
    for key in keys:
        found = next(
            (i for i in range(position, len(tokens)) if tokens[i][0] == key), None
        )
        lines.append(0 if found is None else tokens[found][1])
        position = position if found is None else found + 1
    return lines


def _strings(text: str, *, is_json: bool) -> Iterator[tuple[str, int]]:
    line, end = 1, 0
    for match in _STRING.finditer(text):
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


def _checked_entries(
    assignment_map: Mapping[Any, str] | Sequence[tuple[Any, str]],
) -> list[tuple[str, str]]:
    """Keys and values as text; what a file cannot hold is refused."""
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
            entries.append(_checked_entry(pair))
        except AssignmentError as error:
            problems.append(f"Entry {number}: {error}")
    if problems:
        raise AssignmentError(summarise(problems))
    return entries


def _checked_entry(pair: Any) -> tuple[str, str]:
    if not isinstance(pair, (tuple, list)) or len(cast("Sequence[Any]", pair)) != 2:
        shown = show_value(cast("object", pair))
        raise AssignmentError(f"expected a pair of a key and a name, got {shown}.")
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
            f"{key!r} is a name that a file would read as an expression. Write it as "
            "tf2flax.src(name)."
        )
    check_entry(key, target)
    return (key if isinstance(key, str) else repr(key)), target


class _Comments:
    """What a TOML file says besides its entries."""

    def __init__(self, text: str) -> None:
        """Finds the comments at the top, above entries, behind them and at the end."""
        self.header: list[str] = []
        self.above: dict[str, list[str]] = {}
        self.behind: dict[str, str] = {}
        waiting: list[str] = []
        is_header = True
        for line in text.split("\n"):
            stripped = line.strip()
            if re.match(rf"\[{_TABLE}\]|{_TABLE}\s*=", stripped):
                self.header, waiting, is_header = waiting, [], False
            elif not stripped or stripped.startswith("#"):
                waiting.append(stripped)
            elif not is_header:
                key, comment = _entry_and_comment(stripped)
                if key is not None:
                    self.above[key] = waiting
                    if comment:
                        self.behind[key] = comment
                    waiting = []
        self.footer: list[str] = [] if is_header else waiting
        while self.footer and not self.footer[-1]:
            self.footer.pop()


def _entry_and_comment(line: str) -> tuple[str | None, str]:
    """The key that a line begins with, and the comment at its end."""
    key: str | None = None
    for match in _STRING.finditer(line):
        token = match[0].strip()
        if token.startswith("#"):
            return key, token
        if key is None:
            found = list(_strings(token, is_json=False))
            key = found[0][0] if found else token
    return key, ""


def _format_toml(
    entries: Sequence[tuple[str, str]], comments: _Comments, *, is_table: bool
) -> str:
    lines = [*comments.header, f"[{_TABLE}]" if is_table else f"{_TABLE} = ["]
    for key, target in entries:
        indent = "" if is_table else "    "
        lines += [f"{indent}{line}".rstrip() for line in comments.above.get(key, ())]
        left, right = _toml_string(key), _toml_string(target)
        entry = f"{left} = {right}" if is_table else f"{indent}[{left}, {right}],"
        behind = comments.behind.get(key, "")
        lines.append(f"{entry}  {behind}".rstrip())
    lines += [*comments.footer] if is_table else [*comments.footer, "]"]
    return "\n".join(lines) + "\n"


def _toml_string(text: str) -> str:
    if '"' in text and "'" not in text and text.isprintable():
        return f"'{text}'"
    # JSON's escapes are TOML's, which wants DEL escaped as well.
    return quoted(text).replace("\x7f", "\\u007f")


def _format_json(
    entries: Sequence[tuple[str, str]], comment: Any, *, is_table: bool
) -> str:
    head = {} if comment is None else {_COMMENT: comment}
    table: Any = dict(entries) if is_table else [list(entry) for entry in entries]
    text = json.dumps({**head, _TABLE: table}, indent=2, ensure_ascii=False)
    # Pairs on one line each.
    return _PAIR.sub(r"[\1, \2]", text) + "\n"


def _json_comment(old: str) -> Any:
    try:
        contents: Any = json.loads(old) if old else {}
    except (RecursionError, ValueError):
        return None
    is_table = isinstance(contents, dict)
    return cast("dict[str, Any]", contents).get(_COMMENT) if is_table else None


def _replace(name: str, text: str) -> None:
    """Writes a file whole, or not at all."""
    try:
        write_state(name, text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise AssignmentError(f"A name is no text: {error.reason}.") from error
    except OSError as error:
        raise ReadError(f"Cannot write `{name}`: {error.strerror or error}.") from error
