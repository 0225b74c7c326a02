"""Expressions as text: in full, to be read back, or short, for people."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from tf2flax._base.collapsing import in_sequence

if TYPE_CHECKING:
    from .expressions import Expression

# Binds more tightly than every operator: what never needs parentheses.
ATOM: Final = 9


@dataclasses.dataclass(frozen=True, slots=True)
class Style:
    """How an expression is written.

    Attributes:
        max_rows: Longer lists of rows are cut; None writes all, which can be read back.
        shorten: Shortens the operands of a join, as they are written.
    """

    max_rows: int | None = None
    shorten: Callable[[Sequence[str]], Sequence[str]] = list


FULL: Final = Style()
# As plans and messages write expressions, where nobody reads 30,000 rows.
BRIEF: Final = Style(max_rows=16)
# The same, where nobody looks an expression up: 48 layers of a stack are `{0..47}`.
COLLAPSED: Final = Style(max_rows=16, shorten=in_sequence)


def write_expression(expression: Expression, style: Style = BRIEF) -> str:
    """Writes an expression; `repr` writes it in full."""
    return expression._write(style)  # pyright: ignore[reportPrivateUsage]


def write_operand(expression: Expression, style: Style, binding: int = ATOM) -> str:
    """Writes an operand, in parentheses if it binds less tightly than what is around.

    Args:
        expression: The operand.
        style: How it is written.
        binding: How tightly the operation around it binds; a method does most of all.
    """
    text = write_expression(expression, style)
    return text if expression.binding >= binding else f"({text})"
