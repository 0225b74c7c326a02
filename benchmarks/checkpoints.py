"""The checkpoints that are measured: shapes, and files with random values."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping

import numpy as np

import tf2flax

Shape = tuple[int, ...]
# Tiny tensors of one layer.
CELLS = 100


def bert_shapes(
    *, width: int = 1024, layers: int = 24, vocabulary: int = 30_528
) -> dict[str, Shape]:
    """BERT-large's variables; the vocabulary is padded to a multiple of 64."""
    inner = 4 * width
    shapes: dict[str, Shape] = {
        "bert/embeddings/word_embeddings": (vocabulary, width),
        "bert/embeddings/position_embeddings": (512, width),
        "bert/embeddings/token_type_embeddings": (2, width),
        "bert/pooler/dense/kernel": (width, width),
        "bert/pooler/dense/bias": (width,),
    }
    norms = ["bert/embeddings"]
    for i in range(layers):
        layer = f"bert/encoder/layer_{i}"
        dense = {
            "attention/self/query": (width, width),
            "attention/self/key": (width, width),
            "attention/self/value": (width, width),
            "attention/output/dense": (width, width),
            "intermediate/dense": (width, inner),
            "output/dense": (inner, width),
        }
        for name, shape in dense.items():
            shapes[f"{layer}/{name}/kernel"] = shape
            shapes[f"{layer}/{name}/bias"] = shape[1:]
        norms += [f"{layer}/attention/output", f"{layer}/output"]
    for scope in norms:
        for name in ("beta", "gamma"):
            shapes[f"{scope}/LayerNorm/{name}"] = (width,)
    return shapes


def random_tensors(shapes: Mapping[str, Shape]) -> dict[str, np.ndarray]:
    """Normal float32 values, the same each time."""
    rng = np.random.default_rng(0)
    return {
        name: rng.standard_normal(shape, dtype=np.float32)
        for name, shape in shapes.items()
    }


def tiny_tensors(count: int) -> dict[str, np.ndarray]:
    """Tensors of 8 bytes, under names like those of layers."""
    return {name: np.full(2, i, np.float32) for i, name in enumerate(tiny_names(count))}


def tiny_names(count: int) -> list[str]:
    """The names of `tiny_tensors`, in the order in which they count."""
    return [f"layer_{i // CELLS}/cell_{i % CELLS}/w" for i in range(count)]


def bundle(prefix: pathlib.Path, shapes: Mapping[str, Shape]) -> str:
    """Writes a TensorBundle of random values."""
    tf2flax.save_checkpoint(prefix, random_tensors(shapes))
    return str(prefix)


def data_files(prefix: str) -> list[str]:
    """The files of a bundle."""
    path = pathlib.Path(prefix)
    return [str(file) for file in sorted(path.parent.glob(path.name + ".*"))]


def nbytes_of(shapes: Mapping[str, Shape]) -> int:
    """Bytes of float32 tensors."""
    return 4 * sum(math.prod(shape) for shape in shapes.values())
