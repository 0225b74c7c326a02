"""Starts a classifier from a checkpoint: the encoder is loaded, the head is fresh.

Needs: jax, flax. Size: 0.3 MB, in tests/data/bert. Time: some seconds.
"""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from bert_linen import ASSIGNMENT_MAP, Bert, Config
from flax import linen as nn

import tf2flax

DATA = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data" / "bert"


class Classifier(nn.Module):
    """Two classes on top of BERT's pooled output."""

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        """Computes logits `[batch, 2]` of ids `[batch, length]`."""
        ones, zeros = jnp.ones_like(ids), jnp.zeros_like(ids)
        _, pooled = Bert(Config(), name="bert")(ids, ones, zeros)
        return nn.Dense(2, name="head")(pooled)


def main() -> None:
    """Initialises, and shows what came from where."""
    # The same map, one scope deeper.
    below = {
        source: target.replace("params/", "params/bert/")
        for source, target in ASSIGNMENT_MAP.items()
    }
    ids = jnp.ones((1, 8), jnp.int32)
    init = tf2flax.warm_start(Classifier().init, DATA / "model.ckpt", below)
    params = init(jax.random.key(0), ids)["params"]

    stored = tf2flax.load_variable(DATA, "bert/embeddings/word_embeddings")
    loaded = params["bert"]["embeddings"]["word"]["embedding"]
    assert np.array_equal(loaded, stored)
    fresh = jax.jit(Classifier().init)(jax.random.key(0), ids)["params"]
    assert np.array_equal(params["head"]["kernel"], fresh["head"]["kernel"])
    loaded, head = len(jax.tree.leaves(params["bert"])), params["head"]["kernel"]
    print(f"encoder: {loaded} leaves from the checkpoint")
    print(f"head: kernel {list(head.shape)}, as Classifier().init makes it")
    logits = jax.jit(Classifier().apply)({"params": params}, ids)
    print(f"logits: {logits.tolist()}")


if __name__ == "__main__":
    main()
