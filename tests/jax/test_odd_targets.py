"""Targets with odd values in them: handled, or an AssignmentError that says why."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bundle_writer import write_bundle
from counting import count_calls
from flax import nnx
from flax.core import meta

import tf2flax

X = np.arange(3, dtype=np.float32) + 1
ZEROS = np.zeros(3, "f4")


@pytest.fixture
def checkpoint(tmp_path: pathlib.Path) -> tf2flax.Checkpoint:
    write_bundle(tmp_path / "m", {"x": X, "freqs": X, "p/x": X})
    return tf2flax.open_checkpoint(tmp_path / "m")


@dataclasses.dataclass
class Partial:
    x: Any = None
    never: Any = dataclasses.field(init=False, repr=False)


class RaisesOnAttributes:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"no {name} here")


class RaisesOnComparison:
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, _: object) -> bool:
        raise RuntimeError("not to be compared")

    def __len__(self) -> int:
        raise RuntimeError("not to be counted")

    def __bool__(self) -> bool:
        raise RuntimeError("not to be asked")

    def __repr__(self) -> str:
        raise RuntimeError("not to be shown")


class Liar:
    def __init__(self, claimed: Any) -> None:
        self.claimed = claimed

    @property
    def __class__(self) -> Any:
        if self.claimed is None:
            raise RuntimeError("has no class")
        return self.claimed


class Table(nnx.Module):
    """A module with plain arrays as attributes, as those of RoPE are."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.x = nnx.Param(jnp.zeros(3))
        self.freqs = jnp.arange(3.0) * 2
        self.host = np.arange(3.0, dtype="f4")
        self.named = nnx.data({"freqs": jnp.ones(3), "list": [jnp.ones(3)]})
        self.list = nnx.List([jnp.ones(3)])
        self.inner = nnx.data((jnp.ones(3), nnx.BatchStat(jnp.ones(3))))
        self.count = nnx.data(3)
        self.key = rngs.params()


def self_holding(kind: str) -> Any:
    value: Any = {"x": ZEROS}
    if kind == "dict":
        value["s"] = {"t": [value]}
    elif kind == "list":
        value = [ZEROS]
        value.append({"t": value})
    elif kind == "dataclass":
        value = Partial()
        value.x = value
    elif kind == "dataclass in a dict":
        value = Partial()
        value.x = {"t": (value,)}
    elif kind == "pytree":
        value = Node(ZEROS)
        value.x = [value]
    return value


@jax.tree_util.register_pytree_node_class
class Node:
    def __init__(self, x: Any) -> None:
        self.x = x

    def tree_flatten(self) -> Any:
        return (self.x,), None

    @classmethod
    def tree_unflatten(cls, _: Any, children: Any) -> Any:
        return cls(*children)


SELF_HOLDING = ["dict", "list", "dataclass", "dataclass in a dict", "pytree"]


@pytest.mark.parametrize("kind", SELF_HOLDING)
@pytest.mark.parametrize("depth", [0, 1])
def test_what_holds_itself(
    checkpoint: tf2flax.Checkpoint, kind: str, depth: int
) -> None:
    target = {"x": ZEROS, "s": self_holding(kind)} if depth else self_holding(kind)
    for call in (tf2flax.plan, tf2flax.init_from_checkpoint):
        for _ in range(3):  # JAX does not give back the stack that it has run out of
            with pytest.raises(tf2flax.AssignmentError, match="holds itself"):
                call(checkpoint, {"x": "x"}, target)
    tf2flax.init_from_checkpoint(checkpoint, {"x": "x"}, {"x": ZEROS})
    init = tf2flax.warm_start(lambda _: {"x": jnp.zeros(3)}, checkpoint, {"x": "x"})
    if not kind.startswith("dataclass"):
        with pytest.raises(tf2flax.AssignmentError, match="holds itself"):
            init(target)


def deep(kind: str) -> Any:
    value: Any = ZEROS
    for _ in range(2000):
        value = Partial(value) if kind == "dataclass" else {"a": value}
    return value


