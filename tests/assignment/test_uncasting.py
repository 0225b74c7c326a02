"""What casts lost comes back bit for bit, for every pair of dtypes."""

from __future__ import annotations

import itertools
import pathlib
import tracemalloc
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tf2flax
from tf2flax import concat, src, stack
from tf2flax._assignment.layouts.comparing import equal_elements
from tf2flax._assignment.layouts.uncasting import (
    LeafValue,
    is_one_to_one,
    settle_values,
    uncast_value,
)
from tf2flax._base.dtypes import forced_cast, kind_of
from tf2flax._base.values import STORED_DTYPES

DTYPES = sorted(
    {one.numpy for one in STORED_DTYPES.values() if one.numpy.kind != "O"}, key=str
)
SPECIAL = (0.0, -0.0, 1.0, -1.0, 2.5, 300.0, -7.0, 1e-30, 3e38, 2.0**31, 2.0**63)


def values_of(dtype: np.dtype, seed: int = 0, count: int = 64) -> np.ndarray:
    """Random bits, NaNs with payloads, infinities and integers at the edges."""
    rng = np.random.default_rng(seed)
    kind = kind_of(dtype)
    if kind == "bool":
        return rng.integers(0, 2, count).astype(bool)
    if dtype.name in ("int2", "uint2", "int4", "uint4", "float4_e2m1fn"):
        bits = int(dtype.name[4] if kind == "int" and dtype.name[0] == "u" else 4)
        bits = 2 if "int2" in dtype.name else bits
        raw = rng.integers(0, 1 << bits, count).astype(np.uint8)
        if dtype.name == "float4_e2m1fn":
            return raw.view(dtype)
        low = int(ml_dtypes.iinfo(dtype).min)
        return (raw.astype(np.int8) + low).astype(dtype)
    raw = rng.integers(0, 256, count * dtype.itemsize, dtype=np.uint8).view(dtype)
    with np.errstate(all="ignore"):
        few = np.array(SPECIAL)
        if kind == "int":
            few = np.array([0, 1, 100, -1, 2**24 + 1], "i8")
        elif not dtype.name.startswith("float8"):
            few = np.concatenate([few, [np.nan, np.inf, -np.inf]])
        return np.concatenate([raw, few.astype(dtype)])


def loaded(array: np.ndarray, *chain: np.dtype) -> np.ndarray:
    for step in chain:
        array = forced_cast(array, step)
    return array


def written(stored: np.ndarray, values: list[LeafValue]) -> np.ndarray | None:
    """What the way back writes, with the checkpoint read again only where needed."""
    if all(one.is_reversible for one in values) and len(values) == 1:
        result = uncast_value(values[0])
        if result is not None:
            return result
    out = stored.copy()
    return out if settle_values(out, values) is None else None


@pytest.mark.parametrize("before", DTYPES, ids=str)
def test_every_pair_of_dtypes_comes_back_bit_for_bit(before: np.dtype) -> None:
    stored = values_of(before)
    for after in DTYPES:
        value = loaded(stored, after)
        result = written(stored, [LeafValue("x", value, None, chain_of(before, after))])
        assert result is not None, after
        assert result.dtype == before
        assert result.tobytes() == stored.tobytes(), after


def test_what_loading_can_give_is_never_refused() -> None:
    half = np.dtype(np.float16)
    for before in (key for key in DTYPES if kind_of(key) in ("bool", "int")):
        stored = values_of(before)
        for casts in [(after,) for after in DTYPES] + [
            (half, after) for after in DTYPES
        ]:
            value = np.ascontiguousarray(loaded(stored, *casts)[::-1])
            result = written(
                stored, [LeafValue("x", value, None, chain_of(before, *casts))]
            )
            assert result is not None, (before, *casts)
            assert equal_elements(loaded(result, *casts), value).all()


def chain_of(*dtypes: np.dtype) -> tuple[np.dtype, ...]:
    return tuple(key for key, _ in itertools.groupby(dtypes))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_changed_elements_load_as_they_are_and_others_keep_their_bits(
    data: st.DataObject,
) -> None:
    dtypes = data.draw(st.lists(st.sampled_from(DTYPES), min_size=1, max_size=3))
    before, *casts = dtypes
    after = dtypes[-1]
    stored = values_of(before, data.draw(st.integers(0, 99)), 12)
    as_loaded = loaded(stored, *casts)
    value = as_loaded.copy()
    changes = values_of(after, data.draw(st.integers(0, 99)), 40)
    at = data.draw(st.lists(st.integers(0, len(stored) - 1), max_size=6))
    value[at] = changes[data.draw(st.integers(0, 30)) :][: len(at)]
    leaf_value = LeafValue("x", value, None, chain_of(*dtypes))
    result = written(stored, [leaf_value])
    is_same = equal_elements(value, as_loaded)
    if result is not None:
        again = loaded(result, *casts)
        assert equal_elements(again, value).all()
        if len(leaf_value.casts) > 1:
            kept = np.ascontiguousarray(stored[is_same])
            assert np.ascontiguousarray(result[is_same]).tobytes() == kept.tobytes()
        return
    # Nothing that is tried one by one loads as the leaf is.
    tried = [forced_cast(value, before), stored, values_of(before, 1, 500)]
    assert not all(
        any(
            equal_elements(loaded(every, *casts), np.full(every.shape, one)).any()
            for every in tried
        )
        for one in value
    )


