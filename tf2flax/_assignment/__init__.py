"""The assignment-map engine: pure functions on names, shapes and dtypes.

Reads no tensor, knows no Checkpoint and no JAX. The rules are those of
`tf.compat.v1.train.init_from_checkpoint`; docs/maps.md describes what maps mean.

- `language`: what a map may say, and text -> expressions.
- `layouts`: where each element of an expression lies in tensors.
- `resolution`: which source fills which leaf. Begin here, with `matching`.
- `plans`: a resolution as a plan, as text, and backwards.

Each imports only those above it. No file is opened here.

Source: tensorflow/python/training/checkpoint_utils.py.
"""
