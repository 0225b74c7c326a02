"""Fine-tunes the weights of a SavedModel in Flax, and puts them back into its folder.

Needs: jax, flax; no TensorFlow. Size: 20 kB, in tests/data/saved_model. Time: seconds.
Exits 0 only if Flax computes what TensorFlow did, and the folder then holds what was
trained. That TensorFlow serves it, tests/oracle/test_savedmodel.py shows.
"""

from __future__ import annotations

import pathlib
import shutil
import sys
import tempfile
from typing import Any

import jax
import numpy as np
from comparing import difference, report
from flax import linen as nn

import tf2flax

DATA = pathlib.Path(__file__).resolve().parent.parent / "tests/data/saved_model"


class Model(nn.Module):
    """The model of the SavedModel, whose layers have the same names."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Computes two logits `[batch, 2]` of `x` `[batch, 6]`."""
        return nn.Dense(2, name="head")(nn.tanh(nn.Dense(8, name="fc1")(x)))


def load(folder: pathlib.Path, x: np.ndarray) -> tf2flax.Plan:
    """Plans to fill the model, by the names of its layers, whatever saved it."""
    view = tf2flax.open_checkpoint(folder).by_variable_name()
    target: Any = jax.eval_shape(Model().init, jax.random.key(0), x)
    return tf2flax.plan(view, {"fc1/": "params/fc1/", "head/": "params/head/"}, target)


def finetune(folder: pathlib.Path, x: np.ndarray) -> jax.Array:
    """Takes some steps towards outputs of 1, and saves; gives the outputs."""
    plan = load(folder, x)
    variables = plan.restore()
    slopes_of = jax.jit(jax.grad(lambda v: ((Model().apply(v, x) - 1) ** 2).mean()))
    for _ in range(20):
        slopes = slopes_of(variables)
        variables = jax.tree.map(lambda v, slope: v - 0.1 * slope, variables, slopes)
    prefix = folder / "variables" / "variables"
    tf2flax.save_checkpoint(prefix, variables, plan=plan, overwrite=True)
    return Model().apply(variables, x)


def main() -> int:
    """Fine-tunes a copy of a SavedModel, and loads it again."""
    recorded = np.load(DATA / "recorded.npz")
    x = recorded["x"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(shutil.copytree(DATA / "model", f"{temporary}/model"))
        before = Model().apply(load(folder, x).restore(), x)
        outputs = finetune(folder, x)
        again = Model().apply(load(folder, x).restore(), x)
    print(f"mean output: {before.mean():.3f} before, {outputs.mean():.3f} after")
    if not np.array_equal(again, outputs):
        print("FAILED: the folder does not hold what was trained")
        return 1
    return report({"before": difference(before, recorded["y"])})


if __name__ == "__main__":
    sys.exit(main())
