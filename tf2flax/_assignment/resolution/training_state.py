"""Keeps what optimizers store out of suggestions: slots, averages, counters.

A slot has the shape of its variable, so that it fits wherever its variable does.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Final

from .likeness import likeness
from .suggestions import Surroundings

# Names below a variable that are looked at.
_MAX_BELOW: Final = 20
# Letters of a word at least, and how alike words must be to be meant.
_MIN_LETTERS: Final = 3
_MIN_ALIKE: Final = 0.7


def without_training_state(
    asked: str, names: Iterable[str], around: Surroundings
) -> list[str]:
    """The names that may be meant by another one.

    Args:
        asked: The name that is not there.
        names: Names of the checkpoint that are like it.
        around: Names of the checkpoint and the target.

    Returns:
        The names without slots, averages and counters, unless the name that was asked
        for is that of such a tensor.
    """
    return [
        name
        for name in names
        if not _is_of_training(name, around) or _names_such(asked, name, around)
    ]


def means_variable_above(asked: str, variable: str, around: Surroundings) -> bool:
    """True if nothing below a variable is meant by a name, but slots may lie there.

    Args:
        asked: The name that is not there: `kernel/read`, `table/part_0`.
        variable: The tensor above it.
        around: Names of the checkpoint and the target.
    """
    numbers = around.tensors.range_under(f"{variable}/")
    below = [around.tensors.names[i] for i in itertools.islice(numbers, _MAX_BELOW)]
    return not without_training_state(asked, below, around)


def _is_of_training(name: str, around: Surroundings) -> bool:
    return around.roles.of(name).kind != "variable"


def _names_such(asked: str, name: str, around: Surroundings) -> bool:
    """True if a name says that a slot, an average or a counter is meant."""
    if _is_of_training(asked, around):
        return True
    last, there = asked.rpartition("/")[2], name.rpartition("/")[2]
    if around.roles.of(name).kind == "counter" and last in there.split("_"):
        return True
    # `v` begins `value`, and is another word.
    is_word = min(len(last), len(there)) >= _MIN_LETTERS
    return is_word and likeness(last, there) >= _MIN_ALIKE
