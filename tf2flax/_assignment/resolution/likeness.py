"""How alike names are, component by component.

    asked for `enc/layer_0/ky/kernel`
    `enc/layer_0/key/kernel`        one component differs, by a letter
    `enc/layer_1/key/kernel`        two do: not suggested beside it

Whole names of one model are all alike, since they begin and end alike.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from typing import Final

from tf2flax._base.names import nearest

# Names that a search returns at most, and components of names that are compared.
_MAX_NEAR: Final = 10
_MAX_DEPTH: Final = 64
# Letters of a component that are compared.
_MAX_LETTERS: Final = 100
# Components less alike (0 to 1) are different words.
_MIN_LIKENESS: Final = 0.5
# Components whose likeness differs by less are equally likely.
_MARGIN: Final = 0.15
# Likeness of a word and its abbreviation, or another word for the same parameter.
_RELATED: Final = 0.92
# Words for one parameter, in Flax, TensorFlow, Keras and PyTorch.
_SYNONYMS: Final = (
    frozenset({"kernel", "weight", "weights", "w"}),
    frozenset({"scale", "gamma", "weight", "g"}),
    frozenset({"bias", "biases", "beta", "offset", "b"}),
    frozenset({"mean", "moving_mean", "running_mean"}),
    frozenset({"var", "variance", "moving_variance", "running_var"}),
    frozenset({"embedding", "embeddings", "table", "weight", "weights"}),
)


def likeness(first: str, second: str) -> float:
    """How alike two components of names are, 0 to 1.

    Examples:
        >>> likeness("EMA", "ExponentialMovingAverage"), likeness("weight", "gamma")
        (0.92, 0.92)
        >>> likeness("weight", "beta") < 0.5
        True
    """
    word, another = (
        first[:_MAX_LETTERS].casefold(),
        second[:_MAX_LETTERS].casefold(),
    )
    if word == another:
        return 1.0
    ratio = difflib.SequenceMatcher(None, word, another, autojunk=False).ratio()
    is_related = (
        any({word, another} <= words for words in _SYNONYMS)
        or word.startswith(another)
        or another.startswith(word)
        or word == _initials(second)
        or another == _initials(first)
    )
    return max(ratio, _RELATED) if is_related else ratio


def names_same_parameter(component: str, longer: str) -> bool:
    """True if the last word of a component is another one for the same parameter.

    Examples:
        >>> names_same_parameter("kernel", "output_weights")
        True
        >>> names_same_parameter("kernel", "output_bias")
        False
    """
    word, last = component.casefold(), longer.rpartition("_")[2].casefold()
    return any({word, last} <= words for words in _SYNONYMS)


def _initials(component: str) -> str:
    """First letters of the words: those that are upper case, or follow a `_`."""
    capitals = "".join(letter for letter in component if letter.isupper())
    words = "".join(word[:1] for word in component.split("_"))
    return (capitals if len(capitals) > 1 else words).casefold()


def like_components(component: str, components: Collection[str]) -> list[str]:
    """The components that may be meant by another one, best first."""
    scored = [(likeness(component, word), word) for word in components]
    alike = [(score, word) for score, word in scored if score >= _MIN_LIKENESS]
    alike.sort(key=lambda pair: (-pair[0], pair[1]))
    return [word for score, word in alike if score >= alike[0][0] - _MARGIN]


def closest_names(name: str, names: Collection[str]) -> tuple[list[str], bool]:
    """Finds the names that are most likely meant by one that is not there.

    Args:
        name: The name that was asked for.
        names: The names that there are.

    Returns:
        Names, best first; and True if they differ by a like component or by a level,
        False if they are only like it as a whole.
    """
    near = nearest(name, names, count=_MAX_NEAR)
    # What lies above or below it is another thing: a variable, its average.
    near = tuple(n for n in near if not name.startswith(f"{n}/")) or near
    ranks = [_rank(name, candidate) for candidate in near]
    sure = [rank for rank in ranks if rank is not None]
    if not sure:
        return list(near), False
    best = min(sure)
    chosen = [
        (rank[2], candidate)
        for rank, candidate in zip(ranks, near, strict=True)
        if rank is not None and rank[:2] == best[:2] and rank[2] <= best[2] + _MARGIN
    ]
    chosen.sort()
    return [candidate for _, candidate in chosen], True


def _rank(name: str, candidate: str) -> tuple[int, int, float] | None:
    """How far a name is from another one; None if they are different names.

    Returns:
        Whether they have another number of components, how many differ, and minus the
        likeness of these.
    """
    asked, there = name.split("/"), candidate.split("/")
    if max(len(asked), len(there)) > _MAX_DEPTH:
        return None
    if len(asked) == len(there):
        pairs = [pair for pair in zip(asked, there, strict=True) if pair[0] != pair[1]]
        least = min((likeness(*pair) for pair in pairs), default=1.0)
        return None if least < _MIN_LIKENESS else (0, len(pairs), -least)
    shorter, longer = sorted((asked, there), key=len)
    return (1, len(longer) - len(shorter), 0.0) if _is_within(shorter, longer) else None


def _is_within(shorter: Sequence[str], longer: Sequence[str]) -> bool:
    """True if components stand in the same order among others."""
    remaining = iter(longer)
    return all(component in remaining for component in shorter)
