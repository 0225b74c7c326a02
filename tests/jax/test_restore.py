"""Restoring: dtypes, aliases, partitions, placement, and what is left as it was."""

from __future__ import annotations

import json
import pathlib
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from bundle_writer import Tensor, rows_in, write_bundle
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

import tf2flax

SDS = jax.ShapeDtypeStruct


@pytest.fixture
def prefix(tmp_path: pathlib.Path) -> pathlib.Path:
    rng = np.random.RandomState(0)
    write_bundle(
        tmp_path / "m",
        {
            "f32": rng.rand(4, 3).astype(np.float32),
            "f64": np.array([1.5, 1e300, np.inf, np.nan]),
            "f16": np.array([1.5, -2], np.float16),
            "bf16": np.array([1.5, -2], ml_dtypes.bfloat16),
            "big": np.array([1e30, 70000.0], np.float32),
            "i64": np.array([1, 2**40]),
            "step": np.array(7),
            "u8": np.array([0, 200], np.uint8),
            "u64": np.array([2**64 - 1, 3], np.uint64),
            "flag": np.array([True, False]),
            "c64": np.array([1 + 2j], np.complex64),
            "c128": np.array([1 + 2j]),
            "text": np.array([b"a"], object),
            "bn/gamma": np.full(3, 2, np.float32),
            "bn/beta": np.full(3, 3, np.float32),
            "bn/moving_mean": np.full(3, 4, np.float32),
            "bn/moving_variance": np.full(3, 5, np.float32),
            "fc/weights": np.full((3, 2), 6, np.float32),
            "fc/biases": np.full(2, 7, np.float32),
            "both/beta": np.zeros(2, np.float32),
            "both/biases": np.zeros(2, np.float32),
            "rows": Tensor(
                np.arange(200, dtype=np.float32).reshape(100, 2),
                rows_in(np.zeros((100, 2)), 3),
            ),
            "columns": np.arange(64, dtype=np.float32).reshape(4, 16),
        },
    )
    return tmp_path / "m"


def load(prefix: pathlib.Path, source: str, leaf: Any, **options: Any) -> Any:
    return tf2flax.init_from_checkpoint(prefix, {source: "x"}, {"x": leaf}, **options)[
        "x"
    ]


# stored, leaf's dtype, the dtype option, what comes out ("" where it is refused).
DTYPES = [
    ("f32", "float32", None, "float32"),
    ("f32", "bfloat16", None, "bfloat16"),
    ("f32", "float16", None, "float16"),
    ("f16", "float32", None, "float32"),
    ("bf16", "float32", None, "float32"),
    ("f32", "float8_e4m3fn", None, "float8_e4m3fn"),
    ("step", "int32", None, "int32"),
    ("u8", "int32", None, "int32"),
    ("u8", "int8", None, ""),  # 200
    ("i64", "int32", None, ""),  # 2**40
    ("u64", "int32", None, ""),
    ("flag", "bool", None, "bool"),
    ("c128", "complex64", None, "complex64"),
    ("big", "float16", None, ""),  # 1e30 would become inf
    ("f64", "float32", None, ""),  # 1e300 would become inf
    ("f32", "int32", None, ""),
    ("step", "float32", None, ""),
    ("flag", "int32", None, ""),
    ("c64", "float32", None, ""),
    ("text", "float32", None, ""),
    ("text", "float32", "float32", ""),
    ("f32", "float32", "exact", "float32"),
    ("f32", "bfloat16", "exact", ""),
    ("step", "int32", "exact", ""),
    ("f16", "float32", "checkpoint", "float16"),
    ("u8", "float32", "checkpoint", "uint8"),
    ("f32", "float32", "bfloat16", "bfloat16"),
    ("f32", "float32", jnp.float16, "float16"),
    ("i64", "int32", "int32", "int32"),  # forced: wraps
    ("f32", "float32", "int32", "float32"),  # not of its kind: as None
    ("f32", "float32", [("^x$", "int32")], "int32"),  # pairs force any
    ("f32", "float32", [("^y$", "int32")], "float32"),
    ("i64", "int32", [("x", "float16")], "float16"),
    ("c64", "float32", "float32", "float32"),
    # x64 is off
    ("i64", "int32", "checkpoint", ""),
    ("f64", "float32", "checkpoint", ""),
    ("f32", "float32", "float64", ""),
    ("c128", "complex64", "checkpoint", ""),
]


