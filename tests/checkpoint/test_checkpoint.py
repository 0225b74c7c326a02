"""Reading: what is written is read back, whole, in part, and as a lazy view."""

from __future__ import annotations

import itertools
import json
import pathlib
import pickle
import re
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from bundle_writer import Tensor, entry_bytes, rows_in, write_bundle
from forking import run_forked
from hypothesis import given
from hypothesis import strategies as st

import tf2flax

NUMERIC = [
    "float32", "float64", "float16", "bfloat16", "int8", "int16", "int32", "int64",
    "uint8", "uint16", "uint32", "uint64", "bool", "complex64", "complex128",
    "float8_e5m2", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e4m3b11fnuz",
    "float8_e5m2fnuz", "int4", "uint4", "int2", "uint2", "float4_e2m1fn",
]  # fmt: skip


def dtype_of(name: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name, name))


def sample(name: str, shape: tuple[int, ...]) -> np.ndarray:
    count = int(np.prod(shape, dtype=np.int64))
    values = np.arange(count) % 4
    if name.startswith(("int2", "uint2")):
        values %= 2
    return values.astype(dtype_of(name)).reshape(shape)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("name", NUMERIC)
def test_every_dtype_is_read_bit_for_bit(
    tmp_path: pathlib.Path, name: str, big_endian: bool
) -> None:
    arrays = {
        "matrix": sample(name, (3, 5)),
        "scalar": sample(name, ()),
        "empty": sample(name, (0, 3)),
        "rank8": sample(name, (1, 2, 1, 2, 1, 2, 1, 2)),
    }
    write_bundle(tmp_path / "m", arrays, big_endian=big_endian)
    checkpoint = tf2flax.open_checkpoint(tmp_path / "m")
    for key, array in arrays.items():
        tensor = checkpoint[key]
        assert (tensor.shape, tensor.dtype) == (array.shape, array.dtype)
        assert (tensor.ndim, tensor.size) == (array.ndim, array.size)
        assert tensor.nbytes == array.nbytes
        assert same(tensor.read(), array), key
        assert same(np.asarray(tensor), array), key
    assert same(checkpoint["matrix"][1:, 2:4], arrays["matrix"][1:, 2:4])


@pytest.mark.parametrize(
    ("code", "expected"),
    [(11, "int8"), (12, "uint8"), (13, "int32"), (15, "int16"), (16, "uint16")],
)
def test_quantised_integers_read_as_integers(
    tmp_path: pathlib.Path, code: int, expected: str
) -> None:
    array = sample(expected, (2, 3))
    write_bundle(tmp_path / "m", {"q": Tensor(array, code=code)})
    assert same(tf2flax.open_checkpoint(tmp_path / "m")["q"].read(), array)


@pytest.mark.parametrize("big_endian", [False, True])
def test_strings_are_objects_of_bytes(tmp_path: pathlib.Path, big_endian: bool) -> None:
    array = np.array([[b"a\0", b""], [b"\xff" * 300, "β".encode()]], dtype=object)
    scalar = np.array(b"graph\0", dtype=object)
    write_bundle(tmp_path / "m", {"s": array, "scalar": scalar}, big_endian=big_endian)
    checkpoint = tf2flax.open_checkpoint(tmp_path / "m")
    read = checkpoint["s"].read()
    assert read.dtype == object
    assert read.tolist() == array.tolist()
    assert checkpoint["s"][1, 0] == b"\xff" * 300
    assert checkpoint["scalar"].read().shape == ()
    assert tf2flax.load_variable(tmp_path / "m", "scalar") == b"graph\0"
    assert checkpoint["s"].open()[1].read().result().tolist() == array[1].tolist()


@pytest.mark.parametrize(("code", "name"), [(20, "resource"), (21, "variant")])
def test_variants_are_refused_when_read_and_only_then(
    tmp_path: pathlib.Path, code: int, name: str
) -> None:
    write_bundle(
        tmp_path / "m",
        {"a": np.zeros(2, np.float32)},
        extra={b"v": entry_bytes(code, [], size=7)},
    )
    checkpoint = tf2flax.open_checkpoint(tmp_path / "m")
    assert tf2flax.list_variables(tmp_path / "m") == [("a", [2]), ("v", [])]
    for use in (checkpoint["v"].read, checkpoint["v"].open, checkpoint.read):
        with pytest.raises(tf2flax.UnsupportedError, match=f"`v` is of dtype {name}"):
            use()
    assert checkpoint.read(["a"])["a"].shape == (2,)


