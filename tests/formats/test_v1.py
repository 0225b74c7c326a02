"""V1 checkpoints: what TensorFlow wrote, every encoding, parts in several files."""

from __future__ import annotations

import base64
import json
import pathlib
import pickle

import numpy as np
import pytest
import v1_writer as v1
from bundle_writer import CODES, Tensor, field, rows_in, slice_key, write_bundle
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from old_files import write_as_if_old
from repository import ROOT

import tf2flax
from tf2flax._formats.wire.tensor_proto import decode_varints

DATA = (ROOT / "tests" / "data") / "v1_format"
TABLE = np.arange(40, dtype="<f4").reshape(10, 4)
SLICED = Tensor(TABLE, slices=rows_in(TABLE, 3))


ARRAYS = hnp.arrays(
    st.sampled_from(sorted(set(v1.FIELDS) - {"bfloat16"})),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
) | st.lists(st.binary(max_size=20), max_size=5).map(lambda e: np.array(e, object))


def test_what_tensorflow_wrote() -> None:
    checkpoint = tf2flax.open_checkpoint(DATA / "model.ckpt")
    truth = json.loads((DATA / "vars.json").read_text())
    values = np.load(DATA / "tensors.npz")
    strings = json.loads((DATA / "strings.json").read_text())
    assert list(checkpoint) == sorted(truth)
    arrays = checkpoint.read()
    for name, array in arrays.items():
        assert list(array.shape) == truth[name]["shape"], name
        if name in strings:
            want = [base64.b64decode(one["b64"]) for one in strings[name]["values"]]
            assert array.ravel().tolist() == want
            continue
        want = values[name.replace("/", "|")]
        assert (array.dtype, array.shape) == (want.dtype, want.shape), name
        assert array.tobytes() == want.tobytes(), name
    assert checkpoint["table"].slices[1] == (slice(4, 7), slice(0, 4))
    assert checkpoint["big"].slices == ()


def test_what_tensorflow_wrote_into_several_files() -> None:
    pattern = DATA / "sharded.ckpt-?????-of-00003"
    arrays = tf2flax.open_checkpoint(pattern).read()
    values = np.load(DATA / "sharded.npz")
    assert sorted(name.replace("/", "|") for name in arrays) == sorted(values)
    for name, array in arrays.items():
        assert array.tobytes() == values[name.replace("/", "|")].tobytes(), name


@pytest.mark.parametrize("encoding", ["packed", "unpacked", "mixed", "content"])
@pytest.mark.parametrize("dtype", [*v1.FIELDS])
def test_encodings(tmp_path: pathlib.Path, dtype: str, encoding: v1.Encoding) -> None:
    numpy_dtype = np.dtype(np.float32 if dtype == "bfloat16" else dtype)
    if numpy_dtype.kind in "iu":
        info = np.iinfo(numpy_dtype)
        numbers = [info.min, info.max, 0, 1, 127, 100]
    else:
        numbers = [0, 1, 0, 1, 1, 0] if dtype == "bool" else [-1.5, 0, 2, 1e3, 4, 5]
    array = np.array(numbers, numpy_dtype).reshape(2, 3)
    if dtype == "bfloat16":
        import ml_dtypes

        array = array.astype(ml_dtypes.bfloat16)
    v1.write_v1(tmp_path / "m", {"a": array, "s": array[0, 0]}, encoding=encoding)
    checkpoint = tf2flax.open_checkpoint(tmp_path / "m")
    for name, want in (("a", array), ("s", array[0, 0])):
        got = checkpoint[name].read()
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        assert got.tobytes() == want.tobytes()


@given(array=ARRAYS, encoding=st.sampled_from(["packed", "unpacked", "content"]))
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, array: np.ndarray, encoding: v1.Encoding
) -> None:
    path = tmp_path_factory.mktemp("v1") / "m"
    v1.write_v1(path, {"x": array}, encoding=encoding, snappy=True)
    got = tf2flax.open_checkpoint(path)["x"].read()
    assert (got.dtype, got.shape) == (array.dtype, array.shape)
    if array.dtype == object:
        assert got.tolist() == array.tolist()
    else:
        assert got.tobytes() == array.tobytes()


@given(numbers=st.lists(st.integers(0, 2**64 - 1), max_size=50))
def test_varints(numbers: list[int]) -> None:
    data = b"".join(map(v1.varint, numbers))
    assert decode_varints(memoryview(data)).tolist() == numbers


