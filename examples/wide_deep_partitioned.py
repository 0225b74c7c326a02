"""Loads a wide & deep model with partitioned embeddings onto a mesh of eight devices.

TensorFlow 1.15 saved its embeddings as slices of uneven sizes (4, 3 and 3 rows). Here
each is cut anew, as the mesh divides it. `two_processes.py` does the same in two
processes that each read their part.

Needs: jax. Size: 36 kB, in tests/data/wide_deep_partitioned. Time: some seconds.
Exits 0 only if every output is within 1e-5 of what TensorFlow 1.15 computed.
"""

from __future__ import annotations

import pathlib
import sys

import jax
import numpy as np
from comparing import difference, report
from jax.sharding import Mesh, PartitionSpec
from wide_deep import SHAPES, assignment_map, forward

import tf2flax

DATA = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data"
FOLDER = DATA / "wide_deep_partitioned"
# The mesh has the axes rows, of 4, and columns, of 2.
RULES = tf2flax.partition_rules(
    [
        ("query$", PartitionSpec("rows")),  # 5 slices of 60 rows -> 4 of 75
        ("colour$", PartitionSpec("columns")),  # 4, 3 and 3 rows -> 5 and 5
        ("^city$", PartitionSpec(None, "columns")),  # 11 rows: no mesh divides them
        ("kernel$", PartitionSpec("columns")),  # 25 rows, or 13: not divided either
        ("", PartitionSpec()),
    ]
)


def restore(mesh: Mesh) -> dict[str, jax.Array]:
    """Loads the model onto all devices of all processes."""
    checkpoint = tf2flax.open_checkpoint(FOLDER / "model.ckpt")
    target = {n: jax.ShapeDtypeStruct(shape, "float32") for n, shape in SHAPES.items()}
    plan = tf2flax.plan(
        checkpoint,
        assignment_map(checkpoint),
        target,
        sharding=RULES,
        mesh=mesh,
        on_uneven="replicate",
    )
    if jax.process_index() == 0:
        print(plan if jax.process_count() == 1 else plan.cost())
    return plan.restore()


def compare() -> int:
    """Restores, computes, and compares every output with TensorFlow's."""
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("rows", "columns"))
    params = restore(mesh)
    recorded = np.load(FOLDER / "oracle.npz")
    keys = ("ids_colour", "ids_city", "ids_query", "bag_rows", "bag_ids", "num")
    everywhere = jax.sharding.NamedSharding(mesh, PartitionSpec())
    outputs = jax.jit(forward, out_shardings=everywhere)(
        params, {key: recorded[key] for key in keys}
    )
    process = f"process {jax.process_index()} of {jax.process_count()}:"
    # They are here already, on every device.
    return report({process: difference(outputs, recorded)})


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    sys.exit(compare())
