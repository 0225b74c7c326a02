"""Vocabularies: TensorFlow 1.15's results, errors with file and line, map files."""

from __future__ import annotations

import base64
import json
import pathlib
import pickle
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from bundle_writer import Tensor, rows_in, write_bundle
from repository import ROOT

import tf2flax
from tf2flax import src, vocabulary

FOLDER = ROOT / "tests" / "data" / "vocabulary"
RECORDED = json.loads((FOLDER / "recorded.json").read_text())
# What TensorFlow refuses and we do not: it cannot give one row to two words.
ALLOWED = {"a_word_twice_in_new": [1, 3, 1]}
# TensorFlow finds these out when it reads the table, and so do we.
OF_THE_TABLE = {"more_words_than_rows"}
# What an error names: the file, and the line.
PLACES = {
    "a_word_twice_in_old": "old.txt:3",
    "an_empty_line_in_old": "old.txt:2",
    "an_empty_line_in_new": "new.txt:2",
    "an_empty_line_at_the_end_of_old": "old.txt:6",
    "an_empty_line_at_the_end_of_new": "new.txt:5",
    "too_many_new_words": "new.txt:4",
    "too_many_old_words": "old.txt:5",
    "a_line_of_a_carriage_return": "old.txt:2",
    "an_empty_old_file": "old.txt:1",
}


def prepare(case: dict[str, Any], folder: pathlib.Path) -> tuple[str, Any]:
    """Writes the files of a case, and the table as it was saved."""
    for name in ("old", "new"):
        content = base64.b64decode(case[name])
        (folder / f"{name}.txt").write_bytes(content)
    options, rows = dict(case["options"]), case["rows"]
    table = np.arange(rows * 3, dtype="f4").reshape(rows, 3) + 1
    if options.get("axis"):
        table = np.ascontiguousarray(table.T)
    parts = options.pop("old_parts", None)
    slices = rows_in(table, parts) if parts else None
    write_bundle(folder / "m", {"table": Tensor(table, slices)})
    return str(folder / "m"), options


@pytest.mark.parametrize("name", list(RECORDED["cases"]))
def test_rows_are_those_of_warm_start(name: str, tmp_path: pathlib.Path) -> None:
    case = RECORDED["cases"][name]
    prefix, options = prepare(case, tmp_path)
    parts = options.pop("new_parts", None)
    files = tmp_path / "old.txt", tmp_path / "new.txt"
    if name in PLACES:
        with pytest.raises(tf2flax.AssignmentError) as caught:
            vocabulary(*files, **options)
        assert f"{tmp_path / PLACES[name]}: " in str(caught.value)
        assert "error" in case
        return
    rows = vocabulary(*files, **options)
    if name in ALLOWED:
        assert "error" in case
        assert list(rows.numbers) == ALLOWED[name]
        return
    key = src("table").take(rows, fill=RECORDED["missing"])
    if name in OF_THE_TABLE:
        with pytest.raises(tf2flax.AssignmentError, match="row 3 is out of bounds"):
            tf2flax.plan(prefix, {key: "x"}, {"x": np.zeros((4, 3), "f4")})
        return
    wanted = np.array(case["values"], "f4")
    target: dict[str, Any] = {"x": jax.ShapeDtypeStruct(wanted.shape, "float32")}
    if parts:
        sizes = np.array_split(wanted, parts)
        target = {
            f"x/part_{i}": jax.ShapeDtypeStruct(part.shape, "float32")
            for i, part in enumerate(sizes)
        }
    tree = tf2flax.init_from_checkpoint(prefix, {key: "x"}, target)
    got = np.concatenate([np.asarray(leaf) for leaf in tree.values()])
    assert np.array_equal(got, wanted)
    # Kept rows are the same rows.
    own = jax.tree.map(lambda leaf: np.full(leaf.shape, -7, "f4"), target)
    kept = tf2flax.init_from_checkpoint(
        prefix, {src("table").take(rows, fill="keep"): "x"}, own
    )
    assert np.array_equal(np.concatenate(list(map(np.asarray, kept.values()))), wanted)


def test_the_recorded_cases_cover_what_is_promised() -> None:
    assert {*PLACES, *ALLOWED, *OF_THE_TABLE} == {
        name for name, case in RECORDED["cases"].items() if "error" in case
    }


OLD, NEW = str(FOLDER / "old.txt"), str(FOLDER / "new.txt")
WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "no path": (lambda: vocabulary(3, NEW), "path of a file, got 3"),  # pyright: ignore[reportArgumentType]
    "an empty path": (lambda: vocabulary("", NEW), "path of a file, got ''"),
    "no size": (lambda: vocabulary(OLD, NEW, old_size=0), "old_size from 1 on, got 0"),
    "half a size": (
        lambda: vocabulary(OLD, NEW, new_size=1.5),  # pyright: ignore[reportArgumentType]
        "integers for new_size",
    ),
    "buckets below 0": (
        lambda: vocabulary(OLD, NEW, num_oov_buckets=-1), "from 0 on, got -1",
    ),
    "too many buckets": (
        lambda: vocabulary(OLD, NEW, num_oov_buckets=2**40),
        "num_oov_buckets of at most 16777216, got 1099511627776",
    ),
    "half a letter": (lambda: vocabulary("\ud800", NEW), r"a file, got '.ud800'"),
    "two axes": (
        lambda: src("t").take(vocabulary(OLD, NEW, axis=1), axis=0),
        "axis=0, and vocabulary",
    ),
    "a URL": (lambda: vocabulary("memory://old.txt", NEW), "are local files"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(WRONG))
def test_wrong_arguments(name: str) -> None:
    make, message = WRONG[name]
    with pytest.raises(tf2flax.AssignmentError, match=message):
        make()


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(tf2flax.ReadError, match=r"gone\.txt"):
        vocabulary(FOLDER / "gone.txt", NEW)


