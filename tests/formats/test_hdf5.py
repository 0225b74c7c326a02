"""Keras weights in HDF5: names, values, and files that lead elsewhere or lie."""

from __future__ import annotations

import concurrent.futures
import errno
import io
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from forking import LISTING, run_forked
from http_server import serving
from hypothesis import given
from hypothesis import strategies as st

import tf2flax
from tf2flax._base.values import Box
from tf2flax._checkpoint.checkpoint import Checkpoint
from tf2flax._formats.keras.file import FileSlice
from tf2flax._formats.keras.hdf5 import Hdf5Manifest
from tf2flax._formats.keras.hdf5_names import MAX_DEPTH

h5py = pytest.importorskip("h5py")

REFUSALS = (tf2flax.DamagedError, tf2flax.UnsupportedError)
MODEL = np.arange(240, dtype=np.float32).reshape(20, 12)


def written(write: Callable[[Any], object], **options: Any) -> bytes:
    """An HDF5 file, as bytes."""
    out = io.BytesIO()
    with h5py.File(out, "w", **options) as file:
        write(file)
    return out.getvalue()


def opened(write: Callable[[Any], object], **options: Any) -> Checkpoint:
    return Checkpoint(Hdf5Manifest("m.h5", written(write, **options)))


def layer(file: Any, name: str, weights: dict[str, Any]) -> Any:
    """A layer as Keras 1 and 2 write it."""
    group = file.create_group(name)
    group.attrs["weight_names"] = [one.encode() for one in weights]
    for one, value in weights.items():
        group.create_dataset(one, data=value)
    return group


def same(array: np.ndarray, want: np.ndarray) -> bool:
    return (array.dtype, array.shape, array.tobytes()) == (
        want.dtype,
        want.shape,
        want.tobytes(),
    )


# --- what Keras wrote -------------------------------------------------------------


def test_weights_of_keras_2(data: pathlib.Path) -> None:
    folder = data / "tf1_keras"
    checkpoint = Checkpoint(Hdf5Manifest(str(folder / "keras.weights.h5")))
    truth = np.load(folder / "keras_weights.npz")
    names = {key.replace("|", "/").removesuffix(":0"): key for key in truth}
    assert list(checkpoint) == sorted(names)
    for name, array in checkpoint.read().items():
        assert same(array, truth[names[name]]), name


PATHS = {
    "conv2d": ("conv", "kernel", "bias"),
    "batch_normalization": ("bn", "gamma", "beta", "moving_mean", "moving_variance"),
    "depthwise_conv2d": ("dw", "kernel", "bias"),
    "lstm/cell": ("lstm/lstm_cell", "kernel", "recurrent_kernel", "bias"),
    "gru/cell": ("gru/gru_cell", "kernel", "recurrent_kernel", "bias"),
    "dense": ("out", "kernel", "bias"),
}


@pytest.mark.parametrize("name", ["keras.weights.h5", "model.keras"])
def test_weights_of_keras_3(name: str, data: pathlib.Path) -> None:
    folder = data / "tf2_object"
    checkpoint = Checkpoint(Hdf5Manifest(str(folder / name)))
    truth = np.load(folder / "keras_weights.npz")
    checked = 0
    for group, (keras_name, *variables) in PATHS.items():
        for number, variable in enumerate(variables):
            want = truth[f"km/{keras_name}/{variable}".replace("/", "|")]
            assert same(checkpoint[f"layers/{group}/vars/{number}"].read(), want)
            checked += 1
    assert checked == len(truth)
    others = [one for one in checkpoint if not one.startswith("layers/")]
    assert sorted(others) == sorted(f"optimizer/vars/{i}" for i in range(30))
    assert checkpoint["optimizer/vars/0"].read() == 1


@pytest.mark.parametrize("name", ["keras2_model.h5", "keras3_model.h5"])
def test_a_whole_model_has_the_state_of_its_optimizer(
    name: str, data: pathlib.Path
) -> None:
    checkpoint = Checkpoint(Hdf5Manifest(str(data / "keras" / name)))
    truth = np.load(data / "keras" / f"{name}.npz")
    for key in truth:
        short = key.replace("|", "/").removesuffix(":0")
        in_inner_model = short.startswith("twin/")
        for one in [f"inner/{short}", f"twin/{short}"] if in_inner_model else [short]:
            assert same(checkpoint[one].read(), truth[key]), one
    assert len(checkpoint) == len(truth) + 2 * (name == "keras2_model.h5")


def test_lists_of_names_in_parts(data: pathlib.Path) -> None:
    path = data / "keras" / "keras2_parts.h5"
    with h5py.File(path) as file:
        assert "weight_names0" in file["norm"].attrs
        assert "weight_names" not in file["norm"].attrs
    checkpoint = Checkpoint(Hdf5Manifest(str(path)))
    assert "norm/moving_mean" in checkpoint
    truth = np.load(data / "keras" / "keras2_parts.h5.npz")
    assert same(checkpoint["first/kernel"].read(), truth["first|kernel:0"])


@pytest.mark.parametrize("name", ["bfloat16.weights.h5", "bfloat16.keras"])
def test_other_dtypes_of_keras_3(name: str, data: pathlib.Path) -> None:
    checkpoint = Checkpoint(Hdf5Manifest(str(data / "keras" / name)))
    truth = np.load(data / "keras" / "bfloat16.weights.h5.npz")
    assert sorted(checkpoint) == sorted(key.replace("|", "/") for key in truth)
    dtypes: dict[str, set[str]] = {}
    for key in truth:
        array = checkpoint[key.replace("|", "/")].read()
        dtypes.setdefault(key.split("|")[1], set()).add(array.dtype.name)
        assert array.tobytes() == truth[key].tobytes(), key
    assert dtypes == {
        "dense": {"bfloat16"},
        "dense_1": {"float16"},
        "dense_2": {"float64"},
    }