@pytest.mark.parametrize(("source", "leaf", "option", "result"), DTYPES)
def test_dtypes(
    prefix: pathlib.Path, source: str, leaf: str, option: Any, result: str
) -> None:
    stored = tf2flax.load_variable(prefix, source)
    dtype = np.dtype(getattr(ml_dtypes, leaf, leaf))
    target = SDS(np.shape(stored), dtype)
    if not result:
        with pytest.raises(tf2flax.AssignmentError, match="`x`"):
            load(prefix, source, target, dtype=option)
        return
    got = load(prefix, source, target, dtype=option)
    assert got.dtype.name == result
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = np.asarray(stored).astype(got.dtype)
    assert np.asarray(got).tobytes() == expected.tobytes()


def test_x64(prefix: pathlib.Path) -> None:
    with pytest.raises(tf2flax.AssignmentError, match="jax_enable_x64"):
        load(prefix, "i64", np.zeros(2, np.int64))
    with jax.enable_x64(True):
        assert load(prefix, "i64", np.zeros(2, np.int64)).tolist() == [1, 2**40]
        got = load(prefix, "f64", SDS((4,), np.float64))
        assert got.dtype == np.float64
        assert load(prefix, "step", 3).dtype == np.int64
        plan = tf2flax.plan(prefix, {"i64": "x"}, {"x": SDS((2,), np.int64)})
    with pytest.raises(tf2flax.AssignmentError, match="is off by now"):
        plan.restore()
    assert load(prefix, "step", 3).dtype == np.int32


def test_infinities_and_nans_survive_casts(tmp_path: pathlib.Path) -> None:
    values = np.array([np.inf, -np.inf, np.nan, 1e-60], np.float64)
    write_bundle(tmp_path / "m", {"v": values})
    got = np.asarray(load(tmp_path / "m", "v", SDS((4,), np.float32)))
    assert np.array_equal(got, values.astype(np.float32), equal_nan=True)
    with pytest.raises(tf2flax.AssignmentError, match="do not fit float8_e4m3fn"):
        load(tmp_path / "m", "v", SDS((4,), ml_dtypes.float8_e4m3fn))


def test_dtypes_that_jax_lacks(prefix: pathlib.Path) -> None:
    swapped = np.zeros((4, 3), ">f4")
    assert load(prefix, "f32", swapped).dtype == np.float32
    assert load(prefix, "f32", swapped, dtype=">f2").dtype == np.float16
    wide = np.zeros((4, 3), np.longdouble)
    with pytest.raises(tf2flax.AssignmentError, match="JAX has no dtype"):
        load(prefix, "f32", wide)
    with pytest.raises(tf2flax.AssignmentError, match="JAX has no dtype"):
        load(prefix, "f32", swapped, dtype=np.longdouble)


@pytest.mark.parametrize("option", ["float99", 3.5, object(), "string", "O"])
def test_dtype_options_that_are_none(prefix: pathlib.Path, option: Any) -> None:
    with pytest.raises(tf2flax.AssignmentError, match="Option dtype"):
        load(prefix, "f32", SDS((4, 3), "float32"), dtype=option)


def leaves(*names: str, shape: tuple[int, ...] = (3,)) -> dict[str, Any]:
    return {name: SDS(shape, "float32") for name in names}


def test_aliases_within_scopes(prefix: pathlib.Path) -> None:
    target = {
        "params": {
            "bn": leaves("scale", "bias"),
            "fc": {"kernel": SDS((3, 2), "float32"), "bias": SDS((2,), "float32")},
        },
        "batch_stats": {"bn": leaves("mean", "var")},
    }
    entries = {"bn/": "params/bn/", "fc/": "params/fc/"}
    pairs = [*entries.items(), ("bn/", "batch_stats/bn/")]
    got = tf2flax.init_from_checkpoint(prefix, pairs, target)
    flat = {jax.tree_util.keystr(k): v for k, v in jax.tree.leaves_with_path(got)}
    assert [float(v.ravel()[0]) for v in flat.values()] == [4, 5, 3, 2, 7, 6]
    with pytest.raises(tf2flax.AssignmentError, match="Option aliases"):
        tf2flax.plan(prefix, pairs, target, aliases=None)