def test_words_that_are_not_there_need_a_fill() -> None:
    target = {"x": np.zeros((4, 3), "f4")}
    rows = vocabulary(OLD, NEW)
    with pytest.raises(tf2flax.AssignmentError, match="1 of 4 rows are not in the old"):
        tf2flax.plan(FOLDER / "model.ckpt", {src("table").take(rows): "x"}, target)


def test_rows_print_as_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    rows = vocabulary(
        "tests/data/vocabulary/old.txt", "tests/data/vocabulary/new.txt",
        axis=1, old_size=4, new_size=2, num_oov_buckets=3,
    )  # fmt: skip
    text = (
        'vocabulary("tests/data/vocabulary/old.txt", "tests/data/vocabulary/new.txt", '
        "axis=1, old_size=4, new_size=2, num_oov_buckets=3)"
    )
    assert repr(rows) == text
    key = src("t").take(rows, fill="keep")
    assert repr(key) == f'src("t").take({text}, fill="keep")'
    assert eval(repr(key), {"src": src, "vocabulary": vocabulary}) == key
    assert pickle.loads(pickle.dumps(key)) == key


@pytest.mark.parametrize("kind", ["toml", "json"])
def test_map_files_have_paths_from_their_folder(
    kind: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "maps").mkdir()
    (tmp_path / "words").mkdir()
    for name in ("old", "new"):
        content = (FOLDER / f"{name}.txt").read_bytes()
        (tmp_path / "words" / f"{name}.txt").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    key = src("t").take(vocabulary("words/old.txt", "words/new.txt"), fill="keep")
    path = tmp_path / "maps" / f"m.{kind}"
    tf2flax.save_map(path, {key: "x"})
    assert "../words/old.txt" in path.read_text()
    monkeypatch.chdir(ROOT)
    (loaded,) = tf2flax.load_map(path)
    written = 'vocabulary("../words/old.txt", "../words/new.txt")'
    assert repr(loaded) == f'src("t").take({written}, fill="keep")'
    assert isinstance(loaded, tf2flax.Expression)
    # Written again, elsewhere: the paths still lead to the files.
    again = tmp_path / f"again.{kind}"
    tf2flax.save_map(again, tf2flax.load_map(path))
    assert '"words/old.txt' in again.read_text().replace("\\", "")
    target = {"x": np.zeros((4, 3), "f4")}
    prefix = tf2flax.save_checkpoint(tmp_path / "m", {"t": np.ones((5, 3), "f4")})
    for file in (path, again):
        tree = tf2flax.init_from_checkpoint(prefix, tf2flax.load_map(file), target)
        assert np.asarray(tree["x"])[:, 0].tolist() == [1, 1, 0, 1]
    # Absolute paths stay.
    absolute = src("t").take(vocabulary(OLD, NEW), fill=0.0)
    tf2flax.save_map(path, {absolute: "x"}, overwrite=True)
    assert list(tf2flax.load_map(path)) == [absolute]
    (tmp_path / "words" / "old.txt").unlink()
    with pytest.raises(tf2flax.ReadError, match=r"words/old\.txt"):
        tf2flax.load_map(again)


def test_mistakes_in_a_map_file_name_both_files(tmp_path: pathlib.Path) -> None:
    (tmp_path / "old.txt").write_text("a\n\nb\n")
    (tmp_path / "new.txt").write_text("a\n")
    path = tmp_path / "m.toml"
    for call, message in (
        ("vocabulary('old.txt', 'new.txt')", r"m\.toml:2: .*old\.txt:2: expected a wo"),
        ("vocabulary('old.txt')", r"m\.toml:2: .*vocabulary: missing"),
        ("vocabulary('old.txt', 'new.txt', folder='/')", "unexpected keyword"),
    ):
        path.write_text(f'[assignment_map]\n"src(\'t\').take({call})" = "x"\n')
        with pytest.raises(tf2flax.AssignmentError, match=message):
            tf2flax.load_map(path)


@pytest.mark.parametrize("kind", ["toml", "json"])
def test_maps_in_a_folder_behind_a_link(
    kind: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`..` leaves the folder that a link leads to, and not that in which it lies."""
    (tmp_path / "words").mkdir()
    for name in ("old", "new"):
        content = (FOLDER / f"{name}.txt").read_bytes()
        (tmp_path / "words" / f"{name}.txt").write_bytes(content)
    far = tmp_path / "disk" / "deep" / "maps"
    far.mkdir(parents=True)
    (tmp_path / "maps").symlink_to(far, target_is_directory=True)
    (tmp_path / "linked").symlink_to(tmp_path / "words", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    for words in ("words", "linked", "maps/../../../words"):
        rows = vocabulary(f"{words}/old.txt", f"{words}/new.txt")
        for folder in (tmp_path / "maps", far, tmp_path, tmp_path / "maps" / ".."):
            path = folder / f"m.{kind}"
            tf2flax.save_map(path, {src("t").take(rows, fill=0.0): "x"}, overwrite=True)
            monkeypatch.chdir(ROOT)
            (key,) = tf2flax.load_map(path)
            assert isinstance(key, tf2flax.Expression)
            assert key.rows.numbers == rows.numbers  # pyright: ignore
            # Written as it stands where that leads to the same files.
            monkeypatch.chdir(tmp_path)
            assert str(tmp_path) not in path.read_text()
    rows = vocabulary((tmp_path / "words" / "old.txt").as_uri(), NEW)
    tf2flax.save_map("m.toml", {src("t").take(rows, fill=0.0): "x"}, overwrite=True)
    assert [*tf2flax.load_map("m.toml")] == [src("t").take(rows, fill=0.0)]
