"""Targets: every kind is named, filled and given back as DESIGN says."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bundle_writer import write_bundle
from flax import linen as nn
from flax import nnx
from flax.training.train_state import TrainState

import tf2flax

W = np.arange(6, dtype=np.float32).reshape(2, 3)
B = np.arange(3, dtype=np.float32) + 10
SDS = jax.ShapeDtypeStruct


@pytest.fixture
def checkpoint(tmp_path: pathlib.Path) -> tf2flax.Checkpoint:
    tensors = {"m/w": W, "m/b": B, "m/mean": B + 1, "m/var": B + 2}
    tensors |= {"m/kernel": W, "m/bias": B, "m/scale": B + 3}
    write_bundle(tmp_path / "m", tensors)
    return tf2flax.open_checkpoint(tmp_path / "m")


def zeros() -> dict[str, Any]:
    return {"w": jnp.zeros((2, 3)), "b": jnp.zeros(3)}


def is_loaded(tree: Any) -> None:
    assert np.array_equal(tree["w"], W)
    assert np.array_equal(tree["b"], B)
    assert all(isinstance(tree[name], jax.Array) for name in "wb")


def test_nested_and_flat_dicts(checkpoint: tf2flax.Checkpoint) -> None:
    other = np.ones(2)
    nested = {"a": {"x": zeros()}, "other": other}
    got = tf2flax.init_from_checkpoint(checkpoint, {"m/": "a/x/"}, nested)
    is_loaded(got["a"]["x"])
    assert got["other"] is other
    assert not np.any(nested["a"]["x"]["w"])
    flat = {f"a/x/{name}": value for name, value in zeros().items()}
    got = tf2flax.init_from_checkpoint(checkpoint, {"m/": "a/x/"}, flat)
    is_loaded({name[-1]: value for name, value in got.items()})
    mixed = {"a/x": zeros()}
    is_loaded(tf2flax.init_from_checkpoint(checkpoint, {"m/": "a/x/"}, mixed)["a/x"])
    tuples = {("a", name): value for name, value in zeros().items()}
    got = tf2flax.init_from_checkpoint(checkpoint, {"m/": "a/"}, tuples)
    assert np.array_equal(got["a", "w"], W)


Point = collections.namedtuple("Point", ["w", "b"])


@dataclasses.dataclass
class Plain:
    w: Any
    b: Any
    note: str = "kept"


@dataclasses.dataclass(frozen=True)
class Frozen:
    inner: Plain
    other: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Registered:
    w: Any
    b: Any


@flax.struct.dataclass
class Struct:
    w: Any
    b: Any
    note: str = flax.struct.field(pytree_node=False, default="kept")


@jax.tree_util.register_pytree_node_class
class Custom:
    def __init__(self, w: Any, b: Any) -> None:
        self.w, self.b = w, b

    def tree_flatten(self) -> Any:
        return (self.w, self.b), None

    @classmethod
    def tree_unflatten(cls, _: Any, children: Any) -> Any:
        return cls(*children)


@pytest.mark.parametrize("kind", [Point, Plain, Registered, Struct])
def test_attributes_are_names(checkpoint: tf2flax.Checkpoint, kind: Any) -> None:
    target = kind(**zeros())
    got = tf2flax.init_from_checkpoint(checkpoint, {"m/": "/"}, target)
    assert type(got) is kind
    is_loaded({"w": got.w, "b": got.b})
    assert getattr(got, "note", "kept") == "kept"
    assert not np.any(target.w)


def test_dataclasses_within(checkpoint: tf2flax.Checkpoint) -> None:
    other = np.ones(2)
    target = [Frozen(Plain(**zeros()), other)]
    got = tf2flax.init_from_checkpoint(checkpoint, {"m/": "0/inner/"}, target)
    assert type(got[0]) is Frozen
    is_loaded({"w": got[0].inner.w, "b": got[0].inner.b})
    assert got[0].other is other


def test_lists_tuples_and_pytrees_without_keys(checkpoint: tf2flax.Checkpoint) -> None:
    target = ([zeros()["w"]], (zeros()["b"],), Custom(**zeros()))
    entries = [("m/w", "0/0"), ("m/b", "1/0"), ("m/w", "2/0"), ("m/b", "2/1")]
    got = tf2flax.init_from_checkpoint(checkpoint, entries, target)
    assert (type(got[0]), type(got[1]), type(got[2])) == (list, tuple, Custom)
    is_loaded({"w": got[0][0], "b": got[1][0]})
    is_loaded({"w": got[2].w, "b": got[2].b})


def test_a_bare_array(checkpoint: tf2flax.Checkpoint) -> None:
    array = jnp.zeros((2, 3))
    got = tf2flax.init_from_checkpoint(checkpoint, {"m/w": array}, array)
    assert np.array_equal(got, W)


def test_train_states(checkpoint: tf2flax.Checkpoint) -> None:
    state = TrainState.create(
        apply_fn=None, params={"dense": zeros()}, tx=optax.adam(1e-3)
    )
    got = tf2flax.init_from_checkpoint(checkpoint, {"m/": "params/dense/"}, state)
    assert type(got) is TrainState
    is_loaded(got.params["dense"])
    assert got.tx is state.tx
    assert got.opt_state[0].mu["dense"]["w"] is state.opt_state[0].mu["dense"]["w"]
    entries = {"m/w": "opt_state/0/mu/dense/w"}
    with pytest.warns(UserWarning, match="filled with weights, not with slots"):
        got = tf2flax.init_from_checkpoint(checkpoint, entries, state)
    assert np.array_equal(got.opt_state[0].mu["dense"]["w"], W)


class Linen(nn.Module):
    box: Any = nn.with_partitioning

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = self.box(nn.initializers.ones, (None, "model"))
        x = nn.Dense(3, name="dense", kernel_init=init)(x)
        return nn.BatchNorm(use_running_average=True, name="bn")(x)


@pytest.mark.parametrize("box", [nn.with_partitioning, nn.with_logical_partitioning])
@pytest.mark.parametrize("freeze", [False, True])
def test_linen_boxes(checkpoint: tf2flax.Checkpoint, box: Any, freeze: bool) -> None:
    variables = Linen(box).init(jax.random.key(0), jnp.ones((1, 2)))
    variables = flax.core.freeze(variables) if freeze else variables
    kernel = variables["params"]["dense"]["kernel"]
    entries: list[Any] = [("m/", "params/dense/"), ("m/mean", "batch_stats/bn/mean")]
    got = tf2flax.init_from_checkpoint(checkpoint, entries, variables)
    assert type(got) is type(variables)
    loaded = got["params"]["dense"]["kernel"]
    assert type(loaded) is type(kernel)
    assert loaded.names == (None, "model")
    assert np.array_equal(loaded.value, W)
    assert np.array_equal(got["batch_stats"]["bn"]["mean"], B + 1)
    assert got["params"]["bn"]["scale"] is variables["params"]["bn"]["scale"]
    for value in (kernel, kernel.value):
        got = tf2flax.init_from_checkpoint(checkpoint, {"m/w": value}, variables)
        assert np.array_equal(got["params"]["dense"]["kernel"].value, W)
    abstract = jax.eval_shape(Linen(box).init, jax.random.key(0), jnp.ones((1, 2)))
    entries += [("m/", "params/bn/"), ("m/", "batch_stats/bn/")]
    got = tf2flax.init_from_checkpoint(checkpoint, entries, abstract)
    assert np.array_equal(got["params"]["dense"]["kernel"].value, W)


class Model(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.layers = nnx.List([nnx.Linear(2, 3, rngs=rngs)])
        self.bn = nnx.BatchNorm(3, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.tied = self.layers[0].kernel
        self.groups = nnx.data({"a": [nnx.Param(jnp.zeros(3))]})


ENTRIES: list[tuple[str, Any]] = [("m/", "layers/0/"), ("m/", "bn/")]


def test_modules_are_updated_in_place(checkpoint: tf2flax.Checkpoint) -> None:
    model = Model(nnx.Rngs(0))
    rng_before = jax.tree.leaves(nnx.state(model, nnx.RngState))
    kept = model.groups["a"][0].get_raw_value()
    got = tf2flax.init_from_checkpoint(checkpoint, ENTRIES, model)
    assert got is model
    assert np.array_equal(model.layers[0].kernel[...], W)
    assert model.tied is model.layers[0].kernel
    assert isinstance(model.bn.mean, nnx.BatchStat)
    assert np.array_equal(model.bn.mean[...], B + 1)
    assert np.array_equal(model.bn.var[...], B + 2)
    assert np.array_equal(model.bn.scale[...], B + 3)
    assert model.groups["a"][0].get_raw_value() is kept
    rng_after = jax.tree.leaves(nnx.state(model, nnx.RngState))
    assert all(a is b for a, b in zip(rng_before, rng_after, strict=True))
    model(jnp.ones((1, 2))) if callable(model) else None
    assert tf2flax.plan(checkpoint, [], model).kept == (
        "bn/bias", "bn/mean", "bn/scale", "bn/var", "groups/a/0",
        "layers/0/bias", "layers/0/kernel",
    )  # fmt: skip


def test_a_failed_restore_leaves_the_module_as_it_was(
    checkpoint: tf2flax.Checkpoint,
) -> None:
    model = Model(nnx.Rngs(0))
    before = [v.get_raw_value() for _, v in nnx.to_flat_state(nnx.state(model))]
    with pytest.raises(tf2flax.AssignmentError):
        tf2flax.init_from_checkpoint(checkpoint, [*ENTRIES, ("m/no", "tied")], model)
    pathlib.Path(f"{checkpoint.prefix}.data-00000-of-00001").unlink()
    with pytest.raises(tf2flax.DamagedError):
        tf2flax.init_from_checkpoint(checkpoint, ENTRIES, model)
    after = [v.get_raw_value() for _, v in nnx.to_flat_state(nnx.state(model))]
    assert all(a is b for a, b in zip(before, after, strict=True))


def test_a_tied_variable_answers_to_each_of_its_names(
    checkpoint: tf2flax.Checkpoint,
) -> None:
    for value in ("layers/0/kernel", "tied", "object", "array"):
        model = Model(nnx.Rngs(0))
        target: Any = value
        if value == "object":
            target = model.tied
        elif value == "array":
            target = model.tied.get_raw_value()
        tf2flax.init_from_checkpoint(checkpoint, {"m/w": target}, model)
        assert np.array_equal(model.layers[0].kernel[...], W)


@pytest.mark.parametrize("stored", ["layers/0/kernel", "tied"])
def test_a_scope_finds_a_tied_variable_by_either_name(
    tmp_path: pathlib.Path, stored: str
) -> None:
    tensors = {f"m/{stored}": W, "m/layers/0/bias": B, "m/groups/a/0": B}
    tensors |= {f"m/bn/{name}": B for name in ("bias", "mean", "scale", "var")}
    write_bundle(tmp_path / "m", tensors)
    model = Model(nnx.Rngs(0))
    tf2flax.init_from_checkpoint(tmp_path / "m", {"m/": "/"}, model)
    assert np.array_equal(model.tied[...], W)
    other = Model(nnx.Rngs(0))
    with pytest.raises(
        tf2flax.AssignmentError, match="nothing lies under `m/nowhere/`"
    ):
        tf2flax.plan(tmp_path / "m", {"m/nowhere/": "layers/0/"}, other)


def test_states_get_new_variables(checkpoint: tf2flax.Checkpoint) -> None:
    model = Model(nnx.Rngs(0))
    state = nnx.state(model)
    got = tf2flax.init_from_checkpoint(checkpoint, ENTRIES, state)
    assert type(got) is nnx.State
    assert np.array_equal(got["layers"][0]["kernel"][...], W)
    assert not np.array_equal(model.layers[0].kernel[...], W)
    old = dict(nnx.to_flat_state(state))
    for key, variable in nnx.to_flat_state(got):
        assert variable is not old[key]
        assert type(variable) is type(old[key])
    nnx.update(model, got)
    assert np.array_equal(model.bn.mean[...], B + 1)
    params = nnx.state(model, nnx.Param)
    got = tf2flax.init_from_checkpoint(checkpoint, {"m/b": "layers/0/bias"}, params)
    assert np.array_equal(got["layers"][0]["bias"][...], B)


def test_abstract_modules(checkpoint: tf2flax.Checkpoint) -> None:
    abstract = nnx.eval_shape(lambda: nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    got = tf2flax.init_from_checkpoint(checkpoint, {"m/": "/"}, abstract)
    assert got is abstract
    assert np.array_equal(got(jnp.ones((1, 2))), np.ones((1, 2)) @ W + B)
    abstract = nnx.eval_shape(lambda: Model(nnx.Rngs(0)))
    with pytest.raises(tf2flax.AssignmentError, match=r"warm_start") as caught:
        tf2flax.plan(checkpoint, ENTRIES, abstract)
    assert "leaves (1), which would stay" in str(caught.value)
    assert "`drop/rngs/count`, `drop/rngs/key`" in str(caught.value)


def test_modules_within_pytrees(checkpoint: tf2flax.Checkpoint) -> None:
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    target = {"net": model, "x": zeros()}
    got = tf2flax.init_from_checkpoint(
        checkpoint, [("m/", "net/"), ("m/", "x/")], target
    )
    assert got["net"] is model
    assert np.array_equal(model.kernel[...], W)
    is_loaded(got["x"])


def test_scalars_and_keys(tmp_path: pathlib.Path) -> None:
    write_bundle(
        tmp_path / "m",
        {"i": np.int32(3), "f": np.float64(0.5), "b": np.array(True), "k": np.ones(2)},
    )
    target = {"i": 1, "f": 1.0, "b": False, "k": jax.random.key(0), "none": None}
    entries = {"i": "i", "f": "f", "b": "b"}
    got = tf2flax.init_from_checkpoint(tmp_path / "m", entries, target)
    assert [(v.dtype.name, v.item()) for v in (got["i"], got["f"], got["b"])] == [
        ("int32", 3), ("float32", 0.5), ("bool", True),
    ]  # fmt: skip
    assert got["k"] is target["k"]
    # A scope does not reach a PRNG key; an entry that names it is refused.
    tf2flax.init_from_checkpoint(tmp_path / "m", {"/": "/"}, target)
    with pytest.raises(tf2flax.AssignmentError, match="holds no numbers"):
        tf2flax.plan(tmp_path / "m", {"k": "k"}, {"k": jax.random.key(0)})


def test_names_that_join_to_the_same(checkpoint: tf2flax.Checkpoint) -> None:
    with pytest.raises(tf2flax.AssignmentError, match=r"Two leaves .* `a/b`"):
        tf2flax.plan(checkpoint, {}, {"a/b": np.ones(1), "a": {"b": np.ones(1)}})


def test_what_jax_cannot_flatten(checkpoint: tf2flax.Checkpoint) -> None:
    with pytest.raises(tf2flax.AssignmentError, match="cannot take the target apart"):
        tf2flax.plan(checkpoint, {}, {1: np.ones(1), "a": np.ones(1)})


def test_dataclasses_that_nothing_reaches_stay_the_same_object(
    checkpoint: tf2flax.Checkpoint,
) -> None:
    target = {"x": zeros(), "config": Plain(w=1, b=2), "model": nn.Dense(3)}
    got = tf2flax.init_from_checkpoint(checkpoint, {"m/": "x/"}, target)
    assert got["config"] is target["config"]
    assert got["model"] is target["model"]


def test_objects_at_no_leaf_or_at_several(checkpoint: tf2flax.Checkpoint) -> None:
    array = jnp.zeros((2, 3))
    with pytest.raises(tf2flax.AssignmentError, match=r"stands at 2 leaves.*`a`, `b`"):
        tf2flax.plan(checkpoint, {"m/w": array}, {"a": array, "b": array})
    with pytest.raises(tf2flax.AssignmentError, match="not a leaf of the target"):
        tf2flax.plan(checkpoint, {"m/w": jnp.zeros((2, 3))}, {"a": array})


def test_kept_abstract_leaves_are_named(checkpoint: tf2flax.Checkpoint) -> None:
    target = {"a": SDS((2, 3), "float32"), "b": SDS((3,), "float32")}
    for run in (tf2flax.plan, tf2flax.init_from_checkpoint):
        with pytest.raises(tf2flax.AssignmentError, match=r"`b`.*warm_start"):
            run(checkpoint, {"m/w": "a"}, target)


def test_the_example_of_tensorflows_documentation(tmp_path: pathlib.Path) -> None:
    rng = np.random.RandomState(0)
    stored = {
        "old_scope_1/var1": rng.rand(20, 2).astype(np.float32),
        "old_scope_1/var2": rng.rand(50, 4).astype(np.float32),
        "old_scope_2/var3": rng.rand(100, 100).astype(np.float32),
    }
    write_bundle(tmp_path / "m", stored)
    var1, var2, var3 = stored.values()
    parts = [f"new_scope_2/var3/part_{i}" for i in range(5)]

    def target() -> dict[str, jax.Array]:
        leaves = {"new_scope_1/var1": jnp.zeros((20, 2))}
        leaves |= {"new_scope_2/var2": jnp.zeros((50, 4))}
        return leaves | {name: jnp.zeros((20, 100)) for name in parts}

    def run(entries: Any, into: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return tf2flax.init_from_checkpoint(tmp_path / "m", entries, into)

    got = run({"old_scope_1/": "new_scope_1/"}, target())
    assert np.array_equal(got["new_scope_1/var1"], var1)
    entries: dict[str, Any] = {
        "old_scope_1/var1": "new_scope_1/var1",
        "old_scope_1/var2": "new_scope_2/var2",
    }
    got = run(entries, target())
    assert np.array_equal(got["new_scope_1/var1"], var1)
    assert np.array_equal(got["new_scope_2/var2"], var2)
    into = target()
    entries = {
        "old_scope_1/var1": into["new_scope_1/var1"],
        "old_scope_1/var2": into["new_scope_2/var2"],
    }
    got = run(entries, into)
    assert np.array_equal(got["new_scope_1/var1"], var1)
    assert np.array_equal(got["new_scope_2/var2"], var2)
    into = target()
    for value in ("new_scope_2/var3", [into[name] for name in parts]):
        got = run({"old_scope_2/var3": value}, into)
        assert np.array_equal(np.concatenate([got[name] for name in parts]), var3)


def test_an_interrupted_update_of_a_module_is_undone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    tf2flax.save_checkpoint(
        tmp_path / "m", {"kernel": np.ones((2, 3), "f4"), "bias": np.ones(3, "f4")}
    )
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    before = {"kernel": model.kernel[...], "bias": model.bias[...]}
    set_raw_value = nnx.Variable.set_raw_value
    calls: list[Any] = []

    def interrupted(self: Any, *args: Any, **options: Any) -> None:
        set_raw_value(self, *args, **options)
        calls.append(self)
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(nnx.Variable, "set_raw_value", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tf2flax.init_from_checkpoint(tmp_path / "m", {"/": "/"}, model)
    assert len(calls) > 1
    assert model.kernel[...] is before["kernel"]
    assert model.bias[...] is before["bias"]
