"""Tensors and leaves -> a draft of a map: lines, open questions, and reasons.

1. `cells` takes recurrent cells out of both sides.
2. `blocks` joins names that differ by the number of a block.
3. `aligning` aligns these blocks; `pairing` chooses layers within aligned blocks, and
   among what is in no block.
4. `deciding` says which of these choices are certain.

Names, shapes and structure alone: what graphs say of names (which operation reads a
tensor) can be added as points, where `scoring` adds those of names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from .aligning import Matcher
from .blocks import Shape, find_families, group_by_numbers
from .cells import (
    RESET_FIRST,
    find_source_cells,
    find_target_cells,
    has_reset_first,
    pair_cells,
)
from .deciding import Decider, Option
from .layers import COLLECTIONS, join_pieces
from .lines import Line
from .pairing import Pair, fitted_part
from .tying import TIED, find_tied


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
        group_by_numbers(find_families(leaves, COLLECTIONS), COLLECTIONS),
    )
    matcher = Matcher(*sides)
    matcher.pair_blocks()
    matcher.pair_alone(join_pieces(tensors))
    pairs = matcher.pairs
    sources = {id(pair.source) for pair in pairs}
    is_whole = (
        all(id(layer) in sources for layer in matcher.sources if not layer.is_made)
        and fitted_part(pairs, matcher.targets) == 1.0
    )
    decider = Decider(pairs, is_whole=is_whole, slices=slices)
    # Lines of what is certain; candidates of all else, leaf by leaf.
    certain: list[Option] = []
    for pair in pairs:
        for candidates in decider.decide(pair):
            first = candidates[0]
            if len(candidates) == 1 and not first.is_open:
                certain.append(first)
                draft.used.update(_names_in(pair))
            else:
                draft.doubt(
                    [(c.lines(has_captures=False), c.reason) for c in candidates]
                )
    leaf_names = {name for o in certain for name in map(o.leaf.name, o.leaf.members)}
    for option in certain:
        has_captures = option.may_have_captures(leaf_names)
        draft.add(option.lines(has_captures=has_captures), option.reason)
    open_leaves = {
        name: shape
        for name, shape in leaves.items()
        if name not in leaf_names and name not in draft.ambiguous
    }
    for _, lines in find_tied(tensors, open_leaves):
        draft.doubt([([line], TIED) for line in lines])
    for note, names in matcher.notes.items():
        draft.notes.append(note)
        draft.evidence.update(dict.fromkeys(names, note))
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
    # Gates would be taken for kernels of layers below.
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