def test_one_to_one() -> None:
    pairs = {
        ("int8", "float16"), ("uint8", "int16"), ("bfloat16", "float32"),
        ("float16", "float32"), ("float32", "float64"), ("int32", "float64"),
        ("float8_e5m2", "float16"), ("bool", "int8"), ("uint32", "int64"),
        ("int8", "uint8"),
    }  # fmt: skip
    others = {
        ("int32", "float32"), ("int64", "float64"), ("float8_e5m2", "float8_e5m2fnuz"),
        ("float32", "bfloat16"), ("int16", "int8"), ("int8", "bool"),
        ("complex64", "float64"), ("float16", "int64"), ("int64", "uint64"),
    }  # fmt: skip
    for pair in pairs | others:
        before, after = (np.dtype(getattr(ml_dtypes, name, name)) for name in pair)
        assert is_one_to_one(before, after) == (pair in pairs), pair


# Expression, shape and dtype of the leaf.
KEYS: dict[str, tuple[Any, tuple[int, ...], str]] = {
    "narrowed": (src("t").cast("int8"), (3, 3), "int8"),
    "unsigned": (src("t").cast("uint32"), (3, 3), "uint32"),
    "bool": (src("t").cast("bool"), (3, 3), "bool"),
    "float": (src("t").cast("float32"), (3, 3), "float32"),
    "half": (src("u").cast("bfloat16").transpose(), (3, 2), "float32"),
    "chain": (src("t").cast("int8").reshape(-1).cast("float16"), (9,), "float32"),
    "row": (src("t")[1].cast("int16"), (3,), "int16"),
    "rows": (src("t").take([2, 0, 2]).cast("int8"), (3, 3), "int8"),
    "joined": (concat("t", src("u").cast("int64")).cast("int8"), (5, 3), "int8"),
    "stacked": (
        stack(src("t").cast("uint8"), src("t").cast("uint8")[::-1]), (2, 3, 3), "uint8",
    ),
    "cast twice": (
        concat(src("t").cast("int8"), src("t").cast("int16").cast("bool").cast("int8")),
        (6, 3), "int8",
    ),
}  # fmt: skip


@pytest.fixture
def prefix(tmp_path: pathlib.Path) -> str:
    big = np.array([[300, -1, 2**24 + 1], [0, 2**40 + 7, -129], [5, 255, 2**62]], "i8")
    tensors = {
        "t": big,
        "u": np.array([[1.5, np.nan, -0.0], [1e9, -3.0, 700.25]], "f4"),
        "step": np.int64(2**33 + 7),
    }
    return tf2flax.save_checkpoint(tmp_path / "m", tensors)


def contents(prefix: Any) -> dict[str, bytes]:
    arrays = tf2flax.open_checkpoint(prefix).read()
    return {name: array.tobytes() for name, array in arrays.items()}


@pytest.mark.parametrize("name", list(KEYS))
def test_expressions_with_casts_come_back(
    name: str, prefix: str, tmp_path: pathlib.Path
) -> None:
    key, shape, dtype = KEYS[name]
    with jax.enable_x64(True):
        target = {"x": jax.ShapeDtypeStruct(shape, dtype)}
        plan = tf2flax.plan(prefix, {key: "x"}, target)
        path = tf2flax.save_checkpoint(tmp_path / "to", plan.restore(), plan=plan)
    assert contents(path) == contents(prefix)


def test_forced_dtypes_come_back(prefix: str, tmp_path: pathlib.Path) -> None:
    target = {"s": jax.ShapeDtypeStruct((), "int32")}
    plan = tf2flax.plan(prefix, {"step": "s"}, target, dtype="int32")
    path = tf2flax.save_checkpoint(tmp_path / "to", plan.restore(), plan=plan)
    assert contents(path) == contents(prefix)
    changed = tf2flax.save_checkpoint(tmp_path / "x", {"s": np.int32(9)}, plan=plan)
    assert tf2flax.load_variable(changed, "step") == 9


@pytest.mark.slow
@pytest.mark.parametrize("after", DTYPES, ids=str)
def test_every_pair_comes_back_through_leaves(
    tmp_path: pathlib.Path, after: np.dtype
) -> None:
    arrays = {dtype.name: values_of(dtype, 3) for dtype in DTYPES}
    prefix = tf2flax.save_checkpoint(tmp_path / "m", arrays)
    target = {
        name: jax.ShapeDtypeStruct(array.shape, after) for name, array in arrays.items()
    }
    with jax.enable_x64(True):
        entries = {src(name).cast(after): name for name in arrays}
        plan = tf2flax.plan(prefix, entries, target)
        tree = plan.restore()
        path = tf2flax.save_checkpoint(tmp_path / "same", tree, plan=plan)
        assert contents(path) == contents(prefix)
        # Half of each leaf changed, to what another tensor's elements load as.
        for name, leaf in tree.items():
            half = np.asarray(leaf).copy()
            half[::2] = half[::-1][::2]
            tree[name] = half
        path = tf2flax.save_checkpoint(tmp_path / "half", tree, plan=plan)
    saved = tf2flax.open_checkpoint(path).read()
    for name, array in arrays.items():
        again = loaded(saved[name], after)
        assert equal_elements(again, tree[name]).all(), name
        assert saved[name][1::2].tobytes() == array[1::2].tobytes()


def test_one_tensor_at_a_time(tmp_path: pathlib.Path) -> None:
    nbytes = 8 << 20
    arrays = {f"t{i}": np.full(nbytes // 4, 1 / 3, "f4") for i in range(4)}
    prefix = tf2flax.save_checkpoint(tmp_path / "m", arrays)
    half = jax.ShapeDtypeStruct((nbytes // 4,), "bfloat16")
    plan = tf2flax.plan(prefix, {"/": "/"}, dict.fromkeys(arrays, half))
    changed = {name: leaf * 2 for name, leaf in plan.restore().items()}
    tracemalloc.start()
    tf2flax.save_checkpoint(tmp_path / "again", changed, plan=plan)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.5 * nbytes
