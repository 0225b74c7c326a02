"""Suggested maps, compared with maps by hand: what the engine makes of both."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from port_pairs import Pair

import tf2flax
from tf2flax._jax.options import check_options
from tf2flax._jax.restore import make_job, take_target
from tf2flax._writing.map_parsing import parse_map_text

Shape = tuple[int, ...]


def weights_of(shapes: Mapping[str, Shape]) -> dict[str, np.ndarray]:
    """A checkpoint of these shapes, which takes no memory."""
    return {n: np.broadcast_to(np.float32(0), shape) for n, shape in shapes.items()}


def target_of(leaves: Mapping[str, Shape]) -> dict[str, Any]:
    """A target of these shapes, as nested dicts."""
    pair = Pair("", {}, dict(leaves), "")
    return pair.target(lambda shape: jax.ShapeDtypeStruct(shape, "float32"))


def layouts(checkpoint: Any, entries: Any, target: Any) -> dict[str, Any]:
    """Where each leaf comes from, by name; those that no entry reaches are left out."""
    if not len(entries):
        return {}
    job = make_job(checkpoint, entries, take_target(target), check_options("plan", {}))
    return {a.leaf: a.layout for a in job.plan.assignments}


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A suggestion, and how it compares with a map by hand.

    Attributes:
        result: The suggestion.
        wrong: Leaves that it fills otherwise.
        places: Of leaves that are ambiguous, the place of the right candidate; None
            where there is none.
    """

    result: tf2flax.Suggestion
    wrong: list[str]
    places: dict[str, int | None]

    @property
    def is_complete(self) -> bool:
        """True if nothing is open."""
        return not self.result.ambiguous and not self.result.unmatched


def judge(checkpoint: Any, target: Any, by_hand: Any) -> Verdict:
    """Compares a suggestion with a map by hand."""
    result = tf2flax.suggest(checkpoint, target)
    truth = layouts(checkpoint, by_hand, target)
    given = layouts(checkpoint, result.assignment_map, target)
    names = {leaf.name for leaf in take_target(target).leaves}
    ambiguous = [leaf for leaf, _ in result.ambiguous]
    # Every leaf is in one of the three.
    assert sorted([*given, *ambiguous, *result.unmatched]) == sorted(names)
    places: dict[str, int | None] = {}
    for leaf, candidates in result.ambiguous:
        assert candidates
        matching = (
            place
            for place, (key, reason) in enumerate(candidates)
            if reason
            and layouts(checkpoint, [(key, leaf)], target).get(leaf) == truth.get(leaf)
        )
        places[leaf] = next(matching, None)
    wrong = [leaf for leaf, layout in given.items() if truth.get(leaf) != layout]
    return Verdict(result, wrong, places)


def judge_pair(pair: Pair) -> Verdict:
    """Compares the suggestion for a pair with its map."""
    by_hand = parse_map_text(pair.map_file, "pair.toml", {}, is_json=False)
    return judge(weights_of(pair.tensors), target_of(pair.leaves), by_hand)
