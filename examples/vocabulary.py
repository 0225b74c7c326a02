"""Takes a table of word vectors over to another vocabulary, as `tf.train.VocabInfo`.

Needs: jax. Size: 60 bytes, in tests/data/vocabulary. Time: a second.
Exits 0 only if the table is what TensorFlow 1.15's `warm_start` made of it.
"""

from __future__ import annotations

import json
import pathlib
import sys

import jax
import numpy as np
from comparing import compare, report

import tf2flax

DATA = pathlib.Path(__file__).resolve().parent.parent / "tests/data/vocabulary"


def init(rows: int) -> dict[str, jax.Array]:
    """A fresh table `[rows, 3]`; TensorFlow's backup initializer made -7."""
    return {"table": jax.numpy.full((rows, 3), -7.0)}


def main() -> int:
    """Warm-starts a table with four words and two buckets, and compares."""
    old, new = DATA / "old.txt", DATA / "new.txt"
    rows = tf2flax.vocabulary(old, new, num_oov_buckets=2)
    entries = {tf2flax.src("table").take(rows, fill="keep"): "table"}
    warm = tf2flax.warm_start(init, DATA / "model.ckpt", entries)
    table = np.asarray(warm(len(rows.numbers))["table"])

    had = old.read_text().split()
    words = [*new.read_text().split(), "(bucket)", "(bucket)"]
    for word, number, row in zip(words, rows.numbers, table, strict=True):
        source = "fresh" if number < 0 else f"row {number} of {len(had)}"
        print(f"{word:10} {source:12} {row}")
    recorded = json.loads((DATA / "recorded.json").read_text())
    wanted = np.asarray(recorded["cases"]["two_buckets"]["values"])
    # What is compared is the table itself.
    comparison = compare(
        lambda variables: variables,
        {"table": table},
        (),
        {"table": wanted},
        table="table",
    )
    return report({"": comparison})


if __name__ == "__main__":
    sys.exit(main())
