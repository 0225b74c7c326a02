"""Where a transpose would give the shape of a leaf, and may well give wrong values.

    src("q").reshape(32, 8, 4)        (32, 32) -> (32, 8, 4)

    A leaf of shape (32, 4, 8) gets its shape by `.transpose(0, 2, 1)`, and also by
    `.reshape(32, 4, 8)`, with other elements. Most likely the numbers are wrong.

Numbers in a key are such a place, and the axis of a concat. What is in doubt is said;
no key is suggested.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Final

from tf2flax._assignment.language.expressions import (
    Expression,
    Joined,
    Rearranged,
)
from tf2flax._assignment.language.literals import write_integers
from tf2flax._assignment.language.nodes import Reshaped, Sliced
from tf2flax._assignment.layouts.lowering import lower
from tf2flax._assignment.layouts.shapes import axis_groups
from tf2flax._base.errors import AssignmentError
from tf2flax._base.values import TensorSpec

# Operations of one expression that are looked at, tensors of it, and axes of which all
# orders are tried.
_MAX_OPERATIONS: Final = 8
_MAX_SIZE: Final = 200
_MAX_PERMUTED: Final = 5
ONLY_MEANING: Final = "Only the meaning of the axes tells which gives the right values"


def find_doubt(
    source: Expression,
    leaf: tuple[int, ...],
    spec_of: Callable[[str], TensorSpec],
    axes: tuple[int, ...] | None,
) -> str:
    """Says why a transpose may be the wrong way to give a source the shape of a leaf.

    Args:
        source: The source, whose axes are those of the leaf in another order.
        leaf: Shape of the leaf.
        spec_of: Gives shape and dtype of a tensor.
        axes: The transpose, if only one gives the shape.

    Returns:
        Sentences; "" if nothing else gives the shape.
    """
    if source.depth_and_size[1] > _MAX_SIZE:
        return ""
    if (reshape := find_reshape(source)) is not None:
        return describe_reshape(reshape, spec_of)
    if isinstance(source, Rearranged) and axes and _separates(source, axes):
        return (
            "The sizes of the pattern do not fit, or its axes are in another order. "
            f"{ONLY_MEANING}."
        )
    if reading := find_other_reading(source, leaf, spec_of):
        return (
            f"`{reading}` would give its shape, and so would a transpose. "
            f"{ONLY_MEANING}."
        )
    return ""


def find_other_reading(
    source: Expression, leaf: tuple[int, ...], spec_of: Callable[[str], TensorSpec]
) -> str:
    """Numbers of a key at other axes that give the shape of a leaf; "" for none."""
    if source.depth_and_size[1] > _MAX_SIZE:
        return ""
    for node, change in itertools.islice(_operations_of(source), _MAX_OPERATIONS):
        for reading in _other_readings(node, spec_of):
            if _shape_of(change(reading), spec_of) == leaf:
                if isinstance(reading, Joined):
                    return f"axis={reading.axis}"
                return repr(reading).removeprefix(repr(node.children[0]))
    return ""


def has_other_grouping(old: tuple[int, ...], new: tuple[int, ...]) -> bool:
    """True if axes in another order can be split or merged to a shape as well.

        (32, 32) -> (32, 4, 8)     "d (h k) -> d h k", which is a reshape
                                   "(h k) d -> d h k", which has other elements

    Args:
        old: Shape of the source, without 0.
        new: Shape of the leaf, with another number of axes.
    """
    merged, split = sorted((_long_axes(old), _long_axes(new)), key=len)
    if len(merged) > _MAX_PERMUTED:
        return True
    orders = itertools.permutations(range(len(merged)))
    fitting = (
        axes for axes in orders if _splits(tuple(merged[axis] for axis in axes), split)
    )
    return len(list(itertools.islice(fitting, 2))) > 1


def _splits(merged: tuple[int, ...], split: tuple[int, ...]) -> bool:
    """True if each axis of a shape is one or several neighbours of another one."""
    return all(len(old) == 1 for old, _ in axis_groups(merged, split))


def _long_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def find_reshape(source: Expression) -> Reshaped | None:
    """The outermost reshape of an expression."""
    operations = itertools.islice(_operations_of(source), _MAX_OPERATIONS)
    return next((node for node, _ in operations if isinstance(node, Reshaped)), None)


def describe_reshape(node: Reshaped, spec_of: Callable[[str], TensorSpec]) -> str:
    """States that the numbers of a reshape do not fit, and what shapes there are."""
    shapes = [_shape_of(expression, spec_of) for expression in (node.operand, node)]
    makes = (
        "" if None in shapes else f" It makes {_show(shapes[1])} of {_show(shapes[0])}."
    )
    return (
        f"The numbers of `.reshape({write_integers(node.shape)})` do not fit.{makes} "
        "A transpose of that would have other elements than a reshape to the shape of "
        f"the leaf. {ONLY_MEANING}."
    )


def _show(shape: tuple[int, ...] | None) -> str:
    return str(list(shape or ()))


def _operations_of(
    expression: Expression,
) -> Iterator[tuple[Expression, Callable[[Expression], Expression]]]:
    """Yields operations, outermost first, and what puts another one in their place."""
    yield expression, lambda replacement: replacement
    for number, child in enumerate(expression.children):
        for node, change in _operations_of(child):
            yield node, _in_child(expression, number, change)


def _in_child(
    expression: Expression, number: int, change: Callable[[Expression], Expression]
) -> Callable[[Expression], Expression]:
    def change_child(replacement: Expression) -> Expression:
        children = list(expression.children)
        children[number] = change(replacement)
        return expression.with_children(children)

    return change_child


def _other_readings(
    node: Expression, spec_of: Callable[[str], TensorSpec]
) -> Iterator[Expression]:
    """The operation with its numbers at other axes."""
    if isinstance(node, Joined) and not node.is_stack:
        shape = _shape_of(node.operands[0], spec_of) or ()
        for axis in range(min(len(shape), _MAX_PERMUTED)):
            if axis != node.axis % len(shape):
                yield dataclasses.replace(node, axis=axis)
    elif isinstance(node, Sliced) and len(node.index) <= _MAX_PERMUTED:
        rank = len(_shape_of(node.operand, spec_of) or ())
        index = node.index
        if ... not in index and None not in index and len(index) < rank:
            index = (*index, *[(None, None, None)] * (rank - len(index)))
        if len(index) <= _MAX_PERMUTED:
            for items in dict.fromkeys(itertools.permutations(index)):
                if items != index:
                    yield dataclasses.replace(node, index=items)


def _separates(node: Rearranged, axes: tuple[int, ...]) -> bool:
    """True if a transpose puts parts of a split axis in another order.

    With "d (h k) -> d h k", k would then come before h: more likely the sizes of both
    are wrong.
    """
    pattern = node.pattern
    if len(axes) != len(pattern.after):  # dots, that stand for several axes or none
        return False
    order = [name for axis in axes for name in pattern.after[axis]]
    return any(
        sorted(axis, key=order.index) != list(axis)
        for axis in pattern.before
        if len(axis) > 1
    )


def _shape_of(
    expression: Expression, spec_of: Callable[[str], TensorSpec]
) -> tuple[int, ...] | None:
    try:
        return lower(expression, spec_of).shape
    except AssignmentError:
        return None
