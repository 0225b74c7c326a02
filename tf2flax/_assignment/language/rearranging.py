"""Patterns of `rearrange`, as einops writes them: axes before and after, by name."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Final

from tf2flax._base.caller import show_value
from tf2flax._base.errors import AssignmentError

_TOKEN: Final = re.compile(r"\s*(?:(\.\.\.|…)|([A-Za-z_]\w*)|(1)(?!\w)|([()]))")
_ELLIPSIS: Final = "..."

# One axis: the names that are merged in it; () is an axis of extent 1.
Axis = tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern, checked.

    Attributes:
        text: The pattern as it was written.
        sizes: Extents of named axes, as they were given.
        before: Axes of the operand.
        after: Axes of the result.
    """

    text: str
    sizes: tuple[tuple[str, int], ...]
    before: tuple[Axis, ...]
    after: tuple[Axis, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Steps:
    """What a pattern does to one shape: reshape, transpose, reshape.

    Attributes:
        split: Shape after every axis has been split.
        axes: Those axes in their new order.
        merged: Shape after axes have been merged.
        extents: Extent of every named axis.
    """

    split: tuple[int, ...]
    axes: tuple[int, ...]
    merged: tuple[int, ...]
    extents: dict[str, int] = dataclasses.field(compare=False, repr=False)


def parse_pattern(text: object, sizes: tuple[tuple[str, int], ...]) -> Pattern:
    """Checks a pattern.

    Args:
        text: The pattern: "d (h k) -> d h k".
        sizes: Extents of some named axes.

    Returns:
        The pattern.

    Raises:
        AssignmentError: It is malformed, or does not use the sizes.

    Examples:
        >>> parse_pattern("a (b c) -> c a b", (("b", 2),)).after
        (('c',), ('a',), ('b',))
    """
    if not isinstance(text, str):
        raise AssignmentError(f"rearrange: expected a pattern, got {show_value(text)}.")
    sides = text.split("->")
    if len(sides) != 2:
        raise _error(text, "expected axes before and after one `->`")
    before, after = (_parse_side(side, text) for side in sides)
    first, second = (
        [name for axis in side for name in axis] for side in (before, after)
    )
    for names in (first, second):
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise _error(text, f"axis `{twice[0]}` stands twice on one side")
    if odd := sorted(set(first) ^ set(second)):
        raise _error(
            text,
            f"axis `{odd[0]}` stands on one side only; nothing is added or dropped",
        )
    if any(len(axis) > 1 and _ELLIPSIS in axis for axis in before):
        raise _error(text, "`...` cannot be split out of an axis")
    for name, size in sizes:
        if name not in first:
            raise _error(text, f"there is no axis `{name}`")
        if size < 0:
            raise _error(text, f"axis `{name}` cannot have {size} elements")
    return Pattern(text, sizes, before, after)


def steps_for(pattern: Pattern, shape: tuple[int, ...]) -> Steps:
    """Works out what a pattern does to a shape.

    Args:
        pattern: The pattern.
        shape: Shape of the operand.

    Returns:
        The steps.

    Raises:
        AssignmentError: The shape does not fit the pattern.

    Examples:
        >>> pattern = parse_pattern("d (h k) -> h d k", (("h", 4),))
        >>> steps_for(pattern, (8, 12))
        Steps(split=(8, 4, 3), axes=(1, 0, 2), merged=(4, 8, 3))
    """
    has_ellipsis = (_ELLIPSIS,) in pattern.before
    extra = len(shape) - (len(pattern.before) - has_ellipsis)
    if extra < 0 or (extra and not has_ellipsis):
        raise _error(pattern.text, f"shape {list(shape)} has {len(shape)} axes")
    known = dict(pattern.sizes)
    rest = tuple(f"{_ELLIPSIS}{i}" for i in range(extra))
    names: list[str] = []
    remaining = list(shape)
    for axis in _spread(pattern.before, rest):
        extent = remaining.pop(0)
        _fill_in(axis, extent, known, pattern, shape)
        names += axis
    order = _spread(pattern.after, rest)
    return Steps(
        split=tuple(known[name] for name in names),
        axes=tuple(names.index(name) for axis in order for name in axis),
        merged=tuple(math.prod(known[name] for name in axis) for axis in order),
        extents=known,
    )


def shape_before(
    pattern: Pattern, below: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[Steps, tuple[int, ...]]:
    """Works out which shape a pattern would turn into another one than it does.

    Args:
        pattern: The pattern.
        below: A shape that fits it.
        shape: The result that is wanted, of as many axes as that of `below`.

    Returns:
        The steps to the result, and the shape to begin with.

    Raises:
        AssignmentError: No extents, or several, give that result.

    Examples:
        >>> pattern = parse_pattern("d (h k) -> h d k", (("h", 4),))
        >>> shape_before(pattern, (8, 12), (4, 6, 3))[1]
        (6, 12)
    """
    steps = steps_for(pattern, below)
    if len(shape) != len(steps.merged):
        raise _error(pattern.text, f"shape {list(shape)} has {len(shape)} axes")
    extra = len(below) - (len(pattern.before) - ((_ELLIPSIS,) in pattern.before))
    rest = tuple(f"{_ELLIPSIS}{i}" for i in range(extra))
    known: dict[str, int] = dict(pattern.sizes)
    for axis, extent, old in zip(
        _spread(pattern.after, rest), shape, steps.merged, strict=True
    ):
        if extent == old:
            known |= {name: steps.extents[name] for name in axis}
        else:
            _fill_in(axis, extent, known, pattern, shape)
    before = _spread(pattern.before, rest)
    split = tuple(known[name] for axis in before for name in axis)
    return (
        Steps(split, steps.axes, shape, known),
        tuple(math.prod(known[name] for name in axis) for axis in before),
    )


def _fill_in(
    axis: Axis,
    extent: int,
    known: dict[str, int],
    pattern: Pattern,
    shape: tuple[int, ...],
) -> None:
    """Learns the one unknown extent of an axis, and checks that all multiply to it."""
    unknown = [name for name in axis if name not in known]
    product = math.prod(known[name] for name in axis if name in known)
    shown = f"({' '.join(axis)})" if len(axis) != 1 else axis[0]
    if len(unknown) > 1:
        raise _error(
            pattern.text,
            f"give the size of {' or '.join(f'`{name}`' for name in unknown)}",
        )
    if unknown and product and extent % product == 0:
        known[unknown[0]] = extent // product
    elif unknown or product != extent:
        sizes = ", ".join(f"{name}={known[name]}" for name in axis if name in known)
        raise _error(
            pattern.text,
            f"axis `{shown}` has {extent} elements in shape {list(shape)}, which "
            f"does not go with {sizes or 'an axis of 1'}",
        )


def _spread(side: tuple[Axis, ...], rest: tuple[str, ...]) -> list[Axis]:
    """Puts names for the axes that `...` stands for in its place."""
    axes: list[Axis] = []
    for axis in side:
        if axis == (_ELLIPSIS,):
            axes += [(name,) for name in rest]
        else:
            index = axis.index(_ELLIPSIS) if _ELLIPSIS in axis else None
            axes.append(
                axis if index is None else (*axis[:index], *rest, *axis[index + 1 :])
            )
    return axes


def _parse_side(side: str, text: str) -> tuple[Axis, ...]:
    axes: list[Axis] = []
    group: list[str] | None = None
    position = 0
    side = side.rstrip()
    while position < len(side):
        match = _TOKEN.match(side, position)
        if match is None:
            raise _error(text, f"`{side[position:].strip()[:20]}` is no axis")
        position = match.end()
        ellipsis, name, _, parenthesis = match.groups()
        if parenthesis == "(":
            if group is not None:
                raise _error(text, "parentheses do not nest")
            group = []
        elif parenthesis == ")":
            if group is None:
                raise _error(text, "`)` closes nothing")
            axes.append(tuple(group))
            group = None
        else:
            names = [_ELLIPSIS] if ellipsis else [name] if name else []
            if group is None:
                axes.append(tuple(names))
            else:
                group += names
    if group is not None:
        raise _error(text, "`(` is not closed")
    return tuple(axes)


def _error(text: str, fact: str) -> AssignmentError:
    return AssignmentError(f'rearrange("{text}"): {fact}.')