# --- names ------------------------------------------------------------------------


def test_one_trailing_zero_is_not_part_of_a_listed_name() -> None:
    checkpoint = opened(
        lambda file: layer(
            file, "a", {"a/w:0": MODEL, "a/v:0:0": 1, "a/u": 2, "x:1": 3}
        )
    )
    assert list(checkpoint) == ["a/u", "a/v:0", "a/w", "x:1"]


def test_names_that_are_not_listed_stay_as_they_are() -> None:
    checkpoint = opened(lambda file: file.create_dataset("layers/a/vars/w:0", data=1))
    assert list(checkpoint) == ["layers/a/vars/w:0"]


def test_a_layer_with_a_slash_in_its_name() -> None:
    def write(file: Any) -> None:
        layer(file, "scope", {"scope/bias:0": 1})
        layer(file, "scope/dense", {"scope/dense/kernel:0": 2})

    assert list(opened(write)) == ["scope/bias", "scope/dense/kernel"]


def test_a_name_of_two_layers_goes_by_the_layer_too() -> None:
    def write(file: Any) -> None:
        layer(file, "model_weights/a", {"kernel:0": 1, "own:0": 3})
        layer(file, "model_weights/b", {"kernel:0": 2})

    checkpoint = opened(write)
    assert list(checkpoint) == ["a/kernel", "b/kernel", "own"]
    assert [checkpoint[name].read() for name in checkpoint] == [1, 2, 3]
    assert "kernel" not in checkpoint
    manifest = checkpoint.manifest
    with pytest.raises(tf2flax.TensorNotFoundError) as caught:
        manifest.entry("kernel")
    for text in (str(caught.value), manifest.hint("kernel"), manifest.hint("kernel:0")):
        assert "2 weights have this name: give `a/kernel` or `b/kernel`." in text


def test_names_that_clash_even_so_are_paths() -> None:
    def write(file: Any) -> None:
        layer(file, "model_weights/a", {"kernel:0": 1})
        layer(file, "model_weights/b", {"kernel:0": 2})
        layer(file, "model_weights/c", {"a/kernel:0": 3})

    checkpoint = opened(write)
    assert {name: int(checkpoint[name].read()) for name in checkpoint} == {
        "model_weights/a/kernel:0": 1,
        "model_weights/b/kernel:0": 2,
        "a/kernel": 3,
    }


def test_a_layer_leads_to_where_it_is_stored(data: pathlib.Path) -> None:
    manifest = Hdf5Manifest(str(data / "tf2_object" / "model.keras"))
    where = (
        "Layer `conv` is stored as `layers/conv2d/`. `checkpoint.by_variable_name()` "
        "goes by the names of layers."
    )
    assert manifest.hint("conv/kernel") == manifest.hint("conv/") == where
    assert "`layers/gru/cell/`" in manifest.hint("gru/gru_cell/bias")
    assert manifest.hint("nothing/like/it") == ""


def test_a_missing_weight_of_a_list_is_damage() -> None:
    def write(file: Any) -> None:
        group = layer(file, "a", {"a/w:0": 1, "a/v:0": 2})
        del group["a/v:0"]

    with pytest.raises(tf2flax.DamagedError, match="lists 2 weights and holds 1"):
        opened(write)


def test_names_in_other_alphabets() -> None:
    checkpoint = opened(lambda file: layer(file, "слой", {"слой/вес:0": 1}))
    assert list(checkpoint) == ["слой/вес"]
    assert checkpoint["слой/вес"].read() == 1


# --- values -----------------------------------------------------------------------

DTYPES = [
    "f2",
    "f4",
    "f8",
    "i1",
    "i2",
    "i4",
    "i8",
    "u1",
    "u2",
    "u4",
    "u8",
    "c8",
    "c16",
    ">f2",
    ">f4",
    ">f8",
    ">i2",
    ">i4",
    ">i8",
    ">u2",
    ">c8",
    ">c16",
    "?",
]
LAYOUTS: list[dict[str, Any]] = [
    {},
    {"chunks": (3, 5)},
    {"chunks": (40, 50), "maxshape": (None, None)},
    {"chunks": (3, 5), "compression": "gzip", "compression_opts": 9},
    {"chunks": (20, 5), "compression": "gzip"},
    {"chunks": (7, 12), "compression": "gzip", "shuffle": True},
    {"chunks": (7, 7), "compression": "gzip", "shuffle": True},
    {"chunks": (7, 7), "shuffle": True},
]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_in_every_layout(dtype: str) -> None:
    values = (np.arange(240) % 100 - (0 if "u" in dtype else 50)).astype(dtype)
    if values.dtype.kind == "c":
        values += np.array(1j, dtype)
    values = values.reshape(20, 12)

    def write(file: Any) -> None:
        for number, options in enumerate(LAYOUTS):
            file.create_dataset(str(number), data=values, **options)
        file.create_dataset("scalar", data=values[3, 4])

    checkpoint = opened(write)
    want = values.astype(values.dtype.newbyteorder("="))
    for number in range(len(LAYOUTS)):
        assert same(checkpoint[str(number)].read(), want), LAYOUTS[number]
    assert same(checkpoint["scalar"].read(), np.asarray(want[3, 4]))


