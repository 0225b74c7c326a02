"""Nodes of expressions with one operand, and arithmetic; `expressions` has the others.

A node is what a method of `Expression` makes. Imported by `expressions`, whose methods
make nodes; everybody else may import it as well.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final, Literal

import numpy as np

from tf2flax._base.caller import is_one_of

from .arguments import count_from_front
from .expressions import Expression, Several, Unary, write_source
from .limits import check_size
from .literals import IndexItem, quote, write_index, write_integers, write_rows
from .numbers import Number, check_number
from .rows import Rows
from .writing import Style, write_operand

# What stands in places that no element of the operand fills: a number, or the leaf's
# own elements.
Fill = Number | Literal["keep"]
# How tightly operators bind, as in Python: a weaker one inside needs parentheses.
_BINDING: Final = {"+": 1, "-": 1, "*": 2}
_BINDING_OF_MINUS: Final = 3


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Transposed(Unary):
    """Axes in another order; `axes` None reverses them."""

    axes: tuple[int, ...] | None

    def composed(self, axes: tuple[int, ...] | None) -> Expression:
        """Another transpose on top, in one where both have as many axes.

        Axes that are written out stay, even in their own order: they say how many axes
        the tensor has, which is checked as in NumPy.
        """
        written = self.axes if self.axes is not None else axes
        assert written is not None  # two reversals undo each other
        # A reversal has as many axes as the other one, which names them.
        reverse = tuple(reversed(range(len(written))))
        first = reverse if self.axes is None else count_from_front(self.axes)
        second = reverse if axes is None else count_from_front(axes)
        if len(first) != len(second):
            # A mistake, which is reported when the rank of the tensor is known.
            return Transposed(self, axes)
        return Transposed(self.operand, tuple(first[a] for a in second))

    def _write(self, style: Style) -> str:
        axes = write_integers(self.axes or ())
        return f"{write_operand(self.operand, style)}.transpose({axes})"


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Reshaped(Unary):
    """The same elements in another shape."""

    shape: tuple[int, ...]

    def _write(self, style: Style) -> str:
        shape = write_integers(self.shape) if self.shape else "()"
        return f"{write_operand(self.operand, style)}.reshape({shape})"


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Sliced(Unary):
    """Elements at a basic index of NumPy; slices are triples."""

    index: tuple[IndexItem, ...]

    @property
    def numpy_index(self) -> tuple[Any, ...]:
        """Index as NumPy takes it."""
        return tuple(
            slice(*item) if isinstance(item, tuple) else item for item in self.index
        )

    def _write(self, style: Style) -> str:
        return f"{write_operand(self.operand, style)}{write_index(self.index)}"


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class TakenRows(Unary):
    """Rows by number; those of -1 are filled.

    Attributes:
        rows: The numbers, or where they come from.
        axis: The axis that they number.
        fill: What rows of -1 hold; None if there are none.
    """

    rows: tuple[int, ...] | Rows
    axis: int = 0
    fill: Fill | None = None

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers."""
        return self.rows.numbers if isinstance(self.rows, Rows) else self.rows

    @property
    def keeps_leaf(self) -> bool:
        """True if the leaf's own elements stay in some places."""
        return self.fill == "keep"

    @property
    def is_growth(self) -> bool:
        """True if a leaf is another one than the tensor was: larger, or reordered."""
        return self.keeps_leaf or isinstance(self.rows, Rows)

    def _write(self, style: Style) -> str:
        if isinstance(self.rows, Rows):
            rows, axis = repr(self.rows), ""
        else:
            rows = write_rows(self.rows, style.max_rows)
            axis = f", axis={self.axis}" if self.axis else ""
        fill = "" if self.fill is None else f", fill={_write_fill(self.fill)}"
        return f"{write_operand(self.operand, style)}.take({rows}{axis}{fill})"


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Padded(Unary):
    """Elements before and after those of the operand, along each axis.

    Attributes:
        widths: How many, for each axis.
        fill: What they are.
    """

    widths: tuple[tuple[int, int], ...]
    fill: Fill

    @property
    def keeps_leaf(self) -> bool:
        """True if the leaf's own elements stay in some places."""
        return self.fill == "keep"

    @property
    def is_growth(self) -> bool:
        """True if the leaf is another one than the tensor was."""
        return self.keeps_leaf

    def _write(self, style: Style) -> str:
        return (
            f"{write_operand(self.operand, style)}.pad({self.widths!r}, "
            f"fill={_write_fill(self.fill)})"
        )


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Cast(Unary):
    """Another dtype."""

    dtype: np.dtype

    def _write(self, style: Style) -> str:
        return f"{write_operand(self.operand, style)}.cast({quote(self.dtype.name)})"


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Negated(Unary):
    """The sign changed."""

    @property
    def binding(self) -> int:
        """How tightly its parts hang together."""
        return _BINDING_OF_MINUS

    def _write(self, style: Style) -> str:
        return f"-{write_operand(self.operand, style, binding=_BINDING_OF_MINUS)}"


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class WithNumber(Unary):
    """Every element together with one number.

    Attributes:
        operator: "+", "-" or "*".
        number: The number.
        is_number_first: True if it stands on the left.
    """

    operator: str
    number: Number
    is_number_first: bool

    @property
    def binding(self) -> int:
        """How tightly its parts hang together."""
        return _BINDING[self.operator]

    def _write(self, style: Style) -> str:
        binding, text = self.binding, self.number.text
        # Equal operators are taken from the left, so that one on the right needs
        # parentheses: 1 - (x + 2).
        if self.is_number_first:
            operand = write_operand(self.operand, style, binding=binding + 1)
            return f"{text} {self.operator} {operand}"
        operand = write_operand(self.operand, style, binding=binding)
        return f"{operand} {self.operator} {text}"


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Combined(Expression):
    """Two expressions, element by element.

    Attributes:
        operator: "+", "-" or "*".
        left: The first.
        right: The second.
    """

    operator: str
    left: Expression
    right: Expression
    _depth_and_size: tuple[int, int] = dataclasses.field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_depth_and_size", check_size(self))

    @property
    def children(self) -> tuple[Expression, ...]:
        """Both expressions."""
        return self.left, self.right

    @property
    def depth_and_size(self) -> tuple[int, int]:
        """Number of operations around each other, and number of all operations."""
        return self._depth_and_size

    @property
    def binding(self) -> int:
        """How tightly its parts hang together."""
        return _BINDING[self.operator]

    def with_children(self, children: Any) -> Expression:
        """The same operation on other expressions."""
        left, right = children
        return dataclasses.replace(self, left=left, right=right)

    def _write(self, style: Style) -> str:
        left = write_operand(self.left, style, binding=self.binding)
        right = write_operand(self.right, style, binding=self.binding + 1)
        return f"{left} {self.operator} {right}"


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class FirstOf(Several):
    """The first of several expressions whose tensors the checkpoint has."""

    def _write(self, style: Style) -> str:
        operands = ", ".join(write_source(node, style) for node in self.operands)
        return f"first_of({operands})"


def combine_values(
    operator: str, expression: Expression, value: object, *, is_value_first: bool
) -> Expression:
    """Combines an expression with another one, or with a number.

    Args:
        operator: "+", "-" or "*".
        expression: The expression.
        value: What it is combined with.
        is_value_first: True if that stands on the left.

    Raises:
        AssignmentError: It is neither an expression nor a finite number.
    """
    if isinstance(value, Expression):
        # Expressions on the left combine themselves.
        return Combined(operator, expression, value)
    number = check_number(operator, value)
    return WithNumber(expression, operator, number, is_value_first)


def check_fill(verb: str, fill: object) -> Fill:
    """Checks what fills the places that an operand has no elements for.

    Raises:
        AssignmentError: It is neither "keep" nor a finite number.
    """
    return "keep" if is_one_of(fill, ("keep",)) else check_number(verb, fill)


def _write_fill(fill: Fill) -> str:
    return quote(fill) if isinstance(fill, str) else fill.text
