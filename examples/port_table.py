"""Which natural Flax models stand for which of TensorFlow's, and what to compare.

Needs: jax, flax. A table: `ports_demo.py` runs it; maps/NAME.toml fill the models.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping

import bert_attention_linen
import bert_attention_nnx
import gpt2_linen
import numpy as np
import resnet_linen
from bert_linen import Config
from flax import linen, nnx

DATA = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data"


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
