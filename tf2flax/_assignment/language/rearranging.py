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
# How much of a text that cannot be read a message shows (characters).
_MAX_SHOWN: Final = 20

# One axis: the names that are merged in it; () is an axis of length 1.
Axis = tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern, checked.

    Attributes:
        text: The pattern as it was written.
        sizes: Lengths of named axes, as they were given.
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

        "d (h k) -> h d k" with h=4, of shape (8, 12)

        split     (8, 4, 3)     d h k, every name an axis
        axes      (1, 0, 2)     h d k
        merged    (4, 8, 3)     nothing is merged

    Attributes:
        split: Shape after every axis has been split.
        axes: These axes in their new order.
        merged: Shape after axes have been merged.
        lengths: Length of every named axis.
    """

    split: tuple[int, ...]
    axes: tuple[int, ...]
    merged: tuple[int, ...]
    lengths: dict[str, int] = dataclasses.field(compare=False, repr=False)


def parse_pattern(text: object, sizes: tuple[tuple[str, int], ...]) -> Pattern:
    """Checks a pattern.

    Args:
        text: The pattern: "d (h k) -> d h k".
        sizes: Lengths of some named axes.

    Raises:
        AssignmentError: The pattern is malformed, or does not use the sizes.

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
    names = _check_names(before, after, text)
    if any(len(axis) > 1 and _ELLIPSIS in axis for axis in before):
        # Nothing says how many axes the dots stand for there, and how long they are.
        raise _error(text, "`...` cannot be split out of an axis")
    for name, size in sizes:
        if name not in names:
            raise _error(text, f"there is no axis `{name}`")
        if size < 0:
            raise _error(text, f"axis `{name}` cannot have {size} elements")
    return Pattern(text, sizes, before, after)


def _check_names(
    before: tuple[Axis, ...], after: tuple[Axis, ...], text: str
) -> set[str]:
    """Checks that each name stands once on each side; dots are a name here."""
    sets: list[set[str]] = []
    for side in (before, after):
        names = [name for axis in side for name in axis]
        sets.append(set(names))
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise _error(text, f"axis `{twice[0]}` occurs twice on one side")
    if unpaired := sorted(sets[0] ^ sets[1]):
        raise _error(
            text,
            f"axis `{unpaired[0]}` stands on one side only; nothing is added or "
            "dropped",
        )
    return sets[0]


def axes_before(pattern: Pattern, shape: tuple[int, ...]) -> list[Axis]:
    """Names the axes of an operand, with one name for each that `...` stands for.

    Args:
        pattern: The pattern.
        shape: Shape of the operand.

    Raises:
        AssignmentError: The shape has another number of axes.

    Examples:
        >>> axes_before(parse_pattern("... (h k) -> ... h k", ()), (5, 32))
        [('...0',), ('h', 'k')]
    """
    return _without_dots(pattern.before, _names_of_dots(pattern, shape))


def steps_for(pattern: Pattern, shape: tuple[int, ...]) -> Steps:
    """Works out what a pattern does to a shape.

    Args:
        pattern: The pattern.
        shape: Shape of the operand.

    Raises:
        AssignmentError: The shape does not fit the pattern.

    Examples:
        >>> pattern = parse_pattern("d (h k) -> h d k", (("h", 4),))
        >>> steps_for(pattern, (8, 12))
        Steps(split=(8, 4, 3), axes=(1, 0, 2), merged=(4, 8, 3))
    """
    before = axes_before(pattern, shape)
    after = _without_dots(pattern.after, _names_of_dots(pattern, shape))
    lengths = dict(pattern.sizes)
    for axis, length in zip(before, shape, strict=True):
        _infer_length(axis, length, lengths, pattern, shape)
    names = [name for axis in before for name in axis]
    return Steps(
        split=tuple(lengths[name] for name in names),
        axes=tuple(names.index(name) for axis in after for name in axis),
        merged=_lengths_of(after, lengths),
        lengths=lengths,
    )


