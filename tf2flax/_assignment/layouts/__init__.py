"""Layouts: where each element of an expression lies, and the way back.

Works on shapes, strides and dtypes; arrays are filled and taken apart, but never read:
the caller gives a function that reads a `StridedView`. Knows no map, no leaf of a
target and no file.

Begin with `nodes`, whose docstring has a tree with its shapes, then `filling`.

Forwards, from expressions to arrays:

- `nodes`        the nodes of a layout
- `steps`        casts and arithmetic with numbers, element by element, and back
- `operations`   slices, transposes, joins, rows, pads, casts of layouts
- `reshaping`    reshapes of layouts
- `shapes`       index arithmetic of reshapes
- `lowering`     expressions -> layouts
- `filling`      boxes of layouts -> arrays

Backwards, from leaves to tensors:

- `scattering`   the value of an expression -> elements of its tensors
- `portions`     the same, joined -> boxes of it that have fewer tensors
- `inverting`    the same, written as expressions
- `resizing`     the same for a leaf whose shape has changed
- `origins`      the stored elements that a grown leaf was loaded from
- `comparing`    arrays compared element by element
- `uncasting`    values of leaves -> stored elements that load as these values
"""
