"""Leaves that no inverse of their expression gives back: sums, and grown ones.

A sum of tensors cannot be taken apart. A leaf that has grown (`fill="keep"`), or whose
rows follow another vocabulary, is written in its own shape and order instead.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from tf2flax._assignment.language.expressions import Expression
from tf2flax._assignment.language.nodes import Combined
from tf2flax._assignment.layouts.scattering import sum_problem
from tf2flax._assignment.resolution.assignments import Assignment, Gap


@dataclasses.dataclass(frozen=True, slots=True)
class WaysBack:
    """Assignments by how their leaves are written.

    Attributes:
        inverted: Those that are written by the inverse of their expression.
        grown: Those whose leaves are written in their own shape and order.
        problems: Leaves that cannot be written, each with the reason.
    """

    inverted: tuple[Assignment, ...]
    grown: tuple[Assignment, ...]
    problems: dict[str, str]


def find_ways_back(assignments: Sequence[Assignment]) -> WaysBack:
    """Sorts assignments by how their leaves are written."""
    inverted: list[Assignment] = []
    grown: list[Assignment] = []
    problems: dict[str, str] = {}
    for assignment in assignments:
        # Most leaves are a tensor as it is: no walk.
        if not assignment.expression.children:
            inverted.append(assignment)
        elif sums := [
            node for node in _nodes(assignment.expression) if isinstance(node, Combined)
        ]:
            problem = sum_problem(sums[0])
            problems[assignment.leaf] = (
                f"Leaf `{assignment.leaf}` cannot be written: {problem}"
            )
        elif any(node.is_growth for node in _nodes(assignment.expression)):
            grown.append(assignment)
        else:
            inverted.append(assignment)
    return WaysBack(tuple(inverted), tuple(grown), problems)


def _nodes(expression: Expression) -> Iterator[Expression]:
    yield expression
    for child in expression.children:
        yield from _nodes(child)


def gap_of(assignment: Assignment) -> Gap:
    """What describes leaves that do not fit their tensors, as grown ones do not."""
    return Gap(
        assignment.leaf,
        assignment.source,
        assignment.entry,
        "it has grown",
        assignment.expression,
        assignment.parts,
        assignment.shape,
    )
