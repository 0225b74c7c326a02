"""What is saved is read again; what cannot be is refused; nothing is left half done."""

from __future__ import annotations

import concurrent.futures
import itertools
import math
import os
import pathlib
import time
import tracemalloc
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from bundle_writer import Tensor, write_bundle
from flax import linen, nnx
from forking import run_forked
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from repository import ROOT

import tf2flax
from tf2flax._base.values import STORED_DTYPES
from tf2flax._storage import local_destination
from tf2flax._writing import parts as bundle_parts

DATA = ROOT / "tests" / "data"
READABLE = [
    dtype.numpy
    for dtype in STORED_DTYPES.values()
    if dtype.is_readable and not dtype.name.startswith(("q", "string"))
]


def read(prefix: str | pathlib.Path) -> dict[str, np.ndarray]:
    checkpoint = tf2flax.open_checkpoint(prefix)
    assert checkpoint.verify().ok
    return checkpoint.read()


def equal(got: np.ndarray, want: np.ndarray) -> bool:
    if (got.dtype, got.shape) != (want.dtype, want.shape):
        return False
    if want.dtype == object:
        return got.tolist() == want.tolist()
    return got.tobytes() == want.tobytes()


@pytest.mark.parametrize("dtype", READABLE, ids=str)
def test_every_dtype(tmp_path: pathlib.Path, dtype: np.dtype) -> None:
    array = np.array([0, 1, 1, 0, 1, 0]).astype(dtype).reshape(2, 3)
    tensors = {"a": array, "s": array[0, 1], "z": array[:0], "t": array.T}
    prefix = tf2flax.save_checkpoint(tmp_path / "m", tensors)
    got = read(prefix)
    for name, want in tensors.items():
        assert equal(got[name], np.asarray(want)), name


ARRAYS = hnp.arrays(
    st.sampled_from(["<f4", ">f8", "<i2", ">u4", "u1", "?", "<c8", ">c16", "<f2"]),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6),
)


@given(
    tensors=st.dictionaries(st.text(min_size=1, max_size=9), ARRAYS, min_size=1),
    data_files=st.integers(1, 4),
)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    tensors: dict[str, np.ndarray],
    data_files: int,
) -> None:
    prefix = tmp_path_factory.mktemp("saved") / "m"
    tf2flax.save_checkpoint(prefix, tensors, data_files=data_files)
    got = read(prefix)
    assert got.keys() == tensors.keys()
    for name, want in tensors.items():
        assert equal(got[name], want.astype(want.dtype.newbyteorder("="))), name


def test_strings_and_scalars(tmp_path: pathlib.Path) -> None:
    tensors = {
        "bytes": np.array([[b"", b"a\0"], [b"\xff" * 300, b"x"]], object),
        "text": np.array(["é", "b"]),
        "fixed": np.array([b"ab", b"c"]),
        "variable": np.array(["é" * 40, ""], np.dtypes.StringDType()),
        "one": "text",
        "two": b"\0",
        "none": np.empty((0, 3), object),
        "flag": True,
        "step": 7,
        "rate": 0.5,
    }
    got = read(tf2flax.save_checkpoint(tmp_path / "m", tensors))
    assert got["bytes"].tolist() == [[b"", b"a\0"], [b"\xff" * 300, b"x"]]
    assert got["text"].tolist() == ["é".encode(), b"b"]
    assert got["fixed"].tolist() == [b"ab", b"c"]
    assert got["variable"].tolist() == [("é" * 40).encode(), b""]
    assert (got["one"][()], got["two"][()]) == (b"text", b"\0")
    assert got["none"].shape == (0, 3)
    assert [got[n].tolist() for n in ("flag", "step", "rate")] == [True, 7, 0.5]


@pytest.mark.parametrize(
    ("folder", "prefix"),
    [
        ("wide_deep_partitioned", "model.ckpt"),
        ("dtypes", "model.ckpt"),
        ("names", "model.ckpt"),
        ("names", "model.ckpt-sliced"),
        ("v1_format", "model.ckpt"),
        ("tf2_object", "object.ckpt"),
    ],
)
def test_checkpoints_are_written_as_they_are(
    tmp_path: pathlib.Path, folder: str, prefix: str
) -> None:
    source = tf2flax.open_checkpoint(DATA / folder / prefix)
    unreadable = [n for n, t in source.items() if not t.entry.spec.dtype.is_readable]
    kept = {name: t for name, t in source.items() if name not in unreadable}
    tree = kept if unreadable else source
    saved = tf2flax.open_checkpoint(
        tf2flax.save_checkpoint(tmp_path / "m", tree, data_files=3)
    )
    assert list(saved) == list(kept)
    for name, tensor in saved.items():
        assert tensor.slices == source[name].slices
        assert repr(tensor) == repr(source[name])
        assert equal(tensor.read(), source[name].read()), name


