"""Porting: suggested maps, and where a port differs. Above all that reads and plans.

Never decides by values of a checkpoint; changes nothing of the caller's: models are run
on copies. Begin with `suggest` and `compare`.

- `suggest`: a checkpoint and a target -> a suggested map, as a value and as a file.
- `compare`: `compare_outputs`, step by step.
- `comparison`, `rows`: the result; numbers of two arrays. These import no JAX.
- `recorded`: what was recorded: trees, dicts and `.npz` files -> arrays by name.
- `running`, `capturing`, `naming`: runs a model; arrays that it gives, by name.
- `tracing`: the order in which a model computes arrays, and which leaves feed them.
- `edits`, `permutations`: an expression of a map -> expressions that permute it.
- `candidates`: tries them, at most 64.
"""
