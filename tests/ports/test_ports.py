"""Natural Flax models, filled by map files: the numbers are TensorFlow's."""

from __future__ import annotations

import pathlib
from types import ModuleType
from typing import Any

import jax
import numpy as np
import pytest
from repository import ROOT

import tf2flax

EXAMPLES = ROOT / "examples"
NAMES = [path.stem for path in sorted((EXAMPLES / "maps").glob("*.toml"))]


@pytest.mark.parametrize("name", NAMES)
def test_port(demo: ModuleType, name: str) -> None:
    comparison = demo.compare_port(name)
    assert [row.name for row in comparison.rows] == list(demo.PORTS[name].outputs)
    # 0 would mean that recorded outputs were compared with themselves.
    assert all(0 < row.max_abs <= 1e-5 for row in comparison.rows)
    assert comparison.ok


def test_every_map_is_a_port(demo: ModuleType) -> None:
    assert sorted(demo.PORTS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_ports_go_back_bit_for_bit(
    demo: ModuleType, name: str, tmp_path: pathlib.Path
) -> None:
    port = demo.PORTS[name]
    recorded = port.recorded()
    inputs: dict[str, Any] = {
        argument: recorded[array] for array, argument in port.inputs.items()
    }
    plan, _ = demo.load(name, inputs)
    original = tf2flax.open_checkpoint(ROOT / "tests" / "data" / port.checkpoint)
    saved = tf2flax.save_checkpoint(tmp_path / "m", plan.restore(), plan=plan)
    again = tf2flax.open_checkpoint(saved).read()
    for tensor, array in original.read().items():
        assert again[tensor].tobytes() == array.tobytes(), tensor
    assert again.keys() == set(original)


def test_a_wrong_map_gives_other_numbers(demo: ModuleType) -> None:
    port = demo.PORTS["bert_linen"]
    recorded = port.recorded()
    inputs = {argument: recorded[array] for array, argument in port.inputs.items()}
    plan, _ = demo.load("bert_linen", inputs)
    variables = plan.restore()
    attention = variables["params"]["layers_0"]["attention"]
    # Heads and columns of heads, the wrong way round: the shapes do not tell.
    kernel = attention["query"]["kernel"]
    attention["query"]["kernel"] = kernel.transpose(0, 2, 1).reshape(kernel.shape)
    model = port.model()
    with jax.default_matmul_precision("highest"):
        output = jax.jit(model.apply)(variables, **inputs)[0]
    assert np.abs(np.asarray(output) - recorded["sequence_output"]).max() > 1e-3