@pytest.mark.parametrize("kind", ["dict", "dataclass"])
def test_what_is_too_deep(checkpoint: tf2flax.Checkpoint, kind: str) -> None:
    for _ in range(2):
        with pytest.raises(tf2flax.AssignmentError, match="nested too deeply"):
            tf2flax.plan(checkpoint, {"x": "x"}, {"x": ZEROS, "d": deep(kind)})
    target: Any = ZEROS
    for _ in range(150):
        target = [target]
    got = tf2flax.init_from_checkpoint(checkpoint, {"x": "/".join("0" * 150)}, target)
    assert np.array_equal(jax.tree.leaves(got)[0], X)


def test_fields_that_were_never_set_stay_so(checkpoint: tf2flax.Checkpoint) -> None:
    target = {"a": Partial(ZEROS), "b": Partial()}
    got = tf2flax.init_from_checkpoint(checkpoint, {"x": "a/x"}, target)
    assert np.array_equal(got["a"].x, X)
    assert not hasattr(got["a"], "never")
    assert got["b"] is target["b"]
    assert not np.any(target["a"].x)


ODD: dict[str, Callable[[], Any]] = {
    "attributes": RaisesOnAttributes,
    "comparison": RaisesOnComparison,
    "a class": lambda: Partial,
    "a function": lambda: len,
    "a text": lambda: "text",
    "objects": lambda: np.array([None, "x"], dtype=object),
    "texts": lambda: np.array(["x"]),
    "dates": lambda: np.array(["2026-01-01"], dtype="datetime64[D]"),
    "a record": lambda: np.zeros(2, [("a", "f4")]),
    "a Variable of None": lambda: nnx.Param(None),
    "a Variable of a tree": lambda: nnx.Param({"a": jnp.ones(3)}),
    "a box of None": lambda: meta.Partitioned(None, names=(None,)),
    "a box of two": lambda: meta.Partitioned([ZEROS, ZEROS], names=(None,)),
    "a key": lambda: jax.random.key(0),
}


@pytest.mark.parametrize("what", ODD)
def test_odd_leaves_are_left_alone_and_named_where_a_map_wants_them(
    checkpoint: tf2flax.Checkpoint, what: str
) -> None:
    odd = ODD[what]()
    got = tf2flax.init_from_checkpoint(
        checkpoint, {"p/": "p/"}, {"p": {"x": ZEROS}, "o": odd}
    )
    assert got["o"] is odd
    assert np.array_equal(got["p"]["x"], X)
    with pytest.raises(tf2flax.AssignmentError, match="leaf `o` cannot take"):
        tf2flax.plan(checkpoint, {"x": "o"}, {"x": ZEROS, "o": odd})


@pytest.mark.parametrize(
    "claimed", [None, nnx.State, nnx.Param, nnx.Module, jax.Array, nnx.RngState]
)
def test_objects_that_lie_about_their_class(
    checkpoint: tf2flax.Checkpoint, claimed: Any
) -> None:
    with pytest.raises(tf2flax.AssignmentError, match="cannot take"):
        tf2flax.plan(checkpoint, {"x": "x"}, {"x": ZEROS, "o": Liar(claimed)})


NT = collections.namedtuple("NT", ["x", "y"])
KEYS: list[tuple[str, Any, Callable[[Any], Any]]] = [
    ("1", {1: ZEROS, 2: ZEROS}, lambda t: t[1]),
    ("True", {True: ZEROS}, lambda t: t[True]),
    ("None", {None: ZEROS}, lambda t: t[None]),
    ("", {"": ZEROS}, lambda t: t[""]),
    ("a/", {"a": {"": ZEROS}}, lambda t: t["a"][""]),
    ("a/b", {"a/b": ZEROS}, lambda t: t["a/b"]),
    ("a//b", {"a": {"/b": ZEROS}}, lambda t: t["a"]["/b"]),
    ("a/0", {("a", 0): ZEROS}, lambda t: t["a", 0]),
    ("b'a'", {b"a": ZEROS}, lambda t: t[b"a"]),
    ("y", NT(ZEROS, ZEROS), lambda t: t.y),
]


