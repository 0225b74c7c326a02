"""Which source fills which leaf, by the rules of TensorFlow; and what is wrong.

Names, shapes and dtypes alone: reads no tensor and opens no file. Begin with
`matching`, which calls the others in order.

- `assignments`: leaves, and what fills each of them. `policies`: options;
  `option_checks`: those that say nothing about names.
- `claims`: the state of one resolution; compares shapes and dtypes at its end.
- `matching`: `resolve_map`, and plain entries in TensorFlow's own order. Lay it beside
  its `checkpoint_utils.py`.
- `rules`, `sources`: entries with expressions or captures, and their tensors.
- `precedence`: which entry gets a leaf.
- `partitions`, `ties`: parts of partitioned variables; leaves with several names.
- `problems`: what is wrong, as values; `problem_report`: all of it in one message.
- `causes`: which problems are one mistake. `missing_tensors`, `missing_scopes`,
  `missing_levels`, `missing_names`, `near_scopes`, `missing_leaves`, `mismatches`,
  `fitting_sizes` explain one kind each. `doubts`, `swapped_values`: where what fits a
  leaf may well be wrong. `training_state`: what is not suggested. `ways_out`: leaves
  that may stay.
- Of layers and parts: `numbered_layers`, `layer_families`, `renamed_layers`,
  `layer_entries`, `shifted_levels`: other numbers or names in the checkpoint.
  `adjacent_captures`: where a capture ends. `stacked_layers`: leaves that hold all
  layers. `fused`: query, key and value in one tensor. `gates`: those of recurrent
  cells. `stored_parts`: parts of partitioned variables that are stored otherwise.
- `suggestions`, `new_entries`, `counted_sources`: lines that can be pasted into a map.
  `entry_labels`, `scopes`, `likeness`: entries in messages; scopes of names; how alike
  names are.
- `spellings`: names that were meant as expressions. `unfilled`: entries that reach no
  leaf.
- `half_norms`: normalisations of which only the scale is loaded.
"""
