"""Reads a partitioned variable, saved as slices, whole, in part, and into other parts.

Needs: jax. Size: 25 kB, in tests/data/wide_deep_partitioned. Time: a second.
"""

from __future__ import annotations

import pathlib

import jax
import numpy as np

import tf2flax

DATA = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data"
PREFIX = DATA / "wide_deep_partitioned" / "model.ckpt"


def main() -> None:
    """Shows the slices, a few rows, and two parts where TensorFlow saved more."""
    checkpoint = tf2flax.open_checkpoint(PREFIX)
    name = max(checkpoint, key=lambda n: len(checkpoint[n].slices))
    table = checkpoint[name]
    print(f"{name} {list(table.shape)} was saved as {len(table.slices)} slices")
    print(f"its rows 2 to 4, across slices: {table[2:4].shape}")

    rows, columns = table.shape
    first = (rows + 1) // 2
    parts = {
        "table/part_0": jax.ShapeDtypeStruct((first, columns), "float32"),
        "table/part_1": jax.ShapeDtypeStruct((rows - first, columns), "float32"),
    }
    loaded = tf2flax.init_from_checkpoint(checkpoint, {name: "table"}, parts)
    whole = np.concatenate([loaded["table/part_0"], loaded["table/part_1"]])
    assert np.array_equal(whole, table.read())
    print(f"loaded into parts of {first} and {rows - first} rows")


if __name__ == "__main__":
    main()
