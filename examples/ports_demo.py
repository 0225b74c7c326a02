"""Ports TensorFlow 1.15 models to natural Flax ones by map files, and compares outputs.

Needs: jax, flax. Size: 0.9 MB, in tests/data. Time: some 20 seconds.
Exits 0 only if every output is within 1e-5 of what TensorFlow 1.15 computed.

    python examples/ports_demo.py [MAP ...]
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import bert_attention_linen
import bert_attention_nnx
import gpt2_linen
import jax
import numpy as np
import resnet_linen
from bert_linen import Config
from comparing import compare, report
from flax import linen, nnx

import tf2flax

HERE = pathlib.Path(__file__).resolve().parent
DATA = HERE.parent / "tests" / "data"


@dataclasses.dataclass(frozen=True)
class Port:
    """A model, the checkpoint that fills it, and what to compare.

    Attributes:
        checkpoint: Folder in tests/data.
        model: Makes the model; NNX models from `nnx.Rngs`.
        inputs: Recorded arrays -> arguments of the model.
        outputs: Recorded arrays -> what the model calls them: places in its tuple.
    """

    checkpoint: str
    model: Callable[..., linen.Module | nnx.Module]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]

    def recorded(self) -> dict[str, np.ndarray]:
        """What TensorFlow 1.15 took and gave."""
        with np.load(DATA / self.checkpoint / "oracle.npz") as recorded:
            return dict(recorded)


BERT_INPUTS = {
    "input_ids": "ids",
    "input_mask": "mask",
    "token_type_ids": "token_types",
}
BERT_OUTPUTS = {"sequence_output": "0", "pooled_output": "1"}
# Map file -> what it ports.
PORTS: dict[str, Port] = {
    "bert_linen": Port(
        "bert",
        lambda: bert_attention_linen.Bert(Config()),
        BERT_INPUTS,
        BERT_OUTPUTS,
    ),
    "bert_scan": Port(
        "bert",
        lambda: bert_attention_linen.Bert(Config(), is_scanned=True),
        BERT_INPUTS,
        BERT_OUTPUTS,
    ),
    "bert_nnx": Port(
        "bert",
        lambda rngs: bert_attention_nnx.Bert(Config(), rngs=rngs),
        BERT_INPUTS,
        BERT_OUTPUTS,
    ),
    "gpt2_linen": Port(
        "gpt2",
        lambda: gpt2_linen.GPT2(gpt2_linen.Config()),
        {"ids": "ids"},
        {"hidden": "0", "logits": "1"},
    ),
    "resnet_linen": Port(
        "resnet_slim", resnet_linen.ResNet, {"x_odd": "x"}, {"logits_odd": "output"}
    ),
}


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
    assignment_map = tf2flax.load_map(HERE / "maps" / f"{name}.toml")
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
