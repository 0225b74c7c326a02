"""Source expressions: what a leaf is made of, written down before anything is read.

`src("q/kernel").transpose()` is a value: frozen, hashable, printed as it is written.
Here expressions are only made and taken apart; `layouts` gives them shapes and bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, SupportsIndex, cast, overload

import numpy as np

from tf2flax._base.caller import show_value
from tf2flax._base.dtypes import parse_dtype
from tf2flax._base.errors import AssignmentError

from .arguments import (
    IndexItem,
    from_the_front,
    index_item,
    index_text,
    integer,
    integers,
    list_text,
    quoted,
    reshaped_again,
    row_numbers,
    rows_text,
)
from .rearranging import Pattern, parse_pattern

# An expression deeper or larger than this is a mistake, or an attack on the recursion
# below (in operations, one upon another and all together).
MAX_DEPTH: Final = 100
MAX_SIZE: Final = 10_000


class Expression:
    """What fills a leaf: tensors of a checkpoint, and what is done to them.

    Made by `tf2flax.src`, `tf2flax.concat` and `tf2flax.stack`; used as a key of an
    assignment map. Every method gives a new expression and reads nothing. The words
    mean what they mean in NumPy; `rearrange` means what it means in einops.

    Examples:
        >>> import tf2flax
        >>> tf2flax.src("q/kernel").transpose().reshape(4, 8, 32)
        src("q/kernel").transpose().reshape(4, 8, 32)
        >>> tf2flax.src("q/kernel").transpose().transpose()
        src("q/kernel")
    """

    __slots__ = ()
    # `expression[0]`, `expression[1]`, ... never end: not a sequence.
    __iter__ = None

    @property
    def children(self) -> tuple[Expression, ...]:
        """The expressions it is made of."""
        return ()

    @property
    def extent(self) -> tuple[int, int]:
        """How many operations stand one upon another, and how many there are."""
        return 1, 1

    def with_children(self, children: Sequence[Expression]) -> Expression:
        """The same operation on other expressions."""
        raise NotImplementedError

    def transpose(self, *axes: SupportsIndex | Sequence[SupportsIndex]) -> Expression:
        """Permutes axes, as `numpy.transpose`.

        Args:
            *axes: The operand's axes in their new order; none reverses them.

        Returns:
            The expression.

        Raises:
            AssignmentError: The axes are no permutation.
        """
        order = integers("transpose", "axes", axes) if axes else None
        if order is not None and sorted(a % max(len(order), 1) for a in order) != list(
            range(len(order))
        ):
            raise AssignmentError(
                f"transpose{order}: expected every axis once, from 0 to {len(order)}."
            )
        if isinstance(self, Transposed):
            return self.operand if self.undoes(order) else self.composed(order)
        return Transposed(self, order)

    def reshape(self, *shape: SupportsIndex | Sequence[SupportsIndex]) -> Expression:
        """Gives the same elements another shape, in row-major order.

        Args:
            *shape: The new extents, of which one may be -1.

        Returns:
            The expression.

        Raises:
            AssignmentError: An extent is negative, or several are -1.
        """
        new = integers("reshape", "shape", shape)
        if any(dim < -1 for dim in new) or new.count(-1) > 1:
            raise AssignmentError(
                f"reshape{new}: expected extents, of which one may be -1."
            )
        if isinstance(self, Reshaped):
            resolved = reshaped_again(self.shape, new)
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
                are one axis; 1 is an axis of extent 1; `...` stands for further axes.
            **sizes: Extents of named axes; one of each parenthesis may be left out.

        Returns:
            The expression.

        Raises:
            AssignmentError: The pattern is malformed.
        """
        # By name; otherwise that, and `self`, are names of axes.
        if isinstance(pattern, str) and not pattern:  # pyright: ignore[reportUnnecessaryIsInstance]
            pattern = cast("str", sizes.pop("pattern", ""))
        given = tuple(
            (name, integer("rearrange", name, size)) for name, size in sizes.items()
        )
        return Rearranged(self, parse_pattern(pattern, given))

    def take(self, rows: Iterable[SupportsIndex]) -> Expression:
        """Picks rows by number, in the order given, as `numpy.take` along axis 0.

        Args:
            rows: Their numbers, counted from 0.

        Returns:
            The expression.

        Raises:
            AssignmentError: They are no integers, or negative: NumPy would count those
                from the end, TensorFlow's row maps write -1 for "not there".
        """
        return Rows(self, row_numbers(rows))

    def cast(self, dtype: Any) -> Expression:
        """Changes the dtype, whatever that does to the values, as `numpy.astype`.

        Args:
            dtype: Anything that NumPy or ml_dtypes takes for a dtype of numbers.

        Returns:
            The expression.

        Raises:
            AssignmentError: It is no dtype of numbers.
        """
        is_word = isinstance(dtype, str) and dtype in ("exact", "checkpoint")
        parsed = None if is_word else parse_dtype(dtype)
        if not isinstance(parsed, np.dtype):
            raise AssignmentError(f"cast: expected a dtype, got {show_value(dtype)}.")
        return (
            self
            if isinstance(self, Cast) and self.dtype == parsed
            else Cast(self, parsed)
        )

    def __getitem__(self, index: Any) -> Expression:
        """Cuts a part out, as NumPy's basic indexing.

        Args:
            index: Integers, slices, `...` and None, or a tuple of them.

        Returns:
            The expression.

        Raises:
            AssignmentError: It is another kind of index.
        """
        is_tuple = isinstance(index, tuple)
        items = cast("tuple[Any, ...]", index) if is_tuple else (index,)
        return Sliced(self, tuple(index_item(item) for item in items))

    def __repr__(self) -> str:
        """The expression as it is written."""
        return self._written()

    def _written(self) -> str:
        raise NotImplementedError


