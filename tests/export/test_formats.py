"""Conversions are read back by the libraries whose formats they are, bit for bit."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors
import safetensors.numpy
from bundle_writer import Tensor, write_bundle
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import tf2flax
from tf2flax._export import outputs, source
from tf2flax._restoring import in_order

# Dtypes that TensorFlow and all formats hold.
COMMON = [
    "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64",
    "float16", "float32", "float64", "complex64",
]  # fmt: skip
SMALL_FLOATS = ["bfloat16", "float8_e4m3fn", "float8_e5m2"]
SHAPES = [(), (1,), (0,), (3, 0, 2), (5, 3), (2, 3, 4), (7,)]


def arrays(dtypes: list[str]) -> dict[str, np.ndarray]:
    """Arrays of every rank and dtype, with random bits (bools apart)."""
    rng = np.random.default_rng(0)
    result: dict[str, np.ndarray] = {}
    for name in dtypes:
        dtype = np.dtype(getattr(ml_dtypes, name, name))
        for shape in SHAPES:
            nbytes = int(np.prod(shape)) * dtype.itemsize
            bits = rng.integers(0, 2 if name == "bool" else 256, nbytes, np.uint8)
            label = "x".join(map(str, shape)) or "scalar"
            result[f"{name}/s{label}"] = bits.view(dtype).reshape(shape)
    return result


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Compares bits: NaNs too."""
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def check(read: Mapping[str, Any], expected: Mapping[str, np.ndarray]) -> None:
    assert sorted(read) == sorted(expected)
    differing = [name for name in expected if not same(read[name], expected[name])]
    assert not differing


def flattened(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}/{key}" if prefix else key
        if isinstance(value, Mapping):
            flat |= flattened(value, name)
        else:
            flat[name] = value
    return flat


def saved(folder: pathlib.Path, tensors: Mapping[str, Any], **options: Any) -> str:
    return tf2flax.save_checkpoint(folder / "model.ckpt", tensors, **options)


@pytest.mark.parametrize("data_files", [1, 3])
def test_safetensors(tmp_path: pathlib.Path, data_files: int) -> None:
    expected = arrays(COMMON + SMALL_FLOATS)
    prefix = saved(tmp_path, expected, data_files=data_files)
    out = tmp_path / "out" / "model.safetensors"
    report = tf2flax.convert(prefix, out)
    assert report.written == tuple(sorted(expected))
    assert report.nbytes == sum(array.nbytes for array in expected.values())
    # Its own reader checks offsets, gaps and sizes.
    with safetensors.safe_open(str(out), "np") as file:
        assert file.metadata()["source"] == prefix
        assert sorted(file.keys()) == sorted(expected)
    small = {
        "BF16": ml_dtypes.bfloat16,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
    }
    read: dict[str, np.ndarray] = {}
    for name, fields in safetensors.deserialize(out.read_bytes()):
        dtype = small.get(fields["dtype"], expected[name].dtype)
        read[name] = np.frombuffer(fields["data"], dtype).reshape(fields["shape"])
    check(read, expected)
    plain = {name: a for name, a in expected.items() if a.dtype.isbuiltin == 1}
    with safetensors.safe_open(str(out), "np") as file:
        check({name: file.get_tensor(name) for name in plain}, plain)


def test_safetensors_say_their_step_and_map(tmp_path: pathlib.Path) -> None:
    tensors = {"global_step": np.int64(7), "a/w": np.ones(2, np.float32)}
    out = tmp_path / "model.safetensors"
    tf2flax.convert(saved(tmp_path, tensors), out, assignment_map={"a/": "b/"})
    with safetensors.safe_open(str(out), "np") as file:
        metadata = file.metadata()
    assert metadata["step"] == "7"
    assert metadata["assignment_map"] == '[["a/", "b/"]]'


def test_npz(tmp_path: pathlib.Path) -> None:
    expected = arrays([*COMMON, "complex128"])
    strings = np.array([b"a", b"", b"long \xff"], object)
    prefix = saved(tmp_path, expected | {"words": strings, "word": b"x"})
    tf2flax.convert(prefix, tmp_path / "model.npz")
    with np.load(tmp_path / "model.npz", allow_pickle=False) as archive:
        read = {name: archive[name] for name in archive.files}
    assert read.pop("words").tolist() == strings.tolist()
    assert read.pop("word").item() == b"x"
    check(read, expected)


