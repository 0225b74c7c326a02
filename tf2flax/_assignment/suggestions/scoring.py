"""How much names say for two layers being the same.

A word that both names have counts as much as it tells layers apart: `attention` in a
model where two of ten layers have it, much; `block`, which all have, nothing. A word
that only one of them has counts against the pair, but only if the other side uses that
word at all.
"""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from .layers import Layer

# Words that go without saying: an attention is one to itself unless names say more.
_UNMARKED: Final = frozenset({"self"})
# What a word counts that only one name has.
_MISSING: Final = 0.5
# What the same number, counted from the first, says for a pair, and against it.
_SAME_RANK: Final = 0.7
# What it says that names are equal letter by letter.
_SAME_NAME: Final = 1.0
_SAME_LAST: Final = 0.3
_NUMBER: Final = re.compile(r"[0-9]+")
_LAST_NUMBER: Final = re.compile(r"[0-9]+(?!.*[0-9])")
# A word that all of so few layers have still says that the model is the same.
_FEW: Final = 3
# The order of what a block of a Transformer does.
_STEPS: Final = ({"attention"}, {"cross"}, {"ffn"}, {"final", "full", "out"})


class Rank(NamedTuple):
    """The place of a name among those that differ from it by a number alone.

    Attributes:
        place: Place in the order of the numbers.
        total: How many names there are.
        depth: Components behind the one that has the last number: what counts blocks
            on one side is not compared with what counts layers on the other.
    """

    place: int
    total: int
    depth: int = 0


class Scorer:
    """Compares the names of two lists of layers."""

    def __init__(
        self,
        sources: Sequence[Layer],
        targets: Sequence[Layer],
        shared: frozenset[str] = frozenset(),
    ) -> None:
        """Counts words and numbers of both sides.

        Args:
            sources: Layers of the checkpoint.
            targets: Layers of the target.
            shared: Words that both sides use anywhere, other layers included.
        """
        counts = [_count(sources), _count(targets)]
        both = set(counts[0]) & set(counts[1])
        self._shared = both | (shared & (set(counts[0]) | set(counts[1])))
        self._weights = {
            word: min(
                _weight(count[word], len(layers))
                for count, layers in zip(counts, (sources, targets), strict=True)
                if count[word]
            )
            for word in self._shared
        }
        self._shared -= _UNMARKED
        self._weights.update(dict.fromkeys(_UNMARKED, 0.0))
        self._ranks = {**_ranks(sources), **_ranks(targets)}
        steps = [_norm_steps(sources, self._ranks), _norm_steps(targets, self._ranks)]
        self._steps: dict[int, Rank] = {}
        if steps[0] and steps[1]:
            self._steps = {**steps[0], **steps[1]}

    def score(self, source: Layer, target: Layer) -> float:
        """Points for and against the two being the same layer."""
        common = source.word_set & target.word_set
        different = (source.word_set ^ target.word_set) & self._shared
        points = sum(self._weights[word] for word in common)
        points -= _MISSING * sum(self._weights[word] for word in different)
        points += self._rank_points(source, target)
        if source.name == target.name:
            points += _SAME_NAME
        last = target.name.rpartition("/")[2]
        if source.name.rpartition("/")[2] == last and not last.isdigit():
            points += _SAME_LAST
        return points

    def words(self, source: Layer, target: Layer) -> list[str]:
        """The words that say most for a pair."""
        common = source.word_set & target.word_set
        telling = [word for word in common if self._weights[word] > 0.1]
        return sorted(telling, key=lambda word: (-self._weights[word], word))[:3]

    def _rank_points(self, source: Layer, target: Layer) -> float:
        for first in self._ranks.get(id(source), ()):
            for second in self._ranks.get(id(target), ()):
                if first[1:] == second[1:]:
                    return _SAME_RANK if first == second else -_SAME_RANK
        steps = self._steps.get(id(source)), self._steps.get(id(target))
        if steps[0] and steps[1]:
            is_same = steps[0].place == steps[1].place
            return _SAME_RANK if is_same else -_SAME_RANK
        return 0.0


def _count(layers: Iterable[Layer]) -> collections.Counter[str]:
    return collections.Counter(word for layer in layers for word in layer.word_set)


def _weight(count: int, total: int) -> float:
    """What a word of so many names tells: nothing if all of many have it."""
    if count < total:
        return math.log2((total + 0.5) / count)
    return 0.4 if total <= _FEW else 0.02


def _ranks(layers: Sequence[Layer]) -> dict[int, list[Rank]]:
    """Ranks among the names that differ by numbers alone, by identity.

    First among those that differ by any of their numbers, then by the last one.
    """
    named = [layer for layer in layers if not layer.is_made]
    names = {layer.name for layer in named}
    all_numbers: dict[str, list[tuple[list[int], int, Layer]]] = {}
    last_number: dict[str, list[tuple[list[int], int, Layer]]] = {}
    for layer in named:
        inner = layer.name.rpartition("\0")[2]
        # TensorFlow writes the first of `dense`, `dense_1` without a number, in blocks
        # as well: where these have one layer more, `dense` is another one in them.
        if not inner[-1:].isdecimal() and f"{layer.name}_1" in names:
            inner = f"{inner}_0"
        numbers = [int(text) for text in _NUMBER.findall(inner)]
        if numbers:
            stem = _NUMBER.sub("#", inner)
            head, _, tail = _LAST_NUMBER.sub("\0", inner, count=1).partition("\0")
            depth = tail.count("/")
            all_numbers.setdefault(stem, []).append((numbers, depth, layer))
            last = numbers[-1:], depth, layer
            last_number.setdefault(f"{head}#{tail}", []).append(last)
    ranks: dict[int, list[Rank]] = {}
    for families in (all_numbers, last_number):
        for members in families.values():
            members.sort(key=lambda member: member[0])
            for place, (_, depth, layer) in enumerate(members):
                if len(members) > 1:
                    rank = Rank(place, len(members), depth)
                    ranks.setdefault(id(layer), []).append(rank)
    return ranks


def _norm_steps(
    layers: Sequence[Layer], ranks: Mapping[int, Sequence[Rank]]
) -> dict[int, Rank]:
    """Ranks of normalisations by what they belong to, where no number counts them.

    `attention_norm` is before `mlp_norm`, as `ln_1` is before `ln_2`.
    """
    by_width: dict[object, list[Layer]] = {}
    for layer in layers:
        if layer.is_norm:
            part = layer.parts.get("scale") or layer.parts["mean"]
            by_width.setdefault(tuple(part.members.values())[:1], []).append(layer)
    steps: dict[int, Rank] = {}
    for norms in by_width.values():
        counted = {
            id(norm): rank
            for norm in norms
            for rank in ranks.get(id(norm), ())[-1:]
            if rank.total == 2
        }
        if len(counted) == 2:
            steps.update(counted)
            continue
        # Of more than two, those of what follows the blocks are left out.
        last = len(_STEPS) - (0 if len(norms) == 2 else 1)
        places = [(_step_of(norm), norm) for norm in norms]
        told_apart = [(n, norm) for n, norm in places if n is not None and n < last]
        if len(told_apart) == 2 and told_apart[0][0] != told_apart[1][0]:
            told_apart.sort(key=lambda pair: pair[0])
            for place, (_, norm) in enumerate(told_apart):
                steps[id(norm)] = Rank(place, 2)
    return steps


def _step_of(layer: Layer) -> int | None:
    matching = [n for n, words in enumerate(_STEPS) if words & layer.word_set]
    return matching[-1] if matching else None