def _checked_extent(expression: Expression) -> tuple[int, int]:
    below = [child.extent for child in expression.children]
    depth = 1 + max((depth for depth, _ in below), default=0)
    size = 1 + sum(size for _, size in below)
    if depth > MAX_DEPTH or size > MAX_SIZE:
        raise AssignmentError(
            f"Expected at most {MAX_DEPTH} operations one upon another, and "
            f"{MAX_SIZE} together. Put an expression together from fewer."
        )
    return depth, size


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Source(Expression):
    """A tensor, or a scope ending in `/`.

    Attributes:
        pattern: Its name, with captures; `{{` and `}}` are literal braces.
    """

    pattern: str

    def __post_init__(self) -> None:
        if not isinstance(self.pattern, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise AssignmentError(
                f"src: expected the name of a tensor or scope, got "
                f"{show_value(self.pattern)}."
            )
        if not self.pattern:
            raise AssignmentError('src: expected a name, got "". All of it is "/".')

    def with_children(self, children: Sequence[Expression]) -> Expression:
        """Itself: there are none."""
        return self

    def _written(self) -> str:
        return f"src({quoted(self.pattern)})"


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class _Unary(Expression):
    """One operation on one expression."""

    operand: Expression
    _extent: tuple[int, int] = dataclasses.field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_extent", _checked_extent(self))

    @property
    def children(self) -> tuple[Expression, ...]:
        """The operand."""
        return (self.operand,)

    @property
    def extent(self) -> tuple[int, int]:
        """How many operations stand one upon another, and how many there are."""
        return self._extent

    def with_children(self, children: Sequence[Expression]) -> Expression:
        """The same operation on another operand."""
        return dataclasses.replace(self, operand=children[0])


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Transposed(_Unary):
    """Axes in another order; `axes` None reverses them."""

    axes: tuple[int, ...] | None

    def undoes(self, axes: tuple[int, ...] | None) -> bool:
        """Whether another transposition brings back the operand."""
        if self.axes is None or axes is None:
            own = axes if self.axes is None else self.axes
            return own is None or from_the_front(own) == tuple(
                reversed(range(len(own)))
            )
        own, new = from_the_front(self.axes), from_the_front(axes)
        return len(own) == len(new) and [own[a] for a in new] == list(range(len(own)))

    def composed(self, axes: tuple[int, ...] | None) -> Expression:
        """Both transpositions in one; one upon the other where ranks differ."""
        known = self.axes if self.axes is not None else axes
        assert known is not None  # two reversals undo each other
        reverse = tuple(reversed(range(len(known))))
        first = reverse if self.axes is None else from_the_front(self.axes)
        second = reverse if axes is None else from_the_front(axes)
        if len(first) != len(second):
            return Transposed(self, axes)
        return Transposed(self.operand, tuple(first[a] for a in second))

    def _written(self) -> str:
        return f"{self.operand!r}.transpose({list_text(self.axes or ())})"


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Reshaped(_Unary):
    """The same elements in another shape."""

    shape: tuple[int, ...]

    def _written(self) -> str:
        shape = list_text(self.shape) if self.shape else "()"
        return f"{self.operand!r}.reshape({shape})"


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Rearranged(_Unary):
    """Axes split, permuted and merged by name."""

    pattern: Pattern

    def _written(self) -> str:
        sizes = "".join(f", {name}={size}" for name, size in self.pattern.sizes)
        return f"{self.operand!r}.rearrange({quoted(self.pattern.text)}{sizes})"


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Sliced(_Unary):
    """A part, cut out by NumPy's basic indexing; slices are triples."""

    index: tuple[IndexItem, ...]

    @property
    def numpy_index(self) -> tuple[Any, ...]:
        """The index as NumPy takes it."""
        return tuple(
            slice(*item) if isinstance(item, tuple) else item for item in self.index
        )

    def _written(self) -> str:
        return f"{self.operand!r}{index_text(self.index)}"


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Rows(_Unary):
    """Rows by number."""

    rows: tuple[int, ...]

    def _written(self) -> str:
        return f"{self.operand!r}.take({rows_text(self.rows)})"


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Cast(_Unary):
    """Another dtype."""

    dtype: np.dtype

    def _written(self) -> str:
        return f"{self.operand!r}.cast({quoted(self.dtype.name)})"


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Joined(Expression):
    """Several expressions, joined along an axis.

    Attributes:
        operands: At least one.
        axis: The axis of the result.
        is_stack: Whether the axis is a new one.
        over: The capture for whose every number the one operand is repeated.
    """

    operands: tuple[Expression, ...]
    axis: int
    is_stack: bool
    over: str | None
    _extent: tuple[int, int] = dataclasses.field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_extent", _checked_extent(self))

    @property
    def verb(self) -> str:
        """What made it: "concat" or "stack"."""
        return "stack" if self.is_stack else "concat"

    @property
    def children(self) -> tuple[Expression, ...]:
        """The operands."""
        return self.operands

    @property
    def extent(self) -> tuple[int, int]:
        """How many operations stand one upon another, and how many there are."""
        return self._extent

    def with_children(self, children: Sequence[Expression]) -> Expression:
        """The same operation on other operands."""
        return dataclasses.replace(self, operands=tuple(children))

    def _written(self) -> str:
        operands = (
            quoted(one.pattern) if isinstance(one, Source) else repr(one)
            for one in self.operands
        )
        over = f", over={quoted(self.over)}" if self.over is not None else ""
        return f"{self.verb}({', '.join(operands)}{over}, axis={self.axis})"


def sources_of(expression: Expression) -> Iterator[Source]:
    """Lists the sources of an expression, from left to right, again where repeated.

    Args:
        expression: The expression.

    Yields:
        Its sources.
    """
    if isinstance(expression, Source):
        yield expression
    for child in expression.children:
        yield from sources_of(child)


def map_sources(
    expression: Expression, change: Callable[[Source], Source]
) -> Expression:
    """Puts other sources into an expression.

    Args:
        expression: The expression.
        change: Gives the new source for an old one.

    Returns:
        The new expression.
    """
    if isinstance(expression, Source):
        return change(expression)
    children = [map_sources(child, change) for child in expression.children]
    return expression.with_children(children)