def test_aliases_are_for_scopes_and_missing_names_only(prefix: pathlib.Path) -> None:
    with pytest.raises(tf2flax.AssignmentError, match="found no tensor `bn/scale`"):
        tf2flax.plan(prefix, {"bn/scale": "scale"}, leaves("scale"))
    own = {"gamma": ("beta",)}
    plan = tf2flax.plan(prefix, {"bn/": "/"}, leaves("gamma"), aliases=own)
    assert [a.source for a in plan.assignments] == ["bn/gamma"]
    both = leaves("bias", shape=(2,))
    with pytest.raises(tf2flax.AssignmentError, match="could both fill leaf `bias`"):
        tf2flax.plan(prefix, {"both/": "/"}, both)
    extended = {**tf2flax.FLAX_ALIASES, "bias": ("biases",)}
    plan = tf2flax.plan(prefix, {"both/": "/"}, both, aliases=extended)
    assert [(a.source, a.alias) for a in plan.assignments] == [("both/biases", "bias")]
    for wrong in ("gamma", {"scale": "gamma"}, {3: ("a",)}, {"a": (3,)}, ["a"]):
        with pytest.raises(tf2flax.AssignmentError, match="Option aliases"):
            tf2flax.plan(prefix, {}, {}, aliases=wrong)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("sizes", [[100], [34, 33, 33], [50, 50], [1, 99], [0, 100]])
def test_slices_into_any_partitioning(prefix: pathlib.Path, sizes: list[int]) -> None:
    parts = {f"t/part_{i}": SDS((n, 2), "float32") for i, n in enumerate(sizes)}
    got = tf2flax.init_from_checkpoint(prefix, {"rows": "t"}, parts)
    whole = np.concatenate([got[name] for name in parts])
    assert np.array_equal(whole, np.arange(200, dtype=np.float32).reshape(100, 2))


def test_parts_along_another_axis_in_lists(prefix: pathlib.Path) -> None:
    target = {f"t/part_{i}": np.zeros((4, n), np.float32) for i, n in enumerate([9, 7])}
    chosen = [target["t/part_1"]]
    got = tf2flax.init_from_checkpoint(prefix, {"columns": chosen}, target)
    whole = tf2flax.load_variable(prefix, "columns")
    assert np.array_equal(got["t/part_1"], whole[:, 9:])
    assert got["t/part_0"] is target["t/part_0"]


def test_committed_and_uncommitted(prefix: pathlib.Path) -> None:
    devices = jax.devices()
    host = np.zeros((4, 3), np.float32)
    free = jnp.zeros((4, 3))
    there = jax.device_put(free, devices[3])
    assert not load(prefix, "f32", host).committed
    assert not load(prefix, "f32", free).committed
    assert not load(prefix, "f32", SDS((4, 3), "float32")).committed
    got = load(prefix, "f32", there)
    assert got.committed
    assert got.devices() == {devices[3]}
    asked = SingleDeviceSharding(devices[2])
    got = load(prefix, "f32", SDS((4, 3), "float32", sharding=asked))
    assert got.sharding == asked
    got = load(prefix, "f32", there, sharding=asked)
    assert got.sharding == asked


@pytest.mark.parametrize(
    "spec", [("d", None), (None, "m"), ("d", "m"), (("d", "m"), None), ()]
)
def test_shardings_that_leaves_carry(prefix: pathlib.Path, spec: Any) -> None:
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("d", "m"))
    sharding = NamedSharding(mesh, PartitionSpec(*spec))
    shape = (4, 16)
    if spec and isinstance(spec[0], tuple):
        sharding = NamedSharding(mesh, PartitionSpec(None, ("d", "m")))
    got = load(prefix, "columns", SDS(shape, "float32", sharding=sharding))
    assert got.sharding == sharding
    assert np.array_equal(got, tf2flax.load_variable(prefix, "columns"))
    array = jax.device_put(jnp.zeros(shape), sharding)
    assert load(prefix, "columns", array).sharding == sharding


