"""warm_start: what the checkpoint supplies is never initialised; the rest is exact."""

from __future__ import annotations

import functools
import inspect
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bundle_writer import write_bundle
from flax import linen as nn
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import tf2flax
from tf2flax._jax.traced_init import TracedInit

BIG = np.arange(64 * 256, dtype=np.float32).reshape(64, 256)


@pytest.fixture
def prefix(tmp_path: pathlib.Path) -> pathlib.Path:
    write_bundle(tmp_path / "m", {"net/kernel": BIG, "net/bias": BIG[0]})
    return tmp_path / "m"


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.Dense(256, name="big")(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(2, name="head")(x)


class Model(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, *, heads: int = 2) -> None:
        self.big = nnx.Linear(64, 256, rngs=rngs)
        self.head = nnx.Linear(256, heads, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.tied = self.head.kernel


LINEN_MAP = {"net/": "params/big/"}
NNX_MAP = {"net/": "big/"}


def bits(tree: Any) -> list[bytes]:
    leaves = [
        jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        for x in jax.tree.leaves(tree)
    ]
    return [np.asarray(leaf).tobytes() for leaf in leaves]


def test_linen(prefix: pathlib.Path) -> None:
    args = (jax.random.key(3), jnp.ones((1, 64)))
    init = tf2flax.warm_start(Linen().init, prefix, LINEN_MAP)
    assert inspect.signature(init) == inspect.signature(Linen().init)
    got = init(*args, train=True)
    whole = jax.jit(functools.partial(Linen().init, train=True))(*args)
    assert np.array_equal(got["params"]["big"]["kernel"], BIG)
    assert jax.tree.structure(got) == jax.tree.structure(whole)
    for tree in (got, whole):
        del tree["params"]["big"]
    assert bits(got) == bits(whole)


def test_dicts_of_keys_are_traced(prefix: pathlib.Path) -> None:
    init = tf2flax.warm_start(Linen().init, prefix, LINEN_MAP)
    keys = {"params": jax.random.key(3), "dropout": jax.random.PRNGKey(4)}
    got = init(keys, jnp.ones((1, 64)))
    whole = jax.jit(Linen().init)(keys, jnp.ones((1, 64)))
    assert bits(got["params"]["head"]) == bits(whole["params"]["head"])


def test_tensors_are_read_at_the_call(
    prefix: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tf2flax._storage.local import LocalFile

    read: list[int] = []
    original = LocalFile.read_runs_into

    def counted(
        file: LocalFile, starts: Sequence[int], buffer: memoryview, *, subject: str
    ) -> None:
        read.append(len(buffer))
        original(file, starts, buffer, subject=subject)

    monkeypatch.setattr(LocalFile, "read_runs_into", counted)
    init = tf2flax.warm_start(Linen().init, prefix, LINEN_MAP)
    assert sum(read) == 0
    init(jax.random.key(0), jnp.ones((1, 64)))
    assert sum(read) == BIG.nbytes + BIG[0].nbytes


def test_a_bad_path_fails_at_once(prefix: pathlib.Path) -> None:
    with pytest.raises(tf2flax.CheckpointNotFoundError):
        tf2flax.warm_start(Linen().init, f"{prefix}-9", LINEN_MAP)


def test_supplied_leaves_cost_nothing() -> None:
    traced = TracedInit(Linen().init, (jax.random.key(0), jnp.ones((1, 64))), {})
    big = [i for i, out in enumerate(traced.outputs) if out.size >= 256 * 64]
    rest = [i for i in range(len(traced.outputs)) if i not in big]
    assert len(big) == 1

    def cost(wanted: list[int]) -> tuple[float, int]:
        compiled = traced.lower(wanted, None).lower(*traced._arrays).compile()
        memory = compiled.memory_analysis().temp_size_in_bytes
        return compiled.cost_analysis().get("flops", 0.0), memory

    everything, without = cost([*rest, *big]), cost(rest)
    # The big kernel has 16,384 of 17,154 random numbers.
    assert without[0] < everything[0] / 4
    assert without[1] < everything[1]


def test_a_supplied_leaf_too_large_to_initialise(prefix: pathlib.Path) -> None:
    def huge(_: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return jnp.broadcast_to(jnp.ones((2**22, 2**21)).sum(), shape).astype(dtype)

    model = nn.Dense(256, kernel_init=huge)
    init = tf2flax.warm_start(model.init, prefix, {"net/kernel": "params/kernel"})
    got = init(jax.random.key(0), jnp.ones((1, 64)))
    assert np.array_equal(got["params"]["kernel"], BIG)


OUTER = nnx.Rngs(5, dropout=6)


def passed(rngs: nnx.Rngs) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    return (lambda r: Model(r)), (rngs,)


def passed_by_class(rngs: nnx.Rngs) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    return Model, (rngs,)


def closed_over(rngs: nnx.Rngs) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    return (lambda: Model(rngs)), ()


def partially_applied(rngs: nnx.Rngs) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    return functools.partial(Model, rngs), ()


def by_default(rngs: nnx.Rngs) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    def build(*, r: nnx.Rngs = rngs) -> Model:
        return Model(r)

    return build, ()


def from_an_object(rngs: nnx.Rngs) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    class Builder:
        def __init__(self) -> None:
            self.config = {"rngs": rngs}

        def build(self) -> Model:
            return Model(self.config["rngs"])

    return Builder().build, ()


@pytest.mark.parametrize(
    "how",
    [
        passed,
        passed_by_class,
        closed_over,
        partially_applied,
        by_default,
        from_an_object,
    ],
)
def test_rngs_end_as_init_alone_would_leave_them(
    prefix: pathlib.Path, how: Callable[..., Any]
) -> None:
    rngs, reference = nnx.Rngs(5, dropout=6), nnx.Rngs(5, dropout=6)
    rngs.params(), reference.params()
    function, args = how(rngs)
    got = tf2flax.warm_start(function, prefix, NNX_MAP)(*args)
    whole = nnx.jit(lambda r: Model(r))(reference)
    assert np.array_equal(got.big.kernel[...], BIG)
    assert got.tied is got.head.kernel
    assert bits(nnx.state(rngs)) == bits(nnx.state(reference))
    assert bits(nnx.state(got.head)) == bits(nnx.state(whole.head))
    assert bits(nnx.state(got.drop)) == bits(nnx.state(whole.drop))
    assert bits(rngs.params()) == bits(reference.params())
    assert got(jnp.ones((1, 64))) is not None if callable(got) else True


def test_rngs_that_are_global(prefix: pathlib.Path) -> None:
    before = int(OUTER.default.count[...])
    tf2flax.warm_start(lambda: Model(OUTER), prefix, NNX_MAP)()
    assert int(OUTER.default.count[...]) > before
    OUTER.params()


def test_rngs_stay_as_they_were_on_an_error(prefix: pathlib.Path) -> None:
    rngs, untouched = nnx.Rngs(5), nnx.Rngs(5)
    for entries in ({"net/": "bigger/kernel"}, {"net/kernel": "head/kernel"}):
        with pytest.raises(tf2flax.AssignmentError):
            tf2flax.warm_start(lambda: Model(rngs), prefix, entries)()
    pathlib.Path(f"{prefix}.data-00000-of-00001").unlink()
    with pytest.raises(tf2flax.DamagedError):
        tf2flax.warm_start(lambda: Model(rngs), prefix, NNX_MAP)()
    assert bits(nnx.state(rngs)) == bits(nnx.state(untouched))


def test_scanned_layers_split_rngs(prefix: pathlib.Path) -> None:
    def build(rngs: nnx.Rngs) -> Any:
        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def layers(r: nnx.Rngs) -> nnx.Linear:
            return nnx.Linear(4, 4, rngs=r)

        return nnx.List([nnx.Linear(64, 256, rngs=rngs), layers(rngs)])

    rngs, reference = nnx.Rngs(0), nnx.Rngs(0)
    got = tf2flax.warm_start(build, prefix, {"net/": "0/"})(rngs)
    whole = nnx.jit(build)(reference)
    assert np.array_equal(got[0].kernel[...], BIG)
    assert bits(nnx.state(got[1])) == bits(nnx.state(whole[1]))
    assert bits(nnx.state(rngs)) == bits(nnx.state(reference))


def test_other_arguments_reach_init_as_they_are(prefix: pathlib.Path) -> None:
    seen: list[Any] = []
    config = object()

    def build(key: jax.Array, *rest: Any, **named: Any) -> dict[str, jax.Array]:
        seen.append((key, *rest, *named.values()))
        return {"w": jax.random.normal(key, (64, 256)), "x": jnp.ones(rest[1])}

    init = tf2flax.warm_start(build, prefix, {"net/kernel": "w"})
    got = init(jax.random.key(0), True, 3, "text", None, config, np.ones(2), flag=2.5)
    assert got["x"].shape == (3,)
    assert len(seen) == 1
    key, *rest = seen[0]
    assert isinstance(key, jax.core.Tracer)
    assert rest[:5] == [True, 3, "text", None, config]
    assert type(rest[0]) is bool
    assert isinstance(rest[5], jax.core.Tracer)
    assert rest[6] == 2.5


def test_shardings(prefix: pathlib.Path) -> None:
    mesh = Mesh(np.array(jax.devices()), ("d",))
    replicated = NamedSharding(mesh, PartitionSpec())
    rngs = nnx.Rngs(0)
    init = tf2flax.warm_start(lambda: Model(rngs), prefix, NNX_MAP, sharding=replicated)
    model = init()
    for leaf in (model.big.kernel, model.head.kernel, model.head.bias):
        assert leaf[...].sharding == replicated
    rows = NamedSharding(mesh, PartitionSpec("d"))
    with pytest.raises(tf2flax.AssignmentError, match="Leaf `head/bias`"):
        tf2flax.warm_start(lambda: Model(rngs), prefix, NNX_MAP, sharding=rows)()


def test_tracing_is_refused(prefix: pathlib.Path) -> None:
    init = tf2flax.warm_start(Linen().init, prefix, LINEN_MAP)
    with pytest.raises(tf2flax.UnsupportedError, match="while JAX is tracing"):
        jax.jit(init)(jax.random.key(0), jnp.ones((1, 64)))
    keys = jax.random.split(jax.random.key(0), 2)
    with pytest.raises(tf2flax.UnsupportedError, match="while JAX is tracing"):
        jax.vmap(init, in_axes=(0, None))(keys, jnp.ones((1, 64)))


def test_a_variable_from_elsewhere_is_named(prefix: pathlib.Path) -> None:
    class Counter:
        __slots__ = ("variable",)

    counter = Counter()
    counter.variable = nnx.Variable(jnp.zeros(()))

    def build() -> Model:
        counter.variable[...] += 1
        return Model(nnx.Rngs(0))

    with pytest.raises(tf2flax.UnsupportedError, match="Pass the object"):
        tf2flax.warm_start(build, prefix, NNX_MAP)()


def test_scopes_that_reach_nothing_warn(prefix: pathlib.Path) -> None:
    entries = {**LINEN_MAP, "net/ ": "x/", "net/x/": "nowhere/"}
    del entries["net/ "]
    init = tf2flax.warm_start(Linen().init, prefix, entries)
    with pytest.warns(UserWarning, match="nowhere") as caught:
        init(jax.random.key(0), jnp.ones((1, 64)))
    assert caught[0].filename == __file__