def test_tensorbundle(tmp_path: pathlib.Path) -> None:
    expected = arrays([*COMMON, *SMALL_FLOATS, "complex128"])
    parts = {f"table/part_{i}": np.full((2, 3), i, np.float32) for i in range(3)}
    prefix = saved(tmp_path, expected)
    out = tmp_path / "new" / "model.ckpt"
    report = tf2flax.convert(prefix, out, format="tensorbundle", data_files=4)
    assert report.path == str(out)
    checkpoint = tf2flax.open_checkpoint(out)
    assert checkpoint.verify().ok
    check(checkpoint.read(), expected)
    assert len(list(out.parent.glob("*.data-*-of-00004"))) == 4
    # Slices stay slices.
    prefix = tf2flax.save_checkpoint(tmp_path / "parts", {"t": nested(parts)})
    tf2flax.convert(prefix, tmp_path / "parts2", format="tensorbundle")
    slices = tf2flax.open_checkpoint(tmp_path / "parts2")["t/table"].slices
    assert slices == tf2flax.open_checkpoint(prefix)["t/table"].slices
    assert len(slices) == 3


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *path, last = name.split("/")
        place = tree
        for key in path:
            place = place.setdefault(key, {})
        place[last] = value
    return tree


@pytest.fixture(scope="module")
def x64() -> Any:
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("by_reference", [False, True, "hardlink", "symlink"])
@pytest.mark.parametrize("flat", [False, True])
def test_orbax(
    tmp_path: pathlib.Path, by_reference: Any, flat: bool, x64: None
) -> None:
    expected = arrays([*COMMON, *SMALL_FLOATS, "complex128"])
    prefix = saved(tmp_path, expected, data_files=3)
    out = tmp_path / "orbax"
    report = tf2flax.convert(
        prefix, out, format="orbax", by_reference=by_reference, flat=flat
    )
    assert report.written == tuple(sorted(expected))
    checkpointer = ocp.StandardCheckpointer()
    tree = checkpointer.restore(out)
    check(tree if flat else flattened(tree), expected)
    # With a target: every leaf on all devices.
    mesh = Mesh(np.array(jax.devices()), ("x",))
    everywhere = NamedSharding(mesh, PartitionSpec())
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), tree
    )
    sharded = checkpointer.restore(out, target)
    check(sharded if flat else flattened(sharded), expected)
    leaves = jax.tree.leaves(sharded)
    assert all(leaf.sharding.is_equivalent_to(everywhere, leaf.ndim) for leaf in leaves)
    if by_reference:
        assert sum(file.stat().st_size for file in (out / "d").iterdir()) < 200_000


def test_orbax_on_eight_devices(tmp_path: pathlib.Path) -> None:
    """Rows are cut into chunks; shards of rows and of columns have the same values."""
    kernel = np.random.default_rng(0).normal(size=(4096, 256)).astype(np.float32)
    prefix = saved(tmp_path, {"dense/kernel": kernel})
    mesh = Mesh(np.array(jax.devices()), ("x",))
    for by_reference in (False, True):
        out = tmp_path / f"orbax_{by_reference}"
        tf2flax.convert(prefix, out, format="orbax", by_reference=by_reference)
        for spec in (PartitionSpec("x"), PartitionSpec(None, "x")):
            sharding = NamedSharding(mesh, spec)
            struct = jax.ShapeDtypeStruct((4096, 256), "float32", sharding=sharding)
            tree = ocp.StandardCheckpointer().restore(
                out, {"dense": {"kernel": struct}}
            )
            assert tree["dense"]["kernel"].sharding == sharding
            assert same(tree["dense"]["kernel"], kernel)


def test_orbax_has_many_nodes(tmp_path: pathlib.Path) -> None:
    """An index of more than one node, with an interior one above."""
    expected = {f"layer_{i}/w": np.full(2, i, np.float32) for i in range(8000)}
    prefix = saved(tmp_path, expected)
    out = tmp_path / "orbax"
    tf2flax.convert(prefix, out, format="orbax", by_reference=True, flat=True)
    assert (out / "d" / "index").stat().st_size > 1 << 20
    import tensorstore as ts

    store = ts.KvStore.open(
        {"driver": "ocdbt", "base": f"file://{out}/", "path": ""}
    ).result()
    assert len(store.list().result()) == 2 * len(expected)
    for name in ("layer_0/w", "layer_2999/w", "layer_7999/w"):
        array = ts.open(
            {
                "driver": "zarr",
                "kvstore": {"driver": "ocdbt", "base": f"file://{out}/", "path": name},
            }
        ).result()
        assert same(array.read().result(), expected[name])


