"""Broken checkpoints raise DamagedError or UnsupportedError, at the stated moment."""

from __future__ import annotations

import itertools
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from bundle_writer import (
    Tensor,
    entry_bytes,
    field,
    header_bytes,
    masked,
    rows_in,
    slice_key,
    write_bundle,
)
from hypothesis import given
from hypothesis import strategies as st

import tf2flax
from tf2flax._base.errors import MalformedError
from tf2flax._base.values import Box
from tf2flax._formats.checks import check_tiling

REFUSALS = (tf2flax.DamagedError, tf2flax.UnsupportedError)
ARRAY = np.arange(12, dtype=np.float32).reshape(4, 3)
DATA_NAME = "m.data-00000-of-00001"


@pytest.fixture
def prefix(tmp_path: pathlib.Path) -> pathlib.Path:
    write_bundle(tmp_path / "m", {"a": ARRAY, "b": ARRAY + 1})
    return tmp_path / "m"


def test_a_flipped_byte_names_tensor_file_offset_and_both_checksums(
    prefix: pathlib.Path,
) -> None:
    path = prefix.parent / DATA_NAME
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    path.write_bytes(bytes(data))
    checkpoint = tf2flax.open_checkpoint(prefix)
    checkpoint["a"].read()
    for read in (checkpoint["b"].read, checkpoint.read):
        with pytest.raises(tf2flax.DamagedError) as caught:
            read()
        message = str(caught.value)
        assert "Tensor `b` is damaged" in message
        assert f"stored crc32c {masked((ARRAY + 1).tobytes()):08x}" in message
        assert f"computed {masked(bytes(data[48:])):08x}" in message
        assert f"`{path}`[48:96]" in message
    unchecked = checkpoint["b"].read(verify=False)
    assert unchecked.tobytes() == bytes(data[48:])
    assert checkpoint.read(verify=False)["b"].tobytes() == bytes(data[48:])


def test_truncated_data_says_how_long_it_is(prefix: pathlib.Path) -> None:
    path = prefix.parent / DATA_NAME
    path.write_bytes(path.read_bytes()[:60])
    checkpoint = tf2flax.open_checkpoint(prefix)
    checkpoint["a"].read()
    for read in (
        checkpoint["b"].read,
        checkpoint.read,
        lambda: checkpoint["b"][0],
        lambda: checkpoint["b"].open().read().result(),
    ):
        with pytest.raises(tf2flax.DamagedError, match="has only 60 bytes"):
            read()


def test_missing_data_shows_at_the_first_read(prefix: pathlib.Path) -> None:
    (prefix.parent / DATA_NAME).unlink()
    checkpoint = tf2flax.open_checkpoint(prefix)
    assert tf2flax.list_variables(prefix) == [("a", [4, 3]), ("b", [4, 3])]
    with pytest.raises(tf2flax.DamagedError, match="data file is missing"):
        checkpoint["a"].read()


def test_a_pipe_in_the_place_of_a_file_does_not_hang(prefix: pathlib.Path) -> None:
    path = prefix.parent / DATA_NAME
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(tf2flax.CheckpointError):
        tf2flax.open_checkpoint(prefix)["a"].read()
    path.unlink()
    path.mkdir()
    with pytest.raises(tf2flax.CheckpointError):
        tf2flax.open_checkpoint(prefix)["a"].read()
    os.mkfifo(prefix.parent / "checkpoint")
    assert tf2flax.latest_checkpoint(prefix.parent) is None


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.mark.parametrize(
    ("contents", "match"),
    [(POINTER, "git-LFS pointer.*git lfs pull"), (b"<!DOCTYPE HTML>", "an HTML page")],
)
def test_what_lies_there_instead(
    prefix: pathlib.Path, contents: bytes, match: str
) -> None:
    (prefix.parent / DATA_NAME).write_bytes(contents)
    with pytest.raises(tf2flax.DamagedError, match=match):
        tf2flax.open_checkpoint(prefix)["a"].read()
    pathlib.Path(f"{prefix}.index").write_bytes(contents)
    with pytest.raises(tf2flax.DamagedError, match=match):
        tf2flax.open_checkpoint(prefix)