def test_regions_rows_and_views(tmp_path: pathlib.Path) -> None:
    v1.write_v1(tmp_path / "m", {"t": SLICED, "w": TABLE})
    checkpoint = tf2flax.open_checkpoint(tmp_path / "m")
    for name in ("t", "w"):
        tensor = checkpoint[name]
        assert tensor[2:9, 1:3].tolist() == TABLE[2:9, 1:3].tolist()
        assert tensor[-1].tolist() == TABLE[-1].tolist()
        assert tensor.open()[3:7].T.read().result().tolist() == TABLE[3:7].T.tolist()
        assert pickle.loads(pickle.dumps(checkpoint))[name].read().shape == (10, 4)
    assert checkpoint.verify().ok


def test_several_files(tmp_path: pathlib.Path) -> None:
    tensors = {"t": SLICED, "a": TABLE[0], "b": TABLE[1]}
    parts = [{"t": [1], "a": [0]}, {"t": [0, 2], "b": [0]}]
    for i, only in enumerate(parts):
        v1.write_v1(tmp_path / f"m-0000{i}-of-00002", tensors, only=only)
    checkpoint = tf2flax.open_checkpoint(tmp_path / "m-?????-of-00002")
    assert list(checkpoint) == ["a", "b", "t"]
    assert checkpoint["t"].read().tolist() == TABLE.tolist()
    one = tf2flax.open_checkpoint(tmp_path / "m-00000-of-00002")
    assert tf2flax.list_variables(tmp_path / "m-00000-of-00002") == [
        ("a", [4]),
        ("t", [10, 4]),
    ]
    assert one["a"].read().tolist() == TABLE[0].tolist()
    with pytest.raises(tf2flax.DamagedError, match=r"m-\?\?\?\?\?-of-00002"):
        one["t"].read()
    assert [damage.name for damage in one.verify().damaged] == ["t"]
    with pytest.raises(tf2flax.CheckpointNotFoundError, match=r"m-\?\?\?\?\?-of-00002"):
        tf2flax.open_checkpoint(tmp_path / "m")


def test_files_that_disagree(tmp_path: pathlib.Path) -> None:
    v1.write_v1(tmp_path / "m-0", {"a": TABLE})
    v1.write_v1(tmp_path / "m-1", {"a": TABLE[:5]})
    with pytest.raises(tf2flax.DamagedError, match="elsewhere with"):
        tf2flax.open_checkpoint(tmp_path / "m-*")
    v1.write_v1(tmp_path / "m-1", {"a": TABLE})
    with pytest.raises(tf2flax.DamagedError, match="cover 40 elements, got 80"):
        tf2flax.open_checkpoint(tmp_path / "m-*")["a"].read()


def test_mixed_up_generations(tmp_path: pathlib.Path) -> None:
    v1.write_v1(tmp_path / "v1", {"a": TABLE})
    write_bundle(tmp_path / "v2", {"a": TABLE})
    (tmp_path / "v2.index").rename(tmp_path / "index")
    with pytest.raises(tf2flax.DamagedError, match="index of a V2 checkpoint"):
        tf2flax.open_checkpoint(tmp_path / "index")
    (tmp_path / "v1").rename(tmp_path / "v1.index")
    with pytest.raises(tf2flax.DamagedError, match="V1 checkpoint"):
        tf2flax.open_checkpoint(tmp_path / "v1")


def test_the_graph_next_to_it(tmp_path: pathlib.Path) -> None:
    v1.write_v1(tmp_path / "m.ckpt", {"a": TABLE})
    (tmp_path / "m.ckpt.meta").write_bytes(b"\x0a\x00")
    assert list(tf2flax.open_checkpoint(tmp_path / "m.ckpt.meta")) == ["a"]


EXTENTS = [(0, -1)]
KEY = slice_key(b"a", EXTENTS)
PACKED = v1.tensor_proto(np.arange(3, dtype="<f4"))


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (v1.saved_slice(b"a", EXTENTS, PACKED[:-4]), "leaves its message"),
        (v1.saved_slice(b"a", EXTENTS, b""), "expected 3 values, got 0"),
        (v1.saved_slice(b"a", EXTENTS, field(5, bytes(8))), "expected 3 values, got 2"),
        (v1.saved_slice(b"a", EXTENTS, field(5, bytes(16))), "3 values, got 4"),
        (v1.saved_slice(b"a", EXTENTS, field(5, bytes(11))), "another type"),
        (v1.saved_slice(b"a", EXTENTS, field(4, bytes(11))), "expected 12 bytes"),
        (v1.saved_slice(b"a", EXTENTS, field(1, 2) + PACKED), "of dtype float32"),
        (v1.saved_slice(b"b", EXTENTS, PACKED), "another tensor's values"),
        (v1.saved_slice(b"a", [(0, 3)], PACKED), "another tensor's values"),
        (b"", "a message without"),
        (b"\x13" * 40, "wire type 3"),
        (b"\xff" * 40, "64 bits"),
    ],
)
def test_damaged_values(tmp_path: pathlib.Path, value: bytes, match: str) -> None:
    array = np.arange(3, dtype="<f4")
    v1.write_v1(tmp_path / "m", {"a": array, "ok": array}, extra={KEY: value})
    checkpoint = tf2flax.open_checkpoint(tmp_path / "m")
    assert checkpoint["ok"].read().tolist() == [0, 1, 2]
    with pytest.raises(tf2flax.DamagedError, match=match):
        checkpoint["a"].read()


