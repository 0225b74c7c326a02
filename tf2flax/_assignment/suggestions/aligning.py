"""Aligns the blocks of both sides, then pairs all layers: those of blocks first.

Blocks that no blocks of the other side fit are taken apart, and their layers paired
with what is in no block. What the aligned blocks are called helps there: what stands in
`block1/unit_1` is sought in `layers_0`, if these two are one block.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from .assigning import assign
from .blocks import Family, Group, Shape, find_stacks
from .fitting import Alignment, align
from .kinds import find_uneven, only_blocks, split_by_kinds
from .layers import (
    HEADS,
    Layer,
    PartSource,
    find_layers,
    fuse_heads,
    split_heads,
    without_collection,
)
from .pairing import MIN_MARGIN, Pair, Rival, fitted_part, pair_layers
from .scoring import Scorer
from .tying import make_tied
from .words import read_words

# Blocks are aligned if so much of the target's is fitted, and stacks.
_MIN_COVERAGE: Final = 0.5
_MIN_STACKED: Final = 0.7
# Numbers count blocks, of which one side may have more, if so many families are in all.
_MIN_EVEN: Final = 0.75
# Pairs of groups that are compared in full.
_MAX_GROUPS: Final = 2_000
_COVERAGE_POINTS: Final = 6.0


class _Result(NamedTuple):
    """How blocks of both sides fit."""

    source: Group
    target: Group
    alignment: Alignment
    sources: list[Layer]
    targets: list[Layer]
    pairs: list[Pair]
    score: float


class Matcher:
    """Pairs of layers of a checkpoint and a target.

    Attributes:
        pairs: The pairs.
        sources: All layers of the checkpoint.
        targets: All layers of the target.
        notes: What does not fit, with the leaves that this concerns.
    """

    def __init__(self, sources: Sequence[Group], targets: Sequence[Group]) -> None:
        """Takes the groups of both sides; those without prefixes are in no block."""
        self.pairs: list[Pair] = []
        self.sources: list[Layer] = []
        self.targets: list[Layer] = []
        self.notes: dict[str, list[str]] = {}
        self._blocks = (
            [group for group in sources if group.prefixes],
            [group for group in targets if group.prefixes],
        )
        self._alone = _families_alone(sources), _families_alone(targets)
        self._shared = _words_of(sources) & _words_of(targets)
        # Scopes of aligned blocks: of the checkpoint -> of the target.
        self._scopes: dict[str, set[str]] = {}
        # Leaves whose numbers say nothing of them: another layer took their place.
        self._doubtful: set[str] = set()

    def pair_blocks(self) -> None:
        """Aligns blocks; those that have no counterpart are taken apart."""
        sources = self._blocks[0]
        targets = [*self._blocks[1], *self._stacks()]
        results = self._compare(sources, targets)
        choices = assign({key: result.score for key, result in results.items()})
        taken: set[str] = set()
        used: set[int] = set()
        chosen: set[int] = set()
        for target, choice in sorted(
            choices.items(), key=lambda item: -results[item[1].source, item[0]].score
        ):
            result = results[choice.source, target]
            patterns = {family.pattern for family in result.target.families}
            if patterns & taken:  # two readings of the same leaves as stacks
                continue
            taken |= patterns
            used.add(choice.source)
            chosen.add(target)
            pairs = result.pairs
            if choice.margin < MIN_MARGIN and choice.rivals:
                pairs = _with_rivals(pairs, results[choice.rivals[0], target].pairs)
            self._accept(result, pairs)
        left = [g for n, g in enumerate(sources) if n not in used]
        open_groups = [g for n, g in enumerate(self._blocks[1]) if n not in chosen]
        self._take_apart(left, open_groups, taken)

    def _compare(
        self, sources: Sequence[Group], targets: Sequence[Group]
    ) -> dict[tuple[int, int], _Result]:
        """Compares all blocks that are equally many."""
        labels = [*map(_label_layer, sources)], [*map(_label_layer, targets)]
        scorer = Scorer(*labels)
        results: dict[tuple[int, int], _Result] = {}
        for s, source in enumerate(sources):
            for t, target in enumerate(targets):
                alignment = align(source, target)
                if alignment is None or len(results) > _MAX_GROUPS:
                    continue
                result = self._fit_blocks(source, target, alignment)
                least = _MIN_STACKED if target.is_stacked else _MIN_COVERAGE
                if fitted_part(result.pairs, result.targets) >= least:
                    points = scorer.score(labels[0][s], labels[1][t])
                    results[s, t] = result._replace(score=result.score + points)
        return results

    def _fit_blocks(
        self, source: Group, target: Group, alignment: Alignment
    ) -> _Result:
        sources: list[Layer] = []
        targets: list[Layer] = []
        pairs: list[Pair] = []
        for part in split_by_kinds(alignment):
            wanted = find_layers(part.target.families, is_target=True)
            named = find_layers(part.source.families, is_target=False)
            layers = make_layers(named, wanted)
            pairs += pair_layers(layers, wanted, part, self._shared)
            sources += layers
            targets += wanted
        points = sum(pair.points - pair.fit.cost for pair in pairs)
        score = _COVERAGE_POINTS * fitted_part(pairs, targets)
        score += points / max(len(pairs), 1)
        return _Result(source, target, alignment, sources, targets, pairs, score)

    def _accept(self, result: _Result, pairs: Sequence[Pair]) -> None:
        """Takes over the pairs of aligned blocks; the others are paired later."""
        self.pairs += pairs
        sources = {id(pair.source) for pair in pairs}
        targets = {id(pair.target) for pair in pairs}
        self.sources += [layer for layer in result.sources if id(layer) in sources]
        self.targets += [layer for layer in result.targets if id(layer) in targets]
        # What has no counterpart in the aligned block may have one elsewhere.
        if result.target.is_stacked:
            return
        used = _names_of(pair.source for pair in pairs)
        filled = _names_of(pair.target for pair in pairs)
        for families, alone, known_names in (
            (result.source.families, self._alone[0], used),
            (result.target.families, self._alone[1], filled),
        ):
            for family in families:
                single = family.expand()
                alone.extend(f for f in single if f.pattern not in known_names)
        if len(split_by_kinds(result.alignment)) > 1:
            for family in find_uneven(result.target):
                self._doubtful.update(map(family.name, family.members))
        for target, sources_of in result.alignment.pairs.items():
            scope = _scope_of(result.source.prefixes, sources_of[0])
            below = without_collection(_scope_of(result.target.prefixes, target))
            self._scopes.setdefault(scope, set()).add(below)

    def _take_apart(
        self, left: Sequence[Group], open_groups: Sequence[Group], taken: set[str]
    ) -> None:
        """Adds blocks without counterpart to what is in no block."""
        noted = self._note_counts(left, open_groups)
        for group in left:
            self._alone[0].extend(
                f for family in group.families for f in family.expand()
            )
        for group in open_groups:
            if id(group) not in noted:
                self._alone[1].extend(
                    f for family in group.families for f in family.expand()
                )
        self._alone[1][:] = [f for f in self._alone[1] if f.pattern not in taken]

    def _stacks(self) -> list[Group]:
        counts = {len(group.numbers) for group in self._blocks[0]}
        leaves: dict[str, Shape] = {}
        for family in self._alone[1]:
            leaves[family.pattern] = family.members[()]
        return [
            stack for count in sorted(counts) for stack in find_stacks(leaves, count)
        ]

    def _note_counts(
        self, left: Sequence[Group], open_groups: Sequence[Group]
    ) -> set[int]:
        """Notes blocks that would fit if there were as many of them.

        Returns:
            Identities of the groups of the target that this concerns.
        """
        noted: set[int] = set()
        for group in open_groups:
            for source in left:
                counts = len(source.numbers), len(group.numbers)
                if counts[0] == counts[1] or not (_is_even(source) and _is_even(group)):
                    continue
                cut = (
                    only_blocks(source, source.numbers[: min(counts)]),
                    only_blocks(group, group.numbers[: min(counts)]),
                )
                alignment = align(*cut)
                if alignment is None:
                    continue
                result = self._fit_blocks(*cut, alignment)
                if fitted_part(result.pairs, result.targets) >= _MIN_COVERAGE:
                    noted.add(id(group))
                    note = (
                        f"the checkpoint has {counts[0]} blocks `{source.label}`, the "
                        f"target has {counts[1]} `{group.label}`"
                    )
                    self.notes[note] = [
                        name
                        for family in group.families
                        for name in map(family.name, family.members)
                    ]
                    break
        return noted

    def pair_alone(self, made: Sequence[Layer]) -> None:
        """Pairs what is in no block.

        Args:
            made: Layers that several tensors make together.
        """
        families, leaves = self._alone
        wanted = find_layers(leaves, is_target=True)
        root = Group((), families, [()]), Group((), leaves, [()])
        alignment = Alignment(*root, {(): [()]})
        layers = make_layers(find_layers(families, is_target=False), wanted)
        layers += [*made, *make_tied(layers, wanted)]
        pairs = pair_layers(layers, wanted, alignment, self._shared, self._scopes)
        self.pairs += [
            dataclasses.replace(pair, margin=0.0, is_only=False)
            if _names_of([pair.target]) & self._doubtful
            else pair
            for pair in pairs
        ]
        self.sources += layers
        self.targets += wanted


def _names_of(layers: Iterable[Layer]) -> set[str]:
    return {
        name
        for layer in layers
        for origin in layer.parts.values()
        for family in origin.families
        for name in map(family.name, family.members)
    }


def _scope_of(prefixes: Sequence[str], numbers: Sequence[str]) -> str:
    """The scope of a block."""
    return "".join(p + n for p, n in zip(prefixes, numbers, strict=True))


def _is_even(group: Group) -> bool:
    """True if most families are in all blocks: of branches, for one, they are not."""
    complete = sum(len(f.members) == len(group.numbers) for f in group.families)
    return complete >= _MIN_EVEN * len(group.families)


def _families_alone(groups: Iterable[Group]) -> list[Family]:
    return [f for group in groups if not group.prefixes for f in group.families]


def _words_of(groups: Iterable[Group]) -> frozenset[str]:
    return frozenset(
        word for g in groups for f in g.families for word in read_words(f.pattern)
    )


def _label_layer(group: Group) -> Layer:
    """A group, to be compared by its names."""
    words = read_words(group.label)
    return Layer(group.label, {"main": PartSource(tuple(group.families[:1]))}, words)


def make_layers(layers: list[Layer], wanted: Sequence[Layer]) -> list[Layer]:
    """Layers, and those that can be made of them for what is wanted."""
    words = frozenset[str]().union(*(layer.word_set for layer in wanted))
    heads = words.intersection(HEADS["qkv"])
    made = split_heads(layers) if heads else fuse_heads(layers, "qkv")
    if "kv" in words:
        made += fuse_heads(layers, "kv")
    return [*layers, *made]


def _with_rivals(pairs: Sequence[Pair], others: Sequence[Pair]) -> list[Pair]:
    """Pairs of blocks that may as well be others: none of them is certain."""
    by_name = {pair.target.name: pair for pair in others}
    result: list[Pair] = []
    for pair in pairs:
        rival = by_name.get(pair.target.name)
        added = (Rival(rival.source, rival.fit, rival.alignment),) if rival else ()
        rivals = (*added, *pair.rivals)
        result.append(dataclasses.replace(pair, margin=0.0, rivals=rivals))
    return result
