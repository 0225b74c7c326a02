"""`save_checkpoint`, trees -> files, and map files. Reads and restores nothing itself.

Begin with `save.py`. All that is given is checked first (`NewTensor`), then arrays are
fetched and written one by one.

- `save.py`: the public function: options, files, warnings.
- `trees.py`, `arrays.py`, `device_arrays.py`, `slicing.py`: what a caller saves ->
  `NewTensor`s, which `new_tensors.py` defines.
- `by_plan.py`: the same by the map of a plan, backwards; `backwards.py` puts each
  tensor together from leaves, `growing.py` those of leaves that have grown; `stale.py`
  warns about copies that no longer belong to what is written; `averages.py` writes a
  variable and its averages alike.
- `new_names.py`: leaves under names that the checkpoint lacks (`new=`), and what
  expressions over them are; `leaf_manifest.py`: leaves as tensors of a checkpoint.
- `optimizer.py`: the state of an optimizer joined to its parameters.
- `prefixes.py`: a prefix -> the destination of a save. `bundle.py`: `NewTensor`s ->
  data files and index; `parts.py`: what of them one process writes; `table.py`: the
  table of an index; `bridging.py`: the index of a checkpoint that is being replaced;
  `state_file.py`: the file `checkpoint`.
- `together.py`: a save of several processes; `sharded.py`, `sharded_backwards.py`:
  what of arrays that span them each one writes.
- `map_files.py`: `load_map` and `save_map`; `map_parsing.py` and `map_formatting.py`
  know the text, and no file. `map_lines.py`: lines of keys; `map_options.py`: options
  and parameters; `toml_errors.py`, `json_errors.py`: what is wrong with a text;
  `loaded_maps.py`: what `load_map` gives. `vocabularies.py`: `vocabulary`, which reads
  words.
"""
