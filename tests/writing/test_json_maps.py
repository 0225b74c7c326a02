"""Map files in JSON: mistakes are answered in JSON, and what is written loads."""

from __future__ import annotations

import json
import os
import pathlib
import re

import pytest

import tf2flax

START = '{"assignment_map": {\n'
# The text of a file, and what is said of it after `m.json:`.
TEXTS: dict[str, tuple[str, str]] = {
    "double quotes in double quotes": (
        START + '"src("a").transpose()": "x"}}',
        r'2: invalid JSON: .* have a backslash: `"src(\"a\").transpose()": "x"`.',
    ),
    "single quotes": (START + "'a/': 'b/'}}", '2: invalid JSON: .*: `"a/": "b/"`.'),
    "single quotes round an expression": (
        START + "'src(\"a\")[0:2]': 'x'}}",
        r'2: .*`"src(\"a\")[0:2]": "x"`.',
    ),
    "no quotes": (START + "a/b/: c/}}", '2: .*: `"a/b/": "c/"`.'),
    "a value without quotes": (START + '"a": b}}', '2: .*: `"a": "b"`.'),
    "a comma at the end": (
        START + '"a": "b",\n}}',
        ".*Leave out the comma before `}`.",
    ),
    "no comma": (
        START + '"a": "b"\n"c": "d"}}',
        "3: .*Put a comma at the end of line 2.",
    ),
    "a comment": (START + '# all\n"a": "b"}}', '2: .*has no comments.*"comment": "'),
    "a comment of C": (START + '// all\n"a": "b"}}', "2: .*has no comments"),
    "a backslash": (START + '"a\\d": "b"}}', r"2: .*is written twice: \\."),
    "cut short": (START + '"a": "b"', ".*The text ends early"),
    "TOML": ('# my map\n[assignment_map]\n"a" = "b"\n', "1: .*ends in `.toml`."),
    "nothing": ("", '1: .*the file is empty. Write {"assignment_map": {}}.'),
    "entries alone": ('{"a": "b"}', 'Put its entries into {"assignment_map": {...}}.'),
    "a list": ("[]", 'Write {"assignment_map": {"checkpoint/scope/": '),
    "text for an object": ('{"assignment_map": "a"}', 'expected an object.*got "a"'),
    "a tree": (START + '"a": {"b": "c"}}}', "2: .*Maps are flat: write whole names"),
    "a key twice": (
        START + '"a": "b",\n"a": "c"}}',
        '3: key "a" occurs twice.*`"assignment_map": [["a", "b"], ["a", "c"]]`.',
    ),
}


def message_of(path: pathlib.Path, text: str) -> str:
    path.write_text(text)
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.load_map(path)
    return str(caught.value)


@pytest.mark.parametrize("name", TEXTS)
def test_mistakes_in_json_are_answered_in_json(
    name: str, tmp_path: pathlib.Path
) -> None:
    text, words = TEXTS[name]
    answer = message_of(tmp_path / "m.json", text)
    for part in words.split(".*"):
        assert part in answer
    assert "[assignment_map]" not in answer
    assert "into quotes" not in answer


@pytest.mark.parametrize("name", TEXTS)
def test_the_lines_that_are_written_load(name: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.json"
    answer = message_of(path, TEXTS[name][0])
    for line in re.findall(r"(?:backslash|object): `(.*)`\.$", answer):
        entry = line.partition(": ")[2] if "assignment_map" in line else f"{{{line}}}"
        path.write_text(f'{{"assignment_map": {entry}}}')
        assert len(tf2flax.load_map(path)) == (2 if "twice" in answer else 1)


def test_at_most_20_lines_are_listed(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.json"
    entries = {f"a{i}_{{": "b" for i in range(500)}
    answer = message_of(path, json.dumps({"assignment_map": entries}, indent=1))
    assert len(answer.splitlines()) == 21
    assert answer.endswith("and 480 more.")


def test_a_map_file_that_is_no_file(tmp_path: pathlib.Path) -> None:
    """A pipe would be waited for."""
    os.mkfifo(tmp_path / "m.toml")
    (tmp_path / "n.toml").mkdir()
    for name, kind in (("m.toml", "not a regular file"), ("n.toml", "a folder")):
        with pytest.raises(tf2flax.AssignmentError, match=f"this is {kind}"):
            tf2flax.load_map(tmp_path / name)


def test_a_misspelt_map_file(tmp_path: pathlib.Path) -> None:
    (tmp_path / "bert.toml").touch()
    with pytest.raises(tf2flax.ReadError) as caught:
        tf2flax.load_map(tmp_path / "brt.toml")
    assert str(caught.value).endswith(f"Did you mean `{tmp_path}/bert.toml`?")
