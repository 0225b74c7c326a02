"""The value of an expression -> boxes of it, each of which has fewer tensors.

    stack("l_0/w", "l_1/w")     value (2, 3)      portions
                                a b c             "l_0/w", box [0:1, 0:3]
                                d e f             "l_1/w", box [1:2, 0:3]

Who writes one tensor then needs one box of the value, not all of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from tf2flax._assignment.language import nodes
from tf2flax._assignment.language.captures import parse_name
from tf2flax._assignment.language.expressions import Expression, Joined, sources_of
from tf2flax._base.values import Box

from .lowering import lower, number_step_of, operand_indices
from .scattering import SpecOf
from .steps import Step


@dataclasses.dataclass(frozen=True, slots=True)
class Portion:
    """A part of an expression, and where its value lies in that of the whole.

    Attributes:
        expression: The part.
        box: The box of the whole value that it is.
        axes: Axes of the whole value, in the order in which the part has them. Along
            the other ones the box has length 1.
        casts: What its elements went through in the whole expression afterwards, in
            this order.
    """

    expression: Expression
    box: Box
    axes: tuple[int, ...]
    casts: tuple[Step, ...] = ()

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of its tensors, each once."""
        names = (parse_name(s.pattern).literal for s in sources_of(self.expression))
        return tuple(dict.fromkeys(names))

    def value_of(self, array: np.ndarray) -> np.ndarray:
        """The elements of the box as the part has them: other axes are left out."""
        left_out = [axis for axis in range(array.ndim) if axis not in self.axes]
        ordered = array.transpose((*self.axes, *left_out))
        return ordered.reshape(ordered.shape[: len(self.axes)])


def whole_portion(expression: Expression, shape: tuple[int, ...]) -> Portion:
    """An expression as the only portion of itself; `shape` is that of its value."""
    return Portion(expression, Box.whole(shape), tuple(range(len(shape))))


def split_portion(portion: Portion, spec_of: SpecOf) -> Iterator[Portion]:
    """Splits a portion where its expression joins others.

    Args:
        portion: The portion.
        spec_of: Gives shape and dtype of a tensor.

    Yields:
        Portions whose expressions join nothing at their top, from left to right; of
        casts, arithmetic with numbers, and transposes, what is above a join is undone.
    """
    expression, casts = portion.expression, portion.casts
    match expression:
        case Joined():
            indices = operand_indices(expression, len(portion.axes), spec_of)
            for operand, index in zip(expression.operands, indices, strict=True):
                below = dataclasses.replace(portion, expression=operand)
                yield from split_portion(_cut(below, index), spec_of)
            return
        case nodes.Cast():
            step: Step = expression.dtype
            casts = (step, *casts)
            axes = portion.axes
        case nodes.Negated() | nodes.WithNumber():
            dtype = lower(expression.operand, spec_of).dtype
            casts = (number_step_of(expression, dtype), *casts)
            axes = portion.axes
        case nodes.Transposed():
            rank = len(portion.axes)
            order = expression.axes or tuple(reversed(range(rank)))
            # Axis i of the value is axis order[i] of the operand.
            above = {axis % rank: portion.axes[i] for i, axis in enumerate(order)}
            axes = tuple(above[axis] for axis in range(rank))
        case _:
            # A tensor as it is; or an operation after which boxes of the operands are
            # no boxes of the value.
            yield portion
            return
    inner = Portion(expression.operand, portion.box, axes, casts)
    below = list(split_portion(inner, spec_of))
    # Without a join below nothing would be gained.
    yield from below if len(below) > 1 else [portion]


def _cut(portion: Portion, index: tuple[int | slice, ...]) -> Portion:
    """A portion at NumPy's index of a join: a number takes an axis away.

    stack(a, b, axis=1)     box [0:4, 0:2], axes (0, 1)
    a, at [:, 0]            box [0:4, 0:1], axes (0,)
    """
    starts, stops = list(portion.box.starts), list(portion.box.stops)
    axes = list(portion.axes)
    for place, item in zip(portion.axes, index, strict=False):
        start, stop = starts[place], stops[place]
        if isinstance(item, slice):
            low, high, _ = item.indices(stop - start)
            starts[place], stops[place] = start + low, start + high
        else:
            starts[place], stops[place] = start + item, start + item + 1
            axes.remove(place)
    box = Box(tuple(starts), tuple(stops))
    return dataclasses.replace(portion, box=box, axes=tuple(axes))
