"""Parts of one variable, joined to one array before they are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tf2flax._assignment.layouts.lowering import lower
from tf2flax._assignment.resolution.assignments import Assignment
from tf2flax._base.memory import empty
from tf2flax._base.values import Box, TensorSpec

# Gives a box of a leaf, by name, on the host.
FetchLeaf = Callable[[str, Box], np.ndarray]


def group_families(assignments: Sequence[Assignment]) -> list[list[Assignment]]:
    """Groups the parts of each family; any other leaf is a group."""
    groups: dict[object, list[Assignment]] = {}
    for assignment in assignments:
        name = assignment.leaf
        if assignment.box is not None:
            name = name.rpartition("/part_")[0]
        # A tied leaf has a group for each of its sources. Parts of different dtypes are
        # joined separately, since an array has one dtype.
        key = (assignment.expression, name, assignment.dtype)
        groups.setdefault(key, []).append(assignment)
    return list(groups.values())


def family_name(group: Sequence[Assignment]) -> str:
    """Name of the family of a group; of a single leaf, its name."""
    leaf = group[0].leaf
    return leaf if group[0].box is None else leaf.rpartition("/part_")[0]


def join_group(
    group: Sequence[Assignment],
    fetch: FetchLeaf | None,
    spec_of: Callable[[str], TensorSpec],
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Joins the parts of a family into one array; a single leaf is fetched as it is.

        part_0    part_1 (not loaded)   part_2
        [ a b c | . . . . . . . . . . | d e ]      value
        [ T T T | F F F F F F F F F F | T T ]      mask

    Args:
        group: Assignments of one leaf, or of parts of one family.
        fetch: Gives a box of a leaf; None to compute only the mask.
        spec_of: Gives shape and dtype of a tensor.

    Returns:
        The value of the group's expression, None without `fetch`; and a mask of the
        elements that the leaves cover, None if they cover all.
    """
    if group[0].box is None:
        return (None if fetch is None else _fetch_whole(group[0], fetch)), None
    shape = lower(group[0].expression, spec_of).shape
    mask = np.zeros(shape, bool)
    value: np.ndarray | None = None
    for assignment in group:
        assert assignment.box is not None
        index = tuple(map(slice, assignment.box.starts, assignment.box.stops))
        mask[index] = True
        if fetch is not None:
            part = _fetch_whole(assignment, fetch)
            value = empty(shape, part.dtype) if value is None else value
            value[index] = part
    return value, None if mask.all() else mask


def _fetch_whole(assignment: Assignment, fetch: FetchLeaf) -> np.ndarray:
    return fetch(assignment.leaf, Box.whole(assignment.shape))
