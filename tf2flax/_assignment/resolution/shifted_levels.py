"""Numbers that are shifted at several levels at once: blocks, and layers in each.

    needed   block_0/layer_0, block_0/layer_1, block_1/layer_0, block_1/layer_1
    there    block_1/layer_1, block_1/layer_2, block_2/layer_1, block_2/layer_2

One level alone is the matter of `renamed_layers`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from tf2flax._assignment.language.expressions import Source
from tf2flax._base.collapsing import list_collapsed
from tf2flax._base.text import counted

from .entry_labels import fills_scope
from .layer_entries import write_entries_below
from .layer_families import LayerFamily, split_number
from .new_entries import add_entries
from .numbered_layers import shift_source
from .problems import Cause, SourceNotFound, explain_entries, label_of_problems
from .renamed_layers import MovedLayers, NeededLayer
from .scopes import template_of
from .suggestions import Surroundings, did_you_mean, source_of_entry, write_key

_NUMBER: Final = re.compile(r"\d+")
# Names of one entry that are compared: each takes several look-ups.
_MAX_NAMES: Final = 5000
_MAX_LISTED: Final = 2

# Names that are needed, each with the tensor that is meant.
_Moves = Mapping[str, str]


def explain_shifted_levels(
    problems: Sequence[SourceNotFound], around: Surroundings
) -> tuple[list[Cause], list[SourceNotFound]]:
    """Finds entries of which all numbers at several levels are shifted.

    Args:
        problems: The problems.
        around: Names of the checkpoint and the target.

    Returns:
        Causes, and the problems that they do not explain.
    """
    # Keys that name one tensor each are thousands, and say which they mean.
    general = [problem for problem in problems if problem.leaf is not None]
    causes, remaining = explain_entries(
        general, lambda members: _explain_entry(members, around)
    )
    if not causes:
        return [], list(problems)
    named = [problem for problem in problems if problem.leaf is None]
    return causes, [*remaining, *named]


def _explain_entry(
    problems: Sequence[SourceNotFound], around: Surroundings
) -> Cause | None:
    """The cause, if all that is missing is there at the same distance of numbers."""
    first = problems[0]
    if template_of(first.source) not in around.tensors_by_template:
        return None
    moves = _find_moves(problems, around)
    places = _places_of(*next(iter(moves.items()))) if moves else []
    if len({place for place, _ in places}) < 2:
        return None
    depth = places[-1][0] + 1
    scopes = {_cut(name, depth): _cut(there, depth) for name, there in moves.items()}
    for problem in problems:
        if not around.fits(problem.entry, moves[problem.source], problem.leaf):
            return None
    advice = _advise(problems, scopes, places, around)
    if not advice:
        return None
    needs = "needs" if len(problems) == 1 else "need"
    fact = (
        f"{counted(len(problems), 'leaf', 'leaves')} {needs} "
        f"{list_collapsed(list(scopes), _MAX_LISTED)}, and the checkpoint has "
        f"{list_collapsed(list(scopes.values()), _MAX_LISTED)}: the numbers differ at "
        f"{len(places)} levels."
    )
    return Cause(label_of_problems(problems), fact, tuple(problems), advice)


def _find_moves(problems: Sequence[SourceNotFound], around: Surroundings) -> _Moves:
    """All names that an entry needs, with the same number of tensors; or {}."""
    names = {problem.source for problem in problems}
    names |= around.taken.get(problems[0].entry.number, set())
    if len(names) > _MAX_NAMES or any(problem.leaf is None for problem in problems):
        return {}
    by_template: dict[str, list[str]] = {}
    for name in names:
        by_template.setdefault(template_of(name), []).append(name)
    missing = {template_of(problem.source) for problem in problems}
    moves: dict[str, str] = {}
    offsets: set[tuple[tuple[str, int], ...]] = set()
    for template in missing:
        needed = sorted(by_template[template], key=_numbers_in)
        there = sorted(around.tensors_by_template.get(template, ()), key=_numbers_in)
        if len(needed) != len(there):
            return {}
        pairs = list(zip(needed, there, strict=True))
        distances = {_distance(*pair) for pair in pairs}
        if len(distances) > 1:
            return {}
        places = _places_of(*pairs[0])
        beginning = template_of(_cut(template, places[-1][0] + 1))
        offsets.add(((beginning, 0), *((beginning, d) for d in distances.pop() if d)))
        moves.update(pairs)
    # What lies in the same layers would be moved as well.
    (beginning, _), *_ = next(iter(offsets))
    if len(offsets) > 1 or any(
        template.startswith(beginning) and template not in missing
        for template in by_template
    ):
        return {}
    return moves


def _numbers_in(name: str) -> tuple[int, ...]:
    return tuple(map(int, _NUMBER.findall(name)))


def _distance(needed: str, there: str) -> tuple[int, ...]:
    pairs = zip(_numbers_in(needed), _numbers_in(there), strict=True)
    return tuple(a - b for a, b in pairs)


def _places_of(needed: str, there: str) -> list[tuple[int, int]]:
    """The components that differ, and by how much their last numbers do."""
    pairs = zip(needed.split("/"), there.split("/"), strict=True)
    return [
        (place, _numbers_in(ours)[-1] - _numbers_in(theirs)[-1])
        for place, (ours, theirs) in enumerate(pairs)
        if ours != theirs
    ]


def _cut(name: str, depth: int) -> str:
    """The first components of a name: a scope, or the name itself."""
    components = name.split("/")
    return "/".join(components[:depth]) + ("/" if len(components) > depth else "")


def _advise(
    problems: Sequence[SourceNotFound],
    scopes: _Moves,
    places: Sequence[tuple[int, int]],
    around: Surroundings,
) -> str:
    """The key instead, or the entries to add; "" if neither says it."""
    first = problems[0]
    written = source_of_entry(first.entry)
    if not isinstance(written, Source):
        return ""
    entries = None
    if fills_scope(first.entry) and (layers := _layers(problems, scopes)):
        pairs = tuple((layer, scopes[layer.scope]) for layer in layers)
        moved = MovedLayers(LayerFamily("", {}), pairs, is_alike=True)
        entries = write_entries_below(moved, around)
    if entries is not None:
        return add_entries(entries) if entries else ""
    needed, there = next(iter(scopes.items()))
    for place, distance in places:
        # Levels above have the numbers of the checkpoint by now.
        root = _cut(there, place) + needed.split("/")[place]
        shifted = shift_source(written, root, -distance)
        if shifted is None:
            return ""
        written = shifted
    return did_you_mean([write_key(first.entry, written)])


def _layers(problems: Sequence[SourceNotFound], scopes: _Moves) -> list[NeededLayer]:
    """The innermost layers; [] if they have no numbers of their own."""
    first = problems[0]
    key, value = _without_common_end(first.source, first.leaf or "")
    layers: list[NeededLayer] = []
    for scope in scopes:
        parent, slash, component = scope[:-1].rpartition("/")
        name = split_number(component)
        if not scope.endswith("/") or not scope.startswith(key) or name is None:
            return []
        leaves = f"{value}{scope[len(key) :]}"
        layers.append(NeededLayer(parent + slash, *name, leaves, (), first))
    return layers


def _without_common_end(tensor: str, leaf: str) -> tuple[str, str]:
    """The scopes before the components that two names end in alike."""
    ours, theirs = tensor.split("/"), leaf.split("/")
    while ours and theirs and ours[-1] == theirs[-1]:
        ours.pop()
        theirs.pop()
    return "".join(f"{c}/" for c in ours), "".join(f"{c}/" for c in theirs)
