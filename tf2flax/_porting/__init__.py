"""Porting: suggested maps, and finding where a port differs. Above all that restores.

A suggestion reads no tensor, and never decides by values. A comparison changes nothing
of the caller's: models are run on copies. Begin with `suggest` and `compare`.

- `suggest`: a checkpoint and a target -> a suggested map, as a value and as a file.
- `compare`: `compare_outputs`, step by step.
- `comparison`, `rows`: its result; numbers of two arrays. These import no JAX.
- `recorded`: what was recorded: trees, dicts and `.npz` files -> arrays by name.
- `running`, `capturing`, `naming`: runs a model; arrays that it gives, by name.
- `tracing`: the order in which a model computes arrays, and which leaves feed them.
- `permutations`: an expression of a map -> expressions that permute it.
- `candidates`, `rereading`: tries them, at most 64, as a restore would read them.
"""
