"""Partitioned variables that are stored otherwise than a map says.

Their parts are tensors `<name>/part_i`, or the whole variable is one tensor.
"""

from __future__ import annotations

import re
from typing import Final

from tf2flax._assignment.language.expressions import Expression, Joined, Source
from tf2flax._base.errors import CheckpointError

from .problems import SourceNotFound
from .suggestions import Surroundings

# What follows the name of a partitioned variable in that of a part.
_PART: Final = re.compile(r"/part_\d+")


def concat_parts(pattern: str, axis: int) -> Expression:
    """Writes the parts of a variable as one."""
    return Joined((Source(f"{pattern}/part_{{part}}"),), axis, False, "part")


def axis_of_parts(
    family: str, count: int, shape: tuple[int, ...] | None, around: Surroundings
) -> int | None:
    """The axis along which parts make up a leaf; the first if its shape is unknown."""
    spec_of = around.manifest.spec
    try:
        shapes = [spec_of(f"{family}/part_{i}").shape for i in range(count)]
    except CheckpointError:  # damaged entries: reading them says so
        return 0
    rank = len(shapes[0])
    if not rank or any(len(part) != rank for part in shapes):
        return None
    for axis in range(rank):
        total = sum(part[axis] for part in shapes)
        joined = (*shapes[0][:axis], total, *shapes[0][axis + 1 :])
        if shape is None or joined == shape:
            return axis
    return None


def describe_rows(problem: SourceNotFound, above: str, around: Surroundings) -> str:
    """Says how a part of a variable is read; "" where the whole variable fits.

    Where the part begins is not said: parts may have different sizes.

    Args:
        problem: The part that is not there.
        above: The tensor above it.
        around: Names of the checkpoint and the target.
    """
    if not _PART.fullmatch(problem.source[len(above) :]):
        return ""
    if around.fits(problem.entry, above, problem.leaf):
        return ""
    shape = list(around.manifest.shape_of(above) or ())
    return (
        f"The checkpoint has `{above}` as one tensor of shape {shape}. Take the rows "
        "of the part by an index: src(name)[start:stop]."
    )
