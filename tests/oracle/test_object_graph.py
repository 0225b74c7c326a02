"""What variables are called, against TF 2's own name-based reader."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

import tf2flax

tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
pytestmark = pytest.mark.oracle


class Model(tf.Module):
    def __init__(self) -> None:
        super().__init__(name="model")
        self.layers = [tf.Module(name="zero"), tf.Module(name="one")]
        for i, layer in enumerate(self.layers):
            layer.w = tf.Variable(tf.random.normal([2, 3]), name=f"layer_{i}/w")
        self.shared = self.layers[0]
        self.by_key = {"odd.key": tf.Variable(1.0, name="odd"), "b/c": tf.Variable(2.0)}
        self.pair = (tf.Variable([1, 2], name="pair"), "text")


def test_names_are_those_of_tensorflow(tmp_path: pathlib.Path) -> None:
    from tensorflow.python.training import saver as reference

    model = Model()
    optimizer = tf.compat.v1.train.AdamOptimizer()
    with tf.GradientTape() as tape:
        loss = sum(tf.reduce_sum(layer.w**2) for layer in model.layers)
    weights = [layer.w for layer in model.layers]
    optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
    saver = tf.train.Checkpoint(model=model, optimizer=optimizer)
    prefix = saver.save(str(tmp_path / "m.ckpt"))
    expected = reference.object_graph_key_mapping(prefix)
    checkpoint = tf2flax.open_checkpoint(prefix)
    own = checkpoint.by_variable_name()
    assert set(own) == {name for name, key in expected.items() if key in checkpoint}
    assert "layer_0/w/Adam" in own
    reader = tf.train.load_checkpoint(prefix)
    for name, key in expected.items():
        try:
            got = own[name].read()
        except tf2flax.UnsupportedError:
            assert name == "Variable"  # several have no name of their own
            continue
        assert np.array_equal(got, reader.get_tensor(key)), name
    paths = checkpoint.by_object_path()
    for path in ("model/layers/0/w", "model/shared/w", "model/by_key/odd.key"):
        assert path in paths
    assert np.array_equal(paths["model/layers/0/w"].read(), weights[0].numpy())
