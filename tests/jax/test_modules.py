"""What NNX modules hold: looked at without NNX where one path leads to everything."""

from __future__ import annotations

import pathlib
from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given

import tf2flax
from tf2flax._jax import modules
from tf2flax._jax.modules import Contents, contents_of
from tf2flax._jax.trees import join_path


def _marked(value: Any) -> Any:
    """Numbers and texts are static attributes, all else is data."""
    return value if isinstance(value, (int, str)) else nnx.data(value)


class Holder(nnx.Module):
    """A module with attributes of any names."""

    def __init__(self, attributes: dict[str, Any]) -> None:
        for name, value in attributes.items():
            setattr(self, name, _marked(value))


class Opaque(nnx.Module, pytree=False):
    """A module that JAX takes for a leaf."""

    def __init__(self, attributes: dict[str, Any]) -> None:
        for name, value in attributes.items():
            setattr(self, name, value)


def _cycle(attributes: dict[str, Any]) -> nnx.Module:
    inner = Holder(attributes)
    inner.inner = Holder({"outer": inner})
    return inner


def _nested(depth: int) -> nnx.Module:
    module: nnx.Module = Holder({"w": nnx.Param(jnp.zeros(1))})
    for _ in range(depth):
        module = Holder({"m": module})
    return module


def _dict(attributes: dict[str, Any]) -> nnx.Module:
    return nnx.Dict({name: _marked(value) for name, value in attributes.items()})


def _mutable(count: int) -> nnx.Variable[Any]:
    variable = nnx.Param(jnp.zeros(count))
    variable.set_raw_value(jax.new_ref(jnp.zeros(count)))
    return variable


KEYS = st.sampled_from(["a", "b", "w", "w_1", "10", "9"])
# Values without modules, made anew each time.
PLAIN: list[Any] = [
    lambda: nnx.Param(jnp.zeros(2)),
    lambda: nnx.BatchStat(np.zeros(2)),
    lambda: nnx.Param(1.5),
    lambda: nnx.Param(jax.ShapeDtypeStruct((2,), "float32")),
    lambda: nnx.RngKey(jax.random.key(0), tag="x"),
    lambda: nnx.RngKey(jax.ShapeDtypeStruct((), jax.random.key(0).dtype), tag="x"),
    lambda: jnp.zeros(3),
    lambda: np.zeros(3),
    lambda: jax.ShapeDtypeStruct((3,), "float32"),
    lambda: None,
    lambda: 7.5,
    lambda: (),
    lambda: 3,
    lambda: "text",
    lambda: [nnx.Param(jnp.zeros(1)), jnp.zeros(2), 5],
    lambda: {"k": nnx.Param(jnp.zeros(1)), "m": None},
    lambda: nnx.Rngs(0, dropout=1),
    lambda: _mutable(2),
]
CONTAINERS: list[Any] = [Holder, Holder, Opaque, _dict, _cycle]


@st.composite
def any_modules(draw: st.DrawFn) -> nnx.Module:
    """Modules of modules, some of whose parts stand at several places."""
    parts: list[Any] = []
    for _ in range(draw(st.integers(0, 4))):
        parts.append(draw(st.sampled_from(PLAIN))())
    for _ in range(draw(st.integers(1, 4))):
        if parts and draw(st.booleans()):
            chosen = draw(st.lists(st.sampled_from(parts), max_size=12))
            parts.append(nnx.List(list(map(_marked, chosen))))
        else:
            makes = st.dictionaries(KEYS, st.integers(0, len(parts)), max_size=4)
            attributes = {
                name: parts[n] if n < len(parts) else nnx.Param(jnp.zeros(1))
                for name, n in draw(makes).items()
            }
            parts.append(draw(st.sampled_from(CONTAINERS))(attributes))
    return next(part for part in parts[::-1] if isinstance(part, nnx.Pytree))


def _listed(contents: Contents) -> list[Any]:
    held = [(entry.names, id(entry.holder)) for entry in contents.held]
    return [held, contents.abstract, list(contents.rng_states.items())]


def _outcome(look: Any, module: nnx.Module) -> Any:
    try:
        return look(module)
    except Exception as error:
        return type(error), str(error)


def _by_nnx(module: nnx.Module) -> list[tuple[str, int]]:
    flat = nnx.to_flat_state(nnx.state(module))
    return [(join_path(("root", *key)), id(holder)) for key, holder in flat]


