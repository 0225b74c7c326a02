"""What is offered for leaves that the checkpoint cannot fill can be done.

An array can stay as it is. A `jax.ShapeDtypeStruct` has nothing that could stay: it is
initialised by `warm_start`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tf2flax

GIVEN = {"net/w": np.ones((2, 3), "f4"), "net/head": np.ones((2, 3), "f4")}
MAP = {"net/": "params/"}
SHAPES = {"w": (2, 3), "head": (2, 5), "extra": (4,)}
KEEP_MISSING = "Keep leaves that the checkpoint lacks with on_missing='keep'"
KEEP_HEAD = 'stays as it is with on_mismatch="keep"'
INITIALISE_MISSING = "tf2flax.warm_start with on_missing='keep' initialises"
INITIALISE_HEAD = 'tf2flax.warm_start with on_mismatch="keep" initialises'


def arrays(*names: str) -> dict[str, Any]:
    return {"params": {name: jnp.zeros(SHAPES[name]) for name in ("w", *names)}}


def abstract(*names: str) -> dict[str, Any]:
    return jax.eval_shape(lambda: arrays(*names))


def message(target: Any, **options: Any) -> str:
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.plan(GIVEN, MAP, target, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "option", "words"),
    [("extra", "on_missing", KEEP_MISSING), ("head", "on_mismatch", KEEP_HEAD)],
)
def test_arrays_are_kept(name: str, option: str, words: str) -> None:
    assert words in message(arrays(name))
    options: dict[str, Any] = {option: "keep"}
    tree = tf2flax.init_from_checkpoint(GIVEN, MAP, arrays(name), **options)
    assert not np.any(tree["params"][name])


@pytest.mark.parametrize(
    ("name", "option", "words"),
    [
        ("extra", "on_missing", INITIALISE_MISSING),
        ("head", "on_mismatch", INITIALISE_HEAD),
    ],
)
def test_abstract_leaves_are_initialised(name: str, option: str, words: str) -> None:
    text = message(abstract(name))
    assert words in text
    assert KEEP_MISSING not in text
    assert KEEP_HEAD not in text
    options: dict[str, Any] = {option: "keep"}
    message(abstract(name), **options)  # which is why it is not offered
    tree = tf2flax.warm_start(lambda: arrays(name), GIVEN, MAP, **options)()
    assert np.all(tree["params"]["w"] == 1)
    assert not np.any(tree["params"][name])


@pytest.mark.parametrize(
    ("name", "option", "words"),
    [("extra", "on_missing", KEEP_MISSING), ("head", "on_mismatch", KEEP_HEAD)],
)
def test_what_warm_start_makes_is_kept(name: str, option: str, words: str) -> None:
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.warm_start(lambda: arrays(name), GIVEN, MAP)()
    assert words in str(caught.value)
    assert "tf2flax.warm_start with" not in str(caught.value)


def test_where_some_leaves_are_arrays_they_may_be_kept() -> None:
    target = abstract("extra") | {"batch_stats": {"mean": np.zeros(3, "f4")}}
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.plan(GIVEN, {"net/": "params/", "x/": "batch_stats/"}, target)
    lines = str(caught.value).splitlines()
    assert any(KEEP_MISSING in line and "batch_stats/mean" in line for line in lines)
    assert any(INITIALISE_MISSING in line and "extra" in line for line in lines)