@pytest.mark.parametrize("table", [{}, {"snappy": True}, {"restart_interval": 1}])
def test_an_index_of_many_blocks(tmp_path: pathlib.Path, table: dict[str, int]) -> None:
    arrays = {f"scope/v{i:04d}": np.int32(i) for i in range(1000)}
    write_bundle(
        tmp_path / "m",
        {name: np.asarray(value) for name, value in arrays.items()},
        block_size=256,
        **table,
    )
    checkpoint = tf2flax.open_checkpoint(tmp_path / "m")
    assert list(checkpoint) == sorted(arrays)
    assert {n: int(v) for n, v in checkpoint.read().items()} == arrays
    assert "scope/v0999" in checkpoint
    assert "scope/v1000" not in checkpoint
    assert "" not in checkpoint


def test_an_empty_basename(tmp_path: pathlib.Path) -> None:
    write_bundle(tmp_path / "m", {"a": np.arange(3)})
    (tmp_path / "d").mkdir()
    for file in tmp_path.glob("m.*"):
        file.rename(tmp_path / "d" / file.name.removeprefix("m"))
    assert tf2flax.list_variables(tmp_path / "d") == [("a", [3])]
    assert tf2flax.checkpoint_exists(f"{tmp_path}/d/")
    assert tf2flax.checkpoint_exists(f"{tmp_path}/d/*")  # hidden files match too
    assert not tf2flax.checkpoint_exists(f"{tmp_path}/d/x*")
    assert tf2flax.load_variable(f"{tmp_path}/d/", "a").tolist() == [0, 1, 2]


def test_many_data_files(tmp_path: pathlib.Path) -> None:
    array = np.arange(60).reshape(12, 5)
    tensor = Tensor(array, slices=rows_in(array, 4), data_file=[3, 0, 2, 1])
    write_bundle(
        tmp_path / "m", {"t": tensor, "u": Tensor(array, data_file=2)}, num_data_files=4
    )
    checkpoint = tf2flax.open_checkpoint(tmp_path / "m")
    assert same(checkpoint["t"].read(), array)
    assert same(checkpoint["u"].read(), array)


indices = st.one_of(
    st.integers(-8, 8),
    st.slices(9),
    st.just(Ellipsis),
    st.none(),
    st.lists(st.integers(-4, 3), max_size=4),
)


@given(
    shape=st.lists(st.integers(0, 5), min_size=0, max_size=4).map(tuple),
    index=st.one_of(indices, st.lists(indices, max_size=4).map(tuple)),
    parts=st.integers(1, 3),
    data=st.data(),
)
def test_indexing_agrees_with_numpy(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, ...],
    index: object,
    parts: int,
    data: st.DataObject,
) -> None:
    array = np.arange(np.prod(shape, dtype=int), dtype=np.int32).reshape(shape)
    tensor: np.ndarray | Tensor = array
    if shape and parts > 1:
        axis = data.draw(st.integers(0, len(shape) - 1))
        if shape[axis] >= parts:
            tensor = Tensor(array, slices=rows_in(array, parts, axis))
    prefix = tmp_path_factory.mktemp("m") / "m"
    write_bundle(prefix, {"t": tensor})
    stored = tf2flax.open_checkpoint(prefix)["t"]
    try:
        expected = array[index]
    except IndexError as error:
        with pytest.raises(IndexError, match=re.escape(str(error))):
            stored[index]
        return
    got = stored[index]
    assert type(got) is type(expected)
    assert same(np.asarray(got), np.asarray(expected))


