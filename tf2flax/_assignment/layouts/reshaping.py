"""Reshapes of layouts: views stay views, and joins stay joins, wherever they can."""

from __future__ import annotations

import itertools

from .nodes import (
    CombinedLayout,
    ConstantLayout,
    JoinedLayout,
    Layout,
    ReshapedLayout,
    StepsLayout,
    StridedView,
    TransposedLayout,
    empty_view,
)
from .operations import below_arithmetic, transpose_layout
from .shapes import axis_groups, box_after_reshape, strides_after_reshape


def reshape_layout(node: Layout, shape: tuple[int, ...]) -> Layout:
    """Gives the same elements another shape.

    Args:
        node: A layout.
        shape: A shape of as many elements.

    Returns:
        The layout; a view stays a view where NumPy needs no copy.
    """
    if shape == node.shape:
        return node
    if 0 in shape:
        return empty_view(node, shape)
    reshaped: Layout | None = None
    if isinstance(node, ConstantLayout | StepsLayout | CombinedLayout):
        return below_arithmetic(node, lambda part: reshape_layout(part, shape), shape)
    match node:
        case StridedView():
            strides = strides_after_reshape(node.shape, node.strides, shape)
            if strides is not None:
                reshaped = node._replace(shape=shape, strides=strides)
        case JoinedLayout():
            reshaped = _reshape_joined(node, shape)
        case ReshapedLayout():
            # Only the last of two reshapes counts.
            reshaped = reshape_layout(node.operand, shape)
        case TransposedLayout():
            reshaped = _split_transposed(node, shape)
        case _:
            pass
    return ReshapedLayout(node, shape) if reshaped is None else reshaped


def _reshape_joined(node: JoinedLayout, shape: tuple[int, ...]) -> Layout | None:
    """Reshapes the operands, where each of them is a box of the new shape as well.

        (4, 3), joined along rows     (12,): still two boxes
        a a a                         a a a a a a b b b b b b
        a a a
        b b b
        b b b

        (2, 4), joined along columns  (8,): neither a nor b is a box
        a a b b                       a a b b a a b b
        a a b b

    Returns:
        The join of the reshaped operands; None where an operand is not a box.
    """
    groups = axis_groups(node.shape, shape)
    operands: list[tuple[tuple[int, ...], Layout]] = []
    for starts, operand in node.operands:
        place: list[int] = []
        lengths: list[int] = []
        for before, after in groups:
            ranges = box_after_reshape(
                [node.shape[axis] for axis in before],
                [(starts[axis], operand.shape[axis]) for axis in before],
                [shape[axis] for axis in after],
            )
            if ranges is None:
                return None
            place += [start for start, _ in ranges]
            lengths += [length for _, length in ranges]
        operands.append((tuple(place), reshape_layout(operand, tuple(lengths))))
    return JoinedLayout(shape, tuple(operands))


def _split_transposed(node: TransposedLayout, shape: tuple[int, ...]) -> Layout | None:
    """Splits axes below a transpose, where the reshape only splits axes.

    So transposes end up above all reshapes, where the next transpose joins them:

        operand (6, 4)      --transpose (1, 0)-->    (4, 6)
                                                       |  reshape
        operand (2, 3, 4)   --transpose (2, 0, 1)--> (4, 2, 3)

    Returns:
        The transpose of the reshaped operand; None where the reshape merges axes.
    """
    groups = axis_groups(node.shape, shape)
    if any(len(before) != 1 for before, _ in groups):
        return None
    # Axis i of the layout is axis `node.axes[i]` of the operand.
    lengths_after = [tuple(shape[axis] for axis in after) for _, after in groups]
    split = dict(zip(node.axes, lengths_after, strict=True))
    lengths = [split[axis] for axis in range(len(split))]
    operand = reshape_layout(node.operand, tuple(itertools.chain(*lengths)))
    # The number of the first new axis of every old one.
    firsts = [0, *itertools.accumulate(map(len, lengths))]
    order = [firsts[axis] + i for axis in node.axes for i in range(len(split[axis]))]
    return transpose_layout(operand, tuple(order))
