"""Families of parts: `<name>/part_0`, `<name>/part_1`, ... as boxes of one tensor."""

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
    """Splits the name of a part.

    Args:
        name: A leaf's name.

    Returns:
        The family and the part's number; None where it is no part.

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
        `<family>/part_0`, ...; () where there is no part 0.

    Source: `_collect_partitioned_variable`,
    tensorflow/python/training/checkpoint_utils.py.
    """
    parts: list[str] = []
    while (name := f"{family}/part_{len(parts)}") in names:
        parts.append(name)
    return tuple(parts)


def tile(
    parts: Sequence[tuple[int, ...]], shape: tuple[int, ...]
) -> tuple[Box, ...] | None:
    """Places parts, in order, along the one axis on which they tile a tensor.

    Args:
        parts: Shapes of all parts of a family.
        shape: Shape of the tensor.

    Returns:
        The box of each part; None where they tile the tensor along no axis.

    Examples:
        >>> tile([(2, 3), (1, 3)], (3, 3))[1]
        Box(starts=(2, 0), stops=(3, 3))
        >>> tile([(2, 3), (2, 3)], (3, 3)) is None
        True
    """
    if any(len(part) != len(shape) for part in parts):
        return None
    if len(parts) == 1:
        return (Box.whole(shape),) if parts[0] == shape else None
    for axis in range(len(shape)):
        others = shape[:axis] + shape[axis + 1 :]
        if sum(part[axis] for part in parts) == shape[axis] and all(
            part[:axis] + part[axis + 1 :] == others for part in parts
        ):
            return _along(axis, [part[axis] for part in parts], shape)
    return None


def _along(
    axis: int, extents: Sequence[int], shape: tuple[int, ...]
) -> tuple[Box, ...]:
    boxes: list[Box] = []
    start = 0
    for extent in extents:
        starts, stops = [0] * len(shape), list(shape)
        starts[axis], stops[axis] = start, start + extent
        boxes.append(Box(tuple(starts), tuple(stops)))
        start += extent
    return tuple(boxes)