def test_orbax_v1_reads_both(tmp_path: pathlib.Path) -> None:
    """Orbax v1 loads its own layout, and safetensors onto eight devices."""
    v1 = pytest.importorskip("orbax.checkpoint.experimental.v1")
    if not hasattr(v1, "load"):
        pytest.skip("this Orbax has no v1 load yet")
    expected = {"a/w": np.arange(32, dtype=np.float32).reshape(16, 2)}
    prefix = saved(tmp_path, expected)
    tf2flax.convert(prefix, tmp_path / "orbax", format="orbax")
    sharding = NamedSharding(Mesh(np.array(jax.devices()), ("x",)), PartitionSpec("x"))
    struct = jax.ShapeDtypeStruct((16, 2), "float32", sharding=sharding)
    tree = v1.load(tmp_path / "orbax", {"a": {"w": struct}})
    assert tree["a"]["w"].sharding == struct.sharding
    check(flattened(tree), expected)
    out = tmp_path / "model.safetensors"
    tf2flax.convert(prefix, out)
    sharding = NamedSharding(Mesh(np.array(jax.devices()), ("x",)), PartitionSpec("x"))
    struct = jax.ShapeDtypeStruct((16, 2), "float32", sharding=sharding)
    context = v1.Context(checkpoint_layout=v1.options.CheckpointLayout.SAFETENSORS)
    with context:
        tree = v1.load(out, {"a/w": struct})
    assert tree["a/w"].sharding == struct.sharding
    check(tree, expected)


def test_big_endian_and_sliced_sources(tmp_path: pathlib.Path, x64: None) -> None:
    """Bytes are swapped, and slices of any grid put together, in every format."""
    table = np.arange(24, dtype=np.float32).reshape(6, 4)
    expected = {"table": table, "v": np.arange(5, dtype=np.int64)}
    grid = [(slice(a, a + 3), slice(b, b + 2)) for a in (0, 3) for b in (0, 2)]
    for number, options in enumerate(
        (
            {"big_endian": True},
            {"slices": grid},
            {"slices": [(slice(0, 3), slice(None)), (slice(3, 6), slice(None))]},
        )
    ):
        prefix = tmp_path / f"m{number}"
        slices = options.get("slices")
        write_bundle(
            prefix,
            {
                "table": Tensor(table, slices),
                "v": Tensor(expected["v"]),
            },
            **({"big_endian": True} if "big_endian" in options else {}),
        )
        for name in ("safetensors", "npz", "orbax", "tensorbundle"):
            out = tmp_path / f"{number}.{name}"
            tf2flax.convert(prefix, out, format=name)
        check(safetensors.numpy.load_file(tmp_path / f"{number}.safetensors"), expected)
        check(dict(np.load(tmp_path / f"{number}.npz")), expected)
        check(
            ocp.StandardCheckpointer().restore(tmp_path / f"{number}.orbax"), expected
        )
        check(
            tf2flax.open_checkpoint(tmp_path / f"{number}.tensorbundle").read(),
            expected,
        )


