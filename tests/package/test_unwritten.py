"""Every way to read gives every element: nothing is returned that nobody wrote.

The suite runs with fresh memory poisoned (tests/conftest.py). Ranks of 0 and sizes of 0
come often here, since they are where views turn into copies.
"""

from __future__ import annotations

import ast
import pathlib
from typing import Any

import bundle_writer
import h5py
import jax
import ml_dtypes
import numpy as np
import pytest
import v1_writer
from bundle_writer import Tensor, rows_in
from hypothesis import given, settings
from hypothesis import strategies as st
from sources import package_sources

import tf2flax
from tf2flax._base import memory

DTYPES = [
    np.dtype(getattr(ml_dtypes, name, name))
    for name in bundle_writer.CODES
    if name != "object"
]
# With x64 off JAX narrows them, and tf2flax refuses.
WIDE = {np.dtype(name) for name in ("int64", "uint64", "float64", "complex128")}


def test_memory_is_poisoned() -> None:
    # Of tests alone: conftest.py sets the switch before anything is imported.
    assert np.isnan(memory.empty((3,), np.float32)).all()
    assert (memory.aligned_empty((2, 2), np.dtype("i4")) == -1).all()
    assert memory.empty((2,), object).tolist() == [None, None]
    assert memory.empty((), np.float32).shape == ()


def test_memory_is_allocated_and_viewed_in_one_file() -> None:
    """Elsewhere `out[index]` of rank 0 is a copy, and `np.empty` is not poisoned."""
    wrong: list[str] = []
    for name, source in package_sources().items():
        if name.endswith("/memory.py"):
            continue
        for node in source.nodes:
            where = f"{name}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Attribute) and (
                (node.attr.startswith("empty") or node.attr == "__new__")
                and ast.unparse(node).startswith(("np.empty", "np.ndarray.__new__"))
            ):
                wrong.append(f"{where} allocates")
            if isinstance(node, ast.Subscript):
                index = ast.dump(node.slice)
                is_part = "attr='within'" in index
                has_dots = "Starred" in index and "Constant(value=Ellipsis)" in index
                if is_part or has_dots:
                    wrong.append(f"{where} takes a part: `view_at` does")
    assert wrong == []


@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 3), (2, 0, 3)])
def test_a_view_is_written_through(shape: tuple[int, ...]) -> None:
    array = memory.empty(shape, np.float32)
    memory.view_at(array, tuple(slice(0, n) for n in shape))[...] = 7
    assert (array == 7).all()
    assert np.shares_memory(array, memory.view_at(array, ())) == bool(array.size)


def bits(array: Any) -> tuple[tuple[int, ...], str, bytes | list[Any]]:
    """All that there is to compare."""
    array = np.array(array, object if isinstance(array, bytes) else None)
    if array.dtype == object:
        return array.shape, "object", array.ravel().tolist()
    return array.shape, array.dtype.name, array.tobytes()


@st.composite
def arrays(draw: st.DrawFn, dtypes: list[np.dtype]) -> np.ndarray:
    """Small arrays of any bits; a quarter of them of rank 0, another of size 0."""
    shape = tuple(draw(st.lists(st.sampled_from([0, 1, 2, 3]), max_size=3)))
    if draw(st.integers(0, 4)) == 0:
        shape = ()
    size = int(np.prod(shape, dtype=int))
    if draw(st.integers(0, 7)) == 0:
        out = np.empty(size, object)
        out[:] = [draw(st.binary(max_size=5)) for _ in range(size)]
        return out.reshape(shape)
    dtype = draw(st.sampled_from(dtypes))
    width = {"int4": 16, "uint4": 16, "float4_e2m1fn": 16, "int2": 4, "uint2": 4}
    values = draw(st.lists(st.integers(0, 254), min_size=16, max_size=16))
    raw = np.resize(np.array(values, np.uint8), size * dtype.itemsize)
    if dtype.kind == "b":
        return (raw % 2).astype(bool).reshape(shape)
    if dtype.name in width:
        signed = raw % width[dtype.name]
        return signed.astype(np.uint8).view(dtype).reshape(shape)
    return raw.view(dtype).reshape(shape)


@st.composite
def tensors(draw: st.DrawFn, dtypes: list[np.dtype]) -> dict[str, Tensor]:
    """Some tensors, whole or in slices, in several data files."""
    found: dict[str, Tensor] = {}
    for number in range(draw(st.integers(1, 4))):
        array = draw(arrays(dtypes))
        slices = None
        if array.ndim and draw(st.booleans()):
            axis = draw(st.integers(0, array.ndim - 1))
            count = draw(st.integers(1, array.shape[axis] + 1))  # one may be empty
            cut = rows_in(array, count, axis)
            slices = [box for i, box in enumerate(cut) if box not in cut[:i]]
        found[f"t{number}"] = Tensor(array, slices, data_file=number % 2)
    return found