def test_trees_of_every_kind(tmp_path: pathlib.Path) -> None:
    dense = linen.Dense(3)
    variables = dense.init(jax.random.key(0), jnp.ones((1, 2)))
    module = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    trees = {"linen": variables, "nnx": module, "state": nnx.state(module)}
    names = {"linen": ["params/bias", "params/kernel"]}
    for kind, tree in trees.items():
        prefix = tf2flax.save_checkpoint(tmp_path / kind, tree)
        assert list(read(prefix)) == names.get(kind, ["bias", "kernel"])
        got = tf2flax.init_from_checkpoint(prefix, {"/": "/"}, tree, dtype="exact")
        same = jax.tree.map(lambda a, b: bool((a == b).all()), got, tree)
        assert all(jax.tree.leaves(same)) if kind != "nnx" else True
    mixed = {"a": [jnp.ones(2), {"b": 3, "c": 0.5}], "w/part_0": jnp.ones(1)}
    got = read(tf2flax.save_checkpoint(tmp_path / "mixed", mixed))
    assert list(got) == ["a/0", "a/1/b", "a/1/c", "w/part_0"]
    assert (got["a/1/b"].dtype, got["a/1/c"].dtype) == (np.int32, np.float32)


def test_scalars_of_trees_keep_their_values(tmp_path: pathlib.Path) -> None:
    tree = {
        "opt": {
            "step": 2**40, "low": -(2**40), "edge": 2**31, "most": 2**63,
            "rate": 1e300, "inf": float("inf"), "nan": float("nan"), "z": 1e300j,
            "flag": True, "few": 7, "own": np.float64(1.1),
            "own_z": np.complex128(1.1j),
        }
    }  # fmt: skip
    got = read(tf2flax.save_checkpoint(tmp_path / "m", tree))
    for name, want in tree["opt"].items():
        value = got[f"opt/{name}"].item()
        assert value == want or (value != value and name == "nan")
    dtypes = {
        name.removeprefix("opt/"): str(array.dtype) for name, array in got.items()
    }
    assert dtypes == {
        "step": "int64", "low": "int64", "edge": "int64", "most": "uint64",
        "rate": "float64", "inf": "float32", "nan": "float32", "z": "complex128",
        "flag": "bool", "few": "int32", "own": "float64", "own_z": "complex128",
    }  # fmt: skip
    for huge in (2**64, -(2**63) - 1, 10**5000):
        with pytest.raises(
            tf2flax.AssignmentError, match="Leaf `a/b` is an integer of"
        ):
            tf2flax.save_checkpoint(tmp_path / "huge", {"a": {"b": huge}})


