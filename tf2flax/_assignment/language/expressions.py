"""Expressions: how a leaf is made from tensors, written down before anything is read.

`src("q/kernel").transpose()` is a value: frozen, hashable, printed as it is written.
Each method checks its arguments and makes a node around the expression, or simplifies
the two. Nothing here knows a tensor: `layouts` gives expressions shapes and elements.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, SupportsIndex, cast, overload

from tf2flax._base.errors import AssignmentError
from tf2flax._base.synonyms import missing_attribute

from .arguments import (
    check_dtype,
    check_index_item,
    check_integer,
    check_order,
    check_rows,
    check_shape,
    check_widths,
    combine_shapes,
)
from .arithmetic import Arithmetic
from .limits import check_size
from .literals import quote
from .rearranging import Pattern, parse_pattern
from .rows import Rows
from .writing import ATOM, FULL, Style, write_expression, write_operand

METHOD_NAMES: Final = ("transpose", "reshape", "rearrange", "take", "pad", "cast")


class Expression(Arithmetic):
    """Source of a leaf: tensors of a checkpoint, and what is done to them.

    Made by `tf2flax.src`, `tf2flax.concat`, `tf2flax.stack` and `tf2flax.first_of`;
    used as a key of an assignment map. Every method returns a new expression and reads
    nothing. Methods, and `+`, `-` and `*`, do what they do in NumPy; `rearrange` does
    what it does in einops.

    Examples:
        >>> import tf2flax
        >>> tf2flax.src("q/kernel").transpose().reshape(4, 8, 32)
        src("q/kernel").transpose().reshape(4, 8, 32)
        >>> tf2flax.src("q/kernel").transpose().transpose()
        src("q/kernel")
    """

    __slots__ = ()

    def __init__(self, *_args: object) -> None:
        """Refuses to make an expression of no kind; those of a kind have their own."""
        raise AssignmentError(
            'An expression begins with tf2flax.src("name"), concat or stack.'
        )

    # Without this, Python would iterate over `expression[0]`, `expression[1]`, ...
    # without end.
    __iter__ = None

    if not TYPE_CHECKING:  # type checkers are to find such names themselves

        def __getattr__(self, name: str) -> object:
            """Says what to write instead of a method that does not exist."""
            raise missing_attribute("an expression", "Expression", name, METHOD_NAMES)

    @property
    def children(self) -> tuple[Expression, ...]:
        """Expressions inside this one."""
        return ()

    @property
    def depth_and_size(self) -> tuple[int, int]:
        """Number of operations around each other, and number of all operations."""
        return 1, 1

    def with_children(self, children: Sequence[Expression]) -> Expression:
        """The same operation on other expressions."""
        raise NotImplementedError

    def transpose(self, *axes: SupportsIndex | Sequence[SupportsIndex]) -> Expression:
        """Permutes axes, as `numpy.transpose`.

        Args:
            *axes: All axes in their new order; without any, they are reversed.

        Returns:
            The expression.

        Raises:
            AssignmentError: The axes are not a permutation.

        Examples:
            >>> import tf2flax
            >>> tf2flax.src("kernel").transpose(0, 2, 1)
            src("kernel").transpose(0, 2, 1)
        """
        order = check_order(axes) if axes else None
        if isinstance(self, nodes.Transposed):
            # Two transposes are one, or none.
            is_undone = order is None and self.axes is None
            return self.operand if is_undone else self.composed(order)
        return nodes.Transposed(self, order)

    @property
    def T(self) -> Expression:
        """The axes reversed, as `numpy.ndarray.T`: `src("kernel").T`."""
        return self.transpose()

    def reshape(self, *shape: SupportsIndex | Sequence[SupportsIndex]) -> Expression:
        """Gives the same elements another shape, in row-major order.

        Args:
            *shape: The new lengths; one of them may be -1.

        Returns:
            The expression.

        Raises:
            AssignmentError: A length is negative, or several are -1.

        Examples:
            >>> import tf2flax
            >>> tf2flax.src("bias").reshape(1, -1)
            src("bias").reshape(1, -1)
        """
        new = check_shape(shape)
        if isinstance(self, nodes.Reshaped):
            # Of two reshapes the second counts, if the first checks nothing more.
            resolved = combine_shapes(self.shape, new)
            if resolved is not None:
                return self.operand.reshape(resolved)
        return nodes.Reshaped(self, new)

    @overload
    def rearrange(self, pattern: str, /, **sizes: SupportsIndex) -> Expression: ...
    @overload
    def rearrange(self, /, *, pattern: str, **sizes: SupportsIndex) -> Expression: ...
    def rearrange(
        self, pattern: str = "", /, **sizes: SupportsIndex | str
    ) -> Expression:
        """Splits, permutes and merges axes by name, as `einops.rearrange`.

        Args:
            pattern: Axes before and after: "d (h k) -> d h k". Names in parentheses
                are one axis; 1 is an axis of length 1; `...` stands for further axes.
            **sizes: Lengths of named axes; one of each parenthesis may be left out.

        Returns:
            The expression.

        Raises:
            AssignmentError: The pattern is malformed.

        Examples:
            >>> import tf2flax
            >>> tf2flax.src("kernel").rearrange("d (h k) -> d h k", h=12)
            src("kernel").rearrange("d (h k) -> d h k", h=12)
        """
        # The pattern may be given by name. It is positional-only so that `pattern` and
        # `self` can be names of axes as well.
        if isinstance(pattern, str) and not pattern:  # pyright: ignore[reportUnnecessaryIsInstance]
            pattern = cast("str", sizes.pop("pattern", ""))
        given = tuple(
            (name, check_integer("rearrange", name, size))
            for name, size in sizes.items()
        )
        return Rearranged(self, parse_pattern(pattern, given))

    def take(
        self,
        rows: Iterable[SupportsIndex] | Rows,
        axis: SupportsIndex | None = None,
        *,
        fill: float | complex | Literal["keep"] | None = None,
    ) -> Expression:
        """Picks rows by number, in the order given, as `numpy.take`.

        Args:
            rows: Their numbers, counted from 0; or what `tf2flax.vocabulary` gives.
            axis: The axis that they number; None is that of the vocabulary, else 0.
            fill: What rows of -1 hold, which are not there: a number, or "keep" for the
                leaf's own elements. Then no other operation may follow.

        Returns:
            The expression.

        Raises:
            AssignmentError: They are not integers, or negative: NumPy would count those
                from the end, TensorFlow's row maps write -1 for "not there".

        Examples:
            >>> import tf2flax
            >>> tf2flax.src("embeddings").take([9, 2])
            src("embeddings").take([9, 2])
            >>> tf2flax.src("embeddings").take([2, -1], fill=0.0)
            src("embeddings").take([2, -1], fill=0.0)
        """
        filled = None if fill is None else nodes.check_fill("take", fill)
        number = None if axis is None else check_integer("take", "axis", axis)
        if not isinstance(rows, Rows):
            checked = check_rows(rows, is_filled=fill is not None)
            return nodes.TakenRows(self, checked, number or 0, filled)
        if number is not None and number != rows.axis:
            raise AssignmentError(
                f"take: axis={number}, and {rows!r} is for axis {rows.axis}. Give the "
                "axis to tf2flax.vocabulary alone."
            )
        return nodes.TakenRows(self, rows, rows.axis, filled)

    def pad(
        self,
        widths: Sequence[Sequence[SupportsIndex]],
        *,
        fill: float | complex | Literal["keep"] = 0,
    ) -> Expression:
        """Adds elements before and after those of the tensor, as `numpy.pad`.

        Args:
            widths: For each axis how many are added before, and how many after.
            fill: What they are: a number, or "keep" for the leaf's own elements. Then
                no other operation may follow.

        Returns:
            The expression.

        Raises:
            AssignmentError: The widths are not pairs of integers from 0 on.

        Examples:
            >>> import tf2flax
            >>> tf2flax.src("embeddings").pad(((0, 9), (0, 0)), fill=0.0)
            src("embeddings").pad(((0, 9), (0, 0)), fill=0.0)
        """
        return nodes.Padded(self, check_widths(widths), nodes.check_fill("pad", fill))

    def cast(self, dtype: Any) -> Expression:
        """Changes the dtype by force, as `numpy.ndarray.astype`.

        Args:
            dtype: Anything that NumPy or ml_dtypes takes for a dtype of numbers.

        Returns:
            The expression.

        Raises:
            AssignmentError: It is not a dtype of numbers.

        Examples:
            >>> import tf2flax
            >>> tf2flax.src("kernel").cast("bfloat16")
            src("kernel").cast("bfloat16")
        """
        new = check_dtype(dtype)
        # Twice the same cast is one.
        is_cast = isinstance(self, nodes.Cast) and self.dtype == new
        return self if is_cast else nodes.Cast(self, new)

    def __getitem__(self, index: Any) -> Expression:
        """Selects elements, as NumPy's basic indexing.

        Args:
            index: Integers, slices, `...` and None, or a tuple of them.

        Returns:
            The expression.

        Raises:
            AssignmentError: It is another kind of index.

        Examples:
            >>> import tf2flax
            >>> tf2flax.src("qkv")[0, ..., :64]
            src("qkv")[0, ..., :64]
        """
        items = cast("tuple[Any, ...]", index if isinstance(index, tuple) else (index,))
        return nodes.Sliced(self, tuple(check_index_item(item) for item in items))

    def _combine(
        self, operator: str, value: object, *, is_value_first: bool
    ) -> Expression:
        return nodes.combine_values(
            operator, self, value, is_value_first=is_value_first
        )

    def _negate(self) -> Expression:
        return nodes.Negated(self)

    @property
    def binding(self) -> int:
        """How tightly its parts hang together: a weaker operand needs parentheses."""
        return ATOM

    @property
    def keeps_leaf(self) -> bool:
        """True if the leaf's own elements stay in some places."""
        return False

    @property
    def is_growth(self) -> bool:
        """True if a leaf is another one than the tensor was: larger, or reordered."""
        return False

    def __repr__(self) -> str:
        """The expression as it is written."""
        return self._write(FULL)

    def _write(self, style: Style) -> str:
        raise NotImplementedError