def test_bfloat16_keeps_every_bit() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    values = bits.view(ml_dtypes.bfloat16)
    checkpoint = opened(lambda file: file.create_dataset("a", data=values))
    assert checkpoint["a"].dtype == ml_dtypes.bfloat16
    assert checkpoint["a"].read().tobytes() == bits.tobytes()


def test_strings() -> None:
    texts = ["", "a", "é" * 200, "x"] * 50
    want = [one.encode() for one in texts]

    def write(file: Any) -> None:
        file.create_dataset("fixed", data=np.array(want[:4]).reshape(2, 2))
        file.create_dataset("varying", data=np.array(texts, object).reshape(50, 4))
        file.create_dataset("chunked", data=texts, chunks=(7,), compression="gzip")
        file.create_dataset("scalar", data="text")

    checkpoint = opened(write)
    assert checkpoint["fixed"].read().tolist() == [want[:2], want[2:4]]
    assert checkpoint["varying"].read().ravel().tolist() == want
    assert checkpoint["varying"][4:6, 2].tolist() == [want[2]] * 2
    assert checkpoint["chunked"].read().tolist() == want
    assert checkpoint["scalar"].read()[()] == b"text"


def test_what_no_array_can_hold_is_listed_and_refused() -> None:
    def write(file: Any) -> None:
        file.create_dataset("record", data=np.zeros(3, "i4,f4"))
        file.create_dataset("opaque", data=np.zeros(3, "V7"))
        file.create_dataset("reference", data=file.ref, dtype=h5py.ref_dtype)
        file.create_dataset("enum", data=1, dtype=h5py.enum_dtype({"a": 1, "b": 2}))
        file.create_dataset("array", shape=(2,), dtype=np.dtype("(3,)i4"))
        file.create_dataset("rows", shape=2, dtype=h5py.vlen_dtype("f4"))
        file.create_dataset("long", data=np.zeros(2, np.longdouble))
        file.create_dataset("nothing", data=h5py.Empty("f4"))
        file.create_dataset("fine", data=1.5)

    checkpoint = opened(write)
    assert len(checkpoint) == 9
    for name in set(checkpoint) - {"fine"}:
        with pytest.raises(tf2flax.UnsupportedError):
            checkpoint[name].read()
        with pytest.raises(tf2flax.UnsupportedError):
            checkpoint.manifest.entry(name).pieces[0].read(Box((), ()))  # type: ignore[union-attr]
    assert checkpoint["fine"].read() == 1.5


def test_empty_tensors_and_high_ranks() -> None:
    def write(file: Any) -> None:
        file.create_dataset("empty", data=np.zeros((0, 3), "f4"))
        file.create_dataset("none", shape=(4, 0), maxshape=(None, None), dtype="i8")
        file.create_dataset("deep", data=np.arange(2.0).reshape((1,) * 31 + (2,)))

    checkpoint = opened(write)
    assert same(checkpoint["empty"].read(), np.zeros((0, 3), "f4"))
    assert same(checkpoint["none"].read(), np.zeros((4, 0), "i8"))
    assert checkpoint["deep"].read().ravel().tolist() == [0, 1]


def test_a_boolean_is_0_or_1() -> None:
    contents = written(lambda file: file.create_dataset("a", data=np.ones(99, bool)))
    damaged = contents.replace(b"\1" * 99, b"\1" * 50 + b"\2" + b"\1" * 48)
    with pytest.raises(tf2flax.DamagedError, match="booleans"):
        Checkpoint(Hdf5Manifest("m.h5", damaged))["a"].read()


CUBE = np.arange(5 * 6 * 7, dtype=">i2").reshape(5, 6, 7)
CUBES = opened(
    lambda file: (
        file.create_dataset("plain", data=CUBE),
        file.create_dataset("cut", data=CUBE, chunks=(2, 3, 4), compression="gzip"),
    )
)


@given(
    name=st.sampled_from(["plain", "cut"]),
    bounds=st.tuples(
        *(st.tuples(st.integers(0, n), st.integers(0, n)) for n in CUBE.shape)
    ),
)
def test_boxes_agree_with_numpy(name: str, bounds: tuple[tuple[int, int], ...]) -> None:
    index = tuple(slice(*sorted(pair)) for pair in bounds)
    region = Box(tuple(one.start for one in index), tuple(one.stop for one in index))
    piece = CUBES.manifest.entry(name).pieces[0]
    array = piece.read(region)  # type: ignore[union-attr]
    assert same(array, CUBE[index].astype(np.int16))
    assert array.flags.c_contiguous
    assert array.flags.writeable


def test_large_rows_and_narrow_columns(tmp_path: pathlib.Path) -> None:
    values = np.arange(3 * 1_500_000, dtype=np.int32)
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        file["wide"] = values.reshape(3, -1)
        file["long"] = values.reshape(-1, 3)
    checkpoint = Checkpoint(Hdf5Manifest(str(path)))
    for name, index in (
        ("wide", np.s_[:, 1_400_000:1_400_003]),
        ("long", np.s_[:, 1:2]),
        ("long", np.s_[1_499_990:, :]),
    ):
        want = values.reshape(checkpoint[name].shape)[index]
        assert np.array_equal(checkpoint[name][index], want)


# --- places -----------------------------------------------------------------------


