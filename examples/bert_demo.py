"""Loads a TensorFlow 1.15 BERT into linen and NNX, and compares the outputs.

Needs: jax, flax. Size: 0.3 MB, in tests/data/bert. Time: some seconds.
Exits 0 only if every output is within 1e-5 of what TensorFlow 1.15 computed.

    python examples/bert_demo.py [CHECKPOINT]
"""

from __future__ import annotations

import pathlib
import sys
from typing import Any

import bert_linen
import bert_nnx
import jax
import numpy as np
from comparing import compare, report
from flax import nnx

import tf2flax

# What TensorFlow recorded -> its place in what the models give.
OUTPUTS = {"sequence_output": "0", "pooled_output": "1"}
DATA = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data" / "bert"


def list_checkpoint(checkpoint: tf2flax.Checkpoint) -> None:
    """Prints a row for each tensor; slots stand in the row of what they belong to."""
    slots: dict[str, list[str]] = {}
    types = {name: (str(t.dtype), str(list(t.shape))) for name, t in checkpoint.items()}
    for name in checkpoint:  # sorted: owners come before their slots
        owner = name.rpartition("/")[0]
        if owner in slots and types[owner] == types[name]:
            slots[owner].append(name.removeprefix(owner))
        else:
            slots[name] = []

    rows = [("name", "dtype", "shape", "slots of the same dtype and shape")]
    rows += [(name, *types[name], " ".join(slots[name])) for name in slots]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print(f"{len(checkpoint)} tensors in {checkpoint.prefix}")
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        print("  " + "  ".join(cells).rstrip())
    print()


def compare_linen(
    checkpoint: tf2flax.Checkpoint, inputs: dict[str, Any], recorded: Any
) -> tf2flax.Comparison:
    """Plans, loads into linen variables, runs and compares."""
    model = bert_linen.Bert(bert_linen.Config())
    target = jax.eval_shape(model.init, jax.random.key(0), **inputs)
    plan = tf2flax.plan(checkpoint, bert_linen.ASSIGNMENT_MAP, target)
    print(plan, end="\n\n")
    return compare(model.apply, plan.restore(), inputs, recorded, plan, **OUTPUTS)


def compare_nnx(
    checkpoint: tf2flax.Checkpoint, inputs: dict[str, Any], recorded: Any
) -> tf2flax.Comparison:
    """Loads into an nnx.Module, runs and compares."""
    config = bert_linen.Config()
    model = nnx.eval_shape(lambda: bert_nnx.Bert(config, rngs=nnx.Rngs(0)))
    tf2flax.init_from_checkpoint(checkpoint, bert_nnx.assignment_map(config), model)
    return compare(bert_nnx.Bert.__call__, model, inputs, recorded, **OUTPUTS)


def main(path: str) -> int:
    """Runs the demo and gives the exit status."""
    recorded = np.load(DATA / "oracle.npz")
    inputs = {
        "ids": recorded["input_ids"],
        "mask": recorded["input_mask"],
        "token_types": recorded["token_type_ids"],
    }
    checkpoint = tf2flax.open_checkpoint(path)
    list_checkpoint(checkpoint)
    return report(
        {
            "linen": compare_linen(checkpoint, inputs, recorded),
            "nnx  ": compare_nnx(checkpoint, inputs, recorded),
        }
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else str(DATA / "model.ckpt")))
