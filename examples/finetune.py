"""Trains BERT on from its checkpoint, weights and Adam, and writes it back.

Needs: jax, flax, optax. Size: 0.3 MB, in tests/data/bert. Time: some seconds.
Exits 0 only if the losses are those of TensorFlow 1.15, which trained on as well. The
tests let TensorFlow go on from what is written here: with the losses that follow.
"""

from __future__ import annotations

import pathlib
import sys
import tempfile
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from bert_linen import ASSIGNMENT_MAP, Bert, Config
from comparing import difference, report

import tf2flax

DATA = pathlib.Path(__file__).resolve().parents[1] / "tests" / "data"
# The classifier takes the place of the head that tells whether sentences follow.
THE_MAP: dict[Any, str] = {
    **{name: f"params/bert/{leaf[7:]}" for name, leaf in ASSIGNMENT_MAP.items()},
    tf2flax.src("cls/seq_relationship/output_weights").T: "params/head/kernel",
    "cls/seq_relationship/output_bias": "params/head/bias",
}


class Classifier(nn.Module):
    """BERT, and two classes of sentences."""

    @nn.compact
    def __call__(self, *inputs: jax.Array) -> jax.Array:
        """Computes logits `[batch, 2]` of ids, mask and token types."""
        _, pooled = Bert(Config(), name="bert")(*inputs)
        return nn.Dense(2, name="head")(pooled)


def decays(path: Any, _: jax.Array) -> bool:
    """BERT leaves out biases and LayerNorm."""
    name = jax.tree_util.keystr(path)
    return "LayerNorm" not in name and "bias" not in name


def main(prefix: str = "") -> int:
    """Trains three steps, compares the losses, and writes weights and Adam."""
    recorded = np.load(DATA / "bert" / "oracle.npz")
    inputs = [recorded[k] for k in ("input_ids", "input_mask", "token_type_ids")]
    wanted = np.load(DATA / "finetune" / "oracle.npz")
    model = Classifier()
    target: Any = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    plan = tf2flax.plan(DATA / "bert" / "model.ckpt", THE_MAP, target)
    variables = plan.restore()

    mask = jax.tree_util.tree_map_with_path(decays, variables)
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        tf2flax.optax.adam_weight_decay(0.02, mask=mask),
    )
    opt_plan = tf2flax.optimizer_plan(plan, jax.eval_shape(tx.init, variables))
    opt_state = opt_plan.restore()

    def loss_of(variables: Any) -> jax.Array:
        logits = model.apply(variables, *inputs)
        loss = optax.softmax_cross_entropy_with_integer_labels
        return loss(logits, wanted["labels"]).mean()

    @jax.jit
    def step(variables: Any, opt_state: Any) -> tuple[jax.Array, Any, Any]:
        loss, grads = jax.value_and_grad(loss_of)(variables)
        updates, opt_state = tx.update(grads, opt_state, variables)
        return loss, optax.apply_updates(variables, updates), opt_state

    losses: list[Any] = []
    for _ in range(3):
        loss, variables, opt_state = step(variables, opt_state)
        losses.append(loss)

    with tempfile.TemporaryDirectory() as folder:
        saved = tf2flax.save_checkpoint(
            prefix or f"{folder}/model.ckpt",
            variables,
            plan=plan,
            opt_state=(opt_plan, opt_state),
        )
        step = tf2flax.load_variable(saved, "global_step")
        print(f"after step {step}: {[round(float(loss), 4) for loss in losses]}")
    return report({"losses": difference(losses, wanted["losses"][:3])})


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
