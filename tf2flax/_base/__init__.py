"""What all folders share: values, errors, text, memory. Knows no format and no JAX.

Begin with `values.py` and `manifest.py`, the neck between formats and everything else.

- `values.py`: byte ranges, boxes, dtypes, specs, names as bytes; `boxes.py`: arithmetic
  with boxes.
- `manifest.py`: names, entries and pieces of one checkpoint. `data_files.py`: contract
  of data files.
- `dtypes.py`: casts and kinds of dtypes; `memory.py`: arrays that are not initialised.
- `errors.py`: the exceptions; `caller.py`: what callers give and see.
- `text.py`: sizes, lists, columns; `collapsing.py`: rows that differ by numbers.
- `names.py`: near names; `synonyms.py`: names that people try first.
- `roles.py`: which tensors are slots, averages and counters, and of what;
  `role_patterns.py`: their names; `role_evidence.py`: scopes of optimizers;
  `keras_slots.py`: slots that Keras 3 names.
- `moments.py`: what slots are for their variables, by their spelling; `powers.py`:
  steps counted by powers of betas.
- `progress.py`, `threads.py`, `tuning.py`: what long reads need.
"""
