"""The assignment-map engine: pure functions on names, shapes and dtypes.

Reads no tensor, knows no Checkpoint and no JAX. The rules are those of
`tf.compat.v1.train.init_from_checkpoint`.

Source: tensorflow/python/training/checkpoint_utils.py.
"""