def test_a_manifest_is_picklable_and_reads_in_threads(data: pathlib.Path) -> None:
    path = data / "tf2_object" / "model.keras"
    for manifest in (
        Hdf5Manifest(str(path)),
        Hdf5Manifest("https://host/model.keras", path.read_bytes()),
    ):
        copy = Checkpoint(pickle.loads(pickle.dumps(manifest)))
        want = Checkpoint(manifest).read()
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for arrays in pool.map(lambda _, copy=copy: copy.read(), range(16)):
                assert all(same(arrays[name], want[name]) for name in want)


def test_threads_open_at_once(data: pathlib.Path) -> None:
    path = str(data / "tf1_keras" / "keras.weights.h5")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        manifests = list(pool.map(lambda _: Hdf5Manifest(path), range(32)))
    assert len({manifest.names for manifest in manifests}) == 1


def test_no_descriptor_stays_open(data: pathlib.Path) -> None:
    path = str(data / "tf1_keras" / "keras.weights.h5")
    before = len(list(pathlib.Path("/proc/self/fd").iterdir()))
    manifests = [Checkpoint(Hdf5Manifest(path)) for _ in range(5)]
    for checkpoint in manifests:
        checkpoint.read()
    assert len(list(pathlib.Path("/proc/self/fd").iterdir())) == before


def test_a_file_that_changed_is_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.h5"
    path.write_bytes(written(lambda file: file.create_dataset("a", data=MODEL)))
    checkpoint = Checkpoint(Hdf5Manifest(str(path)))
    checkpoint["a"].read()
    path.write_bytes(written(lambda file: file.create_dataset("b", data=-MODEL)))
    with pytest.raises(tf2flax.DamagedError, match="not the one that was opened"):
        checkpoint["a"].read()
    path.unlink()
    with pytest.raises(tf2flax.DamagedError, match="is missing"):
        checkpoint["a"].read()


def test_an_archive_is_verified_by_its_checksum(data: pathlib.Path) -> None:
    contents = bytearray((data / "tf2_object" / "model.keras").read_bytes())
    assert Checkpoint(Hdf5Manifest("m.keras", bytes(contents))).verify().ok
    value = Checkpoint(Hdf5Manifest("m.keras", bytes(contents)))["layers/dense/vars/0"]
    contents[contents.index(value.read().tobytes()) + 2] ^= 1
    report = Checkpoint(Hdf5Manifest("m.keras", bytes(contents))).verify()
    assert not report.ok
    assert "crc32" in str(report)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("nbytes", [0, 512, 2048])
def test_user_blocks_and_archives(method: int, nbytes: int) -> None:
    contents = written(
        lambda file: (
            file.create_dataset("a", data=MODEL),
            file.create_dataset("b", data=MODEL, chunks=(3, 5), compression="gzip"),
            file.create_dataset("c", data=["x", "yz"]),
        ),
        **({"userblock_size": nbytes} if nbytes else {}),
    )
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("model.weights.h5", contents)
    for one in [contents] if nbytes else [contents, out.getvalue()]:
        checkpoint = Checkpoint(Hdf5Manifest("m", one))
        assert same(checkpoint["a"].read(), MODEL)
        assert same(checkpoint["b"].read(), MODEL)
        assert checkpoint["c"].read().tolist() == [b"x", b"yz"]


@pytest.mark.parametrize("libver", ["earliest", "v108", "v110", "latest"])
def test_every_version_of_the_format(libver: str) -> None:
    def write(file: Any) -> None:
        layer(file, "a", {"a/w:0": MODEL, "a/v:0": MODEL[0]})
        for number, options in enumerate(LAYOUTS):
            file.create_dataset(f"b/{number}", data=MODEL, **options)
        file.create_dataset("b/one", data=MODEL, chunks=MODEL.shape)
        grown = file.create_dataset("b/two", data=MODEL[:3], maxshape=(None, None))
        grown.resize(MODEL.shape)
        grown[...] = MODEL
        for number in range(40):  # links in a B-tree
            file.create_dataset(f"many/{number}", data=number)

    checkpoint = opened(write, libver=libver)
    for number in range(40):
        assert checkpoint[f"many/{number}"].read() == number
    names = [name for name in checkpoint if name.startswith(("b/", "a/w"))]
    assert len(names) == len(LAYOUTS) + 3
    for name in names:
        assert same(checkpoint[name].read(), MODEL), name


# --- whatever leads out of the file -----------------------------------------------


