"""Keras archives and the bytes in them, as far as no HDF5 is needed."""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import struct
import sys
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from repository import DATA

import tf2flax
from tf2flax._base.errors import MalformedError
from tf2flax._base.values import ByteRange
from tf2flax._formats.keras.archive import MEMBER, checksum_damage, weights_in
from tf2flax._formats.keras.file import MAX_EXPANSION, KerasFile
from tf2flax._formats.keras.hdf5 import Hdf5Manifest

REFUSALS = (tf2flax.DamagedError, tf2flax.UnsupportedError)
WEIGHTS = b"\x89HDF\r\n\x1a\n" + bytes(range(256)) * 9


def archive(
    contents: bytes = WEIGHTS,
    *,
    name: str = MEMBER,
    method: int = zipfile.ZIP_STORED,
) -> bytearray:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as file:
        file.writestr("metadata.json", "{}")
        file.writestr(name, contents)
    return bytearray(out.getvalue())


def bytes_of(file: KerasFile) -> bytes:
    window = file.open()
    try:
        return window.slice(0, window.nbytes)
    finally:
        window.close()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_archive_gives_its_member(method: int, tmp_path: pathlib.Path) -> None:
    contents = bytes(archive(method=method))
    path = tmp_path / "any name"
    path.write_bytes(contents)
    for file in (weights_in(str(path), None), weights_in("elsewhere", contents)):
        assert bytes_of(file) == WEIGHTS
        assert checksum_damage(file) is None


def test_a_stored_member_is_read_in_place() -> None:
    contents = bytes(archive())
    file = weights_in("m.keras", contents)
    assert file.contents is contents
    start = contents.index(WEIGHTS)
    assert file.span == ByteRange(start, start + len(WEIGHTS))
    assert file.crc32 == zlib.crc32(WEIGHTS)


def test_a_changed_byte_shows_in_the_checksum() -> None:
    contents = archive()
    contents[contents.index(WEIGHTS) + 100] ^= 1
    message = checksum_damage(weights_in("m.keras", bytes(contents)))
    assert message is not None
    assert f"stored crc32 {zlib.crc32(WEIGHTS):08x}" in message
    assert "m.keras" in message


def test_a_changed_byte_of_a_compressed_member_is_refused() -> None:
    clean = archive(method=zipfile.ZIP_DEFLATED)
    start = clean.index(MEMBER.encode()) + len(MEMBER)
    for position in range(start, start + 200):
        contents = bytearray(clean)
        contents[position] ^= 1
        with pytest.raises(tf2flax.DamagedError):
            weights_in("m.keras", bytes(contents))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_every_cut_of_an_archive_is_refused(method: int) -> None:
    contents = bytes(archive(WEIGHTS[:300], method=method))
    for stop in range(4, len(contents)):
        with pytest.raises(tf2flax.DamagedError):
            weights_in("m.keras", contents[:stop])


@given(flips=st.dictionaries(st.integers(0, 10**6), st.integers(1, 255), max_size=4))
def test_any_archive_is_read_or_refused(flips: dict[int, int]) -> None:
    contents = archive(WEIGHTS[:100], method=zipfile.ZIP_DEFLATED)
    for position, mask in flips.items():
        contents[position % len(contents)] ^= mask
    with contextlib.suppress(*REFUSALS):
        bytes_of(weights_in("m.keras", bytes(contents)))


def test_an_archive_without_weights_names_what_it_holds() -> None:
    for name in ("model.npz", "../model.weights.h5", "/model.weights.h5"):
        with pytest.raises(tf2flax.UnsupportedError) as caught:
            weights_in("m.zip", bytes(archive(name=name)))
        assert f"`{name}`" in str(caught.value)


def test_a_member_that_is_there_twice_is_refused() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr(MEMBER, WEIGHTS)
        with pytest.warns(UserWarning, match="Duplicate name"):
            file.writestr(MEMBER, b"other")
    with pytest.raises(tf2flax.DamagedError, match="2 times"):
        weights_in("m.keras", out.getvalue())


