"""Where the system has no `os.preadv`, the same values come by `os.pread`."""

from __future__ import annotations

import os
import pathlib
import shutil

import numpy as np
import pytest
import safetensors.numpy

import tf2flax
from tf2flax._storage import local


@pytest.fixture(autouse=True)
def _without_preadv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "preadv")
    # So few at a time that every tensor takes several reads (bytes).
    monkeypatch.setattr(local, "_MAX_COPY_NBYTES", 100)


def test_the_fallback_is_used(
    data: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []
    pread = os.pread

    def counted(descriptor: int, length: int, offset: int) -> bytes:
        lengths.append(length)
        return pread(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", counted)
    kernel = tf2flax.load_variable(data / "bert", "bert/pooler/dense/kernel")
    assert sum(lengths) >= kernel.nbytes
    assert max(lengths) <= 100


def test_bundles(data: pathlib.Path) -> None:
    checkpoint = tf2flax.open_checkpoint(data / "bert/model.ckpt")
    assert not checkpoint.verify().damaged
    recorded = np.load(data / "wide_deep_partitioned/oracle.npz")
    name = (
        "dnn/input_from_feature_columns/input_layer/colour_embedding/embedding_weights"
    )
    table = tf2flax.open_checkpoint(data / "wide_deep_partitioned")[name]
    ids = recorded["ids_colour"]
    assert np.array_equal(table.read()[ids], recorded["emb_div"])
    assert np.array_equal(table[3:5], table.read()[3:5])


def test_restores(data: pathlib.Path) -> None:
    checkpoint = tf2flax.open_checkpoint(data / "bert/model.ckpt")
    target = {"kernel": np.zeros((32, 32), "float32"), "bias": np.zeros(32, "float32")}
    tree = tf2flax.init_from_checkpoint(checkpoint, {"bert/pooler/dense/": "/"}, target)
    for leaf in target:
        stored = checkpoint.read([f"bert/pooler/dense/{leaf}"])
        assert np.array_equal(tree[leaf], *stored.values())


def test_keras_files(data: pathlib.Path) -> None:
    path = data / "keras/keras3_model.h5"
    arrays = tf2flax.open_checkpoint(path).read()
    recorded = np.load(f"{path}.npz")
    assert recorded.files
    for name in recorded.files:
        stored = arrays[name.replace("|", "/")]
        assert np.array_equal(stored, recorded[name])


def test_a_file_that_is_too_short(data: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for path in (data / "bert").glob("model.ckpt*"):
        shutil.copy(path, tmp_path)
    with (tmp_path / "model.ckpt.data-00000-of-00001").open("r+b") as file:
        file.truncate(100_000)
    checkpoint = tf2flax.open_checkpoint(tmp_path / "model.ckpt")
    with pytest.raises(tf2flax.DamagedError, match="Copy the file again"):
        checkpoint.read()


def test_converting_without_fdatasync_either(
    data: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """macOS has `os.fsync` alone."""
    monkeypatch.setattr("tf2flax._export.outputs._SYNC_NBYTES", 1)
    monkeypatch.delattr(os, "fdatasync")
    out = tmp_path / "bert.safetensors"
    report = tf2flax.convert(data / "bert", out, slots=False)
    read = safetensors.numpy.load_file(out)
    assert read.keys() == {*report.written}
    for name, array in tf2flax.open_checkpoint(data / "bert").read(read).items():
        assert np.array_equal(read[name], array), name
