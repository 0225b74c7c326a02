"""The option `dtype`, and values that a dtype cannot hold."""

from __future__ import annotations

import itertools
import math
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import tf2flax
from tf2flax import src
from tf2flax._base.dtypes import cast_checked, forced_cast, kind_of
from tf2flax._base.values import STORED_DTYPES

SDS = jax.ShapeDtypeStruct
# A tensor of every kind; the leaves have its name.
STORED: dict[str, Any] = {
    "w": np.array([1.5, -2], "f4"),
    "half": np.array([0.5, 3], "f2"),
    "step": np.int64(123_457),
    "small": np.array([3, -4], "i1"),
    "mask": np.array([True, False]),
    "wave": np.array([1 + 2j, 3], "c8"),
}
LEAVES: dict[str, Any] = {
    "w": SDS((2,), "float32"),
    "half": SDS((2,), "float16"),
    "step": SDS((), "int32"),
    "small": SDS((2,), "int8"),
    "mask": SDS((2,), "bool"),
    "wave": SDS((2,), "complex64"),
}


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tf2flax.save_checkpoint(tmp_path_factory.mktemp("m") / "m", STORED)


def init() -> dict[str, jax.Array]:
    return {name: jnp.zeros(leaf.shape, leaf.dtype) for name, leaf in LEAVES.items()}