def test_the_index_cut_at_every_byte(prefix: pathlib.Path) -> None:
    path = pathlib.Path(f"{prefix}.index")
    whole = path.read_bytes()
    for stop in range(len(whole)):
        path.write_bytes(whole[:stop])
        with pytest.raises(tf2flax.DamagedError):
            tf2flax.open_checkpoint(prefix)


@given(
    flips=st.lists(st.tuples(st.integers(0, 2**16), st.integers(1, 255)), min_size=1)
)
def test_flips_never_give_other_values(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]
) -> None:
    prefix = tmp_path_factory.mktemp("m") / "m"
    write_bundle(prefix, {"a": ARRAY, "s": Tensor(ARRAY, rows_in(ARRAY, 2))})
    for path in (pathlib.Path(f"{prefix}.index"), prefix.parent / DATA_NAME):
        whole = path.read_bytes()
        data = bytearray(whole)
        for position, value in flips:
            data[position % len(data)] ^= value
        path.write_bytes(bytes(data))
        try:
            arrays = tf2flax.open_checkpoint(prefix).read()
        except REFUSALS:
            pass
        else:
            assert all(array.tobytes() == ARRAY.tobytes() for array in arrays.values())
        path.write_bytes(whole)


def open_with(tmp_path: pathlib.Path, **changes: Any) -> tf2flax.Checkpoint:
    write_bundle(tmp_path / "m", {"a": ARRAY}, **changes)
    return tf2flax.open_checkpoint(tmp_path / "m")


