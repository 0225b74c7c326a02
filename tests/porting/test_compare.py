"""`compare_outputs`: what is compared, in which order, and that nothing is changed."""

from __future__ import annotations

import functools
import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import tf2flax

X = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)


class Layer(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = linen.Dense(3, name="b")(x)
        self.sow("intermediates", "middle", x)
        return linen.Dense(3, name="a")(jnp.tanh(x))


class Net(linen.Module):
    """Names do not sort in the order of computation."""

    @linen.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = Layer(name="layer_1")(x)
        x = Layer(name="layer_0")(x)
        return x, x.sum(-1)


class Linear(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.layers = nnx.List([nnx.Linear(3, 3, rngs=rngs) for _ in range(2)])
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.calls = nnx.BatchStat(jnp.zeros(()))

    def __call__(self, x: jax.Array) -> jax.Array:
        self.calls.set_value(self.calls.get_value() + 1)
        for layer in self.layers:
            x = jnp.tanh(layer(x))
        return x


@pytest.fixture(scope="module")
def variables() -> Any:
    return Net().init(jax.random.key(0), X)


@pytest.fixture(scope="module")
def recorded(variables: Any) -> Any:
    """Outputs and intermediates, as linen gives them."""
    state: Any
    outputs, state = Net().apply(variables, X, capture_intermediates=True)
    return outputs, {"intermediates": state["intermediates"]}


ORDER = [
    "layer_1/b", "layer_1/middle", "layer_1/a", "layer_1", "layer_0/b",
    "layer_0/middle", "layer_0/a", "layer_0", "0", "1",
]  # fmt: skip


def changed(variables: Any, layer: str, dense: str) -> Any:
    """The same variables with another bias."""
    variables = jax.tree.map(np.array, variables)
    variables["params"][layer][dense]["bias"] += 0.5
    return variables


WAYS: list[Callable[..., Any]] = [
    Net().apply,
    jax.jit(Net().apply),
    functools.partial(Net().apply, capture_intermediates=True),
    lambda v, x: jax.jit(Net().apply, static_argnames=("capture_intermediates",))(
        v, x, capture_intermediates=True
    ),
]


@pytest.mark.parametrize(
    "fn",
    [*WAYS[:2], *(pytest.param(fn, marks=pytest.mark.slow) for fn in WAYS[2:])],
    ids=["apply", "jit", "captured", "inner_jit"],
)
def test_rows_come_in_the_order_of_computation(
    fn: Callable[..., Any], variables: Any, recorded: Any
) -> None:
    right = tf2flax.compare_outputs(fn, variables, (X,), recorded)
    assert [row.name for row in right.rows] == ORDER
    assert right.ok
    assert right.first is None
    assert right.candidates == ()


@pytest.mark.parametrize(
    ("layer", "dense", "agree"), [("layer_1", "b", 0), ("layer_0", "a", 6)]
)
def test_the_first_difference_and_the_leaves_that_feed_it(
    layer: str, dense: str, agree: int, variables: Any, recorded: Any
) -> None:
    wrong = changed(variables, layer, dense)
    comparison = tf2flax.compare_outputs(Net().apply, wrong, (X,), recorded)
    assert not comparison.ok
    assert [row.ok for row in comparison.rows] == [True] * agree + [False] * (
        len(ORDER) - agree
    )
    assert comparison.first is not None
    assert comparison.first.name == f"{layer}/{dense}"
    # What comes only through arrays that agree is left out.
    assert sorted(comparison.first.leaves) == [
        f"params/{layer}/{dense}/{leaf}" for leaf in ("bias", "kernel")
    ]


def test_without_layers_all_leaves_may_be_at_fault(variables: Any) -> None:
    wanted = Net().apply(variables, X)
    wrong = changed(variables, "layer_0", "a")
    comparison = tf2flax.compare_outputs(Net().apply, wrong, (X,), wanted)
    assert comparison.first is not None
    assert comparison.first.name == "0"
    assert len(comparison.first.leaves) == 8


def test_intermediates_by_other_names(variables: Any, recorded: Any) -> None:
    (hidden, total), state = recorded
    (layer,) = state["intermediates"]["layer_1"]["__call__"]
    comparison = tf2flax.compare_outputs(
        Net().apply,
        variables,
        (X,),
        {"tf/block1": layer, "hidden": hidden, "tf/total": total, "tf/x": X},
        intermediates={"tf/block1": "layer_1", "hidden": "0", "tf/total": "1"},
    )
    assert comparison.ok, comparison
    assert [(row.name, row.path) for row in comparison.rows] == [
        ("tf/block1", "layer_1"),
        ("hidden", "0"),
        ("tf/total", "1"),
    ]
    assert "Recorded inputs, not compared: `tf/x`." in str(comparison)
    further = tf2flax.compare_outputs(
        Net().apply,
        variables,
        (X,),
        (hidden, total),
        intermediates={"layer_1": layer, "layer_0": {"a": {"__call__": (hidden,)}}},
    )
    assert [row.name for row in further.rows] == ["layer_1", "layer_0/a", "0", "1"]
    assert further.ok


def test_what_cannot_be_compared_is_told(variables: Any) -> None:
    hidden, total = Net().apply(variables, X)
    comparison = tf2flax.compare_outputs(
        Net().apply,
        variables,
        (X,),
        {
            "0": np.asarray(hidden).T,
            "1": np.full_like(total, np.nan),
            "layer_9": X + 1,
            "b": X + 1,
            "h": X + 1,
        },
        intermediates={"h": "layer_1/aa"},
    )
    facts = {row.name: row.fact for row in comparison.rows}
    assert facts == {
        "0": "shape [2, 3], recorded is [3, 2]",
        "1": "NaN in 2 of 2 elements, recorded",
        "layer_9": "the model gives no `layer_9`; did you mean `layer_0`?",
        "b": "may be `layer_1/b`, `layer_0/b` of the model",
        "h": "the model gives no `layer_1/aa`; did you mean `layer_1/a`?",
    }
    assert not any(row.ok for row in comparison.rows)
    assert comparison.first is not None
    assert comparison.first.name == "0"
    assert all(name in str(comparison) for name in facts)


@pytest.mark.parametrize("is_jitted", [False, True])
def test_modules_of_nnx(is_jitted: bool) -> None:
    model = Linear(nnx.Rngs(0))
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    wanted: Any = jnp.tanh(model.layers[0](X))
    out = jnp.tanh(model.layers[1](wanted))
    recorded = {"first": model.layers[0](X), "out": out}
    fn: Any = nnx.jit(Linear.__call__) if is_jitted else lambda model, x: model(x)
    names = {"first": "layers/0", "out": "output"}

    def compare() -> tf2flax.Comparison:
        return tf2flax.compare_outputs(fn, model, (X,), recorded, intermediates=names)

    assert compare().ok
    # Nothing of the module has changed: neither values, nor counts, nor attributes.
    assert model.calls.get_value() == 0
    after = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    assert jax.tree.all(jax.tree.map(np.array_equal, before, after))
    assert not jax.tree.leaves(nnx.state(model, nnx.Intermediate))
    bias: Any = model.layers[0].bias
    bias.set_value(bias.get_value() + 1)
    comparison = compare()
    assert comparison.first is not None
    assert comparison.first.name == "first"
    assert sorted(comparison.first.leaves) == ["layers/0/bias", "layers/0/kernel"]


@pytest.mark.slow
def test_what_nnx_captures_is_recorded() -> None:
    capture: Any = getattr(nnx, "capture", None)
    if capture is None:
        pytest.skip("this Flax has no nnx.capture")
    model = Linear(nnx.Rngs(0))
    recorded = capture(
        lambda model, x: model(x), nnx.Intermediate, method_outputs=nnx.Intermediate
    )(model, X)
    comparison = tf2flax.compare_outputs(
        lambda model, x: model(x), model, (X,), recorded
    )
    assert comparison.ok
    assert [row.name for row in comparison.rows] == ["layers/0", "layers/1", "output"]


@pytest.mark.slow
def test_scanned_layers_come_in_order() -> None:
    class Block(linen.Module):
        @linen.compact
        def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
            x = linen.Dense(3, name="z")(x)
            return linen.Dense(3, name="a")(x), None

    class Scanned(linen.Module):
        @linen.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            scanned = linen.scan(
                Block,
                variable_axes={"params": 0, "intermediates": 0},
                split_rngs={"params": True},
                length=2,
            )
            return scanned(name="layers")(x, None)[0]

    variables = Scanned().init(jax.random.key(0), X)
    state: Any
    out, state = Scanned().apply(variables, X, capture_intermediates=True)
    right = tf2flax.compare_outputs(Scanned().apply, variables, (X,), (out, state))
    assert right.ok
    assert [row.name for row in right.rows[:2]] == ["layers/z", "layers/a"]
    wrong = jax.tree.map(np.array, variables)
    wrong["params"]["layers"]["a"]["bias"] += 1
    first = tf2flax.compare_outputs(Scanned().apply, wrong, (X,), (out, state)).first
    # The second layer takes what the first one gives: `z` differs there as well.
    assert first is not None
    assert first.name == "layers/z"


def test_functions_that_jax_cannot_trace() -> None:
    def fn(variables: Any, x: Any, *, power: int) -> dict[str, Any]:
        hidden = np.asarray(x) @ np.asarray(variables["w"])
        return {"b": hidden, "a": {"c": hidden**power}}

    variables = {"w": np.eye(3, dtype=np.float32)}
    inputs = {"x": X, "power": 2}
    right = tf2flax.compare_outputs(fn, variables, inputs, {"b": X + 0, "a/c": X**2})
    assert right.ok
    assert "JAX cannot trace the model" in str(right)
    wrong = tf2flax.compare_outputs(fn, variables, inputs, {"b": X, "a": {"c": X}})
    assert wrong.first is not None
    assert wrong.first.name == "a/c"
    assert wrong.first.leaves == ("w",)


def test_recorded_files(tmp_path: pathlib.Path) -> None:
    def compare(recorded: Any) -> tf2flax.Comparison:
        return tf2flax.compare_outputs(lambda v, x: x * v["s"], {"s": 2.0}, X, recorded)

    np.savez(tmp_path / "a.npz", logits=X * 2, x=X)
    np.save(tmp_path / "a.npy", X * 2)
    for recorded in ("a.npz", "a.npy"):
        assert compare(tmp_path / recorded).ok
        assert compare(str(tmp_path / recorded)).ok
    with np.load(tmp_path / "a.npz") as archive:
        assert compare(archive).ok
    assert compare(X * 2).ok
    assert compare((X * 2,)).ok
    assert not compare((X * 2, X + 1)).ok
    np.savez(tmp_path / "o.npz", a=np.array([{}], object))
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-30])
    for name, error in (
        ("no.npz", tf2flax.NotFoundError),
        ("o.npz", tf2flax.UnsupportedError),
        ("b.npz", tf2flax.DamagedError),
    ):
        with pytest.raises(error, match=name):
            compare(tmp_path / name)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fn": 3}, "fn: expected a function"),
        ({"inputs": 3}, "inputs: expected a tuple"),
        ({"recorded": None}, "recorded: expected recorded arrays"),
        ({"recorded": {}}, "recorded: expected recorded arrays"),
        ({"plan": 3}, "plan: expected what tf2flax.plan gives, got 3"),
        ({"rtol": -1}, "Option rtol: expected a finite number, 0 or more"),
        ({"atol": math.nan}, "Option atol: expected"),
        ({"intermediates": {"y": "a"}}, "`y` not recorded. Recorded are `x`"),
        ({"intermediates": {"x": X}}, "`x` in recorded as well"),
    ],
)
def test_wrong_arguments(changes: dict[str, Any], words: str) -> None:
    arguments: dict[str, Any] = {
        "fn": lambda v, x: x,
        "variables": {"w": X},
        "inputs": (X,),
        "recorded": {"x": X},
    }
    arguments |= changes
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.compare_outputs(**arguments)
    assert words in str(caught.value)


def test_errors_of_the_model_are_its_own(variables: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        tf2flax.compare_outputs(lambda v, x: 1 / 0, variables, (X,), X)


def test_values_of_the_caller_stay(variables: Any, recorded: Any) -> None:
    before = jax.tree.map(np.array, variables)
    tf2flax.compare_outputs(Net().apply, variables, (X,), recorded)
    assert jax.tree.all(jax.tree.map(np.array_equal, before, variables))
