"""Ways to write what is in memory, or in a checkpoint: contenders for their memory.

`contenders.py` runs each in a process of its own.
"""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

# Gives values by name; a run lasts until everything is written.
Run = Callable[[], Mapping[str, Any]]


def save_arrays(path: str, shapes: Mapping[str, list[int]], *, kind: str) -> Run:
    """`save_checkpoint` of arrays that are there: of NumPy, or of JAX."""
    import jax

    import tf2flax

    arrays: dict[str, Any] = _arrays(shapes)
    if kind == "jax":
        arrays = {name: jax.device_put(array) for name, array in arrays.items()}
        jax.block_until_ready(arrays)

    def run() -> Mapping[str, Any]:
        tf2flax.save_checkpoint(path, arrays, overwrite=True)
        return {}

    return run


def save_stacked(path: str, prefix: str, layers: int) -> Run:
    """`save_checkpoint` of stacked layers by the plan that loaded them."""
    import tf2flax

    shape = tf2flax.open_checkpoint(prefix)["layer_0/w"].shape
    rule = {tf2flax.stack(tf2flax.src("layer_{i}/w"), over="i"): "w"}
    target = {"w": np.broadcast_to(np.float32(0), (layers, *shape))}
    plan = tf2flax.plan(prefix, rule, target)
    tree = plan.restore()

    def run() -> Mapping[str, Any]:
        tf2flax.save_checkpoint(path, tree, plan=plan, overwrite=True)
        return {}

    return run


def convert_bundle(path: str, prefix: str, *, kind: str) -> Run:
    """`convert` to another format."""
    import tf2flax

    def run() -> Mapping[str, Any]:
        tf2flax.convert(prefix, path, format=kind)
        for written in pathlib.Path(path).parent.glob(pathlib.Path(path).name + "*"):
            if written.is_dir():
                shutil.rmtree(written)
            else:
                written.unlink()
        return {}

    return run


def _arrays(shapes: Mapping[str, list[int]]) -> dict[str, np.ndarray]:
    """Arrays of numbers that are in memory, each page of them."""
    return {
        name: np.full(shape, number, np.float32)
        for number, (name, shape) in enumerate(shapes.items())
    }


HOLDERS: Mapping[str, Callable[..., Run]] = {
    "save": save_arrays,
    "save stacked": save_stacked,
    "convert": convert_bundle,
}