@pytest.mark.parametrize(
    ("header", "error"),
    [
        (header_bytes(-1), tf2flax.DamagedError),
        (header_bytes(1, 2), tf2flax.DamagedError),
        (b"\xff\xff", tf2flax.DamagedError),
        (header_bytes(version=field(2, 2)), tf2flax.UnsupportedError),
        (header_bytes(version=field(3, b"\x01")), tf2flax.UnsupportedError),
    ],
)
def test_headers(tmp_path: pathlib.Path, header: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        open_with(tmp_path, header=header)


def test_a_table_without_header(tmp_path: pathlib.Path) -> None:
    from bundle_writer import table_bytes

    index = table_bytes([(b"a", entry_bytes(1, [3]))])
    (tmp_path / "m.index").write_bytes(index)
    with pytest.raises(tf2flax.DamagedError, match="expected a header"):
        tf2flax.open_checkpoint(tmp_path / "m")


@pytest.mark.parametrize("count", [0, 2**31 - 1])
def test_impossible_numbers_of_data_files(tmp_path: pathlib.Path, count: int) -> None:
    checkpoint = open_with(tmp_path, header=header_bytes(count))
    with pytest.raises(tf2flax.DamagedError):
        checkpoint["a"].read()


# What an entry says, and when that is found out; the dtype is float32 unless said.
ENTRIES: dict[str, Callable[[], bytes]] = {
    "shard_id negative": lambda: entry_bytes(1, [1], size=4, shard_id=-1),
    "shard_id too large": lambda: entry_bytes(1, [1], size=4, shard_id=1),
    "offset negative": lambda: entry_bytes(1, [1], size=4, offset=-4),
    "offset near 2^63": lambda: entry_bytes(1, [1], size=4, offset=2**63 - 1),
    "offset beyond the file": lambda: entry_bytes(1, [1], size=4, offset=2**40),
    "size negative": lambda: entry_bytes(1, [1], size=-4),
    "size too small": lambda: entry_bytes(1, [2], size=4),
    "size too large": lambda: entry_bytes(1, [1], size=8),
    "dimension negative": lambda: entry_bytes(1, [-1], size=4),
    "dimensions overflow": lambda: entry_bytes(1, [2**32, 2**32], size=4),
    "zero times overflow": lambda: entry_bytes(1, [0, 2**32, 2**32]),
    "overflow times zero": lambda: entry_bytes(1, [2**32, 2**32, 0]),
    "bytes overflow": lambda: entry_bytes(1, [2**62], size=4),
    "rank 300": lambda: entry_bytes(1, [1] * 300, size=4),
    "rank 100": lambda: entry_bytes(1, [1] * 100, size=4),
    "unknown rank": lambda: entry_bytes(1, [], unknown_rank=True, size=4),
    "dtype 0": lambda: entry_bytes(0, [1], size=4),
    "dtype 127": lambda: entry_bytes(127, [1], size=4),
    "dtype of a reference": lambda: entry_bytes(101, [1], size=4),
    "no message": lambda: b"\x0a\xff\xff",
    "2^30 strings": lambda: entry_bytes(7, [2**30], size=40),
    "2^62 strings": lambda: entry_bytes(7, [2**62], size=40),
    "slices of a scalar": lambda: entry_bytes(1, [], slices=[[(0, 1)]]),
    "slice not stored": lambda: entry_bytes(1, [4], slices=[[(0, 4)]]),
    "slice negative": lambda: entry_bytes(1, [4], slices=[[(-1, 2)]]),
    "slice beyond": lambda: entry_bytes(1, [4], slices=[[(3, 2)]]),
    "slice overflowing": lambda: entry_bytes(1, [4], slices=[[(2**63 - 1, 2**63 - 1)]]),
    "slice of another rank": lambda: entry_bytes(1, [4], slices=[[(0, 2), (0, 2)]]),
}


@pytest.mark.parametrize("what", list(ENTRIES))
def test_impossible_entries(tmp_path: pathlib.Path, what: str) -> None:
    checkpoint = open_with(tmp_path, extra={b"broken": ENTRIES[what]()})
    with pytest.raises(REFUSALS, match="`broken`"):
        checkpoint["broken"].read()
    with pytest.raises(REFUSALS, match="`broken`"):
        checkpoint["broken"].open()[...].read().result()
    assert checkpoint["a"].read().tolist() == ARRAY.tolist()


def test_a_plan_on_an_impossible_entry_is_damage(tmp_path: pathlib.Path) -> None:
    checkpoint = open_with(tmp_path, extra={b"broken": ENTRIES["size too small"]()})
    target = {"broken": np.zeros(2, np.float32)}
    for entries in ({"broken": "broken"}, {"/": "/"}):
        with pytest.raises(tf2flax.DamagedError, match="`broken`"):
            tf2flax.plan(checkpoint, entries, target)


def sliced(boxes: list[tuple[int, int]], **stored: Any) -> dict[bytes, bytes]:
    """Slices of rows `(start, length)` of a [4, 3] tensor, all over the same bytes."""
    extra = {
        b"broken": entry_bytes(1, [4, 3], slices=[[box, (0, -1)] for box in boxes])
    }
    for start, length in boxes:
        entry = {"code": 1, "dims": [length, 3], "size": 12 * length} | stored
        key = slice_key(b"broken", [(start, length), (0, -1)])
        extra[key] = entry_bytes(entry.pop("code"), entry.pop("dims"), **entry)
    return extra


SLICES = {
    "a hole": sliced([(0, 1), (2, 2)]),
    "a hole at the end": sliced([(0, 3)]),
    "an overlap": sliced([(0, 3), (1, 3)]),
    "an overlap that makes up for a hole": sliced([(0, 2), (1, 2)]),
    "the same slice twice": sliced([(0, 4), (0, 4)]),
    "a stored slice shorter than its spec": sliced([(0, 4)], dims=[3, 3], size=36),
    "a stored slice of another dtype": sliced([(0, 4)], code=3),
    "a stored slice with slices": sliced([(0, 4)], slices=[[(0, 4), (0, -1)]]),
}


@pytest.mark.parametrize("what", list(SLICES))
def test_impossible_slices(tmp_path: pathlib.Path, what: str) -> None:
    checkpoint = open_with(tmp_path, extra=SLICES[what])
    with pytest.raises(tf2flax.DamagedError, match="Tensor `broken` is damaged"):
        checkpoint["broken"]
    assert next(iter(checkpoint)) == "a"


boxes = st.lists(
    st.tuples(st.tuples(st.integers(0, 3), st.integers(0, 2)),
              st.tuples(st.integers(0, 3), st.integers(0, 2))),
    min_size=1, max_size=6,
)  # fmt: skip


@given(drawn=boxes)
def test_tiling_agrees_with_comparing_all_pairs(
    drawn: list[tuple[tuple[int, int], tuple[int, int]]],
) -> None:
    regions = [Box((a, c), (a + b, c + d)) for (a, b), (c, d) in drawn]
    pairs = itertools.combinations(regions, 2)
    overlap = any(a == b or a.intersection(b) for a, b in pairs)
    whole = Box((0,), (sum(region.size for region in regions),))
    try:
        check_tiling(regions, whole)
    except MalformedError:
        assert overlap
    else:
        assert not overlap


def test_slices_that_would_take_long_to_check(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tf2flax._formats import checks

    monkeypatch.setattr(checks, "MAX_COMPARISONS", 100)
    # A grid that is right, but has more neighbours than that.
    array = np.zeros((20, 20), np.float32)
    boxes = [(r[0], c[1]) for r in rows_in(array, 20) for c in rows_in(array, 20, 1)]
    write_bundle(tmp_path / "m", {"t": Tensor(array, boxes)})
    with pytest.raises(tf2flax.DamagedError, match="takes too long"):
        tf2flax.open_checkpoint(tmp_path / "m")["t"]
    monkeypatch.undo()
    assert tf2flax.open_checkpoint(tmp_path / "m")["t"].read().shape == (20, 20)


def test_permissions_are_a_read_error(
    prefix: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tf2flax.open_checkpoint(prefix)

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(tf2flax.ReadError, match="Permission denied") as caught:
        checkpoint["a"].read()
    assert isinstance(caught.value, OSError)


@pytest.mark.parametrize(
    ("name", "contents", "match"),
    [
        ("saved_model.pb", b"\x08\x01", "variables/"),
        ("checkpoint", b'model_checkpoint_path: "m"', "a state file"),
        ("notes.txt", b"hello", "not a TensorFlow checkpoint"),
    ],
)
def test_other_files_are_recognised(
    tmp_path: pathlib.Path, name: str, contents: bytes, match: str
) -> None:
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(tf2flax.UnsupportedError, match=match):
        tf2flax.open_checkpoint(tmp_path / name)


def test_what_is_no_file_at_all(tmp_path: pathlib.Path) -> None:
    for name in ("m.index", "checkpoint", "v1"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(1 << 40)
    with pytest.raises(tf2flax.DamagedError, match="more than any index"):
        tf2flax.open_checkpoint(tmp_path / "m")
    with pytest.raises(tf2flax.CheckpointNotFoundError):
        tf2flax.open_checkpoint(tmp_path)
    with pytest.raises(tf2flax.UnsupportedError, match="not a TensorFlow checkpoint"):
        tf2flax.open_checkpoint(tmp_path / "v1")
    for path in ("/dev/zero", "/dev/null"):
        with pytest.raises(tf2flax.CheckpointNotFoundError):
            tf2flax.open_checkpoint(path)


def test_paths_that_no_file_can_have() -> None:
    for path in ("a\0b", "x" * 5000, "no_directory/model.ckpt"):
        with pytest.raises(tf2flax.CheckpointNotFoundError):
            tf2flax.open_checkpoint(path)
        assert tf2flax.latest_checkpoint("no_directory") is None


GOOD_ENTRY = entry_bytes(1, [4, 3], size=48, slices=[[(0, 2), (0, -1)]])
mutations = st.lists(
    st.tuples(st.integers(0, len(GOOD_ENTRY) - 1), st.integers(0, 255)), max_size=4
)


@given(
    entry=st.one_of(st.binary(max_size=60), mutations),
    header=st.one_of(st.just(header_bytes()), st.binary(max_size=20)),
    key=st.one_of(
        st.binary(max_size=8),
        st.binary(max_size=12).map(lambda tail: b"\0" + tail),
        st.just(slice_key(b"a", [(0, 2), (0, -1)])),
    ),
)
def test_any_message_under_valid_checksums(
    tmp_path_factory: pytest.TempPathFactory,
    entry: bytes | list[tuple[int, int]],
    header: bytes,
    key: bytes,
) -> None:
    if isinstance(entry, list):
        data = bytearray(GOOD_ENTRY)
        for position, value in entry:
            data[position] = value
        entry = bytes(data)
    prefix = tmp_path_factory.mktemp("m") / "m"
    extra = {key: entry} if key else {}
    write_bundle(prefix, {"a": ARRAY}, header=header, extra=extra)
    try:
        checkpoint = tf2flax.open_checkpoint(prefix)
        names = list(checkpoint)
    except REFUSALS:
        return
    for name in names:
        try:
            array = checkpoint[name].read()
        except REFUSALS:
            continue
        assert array.shape == checkpoint[name].shape
        assert array.nbytes <= 48 or array.dtype == object
