"""Checkpoints to files of other libraries: `convert`, and one format per file.

Knows what other formats hold and how their files look; never what JAX is, and never a
target. Whatever is written goes under a temporary name first.

Begin with `convert.convert`, then `exporter`, the contract of a format.

- `convert`: the whole conversion: what is written, read, checked and reported.
- `selection`: a map without a target -> which tensors fill which names.
- `origins`: which names tensors give, and that none is lost to another one.
- `exporter`: what an exporter is; `source`: the tensors that it asks for.
- `outputs`: files and directories that are whole, or not there.
- `exporters`: all of them, in one tuple, `EXPORTERS`.
- `safetensors`, `npz`, `tensorbundle`, `orbax`: one format each.
- `ocdbt`, `chunks`: tensorstore's key-value store in files, which Orbax reads.
- `by_reference`: an Orbax directory over the bytes of TensorFlow's own data files.

A new format is a subclass of `Exporter` and a line in `EXPORTERS`; the test
`tests/export/test_toy_exporter.py` adds one.
"""