@pytest.fixture
def secret(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "secret.h5"
    with h5py.File(path, "w") as file:
        file["group/key"] = np.arange(5.0)
    (tmp_path / "secret.bin").write_bytes(bytes(40))
    return path


def leading_out(file: Any, how: str, secret: pathlib.Path) -> None:
    file["fine"] = 1
    if how == "external link":
        file["layers/x"] = h5py.ExternalLink(str(secret), "group")
    elif how == "soft link":
        file["layers/x"] = h5py.SoftLink("/fine")
    elif how == "external storage":
        raw = [(str(secret.with_suffix(".bin")), 0, 40)]
        file.create_dataset("x", (5,), "f8", external=raw)
    else:
        layout = h5py.VirtualLayout((5,), "f8")
        layout[:] = h5py.VirtualSource(str(secret), "group/key", (5,))
        file.create_virtual_dataset("x", layout)


@pytest.mark.parametrize("how", ["external link", "soft link"])
def test_links_are_not_followed(how: str, secret: pathlib.Path) -> None:
    contents = written(lambda file: leading_out(file, how, secret))
    with pytest.raises(
        tf2flax.UnsupportedError, match="`layers/x` is a link"
    ) as caught:
        Hdf5Manifest("m.h5", contents)
    assert "m.h5" in str(caught.value)


@pytest.mark.parametrize("how", ["external storage", "virtual"])
def test_values_in_other_files_are_not_read(how: str, secret: pathlib.Path) -> None:
    contents = written(lambda file: leading_out(file, how, secret))
    checkpoint = Checkpoint(Hdf5Manifest("m.h5", contents))
    with pytest.raises(
        tf2flax.UnsupportedError, match="`x` cannot be read: its values"
    ):
        checkpoint["x"]
    assert checkpoint["fine"].read() == 1
    assert checkpoint.verify().unchecked == ("x",)


def test_no_name_leads_through_an_external_link(secret: pathlib.Path) -> None:
    """HDF5 would follow `x` on the way to what is called `x/key`."""

    def write(file: Any) -> None:
        file["x_key"] = 1
        file["x"] = h5py.ExternalLink(str(secret), "group")

    contents = written(write).replace(b"x_key\0", b"x/key\0")
    with pytest.raises(REFUSALS) as caught:
        Hdf5Manifest("m.h5", contents)
    assert "x" in str(caught.value)


@pytest.mark.parametrize("name", [b"a/b", b"."])
def test_names_that_hdf5_takes_apart_are_refused(name: bytes) -> None:
    contents = written(lambda file: file.create_dataset("Q" * len(name), data=1))
    contents = contents.replace(b"Q" * len(name) + b"\0", name + b"\0")
    with pytest.raises(tf2flax.DamagedError, match="links to"):
        Hdf5Manifest("m.h5", contents)


def test_filters_that_are_plugins_are_refused() -> None:
    def write(file: Any) -> None:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((4,))
        plist.set_filter(32015, h5py.h5z.FLAG_OPTIONAL)  # zstd
        space = h5py.h5s.create_simple((4,))
        h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_INT32, space, plist)
        file["x"].id.write_direct_chunk((0,), bytes(16))

    checkpoint = opened(write)
    with pytest.raises(tf2flax.UnsupportedError, match="filter 32015"):
        checkpoint["x"]


# --- files that lie ---------------------------------------------------------------


def test_groups_within_themselves_are_refused() -> None:
    def circle(file: Any) -> None:
        file["a/b/w"] = 1
        file["a/b/again"] = file["a"]

    def root(file: Any) -> None:
        file["a/top"] = file["/"]

    def twice(file: Any) -> None:
        for number in range(30):  # 2 ** 30 paths
            group = file.create_group(f"{number}")
            if number:
                group["l"] = group["r"] = file[f"{number - 1}"]

    for write in (circle, root, twice):
        with pytest.raises(tf2flax.UnsupportedError, match=r"lies in|too often"):
            opened(write)


