"""The only JAX and Flax: targets, shardings, plans that run, whole jobs in one call.

Begin with `init.py`: `init_from_checkpoint` is a few lines over the files below.

- `init.py`: whole jobs in one call. `traced_init.py`: an init function traced once;
  `outputs.py`: what it gives; `lending.py`: the `nnx.Rngs` that its trace is lent.
- `options.py`: all options, their types, defaults and checks.
- `plan.py`: `plan` and `Plan`. `restore.py`: a plan with what running it takes, which
  says once what is read; and its run.
- `targets.py`, `trees.py`, `modules.py`, `variables.py`: a caller's tree or module as
  named leaves, and back. `empty_targets.py`: what is not a target.
- `shardings.py`, `sharding_option.py`, `partition_rules.py`, `uneven.py`: where leaves
  live. `meshes.py`: shardings as numbers. `read_once.py`: sharing in reading.
  `box_classes.py`: processes that read the same, but for its place.
- `optimizer_plan.py`: the same for the state of an optimizer; `optimizer_states.py`:
  what it consists of; `optimizer_fields.py`: which slot fills which leaf.
- `growth.py`: elements that a leaf keeps, beside those that are loaded.
- `transfer.py`, `portioned_leaf.py`: host arrays onto devices. `isolation.py`: JAX
  without the caller's switches. `agreement.py`: all processes go on, or none.
- `costs.py`, `plan_cost.py`: bytes and memory of each process. `half_loaded.py`:
  normalisations of which the statistics stay.

Nothing here knows a format or reads a byte itself, and nothing of a caller's target
changes before everything has been read and placed.
"""
