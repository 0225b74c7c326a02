"""Map files: what is written is read again, and mistakes are told with their lines."""

from __future__ import annotations

import contextlib
import json
import pathlib
import tomllib
from typing import Any

import numpy as np
import pytest
from expressions import cases
from hypothesis import given, settings
from hypothesis import strategies as st
from repository import ROOT

import tf2flax
from tf2flax import concat, src, stack

MAP: dict[Any, str] = {
    "bert/encoder/layer_{i}/": "params/layers_{i}/",
    "plain/name": "params/{{literal}}",
    src("q'\"é\n").transpose()[0:1, ..., None]: "z",
    stack("l_{i}/", over="i", axis=-1): "s/",
    concat("a", src("b").take([3, 1, 2]), axis=1).cast("bfloat16"): "w",
    src("a").rearrange("a (b c) -> b (a c)", b=2).reshape(-1): "r",
    'tab\t"quoted"\x7f': "v😀",
}
SUFFIXES = ["toml", "json"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip(tmp_path: pathlib.Path, suffix: str) -> None:
    path = tmp_path / f"m.{suffix}"
    tf2flax.save_map(path, MAP)
    assert tf2flax.load_map(path) == MAP
    pairs = [*MAP.items(), ("plain/name", "again")]
    tf2flax.save_map(str(path), pairs, overwrite=True)
    assert tf2flax.load_map(bytes(path)) == pairs
    if suffix == "toml":
        assert isinstance(tomllib.loads(path.read_text())["assignment_map"], list)
    else:
        assert isinstance(json.loads(path.read_text())["assignment_map"], list)


NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="{}/("), min_size=1
)


@settings(max_examples=60)
@given(st.data())
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_any_map_round_trips(
    tmp_path: pathlib.Path, suffix: str, data: st.DataObject
) -> None:
    arrays = {
        name: np.zeros((4, 6), "i4") for name in data.draw(st.sets(NAMES, min_size=1))
    }
    keys = st.sampled_from(sorted(arrays)) | cases(arrays).map(lambda c: c.expression)
    pairs = data.draw(st.lists(st.tuples(keys, NAMES), max_size=5))
    path = tmp_path / f"m.{suffix}"
    tf2flax.save_map(path, pairs, overwrite=True)
    assert tf2flax.load_map(path) == pairs
    tf2flax.save_map(path, dict(pairs), overwrite=True)
    assert tf2flax.load_map(path) == dict(pairs)


BY_HAND = """\
# How to port it.
# 12 heads.

[assignment_map]
# The embeddings.
"a/" = "b/"  # all of them

# The rest, with a # in a name.
'src("q#").transpose()' = "z#"   #no space
'multi' = "m"
bare = "x"
# The end.
"""


