"""Porting: suggested maps. Above all that reads, plans and restores.

Never decides by values: a suggestion reads no tensor. Begin with `suggest`.

- `suggest`: a checkpoint and a target -> a suggested map, as a value and as a file.
"""
