"""A module of targets, as users write it for `--target module:attribute`.

The tests copy it into a folder of their own; it is never imported from here.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from flax import linen, nnx

KERNEL = jax.ShapeDtypeStruct((2, 3), np.float32)
tree = {"params": {"q": {"kernel": KERNEL}}}
linen_module = linen.Dense(3)
calls: list[str] = []


class Model(nnx.Module):
    """A module with weights and random numbers."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.q = nnx.Linear(2, 3, rngs=rngs, use_bias=False)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)


module = Model()


class holder:
    tree = tree


def wrong() -> Any:
    """A tree of which two leaves do not fit."""
    other = jax.ShapeDtypeStruct((4, 3), np.float32)
    return {"params": {"q": {"kernel": other}, "k": KERNEL, "v": KERNEL}}


def initialised() -> Any:
    """Variables of linen, with values."""
    model = linen.Dense(3, use_bias=False)
    variables = model.init(jax.random.key(0), np.zeros((1, 2), np.float32))
    return {"params": {"q": variables["params"], "head": {"bias": np.ones(2, "f4")}}}


def abstract() -> Any:
    """Variables of linen, abstract."""
    return jax.eval_shape(initialised)


def with_argument(rngs: Any) -> Any:
    """Takes an argument."""
    return Model()


def broken() -> Any:
    """Raises."""
    raise RuntimeError("no data.")