# Option -> the dtypes that differ from the leaves' own.
OPTIONS: dict[str, tuple[Any, dict[str, str]]] = {
    "a float dtype": ("bfloat16", {"w": "bfloat16", "half": "bfloat16"}),
    "a dtype of JAX": (jnp.float16, {"w": "float16"}),
    "a dtype of numpy": (np.dtype("float32"), {"half": "float32"}),
    "a narrow float dtype": (
        "float8_e4m3fn", {"w": "float8_e4m3fn", "half": "float8_e4m3fn"},
    ),
    "an int dtype": ("int16", {"step": "int16", "small": "int16"}),
    "an unsigned dtype": (jnp.uint8, {"step": "uint8", "small": "uint8"}),
    "bool": (bool, {}),
    "a complex dtype": ("complex64", {}),
    "no pairs": ([], {}),
    "a pair": ([("^w$", "bfloat16")], {"w": "bfloat16"}),
    "pairs, the first that matches": (
        [("^s", "int16"), ("step", "int8"), ("", "float16")],
        {
            "step": "int16", "small": "int16", "w": "float16", "mask": "float16",
            "wave": "float16",
        },
    ),
    "a compiled pattern": (((re.compile("W", re.IGNORECASE), "f2"),), {
        "w": "float16", "wave": "float16",
    }),
    "pairs force another kind": (
        [("step", jnp.float32), ("mask", "int8"), ("w$", "int32"), ("wave", "float32")],
        {"step": "float32", "mask": "int8", "w": "int32", "wave": "float32"},
    ),
    "pairs of words": (
        [["half", "exact"], ["step|small", None], ["mask", "checkpoint"], ["w", "f2"]],
        {"w": "float16", "wave": "float16"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(OPTIONS))
def test_the_option(name: str, prefix: str) -> None:
    option, changed = OPTIONS[name]
    expected = {n: changed.get(n, leaf.dtype.name) for n, leaf in LEAVES.items()}
    plan = tf2flax.plan(prefix, {"/": "/"}, LEAVES, dtype=option)
    assert {a.leaf: a.dtype.name for a in plan.assignments} == expected
    trees = [
        plan.restore(),
        tf2flax.init_from_checkpoint(prefix, {"/": "/"}, LEAVES, dtype=option),
        tf2flax.warm_start(init, prefix, {"/": "/"}, dtype=option)(),
    ]
    for tree, leaf in itertools.product(trees, LEAVES):
        assert tree[leaf].dtype == expected[leaf]
        want = forced_cast(np.asarray(STORED[leaf]), np.dtype(tree[leaf].dtype))
        assert np.asarray(tree[leaf]).tobytes() == want.tobytes(), leaf


def test_what_a_dtype_does_not_concern_is_still_checked(tmp_path: pathlib.Path) -> None:
    stored = {"w": np.float32(1), "step": np.int64(2**40), "mask": np.ones(2, "f4")}
    prefix = tf2flax.save_checkpoint(tmp_path / "m", stored)
    target = {
        "w": SDS((), "float32"),
        "step": SDS((), "int32"),
        "mask": SDS((2,), bool),
    }
    with pytest.raises(tf2flax.AssignmentError, match=r"`step`.*do not fit int32"):
        tf2flax.init_from_checkpoint(
            prefix, {"w": "w", "step": "step"}, target | {"mask": 1}, dtype="bfloat16"
        )
    with pytest.raises(tf2flax.AssignmentError, match="dtype bool, got float32"):
        tf2flax.plan(prefix, {"mask": "mask"}, target, dtype="bfloat16")
    wide = {"step": SDS((), np.int64)}
    with pytest.raises(tf2flax.AssignmentError, match="jax_enable_x64"):
        tf2flax.plan(prefix, {"step": "step"}, wide, dtype="float32")
    # Forced by name: int64 wraps, as it did by dtype="int32".
    for option in ("int32", [("step", "int32")]):
        tree = tf2flax.init_from_checkpoint(
            prefix, {"step": "step", "w": "w"}, target | {"mask": 1}, dtype=option
        )
        assert (tree["step"].tolist(), tree["w"].dtype) == (0, np.float32)


def test_exact_by_name(prefix: str) -> None:
    target = LEAVES | {"w": np.zeros(2, "f2")}
    tf2flax.plan(prefix, {"/": "/"}, target, dtype=[("half|mask", "exact")])
    exact = [("w$", "exact")]
    with pytest.raises(tf2flax.AssignmentError, match="refuses to cast"):
        tf2flax.plan(prefix, {"/": "/"}, target, dtype=exact)
    plan = tf2flax.plan(
        prefix, {"/": "/"}, target, dtype=exact, on_mismatch=[("^w", "keep")]
    )
    assert plan.kept == ("w",)


class Odd:
    @property
    def dtype(self) -> Any:
        raise ZeroDivisionError


WRONG: dict[str, Any] = {
    "a lone pair": ("w", "bfloat16"),
    "a list of names": ["w", "step"],
    "three of a kind": [("w", "f4", "f2")],
    "an empty pair": [()],
    "a bad regex": [("(", "f4")],
    "a bad regex behind a good one": [("w", "f4"), ("*", "f4")],
    "a regex of bytes": [(b"w", "f4")],
    "a compiled regex of bytes": [(re.compile(b"w"), "f4")],
    "no regex": [(3, "f4")],
    "no dtype": [("w", "float99")],
    "a dtype of text": [("w", "S3")],
    "pairs in pairs": [("w", [("w", "f4")])],
    "a structure": np.dtype([("a", "f4")]),
    "a dict": {"w": "f4"},
    "a set": {("w", "f4")},
    "an iterator": iter([("w", "f4")]),
    "bytes": b"float99",
    "a number": 3,
    "an array": np.zeros(2),
    "an object that raises": Odd(),
    "a key": jax.dtypes.prng_key,
    "float0": jax.dtypes.float0,
}


@pytest.mark.parametrize("name", list(WRONG))
def test_wrong_options_are_refused(name: str, prefix: str) -> None:
    option = WRONG[name]
    if name == "an iterator":
        option = iter([("w", "f4")])
    with pytest.raises(tf2flax.AssignmentError, match="Option dtype"):
        tf2flax.plan(prefix, {"/": "/"}, LEAVES, dtype=option)
    with pytest.raises(tf2flax.AssignmentError, match="Option dtype"):
        tf2flax.init_from_checkpoint(prefix, {"/": "/"}, LEAVES, dtype=option)
    with pytest.raises(tf2flax.AssignmentError, match="Option dtype"):
        tf2flax.warm_start(init, prefix, {"/": "/"}, dtype=option)()


def test_policies_take_no_regex_of_bytes(prefix: str) -> None:
    for option in ("on_missing", "on_mismatch"):
        for pattern in (b"w", re.compile(b"w")):
            with pytest.raises(tf2flax.AssignmentError, match=f"Option {option}"):
                tf2flax.plan(prefix, {}, LEAVES, **{option: [(pattern, "keep")]})  # pyright: ignore[reportArgumentType]


def dtype_of(name: str) -> np.dtype[Any]:
    return np.dtype(getattr(ml_dtypes, name, name))


# Dtype -> values that do not fit, and values that do, with what they become.
INF, NAN = math.inf, math.nan
VALUES: dict[str, tuple[list[float], list[tuple[float, float]]]] = {
    "float4_e2m1fn": (
        [100, 7, 7.5, -7, INF, -INF, NAN, 3e38],
        [(6.9, 6), (-6.9, -6), (0.2, 0), (0.3, 0.5), (6, 6)],
    ),
    "float6_e2m3fn": ([7.75, 8, -100, INF, NAN], [(7.7, 7.5), (-7.5, -7.5)]),
    "float6_e3m2fn": ([30, -31, 1e30, INF, NAN], [(29.9, 28), (-28, -28)]),
    "float8_e4m3fn": ([465, -480, INF, -INF], [(448, 448), (460, 448), (NAN, NAN)]),
    "float8_e4m3fnuz": ([1e3, -1e3, INF, -INF], [(240, 240), (NAN, NAN), (-0.0, 0)]),
    "float8_e4m3b11fnuz": ([100, -100, INF], [(30, 30), (NAN, NAN)]),
    "float8_e5m2fnuz": ([1e6, INF, -INF], [(57344, 57344), (NAN, NAN)]),
    "float8_e5m2": ([1e6, -1e6], [(INF, INF), (-INF, -INF), (NAN, NAN)]),
    "float8_e8m0fnu": ([-1, 0, -INF, INF, 3e38], [(128, 128), (0.5, 0.5), (NAN, NAN)]),
    "float16": ([65520, -1e6], [(65519, 65504), (INF, INF), (NAN, NAN)]),
    "bfloat16": ([3.4e38, -3.4e38], [(INF, INF), (NAN, NAN), (1, 1)]),
}  # fmt: skip


@pytest.mark.parametrize("name", list(VALUES))
@pytest.mark.parametrize("source", ["float32", "float64"])
def test_values_that_a_dtype_lacks_are_refused(name: str, source: str) -> None:
    bad, good = VALUES[name]
    dtype = dtype_of(name)
    array = np.array([value for value, _ in good], source)
    with np.errstate(all="ignore"):
        want = np.array([value for _, value in good]).astype(dtype)
    assert cast_checked(array, dtype, is_forced=False).tobytes() == want.tobytes()
    for value in bad:
        with pytest.raises(tf2flax.AssignmentError, match="1 of 2 values do not fit"):
            cast_checked(np.array([1, value], source), dtype, is_forced=False)
        # Forced, it becomes what ml_dtypes makes of it.
        with np.errstate(all="ignore"):
            made = np.array([value], source).astype(dtype)
        got = cast_checked(np.array([value], source), dtype, is_forced=True)
        assert got.tobytes() == made.tobytes()


def test_complex_parts_are_checked_apart() -> None:
    for value in (complex(INF, 1e300), complex(1e300, NAN), complex(0, -1e300)):
        with pytest.raises(tf2flax.AssignmentError, match="1 of 1 values"):
            cast_checked(np.array([value]), np.dtype("c8"), is_forced=False)
    fits = np.array([complex(INF, NAN), complex(1, -INF)])
    assert cast_checked(fits, np.dtype("c8"), is_forced=False).tobytes() == (
        fits.astype("c8").tobytes()
    )


MATRIX = np.arange(16, dtype="f4").reshape(4, 4) / 4
# Ways of a tensor `m` into a leaf: the source, and the part of the target.
WAYS: dict[str, Any] = {
    "whole": src("m"),
    "transposed": src("m").transpose(),
    "strided": src("m")[::2, 1:],
    "rows": src("m").take([3, 1]),
    "merged after a transpose": src("m").transpose().reshape(16),
    "joined": tf2flax.concat("m", "m", axis=1),
    "one element": src("m")[3, 3],
}


def value_of(way: str, matrix: np.ndarray) -> np.ndarray:
    return {
        "whole": lambda m: m,
        "transposed": lambda m: m.T,
        "strided": lambda m: m[::2, 1:],
        "rows": lambda m: m[[3, 1]],
        "merged after a transpose": lambda m: m.T.reshape(16),
        "joined": lambda m: np.concatenate([m, m], axis=1),
        "one element": lambda m: m[3, 3],
    }[way](matrix)


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("is_sharded", [False, True])
def test_every_way_checks_values(
    way: str, is_sharded: bool, tmp_path: pathlib.Path
) -> None:
    spoiled = MATRIX.copy()
    spoiled[3, 3] = 100 if way != "strided" else spoiled[3, 3]
    spoiled[2, 3] = NAN if way == "strided" else spoiled[2, 3]
    good = tf2flax.save_checkpoint(tmp_path / "good", {"m": MATRIX})
    bad = tf2flax.save_checkpoint(tmp_path / "bad", {"m": spoiled})
    value = value_of(way, MATRIX)
    axes = PartitionSpec("d") if value.ndim and is_sharded else PartitionSpec()
    mesh = Mesh(np.array(jax.devices()[:2]), ("d",))
    sharding = NamedSharding(mesh, axes) if is_sharded else None
    target = {"x": SDS(value.shape, ml_dtypes.float4_e2m1fn, sharding=sharding)}
    got = tf2flax.init_from_checkpoint(good, {WAYS[way]: "x"}, target)["x"]
    assert np.asarray(got).tobytes() == value.astype(ml_dtypes.float4_e2m1fn).tobytes()
    with pytest.raises(tf2flax.AssignmentError, match="do not fit float4_e2m1fn"):
        tf2flax.init_from_checkpoint(bad, {WAYS[way]: "x"}, target)
    # Forced, by option or in the expression, ml_dtypes decides: 100 becomes 6.
    forced = tf2flax.init_from_checkpoint(
        bad, {WAYS[way]: "x"}, target, dtype=[("x", "float4_e2m1fn")]
    )["x"]
    inside = tf2flax.init_from_checkpoint(
        bad, {WAYS[way].cast("float4_e2m1fn"): "x"}, target
    )["x"]
    with np.errstate(all="ignore"):
        want = value_of(way, spoiled).astype(ml_dtypes.float4_e2m1fn)
    assert np.asarray(forced).tobytes() == want.tobytes()
    assert np.asarray(inside).tobytes() == want.tobytes()


NARROW = ["int2", "uint2", "int4", "uint4"]


def values_of(name: str) -> np.ndarray:
    info = ml_dtypes.iinfo(dtype_of(name))
    return np.arange(int(info.min), int(info.max) + 1)


@pytest.mark.parametrize(("source", "to"), list(itertools.permutations(NARROW, 2)))
def test_narrow_integers_among_each_other(
    source: str, to: str, tmp_path: pathlib.Path
) -> None:
    values, info = values_of(source), ml_dtypes.iinfo(dtype_of(to))
    fits = (values >= int(info.min)) & (values <= int(info.max))
    stored = {"all": values.astype(dtype_of(source))}
    stored["fits"] = stored["all"][fits]
    prefix = tf2flax.save_checkpoint(tmp_path / "m", stored)

    def load(name: str, key: Any = None, **options: Any) -> list[int]:
        target = {"x": SDS(stored[name].shape, dtype_of(to))}
        plan = tf2flax.plan(prefix, {key or name: "x"}, target, **options)
        return np.asarray(plan.restore()["x"]).astype(np.int8).tolist()

    assert load("fits") == values[fits].tolist()
    assert load("fits", src("fits")[::-1]) == values[fits][::-1].tolist()
    if not fits.all():
        count = int((~fits).sum())
        with pytest.raises(tf2flax.AssignmentError, match=f"{count} of .* do not fit"):
            load("all")
    bits = np.iinfo(np.int8).bits - int(to[-1])
    kind = np.uint8 if to.startswith("u") else np.int8
    wrapped = ((values.astype(np.uint8) << bits).astype(kind) >> bits).tolist()
    assert load("all", dtype=[("x", to)]) == wrapped
    assert load("all", src("all").cast(to)) == wrapped


ALL = sorted({d.numpy.name for d in STORED_DTYPES.values() if d.numpy.kind != "O"})


def test_every_pair_of_dtypes_can_be_forced() -> None:
    for source, to in itertools.product(ALL, ALL):
        zero_and_one = np.array([0, 1], np.int8).astype(dtype_of(source))
        got = forced_cast(zero_and_one, dtype_of(to))
        assert got.dtype == dtype_of(to)
        assert [complex(x) for x in got] == [0, 1], (source, to)
        if kind_of(dtype_of(source)) == kind_of(dtype_of(to)):
            safe = cast_checked(zero_and_one, dtype_of(to), is_forced=False)
            assert safe.tobytes() == got.tobytes()


FLOATS = [name for name in ALL if kind_of(dtype_of(name)) == "float"]
FLOATS += ["float6_e2m3fn", "float6_e3m2fn", "float8_e8m0fnu", "float8_e3m4"]


@given(
    source=st.sampled_from(FLOATS),
    to=st.sampled_from(FLOATS),
    numbers=st.lists(st.floats(width=32), max_size=6),
)
def test_unforced_casts_only_round(source: str, to: str, numbers: list[float]) -> None:
    with np.errstate(all="ignore"):
        array = np.array(numbers, "f8").astype("f4").astype(dtype_of(source))
        given = array.astype("f8")
    info = ml_dtypes.finfo(dtype_of(to))
    step, tiny = 2.0 ** -int(info.nmant), float(info.smallest_subnormal)
    finite = np.isfinite(given)
    try:
        got = cast_checked(array, dtype_of(to), is_forced=False).astype("f8")
    except tf2flax.AssignmentError:
        with np.errstate(all="ignore"):
            made = forced_cast(array, dtype_of(to)).astype("f8")
        # Some value has really become another one.
        is_same = (made == given) | (np.isnan(made) & np.isnan(given))
        is_rounded = np.isfinite(made) & finite & (np.abs(given) < np.abs(made))
        assert not (is_same | is_rounded).all()
        return
    for is_special in (np.isnan, np.isposinf, np.isneginf):
        assert is_special(got).tolist() == is_special(given).tolist()
    # The dtype without a zero and without digits has powers of two alone.
    bound = np.abs(given[finite]) * (0.5 if to == "float8_e8m0fnu" else step / 2)
    assert (np.abs(got[finite] - given[finite]) <= np.maximum(bound, tiny)).all()