def parts(*shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {f"part_{i}": np.full(shape, i, "<f4") for i, shape in enumerate(shapes)}


@pytest.mark.parametrize(
    ("shapes", "axis"),
    [
        (((3, 2), (1, 2)), 0),
        (((3, 2), (3, 1)), 1),
        (((3, 2), (3, 2)), 0),
        (((2, 0, 4), (2, 3, 4), (2, 1, 4)), 1),
        (((4,), (4,), (4,)), 0),
        (tuple((1, 2) for _ in range(12)), 0),
        (((2, 0), (3, 0)), 0),
    ],
)
def test_families(
    tmp_path: pathlib.Path, shapes: tuple[tuple[int, ...], ...], axis: int
) -> None:
    family = parts(*shapes)
    prefix = tf2flax.save_checkpoint(tmp_path / "m", {"scope": {"w": family}})
    checkpoint = tf2flax.open_checkpoint(prefix)
    assert list(checkpoint) == ["scope/w"]
    ordered = [family[f"part_{i}"] for i in range(len(shapes))]
    # TensorFlow 1 reads no tensor of which a slice is empty.
    filled = [part for part in ordered if part.size]
    assert len(checkpoint["scope/w"].slices) == len(filled)
    want = np.concatenate(ordered, axis)
    assert equal(checkpoint["scope/w"].read(), want)


def test_parts_that_are_empty(tmp_path: pathlib.Path) -> None:
    """They are left out, since TensorFlow 1 reads no tensor of which one is stored."""
    cases: list[tuple[tuple[tuple[int, ...], ...], int]] = [
        (((0, 2), (0, 2)), 0), (((0, 2), (0, 2), (3, 2), (0, 2)), 0),
    ]  # fmt: skip
    for sizes in itertools.product((0, 2), repeat=3):
        cases += [(tuple((n,) for n in sizes), 0), (tuple((2, n) for n in sizes), 1)]
        cases += [(tuple((n, 0) for n in sizes), 0)]
    for i, (shapes, axis) in enumerate(cases):
        if len({*shapes}) == 1:
            axis = 0
        family = {f"part_{j}": np.full(s, j, "<f4") for j, s in enumerate(shapes)}
        prefix = tf2flax.save_checkpoint(tmp_path / f"{i}", {"s": {"w": family}})
        want = np.concatenate([*family.values()], axis)
        # Also what is read again is, and what others have stored so.
        for path in (
            prefix,
            tf2flax.save_checkpoint(f"{prefix}-again", reopened(prefix)),
        ):
            tensor = reopened(path)["s/w"]
            assert equal(tensor.read(), want), shapes
            filled = sum(part.size > 0 for part in family.values())
            assert len(tensor.slices) == (filled if filled > 1 else 0), shapes


def reopened(path: str) -> tf2flax.Checkpoint:
    return tf2flax.open_checkpoint(path)


@pytest.mark.parametrize("cuts", [(0, 4, 4), (0, 0, 4), (0, 2, 2, 4), (0, 4), (0, 0)])
def test_empty_slices_that_others_have_stored(
    tmp_path: pathlib.Path, cuts: tuple[int, ...]
) -> None:
    array = np.arange(12, dtype="<f4").reshape(4, 3)[: cuts[-1]]
    rows = [(slice(a, b), slice(0, 3)) for a, b in itertools.pairwise(cuts)]
    write_bundle(tmp_path / "m", {"t": Tensor(array, slices=rows)})
    checkpoint = tf2flax.open_checkpoint(tmp_path / "m")
    assert len(checkpoint["t"].slices) == len(rows)
    plan = tf2flax.plan(checkpoint, {"t": "t"}, {"t": np.zeros(array.shape, "<f4")})
    for i, saved in enumerate(
        (
            tf2flax.save_checkpoint(tmp_path / "a", checkpoint),
            tf2flax.save_checkpoint(tmp_path / "b", plan.restore(), plan=plan),
        )
    ):
        tensor = reopened(saved)["t"]
        assert equal(tensor.read(), array), i
        assert all(part.stop > part.start for box in tensor.slices for part in box)


def test_what_is_no_family(tmp_path: pathlib.Path) -> None:
    one = {"w": {"part_0": np.ones(2)}}
    gap = {"w": {"part_0": np.ones(2), "part_2": np.ones(2)}}
    late = {"w": {"part_1": np.ones(2), "part_2": np.ones(2)}}
    zeros = {"w": {"part_0": np.ones(2), "part_01": np.ones(2)}}
    for i, tree in enumerate((one, gap, late, zeros)):
        got = read(tf2flax.save_checkpoint(tmp_path / str(i), tree))
        assert list(got) == [f"w/{name}" for name in tree["w"]]
    flat = {"w/part_0": np.ones(2), "w/part_1": np.ones(2)}
    got = read(tf2flax.save_checkpoint(tmp_path / "flat", flat))
    assert list(got) == list(flat)


@pytest.mark.parametrize(
    ("tree", "match"),
    [
        ({"w": parts((3, 2), (1, 1))}, "along several axes"),
        ({"w": parts((3, 2), (3,))}, "not slices of one tensor"),
        ({"w": parts((), ())}, "not slices of one tensor"),
        (
            {"w": {"part_0": np.ones(1, "<f4"), "part_1": np.ones(1)}},
            "differ in dtype: float32, float64",
        ),
        ({"a": {"w": parts((1,), (1,))}, "a/w": np.ones(1)}, "would be one tensor"),
        ({"a": {"b": None}}, "nothing to save"),
        ({"a": {"b": object()}}, "not an array but a object"),
        ({"a": np.array([1, "x", None], object)}, "one of which is a int"),
        (
            {"a": np.array(["x", None], np.dtypes.StringDType(na_object=None))},
            "one of which is a NoneType",
        ),
        ({"": np.ones(1)}, "needs a name"),
        ({"a": np.ma.masked_array([1, 2], [0, 1])}, "masked array"),
        ({"a": {"k": jax.random.key(0)}}, "key_data"),
        ({"a": {"s": jax.ShapeDtypeStruct((1,), "float32")}}, "ShapeDtypeStruct"),
        ({"a/b": np.ones(1), "a": {"b": np.ones(1)}}, "called `a/b`"),
        (np.ones(3), "needs a name"),
        ({}, "nothing to save"),
        ({"a": {}}, "no leaf|nothing to save"),
    ],
)
def test_what_cannot_be_saved(tmp_path: pathlib.Path, tree: Any, match: str) -> None:
    with pytest.raises(tf2flax.AssignmentError, match=match):
        tf2flax.save_checkpoint(tmp_path / "m", tree)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", ["datetime64[s]", "longdouble", "timedelta64[s]"])
def test_dtypes_that_no_checkpoint_holds(tmp_path: pathlib.Path, dtype: str) -> None:
    with pytest.raises(tf2flax.UnsupportedError, match="no TensorFlow checkpoint"):
        tf2flax.save_checkpoint(tmp_path / "m", {"a": np.zeros(1, dtype)})
    assert list(tmp_path.iterdir()) == []


def test_prefixes(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = {"a": np.ones(2)}
    monkeypatch.chdir(tmp_path)
    assert tf2flax.save_checkpoint("m", tree) == f"{tmp_path}/m"
    assert tf2flax.save_checkpoint(b"new/folder/m", tree) == f"{tmp_path}/new/folder/m"
    assert tf2flax.latest_checkpoint("new/folder") == "new/folder/m"
    for prefix in ("new", "new/", "", str(tmp_path)):
        with pytest.raises(tf2flax.AssignmentError, match="is a directory"):
            tf2flax.save_checkpoint(prefix, tree)
    for count in (0, -1, 100_000, 1.5, True):
        with pytest.raises(tf2flax.AssignmentError, match="data files"):
            tf2flax.save_checkpoint("n", tree, data_files=count)  # pyright: ignore
    (tmp_path / "file").write_text("")
    with pytest.raises(tf2flax.ReadError, match="Cannot write"):
        tf2flax.save_checkpoint("file/m", tree)


def test_what_is_there_is_not_replaced_unasked(tmp_path: pathlib.Path) -> None:
    first, second = {"a": np.ones(2)}, {"b": np.zeros(3)}
    prefix = tf2flax.save_checkpoint(tmp_path / "m", first, data_files=3)
    with pytest.raises(tf2flax.ExistsError, match="overwrite=True"):
        tf2flax.save_checkpoint(prefix, second)
    assert list(read(prefix)) == ["a"]
    tf2flax.save_checkpoint(tmp_path / "m-2", first)
    tf2flax.save_checkpoint(prefix, second, overwrite=True)
    assert list(read(prefix)) == ["b"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint",
        "m-2.data-00000-of-00001",
        "m-2.index",
        "m.data-00000-of-00001",
        "m.index",
    ]
    (tmp_path / "v1").write_bytes(b"")
    with pytest.raises(tf2flax.ExistsError):
        tf2flax.save_checkpoint(tmp_path / "v1", first)


def test_a_checkpoint_saved_over_itself(tmp_path: pathlib.Path) -> None:
    prefix = tf2flax.save_checkpoint(tmp_path / "m", {"a": np.arange(9)})
    checkpoint = tf2flax.open_checkpoint(prefix)
    tf2flax.save_checkpoint(prefix, checkpoint, overwrite=True)
    assert read(prefix)["a"].tolist() == list(range(9))


def test_the_state_file(tmp_path: pathlib.Path) -> None:
    tree = {"a": np.ones(2)}
    for name in ("m-1", "m-2", "m-1"):
        tf2flax.save_checkpoint(tmp_path / name, tree, overwrite=True)
    assert (tmp_path / "checkpoint").read_text() == (
        'model_checkpoint_path: "m-1"\n'
        'all_model_checkpoint_paths: "m-2"\n'
        'all_model_checkpoint_paths: "m-1"\n'
    )
    assert tf2flax.latest_checkpoint(tmp_path) == f"{tmp_path}/m-1"
    (tmp_path / "checkpoint").write_bytes(b"\xff not a state file")
    tf2flax.save_checkpoint(tmp_path / "m-3", tree)
    assert tf2flax.latest_checkpoint(tmp_path) == f"{tmp_path}/m-3"


@pytest.mark.parametrize("kind", ["directory", "unreadable", "unsynced", "leftover"])
def test_what_fails_once_the_checkpoint_is_there(
    kind: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said to be there, and what it makes stale is said as well."""
    old = {"w": np.ones(2, "f4"), "w/Adam": np.ones(2, "f4")}
    plan = tf2flax.plan(
        tf2flax.save_checkpoint(tmp_path / "m", old, data_files=2),
        {"w": "w"}, {"w": np.zeros(2, "f4")},
    )  # fmt: skip
    state = tmp_path / "checkpoint"

    def refuse(original: Any, place: str) -> Any:
        def call(path: Any, *arguments: Any, **options: Any) -> Any:
            if os.fspath(path) == place:
                raise OSError(5, "Input/output error")
            return original(path, *arguments, **options)

        return call

    words = f"The state file `{state}`.*Open the checkpoint by its prefix"
    with monkeypatch.context() as patch:
        if kind == "directory":
            state.unlink()
            state.mkdir()
        elif kind == "unreadable":
            patch.setattr("builtins.open", refuse(open, str(state)))
        elif kind == "unsynced":
            words = "Its folder could not be synced: Input/output error. Run"
            patch.setattr(os, "open", refuse(os.open, str(tmp_path)))
        else:
            place = f"{tmp_path}/m.data-00000-of-00002"
            words = f"`{place}`, which nothing needs, could not be removed: Input"
            patch.setattr(os, "unlink", refuse(os.unlink, place))
        with (
            pytest.warns(UserWarning, match="w/Adam"),
            pytest.raises(tf2flax.ReadError, match=words) as caught,
        ):
            tf2flax.save_checkpoint(
                tmp_path / "m", {"w": np.full(2, 7, "f4")}, plan=plan, overwrite=True
            )
    assert str(caught.value).startswith(
        f"The checkpoint `{tmp_path}/m` is written and complete. "
    )
    assert read(tmp_path / "m")["w"].tolist() == [7, 7]
    if not state.is_dir():
        assert tf2flax.latest_checkpoint(tmp_path) == f"{tmp_path}/m"


def test_of_many_files_that_are_left_some_are_named(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = {f"t{i}": np.ones(2) for i in range(9)}
    tf2flax.save_checkpoint(tmp_path / "m", tree, data_files=9)
    unlink = os.unlink

    def refuse(path: Any) -> None:
        if os.fspath(path).endswith("-of-00009"):
            raise OSError(5, "Input/output error")
        unlink(path)

    monkeypatch.setattr(os, "unlink", refuse)
    words = r"(could not be removed.*){3}Nor could 6 more of its old files"
    with pytest.raises(tf2flax.ReadError, match=words) as caught:
        tf2flax.save_checkpoint(tmp_path / "m", tree, overwrite=True)
    assert str(caught.value).count(".data-") == 3


def test_saves_side_by_side_are_all_named(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = local_destination.write_whole

    def slow(path: str, contents: bytes) -> None:
        time.sleep(0.005)
        write(path, contents)

    monkeypatch.setattr(local_destination, "write_whole", slow)
    names = [f"m-{i}" for i in range(8)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        save = tf2flax.save_checkpoint
        [*pool.map(lambda name: save(tmp_path / name, {"a": np.ones(2)}), names)]
    state = (tmp_path / "checkpoint").read_text()
    assert all(f'all_model_checkpoint_paths: "{name}"' in state for name in names)


@pytest.mark.parametrize(
    "spec", [(), ("a",), (None, "b"), ("a", "b"), (("a", "b"),), ("b", "a")]
)
def test_sharded_arrays(tmp_path: pathlib.Path, spec: tuple[Any, ...]) -> None:
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("a", "b"))
    array = np.arange(64, dtype="<f4").reshape(8, 8).astype(ml_dtypes.bfloat16)
    value = jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))
    got = read(tf2flax.save_checkpoint(tmp_path / "m", {"x": {"y": value}}))
    assert equal(got["x/y"], array)
    assert value._npy_value is None  # no copy stays on the host


def test_arrays_that_are_gone_or_traced(tmp_path: pathlib.Path) -> None:
    gone = jnp.ones(3)
    gone.delete()
    with pytest.raises(tf2flax.AssignmentError, match="deleted or donated"):
        tf2flax.save_checkpoint(tmp_path / "m", {"a": gone})
    with pytest.raises(tf2flax.UnsupportedError, match="traced"):
        jax.jit(lambda x: tf2flax.save_checkpoint(tmp_path / "m", {"a": x}))(1.0)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tf2flax.save_checkpoint(tmp_path / "m", {"a": np.ones(2)})
    present = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def full(descriptor: int, _: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    for name in ("m", "n"):
        with pytest.raises(tf2flax.ReadError, match="No space left"):
            tf2flax.save_checkpoint(tmp_path / name, {"b": np.ones(2)}, overwrite=True)
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == present
    assert list(read(before)) == ["a"]


def test_one_tensor_at_a_time(tmp_path: pathlib.Path) -> None:
    source = {f"t{i}": np.ones((1 << 20,), "<f4") for i in range(8)}
    checkpoint = tf2flax.open_checkpoint(
        tf2flax.save_checkpoint(tmp_path / "m", source)
    )
    tracemalloc.start()
    tf2flax.save_checkpoint(tmp_path / "again", checkpoint)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.5 * (4 << 20)


def test_saving_arrays_of_numpy_imports_no_jax(tmp_path: pathlib.Path) -> None:
    code = (
        "import sys, numpy, tf2flax\n"
        f"tf2flax.save_checkpoint({str(tmp_path / 'm')!r}, {{'a': numpy.ones(2)}})\n"
        "assert 'jax' not in sys.modules and 'tensorstore' not in sys.modules\n"
    )
    run_forked(code, check=True)


def save_and_die(prefix: pathlib.Path, value: int, count: int) -> bool:
    worker = ROOT / "tests" / "support" / "saving_worker.py"
    done = run_forked(worker.read_text(), prefix, value, count)
    assert done.returncode in (0, -9), done.stderr
    return done.stdout == "done"


def test_killed_at_any_moment(tmp_path: pathlib.Path) -> None:
    killed = 0
    for count in range(1, 200):
        folder = tmp_path / str(count)
        old = {f"t{i}": np.full((64, 64), 100 + i, "<f4") for i in range(4)}
        prefix = tf2flax.save_checkpoint(folder / "m", old, data_files=2)
        other = tf2flax.save_checkpoint(folder / "other", {"a": np.ones(1)})
        done = save_and_die(folder / "m", 500, count)
        for path in (prefix, folder):
            got = tf2flax.open_checkpoint(path).read()  # the old one or the new one
            if list(got) == ["a"]:
                continue  # the state file still names the other one
            values = [int(got[f"t{i}"][3, 5]) for i in range(4)]
            assert values in ([100, 101, 102, 103], [500, 501, 502, 503])
            assert all(len({*array.ravel().tolist()}) == 1 for array in got.values())
        assert read(other)["a"].tolist() == [1]
        if done:
            assert int(read(prefix)["t0"][0, 0]) == 500
            break
        killed += 1
    else:
        pytest.fail("it never came to its end")
    assert killed >= 20


@pytest.mark.parametrize("shape", [(3, 50), (50, 3), (2, 3, 50), (2, 50, 3), (2, 1, 4)])
def test_arrays_that_are_not_contiguous_are_copied_in_chunks(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_parts, "CHUNK_NBYTES", 64)
    array = np.arange(math.prod(shape), dtype="<f4").reshape(shape[::-1]).T
    copied: list[int] = []
    contiguous = np.ascontiguousarray

    def counted(part: np.ndarray, dtype: np.dtype) -> np.ndarray:
        copied.append(part.nbytes)
        return contiguous(part, dtype)

    monkeypatch.setattr(np, "ascontiguousarray", counted)
    chunks = [bytes(chunk) for chunk in bundle_parts._chunks(array, np.dtype("<f4"))]
    assert b"".join(chunks) == array.tobytes()
    assert sum(copied) in (0, array.nbytes)
    assert max([*copied, *map(len, chunks)]) <= 64
