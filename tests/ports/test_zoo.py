"""Checkpoints that TensorFlow 1.15 wrote, against what its own reader gave for them."""

from __future__ import annotations

import base64
import hashlib
import json
import pathlib
from typing import Any

import numpy as np
import pytest

import tf2flax


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def check_strings(name: str, array: np.ndarray, truth: dict[str, Any]) -> None:
    assert list(array.shape) == truth["shape"], name
    flat = array.ravel().tolist()
    assert len(flat) == len(truth["values"]), name
    for element, want in zip(flat, truth["values"], strict=True):
        if "b64" in want:
            assert element == base64.b64decode(want["b64"]), name
        else:
            assert len(element) == want["len"], name
            assert digest(element) == want["sha256"], name


@pytest.mark.parametrize(
    ("folder", "count"), [("bert", 139), ("wide_deep_partitioned", 33), ("dtypes", 76)]
)
def test_digests(data: pathlib.Path, folder: str, count: int) -> None:
    truth = json.loads((data / folder / "vars.json").read_text())
    checkpoint = tf2flax.open_checkpoint(data / folder / "model.ckpt")
    assert list(checkpoint) == sorted(truth)
    assert len(truth) == count
    digests = 0
    for name, array in checkpoint.read().items():
        assert list(array.shape) == truth[name]["shape"], name
        if array.dtype != object and "sha256" in truth[name]:
            assert digest(array.tobytes()) == truth[name]["sha256"], name
            digests += 1
    assert digests > count // 2


def test_every_dtype_that_saver_writes(data: pathlib.Path) -> None:
    oracle = np.load(data / "dtypes" / "oracle.npz")
    strings = json.loads((data / "dtypes" / "strings.json").read_text())
    checkpoint = tf2flax.open_checkpoint(data / "dtypes" / "model.ckpt")
    arrays = checkpoint.read()
    assert set(arrays) == {n.replace("|", "/") for n in oracle} | set(strings)
    for key in oracle:
        array, want = arrays[key.replace("|", "/")], oracle[key]
        assert array.shape == want.shape, key
        assert array.tobytes() == want.tobytes(), key
    for name, truth in strings.items():
        check_strings(name, arrays[name], truth)


@pytest.mark.parametrize("kind", ["plain", "sliced"])
def test_names(data: pathlib.Path, kind: str) -> None:
    oracle = np.load(data / "names" / "oracle.npz")
    names = json.loads((data / "names" / "names.json").read_text())[kind]
    suffix = "" if kind == "plain" else "-sliced"
    checkpoint = tf2flax.open_checkpoint(data / "names" / f"model.ckpt{suffix}")
    assert list(checkpoint) == sorted(names)
    assert len(names) >= 10
    for name, key in names.items():
        assert name in checkpoint
        array = checkpoint[name].read()
        assert array.shape == oracle[key].shape, name
        assert array.tobytes() == oracle[key].tobytes(), name


def test_data_files(data: pathlib.Path) -> None:
    oracle = np.load(data / "sharded" / "oracle.npz")
    seen = 0
    for prefix in ("model.ckpt", "ps.ckpt", "merged.ckpt", "merged7.ckpt"):
        checkpoint = tf2flax.open_checkpoint(data / "sharded" / prefix)
        for name, array in checkpoint.read().items():
            if array.dtype == object:
                assert array.ravel().tolist() == [b"alpha", b"", "β".encode()]
                continue
            want = oracle[f"{prefix}:{name.replace('/', '|')}"]
            assert array.tobytes() == want.tobytes(), name
            seen += 1
    assert seen == len(oracle.files)


def test_a_state_file_of_another_machine_is_quoted(data: pathlib.Path) -> None:
    with pytest.raises(tf2flax.CheckpointNotFoundError) as caught:
        tf2flax.open_checkpoint(data / "sharded")
    assert "/data/train" in str(caught.value)
    assert f"Did you mean the prefix `{data}/sharded/ps.ckpt`?" in str(caught.value)


def test_20_000_variables(data: pathlib.Path) -> None:
    truth = json.loads((data / "many_vars" / "truth.json").read_text())
    arrays = tf2flax.open_checkpoint(data / "many_vars" / "model.ckpt").read()
    assert len(arrays) == truth["count"]
    hashed = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        label = f"{name}\0{array.dtype.name}\0{array.shape!r}\0"
        hashed.update(label.encode() + array.tobytes())
    assert hashed.hexdigest() == truth["sha256_of_sorted_name_dtype_shape_bytes"]
