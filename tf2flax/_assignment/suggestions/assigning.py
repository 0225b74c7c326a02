"""Chooses pairs of two lists so that all scores together are greatest.

And says of each pair by how much it is better than the next choice: where that is
nothing, the choice was luck, and the caller must not make it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final

# A pair that fits is worth more than any difference of names: what can be filled, is.
_BASE: Final = 100.0
# Larger problems are solved greedily (pairs on one side).
_MAX_EXACT: Final = 120


@dataclasses.dataclass(frozen=True)
class Choice:
    """A pair that was chosen.

    Attributes:
        source: Index of the first.
        margin: By how much all scores together would be less without this pair.
        rivals: Other sources that fit the target, best first.
    """

    source: int
    margin: float
    rivals: tuple[int, ...]


Scores = Mapping[tuple[int, int], float]


def assign(scores: Scores) -> dict[int, Choice]:
    """Chooses pairs.

    Args:
        scores: Score of each pair (source, target) that fits.

    Returns:
        Choices by target.

    Examples:
        >>> choices = assign({(0, 0): 1.0, (0, 1): 0.9, (1, 1): 0.5})
        >>> {target: choice.source for target, choice in choices.items()}
        {0: 0, 1: 1}
    """
    by_target: dict[int, dict[int, float]] = {}
    by_source: dict[int, dict[int, float]] = {}
    for (source, target), score in scores.items():
        by_target.setdefault(target, {})[source] = score
        by_source.setdefault(source, {})[target] = score
    chosen: dict[int, int] = {}
    for sources, targets in _components(by_source, by_target):
        chosen.update(_solve(sources, targets, scores))
    holder = {source: target for target, source in chosen.items()}
    return {
        target: Choice(
            source,
            _margin(source, target, scores, (by_source, by_target), (chosen, holder)),
            tuple(
                sorted(
                    (s for s in by_target[target] if s != source),
                    key=lambda s: (-by_target[target][s], s),
                )
            ),
        )
        for target, source in chosen.items()
    }


def _components(
    by_source: Mapping[int, Mapping[int, float]],
    by_target: Mapping[int, Mapping[int, float]],
) -> list[tuple[list[int], list[int]]]:
    """Splits the pairs into problems that have nothing in common."""
    components: list[tuple[list[int], list[int]]] = []
    seen: set[int] = set()
    for first in by_target:
        if first in seen:
            continue
        targets, sources, waiting = {first}, set[int](), [first]
        while waiting:
            for source in by_target[waiting.pop()]:
                if source in sources:
                    continue
                sources.add(source)
                new = set(by_source[source]) - targets
                targets |= new
                waiting += new
        seen |= targets
        components.append((sorted(sources), sorted(targets)))
    return components


def _solve(sources: list[int], targets: list[int], scores: Scores) -> dict[int, int]:
    if len(sources) == 1 or len(targets) == 1:
        best = max(
            (scores[s, t], -s, -t) for s in sources for t in targets if (s, t) in scores
        )
        return {-best[2]: -best[1]}
    if max(len(sources), len(targets)) > _MAX_EXACT:
        return _solve_greedily(sources, targets, scores)
    return _solve_exactly(sources, targets, scores)


def _solve_greedily(
    sources: list[int], targets: list[int], scores: Scores
) -> dict[int, int]:
    wanted = set(targets)
    pairs = sorted(
        ((score, s, t) for (s, t), score in scores.items() if t in wanted),
        key=lambda pair: (-pair[0], pair[1], pair[2]),
    )
    chosen: dict[int, int] = {}
    taken: set[int] = set()
    for _, source, target in pairs:
        if target not in chosen and source not in taken:
            chosen[target] = source
            taken.add(source)
    return chosen


def _solve_exactly(
    sources: list[int], targets: list[int], scores: Scores
) -> dict[int, int]:
    """The Hungarian method: rows are targets, and each row gets a column.

    Source: H. W. Kuhn, The Hungarian method for the assignment problem (1955), with
    potentials and shortest augmenting paths.
    """
    # A column of its own for each target that stays without a source.
    width = len(sources) + len(targets)
    costs = [
        [-_BASE - scores[s, t] if (s, t) in scores else 0.0 for s in sources]
        + [0.0] * len(targets)
        for t in targets
    ]
    row_of = _shortest_paths(costs, width)
    return {
        targets[row]: sources[column]
        for column, row in enumerate(row_of)
        if row >= 0
        and column < len(sources)
        and (sources[column], targets[row]) in scores
    }


def _shortest_paths(costs: list[list[float]], width: int) -> list[int]:
    """Gives each row a column at the least cost; returns the row of each column."""
    infinite = float("inf")
    row_of = [-1] * (width + 1)  # the last one is where a path begins
    of_row, of_column = [0.0] * len(costs), [0.0] * (width + 1)
    for start in range(len(costs)):
        row_of[width] = start
        least, before, done = [infinite] * width, [width] * width, [False] * (width + 1)
        column = width
        while row_of[column] != -1:
            done[column] = True
            row, step, nearest = row_of[column], infinite, -1
            for c in range(width):
                if done[c]:
                    continue
                distance = costs[row][c] - of_row[row] - of_column[c]
                if distance < least[c]:
                    least[c], before[c] = distance, column
                if least[c] < step:
                    step, nearest = least[c], c
            for c in range(width + 1):
                if done[c]:
                    of_row[row_of[c]] += step
                    of_column[c] -= step
                elif c < width:
                    least[c] -= step
            column = nearest
        while column != width:  # the path back
            row_of[column] = row_of[before[column]]
            column = before[column]
        row_of[width] = -1
    return row_of[:width]


def _margin(
    source: int,
    target: int,
    scores: Scores,
    neighbours: tuple[
        Mapping[int, Mapping[int, float]], Mapping[int, Mapping[int, float]]
    ],
    choices: tuple[Mapping[int, int], Mapping[int, int]],
) -> float:
    """What is lost if two pairs swap, or one of this pair is left out for another."""
    by_source, by_target = neighbours
    chosen, holder = choices
    score = scores[source, target]
    least = float("inf")
    for rival, rival_score in by_target[target].items():
        if rival == source:
            continue
        elsewhere = holder.get(rival)
        if elsewhere is None:
            least = min(least, score - rival_score)
        elif (source, elsewhere) in scores:
            now = score + scores[rival, elsewhere]
            least = min(least, now - rival_score - scores[source, elsewhere])
    for rival, rival_score in by_source[source].items():
        if rival != target and rival not in chosen:
            least = min(least, score - rival_score)
    return least