@pytest.mark.parametrize(("name", "target", "take"), KEYS, ids=range(len(KEYS)))
def test_odd_keys(
    checkpoint: tf2flax.Checkpoint, name: str, target: Any, take: Callable[[Any], Any]
) -> None:
    got = tf2flax.init_from_checkpoint(checkpoint, {"x": name}, target)
    assert np.array_equal(take(got), X)
    assert not np.any(take(target))


def test_holders_keep_their_kind(checkpoint: tf2flax.Checkpoint) -> None:
    box = meta.Partitioned(jnp.zeros(3), names=("a",))
    target = {
        "x": nnx.Param(ZEROS.copy(), note="kept"),
        "freqs": nnx.BatchStat(box),
        "p": {"x": box},
    }
    got = tf2flax.init_from_checkpoint(checkpoint, {"/": "/"}, target)
    assert type(got["x"]) is nnx.Param
    assert got["x"].get_metadata("note") == "kept"
    inner = got["freqs"].get_raw_value()
    assert type(got["freqs"]) is nnx.BatchStat
    for boxed in (inner, got["p"]["x"]):
        assert boxed.names == ("a",)
        assert np.array_equal(boxed.value, X)
    module = nnx.List([nnx.Param(box)])
    tf2flax.init_from_checkpoint(checkpoint, {"x": "0"}, module)
    assert np.array_equal(module[0].get_raw_value().value, X)
    assert not np.any(box.value)


def test_deleted_arrays(checkpoint: tf2flax.Checkpoint) -> None:
    deleted = jnp.zeros(3)
    deleted.delete()
    got = tf2flax.init_from_checkpoint(
        checkpoint, {"x": "x"}, {"x": deleted, "kept": deleted}
    )
    assert np.array_equal(got["x"], X)
    assert got["kept"] is deleted
    module = nnx.List([nnx.Param(jnp.zeros(3)), nnx.Param(jnp.zeros(3))])
    for variable in module:
        variable.get_raw_value().delete()
    kept = module[1].get_raw_value()
    tf2flax.init_from_checkpoint(checkpoint, {"x": "0"}, module)
    assert np.array_equal(module[0][...], X)
    assert module[1].get_raw_value() is kept


PLAIN = ["freqs", "host", "named/freqs", "named/list/0", "list/0", "inner/0"]
# Older versions of Flax have no numbers in a state, and make shapes static attributes.
IS_OLD = not jax.tree.leaves(nnx.state(nnx.Dict(count=nnx.data(3))))
PLAIN += [] if IS_OLD else ["count"]


@pytest.mark.parametrize("within", ["", "net", "net/0"])
def test_plain_arrays_of_modules(checkpoint: tf2flax.Checkpoint, within: str) -> None:
    module = Table(nnx.Rngs(0))
    target: Any = {"": module, "net": {"net": module}, "net/0": {"net": [module]}}[
        within
    ]
    scope = f"{within}/" if within else ""
    before = dict(nnx.to_flat_state(nnx.state(module)))
    entries = {"p/": scope or "/", "freqs": f"{scope}inner/1"}
    tf2flax.init_from_checkpoint(
        checkpoint, entries, target, on_missing=[("inner", "keep")]
    )
    assert np.array_equal(module.x[...], X)
    for key, value in nnx.to_flat_state(nnx.state(module)):
        assert value is before[key]
    plan = tf2flax.plan(checkpoint, {"p/x": f"{scope}x"}, target)
    assert {f"{scope}{name}" for name in PLAIN} < set(plan.kept)
    for name in PLAIN:
        with pytest.raises(
            tf2flax.AssignmentError,
            match=rf"leaf `{scope}{name}` .*plain array in an nnx.Module.*nnx.Variable",
        ):
            tf2flax.plan(checkpoint, {"freqs": f"{scope}{name}"}, target)
    with pytest.raises(tf2flax.AssignmentError, match="plain array"):
        tf2flax.plan(checkpoint, {"freqs": module.freqs}, target)