@given(
    rows=st.lists(st.integers(0, 9), max_size=3),
    columns=st.lists(st.integers(0, 7), max_size=3),
    box=st.tuples(st.slices(9), st.slices(7)),
)
def test_any_region_of_any_grid_of_slices(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[int],
    columns: list[int],
    box: tuple[slice, slice],
) -> None:
    array = np.arange(63, dtype=np.int16).reshape(9, 7)

    def spans(cuts: list[int], dim: int) -> list[slice]:
        edges = sorted({0, dim, *cuts})
        return [slice(a, b) for a, b in itertools.pairwise(edges)]

    grid = [(r, c) for r in spans(rows, 9) for c in spans(columns, 7)]
    prefix = tmp_path_factory.mktemp("m") / "m"
    write_bundle(prefix, {"t": Tensor(array, grid)})
    tensor = tf2flax.open_checkpoint(prefix)["t"]
    assert same(tensor.read(), array)
    assert same(tensor[box], array[box])
    assert len(tensor.slices) == len(grid)


def test_masks_and_index_arrays() -> None:
    checkpoint = tf2flax.open_checkpoint("tests/data/bert/model.ckpt")
    tensor = checkpoint["bert/embeddings/word_embeddings"]
    array = tensor.read()
    ids = np.array([[3, 99], [-1, 3]])
    mask = np.arange(100) % 7 == 0
    full = np.random.RandomState(0).rand(*array.shape) > 0.5
    for index in (
        ids,
        mask,
        full,
        (ids, slice(0, 4)),
        (mask, 3),
        (slice(2, 9), ids % 9),
    ):
        assert same(np.asarray(tensor[index]), np.asarray(array[index]))
    with pytest.raises(IndexError):
        tensor[np.array([100])]
    assert len(tensor) == 100
    assert same(np.stack(list(tensor)), array)
    with pytest.raises(TypeError):
        len(checkpoint["global_step"])


def test_slices_of_a_partitioned_variable(tmp_path: pathlib.Path) -> None:
    array = np.arange(40, dtype=np.float32).reshape(10, 4)
    write_bundle(
        tmp_path / "m", {"t": Tensor(array, slices=rows_in(array, 3)), "u": array}
    )
    checkpoint = tf2flax.open_checkpoint(tmp_path / "m")
    assert list(checkpoint) == ["t", "u"]
    boxes = checkpoint["t"].slices
    assert [array[box].shape for box in boxes] == [(3, 4), (4, 4), (3, 4)]
    assert same(np.concatenate([array[box] for box in boxes]), array)
    assert checkpoint["u"].slices == ()


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_views_read_like_numpy(tmp_path: pathlib.Path, axes: tuple[int, ...]) -> None:
    array = np.arange(120, dtype=np.float32).reshape(12, 10)
    boxes = [
        (r[0], c[1])
        for r in rows_in(array, 3 if 0 in axes else 1)
        for c in rows_in(array, 2 if 1 in axes else 1, axis=1)
    ]
    write_bundle(tmp_path / "m", {"t": Tensor(array, slices=boxes)})
    view = tf2flax.open_checkpoint(tmp_path / "m")["t"].open()
    assert view.shape == array.shape
    assert same(view.read().result(), array)
    assert same(view[3:7, 2:9].read().result(), array[3:7, 2:9])
    assert view.T[2].read().result().tolist() == array[:, 2].tolist()


def test_views_that_tensorstore_lacks(tmp_path: pathlib.Path) -> None:
    arrays = {"u4": sample("uint4", (2,)), "deep": np.ones((1,) * 33, np.int8)}
    write_bundle(tmp_path / "m", arrays)
    checkpoint = tf2flax.open_checkpoint(tmp_path / "m")
    for name, array in arrays.items():
        with pytest.raises(tf2flax.UnsupportedError, match=r"Use `read\(\)`"):
            checkpoint[name].open()
        assert same(checkpoint[name].read(), array)


def test_names_keep_their_bytes(tmp_path: pathlib.Path) -> None:
    names = [
        "a",
        "a/b",
        "a//b",
        "x:0",
        "nul\0in",
        "ünï",
        "sp ace",
        "bad\udcff",
        "\0\x01z",
    ]
    write_bundle(tmp_path / "m", {n: np.int32([i]) for i, n in enumerate(names)})
    checkpoint = tf2flax.open_checkpoint(tmp_path / "m")
    assert list(checkpoint) == sorted(names)
    assert [int(checkpoint[n].read()[0]) for n in names] == list(range(len(names)))


