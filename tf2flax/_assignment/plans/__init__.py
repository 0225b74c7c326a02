"""A resolution and a checkpoint: what a restore does, as values and as text.

Reads no leaf, no tensor and no file. Begin with `plan`; what runs a plan is in
`_restoring` and `_jax`, what writes files in `_writing`.

- `plan`: what fills each leaf, which leaves stay, which tensors are unused.
- `leftovers`, `misplaced`: weights that fill no leaf, or stand in place of slots.
- `report`, `sections`: a plan as text and as HTML; `feeding`: two of its sections.
- `inverse`: a plan backwards, what each tensor is in terms of leaves.
- `families`: parts of one variable, joined.
- `one_way`: leaves that no inverse gives back: sums of tensors, and grown ones.
- `renewals`: leaves that did not fit or have grown, written in their own shape.
"""
