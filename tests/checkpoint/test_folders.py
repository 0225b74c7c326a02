"""Folders of Keras's, weights in several files, patterns, interrupted saves."""

from __future__ import annotations

import json
import pathlib
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import tensorstore as ts
import v1_writer as v1
from bundle_writer import write_bundle
from http_server import serving
from repository import DATA

import tf2flax
from tf2flax._checkpoint.checkpoint import Checkpoint

h5py = pytest.importorskip("h5py")

NAMES = DATA / "keras" / "names"
SHARDS = NAMES / "shards"
ROWS = np.arange(12, dtype="f4").reshape(4, 3)


def bits(checkpoint: Mapping[str, Any]) -> dict[str, tuple[str, bytes]]:
    assert isinstance(checkpoint, Checkpoint)
    arrays = checkpoint.read()
    return {name: (str(one.dtype), one.tobytes()) for name, one in arrays.items()}


def served(folder: pathlib.Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {f"/run/{path.relative_to(folder)}": path.read_bytes() for path in files}


def in_memory(folder: pathlib.Path) -> ts.Context:
    context = ts.Context()
    store = ts.KvStore.open("memory://", context=context).result()
    for key, contents in served(folder).items():
        store.write(key[1:], contents).result()
    return context


def unzipped(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "model"
    with zipfile.ZipFile(NAMES / "3.15.1.keras") as archive:
        archive.extractall(folder)
    return folder


# --- Keras weights in several files -----------------------------------------------


def test_several_files_are_one_checkpoint() -> None:
    sharded = tf2flax.open_checkpoint(SHARDS / "model.weights.json")
    whole = tf2flax.open_checkpoint(NAMES / "3.15.1.keras")
    assert bits(sharded) == bits(whole)
    assert sharded.verify().ok
    assert list(pickle.loads(pickle.dumps(sharded))) == list(whole)
    assert sharded.prefix == str(SHARDS / "model.weights.json")
    view = sharded.by_variable_name()
    assert len(view) == len(whole)
    # The name of `head` is in another file than its variables.
    assert bits(view)["head/kernel"] == bits(whole.by_variable_name())["head/kernel"]
    with pytest.raises(tf2flax.TensorNotFoundError) as caught:
        sharded["head/kernel"]
    for text in ("`head` is stored as `layers/dense_2/`", "by_variable_name()"):
        assert text in str(caught.value)
    assert bits(tf2flax.open_checkpoint(SHARDS)) == bits(whole)


def test_one_of_several_files_has_not_all_names() -> None:
    part = sorted(SHARDS.glob("*.h5"))[-1]
    with pytest.warns(UserWarning, match=r"open the index of all files \(`"):
        assert len(tf2flax.open_checkpoint(part).by_variable_name())


def test_several_files_elsewhere(tmp_path: pathlib.Path) -> None:
    want = bits(tf2flax.open_checkpoint(SHARDS))
    with serving(served(SHARDS)) as server:
        for path in ("/run/model.weights.json", "/run/", "/run"):
            assert bits(tf2flax.open_checkpoint(server.url + path)) == want
    context = in_memory(SHARDS)
    for path in ("memory://run/model.weights.json", "memory://run/"):
        assert bits(tf2flax.open_checkpoint(path, context=context)) == want


def write_group(path: pathlib.Path, groups: dict[str, list[int]]) -> None:
    with h5py.File(path, "w") as file:
        for place, numbers in groups.items():
            for number in numbers:
                file[f"{place}/vars/{number}"] = np.full(2, number)


def sharded(
    folder: pathlib.Path,
    weight_map: object,
    files: dict[str, dict[str, list[int]]],
    name: str = "m.weights.json",
) -> pathlib.Path:
    for file, groups in files.items():
        write_group(folder / file, groups)
    path = folder / name
    path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return path


def test_a_file_may_be_named_alone_or_in_a_list(tmp_path: pathlib.Path) -> None:
    weight_map = {
        "/a/vars": "0.weights.h5",
        "/b/vars": ["0.weights.h5", "1.weights.h5"],
    }
    files = {"0.weights.h5": {"a": [0], "b": [0]}, "1.weights.h5": {"b": [1]}}
    path = sharded(tmp_path, weight_map, files)
    assert list(tf2flax.open_checkpoint(path)) == ["a/vars/0", "b/vars/0", "b/vars/1"]


BAD_INDEXES: dict[str, tuple[object, type[Exception], str]] = {
    "outside": ({"/a/vars": "../x.h5"}, tf2flax.DamagedError, "not a file of its fold"),
    "absolute": ({"/a/vars": "/etc/x.h5"}, tf2flax.DamagedError, "not a file of its"),
    "windows": ({"/a/vars": "..\\x.h5"}, tf2flax.DamagedError, "not a file of its fo"),
    "parent": ({"/a/vars": ".."}, tf2flax.DamagedError, "not a file of its folder"),
    "zero byte": ({"/a/vars": "x\0.h5"}, tf2flax.DamagedError, "not a file of its"),
    "half a letter": ({"/a/vars": "\ud800.h5"}, tf2flax.DamagedError, "in '.ud800"),
    "a number": ({"/a/vars": [3]}, tf2flax.DamagedError, "names no file, but 3"),
    "an object": ({"/a/vars": {}}, tf2flax.DamagedError, "`/a/vars` names no file"),
    "no files": ({"/a/vars": []}, tf2flax.DamagedError, "`/a/vars` names no file"),
    "nothing": ({}, tf2flax.DamagedError, "names no files"),
    "a list": ([], tf2flax.UnsupportedError, "JSON without a `weight_map`"),
    "safetensors": (
        {"a": "model-00001-of-00002.safetensors"},
        tf2flax.UnsupportedError,
        "not Keras weights",
    ),
    "missing": (
        {"/a/vars": ["0.weights.h5", "2.weights.h5"]},
        tf2flax.DamagedError,
        r"missing: `2.weights.h5`, one of the 2 that the index names, of which 1 ",
    ),
    "another group": (
        {"/a/vars": "0.weights.h5", "/c/vars": "0.weights.h5"},
        tf2flax.DamagedError,
        "`0.weights.h5` lacks `c/vars`",
    ),
    "a group too many": (
        {"/a/vars": ["0.weights.h5", "1.weights.h5"]},
        tf2flax.DamagedError,
        "`1.weights.h5` holds `b/vars/0`, which the index does not place",
    ),
    "twice": (
        {"/a/vars": ["0.weights.h5", "3.weights.h5"]},
        tf2flax.DamagedError,
        "`a/vars/0` lies in two of the files",
    ),
}


@pytest.mark.parametrize("case", BAD_INDEXES)
def test_an_index_that_does_not_fit(case: str, tmp_path: pathlib.Path) -> None:
    weight_map, error, text = BAD_INDEXES[case]
    files = {
        "0.weights.h5": {"a": [0]},
        "1.weights.h5": {"b": [0]},
        "3.weights.h5": {"a": [0]},
    }
    path = sharded(tmp_path, weight_map, files)
    with pytest.raises(error, match=text) as caught:
        tf2flax.open_checkpoint(path)
    assert "m.weights.json" in str(caught.value)


@pytest.mark.parametrize(
    "text", ['{"weight_map": {', "{" * 10_000, '{"a":' * 99_999, "{}"]
)
def test_other_json(text: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.weights.json"
    path.write_text(text)
    with pytest.raises((tf2flax.DamagedError, tf2flax.UnsupportedError)):
        tf2flax.open_checkpoint(path)
    for stop in range(0, 600, 7):  # an index that was cut
        path.write_bytes((SHARDS / "model.weights.json").read_bytes()[:stop])
        with pytest.raises((tf2flax.DamagedError, tf2flax.UnsupportedError)):
            tf2flax.open_checkpoint(path)


def test_an_index_that_names_first_files_alone(tmp_path: pathlib.Path) -> None:
    """As Keras 3.10 writes it: its own reader finds no more than that."""
    shutil.copytree(SHARDS, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "model.weights.json"
    index = json.loads(path.read_text())
    groups = index["weight_map"]
    for group in groups:
        files = groups[group]
        groups[group] = files if isinstance(files, str) else files[0]
    assert "model_00002.weights.h5" not in groups.values()
    path.write_text(json.dumps(index))
    want = bits(tf2flax.open_checkpoint(SHARDS))
    assert bits(tf2flax.open_checkpoint(path)) == want
    with serving(served(tmp_path)) as server:
        url = f"{server.url}/run/model.weights.json"
        assert bits(tf2flax.open_checkpoint(url)) == want
    (tmp_path / "model_00002.weights.h5").unlink()
    with pytest.raises(
        tf2flax.DamagedError, match=r"2 files hold \d+ bytes of the 2660"
    ):
        tf2flax.open_checkpoint(path)


def test_what_is_given_or_found_in_place_of_a_file(tmp_path: pathlib.Path) -> None:
    shutil.copytree(SHARDS, tmp_path, dirs_exist_ok=True)
    with pytest.raises(tf2flax.CheckpointNotFoundError, match=r"weights\.json`\?"):
        tf2flax.open_checkpoint(tmp_path / "model.weights.h5")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"
    (tmp_path / "model_00001.weights.h5").write_text(pointer)
    with pytest.raises(tf2flax.DamagedError, match=r"Run `git lfs pull`"):
        tf2flax.open_checkpoint(tmp_path)


def test_several_indexes_in_a_folder(tmp_path: pathlib.Path) -> None:
    files = {"0.weights.h5": {"a": [0]}}
    sharded(tmp_path, {"/a/vars": "0.weights.h5"}, files)
    assert list(tf2flax.open_checkpoint(tmp_path)) == ["a/vars/0"]
    sharded(tmp_path, {"/a/vars": "0.weights.h5"}, files, "n.weights.json")
    with pytest.raises(tf2flax.CheckpointNotFoundError) as caught:
        tf2flax.open_checkpoint(tmp_path)
    assert "`m.weights.json` or `n.weights.json`" in str(caught.value)


# --- folders of Keras's -----------------------------------------------------------


def test_an_unzipped_model(tmp_path: pathlib.Path) -> None:
    folder = unzipped(tmp_path)
    zipped = tf2flax.open_checkpoint(NAMES / "3.15.1.keras")
    want, names = bits(zipped), bits(zipped.by_variable_name())
    for path in (folder, f"{folder}/"):
        opened = tf2flax.open_checkpoint(path)
        assert bits(opened) == want
        assert bits(opened.by_variable_name()) == names
        assert bits(pickle.loads(pickle.dumps(opened)).by_variable_name()) == names
    shutil.copy(NAMES / "3.15.1.keras", folder / "m.keras")
    with serving(served(folder)) as server:
        for path in ("/run/", "/run", "/run/m.keras"):
            opened = tf2flax.open_checkpoint(server.url + path)
            assert bits(opened.by_variable_name()) == names
    opened = tf2flax.open_checkpoint("memory://run/", context=in_memory(folder))
    assert bits(opened.by_variable_name()) == names


def test_a_preset_in_several_files(tmp_path: pathlib.Path) -> None:
    folder = unzipped(tmp_path)
    names = bits(tf2flax.open_checkpoint(folder).by_variable_name())
    (folder / "model.weights.h5").unlink()
    for path in SHARDS.iterdir():
        shutil.copy(path, folder)
    for name in ("task.json", "tokenizer.json", "preprocessor.json"):
        (folder / name).write_text("{}")
    assert bits(tf2flax.open_checkpoint(folder).by_variable_name()) == names
    (folder / "config.json").write_text("{")
    opened = tf2flax.open_checkpoint(folder)
    assert len(opened) == len(names)
    with pytest.raises(tf2flax.DamagedError, match=r"config\.json"):
        opened.by_variable_name()


def test_a_checkpoint_in_the_same_folder_comes_first(tmp_path: pathlib.Path) -> None:
    folder = unzipped(tmp_path)
    write_bundle(folder / "model.ckpt", {"a": ROWS})
    with pytest.raises(tf2flax.CheckpointNotFoundError, match="and 2 checkpoints"):
        tf2flax.open_checkpoint(folder)
    (folder / "checkpoint").write_text('model_checkpoint_path: "model.ckpt"')
    assert list(tf2flax.open_checkpoint(folder)) == ["a"]
    (folder / "checkpoint").write_text('model_checkpoint_path: "gone"')
    with pytest.raises(tf2flax.CheckpointNotFoundError, match=r"names .*gone"):
        tf2flax.open_checkpoint(folder)


def test_other_files_of_weights_are_named(tmp_path: pathlib.Path) -> None:
    shutil.copy(NAMES / "3.15.1.keras", tmp_path / "best.keras")
    with pytest.raises(tf2flax.CheckpointNotFoundError, match=r"best\.keras`\?"):
        tf2flax.open_checkpoint(tmp_path / "best.kears")
    want = bits(tf2flax.open_checkpoint(tmp_path / "best.keras"))
    assert bits(tf2flax.open_checkpoint(tmp_path)) == want


def test_another_config_is_not_about_the_weights(tmp_path: pathlib.Path) -> None:
    folder = unzipped(tmp_path)
    checkpoint = tf2flax.open_checkpoint(folder)
    (folder / "new.json").write_text("{}")
    (folder / "new.json").replace(folder / "config.json")
    with pytest.raises(tf2flax.DamagedError, match=r"been replaced.*config\.json"):
        checkpoint.by_variable_name()
    with pytest.raises(tf2flax.DamagedError, match=r"been replaced.*config\.json"):
        pickle.loads(pickle.dumps(checkpoint)).by_variable_name()
    assert "head/kernel" in tf2flax.open_checkpoint(folder).by_variable_name()


# --- V1 in several files ----------------------------------------------------------


def write_parts(folder: pathlib.Path, prefix: str = "m.ckpt-4", count: int = 3) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = ["a", "b", "c"]
    for number in range(count):
        path = folder / f"{prefix}-{number:05d}-of-{count:05d}"
        v1.write_v1(path, {names[number]: ROWS + number})
    pattern = f"{prefix}-?????-of-{count:05d}"
    (folder / "checkpoint").write_text(f'model_checkpoint_path: "{pattern}"')


FOLDERS = [
    "run1",
    "run[1]",
    "run[!a]",
    "run*",
    "run?",
    "[",
    "a]b",
    "run[1]/deep[2]",
    "*",
]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_is_no_pattern(name: str, tmp_path: pathlib.Path) -> None:
    write_parts(tmp_path / "run1" / "deep2", count=2)  # what a pattern would match
    write_parts(tmp_path / "run1", count=2)
    folder = tmp_path / name
    shutil.rmtree(folder, ignore_errors=True)
    write_parts(folder)
    pattern = f"{folder}/m.ckpt-4-?????-of-00003"
    assert tf2flax.latest_checkpoint(folder) == pattern
    assert tf2flax.checkpoint_exists(pattern)
    assert not tf2flax.checkpoint_exists(f"{folder}/m.ckpt-4-?????-of-00002")
    assert list(tf2flax.checkpoints_iterator(folder, timeout=0)) == [pattern]
    for path in (
        folder,
        pattern,
        f"{folder}/m.ckpt-4-*",
        f"{folder}/m.ckpt-4-0000[0-9]*",
    ):
        checkpoint = tf2flax.open_checkpoint(path)
        assert list(checkpoint) == ["a", "b", "c"], path
        assert checkpoint["c"].read().tolist() == (ROWS + 2).tolist()
    with pytest.raises(tf2flax.CheckpointNotFoundError) as caught:
        tf2flax.open_checkpoint(folder / "m.ckpt-4")
    assert f"Did you mean the pattern `{pattern}`?" in str(caught.value)


def test_patterns_of_folders_stay_patterns(tmp_path: pathlib.Path) -> None:
    write_parts(tmp_path / "run1")
    for folder in ("run?", "run[1]", "r*"):
        path = f"{tmp_path}/{folder}/m.ckpt-4-?????-of-00003"
        assert list(tf2flax.open_checkpoint(path)) == ["a", "b", "c"]
        assert tf2flax.checkpoint_exists(path)
    write_bundle(tmp_path / "run1" / "v2", {"a": ROWS})
    assert tf2flax.checkpoint_exists(f"{tmp_path}/run[1]/v?")
    (tmp_path / "run[1]").mkdir()
    assert not tf2flax.checkpoint_exists(f"{tmp_path}/run[1]/v?")


def test_v2_and_single_files_in_folders_that_look_like_patterns(
    tmp_path: pathlib.Path,
) -> None:
    folder = tmp_path / "run[1]"
    folder.mkdir()
    write_bundle(folder / "v2[3]", {"a": ROWS})
    v1.write_v1(folder / "v1[3]", {"b": ROWS})
    assert list(tf2flax.open_checkpoint(folder / "v2[3]")) == ["a"]
    assert list(tf2flax.open_checkpoint(folder / "v1[3]")) == ["b"]
    for name in ("v2[3]", "v1[3]"):
        assert tf2flax.checkpoint_exists(folder / name)
    (folder / "checkpoint").write_text('model_checkpoint_path: "v2[3]"')
    assert tf2flax.latest_checkpoint(folder) == f"{folder}/v2[3]"


def test_a_hint_of_files_that_look_like_patterns(tmp_path: pathlib.Path) -> None:
    write_parts(tmp_path / "run[1]", "m[1].ckpt")
    with pytest.raises(tf2flax.CheckpointNotFoundError) as caught:
        tf2flax.open_checkpoint(tmp_path / "run[1]" / "m[1].ckpt")
    hint = re.search("the pattern `([^`]*)`", str(caught.value))
    assert hint
    assert list(tf2flax.open_checkpoint(hint[1])) == ["a", "b", "c"]


def test_several_numbers_of_files(tmp_path: pathlib.Path) -> None:
    write_parts(tmp_path, count=2)
    write_parts(tmp_path, count=3)
    with pytest.raises(tf2flax.CheckpointNotFoundError) as caught:
        tf2flax.open_checkpoint(tmp_path / "m.ckpt-4")
    for count in (2, 3):
        pattern = f"{tmp_path}/m.ckpt-4-?????-of-0000{count}"
        assert f"`{pattern}`" in str(caught.value)
        assert len(tf2flax.open_checkpoint(pattern)) == count


def test_patterns_where_nothing_can_be_listed(tmp_path: pathlib.Path) -> None:
    write_parts(tmp_path)
    with serving(served(tmp_path)) as server:
        opened = tf2flax.open_checkpoint(f"{server.url}/run/")
        assert bits(opened) == bits(tf2flax.open_checkpoint(tmp_path))
        latest = tf2flax.latest_checkpoint(f"{server.url}/run/")
        assert latest is not None
        assert latest.startswith(f"{server.url}/run/m.ckpt-4-")
        with pytest.raises(tf2flax.UnsupportedError, match="cannot be listed"):
            tf2flax.open_checkpoint(f"{server.url}/run/m.ckpt-4-*")


# --- parts of a save that was interrupted -----------------------------------------

NUMBER = "0123456789abcdef" * 2
Interrupted = Callable[[pathlib.Path], pathlib.Path]


@pytest.mark.parametrize(
    "folder", [f"m.ckpt_temp_{NUMBER}/part", "m.ckpt_temp/part", "m.ckpt.part"]
)
@pytest.mark.parametrize("numbers", [[0, 1, 2], [1]])
def test_parts_are_named(
    folder: str, numbers: list[int], tmp_path: pathlib.Path
) -> None:
    tmp_path /= 'run{i}"\\'  # what is shown is still Python
    stem = tmp_path / folder
    stem.parent.mkdir(parents=True)
    for number in numbers:
        part = stem.with_name(f"{stem.name}-{number:05d}-of-00003")
        write_bundle(part, {f"t{number}": ROWS + number})
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "m.ckpt"')
    paths = [tmp_path, tmp_path / "m.ckpt"]
    if "/" in folder:
        paths.append(stem.parent)
    for path in paths:
        with pytest.raises(tf2flax.CheckpointNotFoundError) as caught:
            tf2flax.open_checkpoint(path)
        text = str(caught.value)
        assert f"{len(numbers)} of the 3 parts of a sharded save" in text
        if len(numbers) == 3:
            code = text[text.index("tf2flax.merge") :].removesuffix(".")
            merged = eval(code, {"tf2flax": tf2flax, "range": range})
            assert list(merged) == ["t0", "t1", "t2"]
            assert merged["t2"].read().tolist() == (ROWS + 2).tolist()
        else:
            assert f"`{stem}-00001-of-00003`" in text
    # A part is a checkpoint where it is given.
    assert list(tf2flax.open_checkpoint(f"{stem}-00001-of-00003")) == ["t1"]
    context = in_memory(tmp_path)
    with pytest.raises(
        tf2flax.CheckpointNotFoundError, match="parts of a sharded save"
    ):
        tf2flax.open_checkpoint("memory://run/", context=context)
    # Another checkpoint's parts are not this one's.
    with pytest.raises(tf2flax.CheckpointNotFoundError) as caught:
        tf2flax.open_checkpoint(tmp_path / "other")
    assert "sharded save" not in str(caught.value)


def test_an_earlier_checkpoint_beside_parts(tmp_path: pathlib.Path) -> None:
    write_bundle(tmp_path / "m.ckpt-1", {"a": ROWS})
    part = tmp_path / "m.ckpt-2_temp" / "part-00000-of-00001"
    write_bundle(part, {"b": ROWS})
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "m.ckpt-1"')
    assert list(tf2flax.open_checkpoint(tmp_path)) == ["a"]
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "m.ckpt-2"')
    with pytest.raises(tf2flax.CheckpointNotFoundError) as caught:
        tf2flax.open_checkpoint(tmp_path)
    assert f"Did you mean the prefix `{tmp_path}/m.ckpt-1`?" in str(caught.value)
    assert f"Give it as a prefix: `{part}`." in str(caught.value)
    assert list(tf2flax.open_checkpoint(part)) == ["b"]


# --- merging ----------------------------------------------------------------------


@pytest.fixture
def two(tmp_path: pathlib.Path) -> tuple[str, str]:
    for name in ("a", "b"):
        write_bundle(tmp_path / name, {name: ROWS, f"{name}/x": ROWS + 1})
    return str(tmp_path / "a"), str(tmp_path / "b")


def test_pairs_lists_and_generators(two: tuple[str, str]) -> None:
    first, second = two
    opened = tf2flax.open_checkpoint(first)
    plain = ["a", "a/x", "b", "b/x"]
    cases: list[tuple[Any, list[str]]] = [
        ([first, second], plain),
        ((opened, second), plain),
        ([opened, pathlib.Path(second)], plain),
        ((path for path in two), plain),
        ([("", first), ("", second)], plain),
        ([["", first], ("", second)], plain),
        ([("p/", first), ("p/", second)], [f"p/{name}" for name in plain]),
        (iter([("p/", first), ("", first)]), ["a", "a/x", "p/a", "p/a/x"]),
        ({"p/": first, "": second}, ["b", "b/x", "p/a", "p/a/x"]),
        ({"p/": first}.items(), ["p/a", "p/a/x"]),
        ([second, ("p/", first)], ["b", "b/x", "p/a", "p/a/x"]),
        ([], []),
    ]
    for given, names in cases:
        merged = tf2flax.merge_checkpoints(given)
        assert list(merged) == names
        assert list(pickle.loads(pickle.dumps(merged))) == names
        for name in names:
            want = ROWS + name.endswith("/x")
            assert merged[name].read().tolist() == want.tolist()
        assert merged.verify().ok


@pytest.mark.parametrize("is_list", [True, False])
def test_a_clash_names_both(two: tuple[str, str], is_list: bool) -> None:
    first = two[0]
    given: Any = [first, first] if is_list else [("p/", first), ("p/", first)]
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.merge_checkpoints(given)
    text = str(caught.value)
    assert f"Name `{'' if is_list else 'p/'}a` is in two of the checkpoints" in text
    assert text.count(f"`{first}.index`") == 2


@pytest.mark.parametrize(
    "given",
    [3, None, "path", b"path", pathlib.Path("path"), [("a", "b", "c")], [("a",)]],
)
def test_what_cannot_be_merged(given: Any) -> None:
    with pytest.raises(tf2flax.AssignmentError, match=r"\[first, second\]"):
        tf2flax.merge_checkpoints(given)


def test_one_checkpoint_is_no_list_of_them(two: tuple[str, str]) -> None:
    with pytest.raises(tf2flax.AssignmentError, match="one checkpoint"):
        tf2flax.merge_checkpoints(tf2flax.open_checkpoint(two[0]))  # pyright: ignore[reportArgumentType]
    with pytest.raises(tf2flax.AssignmentError, match="prefixes of names"):
        tf2flax.merge_checkpoints([(3, two[0])])  # pyright: ignore[reportArgumentType]
    with pytest.raises(tf2flax.UnsupportedError, match="Expected the path"):
        tf2flax.merge_checkpoints([3])  # pyright: ignore[reportArgumentType]
