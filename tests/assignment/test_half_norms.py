"""Normalisations whose scale or bias are loaded and whose statistics are not."""

from __future__ import annotations

import pathlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import tf2flax
from tf2flax import src, stack
from tf2flax._assignment.resolution import half_norms

TF1 = ("gamma", "beta", "moving_mean", "moving_variance")
WARNING = "half loaded"


def write(folder: pathlib.Path, *names: str) -> str:
    arrays = {name: np.full(3, n + 2, "f4") for n, name in enumerate(names)}
    return tf2flax.save_checkpoint(folder / "m", arrays)


def leaves(*names: str) -> dict[str, Any]:
    return {name: np.zeros(3, "f4") for name in names}


LINEN = leaves(
    "params/bn/scale", "params/bn/bias", "batch_stats/bn/mean", "batch_stats/bn/var"
)
NNX = leaves("bn/scale", "bn/bias", "bn/mean", "bn/var")


class Halves:
    """A case: tensors, target, map, options, and what is reported."""

    def __init__(
        self,
        tensors: tuple[str, ...],
        target: Mapping[str, Any],
        entries: Any,
        expected: Mapping[str, tuple[str, ...]],
        **options: Any,
    ) -> None:
        self.tensors, self.target, self.entries = tensors, dict(target), entries
        self.expected, self.options = expected, options


def scoped(scope: str, names: tuple[str, ...] = TF1) -> tuple[str, ...]:
    return tuple(f"{scope}{name}" for name in names)


