"""Shapes of tensors that the checkpoint lacks, by the leaf that is written as them.

    src("w").rearrange("d (h k) -> h d k", h=4)    leaf (4, 6, 3) -> tensor w (6, 12)

An operation whose operand may have several shapes is refused: nothing says which of
them the tensor has.
"""

from __future__ import annotations

from tf2flax._assignment.language import expressions as ex
from tf2flax._assignment.language import nodes
from tf2flax._assignment.language.captures import parse_name
from tf2flax._assignment.language.rearranging import shape_of_operand
from tf2flax._assignment.language.writing import write_expression
from tf2flax._base.errors import AssignmentError

Shape = tuple[int, ...]


def shapes_of_absent(expression: ex.Expression, shape: Shape) -> dict[str, Shape]:
    """Works out the shapes of the tensors of an expression, none of which is there.

    Args:
        expression: The expression, as it fills the leaf.
        shape: Shape of the leaf.

    Returns:
        Shapes by the names of tensors.

    Raises:
        AssignmentError: They do not follow from that of the leaf, or the expression
            does not say which tensors it means.
    """
    if isinstance(expression, ex.Source):
        pattern = parse_name(expression.pattern)
        if pattern.captures:
            raise _unclear(expression)
        return {pattern.literal: shape}
    if isinstance(expression, ex.Joined):
        return _shapes_of_stacked(expression, shape)
    # A grown leaf is written as it is, and so is one that was cast.
    if isinstance(expression, nodes.Cast) or expression.is_growth:
        (operand,) = expression.children
        return shapes_of_absent(operand, shape)
    if isinstance(expression, nodes.Transposed):
        axes = expression.axes or tuple(reversed(range(len(shape))))
        below = [0] * len(shape)
        if sorted(axis % max(len(shape), 1) for axis in axes) != [*range(len(shape))]:
            raise _unclear(expression)
        for axis, length in zip(axes, shape, strict=True):
            below[axis] = length
        return shapes_of_absent(expression.operand, tuple(below))
    if isinstance(expression, ex.Rearranged):
        below = shape_of_operand(expression.pattern, shape)
        return shapes_of_absent(expression.operand, below)
    raise _unclear(expression)


def _shapes_of_stacked(expression: ex.Joined, shape: Shape) -> dict[str, Shape]:
    """Shapes of stacked tensors; how an axis of others is divided is not clear."""
    rank = len(shape)
    if not expression.is_stack or expression.over is not None or not rank:
        raise _unclear(expression)
    axis = expression.axis % rank
    if shape[axis] != len(expression.operands):
        raise _unclear(expression)
    below = (*shape[:axis], *shape[axis + 1 :])
    shapes: dict[str, Shape] = {}
    for operand in expression.operands:
        shapes |= shapes_of_absent(operand, below)
    return shapes


def _unclear(expression: ex.Expression) -> AssignmentError:
    return AssignmentError(
        f"what `{write_expression(expression)}` is made of is not clear."
    )
