"""Formats of checkpoints: files to a `Manifest` of names and entries.

Knows what bytes mean, and never what a user wants of them: it parses indexes, checks
what they say, and finds where tensors lie. Only pieces that nothing else can read (of
V1 files and HDF5) are read here. Never imports JAX.

Begin with `format`, which says what a format is, and `bundle`, the main one.

- `format`, `formats`: what a format is; all of them in one tuple, `FORMATS`.
- `bundle`: TensorBundle, the V2 checkpoints of TensorFlow.
- `v1`: V1 checkpoints, in one file or several.
- `keras/`: Keras weights in HDF5: files, archives, folders, names of variables.
- `foreign_zip`: zip archives that are none, and the URLs of what lies in them.
- `object_graph`: names and paths of variables in a checkpoint of TF2.
- `renamed`: the tensors of a manifest under other names, for views.
- `checks`: slices and blocks as several formats check them.
- `wire/`: bytes <-> values: tables, protobuf messages, strings, checksums.

A new format is a subclass of `Format` and a line in `FORMATS`; the test
`tests/formats/test_toy_format.py` adds one.
"""