def write_source(expression: Expression, style: Style) -> str:
    """Writes an argument of `concat`, which takes a name for a tensor as it is."""
    if isinstance(expression, Source):
        return quote(expression.pattern)
    return write_expression(expression, style)


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Source(Expression):
    """A tensor, or a scope ending in `/`.

    Attributes:
        pattern: Its name, perhaps with captures; `{{` and `}}` are literal braces.
    """

    pattern: str

    def with_children(self, children: Sequence[Expression]) -> Expression:
        """Itself: it has no children."""
        return self

    def _write(self, style: Style) -> str:
        return f"src({quote(self.pattern)})"


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Unary(Expression):
    """One operation on one expression."""

    operand: Expression
    _depth_and_size: tuple[int, int] = dataclasses.field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_depth_and_size", check_size(self))

    @property
    def children(self) -> tuple[Expression, ...]:
        """The operand."""
        return (self.operand,)

    @property
    def depth_and_size(self) -> tuple[int, int]:
        """Number of operations around each other, and number of all operations."""
        return self._depth_and_size

    def with_children(self, children: Sequence[Expression]) -> Expression:
        """The same operation on another operand."""
        return dataclasses.replace(self, operand=children[0])


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Rearranged(Unary):
    """Axes split, permuted and merged by name."""

    pattern: Pattern

    def _write(self, style: Style) -> str:
        sizes = "".join(f", {name}={size}" for name, size in self.pattern.sizes)
        operand = write_operand(self.operand, style)
        return f"{operand}.rearrange({quote(self.pattern.text)}{sizes})"


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Several(Expression):
    """One operation on several expressions, at least one."""

    operands: tuple[Expression, ...]
    _depth_and_size: tuple[int, int] = dataclasses.field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_depth_and_size", check_size(self))

    @property
    def children(self) -> tuple[Expression, ...]:
        """The operands."""
        return self.operands

    @property
    def depth_and_size(self) -> tuple[int, int]:
        """Number of operations around each other, and number of all operations."""
        return self._depth_and_size

    def with_children(self, children: Sequence[Expression]) -> Expression:
        """The same operation on other operands."""
        return dataclasses.replace(self, operands=tuple(children))


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Joined(Several):
    """Several expressions, joined along an axis.

    Attributes:
        operands: The expressions, at least one.
        axis: Axis of the result along which they are joined.
        is_stack: True if that is a new axis.
        over: Name of the capture for each of whose numbers the only operand is
            repeated; None if operands are joined as they are.
    """

    axis: int
    is_stack: bool
    over: str | None

    @property
    def verb(self) -> str:
        """Name of the function that makes it: "concat" or "stack"."""
        return "stack" if self.is_stack else "concat"

    def _write(self, style: Style) -> str:
        operands = style.shorten([write_source(node, style) for node in self.operands])
        over = f", over={quote(self.over)}" if self.over is not None else ""
        return f"{self.verb}({', '.join(operands)}{over}, axis={self.axis})"


def sources_of(expression: Expression) -> Iterator[Source]:
    """Yields the sources of an expression from left to right, repeated ones again."""
    if isinstance(expression, Source):
        yield expression
    for child in expression.children:
        yield from sources_of(child)


def map_sources(
    expression: Expression, change: Callable[[Source], Source]
) -> Expression:
    """Replaces every source of an expression; `change` gives the new one."""
    if isinstance(expression, Source):
        return change(expression)
    children = [map_sources(child, change) for child in expression.children]
    return expression.with_children(children)


# Last, since nodes are expressions, and methods of expressions make nodes.
from . import nodes  # noqa: E402
