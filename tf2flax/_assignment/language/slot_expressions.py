"""The expression of a parameter, with an optimizer's slots in place of its tensors.

A slot has an element for each one of its variable, and what moves elements moves them
alike. What changes values does not: a second moment has no sign, and that of a sum is
not a sum.

    src("q/kernel").T              ->   src("q/kernel/Adam").T
    src("norm/gamma") + 1.0        ->   src("norm/gamma/Adam")

Names alone; nothing here knows which slots there are.
"""

from __future__ import annotations

from collections.abc import Callable

from tf2flax._base.errors import AssignmentError

from .captures import literal_pattern, parse_name
from .expressions import Expression, Source
from .nodes import (
    Combined,
    Fill,
    Negated,
    Padded,
    TakenRows,
    Transposed,
    WithNumber,
    check_fill,
)
from .rows import Rows

# Name of a tensor -> name of its slot.
SlotOf = Callable[[str], str]


def slot_expression(expression: Expression, slot_of: SlotOf) -> Expression:
    """Puts slots in place of the tensors of an expression.

    Args:
        expression: What fills a parameter, with names in place of captures.
        slot_of: Gives the name of the slot of a tensor.

    Returns:
        What fills that part of the state. Constants that are added are left out; what
        is filled with a number is filled with 0, as an optimizer begins.

    Raises:
        AssignmentError: Slots do not go through one of its operations.
    """
    if isinstance(expression, Source):
        return Source(literal_pattern(slot_of(parse_name(expression.pattern).literal)))
    if problem := _problem_of(expression):
        raise AssignmentError(problem)
    children = [slot_expression(child, slot_of) for child in expression.children]
    if isinstance(expression, WithNumber):
        return children[0]
    changed = expression.with_children(children)
    if isinstance(changed, TakenRows) and changed.fill not in (None, "keep"):
        return TakenRows(changed.operand, changed.rows, changed.axis, _nothing())
    if isinstance(changed, Padded) and changed.fill != "keep":
        return Padded(changed.operand, changed.widths, _nothing())
    return changed


def axes_of(expression: Expression, rank: int) -> tuple[int, ...] | None:
    """The axes of the tensor in the order of the leaf; None if more is done than that.

    Args:
        expression: What fills a parameter.
        rank: Number of axes of the tensor.
    """
    if isinstance(expression, Source):
        return tuple(range(rank))
    if not isinstance(expression, Transposed):
        return None
    below = axes_of(expression.operand, rank)
    if below is None:
        return None
    order = tuple(reversed(range(rank))) if expression.axes is None else expression.axes
    return tuple(below[axis] for axis in order)


def _problem_of(expression: Expression) -> str:
    """Why slots do not go through an operation; "" where they do."""
    if isinstance(expression, Combined):
        return f"a sum of tensors (`{expression.operator}`)"
    is_negated = isinstance(expression, WithNumber) and (
        expression.operator == "-" and expression.is_number_first
    )
    if isinstance(expression, Negated) or is_negated:
        return "a change of sign"
    if isinstance(expression, WithNumber) and expression.operator == "*":
        return "a product"
    if isinstance(expression, TakenRows) and isinstance(expression.rows, Rows):
        return "another vocabulary"
    return ""


def _nothing() -> Fill:
    return check_fill("pad", 0)
