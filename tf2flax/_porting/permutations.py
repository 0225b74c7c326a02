"""One expression of a map -> expressions that permute what it says, with equal shapes.

    src("w").rearrange("d (h k) -> d h k", h=4)     ... "d (k h) -> d h k"
    src("w")                                        src("w").transpose()
    src("w")[:, 0:6]                                src("w")[:, 6:12]

Each has a key, which is equal for the same change of other expressions, so that it can
be tried in all lines of a map at once. Looks at shapes alone, and reads nothing.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from tf2flax._assignment.language import expressions as ex
from tf2flax._assignment.language import nodes
from tf2flax._assignment.language.captures import parse_name
from tf2flax._assignment.language.literals import IndexItem
from tf2flax._assignment.language.rearranging import Axis
from tf2flax._assignment.layouts.lowering import lower
from tf2flax._assignment.layouts.shapes import axis_groups
from tf2flax._base.errors import AssignmentError
from tf2flax._base.values import TensorSpec

SpecOf = Callable[[str], TensorSpec]
# What a change is: its kind first, then what is permuted.
Key = tuple[Any, ...]

# How many axes, parts of a join or names in parentheses are permuted in every way.
_MAX_PERMUTED: Final = 4
# Parts of an axis that are permuted: halves (gated units), thirds (query, key, value),
# quarters (gates of an LSTM).
_PARTS: Final = (2, 3, 4)
# How many ways to split an axis in two are tried.
_MAX_SPLITS: Final = 6
_NAMES: Final = "abcdefghijklmnopqrstuvwxyz"
_NUMBER: Final = re.compile(r"(\d+)")


@dataclasses.dataclass(frozen=True, slots=True)
class Permutation:
    """A changed expression.

    Attributes:
        key: What is changed, whatever the expression.
        expression: The expression, of the same shape.
        what: The change in words.
    """

    key: Key
    expression: ex.Expression
    what: str


def permutations_of(expression: ex.Expression, spec_of: SpecOf) -> list[Permutation]:
    """Lists permutations of an expression, those that are mistaken most often first.

    Args:
        expression: The expression, without captures.
        spec_of: Gives shape and dtype of a tensor.
    """
    shape = lower(expression, spec_of).shape
    kinds = (
        _of_forgetting(expression, shape),
        _of_inner(expression, spec_of),
        _of_slices(expression, spec_of),
        _of_axes(expression, shape),
        _of_parts(expression, shape),
        _of_splits(expression, shape),
    )
    seen = {repr(expression)}
    kept: list[Permutation] = []
    for permutation in itertools.chain(*kinds):
        text = repr(permutation.expression)
        if text not in seen and _has_shape(permutation.expression, shape, spec_of):
            seen.add(text)
            kept.append(permutation)
    return kept


def exchanged(expression: ex.Expression, first: str, second: str) -> ex.Expression:
    """Exchanges two components of names: what `query` fills, and what `key` fills."""
    swap = {first: second, second: first}

    def change(source: ex.Source) -> ex.Source:
        parts = source.pattern.split("/")
        return ex.Source("/".join(swap.get(part, part) for part in parts))

    return ex.map_sources(expression, change)


def regrouped(expression: ex.Expression, key: Key) -> ex.Expression:
    """Permutes names in parentheses wherever they stand in a pattern.

    Needs no shapes, so that it works on a key with captures.

    Args:
        expression: The expression.
        key: `("group", names, permuted)`.
    """
    _, names, permuted = key
    if isinstance(expression, ex.Rearranged):
        pattern = expression.pattern
        before = [permuted if axis == names else axis for axis in pattern.before]
        after = [permuted if axis == names else axis for axis in pattern.after]
        operand = regrouped(expression.operand, key)
        return operand.rearrange(
            f"{_side_text(before)} -> {_side_text(after)}", **dict(pattern.sizes)
        )
    children = [regrouped(child, key) for child in expression.children]
    return expression.with_children(children) if children else expression


def _has_shape(
    expression: ex.Expression, shape: tuple[int, ...], spec_of: SpecOf
) -> bool:
    try:
        return lower(expression, spec_of).shape == shape
    except AssignmentError:
        return False


def _of_inner(expression: ex.Expression, spec_of: SpecOf) -> Iterator[Permutation]:
    """Changes of the operations themselves, the outermost first."""
    match expression:
        case ex.Rearranged():
            yield from _of_pattern(expression)
        case nodes.Reshaped():
            yield from _of_reshape(expression, spec_of)
        case nodes.Transposed():
            rank = len(lower(expression.operand, spec_of).shape)
            plain = tuple(range(rank))
            for axes in (plain, *_orders(min(rank, _MAX_PERMUTED))):
                changed = expression.operand
                if axes != plain:
                    changed = changed.transpose(axes)
                yield Permutation(("axes", axes), changed, "axes in another order")
        case ex.Joined():
            yield from _of_join(expression)
        case _:
            pass
    for place, child in enumerate(expression.children):
        for permutation in _of_inner(child, spec_of):
            children = list(expression.children)
            children[place] = permutation.expression
            changed = expression.with_children(children)
            yield dataclasses.replace(permutation, expression=changed)


def _of_pattern(expression: ex.Rearranged) -> Iterator[Permutation]:
    pattern = expression.pattern
    groups = dict.fromkeys((*pattern.before, *pattern.after))
    for names in groups:
        if 1 < len(names) <= _MAX_PERMUTED and "..." not in names:
            for permuted in _orders_of(names):
                key = ("group", names, permuted)
                what = f"({' '.join(permuted)}) for ({' '.join(names)})"
                yield Permutation(key, regrouped(expression, key), what)
    # Axes of the result, or of the operand, in another order.
    sides = [list(pattern.before), list(pattern.after)]
    for number, side in enumerate(sides):
        if not 1 < len(side) <= _MAX_PERMUTED:
            continue
        for order in _orders(len(side)):
            changed = [list(pattern.before), list(pattern.after)]
            changed[number] = [side[axis] for axis in order]
            text = f"{_side_text(changed[0])} -> {_side_text(changed[1])}"
            yield Permutation(
                ("side", number, order),
                _rearranged(expression.operand, text, dict(pattern.sizes)),
                f"{_side_text(changed[number])} for {_side_text(side)}",
            )


def _rearranged(
    operand: ex.Expression, text: str, sizes: dict[str, int]
) -> ex.Expression:
    return operand.rearrange(text, **sizes)


def _of_reshape(expression: nodes.Reshaped, spec_of: SpecOf) -> Iterator[Permutation]:
    """The same reshape with elements of a merged axis in another order.

    (32,) -> (4, 8)     "(a b) -> a b" as it is, and "(b a) -> a b"
    """
    old = lower(expression.operand, spec_of).shape
    new = lower(expression, spec_of).shape
    if not math.prod(old):  # no elements are in any order
        return
    for before, after in axis_groups(old, new):
        lengths = [new[axis] for axis in after]
        is_split = len(before) == 1 and 1 < len(after) <= _MAX_PERMUTED
        is_merged = len(after) == 1 and 1 < len(before) <= _MAX_PERMUTED
        if not is_split and not is_merged:
            continue
        if is_merged:
            lengths = [old[axis] for axis in before]
        for order in _orders(len(lengths)):
            names = _NAMES[: len(lengths)]
            permuted = tuple(names[axis] for axis in order)
            yield Permutation(
                ("reshape", len(lengths), order),
                _reordered(expression, old, new, before, after, permuted),
                f"({' '.join(permuted)}) for ({' '.join(names)})",
            )


def _reordered(
    expression: nodes.Reshaped,
    old: Sequence[int],
    new: Sequence[int],
    before: range,
    after: range,
    permuted: tuple[str, ...],
) -> ex.Expression:
    """A reshape as a pattern, in which one group of axes is in another order."""
    sizes: dict[str, int] = {}
    left: list[Axis] = []
    right: list[Axis] = []
    names = iter(_NAMES[len(permuted) :])
    for these, those in axis_groups(tuple(old), tuple(new)):
        if (these, those) == (before, after):
            is_split = len(these) == 1
            shape = [new[a] for a in those] if is_split else [old[a] for a in these]
            plain = sorted(permuted)
            sizes.update(zip(plain, shape, strict=True))
            left += [permuted] if is_split else [(name,) for name in plain]
            right += [(name,) for name in plain] if is_split else [permuted]
        elif len(these) == len(those) == 1:
            name = next(names)
            left.append((name,))
            right.append((name,))
        else:
            return expression  # another group is split: not in one pattern
    return expression.operand.rearrange(
        f"{_side_text(left)} -> {_side_text(right)}", **sizes
    )


def _of_join(expression: ex.Joined) -> Iterator[Permutation]:
    operands = expression.operands
    count = len(operands)
    if count <= _MAX_PERMUTED:
        orders = list(_orders(count))
    else:
        texts = [repr(operand) for operand in operands]
        numeric = tuple(sorted(range(count), key=lambda i: _numeric(texts[i])))
        orders = [numeric, tuple(range(count))[::-1]]
    for order in orders:
        changed = expression.with_children([operands[i] for i in order])
        yield Permutation(("operands", order), changed, "tensors in another order")


def _of_slices(expression: ex.Expression, spec_of: SpecOf) -> Iterator[Permutation]:
    """Other ones of equal parts of an axis, in all slices: gates in one kernel."""
    counts = dict.fromkeys(_part_counts(expression, spec_of))
    for count in counts:
        for order in _orders(count):
            yield Permutation(
                ("slices", count, order),
                _resliced(expression, order, spec_of),
                f"parts of an axis in the order {list(order)}",
            )


def _part_counts(expression: ex.Expression, spec_of: SpecOf) -> Iterator[int]:
    """How many equal parts there are, of which a slice takes one."""
    if isinstance(expression, nodes.Sliced):
        for _, _, count in _parts_of(expression, spec_of):
            yield count
    for child in expression.children:
        yield from _part_counts(child, spec_of)


def _parts_of(
    expression: nodes.Sliced, spec_of: SpecOf
) -> Iterator[tuple[int, int, int]]:
    """Axis, number of the part and number of all parts, of each item that is one."""
    # Items would number other axes than those of the operand.
    if ... in expression.index or None in expression.index:
        return
    shape = lower(expression.operand, spec_of).shape
    for axis, item in enumerate(expression.index):
        if isinstance(item, tuple):
            start, stop, step = slice(*item).indices(shape[axis])
            length = stop - start
            count = shape[axis] // length if length > 0 and step == 1 else 0
            if count in _PARTS and count * length == shape[axis] and not start % length:
                yield axis, start // length, count


def _resliced(
    expression: ex.Expression, order: tuple[int, ...], spec_of: SpecOf
) -> ex.Expression:
    children = [_resliced(child, order, spec_of) for child in expression.children]
    changed = expression.with_children(children) if children else expression
    if not isinstance(changed, nodes.Sliced):
        return changed
    shape = lower(changed.operand, spec_of).shape
    index: list[IndexItem] = list(changed.index)
    for axis, part, count in _parts_of(changed, spec_of):
        if count == len(order):
            length = shape[axis] // count
            start = order[part] * length
            index[axis] = (start, start + length, None)
    return dataclasses.replace(changed, index=tuple(index))


def _of_forgetting(
    expression: ex.Expression, shape: tuple[int, ...]
) -> Iterator[Permutation]:
    """A part of a bias plus 1: TensorFlow's LSTMs forget so when they run, not Keras's.

    What a map adds is left out: `suggest` takes it to be 1.
    """
    if len(shape) != 1:
        return
    if isinstance(expression, nodes.Sliced):
        yield Permutation(("forget", 1.0), expression + 1.0, "the forget bias added")
    elif isinstance(expression, nodes.WithNumber) and expression.operator == "+":
        what = "the forget bias left out"
        yield Permutation(("forget", 0.0), expression.operand, what)


def _of_axes(
    expression: ex.Expression, shape: tuple[int, ...]
) -> Iterator[Permutation]:
    """Axes of equal lengths, exchanged: square kernels, and (m i) for (i m)."""
    if not 1 < len(shape) <= _MAX_PERMUTED or isinstance(expression, nodes.Transposed):
        return
    for order in _orders(len(shape)):
        if tuple(shape[axis] for axis in order) == shape:
            is_reversed = order == tuple(reversed(range(len(shape))))
            changed = expression.transpose(*(() if is_reversed else (order,)))
            yield Permutation(("axes", order), changed, "axes in another order")


def _of_parts(
    expression: ex.Expression, shape: tuple[int, ...]
) -> Iterator[Permutation]:
    """Halves, thirds or quarters of an axis in another order, the last axis first."""
    for count, axis in itertools.product(_PARTS, reversed(range(len(shape)))):
        if shape[axis] % count or not shape[axis]:
            continue
        names, text = _pattern_of(shape, axis, "(y z)")
        for order in _orders(count):
            split = expression.rearrange(f"{text} -> {names}", y=count)
            taken = split.take(order, axis=axis)
            yield Permutation(
                ("parts", axis - len(shape), count, order),
                taken.rearrange(f"{names} -> {text}"),
                f"{count} parts of an axis in the order {list(order)}",
            )


def _of_splits(
    expression: ex.Expression, shape: tuple[int, ...]
) -> Iterator[Permutation]:
    """An axis of two merged ones, (b a) for (a b): heads, and rows by `id % parts`."""
    for axis in reversed(range(len(shape))):
        length = shape[axis]
        divisors = [n for n in range(2, length) if length % n == 0]
        for divisor in divisors[:_MAX_SPLITS]:
            _, text = _pattern_of(shape, axis, "(y z)")
            _, swapped = _pattern_of(shape, axis, "(z y)")
            yield Permutation(
                ("split", axis - len(shape), divisor),
                expression.rearrange(f"{text} -> {swapped}", y=divisor),
                f"(z y) for (y z) on an axis of {length}, y={divisor}",
            )


def _pattern_of(shape: Sequence[int], axis: int, split: str) -> tuple[str, str]:
    """Names of all axes with one split in two, and with it written as given."""
    names = list(_NAMES[: len(shape)])
    apart = [*names[:axis], *split.strip("()").split(), *names[axis + 1 :]]
    names[axis] = split
    return " ".join(apart), " ".join(names)


def _orders(count: int) -> Iterator[tuple[int, ...]]:
    """All orders but the plain one; two that are exchanged come first."""
    plain = tuple(range(count))
    orders = [order for order in itertools.permutations(plain) if order != plain]
    moved = {o: sum(a != b for a, b in zip(o, plain, strict=True)) for o in orders}
    yield from sorted(orders, key=lambda order: moved[order])


def _orders_of(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for order in _orders(len(names)):
        yield tuple(names[i] for i in order)


def _side_text(side: Sequence[Axis]) -> str:
    """A side of a pattern, as it is written."""
    texts = [
        axis[0] if len(axis) == 1 else f"({' '.join(axis)})" if axis else "1"
        for axis in side
    ]
    return " ".join(texts)


def _numeric(text: str) -> list[Any]:
    """Sorts `w_10` after `w_2`."""
    return [int(part) if part.isdigit() else part for part in _NUMBER.split(text)]


def source_names(expression: ex.Expression) -> list[str]:
    """Names of the tensors of an expression without captures."""
    return [parse_name(source.pattern).literal for source in ex.sources_of(expression)]
