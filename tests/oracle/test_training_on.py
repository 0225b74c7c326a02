"""TensorFlow 1.15 trains on from states that were written back, as from its own."""

from __future__ import annotations

import json
import os
import pathlib
import runpy
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from repository import DATA, ROOT

import tf2flax

TF1 = os.environ.get("TF2FLAX_TF1_PYTHON", "")
GENERATORS = str(DATA / "generators")
ADVANCE = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import optimizers
grads = np.load(sys.argv[3])
later = {k: grads["grads/" + k][1:] for k in optimizers.SHAPES}
np.savez(sys.argv[4], **optimizers.continue_training(sys.argv[2], later))
"""
PROGRAM = """
import json, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import finetune
losses, step = finetune.continue_losses(sys.argv[2], np.load(sys.argv[3]), 2)
print(json.dumps([losses.tolist(), step]))
"""


pytestmark = [
    pytest.mark.oracle,
    pytest.mark.slow,
    pytest.mark.skipif(not TF1, reason="set TF2FLAX_TF1_PYTHON"),
]


def test_tensorflow_goes_on_with_equal_losses(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = str(tmp_path / "model.ckpt")
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    monkeypatch.setattr(sys, "argv", ["finetune.py", prefix])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "examples" / "finetune.py"), run_name="__main__")
    assert not ended.value.code
    assert int(tf2flax.load_variable(prefix, "global_step")) == 123456 + 3
    inputs = str(DATA / "bert" / "oracle.npz")
    printed = subprocess.run(
        [TF1, "-W", "ignore", "-c", PROGRAM, GENERATORS, prefix, inputs],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    losses, step = json.loads(printed.splitlines()[-1])
    assert step == 123456 + 5
    recorded = np.load(DATA / "finetune" / "oracle.npz")["losses"]
    # Two float32 programs: the losses of TensorFlow itself, from its own checkpoint.
    np.testing.assert_allclose(losses, recorded[3:], atol=1e-6)


def test_tensorflow_goes_on_from_slots_and_powers(tmp_path: pathlib.Path) -> None:
    """One step here, two there, are the three steps that TensorFlow did alone."""
    folder = DATA / "optimizers"
    recorded = np.load(folder / "oracle.npz")
    rules = {
        "adam": tf2flax.optax.adam(0.01),
        "rmsprop": optax.rmsprop(0.01, eps=1e-10, momentum=0.9),
        "ftrl": tf2flax.optax.ftrl(0.1, l1=0.05, l2=0.02, l2_shrinkage=0.01),
    }
    prefix = str(folder / "model.ckpt")
    for name, tx in rules.items():
        scope = f"of_{name}/"
        zeros = {"w": jnp.zeros((6, 4)), "b": jnp.zeros(4)}
        plan = tf2flax.plan(prefix, {scope: "/"}, zeros)
        params = plan.restore()
        opt_plan = tf2flax.optimizer_plan(plan, tx.init(params), prefix=scope)
        grads = {key: jnp.asarray(recorded[f"grads/{key}"][0]) for key in params}
        with jax.numpy_dtype_promotion("standard"):  # which optax relies on
            updates, state = tx.update(grads, opt_plan.restore(), params)
        params = optax.apply_updates(params, updates)
        # Powers of the other Adam stay, and its variables have not changed either.
        with pytest.warns(UserWarning, match="of_adam_epsilon/beta"):
            prefix = tf2flax.save_checkpoint(
                tmp_path / name, params, plan=plan, opt_state=(opt_plan, state)
            )
    after = str(tmp_path / "after.npz")
    npz = str(folder / "oracle.npz")
    command = [TF1, "-W", "ignore", "-c", ADVANCE, GENERATORS, prefix, npz, after]
    subprocess.run(command, check=True, capture_output=True)
    for name in rules:
        for key in ("w", "b"):
            np.testing.assert_allclose(
                np.load(after)[f"of_{name}/{key}"],
                recorded[f"after/of_{name}/{key}"],
                atol=1e-6,
            )
