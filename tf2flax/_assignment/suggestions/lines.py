"""Pairs of layers -> lines of a map, one for each family of leaves.

A line has captures where the numbers of both sides go in step, `stack` where a leaf
holds all blocks, and names otherwise.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from tf2flax._assignment.language.captures import literal_pattern
from tf2flax._assignment.language.expressions import Expression
from tf2flax._assignment.language.making import src, stack

from .blocks import Family, Numbers
from .fitting import Alignment
from .layers import PartSource, put_captures
from .transforms import Transform, find_transforms

# Names of captures, in order.
LETTERS: Final = "ijklmn"


@dataclasses.dataclass(frozen=True)
class Line:
    """An entry of a map, and what it fills.

    Attributes:
        value: Name of the leaves, with captures.
        leaves: Names of the leaves.
        path: Name of the tensor, with captures; "" if there are several, or a part.
        key: The source, where `path` is "".
        transform: What is done to the tensor.
        stack_axis: Axis along which all blocks are stacked; None for no stack.
        is_pattern: True if `path` and `value` have captures, or doubled braces.
        tensors: Names of the tensors of each leaf; () where `path` is "".
    """

    value: str
    leaves: tuple[str, ...]
    path: str = ""
    key: Expression | None = None
    transform: Transform | None = None
    stack_axis: int | None = None
    is_pattern: bool = False
    tensors: tuple[tuple[str, ...], ...] = ()

    @property
    def change(self) -> tuple[object, int | None]:
        """What is done to the tensor; equal for lines that can be one."""
        if self.transform is None or self.transform.is_plain:
            return None, self.stack_axis
        return self.transform[:2], self.stack_axis

    def source(self) -> Expression | str:
        """The key of the entry."""
        return (
            self.key
            if self.key is not None
            else source_key(
                self.path, self.transform, self.stack_axis, is_pattern=self.is_pattern
            )
        )


def source_key(
    path: str,
    transform: Transform | None,
    stack_axis: int | None,
    *,
    is_pattern: bool,
) -> Expression | str:
    """Writes the key for a tensor or a scope."""
    is_plain = transform is None or transform.is_plain
    if is_plain and stack_axis is None:
        return path
    source = src(path if is_pattern else literal_pattern(path))
    if transform is not None:
        source = transform.apply(source)
    if stack_axis is not None:
        return stack(source, over=LETTERS[0], axis=stack_axis)
    return source


def write_lines(
    origin: PartSource,
    leaf: Family,
    alignment: Alignment,
    kind: str,
    *,
    has_captures: bool = True,
) -> Iterator[Line]:
    """Writes the lines for a family of leaves.

    Args:
        origin: What fills them.
        leaf: The leaves.
        alignment: The blocks that both are in.
        kind: The kind of transform.
        has_captures: False to write a line for each leaf.
    """
    if leaf.stack_axis is not None:
        yield _write_stack(origin, leaf, alignment, kind)
        return
    # The numbers of each leaf -> those of the tensors that fill it.
    sources = {
        numbers: () if origin.how == "pieces" else alignment.pairs[numbers][0]
        for numbers in leaf.members
    }
    transforms = {
        numbers: _transform(origin, source, leaf, numbers, kind)
        for numbers, source in sources.items()
    }
    captures = _find_captures(sources) if has_captures else None
    if captures and len({t[:2] for t in transforms.values()}) == 1:
        value, texts = captures
        line = _line(
            origin,
            next(iter(sources.values())),
            texts,
            next(iter(transforms.values())),
            put_captures(leaf.pattern, value),
        )
        yield dataclasses.replace(
            line,
            leaves=tuple(leaf.name(numbers) for numbers in leaf.members),
            tensors=tuple(tuple(origin.names(source)) for source in sources.values()),
        )
        return
    for numbers, source in sources.items():
        name = leaf.name(numbers)
        line = _line(origin, source, None, transforms[numbers], name)
        names = (tuple(origin.names(source)),)
        yield dataclasses.replace(line, leaves=(name,), tensors=names)


def _transform(
    origin: PartSource, source: Numbers, leaf: Family, numbers: Numbers, kind: str
) -> Transform:
    options = find_transforms(origin.members[source], leaf.members[numbers])
    return next(option for option in options if option.kind == kind)


def _line(
    origin: PartSource,
    numbers: Numbers,
    texts: Sequence[str] | None,
    transform: Transform,
    value: str,
) -> Line:
    """One line, without its leaves: by the name of its tensor where there is one."""
    if origin.how != "whole":
        key = transform.apply(origin.expression(numbers, texts))
        value = value if texts is not None else literal_pattern(value)
        return Line(value, (), key=key)
    family = origin.families[0]
    path = (
        family.name(numbers) if texts is None else put_captures(family.pattern, texts)
    )
    if texts is None and not transform.is_plain:
        value = literal_pattern(value)
    return Line(value, (), path, None, transform, is_pattern=texts is not None)


def _write_stack(
    origin: PartSource, leaf: Family, alignment: Alignment, kind: str
) -> Line:
    """One stack of all blocks."""
    blocks = list(alignment.pairs[()])
    transform = _transform(origin, blocks[0], leaf, (), kind)
    is_counted = (
        origin.how == "whole"
        and len(blocks[0]) == 1
        and set(origin.members) == set(blocks)
        and _is_consecutive([int(numbers[0]) for numbers in blocks])
    )
    if is_counted:
        path = put_captures(origin.families[0].pattern, [f"{{{LETTERS[0]}}}"])
        axis = leaf.stack_axis
        return Line(
            leaf.pattern,
            (leaf.pattern,),
            path,
            None,
            transform,
            axis,
            is_pattern=True,
            tensors=(tuple(name for n in blocks for name in origin.names(n)),),
        )
    members = [transform.apply(origin.expression(n, None)) for n in blocks]
    key = stack(*members, axis=leaf.stack_axis or 0)
    return Line(literal_pattern(leaf.pattern), (leaf.pattern,), key=key)


def _is_consecutive(numbers: Sequence[int]) -> bool:
    return list(numbers) == list(range(numbers[0], numbers[0] + len(numbers)))


def _find_captures(
    sources: Mapping[Numbers, Numbers],
) -> tuple[list[str], list[str]] | None:
    """Captures for the leaf and the tensor, where numbers go in step.

    Returns:
        Texts such as `{i}` and `{i+1}` for each number; None where there is no rule.
    """
    first, second = next(iter(sources.items()))
    if not first or len(first) != len(second) or len(sources) < 2:
        return None
    # Mostly the first goes with the first; blocks within blocks may be turned round.
    for order in itertools.permutations(range(len(first))):
        steps = [
            _step({(leaf_n[place], n[of_tensor]) for leaf_n, n in sources.items()})
            for place, of_tensor in enumerate(order)
        ]
        rules = [step for step in steps if step is not None]
        if len(rules) == len(steps):
            value = [f"{s[0]}{{{a}}}" for s, a in zip(rules, LETTERS, strict=False)]
            texts = [
                f"{s[1]}{{{a}{s[2]}}}" for s, a in zip(rules, LETTERS, strict=False)
            ]
            return value, [texts[order.index(place)] for place in range(len(order))]
    return None


def _step(pairs: set[tuple[str, str]]) -> tuple[str, str, str] | None:
    """How numbers of the checkpoint follow from those of the target.

    Returns:
        Zeros before the number of the leaf, and of the tensor, and the difference as it
        stands in a capture; None where there is no rule.
    """
    if all(a == b for a, b in pairs):
        return "", "", ""
    if all(int(a) == int(b) for a, b in pairs):
        # 000 to 009 for 0 to 9: captures take no zeros away, so these stand before it.
        zeros = {b.removesuffix(a) for a, b in pairs if b.endswith(a)}
        if len(zeros) == 1 and all(b.endswith(a) for a, b in pairs):
            return "", zeros.pop(), ""
        zeros = {a.removesuffix(b) for a, b in pairs if a.endswith(b)}
        if len(zeros) == 1 and all(a.endswith(b) for a, b in pairs):
            return zeros.pop(), "", ""
        return None
    offsets = {int(b) - int(a) for a, b in pairs}
    is_padded = any(len(t) > 1 and t[0] == "0" for pair in pairs for t in pair)
    if len(offsets) != 1 or is_padded:
        return None
    return "", "", f"{offsets.pop():+d}"
