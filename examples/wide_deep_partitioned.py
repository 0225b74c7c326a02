"""Loads a wide & deep model with partitioned embeddings onto a mesh of eight devices.

TensorFlow 1.15 saved its embeddings as slices of uneven sizes (4, 3 and 3 rows), and
looked one of them up by the "mod" strategy. Here each is cut anew, as the mesh divides
it; in one process, and in two that each read their part. The outputs are TensorFlow's.

Needs: jax. Size: 36 kB, in tests/data/wide_deep_partitioned. Time: ten seconds.
Exits 0 only if every output is within 1e-5 of what TensorFlow 1.15 computed.
"""

from __future__ import annotations

import pathlib
import socket
import subprocess
import sys
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from comparing import compare as compare_all
from comparing import report
from jax.sharding import Mesh, PartitionSpec

import tf2flax

DATA = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data"
FOLDER = DATA / "wide_deep_partitioned"
SHAPES = {
    "colour": (10, 4), "city": (11, 6), "query": (300, 8),
    "deep/hidden_0/kernel": (25, 16), "deep/hidden_0/bias": (16,),
    "deep/hidden_1/kernel": (16, 8), "deep/hidden_1/bias": (8,),
    "deep/bilinear": (8, 5, 8),
    "deep/logits/kernel": (13, 1), "deep/logits/bias": (1,),
    "wide/colour": (10, 1), "wide/query": (300, 1),
    "wide/num": (3, 1), "wide/bias": (1,),
}  # fmt: skip
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


def table(feature: str) -> str:
    """The name of a feature's embedding in the checkpoint."""
    layer = "dnn/input_from_feature_columns/input_layer"
    return f"{layer}/{feature}_embedding/embedding_weights"


def rows_by_id(count: int, parts: int) -> list[int]:
    """Where "mod" put each id: in row `id // parts` of part `id % parts`."""
    return [row for part in range(parts) for row in range(part, count, parts)]


def restore(mesh: Mesh) -> dict[str, jax.Array]:
    """Loads the model onto all devices of all processes."""
    checkpoint = tf2flax.open_checkpoint(FOLDER / "model.ckpt")
    city = table("city")
    parts = len(checkpoint[city].slices)
    stored = np.array(rows_by_id(11, parts))  # the id that each stored row is for
    assignment_map = {
        table("colour"): "colour",
        table("query"): "query",
        tf2flax.src(city).take(np.argsort(stored)): "city",
        "dnn/hiddenlayer_{i}/": "deep/hidden_{i}/",
        "dnn/bilinear/tensor": "deep/bilinear",
        "dnn/logits/": "deep/logits/",
        "linear/linear_model/colour/weights": "wide/colour",
        "linear/linear_model/query/weights": "wide/query",
        "linear/linear_model/num/weights": "wide/num",
        "linear/linear_model/bias_weights": "wide/bias",
    }
    target = {n: jax.ShapeDtypeStruct(shape, "float32") for n, shape in SHAPES.items()}
    plan = tf2flax.plan(
        checkpoint,
        assignment_map,
        target,
        sharding=RULES,
        mesh=mesh,
        on_uneven="replicate",
    )
    if jax.process_index() == 0:
        print(plan if jax.process_count() == 1 else plan.cost())
    return plan.restore()


def forward(
    params: Mapping[str, jax.Array], inputs: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """The model, as TensorFlow's graph has it."""
    colour = params["colour"][inputs["ids_colour"]]
    city = params["city"][inputs["ids_city"]]
    query = params["query"][inputs["ids_query"]]
    rows = inputs["bag_rows"]
    counts = jnp.zeros(len(colour)).at[rows].add(1.0)
    sums = jnp.zeros_like(colour).at[rows].add(params["colour"][inputs["bag_ids"]])
    bag = sums / jnp.sqrt(jnp.maximum(counts, 1.0))[:, None]
    x = jnp.concatenate([inputs["num"], colour, city, query, bag], axis=1)
    for layer in ("deep/hidden_0", "deep/hidden_1"):
        x = jax.nn.relu(x @ params[f"{layer}/kernel"] + params[f"{layer}/bias"])
    pairs = jnp.einsum("bi,ijk,bk->bj", x, params["deep/bilinear"], x)
    joined = jnp.concatenate([x, pairs], axis=1)
    deep = joined @ params["deep/logits/kernel"] + params["deep/logits/bias"]
    wide = (
        params["wide/colour"][inputs["ids_colour"]]
        + params["wide/query"][inputs["ids_query"]]
        + inputs["num"] @ params["wide/num"]
        + params["wide/bias"]
    )
    return {
        "emb_div": colour, "emb_mod": city, "emb_minmax": query, "bag_sqrtn": bag,
        "bilinear": pairs, "deep": deep, "wide": wide,
        "probabilities": jax.nn.sigmoid(deep + wide),
    }  # fmt: skip


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
    arrays = {name: np.asarray(output) for name, output in outputs.items()}
    names = {name: name for name in arrays}
    comparison = compare_all(lambda arrays: arrays, arrays, (), recorded, **names)
    return report({process: comparison})


def work(process: int, count: int, port: int) -> int:
    """One process of the job."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8 // count)
    if count > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", count, process)
    return compare()


def main() -> int:
    """Runs the job with one process, then with two."""
    for count in (1, 2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, __file__]
        processes = [
            subprocess.Popen([*command, str(i), str(count), str(port)])
            for i in range(count)
        ]
        codes = [process.wait() for process in processes]
        if any(codes):
            return 1
    return 0


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(work(*map(int, sys.argv[1:])))
    sys.exit(main())