def test_missing_names_are_named_with_the_nearest() -> None:
    checkpoint = tf2flax.open_checkpoint("tests/data/bert/model.ckpt")
    with pytest.raises(tf2flax.TensorNotFoundError) as caught:
        checkpoint["bert/pooler/dens/kernel"]
    assert isinstance(caught.value, KeyError)
    assert caught.value.name == "bert/pooler/dens/kernel"
    assert "Did you mean `bert/pooler/dense/kernel`?" in str(caught.value)
    assert checkpoint.get("nothing like it") is None
    with pytest.raises(tf2flax.TensorNotFoundError, match="`global_step`"):
        checkpoint.read(["bert/pooler/dense/bias", "global_step:0"])
    assert 3 not in checkpoint


def test_load_variable_strips_one_suffix_and_gives_scalars() -> None:
    path = "tests/data/bert/model.ckpt"
    step = tf2flax.load_variable(path, "global_step:0")
    assert type(step) is np.int64
    assert step == 123456
    with pytest.raises(tf2flax.TensorNotFoundError):
        tf2flax.load_variable(path, "global_step:0:0")


def test_reading_all_agrees_with_reading_one_by_one() -> None:
    checkpoint = tf2flax.open_checkpoint("tests/data/wide_deep_partitioned/model.ckpt")
    arrays = checkpoint.read()
    assert list(arrays) == list(checkpoint)
    for name, array in arrays.items():
        assert same(array, checkpoint[name].read())
        assert array.flags.writeable
        assert array.ctypes.data % 64 == 0


def test_small_arrays_share_no_bytes(tmp_path: pathlib.Path) -> None:
    # Sizes around those of the blocks that small arrays share; some hold nothing.
    sizes = [0, 1, 16, 17, 511, 512, 513, 0, 3, *[64] * 70, 0, *[16] * 300, 0]
    tensors = {f"t{i:03d}": np.full(n, i, np.int32) for i, n in enumerate(sizes)}
    write_bundle(tmp_path / "m", tensors)
    arrays = tf2flax.open_checkpoint(tmp_path / "m").read()
    for array in arrays.values():
        assert array.ctypes.data % 64 == 0
        array += 1000  # nobody else's
    for i, (array, n) in enumerate(zip(arrays.values(), sizes, strict=True)):
        assert array.tolist() == [1000 + i] * n


def test_pickling_keeps_the_index(tmp_path: pathlib.Path) -> None:
    write_bundle(tmp_path / "m", {"a": np.arange(3)})
    checkpoint = tf2flax.open_checkpoint(tmp_path / "m")
    copy = pickle.loads(pickle.dumps(checkpoint))
    (tmp_path / "m.index").unlink()
    assert list(copy) == ["a"]
    assert copy["a"].read().tolist() == [0, 1, 2]
    assert pickle.loads(pickle.dumps(checkpoint["a"])).read().tolist() == [0, 1, 2]


def test_the_array_protocol_copies() -> None:
    tensor = tf2flax.open_checkpoint("tests/data/bert")["bert/pooler/dense/bias"]
    assert np.asarray(tensor, dtype=np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="always a copy"):
        np.array(tensor, copy=False)


