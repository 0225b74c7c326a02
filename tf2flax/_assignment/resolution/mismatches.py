"""Sentences about shapes that do not fit, each with its likely reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from tf2flax._assignment.language.expressions import Expression, Joined

# The reason where none is more likely.
ANOTHER_CONFIGURATION: Final = "Was the model built with another configuration?"
# Shapes of parts that a message lists.
_MAX_LISTED: Final = 6


def describe_shape_mismatch(
    leaf: tuple[int, ...], source_shape: tuple[int, ...], source: Expression
) -> str:
    """States that shapes differ, and the likely reason.

    Args:
        leaf: Shape of the leaf.
        source_shape: Shape of the source.
        source: The tensor or expression.

    Returns:
        One or two sentences.
    """
    fact = f"expected shape {list(leaf)}, got {list(source_shape)}."
    return f"{fact} {_likely_reason(leaf, source_shape, source)}"


def _likely_reason(
    leaf: tuple[int, ...], source_shape: tuple[int, ...], source: Expression
) -> str:
    """The first reason that applies, the most specific one first."""
    if isinstance(source, Joined) and _differ_in_stacked(leaf, source_shape, source):
        count = source_shape[source.axis % len(source_shape)]
        return (
            f"{count} are stacked: was the model built with another number of layers?"
        )
    if len(leaf) > 1 and leaf == source_shape[::-1]:
        return f"The leaf is the transpose: use the key `{source.transpose()!r}`."
    if len(leaf) == len(source_shape) and sorted(leaf) == sorted(source_shape):
        return "The axes are in another order: add `.transpose(...)` to the key."
    if _without_ones(leaf) == _without_ones(source_shape):
        return (
            "Shapes are not broadcast or squeezed: use the key "
            f"`{source.reshape(leaf)!r}`."
        )
    if math.prod(leaf) == math.prod(source_shape):
        return (
            "The number of elements is the same: the key may need `.rearrange(...)` "
            "or `.reshape(...)`."
        )
    return ANOTHER_CONFIGURATION


def _differ_in_stacked(
    leaf: tuple[int, ...], source_shape: tuple[int, ...], source: Joined
) -> bool:
    """True if shapes differ only in the axis along which a stack joins tensors."""
    if not source.is_stack or len(leaf) != len(source_shape):
        return False
    axis = source.axis % len(source_shape)
    without_axis = [
        (*shape[:axis], *shape[axis + 1 :]) for shape in (leaf, source_shape)
    ]
    return without_axis[0] == without_axis[1]


def _without_ones(shape: tuple[int, ...]) -> list[int]:
    return [size for size in shape if size != 1]


def describe_untiled_parts(
    parts: Sequence[tuple[int, ...]], tensor: tuple[int, ...]
) -> str:
    """States that the parts of a partitioned variable do not make up a tensor.

    Args:
        parts: Shapes of the parts.
        tensor: Shape of the tensor.

    Returns:
        Two sentences.
    """
    shapes = ", ".join(str(list(part)) for part in parts[:_MAX_LISTED])
    more = ", ..." if len(parts) > _MAX_LISTED else ""
    return (
        f"its {len(parts)} parts {shapes}{more} do not tile shape {list(tensor)} along "
        "one axis. Choose parts that add up to that shape."
    )
