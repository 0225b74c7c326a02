"""Cells of TF and Keras by map files: Flax's outputs are TensorFlow's."""

from __future__ import annotations

import pathlib

import jax
import numpy as np
import pytest
from flax import linen as nn
from repository import ROOT

import tf2flax

FOLDER = ROOT / "tests" / "data" / "recurrent"
# Map file -> the cell, and the recorded output.
CELLS = {
    "lstm": (nn.LSTMCell, "basic_out"),
    "lstm_forget": (nn.LSTMCell, "lstm_fb_out"),
    "keras_lstm": (nn.LSTMCell, "keras_lstm_sig"),
    "gru": (nn.GRUCell, "cudnn_gru_out"),
    "keras_gru": (nn.GRUCell, "keras_gru_after"),
}


def load(name: str) -> tuple[tf2flax.Plan, nn.RNN]:
    cell, _ = CELLS[name]
    model = nn.RNN(cell(6, name="cell"))
    x = np.load(FOLDER / "oracle.npz")["x"]
    target = jax.eval_shape(model.init, jax.random.key(0), x)
    entries = tf2flax.load_map(FOLDER / f"{name}.toml")
    assert len(entries) <= 15
    return tf2flax.plan(FOLDER / "model.ckpt", entries, target), model


@pytest.mark.parametrize("name", list(CELLS))
def test_outputs_are_those_of_tensorflow(name: str) -> None:
    plan, model = load(name)
    recorded = np.load(FOLDER / "oracle.npz")
    with jax.default_matmul_precision("highest"):
        got = np.asarray(model.apply(plan.restore(), recorded["x"]))
    wanted = recorded[CELLS[name][1]]
    # `tf.nn.dynamic_rnn` gives zeros after the end of a sequence; Keras has no ends.
    lengths = [7] * 3 if "keras" in name else recorded["seq_len"]
    difference = max(
        float(np.abs(got[i, :length] - wanted[i, :length]).max())
        for i, length in enumerate(lengths)
    )
    assert 0 < difference <= 1e-5


@pytest.mark.parametrize("name", list(CELLS))
def test_cells_go_back_bit_for_bit_but_for_sums(
    name: str, tmp_path: pathlib.Path
) -> None:
    plan, _ = load(name)
    if name == "keras_gru":
        with pytest.raises(tf2flax.AssignmentError, match="`params/cell/iz/bias` can"):
            tf2flax.save_checkpoint(tmp_path / "m", plan.restore(), plan=plan)
        return
    saved = tf2flax.save_checkpoint(tmp_path / "m", plan.restore(), plan=plan)
    again = tf2flax.open_checkpoint(saved).read()
    for tensor, array in tf2flax.open_checkpoint(FOLDER / "model.ckpt").read().items():
        assert again[tensor].tobytes() == array.tobytes()
