"""One of two processes that save parameters and the state of their optimizer together.

saving_optimizer_worker.py NUMBER COUNT PORT FOLDER
"""

from __future__ import annotations

import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from saving_job_worker import start

import tf2flax


def main(process: int, port: str, folder: str) -> None:
    start(process, port)
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("d", "m"))
    target: dict[str, Any] = {
        name: jax.ShapeDtypeStruct(
            shape, jnp.float32, sharding=NamedSharding(mesh, spec)
        )
        for name, shape, spec in (
            ("kernel", (16, 8), P("m", "d")),
            ("bias", (16,), P()),
        )
    }
    entries = [(tf2flax.src("kernel").transpose(), "kernel"), ("bias", "bias")]
    plan = tf2flax.plan(f"{folder}/source/m", entries, target)
    params = plan.restore()
    tx = optax.adam(1e-3)
    opt_plan = tf2flax.optimizer_plan(plan, jax.eval_shape(tx.init, target))
    state = opt_plan.restore()
    shardings = {
        name: str(leaf.sharding.spec) == str(target[name].sharding.spec)
        for name, leaf in state[0].mu.items()
    }
    more = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree))
    saved = tf2flax.save_checkpoint(
        f"{folder}/new/m", more(params), plan=plan, opt_state=(opt_plan, more(state))
    )
    print(json.dumps({"saved": saved, "as_parameters": shardings}))


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[3:])
