"""Checkpoints inside zip archives, of this machine and of servers."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import pathlib
import pickle
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile

import numpy as np
import pytest
from http_server import serving

import tf2flax
from tf2flax._storage.zip_table import read_table

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


@pytest.mark.parametrize("inside", ["dir/model.ckpt", "dir/"])
def test_an_archive_that_is_not_there(tmp_path: pathlib.Path, inside: str) -> None:
    path = f"{tmp_path}/bert.zip"
    for url in (f"file://{path}|zip:{inside}", f"{path}|zip:{inside}"):
        assert not tf2flax.checkpoint_exists(url)
        with pytest.raises(tf2flax.CheckpointNotFoundError) as caught:
            tf2flax.open_checkpoint(url)
        assert re.search(rf"there is no archive `\S*{path}`\. Give", str(caught.value))
    with (
        serving({}) as served,
        pytest.raises(tf2flax.CheckpointNotFoundError, match=r"archive `\S*/m\.zip`"),
    ):
        tf2flax.open_checkpoint(f"{served.url}/m.zip|zip:{inside}")


class Pipe(io.BytesIO):
    """A file in which nothing can be found again."""

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        raise OSError


def encrypted(contents: bytes) -> bytes:
    """An archive of which members say that they need a password."""
    flagged = bytearray(contents)
    for magic, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        for found in re.finditer(magic, contents):
            flagged[found.start() + flags] |= 1
    return bytes(flagged)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("obstacle", ["encrypted", "LZMA", "a data descriptor"])
def test_members_that_are_not_read(
    method: int, obstacle: str, tmp_path: pathlib.Path
) -> None:
    method = zipfile.ZIP_LZMA if obstacle == "LZMA" else method
    out = Pipe() if "descriptor" in obstacle else io.BytesIO()
    tf2flax.save_checkpoint(tmp_path / "m", {"a": np.arange(9.0)})
    with zipfile.ZipFile(out, "w", method) as archive:
        for file in tmp_path.glob("m.*"):
            archive.writestr(f"dir/{file.name}", file.read_bytes())
    contents = out.getvalue()
    contents = encrypted(contents) if obstacle == "encrypted" else contents
    path = tmp_path / "a b.zip"
    path.write_bytes(contents)
    url = f"file://{path}|zip:dir/m".replace(" ", "%20")
    for given in (url, path, f"{url.removesuffix('m')}"):
        with pytest.raises(
            tf2flax.UnsupportedError, match=f"is .*{obstacle}"
        ) as caught:
            tf2flax.open_checkpoint(given)
        (command,) = re.findall(
            r"Unpack it, `(.*?)`, and give `dir/", str(caught.value)
        )
        program = "unzip" if obstacle == "encrypted" else "python -m zipfile -e"
        assert command.startswith(f"{program} '{path}'")
    if program != "unzip":
        arguments = [sys.executable, *shlex.split(command)[1:]]
        subprocess.run(arguments, check=True, cwd=tmp_path)
        assert np.array_equal(
            tf2flax.open_checkpoint(tmp_path / "dir/m")["a"][:], range(9)
        )


def test_a_flipped_bit_is_found(archive: pathlib.Path) -> None:
    contents = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as opened:
        info = opened.getinfo("dir/model.ckpt.data-00000-of-00001")
    # In the middle of the member, which begins a header after this.
    contents[info.header_offset + info.compress_size // 2] ^= 1
    archive.write_bytes(contents)
    with pytest.raises((tf2flax.DamagedError, tf2flax.ReadError)):
        tf2flax.open_checkpoint(f"file://{archive}|zip:dir/model.ckpt").read()


TENSORS = {f"t{i}": np.arange(i, 1 << 20, 1 << 5, dtype="<f4") for i in range(6)}


def packed(
    folder: pathlib.Path, method: int = zipfile.ZIP_DEFLATED, name: str = "m"
) -> pathlib.Path:
    """An archive of 768 KiB of tensors, which is smaller if it is compressed."""
    (folder / "files").mkdir(exist_ok=True)
    tf2flax.save_checkpoint(folder / "files" / name, TENSORS)
    with zipfile.ZipFile(folder / "m.zip", "w", method) as archive:
        for file in (folder / "files").glob(f"{name}.*"):
            archive.write(file, f"dir/{file.name}")
    return folder / "m.zip"


def same(checkpoint: tf2flax.Checkpoint) -> None:
    arrays = checkpoint.read()
    assert list(arrays) == list(TENSORS)
    assert all(np.array_equal(arrays[name], TENSORS[name]) for name in TENSORS)


def test_a_compressed_member_is_downloaded_and_uncompressed_once(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often, and in whichever order, some of it is read."""
    monkeypatch.setattr("tf2flax._storage.archives._BLOCK_NBYTES", 100_000)
    contents = packed(tmp_path).read_bytes()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "room"))
    (tmp_path / "room").mkdir()
    with serving({"/m.zip": contents}) as served:
        checkpoint = tf2flax.open_checkpoint(f"{served.url}/m.zip|zip:dir/m")
        list(checkpoint)
        assert served.nbytes < 256 << 10  # nothing but the index
        served.nbytes = 0
        for name in reversed(TENSORS):
            view = checkpoint[name].open()
            assert np.array_equal(view[100:200].read().result(), TENSORS[name][100:200])
            assert np.array_equal(checkpoint[name][5:9], TENSORS[name][5:9])
        same(checkpoint)
        assert checkpoint.verify().ok
        assert served.nbytes < len(contents) + (256 << 10)
        # A copy in another process has an archive of its own.
        same(pickle.loads(pickle.dumps(checkpoint)))
    assert [*(tmp_path / "room").iterdir()] == []  # it has no name


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_STORED])
def test_other_members_are_left_to_tensorstore(
    method: int, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = packed(tmp_path, method)
    monkeypatch.setattr(tempfile, "gettempdir", None)  # never asked for
    same(tf2flax.open_checkpoint(f"file://{path}|zip:dir/m"))


def test_numbers_of_eight_bytes(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of archives of more than 4 GB: here zipfile is made to think that it is one."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1 << 10)
    path = packed(tmp_path)
    members = read_table(path.read_bytes())
    assert members is not None
    with zipfile.ZipFile(path) as archive:
        for info, member in zip(archive.infolist(), members, strict=True):
            assert (member.name, member.crc32) == (info.filename, info.CRC)
            assert member.nbytes == info.file_size
            assert member.packed_nbytes == info.compress_size
            assert member.offset == info.header_offset
    same(tf2flax.open_checkpoint(f"file://{path}|zip:dir/m"))


def test_a_table_longer_than_the_first_look(tmp_path: pathlib.Path) -> None:
    path = packed(tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        for number in range(700):
            archive.writestr(f"a_long_name_of_another_file_{number}", b"")
    same(tf2flax.open_checkpoint(f"file://{path}|zip:dir/m"))


def test_no_room_to_uncompress(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"file://{packed(tmp_path)}|zip:dir/m"
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    checkpoint = tf2flax.open_checkpoint(url)
    with pytest.raises(tf2flax.UnsupportedError, match=r"786 kB in .* Set TMPDIR"):
        checkpoint.read()
    monkeypatch.undo()
    same(checkpoint)


@pytest.mark.parametrize("place", ["bytes", "checksum", "size"])
def test_damage_in_compressed_members(place: str, tmp_path: pathlib.Path) -> None:
    path = packed(tmp_path)
    contents = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("dir/m.data-00000-of-00001")
    row = contents.rindex(b"PK\x01\x02", 0, contents.rindex(info.filename.encode()))
    contents[
        {
            "bytes": info.header_offset + info.compress_size // 2,
            "checksum": row + 16,
            "size": row + 24,
        }[place]
    ] ^= 1
    path.write_bytes(contents)
    checkpoint = tf2flax.open_checkpoint(f"file://{path}|zip:dir/m")
    for _ in range(2):  # it is remembered
        with pytest.raises(tf2flax.DamagedError, match=r"`t0` cannot .*again\.$"):
            checkpoint["t0"].read()
    assert len(checkpoint.verify().damaged) == len(TENSORS)


def test_a_compressed_member_that_is_too_short(tmp_path: pathlib.Path) -> None:
    path = packed(tmp_path)
    data = next((tmp_path / "files").glob("*.data-*"))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "files/m.index", "dir/m.index")
        archive.writestr(f"dir/{data.name}", data.read_bytes()[:-8])
    checkpoint = tf2flax.open_checkpoint(f"file://{path}|zip:dir/m")
    with pytest.raises(tf2flax.DamagedError, match="8 are missing"):
        checkpoint["t5"].read()
    assert np.array_equal(checkpoint["t0"].read(), TENSORS["t0"])


def test_every_byte_that_is_damaged(tmp_path: pathlib.Path) -> None:
    """The values, or one of our errors; tensorstore's own say other things."""
    prefix = tf2flax.save_checkpoint(tmp_path / "m", {"a": np.arange(9.0)})
    path = tmp_path / "m.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(f"{prefix}.index", "m.index")
        archive.write(f"{prefix}.data-00000-of-00001", "m.data-00000-of-00001")
    contents = path.read_bytes()
    for place in range(len(contents)):
        damaged = bytearray(contents)
        damaged[place] = 0
        path.write_bytes(damaged)
        with contextlib.suppress(tf2flax.CheckpointError):
            read = tf2flax.open_checkpoint(f"file://{path}|zip:m")["a"].read()
            assert np.array_equal(read, np.arange(9.0))


def test_no_folder_to_uncompress_in(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", refuse)
    checkpoint = tf2flax.open_checkpoint(f"file://{packed(tmp_path)}|zip:dir/m")
    with pytest.raises(tf2flax.ReadError, match="Cannot write `TMPDIR`: No usable"):
        checkpoint.read()
