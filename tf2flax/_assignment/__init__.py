"""The assignment-map engine: pure functions on names, shapes and dtypes.

Reads no tensor and no file, knows no Checkpoint and no JAX. The rules are those of
`tf.compat.v1.train.init_from_checkpoint`.

- `language`     what a map may say: names, captures, expressions, entries
- `layouts`      where each element of an expression lies, and the way back
- `resolution`   entries + names and shapes -> which tensor fills which leaf
- `plans`        plans and their inverses, with their reports

Each imports only those above it. Begin with `language.expressions`.

Source: tensorflow/python/training/checkpoint_utils.py.
"""
