"""Sections of a plan's report: which casts there are, what fills several leaves.

Both say what is easily overlooked among hundreds of leaves: that a rule of `dtype`
reaches more than was meant, or that one tensor is read for two leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from tf2flax._assignment.resolution.assignments import Assignment
from tf2flax._assignment.resolution.policies import DtypeChoice
from tf2flax._base.collapsing import collapse, list_collapsed
from tf2flax._base.dtypes import kind_of

from .sections import BLUE, Section

# Leaves of one tensor that the report names, and tensors.
_MAX_LEAVES: Final = 4
_MAX_LISTED: Final = 60


def casts_section(assignments: Sequence[Assignment], dtypes: DtypeChoice) -> Section:
    """Which casts there are, why, and of how many leaves.

    Args:
        assignments: The assignments.
        dtypes: Option `dtype`.
    """
    counts: dict[tuple[str, str], int] = {}
    for assignment in assignments:
        casts = assignment.casts
        if len(casts) > 1:
            cast = " -> ".join(dtype.name for dtype in casts)
            key = (cast, _reason_of(assignment, dtypes))
            counts[key] = counts.get(key, 0) + 1
    rows = [(cast, reason, str(count)) for (cast, reason), count in counts.items()]
    return Section(
        title=f"Casts ({sum(counts.values())})",
        colour=BLUE,
        columns=("dtype", "by", "leaves"),
        rows=tuple(rows),
    )


def _reason_of(assignment: Assignment, dtypes: DtypeChoice) -> str:
    """What says that a leaf is cast."""
    if any(view.casts for view in assignment.views):
        return ".cast in the key"
    if rule := dtypes.rule_of(assignment.leaf):
        is_dtype = isinstance(rule[1], np.dtype)
        return f"dtype rule {rule[0].pattern!r}" if is_dtype else "the leaf"
    default = dtypes.default
    is_forced = isinstance(default, np.dtype)
    if is_forced and kind_of(default) == kind_of(assignment.dtype):
        return "option dtype"
    return "the leaf"


def shared_section(assignments: Sequence[Assignment]) -> Section:
    """Tensors that fill several leaves; the parts of one variable are one leaf."""
    leaves: dict[str, dict[object, str]] = {}
    for assignment in assignments:
        # Parts of a family have one expression; each is a box of it.
        key = assignment.leaf if assignment.box is None else assignment.expression
        for name in assignment.sources:
            leaves.setdefault(name, {})[key] = assignment.leaf
    cells = [
        (name, list_collapsed(list(filled.values()), _MAX_LEAVES).replace("`", ""))
        for name, filled in leaves.items()
        if len(filled) > 1
    ]
    rows = collapse(cells)
    return Section(
        title=f"Tensors that fill several leaves ({len(cells)})",
        colour=BLUE,
        columns=("source", "leaf"),
        rows=tuple(row.cells for row in rows[:_MAX_LISTED]),
    )
