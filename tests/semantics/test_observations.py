"""Paths, state files and listings, as TensorFlow 1.15.5 was observed to treat them.

Where tf2flax decides otherwise, the decision is in `DECISIONS`, with its reason.
"""

from __future__ import annotations

import json
import pathlib
import shutil
from typing import Any

import numpy as np
import pytest
from repository import DATA

import tf2flax

HERE = DATA / "semantics"
SEEN = json.loads((HERE / "observations.json").read_text())

A_AND_SCOPE = [("a", [2, 3]), ("scope1/a", [2, 3])]
# path -> what we list, or the error; TF does something else there.
DECISIONS: dict[str, Any] = {
    # One of a checkpoint's files stands for the checkpoint.
    "run/model.ckpt-5.index": A_AND_SCOPE,
    "run/model.ckpt-5.data-00000-of-00001": A_AND_SCOPE,
    "run/model.ckpt-5.meta": A_AND_SCOPE,
    "v2sharded/model.ckpt.data-00000-of-00002": [
        ("a", [2, 3]),
        ("p", [10, 4]),
        ("scope1/a", [2, 3]),
        ("scope1/b", [3]),
    ],
    # A doubled slash is a slash.
    "run//model.ckpt-5": A_AND_SCOPE,
    # A folder of one checkpoint and no state file can mean but that one.
    "statedir/sub": A_AND_SCOPE,
    "v1sharded": [
        ("a", [2, 3]),
        ("p", [10, 4]),
        ("scope1/a", [2, 3]),
        ("scope1/b", [3]),
    ],
}
STATE_DECISIONS: dict[str, Any] = {
    "state_with_index_suffix": A_AND_SCOPE,
}


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    shutil.copytree(HERE / "fixtures", tmp_path / "fixtures")
    return tmp_path / "fixtures"


def check_listing(path: str, seen: dict[str, Any], decision: Any) -> None:
    if isinstance(decision, type):
        with pytest.raises(decision):
            tf2flax.list_variables(path)
    elif decision is not None or "returns" in seen:
        expected = decision or [(name, shape) for name, shape in seen["returns"]]
        assert tf2flax.list_variables(path) == expected
    else:
        with pytest.raises(tf2flax.CheckpointError):
            tf2flax.list_variables(path)


@pytest.mark.parametrize("path", [p for p in SEEN["paths"] if p])
def test_paths(path: str, root: pathlib.Path) -> None:
    seen = SEEN["paths"][path]
    full = f"{root}/{path}"
    if "list_variables" in seen:  # else what tf2flax does is tested elsewhere
        check_listing(full, seen["list_variables"], DECISIONS.get(path))
    # Where the parent directory is missing, TF 1.15 fails and 2.x says no; so do we.
    # A doubled slash is a slash.
    exists = seen["checkpoint_exists"].get("returns", False) or "//" in path
    assert tf2flax.checkpoint_exists(full) == exists
    latest = seen["latest_checkpoint"]["returns"]
    expected = latest and latest.replace("{root}", str(root))
    assert tf2flax.latest_checkpoint(full) == expected


def test_no_path_at_all() -> None:
    with pytest.raises(tf2flax.CheckpointNotFoundError):
        tf2flax.list_variables("")
    assert not tf2flax.checkpoint_exists("")
    for path in (None, 3, ["a"]):
        with pytest.raises(tf2flax.UnsupportedError, match="Expected the path"):
            tf2flax.list_variables(path)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("case", list(SEEN["state_files"]))
def test_state_files(case: str, root: pathlib.Path) -> None:
    seen = SEEN["state_files"][case]
    file = root / seen["file"]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(seen["text"].replace("{root}", str(root)).encode())
    directory = str(file.parent)
    check_listing(directory, seen["list_variables"], STATE_DECISIONS.get(case))
    latest = seen["latest_checkpoint"]
    if "error" in latest and latest["error"]["type"] == "ValueError":
        with pytest.raises(tf2flax.CheckpointNotFoundError):
            tf2flax.latest_checkpoint(directory)
    else:
        expected = latest.get("returns")
        expected = expected and expected.replace("{root}", str(root))
        assert tf2flax.latest_checkpoint(directory) == expected


def test_relative_directories(
    root: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root / "run")
    assert tf2flax.latest_checkpoint(".") == "./model.ckpt-5"
    assert tf2flax.list_variables(".") == A_AND_SCOPE
    assert tf2flax.list_variables("model.ckpt-0") == A_AND_SCOPE
    monkeypatch.chdir(root)
    assert tf2flax.latest_checkpoint("run") == "run/model.ckpt-5"
    assert tf2flax.latest_checkpoint("run/") == "run/model.ckpt-5"
    assert tf2flax.latest_checkpoint(b"run") == "run/model.ckpt-5"


@pytest.mark.parametrize("name", list(SEEN["fixtures"]))
def test_fixtures_list_and_load_alike(name: str, root: pathlib.Path) -> None:
    seen = SEEN["fixtures"][name]
    path = seen["path"].replace("{root}", str(root))
    expected = [(n, shape) for n, shape in seen["list_variables"]["returns"]]
    assert tf2flax.list_variables(path) == expected
    assert len(seen["load_variable"]) > 0
    for tensor, outcome in seen["load_variable"].items():
        if "error" in outcome and "Sliced checkpoints" in str(outcome):
            # TensorFlow cannot load slices of V1 at once, though it restores them.
            assert tf2flax.load_variable(path, tensor).size > 0
            continue
        if "error" in outcome:
            with pytest.raises(tf2flax.TensorNotFoundError):
                tf2flax.load_variable(path, tensor)
            continue
        want = outcome["returns"]
        got = tf2flax.load_variable(path, tensor)
        if want["python_type"] in ("bytes", "str"):
            assert type(got) is bytes
            continue
        assert type(got).__name__ == want["python_type"]
        assert got.dtype.name == want["numpy_dtype"]
        assert list(got.shape) == want["shape"]
        assert got.size == want["n"]
        if want.get("first_values") and got.dtype.kind in "fiu":
            first = np.asarray(got, np.float64).ravel()[: len(want["first_values"])]
            assert first.tolist() == want["first_values"]
