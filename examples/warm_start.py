"""Starts a classifier from a checkpoint: the encoder is loaded, the head is fresh.

Needs: jax, flax. Size: 0.3 MB, in tests/data/bert. Time: some seconds.
Exits 0 only if the encoder gives what TensorFlow 1.15 computed, and the head is what
`init` makes.
"""

from __future__ import annotations

import pathlib
import sys

import jax
import numpy as np
from bert_linen import ASSIGNMENT_MAP, Bert, Config
from comparing import compare, report
from flax import linen as nn

import tf2flax

DATA = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data" / "bert"


class Classifier(nn.Module):
    """Two classes on top of BERT's pooled output."""

    @nn.compact
    def __call__(self, *inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Computes logits `[batch, 2]` and pooled outputs of ids, mask and types."""
        _, pooled = Bert(Config(), name="bert")(*inputs)
        return nn.Dense(2, name="head")(pooled), pooled


def main() -> int:
    """Initialises, shows what came from where, and compares."""
    # The same map, one scope deeper.
    below = {
        source: target.replace("params/", "params/bert/")
        for source, target in ASSIGNMENT_MAP.items()
    }
    recorded = np.load(DATA / "oracle.npz")
    inputs = [recorded[k] for k in ("input_ids", "input_mask", "token_type_ids")]
    init = tf2flax.warm_start(Classifier().init, DATA / "model.ckpt", below)
    params = init(jax.random.key(0), *inputs)["params"]

    fresh = jax.jit(Classifier().init)(jax.random.key(0), *inputs)["params"]
    head = params["head"]["kernel"]
    if not np.array_equal(head, fresh["head"]["kernel"]):
        print("FAILED: the head is not what Classifier().init makes")
        return 1
    print(f"encoder: {len(jax.tree.leaves(params['bert']))} leaves are loaded")
    print(f"head: kernel {list(head.shape)}, as Classifier().init makes it")
    variables = {"params": params}
    comparison = compare(
        Classifier().apply, variables, tuple(inputs), recorded, pooled_output="1"
    )
    return report({"": comparison})


if __name__ == "__main__":
    sys.exit(main())
