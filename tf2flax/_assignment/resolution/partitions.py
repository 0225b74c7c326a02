"""Families of parts: `<name>/part_0`, `<name>/part_1`, ... as boxes of one tensor.

A partitioned variable of TensorFlow is one tensor in the checkpoint, and may be several
leaves of the target.
"""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from typing import Final

from tf2flax._base.names import MAX_DIGITS
from tf2flax._base.values import Box

_PART: Final = re.compile(
    rf"(?P<family>.*)/part_(?P<number>0|[1-9][0-9]{{,{MAX_DIGITS - 1}}})", re.S
)


def family_of(name: str) -> tuple[str, int] | None:
    """Splits the name of a part into family and number; None for other names.

    Examples:
        >>> family_of("table/part_12")
        ('table', 12)
    """
    match = _PART.fullmatch(name)
    return (match["family"], int(match["number"])) if match else None


def parts_of(family: str, names: Container[str]) -> tuple[str, ...]:
    """Lists the parts of a family, up to the first gap.

    Args:
        family: Name of the partitioned variable.
        names: Names of all leaves.

    Returns:
        `<family>/part_0`, ...; () if there is no part 0.

    Source: `_collect_partitioned_variable`,
    tensorflow/python/training/checkpoint_utils.py.
    """
    parts: list[str] = []
    while (name := f"{family}/part_{len(parts)}") in names:
        parts.append(name)
    return tuple(parts)


def member_of_scope(name: str, scope: str, names: Container[str]) -> str:
    """Finds the member of a scope that a leaf belongs to: itself, or its family.

    TensorFlow cuts names at `/part_`, and finds no variable where a module is called
    `part_0`. Such names are whole here.

    Args:
        name: Name of a leaf under the scope.
        scope: The scope, without its last `/`; "" for all leaves.
        names: Names of all leaves.

    Returns:
        The name up to the first `/part_` where that names a leaf or a family; else the
        name.

    Examples:
        >>> names = ["a/t/part_0", "a/part_0/kernel"]
        >>> [member_of_scope(name, "a", names) for name in names]
        ['a/t', 'a/part_0/kernel']
    """
    # Not within the scope, but the scope itself may be the family.
    position = name.find("/part_", len(scope))
    while position >= 0:
        member = name[:position]
        if member in names or f"{member}/part_0" in names:
            return member
        position = name.find("/part_", position + 1)
    return name


def boxes_of_parts(
    parts: Sequence[tuple[int, ...]], shape: tuple[int, ...]
) -> tuple[Box, ...] | None:
    """Places parts, in order, along the one axis on which they add up to a tensor.

    Parts [2, 3] and [1, 3] of a tensor [3, 3], joined along axis 0:

        +-------+
        | part_0|   rows 0:2
        |       |
        +-------+
        | part_1|   row  2:3
        +-------+

    Args:
        parts: Shapes of all parts of a family.
        shape: Shape of the tensor.

    Returns:
        The box of each part; None if they do not tile the tensor along any axis.

    Examples:
        >>> boxes_of_parts([(2, 3), (1, 3)], (3, 3))[1]
        Box(starts=(2, 0), stops=(3, 3))
        >>> boxes_of_parts([(2, 3), (2, 3)], (3, 3)) is None
        True
    """
    if any(len(part) != len(shape) for part in parts):
        return None
    # A scalar has no axis to join parts along, but may be one part.
    if len(parts) == 1:
        return (Box.whole(shape),) if parts[0] == shape else None
    for axis in range(len(shape)):
        sizes = [part[axis] for part in parts]
        if sum(sizes) == shape[axis] and all(
            _without_axis(part, axis) == _without_axis(shape, axis) for part in parts
        ):
            return _boxes_along(axis, sizes, shape)
    return None


def _without_axis(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]


def _boxes_along(
    axis: int, sizes: Sequence[int], shape: tuple[int, ...]
) -> tuple[Box, ...]:
    """Boxes one after the other along an axis, whole along all others."""
    boxes: list[Box] = []
    start = 0
    for size in sizes:
        starts, stops = [0] * len(shape), list(shape)
        starts[axis], stops[axis] = start, start + size
        boxes.append(Box(tuple(starts), tuple(stops)))
        start += size
    return tuple(boxes)
