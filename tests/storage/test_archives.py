"""Checkpoints inside zip archives, of this machine and of servers: nothing unpacked."""

from __future__ import annotations

import importlib.metadata
import pathlib
import zipfile

import numpy as np
import pytest
from http_server import serving

import tf2flax

NAME = "bert/pooler/dense/kernel"
TENSORSTORE = tuple(map(int, importlib.metadata.version("tensorstore").split(".")[:3]))


@pytest.fixture(params=[zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def archive(
    request: pytest.FixtureRequest, data: pathlib.Path, tmp_path: pathlib.Path
) -> pathlib.Path:
    path = tmp_path / "bert.zip"
    with zipfile.ZipFile(path, "w", request.param) as archive:
        for file in sorted((data / "bert").glob("*ckpt*")):
            archive.write(file, f"dir/{file.name}")
        archive.write(data / "bert/checkpoint", "dir/checkpoint")
    return path


def check(url: str, data: pathlib.Path) -> None:
    inside = tf2flax.open_checkpoint(url)
    beside = tf2flax.open_checkpoint(data / "bert/model.ckpt")
    assert list(inside) == list(beside)
    want = beside.read()
    for name, array in inside.read().items():
        assert np.array_equal(array, want[name]), name
    assert np.array_equal(inside[NAME][3:5, :2], want[NAME][3:5, :2])
    assert not inside.verify().damaged
    tree = tf2flax.init_from_checkpoint(
        inside, {NAME: "kernel"}, {"kernel": np.zeros((32, 32), "float32")}
    )
    assert np.array_equal(tree["kernel"], want[NAME])


@pytest.mark.parametrize("inside", ["dir/model.ckpt", "dir/"])
def test_an_archive_of_this_machine(
    archive: pathlib.Path, data: pathlib.Path, inside: str
) -> None:
    check(f"file://{archive}|zip:{inside}", data)


def test_an_archive_of_a_server(archive: pathlib.Path, data: pathlib.Path) -> None:
    with serving({"/models/bert.zip": archive.read_bytes()}) as served:
        check(f"{served.url}/models/bert.zip|zip:dir/model.ckpt", data)


@pytest.mark.skipif(
    TENSORSTORE < (0, 1, 85), reason="older ones read a member from its beginning"
)
def test_of_a_stored_archive_only_what_is_needed_is_read(
    tmp_path: pathlib.Path,
) -> None:
    large, small = np.arange(1 << 20, dtype="<f4"), np.arange(8, dtype="<f4")
    prefix = tf2flax.save_checkpoint(tmp_path / "m", {"a": large, "b": small})
    with zipfile.ZipFile(tmp_path / "m.zip", "w", zipfile.ZIP_STORED) as archive:
        for file in tmp_path.glob("m.*-*"):
            archive.write(file, file.name)
        archive.write(f"{prefix}.index", "m.index")
    with serving({"/m.zip": (tmp_path / "m.zip").read_bytes()}) as served:
        checkpoint = tf2flax.open_checkpoint(f"{served.url}/m.zip|zip:m")
        served.nbytes = 0
        assert np.array_equal(checkpoint["b"].read(), small)
    # The archive's directory is looked up in its last 64 KiB.
    assert served.nbytes < 256 << 10 < large.nbytes


def test_a_name_that_the_archive_lacks(archive: pathlib.Path) -> None:
    with pytest.raises(tf2flax.CheckpointNotFoundError, match=r"dir/model.ckpt`\?"):
        tf2flax.open_checkpoint(f"file://{archive}|zip:dir/mod.ckpt")


def test_a_flipped_bit_is_found(archive: pathlib.Path) -> None:
    contents = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as opened:
        info = opened.getinfo("dir/model.ckpt.data-00000-of-00001")
    # In the middle of the member, which begins a header after this.
    contents[info.header_offset + info.compress_size // 2] ^= 1
    archive.write_bytes(contents)
    with pytest.raises((tf2flax.DamagedError, tf2flax.ReadError)):
        tf2flax.open_checkpoint(f"file://{archive}|zip:dir/model.ckpt").read()
