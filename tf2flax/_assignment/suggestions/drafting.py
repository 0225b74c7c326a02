"""Tensors and leaves -> a draft of a map: lines, open questions, and reasons.

1. `cells` takes recurrent cells out of both sides.
2. `blocks` joins names that differ by the number of a block; blocks of both sides are
   aligned, and blocks that have no counterpart are taken apart again.
3. `pairing` chooses layers within aligned blocks, and among what is in no block.
4. `deciding` says which of these choices are certain.

Names, shapes and structure alone: what graphs say of names (which operation reads a
tensor) can be added as points, where `scoring` adds those of names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from .assigning import assign
from .blocks import Family, Group, Shape, find_families, find_stacks, group_by_numbers
from .cells import (
    RESET_FIRST,
    find_source_cells,
    find_target_cells,
    has_reset_first,
    pair_cells,
)
from .deciding import Decider
from .fitting import Alignment, align
from .layers import Layer, PartSource, find_layers, fuse_heads, join_pieces, split_heads
from .lines import Line
from .pairing import MIN_MARGIN, Pair, Rival, coverage, pair_layers
from .scoring import Scorer
from .words import read_words

# Blocks are aligned if so much of the target's is fitted, and stacks.
_MIN_COVERAGE: Final = 0.5
_MIN_STACKED: Final = 0.7
# Pairs of groups that are compared in full.
_MAX_GROUPS: Final = 2_000
_COVERAGE_POINTS: Final = 6.0


@dataclasses.dataclass
class Draft:
    """What was found out; filled step by step.

    Attributes:
        lines: Lines that are certain.
        evidence: What speaks for the source of each leaf, or why it has none.
        ambiguous: Leaves with several candidates: the line of each, and a reason.
        notes: What keeps the two from fitting, a line each.
        used: Names of the tensors that fill something.
    """

    lines: list[Line] = dataclasses.field(default_factory=list[Line])
    evidence: dict[str, str] = dataclasses.field(default_factory=dict[str, str])
    ambiguous: dict[str, list[tuple[Line, str]]] = dataclasses.field(
        default_factory=dict[str, list[tuple[Line, str]]]
    )
    notes: list[str] = dataclasses.field(default_factory=list[str])
    used: set[str] = dataclasses.field(default_factory=set[str])

    def add(self, lines: Iterable[Line], evidence: str) -> None:
        """Adds lines that are certain."""
        for line in lines:
            self.lines.append(line)
            self.evidence.update(dict.fromkeys(line.leaves, evidence))

    def doubt(self, candidates: Sequence[tuple[Sequence[Line], str]]) -> None:
        """Adds leaves that several lines may fill, the best candidates first."""
        for lines, reason in candidates:
            for line in lines:
                for leaf in line.leaves:
                    self.ambiguous.setdefault(leaf, []).append((line, reason))


def draft_map(
    tensors: Mapping[str, Shape],
    leaves: Mapping[str, Shape],
    slices: Mapping[str, tuple[int, ...]],
) -> Draft:
    """Drafts a map.

    Args:
        tensors: Shapes of the weights of a checkpoint, by name.
        leaves: Shapes of the leaves of a target, by name.
        slices: Rows of each slice, of tensors that were saved as slices of rows.
    """
    draft = Draft()
    tensors, leaves = dict(tensors), dict(leaves)
    _take_cells(tensors, leaves, draft)
    sides = (
        group_by_numbers(find_families(tensors)),
        group_by_numbers(find_families(leaves)),
    )
    matcher = _Matcher(*sides)
    matcher.pair_groups()
    matcher.pair_alone(join_pieces(tensors))
    pairs = matcher.pairs
    sources = {id(pair.source) for pair in pairs}
    is_whole = (
        all(id(layer) in sources for layer in matcher.sources if not layer.is_made)
        and coverage(pairs, matcher.targets) == 1.0
    )
    decider = Decider(pairs, is_whole=is_whole, slices=slices)
    for pair in pairs:
        for candidates in decider.decide(pair):
            first = candidates[0]
            if len(candidates) == 1 and not first.is_open:
                draft.add(first.lines(), first.reason)
                draft.used.update(_names_in(pair))
            else:
                draft.doubt(
                    [(c.lines(has_captures=False), c.reason) for c in candidates]
                )
    draft.notes += matcher.notes
    return draft


def _names_in(pair: Pair) -> list[str]:
    return [
        name
        for part in pair.fit.options
        for family in pair.source.parts[part].families
        for name in map(family.name, family.members)
    ]


def _take_cells(
    tensors: dict[str, Shape], leaves: dict[str, Shape], draft: Draft
) -> None:
    """Takes recurrent cells out of both sides."""
    targets = find_target_cells(leaves)
    if not targets:
        return
    for pair in pair_cells(find_source_cells(tensors), targets):
        note = pair.sources[0].note
        reason = "; ".join(
            filter(None, [", ".join(pair.words), "a cell of its size", note])
        )
        if pair.is_clear:
            draft.add(pair.lines(), reason)
            draft.used.update(pair.sources[0].tensors)
        else:
            draft.doubt(
                [
                    (list(pair.lines(place)), "a cell of its size")
                    for place in range(len(pair.sources))
                ]
            )
        for name in pair.sources[0].tensors if pair.is_clear else ():
            tensors.pop(name, None)
        for name in pair.target.tensors:
            leaves.pop(name)
    is_reset_first = has_reset_first(tensors)
    for cell in targets:
        if cell.tensors[0] in leaves and cell.kind == "gru" and is_reset_first:
            draft.evidence.update(dict.fromkeys(cell.tensors, RESET_FIRST))
            for name in cell.tensors:
                leaves.pop(name)


class _Matcher:
    """Pairs of layers, blocks first.

    Attributes:
        pairs: The pairs.
        sources: All layers of the checkpoint.
        targets: All layers of the target.
        notes: Blocks that do not fit.
    """

    def __init__(self, sources: Sequence[Group], targets: Sequence[Group]) -> None:
        self.pairs: list[Pair] = []
        self.sources: list[Layer] = []
        self.targets: list[Layer] = []
        self.notes: list[str] = []
        self._source_groups = [group for group in sources if group.prefixes]
        self._target_groups = [group for group in targets if group.prefixes]
        self._alone = _families_alone(sources), _families_alone(targets)
        self._shared = _words_of(sources) & _words_of(targets)

    def pair_groups(self) -> None:
        """Aligns blocks; those that have no counterpart are taken apart."""
        targets = [*self._target_groups, *self._stacks()]
        results: dict[tuple[int, int], tuple[Alignment, list[Pair], list[Layer]]] = {}
        scores: dict[tuple[int, int], float] = {}
        labels = (
            [_label_layer(group) for group in self._source_groups],
            [_label_layer(group) for group in targets],
        )
        scorer = Scorer(*labels)
        for s, source in enumerate(self._source_groups):
            for t, target in enumerate(targets):
                alignment = align(source, target)
                if alignment is None or len(results) > _MAX_GROUPS:
                    continue
                wanted = find_layers(target.families, is_target=True)
                pairs = pair_layers(
                    _layers_of(source, wanted), wanted, alignment, self._shared
                )
                covered = coverage(pairs, wanted)
                least = _MIN_STACKED if target.is_stacked else _MIN_COVERAGE
                if covered < least:
                    continue
                points = sum(pair.points - pair.fit.cost for pair in pairs) / len(pairs)
                scores[s, t] = (
                    scorer.score(labels[0][s], labels[1][t])
                    + _COVERAGE_POINTS * covered
                    + points
                )
                results[s, t] = alignment, pairs, wanted
        self._accept_groups(targets, results, scores)

    def _accept_groups(
        self,
        targets: Sequence[Group],
        results: Mapping[tuple[int, int], tuple[Alignment, list[Pair], list[Layer]]],
        scores: Mapping[tuple[int, int], float],
    ) -> None:
        choices = assign(scores)
        for target, choice in choices.items():
            _, pairs, wanted = results[choice.source, target]
            if choice.margin < MIN_MARGIN and choice.rivals:
                pairs = _with_rivals(pairs, results[choice.rivals[0], target][1])
            self.pairs += pairs
            self.sources += _layers_of(self._source_groups[choice.source], wanted)
            self.targets += wanted
        used = {choice.source for choice in choices.values()}
        stacked = {
            family.pattern
            for target in choices
            for family in targets[target].families
            if targets[target].is_stacked
        }
        left = [g for n, g in enumerate(self._source_groups) if n not in used]
        open_groups = [
            g for n, g in enumerate(targets) if n not in choices and not g.is_stacked
        ]
        self._note_counts(left, open_groups)
        alone = self._alone
        alone[0].extend(
            f for g in left for family in g.families for f in family.expand()
        )
        for group in open_groups:
            alone[1].extend(f for family in group.families for f in family.expand())
        alone[1][:] = [family for family in alone[1] if family.pattern not in stacked]

    def _stacks(self) -> list[Group]:
        counts = {len(group.numbers) for group in self._source_groups}
        leaves = {family.pattern: family.members[()] for family in self._alone[1]}
        return [
            stack for count in sorted(counts) for stack in find_stacks(leaves, count)
        ]

    def _note_counts(self, left: Sequence[Group], open_groups: Sequence[Group]) -> None:
        """Says which blocks would fit if there were as many of them."""
        for group in open_groups:
            wanted = find_layers(group.families, is_target=True)
            for source in left:
                count = min(len(source.numbers), len(group.numbers))
                if len(source.numbers) == len(group.numbers):
                    continue
                pairs = dict(
                    zip(group.numbers[:count], source.numbers[:count], strict=True)
                )
                alignment = Alignment(source, group, {t: [s] for t, s in pairs.items()})
                cut = [_cut(family, count) for family in group.families]
                layers = find_layers(cut, is_target=True)
                fitting = pair_layers(_layers_of(source, layers), layers, alignment)
                if coverage(fitting, wanted) >= _MIN_COVERAGE:
                    self.notes.append(
                        f"the checkpoint has {len(source.numbers)} blocks "
                        f"`{source.label}`, the target {len(group.numbers)} "
                        f"`{group.label}`"
                    )
                    break

    def pair_alone(self, made: Sequence[Layer]) -> None:
        """Pairs what is in no block.

        Args:
            made: Layers that several tensors make together.
        """
        families, leaves = self._alone
        wanted = find_layers(leaves, is_target=True)
        root = Group((), families, [()]), Group((), leaves, [()])
        alignment = Alignment(*root, {(): [()]})
        layers = [*_made_layers(find_layers(families, is_target=False), wanted)]
        layers += made
        self.pairs += pair_layers(layers, wanted, alignment, self._shared)
        self.sources += layers
        self.targets += wanted


def _words_of(groups: Iterable[Group]) -> frozenset[str]:
    return frozenset(
        word for g in groups for f in g.families for word in read_words(f.pattern)
    )


def _cut(family: Family, count: int) -> Family:
    from .blocks import in_order

    numbers = in_order(family.members)[:count]
    return Family(family.pattern, {n: family.members[n] for n in numbers})


def _families_alone(groups: Iterable[Group]) -> list[Family]:
    return [f for group in groups if not group.prefixes for f in group.families]


def _label_layer(group: Group) -> Layer:
    """A group, to be compared by its names."""
    words = read_words(group.label)
    return Layer(group.label, {"main": PartSource(tuple(group.families[:1]))}, words)


def _layers_of(group: Group, wanted: Sequence[Layer]) -> list[Layer]:
    return _made_layers(find_layers(group.families, is_target=False), wanted)


def _made_layers(layers: list[Layer], wanted: Sequence[Layer]) -> list[Layer]:
    """Layers, and those that can be made of them for what is wanted."""
    heads = [layer for layer in wanted if {"query", "key", "value"} & layer.word_set]
    made = split_heads(layers) if heads else fuse_heads(layers)
    return [*layers, *made]


def _with_rivals(pairs: Sequence[Pair], others: Sequence[Pair]) -> list[Pair]:
    """Pairs of blocks that may as well be others: none of them is certain."""
    rivals = {id(pair.target): pair for pair in others}
    by_name = {pair.target.name: pair for pair in others}
    result: list[Pair] = []
    for pair in pairs:
        rival = rivals.get(id(pair.target)) or by_name.get(pair.target.name)
        added = (Rival(rival.source, rival.fit, rival.alignment),) if rival else ()
        result.append(
            dataclasses.replace(pair, margin=0.0, rivals=(*added, *pair.rivals))
        )
    return result
