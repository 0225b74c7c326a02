"""Expressions backwards, as expressions: what each tensor is, in terms of the leaf."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tf2flax._assignment.language import expressions as ex
from tf2flax._assignment.language import nodes
from tf2flax._assignment.language.captures import parse_name
from tf2flax._assignment.language.rearranging import Pattern, Steps, steps_for
from tf2flax._base.values import TensorSpec

from .lowering import lower, operand_indices

SpecOf = Callable[[str], TensorSpec]


def inverse_of(
    expression: ex.Expression, leaf: ex.Expression, spec_of: SpecOf
) -> dict[str, ex.Expression]:
    """Writes what each tensor of an expression is, in terms of the leaf it fills.

        concat("q", "k", axis=1)       q: leaf[:, 0:3]      k: leaf[:, 3:5]
        src("w").transpose()           w: leaf.transpose()

    Args:
        expression: The expression, without captures.
        leaf: What stands for its value.
        spec_of: Gives shape and dtype of a tensor.

    Returns:
        Expressions by tensor. Tensors that the leaf covers only partly, or several
        times, are left out.
    """
    values: dict[str, list[ex.Expression]] = {}

    def walk(node: ex.Expression, value: ex.Expression) -> None:
        match node:
            case ex.Source():
                name = parse_name(node.pattern).literal
                values.setdefault(name, []).append(value)
            case ex.Joined():
                rank = len(lower(node, spec_of).shape)
                indices = operand_indices(node, rank, spec_of)
                for operand, index in zip(node.operands, indices, strict=True):
                    walk(operand, value[index])
            case nodes.Cast():
                walk(node.operand, value)
            case nodes.Negated():
                walk(node.operand, -value)
            case nodes.WithNumber(operator="+" | "-"):
                walk(node.operand, _without_number(node, value))
            case nodes.Padded():
                below = lower(node.operand, spec_of).shape
                pairs = zip(node.widths, below, strict=True)
                walk(
                    node.operand,
                    value[tuple(slice(start, start + n) for (start, _), n in pairs)],
                )
            case nodes.Transposed() | nodes.Reshaped() | ex.Rearranged():
                below = lower(node.operand, spec_of).shape
                walk(node.operand, _undone(node, value, below))
            case _:
                # Slices and rows: the tensor is covered only partly. Products have no
                # inverse in the language, which cannot divide.
                pass

    walk(expression, leaf)
    return {name: written[0] for name, written in values.items() if len(written) == 1}


def _without_number(node: nodes.WithNumber, value: ex.Expression) -> ex.Expression:
    """Takes a sum with a number back: of x + c, c + x, x - c and c - x."""
    number = node.number.value
    if node.operator == "+":
        return value - number
    return number - value if node.is_number_first else value + number


def _undone(
    node: nodes.Transposed | nodes.Reshaped | ex.Rearranged,
    value: ex.Expression,
    below: tuple[int, ...],
) -> ex.Expression:
    """Takes one operation back, in the form that a reader would write."""
    match node:
        case nodes.Reshaped():
            return value.reshape(below)
        case nodes.Transposed():
            if node.axes is None:
                return value.transpose()
            back = np.argsort([axis % len(below) for axis in node.axes])
            return value.transpose([int(axis) for axis in back])
        case ex.Rearranged():
            steps = steps_for(node.pattern, below)
            groups = (*node.pattern.before, *node.pattern.after)
            if any(len(axis) > 1 and "..." in axis for axis in groups):
                # Dots can be merged into an axis, but not split out of one again.
                permuted = [steps.split[axis] for axis in steps.axes]
                back = [int(axis) for axis in np.argsort(steps.axes)]
                return value.reshape(permuted).transpose(back).reshape(below)
            return _reverse_pattern(node.pattern, steps, value)


def _reverse_pattern(
    pattern: Pattern, steps: Steps, value: ex.Expression
) -> ex.Expression:
    """Writes a pattern the other way round, with the sizes that it then needs."""
    before, after = (side.strip() for side in pattern.text.split("->"))
    # The last axis of every group follows from the length of the group.
    sizes = {
        name: steps.lengths[name]
        for axis in pattern.after
        if len(axis) > 1
        for name in axis[:-1]
    }
    return value.rearrange(f"{after} -> {before}", **sizes)
