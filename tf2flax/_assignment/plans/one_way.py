"""Leaves that no inverse of their expression gives back: sums, and grown ones.

A sum of tensors cannot be taken apart. A leaf that has grown (`fill="keep"`), or whose
rows follow another vocabulary, is written in its own shape and order instead. Growth by
nothing, such as a vocabulary that is still the same one, is none: the leaf is written
as any other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from tf2flax._assignment.language.expressions import Expression
from tf2flax._assignment.language.nodes import Combined, Padded, TakenRows
from tf2flax._assignment.layouts.lowering import lower
from tf2flax._assignment.layouts.scattering import sum_problem
from tf2flax._assignment.resolution.assignments import Assignment, Gap
from tf2flax._base.values import TensorSpec

SpecOf = Callable[[str], TensorSpec]


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


def find_ways_back(assignments: Sequence[Assignment], spec_of: SpecOf) -> WaysBack:
    """Sorts assignments by how their leaves are written.

    Args:
        assignments: The assignments.
        spec_of: Gives shape and dtype of a tensor.
    """
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
            expression = _without_empty_growth(assignment.expression, spec_of)
            assignment = dataclasses.replace(assignment, expression=expression)
            is_grown = any(node.is_growth for node in _nodes(expression))
            (grown if is_grown else inverted).append(assignment)
        else:
            inverted.append(assignment)
    return WaysBack(tuple(inverted), tuple(grown), problems)


def _nodes(expression: Expression) -> Iterator[Expression]:
    yield expression
    for child in expression.children:
        yield from _nodes(child)


def _without_empty_growth(expression: Expression, spec_of: SpecOf) -> Expression:
    """Leaves out growth after which the operand has the same shape and order.

    Args:
        expression: The expression, without captures.
        spec_of: Gives shape and dtype of a tensor.
    """
    if not expression.children:
        return expression
    children = [_without_empty_growth(c, spec_of) for c in expression.children]
    expression = expression.with_children(children)
    if isinstance(expression, TakenRows) and expression.is_growth:
        length = lower(expression.operand, spec_of).shape[expression.axis]
        is_same = expression.numbers == tuple(range(length))
    elif isinstance(expression, Padded) and expression.is_growth:
        is_same = not any(map(any, expression.widths))
    else:
        is_same = False
    return children[0] if is_same else expression


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