STATS = {"params/bn": ("batch_stats/bn/mean", "batch_stats/bn/var")}
OWN = {"bn": ("bn/mean", "bn/var")}
SONNET = ("mean", "variance")
KEEP = {"on_missing": "keep", "on_mismatch": "keep"}
TOLD: dict[str, Halves] = {
    "linen": Halves(scoped("net/bn/"), LINEN, {"net/bn/": "params/bn/"}, STATS),
    "linen, one by one": Halves(
        scoped("net/bn/"), LINEN, {"net/bn/gamma": "params/bn/scale"}, STATS
    ),
    "the bias alone": Halves(
        scoped("net/bn/", TF1[1:]), LINEN, {"net/bn/beta": "params/bn/bias"}, STATS
    ),
    "nnx": Halves(
        scoped("net/bn/"), NNX,
        {"net/bn/gamma": "bn/scale", "net/bn/beta": "bn/bias"}, OWN,
    ),
    "no aliases": Halves(
        scoped("net/bn/"), NNX, {"net/bn/gamma": "bn/scale"}, OWN, aliases=None
    ),
    "the variance alone": Halves(
        scoped("net/bn/"), NNX,
        {"net/bn/gamma": "bn/scale", "net/bn/moving_mean": "bn/mean"},
        {"bn": ("bn/var",)},
    ),
    "one of two": Halves(
        (*scoped("a/bn/"), *scoped("b/bn/")),
        leaves(*(f"{c}/bn/{n}" for c in "ab" for n in ("scale", "mean", "var"))),
        [("a/", "a/"), ("b/bn/gamma", "b/bn/scale")],
        {"b/bn": ("b/bn/mean", "b/bn/var")},
    ),
    "a misspelt scope that may be missing": Halves(
        scoped("net/bn/"), LINEN,
        {"net/bn/": "params/bn/", "net/bm/": "batch_stats/bn/"}, STATS, **KEEP,
    ),
    "an expression": Halves(
        scoped("net/bn/"), NNX, {src("net/bn/gamma")[::-1]: "bn/scale"}, OWN
    ),
    "a rule of scopes": Halves(
        scoped("net/bn_1/"),
        leaves("params/n1/scale", "params/n1/bias", "batch_stats/n1/mean"),
        {"net/bn_{i}/": "params/n{i}/"},
        {"params/n1": ("batch_stats/n1/mean",)},
    ),
    "other words in the checkpoint": Halves(
        scoped("bn/", ("scale", "offset", "mean", "variance")), LINEN,
        {"bn/scale": "params/bn/scale", "bn/offset": "params/bn/bias"}, STATS,
    ),
    "running statistics": Halves(
        scoped("bn.", ("weight", "bias", "running_mean", "running_var")), LINEN,
        {"bn.weight": "params/bn/scale"}, STATS,
    ),
    "names of one component": Halves(
        scoped("bn1_"), LINEN, {"bn1_gamma": "params/bn/scale"}, STATS
    ),
    "the user's aliases": Halves(
        scoped("bn/", ("gamma", "beta", "mu", "sigma")), LINEN, {"bn/": "params/bn/"},
        STATS, aliases={
            **tf2flax.FLAX_ALIASES, "mean": ("mu",), "var": ("sigma",),
        },
    ),
    "leaves that aliases name": Halves(
        scoped("bn/"), leaves("bn/g", "bn/mm"), {"bn/gamma": "bn/g"},
        {"bn": ("bn/mm",)}, aliases={"mm": ("moving_mean",)},
    ),
    "words that the map uses elsewhere": Halves(
        (*scoped("a/", ("gamma", "m1", "m2")), *scoped("b/", ("gamma", "m1", "m2"))),
        leaves(*(f"{c}/{n}" for c in "ab" for n in ("scale", "mean", "var"))),
        {"a/gamma": "a/scale", "a/m1": "a/mean", "a/m2": "a/var", "b/gamma": "b/scale"},
        {"b": ("b/mean", "b/var")},
    ),
    "stored names of TF2": Halves(
        tuple(f"l/{n}/.ATTRIBUTES/VARIABLE_VALUE" for n in TF1), NNX,
        {"l/gamma/.ATTRIBUTES/VARIABLE_VALUE": "bn/scale"}, OWN,
    ),
    "averages of Sonnet 2": Halves(
        tuple(f"m/{n}" for n in ("scale", *(f"moving_{n}/average" for n in SONNET))),
        NNX, {"m/scale": "bn/scale"}, OWN,
    ),
    "names of HDF5": Halves(
        tuple(f"bn/{n}:0" for n in TF1), NNX, {"bn/gamma:0": "bn/scale"}, OWN
    ),
    "averages": Halves(
        ("bn/gamma/ExponentialMovingAverage", *scoped("bn/")), NNX,
        {"bn/gamma/ExponentialMovingAverage": "bn/scale"}, OWN,
    ),
    "averages of statistics": Halves(
        tuple(f"bn/{n}/ExponentialMovingAverage" for n in TF1), NNX,
        {"bn/gamma/ExponentialMovingAverage": "bn/scale"}, OWN,
    ),
    "numbers of Keras 3": Halves(
        scoped("bn/vars/", tuple("0123")), NNX,
        {"bn/vars/0": "bn/scale", "bn/vars/1": "bn/bias"}, OWN,
    ),
    "numbers of Keras 3, no scale": Halves(
        scoped("bn/vars/", tuple("012")), NNX, {"bn/vars/0": "bn/bias"}, OWN
    ),
    "a pair of trees": Halves(
        scoped("bn/"), leaves("0/bn/scale", "1/bn/mean"), {"bn/gamma": "0/bn/scale"},
        {"0/bn": ("1/bn/mean",)},
    ),
    "collections within a state": Halves(
        scoped("bn/"), leaves("s/params/params/bn/scale", "s/batch_stats/bn/mean"),
        {"bn/gamma": "s/params/params/bn/scale"},
        {"s/params/params/bn": ("s/batch_stats/bn/mean",)},
    ),
    "a target that is a norm": Halves(
        scoped("bn/"), leaves("scale", "mean"), {"bn/gamma": "scale"}, {"/": ("mean",)}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(TOLD))
def test_half_a_normalisation_is_told(name: str, tmp_path: pathlib.Path) -> None:
    case = TOLD[name]
    prefix = write(tmp_path, *case.tensors)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # planning says nothing
        plan = tf2flax.plan(prefix, case.entries, case.target, **case.options)
    rows = plan.to_dict()["half_normalised"]
    assert {row["name"]: row["kept"] for row in rows} == case.expected
    assert all(tensor in case.tensors for row in rows for tensor in row["tensors"])
    assert f"Half-loaded normalisations ({len(rows)})" in str(plan)
    with pytest.warns(UserWarning, match=WARNING) as caught:
        plan.restore()
    assert len(caught) == 1
    assert all(f"`{norm}`" in str(caught[0].message) for norm in case.expected)
    assert caught[0].filename == __file__


ALL = {"net/bn/": "{c}/bn/"}
SILENT: dict[str, Halves] = {
    "all of it": Halves(scoped("net/bn/"), LINEN, ALL, {}),
    "all of it, nnx": Halves(scoped("net/bn/"), NNX, {"net/bn/": "bn/"}, {}),
    "none of it": Halves(
        (*scoped("net/bn/"), "w"), {**LINEN, **leaves("w")}, {"w": "w"}, {}
    ),
    "a checkpoint without statistics": Halves(
        scoped("net/bn/", TF1[:2]), LINEN, {"net/bn/": "params/bn/"}, {}
    ),
    "such a one, kept": Halves(scoped("net/bn/", TF1[:2]), LINEN, ALL, {}, **KEEP),
    "a layer normalisation": Halves(
        scoped("net/ln/", TF1[:2]), leaves("ln/scale", "ln/bias"), {"net/ln/": "ln/"},
        {},
    ),
    "one beside a batch normalisation": Halves(
        (*scoped("ln/", TF1[:2]), *scoped("bn/")),
        {**leaves("ln/scale", "ln/bias"), **NNX}, {"ln/": "ln/"}, {},
    ),
    "statistics of other norms": Halves(
        (*scoped("a/"), *scoped("b/")), leaves("a/scale", "b/mean"),
        {"a/gamma": "a/scale", "a/moving_mean": "b/mean"}, {},
    ),
    "a norm without scale beside a full one": Halves(
        (*scoped("a/bn/"), *scoped("b/bn/")),
        leaves("0/bn/scale", "0/bn/mean", "1/bn/mean"),
        {"a/bn/gamma": "0/bn/scale", "a/bn/moving_mean": "0/bn/mean"}, {},
    ),
    "no statistics in the target": Halves(
        scoped("net/bn/"), leaves("params/bn/scale"), {"net/bn/": "params/bn/"}, {}
    ),
    "statistics loaded from elsewhere": Halves(
        (*scoped("net/bn/"), "m", "v"), NNX,
        {"net/bn/gamma": "bn/scale", "m": "bn/mean", "v": "bn/var"}, {},
    ),
    "a dense layer": Halves(
        ("d/kernel", "d/bias", "bn/moving_mean"),
        leaves("d/kernel", "d/bias", "d/mean"),
        {"d/kernel": "d/kernel", "d/bias": "d/bias"}, {},
    ),
    "numbers of a Keras 3 layer normalisation": Halves(
        scoped("ln/vars/", tuple("01")), NNX, {"ln/vars/0": "bn/scale"}, {}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(SILENT))
def test_false_alarms(name: str, tmp_path: pathlib.Path) -> None:
    case = SILENT[name]
    prefix = write(tmp_path, *case.tensors)
    plan = tf2flax.plan(prefix, case.entries, case.target, **case.options)
    assert plan.to_dict()["half_normalised"] == []
    assert "Half-loaded" not in str(plan)
    plan.restore()  # warnings are errors


def test_statistics_that_on_mismatch_keeps_are_no_news(tmp_path: pathlib.Path) -> None:
    prefix = write(tmp_path, *scoped("net/bn/"))
    target = {**LINEN, "batch_stats/bn/mean": np.zeros(4, "f4")}
    plan = tf2flax.plan(prefix, ALL, target, on_mismatch="keep")
    assert plan.to_dict()["half_normalised"] == []


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(70):
            x = nn.BatchNorm(use_running_average=True, name=f"bn_{i}")(x)
        return nn.BatchNorm(use_running_average=True, name="last")(x)


class Nnx(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.bn = nnx.BatchNorm(3, rngs=rngs)


def test_every_call_warns_once(tmp_path: pathlib.Path) -> None:
    prefix = write(
        tmp_path, *(n for i in range(70) for n in scoped(f"bn_{i}/")), *scoped("last/")
    )
    args = jax.random.key(0), jnp.ones((1, 3))
    variables = jax.eval_shape(Linen().init, *args)
    filled = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), variables)
    module = Nnx(nnx.Rngs(0))
    entries = {"last/gamma": "bn/scale", "last/beta": "bn/bias"}
    calls: list[tuple[Callable[[], Any], str]] = [
        (lambda: tf2flax.init_from_checkpoint(prefix, {"/": "params/"}, filled), "71"),
        (
            lambda: tf2flax.warm_start(Linen().init, prefix, {"/": "params/"})(*args),
            "71",
        ),
        (lambda: tf2flax.init_from_checkpoint(prefix, entries, module), "1"),
        (lambda: tf2flax.warm_start(Nnx, prefix, entries)(nnx.Rngs(0)), "1"),
        (tf2flax.plan(prefix, entries, nnx.state(module)).restore, "1"),
    ]
    for call, count in calls:
        with pytest.warns(UserWarning, match=rf"{count} norm.*{WARNING}") as caught:
            call()
        assert len(caught) == 1
        assert caught[0].filename == __file__
        if count == "71":
            assert "`params/bn_{0..69}`, `params/last`" in str(caught[0].message)
    # Abstract statistics that nothing fills are an error, as any leaf.
    with pytest.raises(tf2flax.AssignmentError, match="would stay"):
        tf2flax.plan(prefix, {"/": "params/"}, variables)


def test_stacked_norms(tmp_path: pathlib.Path) -> None:
    prefix = write(tmp_path, *(n for i in range(2) for n in scoped(f"l_{i}/bn/")))
    names = ("params/l/bn/scale", "batch_stats/l/bn/mean")
    target = {name: np.zeros((2, 3), "f4") for name in names}
    plan = tf2flax.plan(
        prefix, {stack("l_{i}/bn/gamma", over="i"): "params/l/bn/scale"}, target
    )
    with pytest.warns(UserWarning, match="params/l/bn"):
        plan.restore()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_statistics_that_an_earlier_call_has_loaded_are_no_news(
    dtype: str, tmp_path: pathlib.Path
) -> None:
    prefix = write(tmp_path, *scoped("net/bn/"))
    target = {name: jnp.zeros(3, dtype) for name in LINEN}
    turns = [{"net/bn/": "batch_stats/bn/"}, {"net/bn/": "params/bn/"}]
    first = tf2flax.init_from_checkpoint(prefix, turns[0], target)
    plan = tf2flax.plan(prefix, turns[1], first)
    plan.restore()  # warnings are errors
    # One statistic of two, and statistics of another checkpoint.
    first["batch_stats/bn/mean"] = np.ones(3, dtype)
    with pytest.warns(UserWarning, match="moving_mean` -> `batch_stats/bn/mean") as one:
        tf2flax.init_from_checkpoint(prefix, turns[1], first)
    assert len(one) == 1
    first["batch_stats/bn/mean"] = jnp.zeros(3, dtype)
    first["batch_stats/bn/mean"].delete()
    with pytest.warns(UserWarning, match=WARNING):
        tf2flax.init_from_checkpoint(prefix, turns[1], first)


def test_flat_models_are_searched_once(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = [f"l_{i}/bn/" for i in range(40)]
    prefix = write(tmp_path, *(name for layer in layers for name in scoped(layer)))
    names = ("scale", "bias", "mean", "var")
    target = leaves(*(f"{layer}{name}" for layer in layers for name in names))
    calls: list[Any] = []
    search = half_norms._statistics_of

    def counted(*args: Any) -> Any:
        calls.append(args)
        return search(*args)

    monkeypatch.setattr(half_norms, "_statistics_of", counted)
    plan = tf2flax.plan(prefix, {layer: layer for layer in layers[:20]}, target)
    assert plan.to_dict()["half_normalised"] == []
    assert len(calls) <= 2 * 2 * 20
