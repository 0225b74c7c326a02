"""Fills a ResNet with its weights, its averages and its momentum, by one map.

Needs: jax, flax, optax. Size: 0.6 MB, in tests/data/resnet_slim. Time: some seconds.
Exits 0 only if the averages give what TensorFlow 1.15 computed with them.
"""

from __future__ import annotations

import pathlib
import sys
from typing import Any

import jax
import numpy as np
import optax
from comparing import compare, report
from resnet_linen import ResNet

import tf2flax

HERE = pathlib.Path(__file__).resolve().parent
DATA = HERE.parent / "tests" / "data" / "resnet_slim"


def main() -> int:
    """Loads three times by one map, and compares."""
    checkpoint = tf2flax.open_checkpoint(DATA / "model.ckpt")
    the_map = tf2flax.load_map(HERE / "maps" / "resnet_linen.toml")
    recorded = np.load(DATA / "oracle.npz")
    images = recorded["x_even"]
    model = ResNet()
    target: Any = jax.eval_shape(model.init, jax.random.key(0), images)

    weights = tf2flax.init_from_checkpoint(checkpoint, the_map, target)
    averages = checkpoint.by_moving_average()
    averaged = tf2flax.init_from_checkpoint(averages, the_map, target)
    print(
        f"averages: {len(averages.averaged)} of {len(jax.tree.leaves(weights))} leaves"
    )

    # The state of an optimizer takes the way of the parameters.
    print(checkpoint.slots)
    plan = tf2flax.plan(checkpoint, the_map, weights)
    empty = optax.sgd(0.1, momentum=0.9).init(weights["params"])
    opt_state = tf2flax.optimizer_state(plan, empty)
    print(f"momentum: {len(jax.tree.leaves(opt_state))} leaves")

    comparison = compare(
        model.apply, averaged, (images,), recorded, ema_logits_even="output"
    )
    return report({"": comparison})


if __name__ == "__main__":
    sys.exit(main())
