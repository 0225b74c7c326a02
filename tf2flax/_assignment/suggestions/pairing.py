"""Which layer of the checkpoint is which layer of the target, within aligned blocks.

Shapes say what can be; names, and the scopes of layers that are certain already, say
what is. A pair is certain if something speaks for it and nothing speaks as much for
another one.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
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
# Pairs that are looked at in full; of more, only those with the same words.
_MAX_PAIRS: Final = 60_000


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
) -> list[Pair]:
    """Chooses a layer of the checkpoint for each layer of the target that one fits.

    Args:
        sources: Layers of the checkpoint.
        targets: Layers of the target.
        alignment: The blocks that they are in.
        shared: Words that both sides use anywhere.
    """
    fits = _find_fits(sources, targets, alignment)
    if not fits:
        return []
    scorer = Scorer(sources, targets, shared)
    points = {(s, t): scorer.score(sources[s], targets[t]) for s, t in fits}
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


def coverage(pairs: Iterable[Pair], targets: Sequence[Layer]) -> float:
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
    candidates: list[tuple[int, int]] = []
    by_words: dict[frozenset[str], list[int]] = {}
    for number, layer in enumerate(targets):
        anchor = next((part for part in ANCHORS if part in layer.parts), None)
        if anchor is None:
            continue
        near = by_size.get((anchor, _first_size(layer, anchor, alignment)), [])
        candidates += [(source, number) for source in near]
    if len(candidates) > _MAX_PAIRS:
        for number, layer in enumerate(sources):
            by_words.setdefault(_key_of(layer), []).append(number)
        candidates = [
            (s, t)
            for t, layer in enumerate(targets)
            for s in by_words.get(_key_of(layer), ())
        ]
    fits: dict[tuple[int, int], LayerFit] = {}
    for source, target in candidates:
        fit = fit_layers(sources[source], targets[target], alignment)
        if fit is not None:
            fits[source, target] = fit
    return fits


def _first_size(layer: Layer, anchor: object, alignment: Alignment) -> int:
    """Size of the member that is compared with the first one of the checkpoint."""
    del alignment
    return size_of(layer.parts[anchor])  # pyright: ignore[reportArgumentType]


def _key_of(layer: Layer) -> frozenset[str]:
    """Words and numbers of a layer: equal names in other habits."""
    return layer.word_set | set(re.findall(r"[0-9]+", layer.name))


class _Votes:
    """Scopes of both sides that certain pairs have in common."""

    def __init__(self, pairs: Iterable[tuple[Layer, Layer]]) -> None:
        self._together: dict[tuple[str, str], int] = {}
        self._sources: dict[str, int] = {}
        self._targets: dict[str, int] = {}
        for source, target in pairs:
            above = list(_scopes(source)), list(_scopes(target))
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
        for _, first in zip(range(_MAX_LEVELS), _scopes(source), strict=False):
            points += _VOTE * max(
                (self._agreement(first, second) for second in _scopes(target)),
                default=0.0,
            )
        return points

    def _agreement(self, first: str, second: str) -> float:
        count = self._together.get((first, second), 0)
        return (
            count * count / (self._sources[first] * self._targets[second])
            if count
            else 0.0
        )


def _scopes(layer: Layer) -> Iterator[str]:
    """Scopes around a layer, the nearest first; also those that `_` makes."""
    name = layer.name
    end = len(name)
    if "main" not in layer.parts:
        yield name  # a bias of a scope, whose kernels lie below it
    while True:
        end = max(name.rfind("/", 0, end), name.rfind("_", 0, end))
        if end <= 0:
            return
        yield name[:end]