def check_reads(
    checkpoint: tf2flax.Checkpoint, expected: dict[str, np.ndarray]
) -> None:
    """Compares every way to read."""
    everything = checkpoint.read()
    assert checkpoint.verify().ok
    for name, array in expected.items():
        tensor = checkpoint[name]
        wanted = bits(array)
        ways = {
            "read": tensor.read(),
            "not verified": tensor.read(verify=False),
            "[...]": tensor[...],
            "[()]": tensor[()],
            "asarray": np.asarray(tensor),
            "many": everything[name],
            "load_variable": tf2flax.load_variable(checkpoint.prefix, name),
        }
        try:
            view = tensor.open()
        except tf2flax.UnsupportedError:  # tensorstore lacks the dtype
            assert array.dtype.name in ("uint4", "uint2", "float4_e2m1fn")
        else:
            ways["open"] = view.read().result()
            ways["open, in part"] = view[...].read().result()
            assert bits(view.T.read().result()) == bits(array.T)
            if array.ndim and array.shape[0]:
                rows = slice(array.shape[0] - 1, None)
                assert bits(view[rows].read().result()) == bits(array[rows])
                assert bits(tensor[-1]) == bits(array[-1])
        for way, value in ways.items():
            assert bits(value) == wanted, (name, way)
        if array.size:
            # One element of it, as a scalar, by way of views and of layouts.
            index = tuple(n - 1 for n in array.shape)
            assert bits(tensor[index]) == bits(array[index])


def check_restores(
    checkpoint: tf2flax.Checkpoint, expected: dict[str, np.ndarray]
) -> None:
    """Compares what leaves are given: whole, merged after a transpose, one element."""
    source: dict[Any, Any] = {}
    target: dict[str, jax.ShapeDtypeStruct] = {}
    values: dict[str, np.ndarray] = {}

    def add(key: Any, name: str, value: np.ndarray) -> None:
        source[key] = name
        target[name] = jax.ShapeDtypeStruct(value.shape, value.dtype)
        values[name] = value

    for name, array in expected.items():
        if array.dtype == object or array.dtype in WIDE:
            continue
        tensor = tf2flax.src(name)
        add(name, f"{name}_whole", array)
        merged = array.transpose().reshape(-1)
        add(tensor.transpose().reshape(-1), f"{name}_merged", merged)
        add(tensor[None], f"{name}_new_axis", array[None])
        if array.size:
            last = merged.size - 1
            element = tensor.transpose().reshape(-1)[last : last + 1].reshape(())
            add(element, f"{name}_element", merged[last].reshape(()))
            inner = tuple(n - 1 for n in array.shape)
            add(tensor[inner], f"{name}_indexed", array[inner].reshape(()))
    if not source:
        return
    out = tf2flax.init_from_checkpoint(checkpoint, source, target)
    for name, value in values.items():
        assert bits(out[name]) == bits(value), name


@given(st.data())
@settings(max_examples=60)
def test_bundles(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    table = data.draw(tensors(DTYPES))
    prefix = tmp_path_factory.mktemp("bundle") / "m"
    bundle_writer.write_bundle(
        prefix, table, num_data_files=2, big_endian=data.draw(st.booleans())
    )
    expected = {name: tensor.array for name, tensor in table.items()}
    checkpoint = tf2flax.open_checkpoint(prefix)
    check_reads(checkpoint, expected)
    check_restores(checkpoint, expected)
    copy = tf2flax.save_checkpoint(prefix.with_name("copy"), checkpoint)
    for name, array in tf2flax.open_checkpoint(copy).read().items():
        assert bits(array) == bits(expected[name]), name


@given(st.data())
@settings(max_examples=25)
def test_v1_files(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    names = [np.dtype(getattr(ml_dtypes, name, name)) for name in v1_writer.FIELDS]
    table = data.draw(tensors(names))
    path = tmp_path_factory.mktemp("v1") / "m"
    v1_writer.write_v1(path, table)
    expected = {name: tensor.array for name, tensor in table.items()}
    checkpoint = tf2flax.open_checkpoint(path)
    check_reads(checkpoint, expected)
    check_restores(checkpoint, expected)


@given(st.data())
@settings(max_examples=15)
def test_hdf5_files(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    numeric = [np.dtype(name) for name in ("f4", "f2", "i4", "u1", "bool", "f8", "i8")]
    array = data.draw(arrays(numeric).filter(lambda array: array.dtype != object))
    path = tmp_path_factory.mktemp("hdf5") / "m.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("layer")
        chunked = bool(array.size and array.ndim and data.draw(st.booleans()))
        options = {"compression": "gzip", "shuffle": True} if chunked else {}
        group.create_dataset("w:0", data=array, **options)
        file.attrs["layer_names"] = [b"layer"]
        group.attrs["weight_names"] = [b"w:0"]
    checkpoint = tf2flax.open_checkpoint(path)
    (name,) = checkpoint
    check_reads(checkpoint, {name: array})
    check_restores(checkpoint, {name: array})


def test_a_scalar_in_slices_is_refused(tmp_path: pathlib.Path) -> None:
    # TensorFlow takes it for a tensor without bytes: "stored size 0; expected size 4".
    scalar = Tensor(np.float32(3).reshape(()), slices=[()])
    bundle_writer.write_bundle(tmp_path / "m", {"s": scalar, "w": Tensor(np.ones(2))})
    checkpoint = tf2flax.open_checkpoint(tmp_path / "m")
    with pytest.raises(tf2flax.DamagedError, match="a scalar to be stored whole"):
        checkpoint["s"]
    assert [damage.name for damage in checkpoint.verify().damaged] == ["s"]
    assert checkpoint["w"].read().tolist() == [1, 1]
