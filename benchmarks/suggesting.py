"""Suggesting maps: blocks of a Transformer, and layers that no number counts."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

import tf2flax

from .report import Goal, Section, Table

Shapes = dict[str, tuple[int, ...]]

# Seconds that a suggestion may take, by the number of tensors.
LIMITS_S = {400: 1.0, 20_000: 20.0}
# TensorFlow's name of a layer -> Flax's, and the shape of its kernel.
LAYERS = {
    "attention/self/query": ("attention/query", (16, 16)),
    "attention/self/key": ("attention/key", (16, 16)),
    "attention/self/value": ("attention/value", (16, 16)),
    "attention/output/dense": ("attention/out", (16, 16)),
    "intermediate/dense": ("mlp_in", (16, 24)),
    "output/dense": ("mlp_out", (24, 16)),
}
WORDS = (
    "stem",
    "left",
    "right",
    "upper",
    "lower",
    "inner",
    "outer",
    "near",
    "far",
    "mid",
)


def suggesting(counts: Sequence[int], rounds: int) -> Section:
    """Benchmark 8: seconds to suggest a map."""
    rows: list[tuple[str, ...]] = []
    goals: list[Goal] = []
    for count in counts:
        for name, make in (("blocks", blocks), ("names", names)):
            tensors, leaves = make(count)
            seconds = _seconds(tensors, leaves, rounds)
            rows.append((f"{len(tensors):,} tensors, {name}", f"{seconds:.2f}"))
            if count in LIMITS_S:
                what = f"seconds to suggest {count:,} tensors, {name}"
                goals.append(Goal(what, seconds, LIMITS_S[count], is_most=True))
    return Section(
        "8. Suggesting a map",
        "From names and shapes alone, until the map is checked by the engine. Blocks: "
        "layers of a Transformer, one name for all of them. Names: kernels of one "
        "shape that only their names tell apart.",
        [Table(("", "median s"), rows)],
        goals,
    )


def blocks(count: int) -> tuple[Shapes, Shapes]:
    """A Transformer of about so many tensors, and a model with other names."""
    tensors: Shapes = {}
    leaves: Shapes = {}
    for block in range(max(2, count // (2 * len(LAYERS)))):
        for name, (leaf, shape) in LAYERS.items():
            for part, size in (("kernel", shape), ("bias", shape[1:])):
                tensors[f"bert/encoder/layer_{block}/{name}/{part}"] = size
                leaves[f"params/layers_{block}/{leaf}/{part}"] = size
    return tensors, leaves


def names(count: int) -> tuple[Shapes, Shapes]:
    """So many tensors of two shapes, and a model with other names."""
    tensors: Shapes = {}
    leaves: Shapes = {}
    for words in itertools.islice(itertools.product(WORDS, repeat=4), count // 2):
        scope = "/".join(words)
        tensors |= {f"net/{scope}/weights": (4, 6), f"net/{scope}/biases": (6,)}
        leaves |= {f"params/{scope}/kernel": (4, 6), f"params/{scope}/bias": (6,)}
    return tensors, leaves


def _seconds(tensors: Shapes, leaves: Shapes, rounds: int) -> float:
    checkpoint = {n: np.broadcast_to(np.float32(0), s) for n, s in tensors.items()}
    target: dict[str, Any] = {
        name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in leaves.items()
    }
    timings: list[float] = []
    for _ in range(rounds):
        begun = time.perf_counter()
        result = tf2flax.suggest(checkpoint, target)
        timings.append(time.perf_counter() - begun)
        assert not result.unmatched
    return statistics.median(timings)
