"""Maps and entries that fill nothing, and targets that hold nothing."""

from __future__ import annotations

import collections
import dataclasses
import functools
import pathlib
import warnings
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import tf2flax
from tf2flax import src, stack

GIVEN = {
    "bert/a/kernel": 1, "bert/layer_0/kernel": 2, "bert/layer_1/kernel": 3, "empty": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> str:
    arrays = {name: np.full(3, n, "f4") for name, n in GIVEN.items()}
    arrays["empty"] = np.zeros((0, 3), "f4")
    return tf2flax.save_checkpoint(tmp_path_factory.mktemp("m") / "m", arrays)


def target() -> dict[str, Any]:
    return {
        "params": {
            "a": {"kernel": np.zeros(3, "f4")},
            "layers_0": {"kernel": np.zeros(3, "f4")},
            "empty": np.zeros((0, 3), "f4"),
            "key": jax.random.key(0),
            "t/part_0": np.zeros(1, "f4"),
        }
    }


def init() -> dict[str, Any]:
    params = {
        "a": {"kernel": jnp.zeros(3)},
        "layers_0": {"kernel": jnp.zeros(3)},
        "empty": jnp.zeros((0, 3)),
        "key": jax.random.key(0),
        "t/part_0": jnp.zeros(1),
    }
    return {"params": params}


# Entries of every kind that reach no leaf.
IDLE: dict[str, tuple[Any, Any]] = {
    "a scope": ("bert/", "parms/"),
    "a scope that neither side has": ("nothing/", "none/"),
    "a scope without leaves of numbers": ("bert/", "params/key/"),
    "a rule of scopes": ("bert/layer_{i}/", "params/layer_{i}/"),
    "a rule of scopes, several captures": ("bert/{x}_{i}/", "parms/{x}/{i}/"),
    "a star is no capture": ("bert/layer_*/", "params/layers_*/"),
    "a rule of names": ("bert/layer_{i}/kernel", "params/layer_{i}/kernel"),
    "a rule of names, to a key": ("bert/{x}", "params/{x}/key"),
    "an expression of scopes": (src("bert/a/").reshape(1, 3), "params/b/"),
    "an expression of names": (src("bert/{x}/kernel").transpose(), "params/{x}/w"),
    "counted layers": (stack("bert/layer_{i}/", over="i"), "params/layers/"),
    "an empty list": ("bert/a/kernel", []),
    "an empty list for an expression": (src("bert/a/kernel")[:1], []),
}


def calls(prefix: str, entries: Any, **options: Any) -> dict[str, Callable[[], Any]]:
    return {
        "init_from_checkpoint": lambda: tf2flax.init_from_checkpoint(
            prefix, entries, target(), **options
        ),
        "warm_start": tf2flax.warm_start(init, prefix, entries, **options),
        "restore": lambda: tf2flax.plan(prefix, entries, target(), **options).restore(),
    }


@pytest.mark.parametrize("name", list(IDLE))
def test_a_map_that_fills_nothing_is_an_error(name: str, prefix: str) -> None:
    key, value = IDLE[name]
    for policy in ("error", "keep"):
        options = {"on_missing": policy, "on_mismatch": policy}
        for call in calls(prefix, [(key, value)], **options).values():
            with pytest.raises(tf2flax.AssignmentError, match="No entry of the") as e:
                call()
            assert "Entry 1 reaches no leaf" in str(e.value)
        with pytest.raises(tf2flax.AssignmentError, match="No entry of the"):
            tf2flax.plan(prefix, [(key, value)], target(), **options)


@pytest.mark.parametrize("name", list(IDLE))
def test_an_entry_that_fills_nothing_warns(name: str, prefix: str) -> None:
    key, value = IDLE[name]
    entries = [(key, value), ("bert/a/kernel", "params/a/kernel"), ("x/", "nowhere/")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # planning says nothing
        plan = tf2flax.plan(prefix, entries, target())
    assert len(plan.unused_rules) == 2
    assert plan.unused_rules[1] == "`x/` -> `nowhere/`"
    assert "Entries that matched nothing (2)" in str(plan)
    assert plan.to_dict()["unused_rules"] == list(plan.unused_rules)
    for call in (*calls(prefix, entries).values(), plan.restore):
        with pytest.warns(UserWarning, match="reach no leaf") as caught:
            call()
        assert len(caught) == 1
        assert all(rule in str(caught[0].message) for rule in plan.unused_rules)
        assert caught[0].filename == __file__


def test_the_error_says_why_of_each_entry(prefix: str) -> None:
    entries = {"bert/": "parms/", "none": "params/a/kernel", "empty": "params/t"}
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.plan(prefix, entries, target(), on_missing="keep", on_mismatch="keep")
    lines = str(caught.value).splitlines()
    assert (
        lines[1]
        == "Entry 1 reaches no leaf: `bert/` -> `parms/` (did you mean `params/`?)"
    )
    assert (
        "Entry 2 `none` -> `params/a/kernel`: leaf `params/a/kernel` is kept"
        in lines[2]
    )
    assert lines[2].endswith("not in the checkpoint")
    assert "do not tile" in lines[3]


# Entries that reach leaves, all of which are kept.
KEPT: dict[str, tuple[Any, Any]] = {
    "a missing tensor": ("none", "params/a/kernel"),
    "a missing scope": ("nothing/", "params/a/"),
    "a missing source of a rule": ("none_{i}/", "params/layers_{i}/"),
    "a missing source of an expression": (src("none").transpose(), "params/a/kernel"),
    "another shape": ("empty", "params/a/kernel"),
    "another shape of an expression": (src("bert/a/kernel")[:1], "params/a/kernel"),
    "a part that does not tile": ("bert/a/kernel", "params/t"),
}


@pytest.mark.parametrize("name", list(KEPT))
def test_leaves_that_are_kept_are_not_filled(name: str, prefix: str) -> None:
    options = {"on_missing": "keep", "on_mismatch": "keep"}
    for call in calls(prefix, [KEPT[name]], **options).values():
        with pytest.raises(tf2flax.AssignmentError, match=r"is kept because"):
            call()
    # Beside an entry that fills a leaf they are kept, as was asked for, without a word.
    entries = [KEPT[name], ("bert/layer_0/kernel", "params/layers_0/kernel")]
    if name == "a missing source of a rule":
        entries[1] = ("bert/a/kernel", "params/a/kernel")
    for call in calls(prefix, entries, **options).values():
        call()


def test_what_fills(prefix: str) -> None:
    # Leaves of size 0 are leaves.
    for call in calls(prefix, {"empty": "params/empty"}).values():
        assert call()["params"]["empty"].shape == (0, 3)
    # An entry all of whose leaves another entry has is overridden, not idle.
    entries = [
        ("bert/a/", "params/a/"),
        (src("bert/layer_0/kernel"), "params/a/kernel"),
    ]
    plan = tf2flax.plan(prefix, entries, target())
    assert plan.unused_rules == ()
    assert "Overridden entries (1)" in str(plan)
    for call in calls(prefix, entries).values():
        assert call()["params"]["a"]["kernel"].tolist() == [2, 2, 2]


@pytest.mark.parametrize("empty", [{}, [], ()])
def test_an_empty_map_fills_nothing(empty: Any, prefix: str) -> None:
    for call in calls(prefix, empty).values():
        assert not call()["params"]["a"]["kernel"].any()


class Shaped(nn.Module):
    """Has attributes of an array, and is none."""

    shape: tuple[int, ...] = (3,)
    dtype: Any = np.dtype("float32")


class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.linear = nnx.Linear(2, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.linear(x)


class Bare(nnx.Module):
    pass


@dataclasses.dataclass
class Plain:
    field: Any = None


class Transformation(collections.namedtuple("Transformation", ["init", "update"])):
    """As optax has it."""


DENSE = nn.Dense(3)
VARIABLES = DENSE.init(jax.random.key(0), jnp.ones((1, 2)))
# Target -> what the message names, and what it says to give.
NOTHING: dict[str, tuple[Any, str, str]] = {
    "a linen Module": (DENSE, "linen Module `Dense`", r"`model.init\(...\)`, or for"),
    "one in a dict": ({"model": DENSE}, "`model`: the linen", "jax.eval_shape"),
    "a bound one": (DENSE.bind(VARIABLES), "linen Module `Dense`", "model.init"),
    "one with a shape": (Shaped(), "linen Module `Shaped`", "model.init"),
    "a class of linen": (nn.Dense, "class `Dense`", r"`Dense\(...\).init\(...\)`"),
    "a class of nnx": (nnx.Linear, "class `Linear`", r"instance: `Linear\(...\)`"),
    "another class": (Plain, "class `Plain`", "Give an instance"),
    "None": (None, "None holds", "Give arrays"),
    "a dict of None": ({"x": None}, "a dict", "Give arrays"),
    "an empty dict": ({}, "an empty dict", "Give arrays"),
    "an empty list": ([], "an empty list", "Give arrays"),
    "an empty tuple": ((), "an empty tuple", "Give arrays"),
    "nested empty trees": ({"a": {}, "b": [(), {}]}, "a dict", "Give arrays"),
    "an empty FrozenDict": (flax.core.freeze({}), "FrozenDict", "Give arrays"),
    "an empty dataclass": (Plain(), "`Plain`", "Give arrays"),
    "a text": ("params", "`str`", "Give arrays"),
    "texts": (["a", "b"], "`0`: an object of type `str`", "Give arrays"),
    "a function": (init, "function `init`", "what it returns"),
    "a method": (DENSE.init, r"function `Module\.init`", "warm_start"),
    "a partial": (functools.partial(init), "function", "what it returns"),
    "a jitted function": (jax.jit(init), "function `init`", "what it returns"),
    "an optimizer": (
        Transformation(init, init), "an optimizer", r"optimizer\.init\(params\)",
    ),
    "an empty State": (nnx.State({}), "State", "other than nnx.RngState"),
    "a bare Module": (Bare(), "nnx.Module `Bare`", "other than nnx.RngState"),
    "a Module of Rngs": (
        nnx.Dropout(0.5, rngs=nnx.Rngs(0)), "`Dropout`", "other than nnx.RngState",
    ),
    "a PRNG key": (jax.random.key(0), "key<fry>", "Give arrays"),
    "an array of objects": (np.array(["a"]), "ndarray", "Give arrays"),
    "a path": (pathlib.Path("x"), "Path", "Give arrays"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(NOTHING))
def test_targets_that_hold_nothing(name: str, prefix: str) -> None:
    nothing, what, way_out = NOTHING[name]
    for entries in ({"bert/a/": "params/"}, {"bert/a/kernel": "x"}, {}):
        for call in (tf2flax.plan, tf2flax.init_from_checkpoint):
            with pytest.raises(tf2flax.AssignmentError, match=what) as caught:
                call(prefix, entries, nothing)
            assert caught.match("has no leaf that a tensor could fill")
            assert caught.match(way_out)


def test_what_stands_beside_a_leaf_is_kept(prefix: str) -> None:
    tree = {"model": DENSE, "f": init, "none": None, "x": np.zeros(3, "f4")}
    got = tf2flax.init_from_checkpoint(prefix, {"bert/a/kernel": "x"}, tree)
    assert got["model"] is DENSE
    assert got["f"] is init
    assert got["x"].tolist() == [1, 1, 1]


# Texts are tensors of strings.
@pytest.mark.parametrize("name", [name for name in NOTHING if name != "texts"])
def test_nothing_is_not_saved(name: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(tf2flax.CheckpointError):
        tf2flax.save_checkpoint(tmp_path / "m", NOTHING[name][0])
    assert not list(tmp_path.iterdir())


NO_FUNCTION: dict[str, tuple[Any, str]] = {
    "a linen Module": (DENSE, r"linen Module `Dense`.*`model\.init`"),
    "a bound one": (DENSE.bind(VARIABLES), r"`model\.init`"),
    "a class of linen": (nn.Dense, r"`Dense\(\.\.\.\)\.init`"),
    "an nnx.Module": (Net(nnx.Rngs(0)), "initialised already.*init_from_checkpoint"),
    "a State": (nnx.State({}), "init_from_checkpoint"),
    "variables": (VARIABLES, "init_from_checkpoint"),
    "an optimizer": (Transformation(init, init), "Give its function `init`"),
    "None": (None, "got None"),
    "a text": ("init", "`str`"),
}


@pytest.mark.parametrize("name", list(NO_FUNCTION))
def test_warm_start_refuses_at_once(name: str, prefix: str) -> None:
    value, message = NO_FUNCTION[name]
    for path in (prefix, "/no/such/checkpoint"):
        with pytest.raises(tf2flax.AssignmentError, match=message):
            tf2flax.warm_start(value, path, {"bert/a/kernel": "x"})


RESULTS: dict[str, tuple[Callable[[], Any], str]] = {
    "nothing": (lambda: None, "init function gives has no leaf"),
    "an empty tree": (lambda: {"params": {}}, "init function gives has no leaf"),
    "a linen Module": (lambda: nn.Dense(3), "gives the linen Module.*model.init"),
    "a class": (lambda: nnx.Linear, "gives the class `Linear`"),
    "a text beside an array": (lambda: {"a": "x", "b": jnp.ones(3)}, "type `str`"),
    "a key alone": (lambda: jax.random.key(0), "init function gives has no leaf"),
}


@pytest.mark.parametrize("name", list(RESULTS))
def test_init_functions_that_give_nothing(name: str, prefix: str) -> None:
    function, message = RESULTS[name]
    for entries in ({}, {"bert/a/kernel": "x"}):
        with pytest.raises(tf2flax.AssignmentError, match=message):
            tf2flax.warm_start(function, prefix, entries)()


def test_warm_start_takes_classes_and_other_callables(prefix: str) -> None:
    entries = {"bert/a/kernel": "linear/bias"}
    for builder in (Net, functools.partial(Net), lambda rngs: Net(rngs)):
        module = tf2flax.warm_start(builder, prefix, entries)(nnx.Rngs(0))
        assert module.linear.bias[...].tolist() == [1, 1, 1]