def test_a_relative_prefix_survives_a_change_of_directory(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bundle(tmp_path / "m", {"a": np.arange(3)})
    monkeypatch.chdir(tmp_path)
    checkpoint = tf2flax.open_checkpoint("m")
    monkeypatch.chdir("/")
    assert checkpoint["a"].read().tolist() == [0, 1, 2]


BYTES_READ = """
import json, pathlib, sys
import numpy as np
import tf2flax

def rchar():
    text = pathlib.Path("/proc/self/io").read_text()
    return int(text.split("rchar:")[1].split()[0])

checkpoint = tf2flax.open_checkpoint(sys.argv[1])
tensor = checkpoint[sys.argv[2]]
tensor[0:1]; tensor.open()[0:1].read().result()  # whatever is loaded lazily
before, noise = rchar(), 0
noise = rchar() - before
names = {"t": tensor, "np": np, "tf2flax": tf2flax, "c": checkpoint}
counts = {}
for expression in json.loads(sys.argv[3]):
    before = rchar()
    result = eval(expression, names)
    counts[expression] = rchar() - before - noise
print(json.dumps(counts))
"""


# Expression -> least and most bytes.
BYTES = {
    "t[100:200]": (100 * 4096, 100 * 4096),
    "t[5]": (4096, 4096),
    "t[::512]": (8 * 4096, 8 * 4096),
    "t[[7, 7, 4000]]": (2 * 4096, 2 * 4096),
    "t[100:200, 3:5]": (100 * 8, 100 * 4096),
    "t[7, 3:5]": (8, 8),
    "t.open()[100:200].read().result()": (100 * 4096, 100 * 4096 + 2 * (4 << 20)),
    "t.read()": (4096 * 4096, 4096 * 4096),
    "len(c), list(c), t.shape, tf2flax.Checkpoint": (0, 0),
}


@pytest.fixture(scope="module", params=[1, 5])
def bytes_read(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, int]:
    """Bytes that a process reads for each expression, of a tensor in so many slices."""
    array, prefix = np.zeros((4096, 1024), np.float32), tmp_path_factory.mktemp("m")
    slices = None if request.param == 1 else rows_in(array, request.param)
    write_bundle(prefix / "m", {"t": Tensor(array, slices)})
    done = run_forked(BYTES_READ, prefix / "m", "t", json.dumps([*BYTES]), check=True)
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/io is Linux's")
@pytest.mark.parametrize("expression", BYTES)
def test_bytes_read(bytes_read: dict[str, int], expression: str) -> None:
    low, high = BYTES[expression]
    # Reading /proc/self/io is itself counted, and subtracted up to its own length.
    assert low - 64 <= bytes_read[expression] <= high + 64


def test_100_000_variables(tmp_path: pathlib.Path) -> None:
    extra = {
        f"scope/sub_{i // 100}/variable_{i:06d}".encode(): entry_bytes(
            1, [], offset=4 * i, size=4
        )
        for i in range(100_000)
    }
    write_bundle(tmp_path / "m", {}, extra=extra, block_size=1 << 16)
    code = (
        "import sys, tf2flax._formats.bundle as b, json\n"
        "count = 0\n"
        "parse = b.parse_bundle_entry\n"
        "def counted(data):\n"
        "    global count; count += 1; return parse(data)\n"
        "b.parse_bundle_entry = counted\n"
        "import tf2flax\n"
        "c = tf2flax.open_checkpoint(sys.argv[1])\n"
        "t = c['scope/sub_500/variable_050000']\n"
        "one = count\n"
        "print(json.dumps([one, t.shape, len(c), count,"
        " len(tf2flax.list_variables(sys.argv[1]))]))"
    )
    done = run_forked(code, tmp_path / "m", check=True)
    assert json.loads(done.stdout) == [1, [], 100_000, 1, 100_000]


@pytest.mark.parametrize(
    ("value", "truth"),
    [
        (np.int64(0), False), (np.int64(7), True), (np.array(b"x", object), True),
        (np.array(b"", object), False), (np.zeros(1), False), (np.zeros((0, 3)), False),
        (np.ones((1, 1)), True),
    ],
)  # fmt: skip
def test_truth_of_a_tensor_is_that_of_its_value(
    tmp_path: pathlib.Path, value: Any, truth: bool
) -> None:
    path = tf2flax.save_checkpoint(tmp_path / "m", {"x": value})
    assert bool(tf2flax.open_checkpoint(path)["x"]) is truth


def test_several_elements_are_neither_true_nor_false() -> None:
    tensor = tf2flax.open_checkpoint({"x": np.zeros(3)})["x"]
    for error in (ValueError, tf2flax.CheckpointError):  # as NumPy's, and ours
        with pytest.raises(error, match=r"`x` has 3 elements.*`name in checkpoint`"):
            bool(tensor)
