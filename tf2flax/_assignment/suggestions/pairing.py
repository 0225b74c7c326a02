"""Which layer of the checkpoint is which layer of the target, within aligned blocks.

Shapes say what can be; names, and the scopes of layers that are certain already, say
what is. A pair is certain if something speaks for it and nothing speaks as much for
another one.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Final, NamedTuple

from .assigning import assign
from .fitting import ANCHORS, Alignment, LayerFit, fit_layers, size_of
from .layers import Layer
from .scoring import Scorer

# Points by which a choice has to be better than all others.
MIN_MARGIN: Final = 0.3
# Points that have to speak for a pair, unless nothing else has its shapes.
MIN_POINTS: Final = 0.3
# What it says at most that other layers of two scopes are pairs, for each of so many
# levels.
_VOTE: Final = 0.5
_MAX_LEVELS: Final = 3
# What it says that two layers are in aligned blocks, and against them otherwise.
_BLOCK: Final = 1.0
_NO_SCOPES: Final[Mapping[str, Set[str]]] = {}
# Pairs that are compared in full; of more, those whose words are most alike.
_MAX_PAIRS: Final = 4_000
_MAX_COMPARED: Final = 200_000
_MAX_NEAR: Final = 16
# The part of all layers whose names are equal but for the habit.
_MOSTLY: Final = 0.8
_NUMBER: Final = re.compile(r"[0-9]+")
# What a norm begins with that is named after the layer behind it.
_BEFORE: Final = re.compile(r"(?<![^/])pre_(?=[^/]*$)")


class Rival(NamedTuple):
    """Another layer of the checkpoint that fits."""

    source: Layer
    fit: LayerFit
    alignment: Alignment


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
    """A layer of the target, and what most likely fills it.

    Attributes:
        source: The layer of the checkpoint.
        target: The layer of the target.
        fit: How it fits.
        alignment: The blocks that both are in.
        points: What speaks for it.
        margin: By how many points it is better than the next choice.
        is_only: True if no other layer fits, on either side.
        words: Words that both names have.
        rivals: Other layers that fit, best first.
    """

    source: Layer
    target: Layer
    fit: LayerFit
    alignment: Alignment
    points: float
    margin: float
    is_only: bool
    words: tuple[str, ...]
    rivals: tuple[Rival, ...] = ()

    @property
    def is_clear(self) -> bool:
        """True if no other choice is nearly as good."""
        return self.margin >= MIN_MARGIN

    @property
    def has_evidence(self) -> bool:
        """True if names or neighbours speak for it."""
        return self.points >= MIN_POINTS


def pair_layers(
    sources: Sequence[Layer],
    targets: Sequence[Layer],
    alignment: Alignment,
    shared: frozenset[str] = frozenset(),
    scopes: Mapping[str, Set[str]] = _NO_SCOPES,
) -> list[Pair]:
    """Chooses a layer of the checkpoint for each layer of the target that one fits.

    Args:
        sources: Layers of the checkpoint.
        targets: Layers of the target.
        alignment: The blocks that they are in.
        shared: Words that both sides use anywhere.
        scopes: Scopes of blocks that are aligned.
    """
    fits = _find_fits(sources, targets, alignment)
    if not fits:
        return []
    scorer = Scorer(sources, targets, shared)
    points = {
        (s, t): scorer.score(sources[s], targets[t])
        + _block_points(sources[s], targets[t], scopes)
        for s, t in fits
    }
    # Names alone; then also the scopes of what is certain by them.
    choices = assign({pair: points[pair] - fits[pair].cost for pair in fits})
    votes = _Votes(
        (sources[choice.source], targets[target])
        for target, choice in choices.items()
        if choice.margin >= MIN_MARGIN
        and (points[choice.source, target] >= MIN_POINTS or choice.margin > 10)
    )
    for s, t in points:
        points[s, t] += votes.between(sources[s], targets[t])
    choices = assign({pair: points[pair] - fits[pair].cost for pair in fits})
    return [
        Pair(
            sources[choice.source],
            targets[target],
            fits[choice.source, target],
            alignment,
            points[choice.source, target],
            choice.margin,
            not choice.rivals and choice.margin == float("inf"),
            tuple(scorer.words(sources[choice.source], targets[target])),
            tuple(Rival(sources[s], fits[s, target], alignment) for s in choice.rivals),
        )
        for target, choice in sorted(choices.items())
    ]


def fitted_part(pairs: Iterable[Pair], targets: Sequence[Layer]) -> float:
    """The part of the layers of a target that something fits, 0 to 1."""
    return len({id(pair.target) for pair in pairs}) / max(len(targets), 1)


def _find_fits(
    sources: Sequence[Layer], targets: Sequence[Layer], alignment: Alignment
) -> dict[tuple[int, int], LayerFit]:
    """All pairs that fit, found by the sizes of their kernels."""
    by_size: dict[object, list[int]] = {}
    for number, layer in enumerate(sources):
        for part, origin in layer.parts.items():
            by_size.setdefault((part, size_of(origin)), []).append(number)
    candidates: dict[int, list[int]] = {}
    for number, layer in enumerate(targets):
        anchor = min(layer.parts, key=ANCHORS.index)
        size = size_of(layer.parts[anchor])
        candidates[number] = by_size.get((anchor, size), [])
    if sum(map(len, candidates.values())) > _MAX_PAIRS:
        candidates = _prune(candidates, sources, targets)
    fits: dict[tuple[int, int], LayerFit] = {}
    # Layers of equal shapes fit alike; there are many of them.
    seen: dict[object, LayerFit | None] = {}
    signatures = [*map(_signature, sources)], [*map(_signature, targets)]
    for target, numbers in candidates.items():
        for source in numbers:
            key = signatures[0][source], signatures[1][target]
            if key not in seen:
                seen[key] = fit_layers(sources[source], targets[target], alignment)
            fit = seen[key]
            if fit is not None:
                fits[source, target] = fit
    return fits


def _signature(layer: Layer) -> object:
    return tuple(
        (part, origin.how, tuple(origin.members.items()))
        for part, origin in layer.parts.items()
    )


def _prune(
    candidates: Mapping[int, list[int]],
    sources: Sequence[Layer],
    targets: Sequence[Layer],
) -> dict[int, list[int]]:
    """Leaves out pairs whose names have little in common, where there are too many."""
    # Scopes that one side has around all of its names say nothing.
    around = _words_of_all(sources), _words_of_all(targets)
    spelled: dict[object, list[int]] = {}
    by_words: dict[Set[str], list[int]] = {}
    for number, layer in enumerate(sources):
        spelled.setdefault(_spelling(layer, around[0]), []).append(number)
        by_words.setdefault(layer.word_set - around[0], []).append(number)
    # Many targets have the same list of candidates.
    fitting = {id(numbers): set(numbers) for numbers in candidates.values()}
    equal: dict[int, list[int]] = {}
    for target, numbers in candidates.items():
        alike = spelled.get(_spelling(targets[target], around[1]), [])
        same = [source for source in alike if source in fitting[id(numbers)]]
        if len(same) == 1:
            equal[target] = same
    left = candidates
    if len(equal) > _MOSTLY * len(candidates):  # the same names in another habit
        taken = {numbers[0] for numbers in equal.values()}
        left = {
            target: [source for source in numbers if source not in taken]
            for target, numbers in candidates.items()
            if target not in equal
        }
    else:
        equal = {}
    if sum(map(len, left.values())) > _MAX_COMPARED:
        near: dict[int, list[int]] = {}
        for target, numbers in left.items():
            alike = by_words.get(targets[target].word_set - around[1], ())
            near[target] = sorted(set(numbers) & set(alike)) if alike else []
        return {**equal, **near}
    nearest = {
        target: sorted(
            numbers, key=functools.partial(_distance, sources, targets[target])
        )
        for target, numbers in left.items()
    }
    return {**equal, **{t: numbers[:_MAX_NEAR] for t, numbers in nearest.items()}}


def _distance(sources: Sequence[Layer], target: Layer, source: int) -> int:
    """Less for names with more words in common, most of all at their ends."""
    layer = sources[source]
    pairs = zip(reversed(layer.words), reversed(target.words), strict=False)
    return -len(layer.word_set & target.word_set) - sum(a == b for a, b in pairs)


def _words_of_all(layers: Sequence[Layer]) -> Set[str]:
    """Words that all names have."""
    return frozenset[str].intersection(*(layer.word_set for layer in layers))


def _spelling(layer: Layer, around: Set[str]) -> object:
    """Words and numbers of a name in order: equal for one name in two habits."""
    words = tuple(word for word in layer.words if word not in around)
    return words, tuple(_NUMBER.findall(layer.name))


def _block_points(
    source: Layer, target: Layer, scopes: Mapping[str, Set[str]]
) -> float:
    """Points for layers in blocks that are aligned, or with others."""
    if not scopes:
        return 0.0
    above = set(_scopes(target, is_own=True))
    for scope in _scopes(source, is_own=True):
        if scope in scopes:
            if scopes[scope] & above:
                return _BLOCK
            is_elsewhere = any(below & above for below in scopes.values())
            return -_BLOCK if is_elsewhere else 0.0
    return 0.0


class _Votes:
    """Scopes of both sides that certain pairs have in common."""

    def __init__(self, pairs: Iterable[tuple[Layer, Layer]]) -> None:
        self._together: dict[tuple[str, str], int] = {}
        self._sources: dict[str, int] = {}
        self._targets: dict[str, int] = {}
        for source, target in pairs:
            above = list(_scopes(source, is_own=True)), [*_scopes(target, is_own=True)]
            for scope in above[0]:
                self._sources[scope] = self._sources.get(scope, 0) + 1
            for scope in above[1]:
                self._targets[scope] = self._targets.get(scope, 0) + 1
            for first in above[0]:
                for second in above[1]:
                    key = first, second
                    self._together[key] = self._together.get(key, 0) + 1

    def between(self, source: Layer, target: Layer) -> float:
        """Points for two layers because of the scopes that they are in."""
        if not self._together:
            return 0.0
        points = 0.0
        is_own = "main" not in source.parts  # a bias, whose kernels lie below it
        nearest = zip(range(_MAX_LEVELS), _scopes(source, is_own=is_own), strict=False)
        above = list(_scopes(target, is_own="main" not in target.parts))
        for _, first in nearest:
            points += _VOTE * max(
                (self._agreement(first, second) for second in above), default=0.0
            )
        return points

    def _agreement(self, first: str, second: str) -> float:
        count = self._together.get((first, second), 0)
        total = self._sources.get(first, 1) * self._targets.get(second, 1)
        return count * count / total


def _scopes(layer: Layer, *, is_own: bool) -> Iterator[str]:
    """Scopes around a layer, the nearest first; also those that `_` makes.

    Args:
        layer: The layer.
        is_own: True to begin with its own name: its normalisation may lie below it.
    """
    # `pre_attention_norm` belongs to `attention`, as `attention_norm` does.
    name = _BEFORE.sub("", layer.name) if layer.is_norm else layer.name
    end = len(name)
    if is_own:
        yield name
    if layer.beside:
        yield layer.beside
    while True:
        end = max(name.rfind("/", 0, end), name.rfind("_", 0, end))
        if end <= 0:
            return
        yield name[:end]