def test_a_file_by_hand(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.toml"
    path.write_text(BY_HAND)
    found = tf2flax.load_map(path)
    assert found == {"a/": "b/", src("q#").transpose(): "z#", "multi": "m", "bare": "x"}
    assert list(found.facts.places.values()) == [f"{path}:{n}" for n in (6, 9, 10, 11)]


def test_comments_stay(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.toml"
    path.write_text(BY_HAND)
    found = dict(tf2flax.load_map(path))
    del found["bare"]
    tf2flax.save_map(path, {**found, "new": "n"}, overwrite=True)
    assert path.read_text() == (
        BY_HAND.replace("'multi'", '"multi"')
        .replace('bare = "x"', '"new" = "n"')
        .replace("   #no", "  #no")
    )
    assert tf2flax.load_map(path) == {**found, "new": "n"}


def test_comments_of_json_stay(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.json"
    path.write_text('{"comment": ["About", "it"], "assignment_map": {"a": "b"}}')
    tf2flax.save_map(path, {"c": "d"}, overwrite=True)
    assert json.loads(path.read_text()) == {
        "comment": ["About", "it"],
        "assignment_map": {"c": "d"},
    }


# A line of a table, and what is said of it.
LINES: dict[str, tuple[str, str]] = {
    "no method": ("'src(\"q\").transposed()' = 'z'", "Did you mean `.transpose`"),
    "no function": ("'concatenate(\"q\")' = 'z'", "Did you mean `concat`"),
    "an open bracket": ("'src(\"q\"' = 'z'", "never closed"),
    "another argument": ("'concat(\"q\", axes=1)' = 'z'", "keyword argument 'axes'"),
    "too many arguments": ("'src(\"q\", \"r\")' = 'z'", "positional argument"),
    "no value": ("'src(\"q\")[x]' = 'z'", "`x` is not a value"),
    "a float": ("'src(\"q\").reshape(1.5)' = 'z'", "integers for shape, got 1.5"),
    "code": ("'src(__import__(\"os\"))' = 'z'", "there is no `__import__`"),
    "an attribute": ("'src(\"q\").__class__()' = 'z'", "there is no `.__class__`"),
    "stars": ("'concat(*[\"q\"])' = 'z'", "is not a value"),
    "double stars": ("'concat(**{})' = 'z'", "cannot be used"),
    "arithmetic": ("'src(\"q\") / 2' = 'z'", r"another operator than \+, - and \*"),
    "an expression's own": ("'src(\"q\").reshape(-2)' = 'z'", "one may be -1"),
    "a range without end": (
        "'src(\"q\").take(range(10))[:](0)' = 'z'",
        "not a valid expression",
    ),
    "a range of step 0": (
        "'src(\"q\").take(range(0, 4, 0))' = 'z'",
        r"`range\(0, 4, 0\)` is not a value",
    ),
    "negative rows": ("'src(\"q\").take([0, -1])' = 'z'", "got -1 at place 1"),
    "a range of negative rows": (
        "'src(\"q\").take(range(2, -2, -1))' = 'z'",
        "got -1 at place 3",
    ),
    "negative rows in a stack": (
        "'stack(\"q\", src(\"p\").take([-1]))' = 'z'",
        "got -1 at place 0",
    ),
    "depth": (
        f"'src(\"q\"){'.transpose(1, 0)' * 150}[0]{'[0]' * 120}' = 'z'",
        "most 100",
    ),
    "brackets": (f"'src({'(' * 5000}' = 'z'", "too long"),
    "a capture": ("'k_{i}' = 'z'", r"capture \{i\} of the key"),
    "a brace": ("'k_{' = 'z'", "single `{`"),
    "a scope": ("'src(\"a/\")' = 'z'", "Did you mean `z/`"),
    "a number": ("'a' = 3", "expected the name of a leaf or scope, got 3"),
    "a table": ("'a' = {b = 'c'}", "expected the name of a leaf or scope"),
    "a dotted key": ("a.b = 'c'", "expected the name of a leaf or scope"),
}


@pytest.mark.parametrize("name", list(LINES))
def test_mistakes_are_told_with_file_and_line(
    tmp_path: pathlib.Path, name: str
) -> None:
    line, message = LINES[name]
    path = tmp_path / "m.toml"
    path.write_text(f"# A map.\n[assignment_map]\n'fine' = 'x'\n{line}\n'too' = 'y'\n")
    with pytest.raises(tf2flax.AssignmentError, match=message) as caught:
        tf2flax.load_map(path)
    assert str(caught.value).startswith(f"{path}:4: ")
    assert len(str(caught.value)) < 1000


def test_all_mistakes_are_told_at_once(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.json"
    path.write_text('{"assignment_map": {\n"{": "x",\n"src(1)": "y",\n"ok": "z"\n}}')
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.load_map(path)
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == [
        f"{path}:2",
        f"{path}:3",
    ]


# Contents of a file, its suffix, and what is said of it; @ stands for the path.
FILES: dict[str, tuple[bytes, str, str]] = {
    "no TOML": (b"[assignment_map]\n'a' = \n", "toml", "@:2: invalid TOML"),
    "a key twice": (
        b"[assignment_map]\na = 'b'\na = 'c'\n", "toml", '@:3: key "a" occurs twice'
    ),
    "an optional key twice": (
        b'[parameters]\nn = 1\n[optional]\n"a" = "x"\n[assignment_map]\n"a" = "b"\n'
        b'"a" = "c"\n',
        "toml",
        r'@:7: key "a" .* first table: `assignment_map = \[\["a", "b"\], \["a", "c"',
    ),
    "an option twice": (
        b'[options]\ndtype = "exact"\ndtype = "float16"\n[assignment_map]\na = "b"',
        "toml", r'@:3: key "dtype" occurs twice in \[options\]\. Leave one out\.$',
    ),
    "a parameter twice": (
        b'[parameters]\nn = 1\nn = 2\n[assignment_map]\na = "b"', "toml",
        r'@:3: key "n" occurs twice in \[parameters\]\. Leave one out\.$',
    ),
    "options twice": (
        b'[options]\nverify = true\n[assignment_map]\na = "b"\n[options]\n', "toml",
        r"@:5: table \[options\] occurs twice\. Put the lines of both below the first",
    ),
    "two lists": (
        b'assignment_map = [\n["a", "b"],\n]\nassignment_map = [["a", "c"]]', "toml",
        r'@:4: key "assignment_map" occurs twice\. Leave one out\.$',
    ),
    "an option of JSON twice": (
        b'{"assignment_map": {"dtype": "b"},\n"options": {\n'
        b'"dtype": "exact",\n"dtype": "float16"}}',
        "json", r'@:4: key "dtype" occurs twice\. Leave one out\.$',
    ),
    "cut short": (b"[assignment_map]\na = 'b", "toml", "@:2: invalid TOML"),
    "no table": (b"a = 'b'", "toml", r"expected a table `assignment_map`"),
    "more tables": (b"x = 1\n[assignment_map]", "toml", '"x" as well'),
    "text for a table": (b"assignment_map = 'a'", "toml", "or a list of pairs"),
    "no pairs": (b"assignment_map = [['a', 'b'], ['c']]", "toml", "entry 2"),
    "numbers for pairs": (b"assignment_map = [[1, 'b']]", "toml", "entry 1"),
    "no text": (b"[assignment_map]\n'a\xff' = 'b'", "toml", "@:2: expected text"),
    "one key in two spellings": (
        b"[assignment_map]\n'src(\"a\")' = 'x'\n\"src('a')\" = 'y'\n",
        "toml",
        "@:3: .*the same key",
    ),
    "no JSON": (b'{"assignment_map": {\n"a": }}', "json", "@:2: invalid JSON"),
    "a key of JSON twice": (
        b'{"assignment_map": {\n"a": "b",\n"a": "c"}}', "json", '@:3: .*occurs twice'
    ),
    "deep JSON": (b"[" * 100_000, "json", "invalid JSON"),
    "deep TOML": (b"a = " + b"[" * 100_000, "toml", "invalid TOML"),
    "a list": (b"[]", "json", "expected an object"),
    "empty JSON": (b"", "json", "@:1: invalid JSON"),
    "another suffix": (b"", "yaml", "`.toml` or `.json`"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(FILES))
def test_broken_files_are_refused(tmp_path: pathlib.Path, name: str) -> None:
    contents, suffix, message = FILES[name]
    path = tmp_path / f"m.{suffix}"
    path.write_bytes(contents)
    with pytest.raises(tf2flax.AssignmentError, match=message.replace("@", str(path))):
        tf2flax.load_map(path)


@given(text=st.text(max_size=60))
def test_no_text_does_anything_but_parse_or_fail(
    tmp_path: pathlib.Path, text: str
) -> None:
    for suffix in SUFFIXES:
        path = tmp_path / f"m.{suffix}"
        for contents in (text, f"[assignment_map]\n{text}"):
            path.write_bytes(contents.encode("utf-8", "surrogatepass"))
            with contextlib.suppress(tf2flax.AssignmentError):
                tf2flax.load_map(path)


def test_files_that_are_not_there(tmp_path: pathlib.Path) -> None:
    with pytest.raises(tf2flax.ReadError, match="Cannot read"):
        tf2flax.load_map(tmp_path / "none.toml")
    with pytest.raises(tf2flax.ReadError, match="Cannot write"):
        tf2flax.save_map(tmp_path / "none" / "m.toml", {"a": "b"})
    with pytest.raises(tf2flax.AssignmentError, match="local files"):
        tf2flax.load_map("http://127.0.0.1:9/m.toml")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_link_to_a_map_stays(tmp_path: pathlib.Path, suffix: str) -> None:
    """As where a file is opened and written; files of checkpoints replace links."""
    far = tmp_path / "far"
    far.mkdir()
    path, link = far / f"m.{suffix}", tmp_path / f"link.{suffix}"
    link.symlink_to(path)
    for entries in ({"a": "b"}, {"c": "d"}):
        tf2flax.save_map(link, entries, overwrite=True)
        assert link.is_symlink()
        assert tf2flax.load_map(path) == entries
        assert [*far.iterdir()] == [path]  # no temporary file is left
    with pytest.raises(tf2flax.ExistsError):
        tf2flax.save_map(link, {"a": "b"})
    # Paths of vocabularies count from the file itself.
    for name in ("old", "new"):
        (far / f"{name}.txt").write_text("word")
    rows = tf2flax.vocabulary(far / "old.txt", far / "new.txt")
    tf2flax.save_map(link, {tf2flax.src("a").take(rows): "b"}, overwrite=True)
    text = path.read_text().replace(f"{far}/", "")
    path.write_text(text)
    assert [*tf2flax.load_map(link)] == [*tf2flax.load_map(path)]
    link.unlink()
    link.symlink_to(link)
    with pytest.raises(tf2flax.ReadError, match="symbolic links"):
        tf2flax.save_map(link, {"a": "b"}, overwrite=True)


def test_urls_of_local_files(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.toml"
    tf2flax.save_map(path.as_uri(), {"a": "b"})
    assert tf2flax.load_map(path.as_uri()) == tf2flax.load_map(path) == {"a": "b"}
    with pytest.raises(tf2flax.AssignmentError, match=r"local files\. Give a local"):
        tf2flax.save_map("gs://bucket/m.toml", {"a": "b"})


# What cannot be written, and why.
UNWRITABLE: dict[str, tuple[Any, str]] = {
    "an object": ({"a": np.zeros(1)}, "ndarray: files hold names"),
    "a number": ({3: "a"}, "a name or an expression"),
    "a name like an expression": ({"src(x)": "a"}, "as an expression"),
    "a capture": ({"a_{i}": "b"}, r"capture \{i\}"),
    "text": ("a", "Expected an assignment map"),
    "nothing": (None, "Expected an assignment map"),
    "triples": ([("a", "b", "c")], "a pair"),
    "half a character": ({"\ud800": "a"}, "not valid text"),
}


@pytest.mark.parametrize("name", list(UNWRITABLE))
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_no_file_can_hold_is_refused(
    tmp_path: pathlib.Path, name: str, suffix: str
) -> None:
    value, message = UNWRITABLE[name]
    path = tmp_path / f"m.{suffix}"
    path.write_text("as it was")
    with pytest.raises(tf2flax.AssignmentError, match=message):
        tf2flax.save_map(path, value, overwrite=True)
    assert path.read_text() == "as it was"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_overwritten_unasked(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.toml"
    path.write_text("as it was")
    with pytest.raises(tf2flax.ExistsError, match="overwrite=True"):
        tf2flax.save_map(path, {"a": "b"})
    assert path.read_text() == "as it was"
    with pytest.raises(tf2flax.AssignmentError, match="path first"):
        tf2flax.save_map({"a": "b"}, path)  # pyright: ignore[reportArgumentType]


def test_problems_of_a_plan_name_file_and_line(
    tmp_path: pathlib.Path, data: pathlib.Path
) -> None:
    path, target = tmp_path / "m.toml", {"step": np.zeros((), "i4")}
    path.write_text('[assignment_map]\n\n"global_stp" = "step"\n')
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.plan(data / "bert", tf2flax.load_map(path), target)
    assert f"Entry 1 ({path}:3) `global_stp`" in str(caught.value)
    path.write_text('[assignment_map]\n\n"global_step" = "step"\n')
    plan = tf2flax.plan(data / "bert", tf2flax.load_map(path), target)
    assert plan.to_dict()["assignments"][0]["rule"]["place"] == f"{path}:3"


@pytest.mark.parametrize("path", sorted((ROOT / "examples" / "maps").iterdir()))
def test_the_maps_of_the_examples(path: pathlib.Path) -> None:
    assert 2 < len(tf2flax.load_map(path)) <= 15


@pytest.mark.parametrize("path", [None, 5, 3.5, [], {}, object(), str, "a\0.toml"])
def test_what_is_no_path(path: Any) -> None:
    with pytest.raises(tf2flax.AssignmentError):
        tf2flax.load_map(path)
    with pytest.raises(tf2flax.AssignmentError):
        tf2flax.save_map(path, {"a": "b"})


def test_half_a_letter_is_no_name_of_a_file(tmp_path: pathlib.Path) -> None:
    for call in (
        lambda: tf2flax.load_map("\ud800.toml"),
        lambda: tf2flax.save_map("\ud800.toml", {"a": "b"}),
        lambda: tf2flax.convert({"a": 1.0}, "\ud800.npz"),
        lambda: tf2flax.save_checkpoint("\ud800/m", {"a": 1.0}),
    ):
        with pytest.raises(tf2flax.AssignmentError, match="not a valid file name: sur"):
            call()
    with pytest.raises(tf2flax.CheckpointNotFoundError, match="No directory at"):
        tf2flax.list_variables("\ud800/")
    path = tmp_path / "m.json"
    for escape in (r"\ud800", r"\\ud800"):
        key = f"src('t').take(vocabulary('{escape}', 'new.txt'), fill=0)"
        path.write_text(f'{{"assignment_map": {{"{key}": "x"}}}}')
        with pytest.raises(tf2flax.AssignmentError, match=r"m.json:1: .*(surr|a file)"):
            tf2flax.load_map(path)


def test_a_vocabulary_that_is_not_there(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.toml"
    key = "src('t').take(vocabulary('old.txt', 'new.txt'), fill=0)"
    path.write_text(f'[assignment_map]\n"{key}" = "x"\n')
    with pytest.raises(tf2flax.ReadError) as caught:
        tf2flax.load_map(path)
    assert str(caught.value).startswith(f'{path}:2: "{key}": Cannot read `')


def test_paths_of_bytes(tmp_path: pathlib.Path) -> None:
    path = bytes(tmp_path / "m.toml")
    tf2flax.save_map(path, {"a": "b"})
    assert tf2flax.load_map(path) == {"a": "b"}