@given(any_modules())
def test_modules_hold_what_nnx_lists(module: nnx.Module) -> None:
    def look(module: nnx.Module) -> Any:
        return _listed(contents_of(module, ("root",)))

    def look_at_graph(module: nnx.Module) -> Any:
        return _listed(modules._contents_of_graph(module, ("root",)))  # pyright: ignore[reportPrivateUsage]

    contents = _outcome(look, module)
    assert contents == _outcome(look_at_graph, module)
    listed = _outcome(_by_nnx, module)
    if isinstance(listed, list):
        held, _, rng_states = contents
        states = {name for name, _ in rng_states}
        assert [(names[0], holder) for names, holder in held] == [
            (name, holder) for name, holder in listed if name not in states
        ]


class Block(nnx.Module):
    """As modules of models are, with what has no names of its own."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.norm = nnx.BatchNorm(2, rngs=rngs)
        self.dense = nnx.List([nnx.Linear(2, 2, rngs=rngs) for _ in range(11)])
        self.table = jnp.zeros(3)
        self.bias = None
        self.activation = nnx.relu


# Modules, and whether they are looked at without NNX.
KINDS: dict[str, tuple[Any, bool]] = {
    "a model": (lambda: nnx.Dict(a=Block(nnx.Rngs(0)), b=Block(nnx.Rngs(1))), True),
    "shapes": (
        lambda: nnx.eval_shape(lambda: nnx.Linear(2, 2, rngs=nnx.Rngs(0))), True
    ),
    "a number": (lambda: Holder({"w": nnx.Param(0.5)}), True),
    "a shape": (lambda: Holder({"w": jax.ShapeDtypeStruct((2,), "float32")}), False),
    "deep": (lambda: _nested(modules._MAX_DEPTH), True),  # pyright: ignore[reportPrivateUsage]
    "deeper": (lambda: _nested(modules._MAX_DEPTH + 1), False),  # pyright: ignore[reportPrivateUsage]
    "a sequence": (lambda: nnx.Sequential(nnx.Linear(2, 2, rngs=nnx.Rngs(0))), True),
    "streams of numbers": (lambda: nnx.Dict(rngs=nnx.Rngs(0, dropout=1)), True),
    "a tie": (lambda: Holder(dict.fromkeys("ab", nnx.Param(jnp.zeros(1)))), False),
    "a shared module": (
        lambda: Holder(dict.fromkeys("ab", nnx.Linear(2, 2, rngs=nnx.Rngs(0)))),
        False,
    ),
    "an array twice": (lambda: Holder(dict.fromkeys("ab", jnp.zeros(1))), True),
    "a cycle": (lambda: _cycle({"w": nnx.Param(jnp.zeros(1))}), False),
    "no pytree": (lambda: Opaque({"w": nnx.Param(jnp.zeros(1))}), False),
    "a mutable array": (lambda: Holder({"w": _mutable(2)}), False),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(KINDS))
def test_nnx_is_asked_only_where_paths_are_no_names(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, is_tree = KINDS[kind]
    module = make()
    expected = _listed(modules._contents_of_graph(module, ()))  # pyright: ignore[reportPrivateUsage]
    asked: list[Any] = []
    state = nnx.state

    def counted(*arguments: Any) -> Any:
        asked.append(arguments)
        return state(*arguments)

    monkeypatch.setattr(modules.nnx, "state", counted)
    assert _listed(contents_of(module, ())) == expected
    assert bool(asked) is not is_tree


def test_what_nnx_refuses_is_left_to_it() -> None:
    mixed: Any = nnx.List([nnx.Param(jnp.zeros(1))])
    mixed.extra = nnx.Param(jnp.zeros(1))
    with pytest.raises(TypeError, match="not supported between"):
        contents_of(mixed, ())


@pytest.mark.skipif(not hasattr(jax, "new_ref"), reason="JAX has no mutable arrays")
def test_variables_that_share_a_mutable_array_stay_as_they_are(
    tmp_path: pathlib.Path,
) -> None:
    """NNX would leave a mark in the second, also where a plan is refused."""

    class Pair(nnx.Module):
        def __init__(self) -> None:
            self.a = nnx.Param(jnp.zeros(3))
            self.b = nnx.Param(jnp.zeros(3))

    shared = jax.new_ref(jnp.zeros(3))
    model = Pair()
    for variable in (model.a, model.b):
        object.__setattr__(variable, "_raw_value", shared)
    prefix = tf2flax.save_checkpoint(tmp_path / "m", {"w": np.arange(3, dtype="f4")})
    with pytest.raises(tf2flax.AssignmentError):
        tf2flax.init_from_checkpoint(prefix, {"absent": "a"}, model)
    assert model.b.get_raw_value() is shared
    tf2flax.init_from_checkpoint(prefix, {"w": "a"}, model)
    assert model.a.get_raw_value() is model.b.get_raw_value() is shared
    assert shared[...].tolist() == [0, 1, 2]