def test_plain_arrays_of_states(checkpoint: tf2flax.Checkpoint) -> None:
    module = Table(nnx.Rngs(0))
    graphdef, state = nnx.split(module)
    entries = {"x": "x", "freqs": "freqs"}
    got = tf2flax.init_from_checkpoint(checkpoint, entries, state)
    merged = nnx.merge(graphdef, got)
    assert np.array_equal(merged.freqs, X)
    assert np.array_equal(merged.x[...], X)
    assert merged.host is module.host
    assert not np.array_equal(module.freqs, X)


def test_plain_arrays_are_saved(tmp_path: pathlib.Path) -> None:
    module = Table(nnx.Rngs(0))
    del module.key
    saved = tf2flax.open_checkpoint(tf2flax.save_checkpoint(tmp_path / "s", module))
    assert np.array_equal(saved["freqs"].read(), module.freqs)
    if not IS_OLD:
        assert saved["count"].dtype == np.int32
        assert saved["count"].read() == 3


def test_arrays_that_eval_shape_hides_are_named(
    checkpoint: tf2flax.Checkpoint,
) -> None:
    class Rope(nnx.Module):
        def __init__(self) -> None:
            self.freqs = jnp.arange(3.0)
            self.named = nnx.data({"freqs": jnp.arange(3.0)})
            self.spec = jax.ShapeDtypeStruct((3,), "float32")
            self.x = nnx.Param(jnp.zeros(3))

    abstract = nnx.eval_shape(Rope)
    names = "`named/freqs`" if IS_OLD else "`named/freqs`, `freqs`"
    with pytest.raises(
        tf2flax.AssignmentError,
        match=rf"ShapeDtypeStruct: {names}\. Initialise them with tf2flax.warm_start\.",
    ):
        tf2flax.init_from_checkpoint(checkpoint, {"x": "x"}, abstract)
    tf2flax.init_from_checkpoint(checkpoint, {"x": "x"}, Rope())


class Pair(nnx.Module):
    def __init__(self, shared: Any) -> None:
        self.a, self.b = shared, shared


def test_shared_modules_are_walked_once(checkpoint: tf2flax.Checkpoint) -> None:
    module: Any = nnx.Dict(x=nnx.Param(jnp.zeros(3)))
    for _ in range(30):
        module = Pair(module)
    first, second = "/".join("a" * 30), "/".join("a" * 29) + "/b"
    for name in (first, second):
        calls = count_calls(
            lambda name=name: tf2flax.init_from_checkpoint(
                checkpoint, {"p/": f"{name}/"}, module
            )
        )
        assert calls < 100_000  # where 2 ** 30 ways lead to the parameter
    assert np.array_equal(jax.tree.leaves(nnx.state(module))[0], X)


def test_modules_that_hold_themselves(checkpoint: tf2flax.Checkpoint) -> None:
    module = nnx.Dict(x=nnx.Param(jnp.zeros(3)))
    module.me = nnx.data(module)
    for target, scope in ((module, "/"), ({"m": [module]}, "m/0/")):
        module.x[...] = jnp.zeros(3)
        tf2flax.init_from_checkpoint(checkpoint, {"p/": scope}, target)
        assert np.array_equal(module.x[...], X)


def test_shared_modules_in_trees_are_walked_once(
    checkpoint: tf2flax.Checkpoint,
) -> None:
    module: Any = nnx.Dict(x=nnx.Param(jnp.zeros(3)))
    for _ in range(30):
        module = Pair(module)
    scope = f"m/{'a/' * 30}"
    tf2flax.init_from_checkpoint(checkpoint, {"p/": scope}, {"m": module})
    assert np.array_equal(jax.tree.leaves(nnx.state(module))[0], X)
