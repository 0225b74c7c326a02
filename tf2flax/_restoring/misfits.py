"""Leaves whose values do not fit: which they are, and what to do."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterator, Mapping

from tf2flax._assignment.resolution.assignments import Assignment
from tf2flax._base.dtypes import Misfits

from .reads import ReadPlan


def describe_misfits(
    plan: ReadPlan, misfits: Mapping[str, Misfits], refusals: Mapping[str, str]
) -> Iterator[str]:
    """Says which leaves have values that do not fit their dtypes."""
    sizes = collections.Counter[str]()
    assignments: dict[str, Assignment] = {}
    # A leaf in portions stands in several groups.
    for leaf_reads in itertools.chain.from_iterable(g.leaves for g in plan.groups):
        assignment = leaf_reads.assignment
        if assignment.leaf in misfits or assignment.leaf in refusals:
            assignments[assignment.leaf] = assignment
            sizes[assignment.leaf] += sum(box.size for box in leaf_reads.boxes)
    for leaf, assignment in assignments.items():
        what = refusals.get(leaf)
        if what is None:
            what = misfits[leaf].describe(sizes[leaf], assignment.dtype)
        yield f"Leaf `{leaf}` cannot take tensor `{assignment.source}`: {what}"
