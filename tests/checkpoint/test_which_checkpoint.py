"""Which checkpoint a folder or a mistaken path means, and what is suggested for it."""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Callable

import numpy as np
import pytest
import v1_writer as v1
from bundle_writer import write_bundle
from http_server import serving

import tf2flax

STEPS = (0, 5, 7, 90, 100)


@pytest.fixture
def run(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "run"
    for step in STEPS:
        write_bundle(folder / f"model.ckpt-{step}", {"w": np.float32(step)})
    return folder


def message_of(path: object) -> str:
    with pytest.raises(tf2flax.CheckpointNotFoundError) as caught:
        tf2flax.open_checkpoint(path)  # pyright: ignore[reportArgumentType]
    return str(caught.value)


def step_meant(text: str) -> int:
    """The step of the only checkpoint that a message suggests, which opens."""
    paths = re.findall(r"Did you mean (?:the prefix )?`([^`]*)`\?", text)
    assert len(paths) == 1, text
    return int(tf2flax.open_checkpoint(paths[0])["w"].read())


def utf16(text: str) -> bytes:
    return text.encode("utf-16")


LATEST = 'model_checkpoint_path: "model.ckpt-7"\n'
LISTED = (
    'model_checkpoint_path: "model.ckpt-101"\n'
    'all_model_checkpoint_paths: "model.ckpt-5"\n'
    'all_model_checkpoint_paths: "model.ckpt-90"\n'
    'all_model_checkpoint_paths: "model.ckpt-101"\n'
)
MERGED = f'<<<<<<< ours\n{LATEST}=======\nmodel_checkpoint_path: "x"\n>>>>>>> theirs\n'
# the state file, the step that is meant, what is said of the state file
STATES: dict[str, tuple[bytes, int, str]] = {
    "Windows": (
        rb'model_checkpoint_path: "C:\\run\\model.ckpt-7"',
        7,
        r"names `.*C:\\run\\model\.ckpt-7`, which is not there",
    ),
    "Windows, relative": (rb'model_checkpoint_path: "sub\\model.ckpt-7"', 7, "names"),
    "another machine": (b'model_checkpoint_path: "/old/model.ckpt-7"', 7, "names"),
    "latest not there": (LISTED.encode(), 90, r"names `.*/model\.ckpt-101`"),
    "nothing of it there": (b'model_checkpoint_path: "gone-3"', 100, "names"),
    "byte order mark": (
        LATEST.encode("utf-8-sig"),
        7,
        "does not parse: it begins with a byte order mark",
    ),
    "UTF-16": (utf16(LATEST), 7, "does not parse: it is in UTF-16"),
    "merge marks": (MERGED.encode(), 7, "does not parse: it holds the marks of a merg"),
    "zero bytes": (LATEST.encode() + bytes(9), 7, "does not parse: it holds zero byte"),
    "all zero": (bytes(200), 100, "does not parse: it is a file whose beginning was"),
    "Latin 1": ('model_checkpoint_path: "é"'.encode("latin-1"), 100, "is not UTF-8"),
    "an unknown field": (b'path: "a"', 100, "does not parse: line 1: .*`?path"),
    "a quote that is open": (b'model_checkpoint_path: "a', 100, "does not parse: line"),
    "HTML": (b"<!doctype html>", 100, "does not parse: it is an HTML page"),
    "JSON": (b'{"model": 1}', 100, "does not parse: line 1"),
    "empty": (b"", 100, "its state file names no checkpoint"),
}


@pytest.mark.parametrize("name", STATES)
def test_the_state_file_says_which(name: str, run: pathlib.Path) -> None:
    """By the name after the last separator, then by what it lists, then by the step."""
    contents, step, match = STATES[name]
    (run / "checkpoint").write_bytes(contents)
    text = message_of(run)
    assert re.search(match, text), text
    assert step_meant(text) == step
    assert text.isprintable()


@pytest.mark.parametrize("name", ["byte order mark", "UTF-16", "merge marks"])
def test_the_latest_checkpoint_is_none_as_in_tensorflow(
    name: str, run: pathlib.Path
) -> None:
    (run / "checkpoint").write_bytes(STATES[name][0])
    assert tf2flax.latest_checkpoint(run) is None


def test_a_state_file_beside_the_only_checkpoint_still_counts(
    tmp_path: pathlib.Path,
) -> None:
    write_bundle(tmp_path / "model.ckpt-3", {"w": np.float32(3)})
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "gone"')
    assert step_meant(message_of(tmp_path)) == 3


def test_by_http_the_state_file_is_all_there_is(run: pathlib.Path) -> None:
    files = {f"/run/{path.name}": path.read_bytes() for path in run.iterdir()}
    state = b'model_checkpoint_path: "/old/model.ckpt-7"'
    with serving({**files, "/run/checkpoint": state}) as server:
        assert step_meant(message_of(f"{server.url}/run/")) == 7


def test_several_are_listed_newest_step_first(run: pathlib.Path) -> None:
    text = message_of(run)
    assert "and 5 checkpoints" in text
    paths = re.findall("`([^`]*ckpt-[^`]*)`", text)
    assert paths == [f"{run}/model.ckpt-{step}" for step in sorted(STEPS, reverse=True)]
    for path in paths:
        tf2flax.open_checkpoint(path)
    for step in range(200, 220):
        write_bundle(run / f"model.ckpt-{step}", {"w": np.float32(step)})
    assert message_of(run).endswith(" and 17 more.")


def v2(folder: pathlib.Path) -> None:
    write_bundle(folder / "model.ckpt-3", {"w": np.float32(3)})


def v1_file(folder: pathlib.Path) -> None:
    v1.write_v1(folder / "inception.ckpt", {"w": np.ones(2, "f4")})


def v1_file_beside_its_graph(folder: pathlib.Path) -> None:
    v1.write_v1(folder / "model-3", {"w": np.ones(2, "f4")})
    (folder / "model-3.meta").write_bytes(b"\x0a\x00")


def v1_files(folder: pathlib.Path) -> None:
    for number in range(2):
        path = folder / f"model.ckpt-3-0000{number}-of-00002"
        v1.write_v1(path, {f"w{number}": np.ones(2, "f4")})


def keras(folder: pathlib.Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "tf_model.h5", "w") as file:
        file["w"] = np.ones(2, "f4")


@pytest.mark.parametrize(
    "write", [v2, v1_file, v1_file_beside_its_graph, v1_files, keras]
)
def test_a_folder_of_one_checkpoint_opens(
    write: Callable[[pathlib.Path], None], tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "uncased_L-12"
    folder.mkdir()
    write(folder)
    # What lies beside it in what people unpack; none of it is a checkpoint.
    for name in ("._model.ckpt-3.index", "vocab.txt", "bert_config.json", "a.ckpt.zip"):
        (folder / name).write_bytes(b"\0\5\x16\7")
    (folder / "lost.ckpt.index").symlink_to("nowhere")
    (folder / "folder.index").mkdir()
    assert list(tf2flax.open_checkpoint(folder))
    assert list(tf2flax.open_checkpoint(f"{folder}/"))
    assert tf2flax.latest_checkpoint(folder) is None  # as in TensorFlow
    if write is not v2:
        v2(folder)
        assert "and 2 checkpoints" in message_of(folder)


def test_a_checkpoint_beside_parts_of_a_newer_one_is_not_taken(
    tmp_path: pathlib.Path,
) -> None:
    v2(tmp_path)
    part = tmp_path / "model.ckpt-4_temp" / "part-00000-of-00002"
    write_bundle(part, {"w": np.float32(4)})
    text = message_of(tmp_path)
    assert "1 of the 2 parts of a sharded save" in text
    assert step_meant(text) == 3


# what is given instead of a prefix, the step that is meant
PATHS = {
    "{run}\\model.ckpt-7": 7,
    "run\\model.ckpt-7": 7,
    "C:\\data\\run\\model.ckpt-7": 7,
    ".\\run\\model.ckpt-7.index": 7,
    "{run}/model.ckpt-1000": 100,
    "{run}/model.ckpt-": 100,
    "{run}/model.ckpt": 100,
    "{run}/modl.ckpt-7": 7,
    "{run}/best.ckpt-7": 7,
}


@pytest.mark.parametrize("path", PATHS)
def test_a_path_says_which(
    path: str, run: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)
    assert step_meant(message_of(path.replace("{run}", str(run)))) == PATHS[path]


# what is given instead of `{run}/model.ckpt-7`, where a folder is misspelt
FOLDERS = {
    "rnu/model.ckpt-7": 7,
    "{parent}/rnu/model.ckpt-7": 7,
    "rnu/model.ckpt-8": 100,
    "deep/folder/rn/model.ckpt-7": 1,
    "dep/foldr/run/model.ckpt": 1,
    "run/model.ckpt-7/": 7,
    "run/model.ckpt-7.index/": 7,
    "run/modl.ckpt-7/": 7,
    "run/model.ckpt/": 100,
}


@pytest.mark.parametrize("path", FOLDERS)
def test_a_misspelt_folder(
    path: str, run: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)
    inner = run.parent / "deep" / "folder" / "run" / "model.ckpt-7"
    write_bundle(inner, {"w": np.float32(1)})
    text = message_of(path.replace("{parent}", str(run.parent)))
    assert step_meant(text) == FOLDERS[path]


def test_the_nearest_folder_that_is_there(run: pathlib.Path) -> None:
    where = run.parent
    text = message_of(where / "zzz" / "yyy" / "m.ckpt")
    assert text.endswith(f"The nearest folder that is there is `{where}`.")
    (where / "file").touch()
    text = message_of(where / "file" / "m.ckpt")
    assert text.endswith(f"`{where}/file` is a file, not a folder.")
    assert message_of(where / "rnu" / "zzz").endswith(f"Did you mean `{where}/run`?")


def test_an_empty_path() -> None:
    assert message_of("").startswith("The path is empty. Give the prefix")


@pytest.mark.parametrize(
    "path",
    ["$RUN/model.ckpt-7", "${RUN}/model.ckpt-7", "%RUN%/model.ckpt-7", "$RUN", "$RUN/"],
)
def test_a_variable_of_the_environment_is_said(
    path: str, run: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run)
    monkeypatch.setenv("RUN", str(run))
    given = re.findall(r"Give `(.*)`\.", message_of(path))
    assert given == [re.sub(r"\$\{?RUN\}?|%RUN%", str(run), path)]
    if "ckpt" in path:
        assert list(tf2flax.open_checkpoint(given[0]))
    monkeypatch.delenv("RUN")
    assert "The variable `RUN` of the environment is not set." in message_of(path)
    # A folder that is called so is a folder.
    (run / path.partition("/")[0]).mkdir()
    assert "The variable" not in message_of(path)


@pytest.mark.parametrize("path", ["C:\\me\\bert\\m.ckpt", "C:/me/bert/m.ckpt"])
def test_a_path_of_windows_is_said(
    path: str, run: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run)
    text = message_of(path)
    assert "It is a path of Windows, and this system is another one." in text
    assert "`/mnt/c/me/bert/m.ckpt`" in text
    text = message_of("\\\\server\\share\\m.ckpt")
    assert "It is a path of Windows" in text
    assert "/mnt/" not in text


@pytest.mark.parametrize("path", ["~/model.ckpt-7", "~/", "~"])
def test_a_home_directory_is_said(
    path: str, run: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(run))
    monkeypatch.chdir(run)
    with pytest.raises(tf2flax.UnsupportedError) as caught:
        tf2flax.open_checkpoint(path)
    given = re.findall(r"Give `(.*)`\.", str(caught.value))
    assert given == [str(run) + path[1:]]
    # A folder that is called so is a folder, and other names begin so as well.
    write_bundle(run / "~" / "model.ckpt-7", {"w": np.float32(1)})
    write_bundle(run / "~model", {"w": np.float32(2)})
    assert tf2flax.open_checkpoint("~/model.ckpt-7")["w"].read() == 1
    assert tf2flax.open_checkpoint("~model")["w"].read() == 2


def test_pipes_and_devices(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/null"):
        assert f"`{path}`, a pipe or device, cannot be read" in message_of(path)
    assert message_of("-").startswith("Standard input cannot be read")


def test_only_the_graph_is_there(run: pathlib.Path) -> None:
    (run / "g.ckpt-8.meta").write_bytes(b"\x0a\x00")
    text = message_of(run / "g.ckpt-8")
    assert f"only its graph is there, `{run}/g.ckpt-8.meta`, which has no value" in text


def test_only_the_data_is_there(run: pathlib.Path) -> None:
    (run / "model.ckpt-90.index").unlink()
    text = message_of(run / "model.ckpt-90")
    assert "its data is there, and its index" in text
    assert step_meant(text) == 100


def test_a_dangling_link_is_not_offered_to_itself(tmp_path: pathlib.Path) -> None:
    """As a cache of Hugging Face has them, whose blobs were removed."""
    for name in ("m.ckpt.index", "m.ckpt.data-00000-of-00001"):
        (tmp_path / name).symlink_to("../blobs/0a1b")
    for path in (tmp_path / "m.ckpt", tmp_path / "m.ckpt.index"):
        text = message_of(path)
        link = f"`{tmp_path}/m.ckpt.index` is a link to `../blobs/0a1b`, which is not "
        assert link in text
        assert "Did you mean" not in text
    assert "m.ckpt`?" not in message_of(tmp_path)


def test_what_is_only_called_like_it_is_not_suggested(tmp_path: pathlib.Path) -> None:
    (tmp_path / "model.h5").write_bytes(b"\x1f\x8b\x08")
    assert "Did you mean" not in message_of(tmp_path / "modle.h5")


def test_a_long_path_is_answered_soon(run: pathlib.Path) -> None:
    for number in range(40):
        (run / f"{'x' * 200}{number}.h5").touch()
    assert "No checkpoint at" in message_of(f"{run}/{'x' * 8000}")


@pytest.mark.parametrize("scheme", ["gs", "s3", "http", "https", "file"])
def test_a_url_that_pathlib_took_for_a_path(
    scheme: str, run: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"/run/{path.name}": path.read_bytes() for path in run.iterdir()}
    with serving(files) as server:
        address = {"http": server.url.removeprefix("http://"), "file": ""}
        host = address.get(scheme, "bucket")
        url = f"{scheme}://{host}{run if scheme == 'file' else '/run'}/model.ckpt-7"
        with pytest.raises(tf2flax.UnsupportedError) as caught:
            tf2flax.open_checkpoint(pathlib.Path(url))
        assert f"Give the URL as a str: `{url}`." in str(caught.value)
        if scheme in address:
            assert tf2flax.open_checkpoint(url)["w"].read() == 7
    # A folder that is called so is a folder.
    monkeypatch.chdir(run)
    write_bundle(run / f"{scheme}:" / "m", {"w": np.float32(1)})
    assert tf2flax.open_checkpoint(f"{scheme}:/m")["w"].read() == 1


def test_verify_reports_a_directory_in_place_of_data(run: pathlib.Path) -> None:
    checkpoint = tf2flax.open_checkpoint(run / "model.ckpt-7")
    path = run / "model.ckpt-7.data-00000-of-00001"
    path.rename(run / "kept")
    path.mkdir()
    report = checkpoint.verify()
    assert not report.ok
    assert f"its data file is a directory - at `{path}`" in str(report)
    with pytest.raises(tf2flax.DamagedError, match="is a directory"):
        tf2flax.open_checkpoint(run / "model.ckpt-7")["w"].read()