def shape_before(
    pattern: Pattern, below: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[Steps, tuple[int, ...]]:
    """Works out which operand a pattern would turn into a result of another shape.

    Args:
        pattern: The pattern.
        below: Shape of an operand that fits it.
        shape: Shape of the result, of as many axes as that of `below` has.

    Returns:
        The steps to that result, and the shape of the operand.

    Raises:
        AssignmentError: No lengths, or several, give that result.

    Examples:
        >>> pattern = parse_pattern("d (h k) -> h d k", (("h", 4),))
        >>> shape_before(pattern, (8, 12), (4, 6, 3))[1]
        (6, 12)
    """
    steps = steps_for(pattern, below)
    if len(shape) != len(steps.merged):
        raise _error(pattern.text, f"shape {list(shape)} has {len(shape)} axes")
    before = axes_before(pattern, below)
    after = _without_dots(pattern.after, _names_of_dots(pattern, below))
    lengths: dict[str, int] = dict(pattern.sizes)
    for axis, length, old_length in zip(after, shape, steps.merged, strict=True):
        if length == old_length:
            # A merged axis that has not changed is split as it was.
            lengths |= {name: steps.lengths[name] for name in axis}
        else:
            _infer_length(axis, length, lengths, pattern, shape)
    split = tuple(lengths[name] for axis in before for name in axis)
    return Steps(split, steps.axes, shape, lengths), _lengths_of(before, lengths)


def shape_of_operand(pattern: Pattern, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Works out the only operand that a pattern turns into a result.

    Args:
        pattern: The pattern.
        shape: Shape of the result.

    Raises:
        AssignmentError: No operand gives that result, or several do.

    Examples:
        >>> shape_of_operand(parse_pattern("d (h k) -> h d k", ()), (4, 6, 3))
        (6, 12)
    """
    if any(len(axis) > 1 and _ELLIPSIS in axis for axis in pattern.after):
        raise _error(pattern.text, "`...` cannot be split out of an axis")
    turned = dataclasses.replace(pattern, before=pattern.after, after=pattern.before)
    return steps_for(turned, shape).merged


def _lengths_of(axes: list[Axis], lengths: dict[str, int]) -> tuple[int, ...]:
    return tuple(math.prod(lengths[name] for name in axis) for axis in axes)


def _infer_length(
    axis: Axis,
    length: int,
    lengths: dict[str, int],
    pattern: Pattern,
    shape: tuple[int, ...],
) -> None:
    """Adds the one missing length of a merged axis to the others.

    Args:
        axis: Names that are merged in the axis.
        length: Its length.
        lengths: Lengths by name, of all that are known so far; changed in place.
        pattern: The pattern, for messages.
        shape: The shape, for messages.

    Raises:
        AssignmentError: Several are missing, or they do not multiply to the length.
    """
    missing = [name for name in axis if name not in lengths]
    if len(missing) > 1:
        raise _error(
            pattern.text,
            f"give the size of {' or '.join(f'`{name}`' for name in missing)}",
        )
    product = math.prod(lengths[name] for name in axis if name in lengths)
    # With a product of 0 the missing length could be any.
    if missing and product and length % product == 0:
        lengths[missing[0]] = length // product
    elif missing or product != length:
        text = f"({' '.join(axis)})" if len(axis) != 1 else axis[0]
        sizes = ", ".join(f"{name}={lengths[name]}" for name in axis if name in lengths)
        raise _error(
            pattern.text,
            f"axis `{text}` has {length} elements in shape {list(shape)}, which "
            f"does not agree with {sizes or 'an axis of 1'}",
        )


def _names_of_dots(pattern: Pattern, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Names the axes that `...` stands for in a shape of an operand."""
    has_dots = (_ELLIPSIS,) in pattern.before
    count = len(shape) - (len(pattern.before) - has_dots)
    if count < 0 or (count and not has_dots):
        raise _error(pattern.text, f"shape {list(shape)} has {len(shape)} axes")
    return tuple(f"{_ELLIPSIS}{i}" for i in range(count))


def _without_dots(side: tuple[Axis, ...], dots: tuple[str, ...]) -> list[Axis]:
    """Puts the names of axes in place of `...`.

    With two axes, `...` becomes two axes, and `(... k)` one of three names.
    """
    axes: list[Axis] = []
    for axis in side:
        if axis == (_ELLIPSIS,):
            axes += [(name,) for name in dots]
        elif _ELLIPSIS in axis:
            place = axis.index(_ELLIPSIS)
            axes.append((*axis[:place], *dots, *axis[place + 1 :]))
        else:
            axes.append(axis)
    return axes


def _parse_side(side: str, text: str) -> tuple[Axis, ...]:
    """Reads the axes of one side; `text` is the whole pattern, for messages."""
    axes: list[Axis] = []
    # Names since the last opening parenthesis; None outside of parentheses.
    group: list[str] | None = None
    position = 0
    side = side.rstrip()
    while position < len(side):
        match = _TOKEN.match(side, position)
        if match is None:
            unread = side[position:].strip()[:_MAX_SHOWN]
            raise _error(text, f"`{unread}` is not a valid axis")
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
            # A 1 names nothing: alone it is an axis of length 1, merged it is nothing.
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
