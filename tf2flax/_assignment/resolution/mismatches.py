"""Sentences about shapes that do not fit, each with its likely reason and a way out."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Final

from tf2flax._assignment.language.expressions import (
    Expression,
    Joined,
    Rearranged,
    Source,
    sources_of,
)
from tf2flax._assignment.language.literals import write_integers
from tf2flax._assignment.layouts.shapes import axis_groups
from tf2flax._base.errors import AssignmentError
from tf2flax._base.values import TensorSpec

from .doubts import (
    ONLY_MEANING,
    describe_reshape,
    find_doubt,
    find_other_reading,
    find_reshape,
    has_other_grouping,
)
from .fitting_sizes import fit_sizes

# The reason where none is more likely.
ANOTHER_CONFIGURATION: Final = "Was the model built with another configuration?"
# Tensors of a key that is proposed where the entry is not known.
_MAX_SOURCES: Final = 4
# Shapes of parts that a message lists.
_MAX_LISTED: Final = 6
# Axes of which all orders are tried.
_MAX_PERMUTED: Final = 6


@dataclasses.dataclass(frozen=True, slots=True)
class Reason:
    """Why shapes differ.

    Attributes:
        text: A sentence, without its end.
        change: What makes the source fit, if that is known: for any expression of the
            same form, the expression of the key to use instead.
        is_of_key: True if the key is wrong for all leaves of its entry alike.
        is_of_part: True if the change gives one part of a tensor; other leaves of the
            entry may be other parts.
    """

    text: str
    change: Callable[[Expression], Expression] | None = None
    is_of_key: bool = False
    is_of_part: bool = False


class ShapeMismatchError(AssignmentError):
    """The shapes of a leaf and its source differ.

    Attributes:
        fact: Both shapes, as a sentence.
        source_shape: Shape of the source.
    """

    def __init__(
        self,
        source: Expression,
        shape: tuple[int, ...],
        source_shape: tuple[int, ...],
        spec_of: Callable[[str], TensorSpec],
    ) -> None:
        """Looks for the reason only when the message is asked for."""
        super().__init__(source, shape, source_shape, spec_of)
        self.fact = f"expected shape {list(shape)}, got {list(source_shape)}."
        self.source_shape = source_shape

    def __str__(self) -> str:
        """The fact, and the likely reason."""
        source, shape, source_shape, spec_of = self.args
        reason = find_reason(shape, source_shape, source, spec_of)
        if reason is None:
            return self.fact
        if reason.change is None:
            return f"{self.fact} {reason.text}"
        # Of 48 layers that a stack counts, the key has a capture and this has names.
        if len(list(sources_of(source))) > _MAX_SOURCES:
            return f"{self.fact} {reason.text}."
        return f"{self.fact} {reason.text}: use the key `{reason.change(source)!r}`."


def find_reason(
    leaf: tuple[int, ...],
    source_shape: tuple[int, ...] | None,
    source: Expression,
    spec_of: Callable[[str], TensorSpec],
) -> Reason | None:
    """Finds the likely reason why a source does not have the shape of a leaf.

    Args:
        leaf: Shape of the leaf.
        source_shape: Shape of the source; None if its operations do not fit its
            tensors.
        source: The source, with names in place of captures.
        spec_of: Gives shape and dtype of a tensor.

    Returns:
        The first reason that applies, the most specific first; None if the operations
        do not fit and no other sizes would.
    """
    if isinstance(source, Source):  # as of most leaves, thousands of which may fail
        if source_shape is None:
            return None
        return _reason_for_tensor(leaf, source_shape)
    # Sizes in the key come first: a wrong number of heads may look like a transpose,
    # which would give wrong values in the right shape.
    if fit := fit_sizes(source, leaf, spec_of):
        return Reason(fit.text, fit.apply, is_of_key=True)
    if source_shape is None:
        return None
    if source.keeps_leaf:  # nothing can follow it, so that no key can be proposed
        return Reason(ANOTHER_CONFIGURATION)
    if isinstance(source, Joined) and _differ_in_stacked(leaf, source_shape, source):
        count = source_shape[source.axis % len(source_shape)]
        return Reason(
            f"{count} are stacked: was the model built with another number of layers?"
        )
    return _reason_for_shapes(leaf, source_shape, source, spec_of)


@functools.lru_cache(maxsize=1024)
def _reason_for_tensor(leaf: tuple[int, ...], source_shape: tuple[int, ...]) -> Reason:
    """The reason for a tensor as it is: shapes alone decide."""

    def no_spec(name: str) -> TensorSpec:
        raise AssertionError(name)

    return _reason_for_shapes(leaf, source_shape, Source("any"), no_spec)


def _reason_for_shapes(
    leaf: tuple[int, ...],
    source_shape: tuple[int, ...],
    source: Expression,
    spec_of: Callable[[str], TensorSpec],
) -> Reason:
    """The likely reason, where sizes in the key are not it."""
    is_rearranged = isinstance(source, Rearranged) and bool(source.pattern.sizes)
    if sorted(leaf) == sorted(source_shape) and len(leaf) > 1:
        return _reason_for_order(leaf, source_shape, source, spec_of)
    if _without_ones(leaf) == _without_ones(source_shape):
        return Reason(
            "Shapes are not broadcast or squeezed", lambda source: source.reshape(leaf)
        )
    if math.prod(leaf) == math.prod(source_shape) and not is_rearranged:
        return _reason_for_grouping(leaf, source_shape, source, spec_of)
    if reading := find_other_reading(source, leaf, spec_of):
        return Reason(f"`{reading}` would give the shape of the leaf.")
    return Reason(ANOTHER_CONFIGURATION)


def _reason_for_order(
    leaf: tuple[int, ...],
    source_shape: tuple[int, ...],
    source: Expression,
    spec_of: Callable[[str], TensorSpec],
) -> Reason:
    """The axes are the same, in another order."""
    if len(leaf) > _MAX_PERMUTED:
        return Reason("The axes are in another order.")
    orders = [
        axes
        for axes in itertools.permutations(range(len(leaf)))
        if tuple(source_shape[axis] for axis in axes) == leaf
    ]
    if doubt := find_doubt(
        source, leaf, spec_of, orders[0] if len(orders) == 1 else None
    ):
        return Reason(doubt)
    # Another axis of a stack is the same as a transpose, and says what was meant.
    if (
        len(orders) == 1
        and (axis := _stacked_axis(source, leaf, orders[0])) is not None
    ):
        return Reason(
            "The layers are stacked along another axis",
            lambda source: _along_axis(source, axis),
            is_of_key=True,
        )
    if len(leaf) == 2:
        return Reason("The leaf is the transpose", lambda source: source.transpose())
    if len(orders) == 1:
        return Reason(
            "The axes are in another order",
            lambda source: source.transpose(orders[0]),
        )
    listed = " or ".join(str(axes) for axes in orders[:_MAX_LISTED])
    return Reason(
        f"The axes are in another order, and several are equally long: transpose them "
        f"by {listed}. Only their meaning tells which gives the right values."
    )


def _stacked_axis(
    source: Expression, leaf: tuple[int, ...], axes: tuple[int, ...]
) -> int | None:
    """The axis along which a stack has a shape; None if it is another transpose."""
    if not isinstance(source, Joined) or not source.is_stack:
        return None
    stacked = source.axis % len(leaf)
    axis = axes.index(stacked)
    others = [place for place in axes if place != stacked]
    return axis if others == sorted(others) else None


def _along_axis(source: Expression, axis: int) -> Expression:
    """A stack along another axis."""
    assert isinstance(source, Joined)
    return dataclasses.replace(source, axis=axis)


def _reason_for_grouping(
    leaf: tuple[int, ...],
    source_shape: tuple[int, ...],
    source: Expression,
    spec_of: Callable[[str], TensorSpec],
) -> Reason:
    """The number of elements is the same."""
    groups = axis_groups(source_shape, leaf) if math.prod(leaf) else []
    is_split_or_merged = all(
        len(old) == 1 or len(new) == 1 for old, new in groups if len(old) or len(new)
    )
    if groups and is_split_or_merged and len(leaf) != len(source_shape):
        verb = "split" if len(leaf) > len(source_shape) else "merged"
        # Of a square kernel the rows may be split, or the columns.
        if has_other_grouping(source_shape, leaf):
            return Reason(
                f"`.reshape({write_integers(leaf)})` would give its shape, and so "
                f"would other axes that are {verb}, after a transpose. {ONLY_MEANING}."
            )
        return Reason(
            f"The leaf has the same elements with axes {verb}",
            lambda source: source.reshape(leaf),
        )
    if reshape := find_reshape(source):
        return Reason(describe_reshape(reshape, spec_of))
    return Reason(
        "The number of elements is the same, but no axis is split or merged: is it "
        "another layout of the same values?"
    )


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
