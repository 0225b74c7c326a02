"""Leaves that would stay abstract: each with its reason, and advice that works."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

import tf2flax


class Model(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.dense = nnx.Linear(2, 3, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)


MAP = {"kernel": "dense/kernel", "bias": "dense/bias"}


@pytest.fixture
def checkpoint(tmp_path: pathlib.Path) -> str:
    tensors = {
        "kernel": np.ones((2, 3), np.float32),
        "bias": np.ones(3, np.float32),
        "head": np.ones(7, np.float32),
        "count": np.uint32(3),
    }
    return tf2flax.save_checkpoint(tmp_path / "m", tensors)


def abstract() -> Any:
    return nnx.eval_shape(lambda: Model(nnx.Rngs(0)))


@pytest.mark.parametrize("is_state", [True, False])
def test_abstract_rng_states_are_named_as_such(checkpoint: str, is_state: bool) -> None:
    target = nnx.state(abstract()) if is_state else abstract()
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.plan(checkpoint, MAP, target)
    message = str(caught.value)
    assert "states of random numbers (nnx.RngState, 2)" in message
    assert "`drop/rngs/count`, `drop/rngs/key`" in message
    assert "Add entries" not in message  # no entry could fill them


def test_rng_states_that_are_split_off_are_in_nobodys_way(checkpoint: str) -> None:
    state = nnx.state(abstract())
    rngs, state = nnx.split_state(state, nnx.RngState, ...)  # as the message says
    assert len(jax.tree.leaves(rngs)) == 2
    state = tf2flax.init_from_checkpoint(checkpoint, MAP, state)
    assert float(state["dense"]["bias"][...].sum()) == 3.0


def test_warm_start_makes_rng_states(checkpoint: str) -> None:
    model = tf2flax.warm_start(lambda: Model(nnx.Rngs(0)), checkpoint, MAP)()
    assert float(model.dense.bias[...].sum()) == 3.0
    assert int(model.drop.rngs.count[...]) == 0


@pytest.mark.parametrize("target", [abstract, lambda: Model(nnx.Rngs(0))])
def test_an_entry_for_an_rng_state_is_refused_by_name(
    checkpoint: str, target: Any
) -> None:
    entries = {**MAP, "count": "drop/rngs/count"}
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.plan(checkpoint, entries, target())
    assert str(caught.value) == (
        "Entry 3 `count` -> `drop/rngs/count`: `drop/rngs/count` is a state of random "
        "numbers (nnx.RngState), which no tensor fills: TensorFlow's have another "
        "form. Remove the entry."
    )


def test_what_keep_leaves_abstract_is_said_to_be_kept(checkpoint: str) -> None:
    shapes = {"k": jax.ShapeDtypeStruct((2, 3), "float32")}
    shapes["h"] = jax.ShapeDtypeStruct((5,), "float32")
    shapes["x"] = jax.ShapeDtypeStruct((5,), "float32")
    shapes["y"] = jax.ShapeDtypeStruct((5,), "float32")
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.plan(
            checkpoint,
            {"kernel": "k", "head": "h", "no": "x"},
            shapes,
            on_missing="keep",
            on_mismatch="keep",
        )
    assert str(caught.value) == (
        "No entry fills these leaves (1), which would stay jax.ShapeDtypeStruct: `y`. "
        "Add entries for them, or initialise them with tf2flax.warm_start. "
        "on_missing keeps these leaves (1) as they are, which is "
        "jax.ShapeDtypeStruct: `x`. Initialise them with tf2flax.warm_start, or give "
        "arrays in the target. "
        "on_mismatch keeps these leaves (1) as they are, which is "
        "jax.ShapeDtypeStruct: `h`. Initialise them with tf2flax.warm_start, or give "
        "arrays in the target."
    )


def test_leaves_that_differ_by_words_are_joined(checkpoint: str) -> None:
    leaf = jax.ShapeDtypeStruct((2, 3), "float32")
    modules = [a + b for a in "abcdef" for b in "uvwxyz"]
    target = {"kernel": leaf, **{f"{m}/{p}": leaf for m in modules for p in "wb"}}
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.plan(checkpoint, {"kernel": "kernel"}, target)
    assert ": `…/b` (36), `…/w` (36). Add entries" in str(caught.value)
    # Names that have nothing in common are listed, the first of them.
    target = {"kernel": leaf, **dict.fromkeys(modules, leaf)}
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.plan(checkpoint, {"kernel": "kernel"}, target)
    assert "`au`, `av`, `aw`," in str(caught.value)
    assert "and 28 more." in str(caught.value)


def test_entries_that_reach_no_leaf_come_first(checkpoint: str) -> None:
    target = abstract()
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.plan(checkpoint, {"kernel": "dense/kernel", "x/": "dens/"}, target)
    lines = str(caught.value)
    assert lines.startswith("Entry 2 reaches no leaf: `x/` -> `dens/` (did you mean")
    assert "No entry fills these leaves (1)" in lines
    entries = {"kernel": "dense/kernel", "x/": "dens/", "y/": "dns/"}
    with pytest.raises(tf2flax.AssignmentError) as caught:
        tf2flax.plan(checkpoint, entries, target)
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines[:2]] == [
        "Entry 2 reaches no leaf",
        "Entry 3 reaches no leaf",
    ]
    assert lines[2].startswith("No entry fills these leaves (1)")


def test_a_new_head_is_kept_and_initialised_as_the_message_says(
    checkpoint: str,
) -> None:
    entries = {"kernel": "dense/kernel", "head": "dense/bias"}
    build = lambda: Model(nnx.Rngs(0))  # noqa: E731
    with pytest.raises(
        tf2flax.AssignmentError, match=r'on_mismatch="keep"; tf2flax\.warm_start'
    ):
        tf2flax.warm_start(build, checkpoint, entries)()
    model = tf2flax.warm_start(build, checkpoint, entries, on_mismatch="keep")()
    assert float(model.dense.kernel[...].sum()) == 6.0
    assert np.array_equal(model.dense.bias[...], build().dense.bias[...])
