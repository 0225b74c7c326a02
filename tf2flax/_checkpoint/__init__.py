"""What `open_checkpoint` gives: names, tensors, views and reports.

Finds the checkpoint that a path means, and shows a manifest as a mapping of tensors.
Names no format: those are asked through `_formats.formats`. Reads tensors by
`_reading`, and only when they are asked for. Never imports JAX.

Begin with `opening`, then `checkpoint`.

- `opening`: `open_checkpoint`, `merge_checkpoints`, `list_variables`, `load_variable`;
  `locate`: a path -> format and files.
- `checkpoint`, `stored_tensor`: the mapping, and one tensor of it.
- `mapping`: arrays as a checkpoint; `reader`: TensorFlow's reader.
- `indexing`: a numpy index -> boxes to read.
- `state`: state files of directories.
- `choosing`: which checkpoints lie in a folder, newest first.
- `not_found`, `interrupted_saves`, `state_faults`: what to do if there is no checkpoint
  at a path; `foreign`, `foreign_folders`: if something else is there.
- `object_based`: checkpoints of TF2, and their views; `object_roles`: what their
  tensors are to a training; `merging`: several as one.
- `training_views`: averages and slots under the names of their variables; `slots`:
  which there are.
- `moment_slots`, `factored_slots`: which slots a state of optax has; `step_counts`: how
  many steps were done; `optimizer_view`: both as a checkpoint.
- `verifying`: every byte checked; `watching`: new checkpoints of a running training.
"""
