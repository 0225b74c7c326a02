"""Whether a layer of the checkpoint can fill a layer of the target, by shapes alone."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Final

from .blocks import Group, Numbers, Shape, in_order
from .layers import Layer, PartSource
from .transforms import Transform, find_transforms
from .words import Part, read_words

# The part of a layer that says most about it comes first.
ANCHORS: Final[tuple[Part, ...]] = ("main", "scale", "mean", "bias", "var")


@dataclasses.dataclass(frozen=True)
class Alignment:
    """Which blocks of a checkpoint are which blocks of a target.

    Attributes:
        source: Blocks of the checkpoint.
        target: Blocks of the target.
        pairs: Numbers of the target -> numbers of the checkpoint: one block, or all of
            them for a stack.
        whole: The alignment of which this one has the blocks of one kind.
        is_most: True if no other kind has as many blocks.
    """

    source: Group
    target: Group
    pairs: Mapping[Numbers, Sequence[Numbers]]
    whole: Alignment | None = None
    is_most: bool = True


def align(source: Group, target: Group) -> Alignment | None:
    """Aligns blocks in the order of their numbers; None if these are not as many.

    Args:
        source: Blocks of the checkpoint.
        target: Blocks of the target, or a stack of so many.
    """
    if target.is_stacked:
        return Alignment(source, target, {(): source.numbers})
    if len(source.numbers) != len(target.numbers):
        return None
    order = _find_order(source, target)
    numbers = in_order(source.numbers, order)
    pairs = zip(target.numbers, numbers, strict=True)
    return Alignment(source, target, {leaf: [tensor] for leaf, tensor in pairs})


def _find_order(source: Group, target: Group) -> tuple[int, ...]:
    """Which level of the checkpoint each level of blocks within blocks is.

    `layer_0/expert_1` is `experts_1/layers_0`: as many on each level, and their words.
    """
    levels = tuple(range(len(source.prefixes)))
    if len(levels) < 2 or len(levels) != len(target.prefixes):
        return levels
    words = [
        [{w.removesuffix("s") for w in read_words(prefix)} for prefix in group.prefixes]
        for group in (source, target)
    ]
    counts = [
        [len({numbers[level] for numbers in group.numbers}) for level in levels]
        for group in (source, target)
    ]

    def likeness(order: tuple[int, ...]) -> tuple[int, int]:
        pairs = list(zip(order, levels, strict=True))
        return (
            sum(counts[0][s] == counts[1][t] for s, t in pairs),
            sum(len(words[0][s] & words[1][t]) for s, t in pairs),
        )

    # The first is the order as it is, which wins where nothing speaks against it.
    return max(itertools.permutations(levels), key=likeness)


@dataclasses.dataclass(frozen=True)
class LayerFit:
    """How a layer fills another one.

    Attributes:
        options: Transforms of each part that all members allow, the usual one first.
        missing: Parts of the target that the layer of the checkpoint lacks.
        surplus: Number of parts of the checkpoint that the target lacks.
    """

    options: Mapping[Part, tuple[Transform, ...]]
    missing: tuple[Part, ...]
    surplus: int

    @property
    def cost(self) -> float:
        """How unusual it is."""
        costs = sum(options[0].cost for options in self.options.values())
        return costs + len(self.missing) + 0.25 * self.surplus


def fit_layers(source: Layer, target: Layer, alignment: Alignment) -> LayerFit | None:
    """Fits a layer; None if a part that both have does not fit."""
    options: dict[Part, tuple[Transform, ...]] = {}
    missing: list[Part] = []
    for part, leaf in target.parts.items():
        origin = source.parts.get(part)
        if origin is None:
            missing.append(part)
            continue
        transforms = _common_transforms(origin, leaf, alignment)
        if not transforms:
            return None
        options[part] = transforms
    if not any(anchor in options for anchor in ANCHORS[:3]) and missing:
        return None
    surplus = sum(part not in target.parts for part in source.parts)
    return LayerFit(options, tuple(missing), surplus) if options else None


def _common_transforms(
    origin: PartSource, leaf: PartSource, alignment: Alignment
) -> tuple[Transform, ...]:
    """Transforms that fit all members, whatever the sizes of each."""
    # Members of a family mostly have equal shapes, which are compared once.
    shapes: dict[tuple[Shape, Shape], None] = {}
    members = origin.members
    for numbers, shape in leaf.members.items():
        for source_numbers in _sources_of(origin, numbers, alignment):
            if source_numbers not in members:
                return ()
            shapes[members[source_numbers], shape] = None
    common: dict[str, Transform] | None = None
    for pair in shapes:
        options = {option.kind: option for option in find_transforms(*pair)}
        if common is None:
            common = options
        else:
            common = {kind: t for kind, t in common.items() if kind in options}
        if not common:
            return ()
    return tuple((common or {}).values())


def _sources_of(
    origin: PartSource, numbers: Numbers, alignment: Alignment
) -> Sequence[Numbers]:
    if origin.how == "pieces":
        return [()]
    return alignment.pairs.get(numbers, [("?",)])


def size_of(origin: PartSource) -> int:
    """Number of elements of the first member."""
    return math.prod(next(iter(origin.members.values())))
