"""Finds the sizes of a `rearrange` that give the shape of a leaf: the number of heads.

    src("q").rearrange("d (h k) -> d h k", h=8)      (96, 96) -> (96, 8, 12)

    A leaf of shape (96, 6, 16) has 6 heads. No transpose gives its values, also where
    one would give its shape.

Each size that a key names is replaced by the divisors of the axis that it splits.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Final

from tf2flax._assignment.language.expressions import Expression, Rearranged
from tf2flax._assignment.language.rearranging import Pattern, axes_before
from tf2flax._assignment.layouts.lowering import lower
from tf2flax._base.errors import AssignmentError
from tf2flax._base.values import TensorSpec

# Patterns of one expression that are looked at, and sizes that are tried for one name.
_MAX_PATTERNS: Final = 4
_MAX_TRIED: Final = 64
# Tensors of an expression: trying a size works out the shape of all of them.
_MAX_SIZE: Final = 200
_TIMES: Final = "\N{MULTIPLICATION SIGN}"


@dataclasses.dataclass(frozen=True, slots=True)
class Fit:
    """Sizes that fit.

    Attributes:
        text: What the size of the key gives, and which size fits.
        old: The pattern of the key.
        new: The pattern with the size that fits.
    """

    text: str
    old: Pattern
    new: Pattern

    def apply(self, expression: Expression) -> Expression:
        """Puts the new pattern in place of the old one, wherever it stands."""
        changed = expression.with_children([self.apply(c) for c in expression.children])
        if isinstance(changed, Rearranged) and changed.pattern == self.old:
            return dataclasses.replace(changed, pattern=self.new)
        return changed


def fit_sizes(
    expression: Expression,
    shape: tuple[int, ...],
    spec_of: Callable[[str], TensorSpec],
) -> Fit | None:
    """Finds another size for one named axis, with which an expression has a shape.

    Args:
        expression: The expression, without captures.
        shape: The shape.
        spec_of: Gives shape and dtype of a tensor.

    Returns:
        The sizes; None if there is no such pattern, or if no size gives the shape.
    """
    if expression.depth_and_size[1] > _MAX_SIZE:
        return None
    nodes = {
        node.pattern: node for node in _rearranged(expression) if node.pattern.sizes
    }
    for pattern, node in list(nodes.items())[:_MAX_PATTERNS]:
        operand = _shape_of(node.operand, spec_of)
        if operand is None:
            continue
        try:
            axes = axes_before(pattern, operand)
        except AssignmentError:  # of another number of axes: no size fits
            continue
        for name, size in pattern.sizes:
            place = next(i for i, axis in enumerate(axes) if name in axis)
            axis, length = axes[place], operand[place]
            for number in _divisors(length):
                new = _with_size(pattern, axis, name, number)
                fit = Fit(_describe(name, size, number, axis, length), pattern, new)
                if (
                    number != size
                    and _shape_of(fit.apply(expression), spec_of) == shape
                ):
                    return fit
    return None


def _rearranged(expression: Expression) -> Iterator[Rearranged]:
    if isinstance(expression, Rearranged):
        yield expression
    for child in expression.children:
        yield from _rearranged(child)


def _shape_of(
    expression: Expression, spec_of: Callable[[str], TensorSpec]
) -> tuple[int, ...] | None:
    try:
        return lower(expression, spec_of).shape
    except AssignmentError:
        return None


def _divisors(length: int) -> list[int]:
    """The first divisors of a length, ascending."""
    small = [n for n in range(1, math.isqrt(length) + 1) if length % n == 0]
    return sorted({*small, *(length // n for n in small)})[:_MAX_TRIED]


def _with_size(
    pattern: Pattern, axis: tuple[str, ...], name: str, number: int
) -> Pattern:
    """A pattern with another size; an axis with all sizes given leaves one out."""
    sizes = dict(pattern.sizes) | {name: number}
    if all(part in sizes for part in axis):
        spare = [part for part in axis if part != name]
        for part in spare[:1]:
            del sizes[part]
    return dataclasses.replace(pattern, sizes=tuple(sizes.items()))


def _describe(
    name: str, size: int, number: int, axis: tuple[str, ...], length: int
) -> str:
    """What a size gives, and that another one fits."""
    if size and length % size == 0 and len(axis) == 2:
        parts = [size, length // size]
        gives = f" {_TIMES} ".join(
            map(str, parts if axis[0] == name else reversed(parts))
        )
    elif size and length % size == 0:
        gives = f"{length // size} {_TIMES} {size}"
    else:
        return f"{name}={size} does not divide {length}; {name}={number} fits"
    return f"{name}={size} gives {gives}; {name}={number} fits"
