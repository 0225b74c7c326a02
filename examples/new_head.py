"""Gives BERT a new head, and writes a checkpoint in which TensorFlow finds both.

Needs: jax, flax. Size: 0.3 MB, in tests/data/bert. Time: some seconds.
Exits 0 only if the same map fills the whole classifier from the new checkpoint, which
holds all else as it was, and the encoder gives what TensorFlow 1.15 computed.
"""

from __future__ import annotations

import pathlib
import sys
import tempfile
from typing import Any

import jax
import numpy as np
from bert_linen import ASSIGNMENT_MAP, Bert, Config
from comparing import difference, report
from flax import linen as nn

import tf2flax
from tf2flax import src

DATA = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data" / "bert"
# The encoder one scope deeper, and a head as BERT's run_classifier.py calls it.
ENTRIES = {
    **{key: name.replace("/", "/bert/", 1) for key, name in ASSIGNMENT_MAP.items()},
    src("output_weights").transpose(): "params/head/kernel",
    "output_bias": "params/head/bias",
}


class Classifier(nn.Module):
    """Three classes on top of BERT, with a temperature."""

    @nn.compact
    def __call__(self, *inputs: jax.Array) -> jax.Array:
        """Computes logits `[batch, 3]` of ids, mask and types."""
        temperature = self.param("temperature", nn.initializers.ones, ())
        _, pooled = Bert(Config(), name="bert")(*inputs)
        return nn.Dense(3, name="head")(pooled) / temperature


def main() -> int:
    """Fills the encoder, saves it with the fresh head, and fills all of it again."""
    recorded = np.load(DATA / "oracle.npz")
    inputs = [recorded[k] for k in ("input_ids", "input_mask", "token_type_ids")]
    shapes: Any = jax.eval_shape(Classifier().init, jax.random.key(0), *inputs)
    values = np.random.default_rng(0).standard_normal
    fresh = jax.tree.map(lambda leaf: values(leaf.shape, leaf.dtype), shapes)
    keep: Any = [("^params/head/", "keep")]  # the checkpoint has no such tensors
    plan = tf2flax.plan(DATA / "model.ckpt", ENTRIES, fresh, on_missing=keep)
    variables = plan.restore()  # and train them

    names = {"temperature": "params/temperature"}  # no entry of the map reaches it
    with tempfile.TemporaryDirectory() as folder:
        prefix = f"{folder}/model.ckpt"
        tf2flax.save_checkpoint(prefix, variables, plan=plan, new=names)
        again = tf2flax.init_from_checkpoint(prefix, {**ENTRIES, **names}, shapes)
        arrays = tf2flax.open_checkpoint(prefix).read()
    before = tf2flax.open_checkpoint(DATA).read()
    for name in sorted(arrays.keys() - before.keys()):
        print(f"new: {name} {list(arrays[name].shape)}")
    same = all(np.array_equal(before[name], arrays[name]) for name in before)
    filled = all(jax.tree.leaves(jax.tree.map(np.array_equal, variables, again)))
    if not same or not filled:
        print("FAILED: the checkpoint does not hold what was saved")
        return 1
    print(f"and {len(before)} tensors as they were")
    encoder = {"params": again["params"]["bert"]}
    with jax.default_matmul_precision("highest"):
        _, pooled = jax.jit(Bert(Config()).apply)(encoder, *inputs)
    return report({"pooled_output": difference(pooled, recorded["pooled_output"])})


if __name__ == "__main__":
    sys.exit(main())
