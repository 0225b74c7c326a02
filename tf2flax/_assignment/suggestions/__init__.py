"""Suggested maps: names and shapes of a checkpoint and a target -> a map.

Pure functions; nothing is read, and no file is opened. Begin with `suggesting`, then
`drafting`, which has the steps.

- `suggesting`: what weights and leaves there are; what is open in the end, and why.
- `drafting`: the steps from names to lines. `cells`: recurrent cells, by their gates.
- `words`: what a name says. `blocks`: names that differ by a number.
- `layers`: arrays that belong together. `fitting`, `transforms`: what shapes allow.
- `scoring`: what names say for a pair. `assigning`: the best pairs, and by how much.
- `pairing`: which layer is which. `deciding`: what is certain.
- `lines`: what is certain as lines of a map; `compacting`: fewer lines; `checking`:
  that they mean the same.
"""