def test_an_encrypted_member_is_refused() -> None:
    contents = archive()
    contents[contents.rindex(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(tf2flax.UnsupportedError, match="is encrypted"):
        weights_in("m.keras", bytes(contents))


def test_other_compressions_are_refused() -> None:
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with pytest.raises(tf2flax.UnsupportedError, match=f"method {method}"):
            weights_in("m.keras", bytes(archive(method=method)))


def with_sizes(contents: bytearray, *, stored: int, announced: int) -> bytes:
    """Changes what the index of the archive says of its last member."""
    struct.pack_into(
        "<II", contents, contents.rindex(b"PK\x01\x02") + 20, stored, announced
    )
    return bytes(contents)


def test_a_zip_bomb_is_refused_before_it_is_unpacked() -> None:
    contents = archive(bytes(1 << 20), method=zipfile.ZIP_DEFLATED)
    stored = struct.unpack_from("<I", contents, contents.rindex(b"PK\x01\x02") + 20)[0]
    announced = stored * MAX_EXPANSION + 1
    with pytest.raises(tf2flax.DamagedError, match=f"announces {announced} bytes"):
        weights_in("m.keras", with_sizes(contents, stored=stored, announced=announced))


def test_a_member_larger_or_smaller_than_announced_is_refused() -> None:
    for announced in (1 << 20) - 1, (1 << 20) + 1, 10:
        contents = archive(bytes(1 << 20), method=zipfile.ZIP_DEFLATED)
        at = contents.rindex(b"PK\x01\x02") + 20
        stored = struct.unpack_from("<I", contents, at)[0]
        with pytest.raises(tf2flax.DamagedError, match="the size that it announces"):
            weights_in(
                "m.keras", with_sizes(contents, stored=stored, announced=announced)
            )


def test_a_stored_member_announces_what_it_stores() -> None:
    contents = with_sizes(archive(), stored=len(WEIGHTS), announced=2 * len(WEIGHTS))
    with pytest.raises(tf2flax.DamagedError, match="announces"):
        weights_in("m.keras", contents)


def test_a_member_must_lie_where_the_index_says() -> None:
    contents = archive()
    struct.pack_into("<I", contents, contents.rindex(b"PK\x01\x02") + 42, 7)
    with pytest.raises(tf2flax.DamagedError, match="does not lie where"):
        weights_in("m.keras", bytes(contents))


@pytest.mark.parametrize("nbytes", [512, 1024, 4096])
def test_bytes_before_hdf5_are_left_out(nbytes: int) -> None:
    contents = b"\x01" * nbytes + WEIGHTS
    assert bytes_of(weights_in("m.h5", contents)) == WEIGHTS


def test_a_window_gives_no_more_than_there_is() -> None:
    window = KerasFile("m.h5", b"0123456789", ByteRange(2, 8)).open()
    buffer = bytearray(4)
    window.fill(2, memoryview(buffer))
    assert buffer == b"4567"
    for start in (3, 6, 2**62):
        with pytest.raises(MalformedError):
            window.fill(start, memoryview(buffer))
    with pytest.raises(MalformedError):
        window.slice(0, 1 << 60)


def test_an_exact_window_never_gives_less() -> None:
    window = KerasFile("m.h5", b"0123456789", ByteRange(2, 8)).open(is_exact=True)
    window.seek(3)
    with pytest.raises(EOFError):
        window.readinto(bytearray(4))


def test_missing_and_short_files_are_damaged(tmp_path: pathlib.Path) -> None:
    with pytest.raises(tf2flax.DamagedError, match="is missing"):
        KerasFile(str(tmp_path / "none.h5")).open()
    path = tmp_path / "m.h5"
    path.write_bytes(b"12345")
    with pytest.raises(tf2flax.DamagedError, match="5 bytes, 3 are missing"):
        KerasFile(str(path), span=ByteRange(0, 8)).open()


def test_a_directory_is_a_read_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(tf2flax.ReadError, match="Cannot read"):
        weights_in(str(tmp_path), None)


def test_a_pipe_does_not_hang(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "m.h5")
    with pytest.raises(tf2flax.CheckpointError):  # also that h5py is not installed
        Hdf5Manifest(str(tmp_path / "m.h5"))


def test_without_h5py_the_error_has_the_pip_line(
    data: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(tf2flax.UnsupportedError) as caught:
        Hdf5Manifest(str(data / "tf2_object" / "model.keras"))
    assert "pip install 'tf2flax[keras]'" in str(caught.value)


def test_a_member_before_the_beginning_is_refused() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr(MEMBER, WEIGHTS)
    contents = bytearray(out.getvalue())
    at = contents.rindex(b"PK\x05\x06") + 16  # where the index begins
    start = struct.unpack_from("<I", contents, at)[0]
    struct.pack_into("<I", contents, at, start + 20)
    with pytest.raises(tf2flax.DamagedError):
        weights_in("m.keras", bytes(contents))


def test_a_member_has_the_name_that_the_index_gives() -> None:
    contents = archive()
    at = contents.index(MEMBER.encode())
    contents[at : at + 5] = b"other"
    with pytest.raises(tf2flax.DamagedError, match="does not lie where"):
        weights_in("m.keras", bytes(contents))


def test_a_member_beyond_the_end_is_refused() -> None:
    contents = with_sizes(archive(), stored=1 << 20, announced=1 << 20)
    with pytest.raises(tf2flax.DamagedError, match="bytes short"):
        weights_in("m.keras", contents)


def test_the_names_that_keras_shows() -> None:
    pytest.importorskip("h5py")
    path = DATA / "tf1_keras" / "keras.weights.h5"
    checkpoint = tf2flax.open_checkpoint(path)
    values = np.load(path.with_name("keras_weights.npz"))
    assert len(values) == len(checkpoint)
    for key in values:
        name = key.replace("|", "/")
        assert name.endswith(":0")
        assert name in checkpoint
        assert checkpoint[name].read().tobytes() == values[key].tobytes()
        assert name.removesuffix(":0") in list(checkpoint)
