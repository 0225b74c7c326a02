"""Bytes <-> values, for all formats; opens no file and knows no tensor by name.

Whatever does not parse is a `MalformedError` with a short fact; a caller who knows the
file makes a message of it. No allocation exceeds a stated multiple of the input.

Begin with `sstable`, the container of all of TensorFlow's checkpoints.

- `sstable`: tables of sorted keys; `ordered_code`: keys of slices.
- `messages`: classes of protobuf messages, and those of the V2 index; what others say:
  `slice_messages`, `graph_messages`, `state_messages`.
- `tensor_proto`: values of tensors inside messages; `strings`: tensors of strings.
- `coding`: varints and checksums.
"""
