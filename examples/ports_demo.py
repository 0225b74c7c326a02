"""Ports TensorFlow 1.15 models to natural Flax ones by map files, and compares outputs.

Needs: jax, flax. Size: 0.9 MB, in tests/data. Time: some 20 seconds.
Exits 0 only if every output is within 1e-5 of what TensorFlow 1.15 computed.

    python examples/ports_demo.py [MAP ...]
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import jax
from comparing import compare, report
from flax import nnx
from port_table import DATA, PORTS

import tf2flax

MAPS = pathlib.Path(__file__).resolve().parent / "maps"


def load(name: str, inputs: Mapping[str, Any]) -> tuple[tf2flax.Plan, Any]:
    """Plans a port.

    Args:
        name: Name of the map file.
        inputs: Arguments of the model.

    Returns:
        The plan, and the function that runs what it restores.
    """
    port = PORTS[name]
    checkpoint = DATA / port.checkpoint / "model.ckpt"
    assignment_map = tf2flax.load_map(MAPS / f"{name}.toml")
    if name.endswith("nnx"):
        module: Any = nnx.eval_shape(lambda: port.model(nnx.Rngs(0)))
        return tf2flax.plan(checkpoint, assignment_map, module), type(module).__call__
    model: Any = port.model()
    target = jax.eval_shape(model.init, jax.random.key(0), **inputs)
    return tf2flax.plan(checkpoint, assignment_map, target), model.apply


def compare_port(name: str) -> tf2flax.Comparison:
    """Runs a port and compares its outputs with those of TensorFlow 1.15.

    Args:
        name: Name of the map file.
    """
    port = PORTS[name]
    recorded = port.recorded()
    inputs = {argument: recorded[array] for array, argument in port.inputs.items()}
    plan, fn = load(name, inputs)
    return compare(fn, plan.restore(), inputs, recorded, plan, **port.outputs)


def main(names: list[str]) -> int:
    """Runs ports and gives the exit status."""
    return report({f"{name:<16}": compare_port(name) for name in names or PORTS})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