@pytest.mark.parametrize(
    ("is_linked_again", "error", "text"),
    [
        (True, tf2flax.UnsupportedError, "linked to each other too often"),
        (False, tf2flax.DamagedError, "more links than its bytes can hold"),
    ],
)
def test_links_are_counted_one_by_one(
    is_linked_again: bool,
    error: type[Exception],
    text: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All that the bytes can hold are followed, and not one more."""

    def write(file: Any) -> None:
        file["a/w"] = 1.0
        if is_linked_again:
            file["b"] = file["a"]
        else:
            file["b/w"] = 1.0

    nbytes = len(written(write))
    names = "tf2flax._formats.keras.hdf5_names._MIN_LINK_NBYTES"
    monkeypatch.setattr(names, nbytes // 4)  # `a`, `b`, and what each holds
    assert sorted(opened(write)) == ["a/w", "b/w"]
    monkeypatch.setattr(names, nbytes // 3)
    with pytest.raises(error, match=text):
        opened(write)


def test_depth_is_bounded() -> None:
    fine = "/".join("g" * MAX_DEPTH) + "/w"
    assert list(opened(lambda file: file.create_dataset(fine, data=1))) == [fine]
    with pytest.raises(tf2flax.UnsupportedError, match="deep"):
        opened(lambda file: file.create_dataset("g/" + fine, data=1))
    with pytest.raises(tf2flax.UnsupportedError, match="paths of more than"):
        opened(lambda file: file.create_dataset("/".join(["n" * 500] * 10), data=1))


def test_missing_chunks_are_refused() -> None:
    """HDF5 would make them up; an index that lost them looks the same."""

    def write(file: Any) -> None:
        file.create_dataset("x", (40,), "f4", chunks=(10,))[:20] = 1

    with pytest.raises(tf2flax.UnsupportedError, match="of its 4 chunks only 2 were"):
        opened(write)["x"]


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_shapes_too_large_for_the_file_are_refused(compression: str | None) -> None:
    """Refused when the entry is decoded: no array of that size is made."""

    def write(file: Any) -> None:
        file.create_dataset(
            "x", (1 << 40,), "f4", chunks=(1 << 20,), compression=compression
        )
        file["x"][:1] = 1

    checkpoint = opened(write)
    with pytest.raises(tf2flax.UnsupportedError, match=r"of its 1048576 chunks only 1"):
        checkpoint["x"]


def test_sizes_are_checked_against_the_file() -> None:
    contents = written(lambda file: file.create_dataset("x", data=np.zeros(123, "f4")))
    # Dimension, maximal dimension, and size of the layout, wherever they are.
    for count in (1 << 20, 1 << 40, 1 << 62):
        damaged = contents.replace(struct.pack("<Q", 123), struct.pack("<Q", count))
        both = damaged.replace(
            struct.pack("<Q", 492), struct.pack("<Q", 4 * count % 2**64)
        )
        for one in (damaged, both):
            with pytest.raises(tf2flax.DamagedError):
                Checkpoint(Hdf5Manifest("m.h5", one))["x"]


def chunk_at(contents: bytes) -> tuple[int, int]:
    with h5py.File(io.BytesIO(contents)) as file:
        chunk = file["x"].id.get_chunk_info(0)
        return chunk.byte_offset, chunk.size


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"compression": "lzf"}, "lzf"),
        ({"compression": "lzf", "shuffle": True}, "lzf"),
        ({"fletcher32": True}, "fletcher32"),
        ({"compression": "gzip", "shuffle": True, "fletcher32": True}, "fletcher32"),
        ({"scaleoffset": 2}, "scaleoffset"),
    ],
)
def test_other_filters_are_refused_with_a_way_out(
    options: dict[str, Any], name: str
) -> None:
    def write(file: Any) -> None:
        file.create_dataset("x", data=MODEL, chunks=(20, 12), **options)
        file.create_dataset("y", data=MODEL, chunks=(20, 12), compression="gzip")

    checkpoint = opened(write)
    assert same(checkpoint["y"].read(), MODEL)
    message = f'filter {name};.*in `m.h5`.*compression="gzip"'
    with pytest.raises(tf2flax.UnsupportedError, match=message):
        checkpoint["x"]
    assert checkpoint.verify().unchecked == ("x",)


def test_damaged_compression_is_damage() -> None:
    contents = bytearray(
        written(
            lambda file: file.create_dataset(
                "x", data=MODEL, chunks=(20, 12), compression="gzip"
            )
        )
    )
    start, size = chunk_at(bytes(contents))
    for position in range(start, start + size):
        damaged = contents.copy()
        damaged[position] ^= 255
        with pytest.raises(tf2flax.DamagedError):
            Checkpoint(Hdf5Manifest("m.h5", bytes(damaged)))["x"].read()


def test_a_chunk_that_swells_is_damage() -> None:
    checkpoint = opened(chunks_of(8, zlib.compress(bytes(1 << 20))))
    with pytest.raises(tf2flax.DamagedError, match="larger than it announces"):
        checkpoint["x"].read()


def test_strings_beyond_their_heap_are_damage() -> None:
    contents = written(lambda file: file.create_dataset("x", data=["secret" * 9] * 3))
    start = 0
    with h5py.File(io.BytesIO(contents)) as file:
        start = file["x"].id.get_offset()
    nbytes, address, number = struct.unpack_from("<IQI", contents, start)
    for reference in (
        (nbytes + 1000, address, number),
        (nbytes, address + 8, number),
        (nbytes, 1 << 62, number),
        (nbytes, address, number + 1000),
    ):
        damaged = bytearray(contents)
        struct.pack_into("<IQI", damaged, start, *reference)
        with pytest.raises(tf2flax.DamagedError):
            Checkpoint(Hdf5Manifest("m.h5", bytes(damaged)))["x"].read()
    heap = bytearray(contents)
    struct.pack_into("<Q", heap, address + 16 + 8, 2**63)  # the first value's size
    with pytest.raises(tf2flax.DamagedError):
        Checkpoint(Hdf5Manifest("m.h5", bytes(heap)))["x"].read()


def small(file: Any) -> None:
    layer(file, "a", {"a/w:0": MODEL[:2, :3], "a/v:0": np.ones(3, ">f2")})
    group = file.create_group("layers/dense/vars")
    group.attrs["name"] = "d"
    file.create_dataset("c", data=MODEL, chunks=(9, 12), compression="gzip")
    file.create_dataset("s", data=["x", "yz"])


def test_a_file_that_was_cut_says_how_many_bytes_are_missing() -> None:
    contents = written(small)
    for stop in range(100, len(contents), 97):
        with pytest.raises(tf2flax.DamagedError) as caught:
            Hdf5Manifest("m.h5", contents[:stop])
        assert f"only {stop} bytes, {len(contents) - stop} are missing" in str(
            caught.value
        )
    for stop in range(100):
        with pytest.raises(tf2flax.DamagedError):
            Hdf5Manifest("m.h5", contents[:stop])


FLIP = """
import random, resource, signal, sys, warnings
import tf2flax
from tf2flax._checkpoint.checkpoint import Checkpoint
from tf2flax._formats.keras.hdf5 import Hdf5Manifest
contents = open(sys.argv[1], "rb").read()
start, count, seed = map(int, sys.argv[2:])
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 2**30, size + 2**30))
random = random.Random(seed)
warnings.simplefilter("ignore")
outcomes = {}
for number in range(count):
    damaged = bytearray(contents)
    if seed == 0:
        damaged[(start + number * 37) // 8 % len(damaged)] ^= 1 << number % 8
    for _ in range(random.choice((1, 1, 2, 4)) if seed else 0):
        some = random.getrandbits(64), random.randrange(len(contents))
        value = random.choice((0, 1, 2**63, 2**64 - 1, len(contents), *some))
        nbytes = random.choice((1, 2, 4, 8))
        at = random.randrange(len(damaged) - 8)
        damaged[at : at + nbytes] = value.to_bytes(8, "little")[:nbytes]
    signal.setitimer(signal.ITIMER_PROF, 20)  # of processor time
    try:
        checkpoint = Checkpoint(Hdf5Manifest("m.h5", bytes(damaged)))
        outcome = "opened"
        for name in checkpoint:
            try:
                checkpoint[name].read()
            except (tf2flax.DamagedError, tf2flax.UnsupportedError):
                outcome = "partly"
    except (tf2flax.DamagedError, tf2flax.UnsupportedError):
        outcome = "refused"
    outcomes[outcome] = outcomes.get(outcome, 0) + 1
assert len(outcomes) > 1, outcomes
"""


def flip(
    tmp_path: pathlib.Path, libver: str, start: int, count: int, seed: int
) -> None:
    """Damages a file in a process of its own, which must survive."""
    path = tmp_path / "m.h5"
    path.write_bytes(written(small, libver=libver))
    imports = (*LISTING, "tf2flax._formats.keras.hdf5", "h5py")
    done = run_forked(FLIP, path, start, count, seed, imports=imports)
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])


@pytest.mark.parametrize("seed", [0, 1])
def test_a_damaged_file_is_read_or_refused(seed: int, tmp_path: pathlib.Path) -> None:
    flip(tmp_path, "earliest", 0, 400, seed)


@pytest.mark.slow
@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("seed", range(6))
def test_many_damaged_files_are_read_or_refused(
    seed: int, libver: str, tmp_path: pathlib.Path
) -> None:
    flip(tmp_path, libver, 5 * seed, 8000, seed)


def test_elements_beyond_the_end_are_damage_before_they_are_read() -> None:
    contents = written(lambda file: file.create_dataset("x", data=np.ones(100, "f4")))
    with h5py.File(io.BytesIO(contents)) as file:
        start = file["x"].id.get_offset()
    for wrong in (len(contents) - 399, 1 << 62):
        damaged = contents.replace(
            struct.pack("<QQ", start, 400), struct.pack("<QQ", wrong, 400)
        )
        assert damaged != contents
        with pytest.raises(tf2flax.DamagedError):
            Checkpoint(Hdf5Manifest("m.h5", damaged))["x"]


def chunks_of(count: int, *chunks: bytes) -> Callable[[Any], None]:
    """A dataset in compressed chunks of so many floats, as they are stored."""

    def write(file: Any) -> None:
        shape = (count * len(chunks),)
        file.create_dataset("x", shape, "f4", chunks=(count,), compression="gzip")
        for number, chunk in enumerate(chunks):
            file["x"].id.write_direct_chunk((number * count,), chunk)

    return write


def test_a_chunk_that_announces_too_much_is_damage_before_it_is_read() -> None:
    with pytest.raises(tf2flax.DamagedError, match="announces 4194304 bytes"):
        opened(chunks_of(1 << 20, zlib.compress(b"")))["x"]


def test_a_chunk_that_is_too_small_is_damage() -> None:
    checkpoint = opened(chunks_of(8, zlib.compress(bytes(24))))
    with pytest.raises(tf2flax.DamagedError, match="expected a chunk of 32 bytes"):
        checkpoint["x"].read()


@pytest.mark.parametrize("wrong", [0, 11, 800])
def test_chunks_lie_on_their_grid(wrong: int) -> None:
    def write(file: Any) -> None:
        file.create_dataset("x", data=np.ones(40, "f4"), chunks=(10,))

    contents = written(write)
    key = struct.pack("<IIQQ", 40, 0, 10, 0)
    damaged = contents.replace(key, struct.pack("<IIQQ", 40, 0, wrong, 0))
    assert damaged != contents
    with pytest.raises(tf2flax.DamagedError):
        Checkpoint(Hdf5Manifest("m.h5", damaged))["x"].read()


def test_a_box_in_large_rows_reads_little(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.zeros((3, 1_200_000), np.float32)
    checkpoint = opened(lambda file: file.create_dataset("x", data=values))
    sizes: list[int] = []
    fill = FileSlice.fill

    def counting(self: FileSlice, start: int, buffer: memoryview) -> None:
        sizes.append(len(buffer))
        fill(self, start, buffer)

    monkeypatch.setattr(FileSlice, "fill", counting)
    piece = checkpoint.manifest.entry("x").pieces[0]
    piece.read(Box((0, 5), (3, 7)))  # type: ignore[union-attr]
    assert sum(sizes) == 3 * 2 * 4


def test_what_the_system_refuses_is_a_read_error(
    data: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(data / "tf1_keras" / "keras.weights.h5")
    checkpoint = Checkpoint(Hdf5Manifest(path))
    preadv = os.preadv
    left = 0

    def failing(*arguments: Any) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.EIO, "Input/output error")
        return preadv(*arguments)

    monkeypatch.setattr(os, "preadv", failing)
    for left in range(60):  # noqa: B007
        with pytest.raises(tf2flax.ReadError, match="Input/output error"):
            Hdf5Manifest(path)
    left = 0
    with pytest.raises(tf2flax.ReadError, match="Input/output error"):
        checkpoint["conv/kernel"].read()


def test_a_process_ends_well_after_a_read_error(data: pathlib.Path) -> None:
    """HDF5 called Python when it was gone: the error had kept h5py's frames alive."""
    script = """
import errno, os, sys
import h5py, tf2flax
preadv, left = os.preadv, 0
def failing(*arguments):
    global left
    left -= 1
    if left < 0:
        raise OSError(errno.EIO, "Input/output error")
    return preadv(*arguments)
os.preadv = failing
for left in range(8):
    try:
        tf2flax.open_checkpoint(sys.argv[1])
    except tf2flax.ReadError as error:
        assert "Input/output error" in str(error)
    else:
        raise AssertionError(left)
"""
    path = data / "tf1_keras" / "keras.weights.h5"
    arguments = [sys.executable, "-c", script, str(path)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- sound files that Keras does not write ----------------------------------------


def test_groups_that_are_linked_twice_have_both_names() -> None:
    def write(file: Any) -> None:
        file["layers/a/vars/0"] = MODEL
        file["layers/b"] = file["layers/a"]

    for libver in ("earliest", "latest"):
        checkpoint = opened(write, libver=libver)
        assert list(checkpoint) == ["layers/a/vars/0", "layers/b/vars/0"]
        for name in checkpoint:
            assert same(checkpoint[name].read(), MODEL)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", "<i8", "u1", "bool", "S3"])
@pytest.mark.parametrize("chunks", [None, (2,)])
def test_what_was_never_written_is_the_fill_value(dtype: str, chunks: Any) -> None:
    value: Any = b"ab" if dtype == "S3" else 1

    def write(file: Any) -> None:
        file.create_dataset("w", (3,), dtype, fillvalue=value, chunks=chunks)
        file.create_dataset("zero", (2, 1), dtype, chunks=chunks and (1, 1))

    checkpoint = opened(write)
    assert checkpoint["w"].read().tolist() == [value] * 3
    assert checkpoint["w"][1:2].tolist() == [value]
    assert checkpoint["zero"].read().tolist() == [[b"" if value == b"ab" else 0]] * 2
    assert checkpoint.verify().ok


def never_filled(file: Any) -> None:
    created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    created.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple((3,))
    h5py.h5d.create(file.id, b"w", h5py.h5t.IEEE_F32LE, space, created)


def in_part(file: Any) -> None:
    dataset = file.create_dataset("w", (4,), "f4", chunks=(2,), fillvalue=7)
    dataset[:2] = 1


def linked_to_itself(file: Any) -> None:
    file["layers/a/vars/0"] = MODEL
    file["layers/a/back"] = file["layers"]


def linked_to_the_root(file: Any) -> None:
    file["w"] = MODEL
    file["a/b"] = file["/"]


def linked_often(file: Any) -> None:
    file["g0/w"] = 1.0
    for number in range(1, 40):
        group = file.create_group(f"g{number}")
        group["a"] = group["b"] = file[f"g{number - 1}"]


# what is written, what is said of it
SOUND: dict[str, tuple[Callable[[Any], object], str]] = {
    "a chunk never written": (in_part, "of its 2 chunks only 1 were ever written"),
    "large, never written": (
        lambda file: file.create_dataset("w", (1 << 24,), "f4"),
        "its values were never written, and would take 67108864 bytes",
    ),
    "huge, never written": (
        lambda file: file.create_dataset("w", (1 << 40, 1 << 20), "f4", chunks=(2, 2)),
        "its values were never written, and would take",
    ),
    "strings, never written": (
        lambda file: file.create_dataset("w", (3,), h5py.string_dtype()),
        "its values were never written, and nothing stands for them",
    ),
    "in the header": (never_filled, "its values lie in its header"),
    "a group in itself": (linked_to_itself, "`layers/a/back` is a link to a group th"),
    "the root in itself": (linked_to_the_root, "is a link to a group that it lies in"),
    "groups linked often": (linked_often, "linked to each other too often"),
    "a soft link": (
        lambda file: file.update({"a": h5py.SoftLink("/b")}),
        "`a` is a link to another place",
    ),
}


@pytest.mark.parametrize("case", SOUND)
def test_sound_files_are_never_called_damaged(case: str) -> None:
    """What is not read is named; h5py reads all of these."""
    write, match = SOUND[case]
    with pytest.raises(tf2flax.UnsupportedError, match=match) as caught:
        opened(write)["w"].read()
    assert "damaged" not in str(caught.value)


def test_a_bfloat16_that_was_never_written() -> None:
    def write(file: Any) -> None:
        created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        created.set_fill_value(np.array(b"\x80\x3f", "V2"))
        kind = h5py.h5t.create(h5py.h5t.OPAQUE, 2)
        h5py.h5d.create(file.id, b"w", kind, h5py.h5s.create_simple((3,)), created)

    array = opened(write)["w"].read()
    assert same(array, np.ones(3, ml_dtypes.bfloat16))


@pytest.mark.parametrize("nbytes", [512, 2048, 4096, 1 << 16])
def test_blocks_of_the_user_of_any_size(nbytes: int, tmp_path: pathlib.Path) -> None:
    contents = written(
        lambda file: file.create_dataset("layers/a/vars/0", data=MODEL),
        userblock_size=nbytes,
    )
    path = tmp_path / "m.h5"
    path.write_bytes(contents)
    assert same(tf2flax.open_checkpoint(path)["layers/a/vars/0"].read(), MODEL)
    with serving({"/m.h5": contents}) as server:
        checkpoint = tf2flax.open_checkpoint(f"{server.url}/m.h5")
        assert same(checkpoint["layers/a/vars/0"].read(), MODEL)
    path.write_bytes(contents[: nbytes + 4])
    with pytest.raises(REFUSALS):
        tf2flax.open_checkpoint(path)