@pytest.mark.parametrize("big_endian", [False, True])
def test_large_tensors_come_in_runs(
    tmp_path: pathlib.Path, big_endian: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those of one row: a run is then a part of it."""
    monkeypatch.setattr(in_order, "IN_FLIGHT_NBYTES", 1 << 12)
    monkeypatch.setattr(source, "BATCH_NBYTES", 1 << 12)
    monkeypatch.setattr("tf2flax._export.outputs._SYNC_NBYTES", 1 << 12)
    shapes = [(5000,), (1, 5000), (1, 1, 70, 70), (1, 1000, 5), (70, 70), (5000, 1)]
    expected = {
        "x".join(map(str, shape)): np.arange(np.prod(shape), dtype="i8").reshape(shape)
        for shape in shapes
    }
    tensors = {name: Tensor(array) for name, array in expected.items()}
    halves = [(slice(0, 30), slice(None)), (slice(30, 70), slice(None))]
    tensors["70x70"] = Tensor(expected["70x70"], halves)
    write_bundle(tmp_path / "m", tensors, big_endian=big_endian)
    boxes: list[Any] = []
    take = outputs.RawFile.take

    def counting(file: Any, tensor: Any, box: Any, array: Any) -> None:
        boxes.append(box)
        take(file, tensor, box, array)

    monkeypatch.setattr(outputs.RawFile, "take", counting)
    tf2flax.convert(tmp_path / "m", tmp_path / "s.safetensors")
    assert len(boxes) > 2 * len(expected)  # they were cut
    check(safetensors.numpy.load_file(tmp_path / "s.safetensors"), expected)
    tf2flax.convert(tmp_path / "m", tmp_path / "o", format="orbax")
    with jax.enable_x64(True):
        check(ocp.StandardCheckpointer().restore(tmp_path / "o"), expected)
    tf2flax.convert(tmp_path / "m", tmp_path / "n.npz")
    with np.load(tmp_path / "n.npz") as archive:
        assert archive.files == sorted(expected)
        check(dict(archive), expected)
    tf2flax.convert(tmp_path / "m", tmp_path / "t", format="tensorbundle")
    written = tf2flax.open_checkpoint(tmp_path / "t")
    assert written.verify().ok
    check(written.read(), expected)
    assert len(written["70x70"].slices) == 2


def test_references_to_what_lies_in_other_orders(
    tmp_path: pathlib.Path, x64: None
) -> None:
    """Big-endian, transposed, reshaped and row-sliced tensors need no copy."""
    kernel = np.arange(24, dtype=np.float32).reshape(6, 4)
    large = np.arange(1 << 20, dtype=np.float32).reshape(1024, 1024)
    write_bundle(
        tmp_path / "big",
        {"kernel": Tensor(kernel), "flags": Tensor(np.array([1, 2], np.uint8))},
        big_endian=True,
    )
    out = tmp_path / "big.orbax"
    tf2flax.convert(tmp_path / "big", out, format="orbax", by_reference=True)
    read = ocp.StandardCheckpointer().restore(out)
    assert same(read["kernel"], kernel)
    rows = [(slice(0, 3), slice(None)), (slice(3, 6), slice(None))]
    write_bundle(
        tmp_path / "m",
        {
            "kernel": Tensor(kernel),
            "table": Tensor(kernel, rows),
            "large": Tensor(large),
        },
    )
    out = tmp_path / "m.orbax"
    tf2flax.convert(
        tmp_path / "m",
        out,
        format="orbax",
        by_reference=True,
        assignment_map=[
            (tf2flax.src("kernel").transpose(), "turned"),
            (tf2flax.src("kernel").reshape(2, 3, 4), "shaped"),
            (tf2flax.src("large").transpose(), "large"),
            ("table", "table"),
        ],
    )
    read = ocp.StandardCheckpointer().restore(out)
    expected = {
        "turned": kernel.T, "shaped": kernel.reshape(2, 3, 4), "table": kernel,
        "large": large.T,
    }  # fmt: skip
    check(read, {name: np.ascontiguousarray(a) for name, a in expected.items()})
    write_bundle(
        tmp_path / "s",
        {
            "table": Tensor(
                kernel, [(slice(0, 4), slice(None)), (slice(4, 6), slice(None))]
            )
        },
    )
    with pytest.raises(
        tf2flax.UnsupportedError, match=r"`table`.*rows of equal number"
    ):
        tf2flax.convert(
            tmp_path / "s", tmp_path / "s.orbax", format="orbax", by_reference=True
        )
    with pytest.raises(tf2flax.UnsupportedError, match=r"`x`: more is done"):
        tf2flax.convert(
            tmp_path / "m",
            tmp_path / "x.orbax",
            format="orbax",
            by_reference=True,
            assignment_map=[(tf2flax.src("kernel")[1:], "x")],
        )
    assert not (tmp_path / "x.orbax").exists()


def test_a_square_in_slices_is_not_transposed_by_reference(
    tmp_path: pathlib.Path,
) -> None:
    square = np.arange(16, dtype=np.float32).reshape(4, 4)
    rows = [(slice(0, 2), slice(None)), (slice(2, 4), slice(None))]
    write_bundle(tmp_path / "m", {"t": Tensor(square, rows)})
    options: Any = {
        "format": "orbax",
        "assignment_map": [(tf2flax.src("t").transpose(), "t")],
    }
    with pytest.raises(tf2flax.UnsupportedError, match="reshaped or transposed"):
        tf2flax.convert(tmp_path / "m", tmp_path / "o", by_reference=True, **options)
    tf2flax.convert(tmp_path / "m", tmp_path / "o", **options)
    assert same(ocp.StandardCheckpointer().restore(tmp_path / "o")["t"], square.T)


def test_names_that_orbax_encodes(tmp_path: pathlib.Path) -> None:
    """Their base64 has characters in which its two alphabets differ."""
    expected = {name: np.ones(2, np.float32) for name in ("ab>", "ab?", "uniné世😀")}
    tf2flax.convert(expected, tmp_path / "o", format="orbax")
    check(ocp.StandardCheckpointer().restore(tmp_path / "o"), expected)


def test_references_beside_the_checkpoint(tmp_path: pathlib.Path) -> None:
    expected = {"a/w": np.arange(6, dtype=np.float32)}
    prefix = saved(tmp_path / "tf", expected)
    options: Any = {"format": "orbax", "by_reference": "beside"}
    tf2flax.convert(prefix, tmp_path, **options)
    check(flattened(ocp.StandardCheckpointer().restore(tmp_path)), expected)
    assert list(tf2flax.open_checkpoint(prefix)) == ["a/w"]
    with pytest.raises(tf2flax.ExistsError, match=r"manifest\.ocdbt"):
        tf2flax.convert(prefix, tmp_path, **options)
    tf2flax.convert(prefix, tmp_path, **options, overwrite=True)
    # Orbax reads a file called `checkpoint` as its own.
    with pytest.raises(tf2flax.AssignmentError, match="state file"):
        tf2flax.convert(prefix, tmp_path / "tf", **options)
    with pytest.raises(tf2flax.AssignmentError, match="does not lie below"):
        tf2flax.convert(prefix, tmp_path / "elsewhere", **options)


def test_verify_finds_bytes_that_changed_behind_a_reference(
    tmp_path: pathlib.Path,
) -> None:
    prefix = saved(tmp_path, {"a": np.arange(64, dtype=np.float32), "s": b"text"})
    out = tmp_path / "orbax"
    report = tf2flax.convert(prefix, out, format="orbax", by_reference=True)
    assert report.left_out == ("s",)
    assert tf2flax.open_checkpoint(out).verify().ok
    data = pathlib.Path(f"{prefix}.data-00000-of-00001")
    stored = bytearray(data.read_bytes())
    stored[8] ^= 1
    data.write_bytes(stored)
    (damage,) = tf2flax.open_checkpoint(out).verify().damaged
    assert damage.name == "a"


@pytest.mark.parametrize("format", ["npz", "safetensors"])
@pytest.mark.parametrize("assignment_map", [None, {"/": "/"}])
def test_object_graphs_are_left_out(
    format: Any, assignment_map: Any, tmp_path: pathlib.Path
) -> None:
    exported = "tests/data/keras3_export/functional-3.15.1"
    report = tf2flax.convert(
        exported, tmp_path / "x", format=format, assignment_map=assignment_map
    )
    assert report.left_out == ("_CHECKPOINTABLE_OBJECT_GRAPH",)
    assert len(report.written) == len(tf2flax.open_checkpoint(exported)) - 1
    assert "strings, left out: `_CHECKPOINTABLE_OBJECT_GRAPH`" in str(report)
    assert "open_checkpoint(path).by_variable_name()" in str(report)
    view = tf2flax.open_checkpoint(exported).by_variable_name()
    report = tf2flax.convert(view, tmp_path / "y", format=format)
    assert "by_variable_name" not in str(report)


def test_a_complex_dtype_is_proposed_for_a_complex_one(tmp_path: pathlib.Path) -> None:
    prefix = saved(tmp_path, {"c": np.array([1 + 2j]), "d": np.array([0.5])})
    out = tmp_path / "m.safetensors"
    with pytest.raises(tf2flax.UnsupportedError, match='regex, "complex64"') as caught:
        tf2flax.convert(prefix, out)
    assert "float32" not in str(caught.value)
    tf2flax.convert(prefix, out, dtype=[("c", "complex64")])
