"""Loads a partitioned embedding, saved as slices, into parts of other sizes.

Needs: jax. Size: 36 kB, in tests/data/wide_deep_partitioned. Time: a second.
Exits 0 only if looking up ids gives what TensorFlow 1.15 looked up.
"""

from __future__ import annotations

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from comparing import compare, report

import tf2flax

DATA = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data"
FOLDER = DATA / "wide_deep_partitioned"
NAME = "dnn/input_from_feature_columns/input_layer/colour_embedding/embedding_weights"


def look_up(parts: dict[str, jax.Array], ids: jax.Array) -> jax.Array:
    """Rows of the table that both parts are."""
    return jnp.concatenate([parts["table/part_0"], parts["table/part_1"]])[ids]


def main() -> int:
    """Shows the slices, reads rows across them, and loads two parts from three."""
    checkpoint = tf2flax.open_checkpoint(FOLDER / "model.ckpt")
    table = checkpoint[NAME]
    saved = [rows.stop - rows.start for rows, _ in table.slices]
    print(f"{NAME} {list(table.shape)}")
    print(f"saved as slices of {saved} rows")
    print(f"rows 3 and 4, from two slices:\n{table[3:5]}")

    parts = {
        "table/part_0": jax.ShapeDtypeStruct((5, 4), "float32"),
        "table/part_1": jax.ShapeDtypeStruct((5, 4), "float32"),
    }
    parts = tf2flax.init_from_checkpoint(checkpoint, {NAME: "table"}, parts)
    for name, part in parts.items():
        print(f"loaded {name} {list(part.shape)}")

    # What TensorFlow looked up in its three parts, looked up in these two.
    recorded = np.load(FOLDER / "oracle.npz")
    comparison = compare(
        look_up, parts, recorded["ids_colour"], recorded, emb_div="output"
    )
    return report({"": comparison})


if __name__ == "__main__":
    sys.exit(main())
