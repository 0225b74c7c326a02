"""Expressions: how a leaf is made from tensors, written down before anything is read.

`src("q/kernel").transpose()` is a value: frozen, hashable, printed as it is written.
Each method checks its arguments and makes a node around the expression, or simplifies
the two. Nothing here knows a tensor: `layouts` gives expressions shapes and elements.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, SupportsIndex, cast, overload

import numpy as np

from tf2flax._base.errors import AssignmentError

from .arguments import (
    check_dtype,
    check_index_item,
    check_integer,
    check_order,
    check_rows,
    check_shape,
    combine_shapes,
    count_from_front,
)
from .literals import IndexItem, quote, write_index, write_integers, write_rows
from .rearranging import Pattern, parse_pattern

# What is deeper or larger is a mistake, or an attack on the recursion of those who walk
# it (operations around each other, and all together).
MAX_DEPTH: Final = 100
MAX_SIZE: Final = 10_000


class Expression:
    """Source of a leaf: tensors of a checkpoint, and what is done to them.

    Made by `tf2flax.src`, `tf2flax.concat` and `tf2flax.stack`; used as a key of an
    assignment map. Every method returns a new expression and reads nothing. Methods do
    what they do in NumPy; `rearrange` does what it does in einops.

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
        if isinstance(self, Transposed):
            # Two transposes are one, or none.
            is_undone = order is None and self.axes is None
            return self.operand if is_undone else self.composed(order)
        return Transposed(self, order)

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
        if isinstance(self, Reshaped):
            # Of two reshapes the second counts, if the first checks nothing more.
            resolved = combine_shapes(self.shape, new)
            if resolved is not None:
                return self.operand.reshape(resolved)
        return Reshaped(self, new)

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

    def take(self, rows: Iterable[SupportsIndex]) -> Expression:
        """Picks rows by number, in the order given, as `numpy.take` along axis 0.

        Args:
            rows: Their numbers, counted from 0.

        Returns:
            The expression.

        Raises:
            AssignmentError: They are not integers, or negative: NumPy would count those
                from the end, TensorFlow's row maps write -1 for "not there".

        Examples:
            >>> import tf2flax
            >>> tf2flax.src("embeddings").take([9, 2])
            src("embeddings").take([9, 2])
        """
        return Rows(self, check_rows(rows))

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
        is_cast = isinstance(self, Cast) and self.dtype == new
        return self if is_cast else Cast(self, new)

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
        return Sliced(self, tuple(check_index_item(item) for item in items))

    def __repr__(self) -> str:
        """The expression as it is written."""
        return self._write()

    def _write(self) -> str:
        raise NotImplementedError


def _check_size(expression: Expression) -> tuple[int, int]:
    below = [child.depth_and_size for child in expression.children]
    depth = 1 + max((depth for depth, _ in below), default=0)
    size = 1 + sum(size for _, size in below)
    if depth > MAX_DEPTH or size > MAX_SIZE:
        raise AssignmentError(
            f"Expected at most {MAX_DEPTH} operations around each other, and "
            f"{MAX_SIZE} in all. Make the expression of fewer operations."
        )
    return depth, size


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

    def _write(self) -> str:
        return f"src({quote(self.pattern)})"


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class _Unary(Expression):
    """One operation on one expression."""

    operand: Expression
    _depth_and_size: tuple[int, int] = dataclasses.field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_depth_and_size", _check_size(self))

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
class Transposed(_Unary):
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

    def _write(self) -> str:
        return f"{self.operand!r}.transpose({write_integers(self.axes or ())})"


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Reshaped(_Unary):
    """The same elements in another shape."""

    shape: tuple[int, ...]

    def _write(self) -> str:
        shape = write_integers(self.shape) if self.shape else "()"
        return f"{self.operand!r}.reshape({shape})"


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Rearranged(_Unary):
    """Axes split, permuted and merged by name."""

    pattern: Pattern

    def _write(self) -> str:
        sizes = "".join(f", {name}={size}" for name, size in self.pattern.sizes)
        return f"{self.operand!r}.rearrange({quote(self.pattern.text)}{sizes})"


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Sliced(_Unary):
    """Elements at a basic index of NumPy; slices are triples."""

    index: tuple[IndexItem, ...]

    @property
    def numpy_index(self) -> tuple[Any, ...]:
        """Index as NumPy takes it."""
        return tuple(
            slice(*item) if isinstance(item, tuple) else item for item in self.index
        )

    def _write(self) -> str:
        return f"{self.operand!r}{write_index(self.index)}"


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Rows(_Unary):
    """Rows by number."""

    rows: tuple[int, ...]

    def _write(self) -> str:
        return f"{self.operand!r}.take({write_rows(self.rows)})"


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Cast(_Unary):
    """Another dtype."""

    dtype: np.dtype

    def _write(self) -> str:
        return f"{self.operand!r}.cast({quote(self.dtype.name)})"


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Joined(Expression):
    """Several expressions, joined along an axis.

    Attributes:
        operands: The expressions, at least one.
        axis: Axis of the result along which they are joined.
        is_stack: True if that is a new axis.
        over: Name of the capture for each of whose numbers the only operand is
            repeated; None if operands are joined as they are.
    """

    operands: tuple[Expression, ...]
    axis: int
    is_stack: bool
    over: str | None
    _depth_and_size: tuple[int, int] = dataclasses.field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_depth_and_size", _check_size(self))

    @property
    def verb(self) -> str:
        """Name of the function that makes it: "concat" or "stack"."""
        return "stack" if self.is_stack else "concat"

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

    def _write(self) -> str:
        operands = (
            quote(node.pattern) if isinstance(node, Source) else repr(node)
            for node in self.operands
        )
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