@pytest.mark.parametrize(
    ("dtype", "number"),
    [("int8", 128), ("uint8", -1), ("uint16", 1 << 16), ("float16", 1 << 16)],
)
def test_values_beyond_their_dtype(
    tmp_path: pathlib.Path, dtype: str, number: int
) -> None:
    wrong = field(v1.FIELDS[dtype][0], v1.varint(number))
    value = v1.saved_slice(b"a", EXTENTS, wrong)
    v1.write_v1(tmp_path / "m", {"a": np.zeros(1, dtype)}, extra={KEY: value})
    with pytest.raises(tf2flax.DamagedError, match=f"{dtype}"):
        tf2flax.open_checkpoint(tmp_path / "m")["a"].read()


def meta(**changes: object) -> bytes:
    given = {"code": CODES["float32"], "dims": [3], "slices": [EXTENTS], **changes}
    return v1.saved_list([v1.slice_meta(b"a", **given)])  # pyright: ignore


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (meta(code=0), "expected a dtype, got number 0"),
        (meta(dims=[-1]), "dimensions >= 0"),
        (meta(dims=[0, 1 << 32, 1 << 32], slices=[]), "overflows"),
        (meta(dims=[1] * 300, slices=[]), "at most 254 axes"),
        (meta(slices=[[(0, 4)]]), "expected a slice within"),
        (meta(slices=[[(-1, 2)]]), "expected a slice within"),
        (meta(slices=[[(0, 2), (0, 2)]]), "slices of rank 1"),
        (meta(slices=[[(1, (1 << 63) - 1)]]), "expected a slice within"),
        (meta(slices=[EXTENTS, EXTENTS]), "cover 3 elements, got 6"),
        (meta(slices=[[(0, 2)]]), "cover 3 elements, got 2"),
        (meta(slices=[]), "cover 3 elements, got 0"),
        (b"", "expected a list of tensors"),
        (b"\x0a\x05abc", "does not parse"),
    ],
)
def test_damaged_lists(tmp_path: pathlib.Path, value: bytes, match: str) -> None:
    v1.write_v1(tmp_path / "m", {"a": np.zeros(3, "<f4")}, extra={b"": value})
    with pytest.raises(tf2flax.DamagedError, match=match):
        tf2flax.open_checkpoint(tmp_path / "m")["a"].read()


def test_newer_versions_are_refused(tmp_path: pathlib.Path) -> None:
    for version in (field(2, 2), field(3, 1)):
        extra = {b"": v1.saved_list([], version)}
        v1.write_v1(tmp_path / "m", {"a": TABLE}, extra=extra)
        with pytest.raises(tf2flax.UnsupportedError, match="version 1"):
            tf2flax.open_checkpoint(tmp_path / "m")


def test_no_table(tmp_path: pathlib.Path) -> None:
    v1.write_v1(tmp_path / "m", {"a": TABLE})
    whole = (tmp_path / "m").read_bytes()
    for stop in range(len(whole)):
        (tmp_path / "m").write_bytes(whole[:stop])
        with pytest.raises((tf2flax.UnsupportedError, tf2flax.DamagedError)):
            tf2flax.open_checkpoint(tmp_path / "m")


def test_no_flipped_bit_is_silent(tmp_path: pathlib.Path) -> None:
    v1.write_v1(tmp_path / "m", {"a": TABLE[0], "b": np.array(7, "<i8")})
    whole = (tmp_path / "m").read_bytes()
    refused = 0
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        write_as_if_old(tmp_path / "m", flipped)
        try:
            got = tf2flax.open_checkpoint(tmp_path / "m").read()
        except (tf2flax.DamagedError, tf2flax.UnsupportedError):
            refused += 1
            continue
        assert got["a"].tolist() == TABLE[0].tolist()
        assert got["b"].tolist() == 7
        assert len(got) == 2
    # The rest is padding of the footer, and the meta index, which nobody reads.
    assert refused > 0.7 * 8 * len(whole)