def test_shardings_that_do_not_fit(prefix: pathlib.Path) -> None:
    mesh = Mesh(np.array(jax.devices()), ("d",))
    rows = NamedSharding(mesh, PartitionSpec("d"))
    target = {"x": SDS((4, 3), "float32"), "y": SDS((), "int32")}
    entries = {"f32": "x", "step": "y"}
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.plan(prefix, entries, target, sharding=rows)
    assert "Leaf `x`: shape [4, 3] does not fit" in str(caught.value)
    assert "Leaf `y`: shape [] does not fit" in str(caught.value)
    abstract = NamedSharding(mesh.abstract_mesh, PartitionSpec())
    with pytest.raises(tf2flax.AssignmentError, match="AbstractMesh"):
        load(prefix, "step", SDS((), "int32", sharding=abstract))
    with pytest.raises(tf2flax.AssignmentError, match="Option sharding"):
        tf2flax.plan(prefix, {}, target, sharding="rows")


def test_one_tensor_fills_leaves_that_do_not_share_memory(
    prefix: pathlib.Path,
) -> None:
    target = {"a": SDS((4, 3), "float32"), "b": SDS((4, 3), "float32")}
    got = tf2flax.init_from_checkpoint(prefix, [("f32", "a"), ("f32", "b")], target)
    expected = tf2flax.load_variable(prefix, "f32")
    pointers = [got[name].unsafe_buffer_pointer() for name in "ab"]
    assert pointers[0] != pointers[1]
    assert all(pointer % 64 == 0 for pointer in pointers)
    double = jax.jit(lambda x: x * 2, donate_argnums=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        double(got["a"]).block_until_ready()
    assert np.array_equal(got["b"], expected)


def test_nothing_of_the_caller_changes_on_any_error(prefix: pathlib.Path) -> None:
    data = prefix.parent / "m.data-00000-of-00001"
    contents = bytearray(data.read_bytes())
    contents[10] ^= 1
    data.write_bytes(bytes(contents))
    target = {"x": np.zeros((4, 3), np.float32), "y": np.zeros(2, np.float32)}
    before = {name: array.copy() for name, array in target.items()}
    plan = tf2flax.plan(prefix, {"f32": "x", "fc/biases": "y"}, target)
    with pytest.raises(tf2flax.DamagedError, match="crc32c"):
        plan.restore()
    assert all(np.array_equal(target[name], before[name]) for name in before)
    unchecked = tf2flax.plan(
        prefix, {"f32": "x", "fc/biases": "y"}, target, verify=False
    ).restore()
    assert unchecked["y"].tolist() == [7, 7]


def test_tracing_is_refused(prefix: pathlib.Path) -> None:
    target = {"x": jnp.zeros((4, 3))}

    def load_inside(x: jax.Array) -> jax.Array:
        return tf2flax.init_from_checkpoint(prefix, {"f32": "x"}, {"x": x})["x"]

    for transform in (jax.jit, jax.vmap, lambda f: lambda x: jax.eval_shape(f, x)):
        with pytest.raises(tf2flax.UnsupportedError, match="while JAX is tracing"):
            transform(load_inside)(target["x"])


def test_scopes_that_reach_nothing_warn_once(prefix: pathlib.Path) -> None:
    entries = {"bn/": "nowhere/", "fc/": "neither/", "f32": "x"}
    target = {"x": SDS((4, 3), "float32")}
    with pytest.warns(UserWarning, match="reach no leaf") as caught:
        tf2flax.init_from_checkpoint(prefix, entries, target)
    assert len(caught) == 1
    assert "`bn/` -> `nowhere/`; `fc/` -> `neither/`" in str(caught[0].message)
    assert caught[0].filename == __file__
    plan = tf2flax.plan(prefix, entries, target)
    assert plan.unused_rules == ("`bn/` -> `nowhere/`", "`fc/` -> `neither/`")


def test_the_plan(prefix: pathlib.Path) -> None:
    target = {
        "x": SDS((4, 3), "bfloat16"),
        "t/part_0": SDS((50, 2), "float32"),
        "t/part_1": SDS((50, 2), "float32"),
        "kept": np.zeros(2),
    }
    entries = [("f32", "x"), ("rows", "t"), ("columns/", "none/"), ("c64/", "none/")]
    plan = tf2flax.plan(prefix, entries, target)
    assert plan.nbytes == 48 + 800
    assert plan.kept == ("kept",)
    assert [a.leaf for a in plan.assignments] == ["t/part_0", "t/part_1", "x"]
    assert "bn/gamma" in plan.unused
    assert "f32" not in plan.unused
    said = json.loads(json.dumps(plan.to_dict()))
    assert said["assignments"][1] == {
        "leaf": "t/part_1",
        "source": "rows",
        "sources": ["rows"],
        "expression": None,
        "region": [[50, 100], [0, 2]],
        "shape": [50, 2],
        "stored_dtype": "float32",
        "dtype": "float32",
        "casts": ["float32"],
        "nbytes": 400,
        "reads": "shards",
        "entry": "`rows` -> `t`",
        "rule": {"number": 2, "key": "rows", "target": "t", "place": None},
        "alias": None,
    }
    text = str(plan)
    for line in (
        "3 leaves loaded (848 B), 1 kept, 21 tensors unused",
        "  x         f32                [4, 3]   float32 -> bfloat16   48 B      1",
        "  t/part_1  rows[50:100, 0:2]  [50, 2]  float32              400 B      2",
        "Entries that matched nothing (2):",
    ):
        assert line in text
    assert repr(plan).endswith("3 leaves loaded, 1 kept, 21 tensors unused)")


def test_overrides_are_reported(prefix: pathlib.Path) -> None:
    target = leaves("gamma")
    plan = tf2flax.plan(prefix, [("bn/gamma", "gamma"), ("bn/beta", "gamma")], target)
    assert [a.source for a in plan.assignments] == ["bn/gamma"]
    assert plan.to_dict()["overridden"] == [
        {
            "leaf": "gamma",
            "source": "bn/beta",
            "entry": "`bn/beta` -> `gamma`",
            "by": "`bn/gamma` -> `gamma`",
        }
    ]
    assert "Overridden entries (1):" in str(plan)


def test_slots_and_averages_are_grouped(tmp_path: pathlib.Path) -> None:
    names = {
        "variables": ["w", "dense/m", "global_step", "other/Adam"],
        "optimizer_slots": [
            "w/Adam", "w/Adam_1", "w/adam_m", "w_slot_vr", "beta1_power",
            "training/w/Momentum", "w/dqn_adam_1",
        ],
        "averages": ["w/ExponentialMovingAverage"],
    }  # fmt: skip
    flat = [name for group in names.values() for name in group]
    shapes = {"beta1_power": ()}  # as optimizers make it
    write_bundle(tmp_path / "m", {n: np.zeros(shapes.get(n, 2)) for n in flat})
    plan = tf2flax.plan(tmp_path / "m", {}, {"x": np.zeros(1)})
    assert plan.to_dict()["unused"] == {k: sorted(v) for k, v in names.items()}


@pytest.mark.parametrize("kind", ["free", "committed", "replicated"])
def test_what_stays_on_the_host_is_handed_over_at_once(
    kind: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one call, whatever groups there are; copies on other devices are not."""
    arrays = {f"w{i}": np.full((40, 8), i, np.float32) for i in range(12)}
    arrays |= {f"b{i}": np.full(3, -i, np.int32) for i in range(12)}
    prefix = tf2flax.save_checkpoint(tmp_path / "m", arrays)
    target = {n: jax.ShapeDtypeStruct(a.shape, a.dtype) for n, a in arrays.items()}
    devices = jax.devices()
    mesh = jax.sharding.Mesh(np.array(devices[:2]), ("d",))
    sharding = {
        "free": None,
        "committed": jax.sharding.SingleDeviceSharding(devices[1]),
        "replicated": jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()),
    }[kind]
    calls: list[int] = []
    put = jax.device_put

    def counted(values: Any, *places: Any, **options: Any) -> Any:
        if isinstance(values, list):  # not what JAX itself puts
            calls.append(len(values))
        return put(values, *places, **options)

    monkeypatch.setattr(jax, "device_put", counted)
    tuning = tf2flax.Tuning(small_nbytes=100, transfer_nbytes=0, max_workers=2)
    got = tf2flax.init_from_checkpoint(
        prefix, {"/": "/"}, target, sharding=sharding, tuning=tuning
    )
    assert sum(calls) == len(arrays)
    assert (len(calls) == 1) == (kind != "replicated")
    for name, array in arrays.items():
        np.testing.assert_array_equal(got[name], array)
        assert got[name].committed == (kind != "free")
        if sharding is not None:
            assert got[name].sharding == sharding
