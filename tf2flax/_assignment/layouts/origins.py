"""Grown leaves backwards: which element of a tensor each element was loaded from.

    src("w").take([1, -1, 0], fill="keep")      leaf      elements    has origin
                                                c d       c d         1 1
    w     a b                                   x y       . .         0 0
          c d                                   a b       a b         1 1

`scattering` has the values of a leaf in the shape of the tensor; a leaf that has grown
is written in its own shape, so that here the tensor's elements are put there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from tf2flax._assignment.language import expressions as ex
from tf2flax._assignment.language import nodes
from tf2flax._assignment.language.captures import parse_name
from tf2flax._assignment.language.expressions import sources_of
from tf2flax._assignment.language.numbers import Number
from tf2flax._base.memory import empty
from tf2flax._base.values import DTYPES_BY_NUMPY, Box, StoredDtype, TensorSpec

from .filling import Fetch, fill_array
from .lowering import lower, number_step_of
from .nodes import StridedView
from .steps import Step

SpecOf = Callable[[str], TensorSpec]
# What stands where a leaf has no element of the tensor: every dtype holds it.
_ZERO = Number("0", 0)


def origin_elements(
    expression: ex.Expression, name: str, spec_of: SpecOf, fetch: Fetch
) -> np.ndarray:
    """Puts the stored elements of a tensor where a leaf has what they were loaded as.

    Args:
        expression: What the leaf was loaded from: tensors are not combined, and it has
            grown.
        name: The tensor, which stands in it once.
        spec_of: Gives shape and dtype of a tensor.
        fetch: Reads a view of the tensor.

    Returns:
        Array of the leaf's shape and the tensor's dtype; zeros in all other places.
    """

    def fetch_own(view: StridedView, out: np.ndarray) -> None:
        if view.source == name:
            fetch(view, out)
        else:
            out[...] = 0

    return _filled(expression, spec_of, spec_of(name).dtype, fetch_own)


def has_origin(expression: ex.Expression, name: str, spec_of: SpecOf) -> np.ndarray:
    """True where a leaf has an element of a tensor; see `origin_elements`."""

    def fetch(view: StridedView, out: np.ndarray) -> None:
        out[...] = view.source == name

    return _filled(expression, spec_of, DTYPES_BY_NUMPY[np.dtype(np.bool_)], fetch)


def steps_through(
    expression: ex.Expression, name: str, spec_of: SpecOf
) -> tuple[Step, ...]:
    """What elements of a tensor go through in an expression: casts and arithmetic."""
    steps: list[Step] = []
    node = expression
    while node.children:
        if isinstance(node, nodes.Cast):
            steps.append(node.dtype)
        elif isinstance(node, nodes.Negated | nodes.WithNumber):
            dtype = lower(node.operand, spec_of).dtype
            steps.append(number_step_of(node, dtype))
        node = next(child for child in node.children if name in _names_in(child))
    return tuple(reversed(steps))


def _names_in(expression: ex.Expression) -> set[str]:
    return {parse_name(source.pattern).literal for source in sources_of(expression)}


def _filled(
    expression: ex.Expression, spec_of: SpecOf, dtype: StoredDtype, fetch: Fetch
) -> np.ndarray:
    """What an expression makes of tensors of one dtype, in places alone."""
    layout = lower(
        _without_steps(expression), lambda name: TensorSpec(spec_of(name).shape, dtype)
    )
    out = empty(layout.shape, layout.dtype)
    fill_array(layout, Box.whole(layout.shape), out, fetch)
    return out


def _without_steps(expression: ex.Expression) -> ex.Expression:
    """Each element in its place, as it is stored; 0 where no tensor has any."""
    children = [_without_steps(child) for child in expression.children]
    if isinstance(expression, nodes.Cast | nodes.Negated | nodes.WithNumber):
        return children[0]
    if not children:
        return expression
    if isinstance(expression, nodes.Padded | nodes.TakenRows):
        # Rows that are not there need a fill, and others have none.
        fill = None if expression.fill is None else _ZERO
        expression = dataclasses.replace(expression, fill=fill)
    return expression.with_children(children)
