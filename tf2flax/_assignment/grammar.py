"""An assignment map as the user wrote it -> entries, every wrong one reported at once.

Accepts a mapping, or pairs; keys are strings; values are names, scopes, leaves of the
target, or lists of leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

from tf2flax._errors import AssignmentError

from .values import MapEntry

# Finds the leaves of the target that are this very object: their names.
Identify = Callable[[object], tuple[str, ...]]


def parse_map(assignment_map: object, identify: Identify) -> tuple[MapEntry, ...]:
    """Checks the types of a map and finds the objects in it.

    Args:
        assignment_map: A mapping, or an iterable of `(key, value)` pairs.
        identify: Gives the names of the leaves that are an object; () for none.

    Returns:
        The entries, in the map's order.

    Raises:
        AssignmentError: The map, a key or a value is of a wrong type, or an object is
            no leaf of the target, or several. All are named.
    """
    entries: list[MapEntry] = []
    problems: list[str] = []
    for number, (key, value) in enumerate(_pairs(assignment_map), start=1):
        if not isinstance(key, str):
            problems.append(
                f"Entry {number}: expected the name of a tensor or a scope as the key, "
                f"got {_shown(key)}. Keys are str."
            )
            continue
        try:
            entries.append(_entry(number, key, value, identify))
        except AssignmentError as error:
            problems.append(f"Entry {number} `{key}`: {error}")
    if problems:
        raise AssignmentError("\n".join(problems))
    return tuple(entries)


def _pairs(assignment_map: object) -> list[tuple[object, object]]:
    if isinstance(assignment_map, Mapping):
        return list(cast("Mapping[object, object]", assignment_map).items())
    if isinstance(assignment_map, (str, bytes)) or not isinstance(
        assignment_map, Iterable
    ):
        raise AssignmentError(
            "Expected an assignment map (a dict, or pairs) of checkpoint names to "
            f"target names, got {_shown(assignment_map)}."
        )
    pairs: list[tuple[object, object]] = []
    given = cast("Iterable[object]", assignment_map)
    for number, pair in enumerate(given, start=1):
        items = cast("Sequence[object]", pair)
        if not isinstance(pair, (tuple, list)) or len(items) != 2:
            raise AssignmentError(
                f"Entry {number}: expected a pair of a checkpoint name and a target, "
                f"got {_shown(items)}."
            )
        pairs.append((items[0], items[1]))
    return pairs


def _entry(number: int, key: str, value: object, identify: Identify) -> MapEntry:
    if isinstance(value, str):
        return MapEntry(number, key, value)
    if isinstance(value, list):
        leaves = tuple(_leaf(item, identify) for item in cast("list[object]", value))
        return MapEntry(number, key, leaves, is_list=True)
    return MapEntry(number, key, (_leaf(value, identify),))


def _leaf(value: object, identify: Identify) -> str:
    names = identify(value)
    if len(names) == 1:
        return names[0]
    if names:
        shown = ", ".join(f"`{name}`" for name in names)
        raise AssignmentError(
            f"the object given stands at {len(names)} leaves of the target: {shown}. "
            "Give the name of the one that is meant."
        )
    if isinstance(value, str):
        raise AssignmentError(
            f"a list holds the leaves of one partitioned variable, not names; got "
            f"{value!r}. Give the family's name instead of the list."
        )
    if isinstance(value, tuple):
        raise AssignmentError(
            "expected a name, a leaf of the target or a list of leaves, got a tuple. "
            "Make it a list."
        )
    raise AssignmentError(
        "expected a name, a leaf of the target or a list of leaves, got "
        f"{_shown(value)}, which is no leaf of the target."
    )


def _shown(value: object) -> str:
    """A value's type, and the value itself where it is short."""
    if value is None:
        return "None"
    name = type(value).__name__
    if isinstance(value, (str, bytes, int, float, bool)):
        return f"{name} {value!r}"[:80]
    shape = getattr(value, "shape", None)
    return f"{name} of shape {shape}" if isinstance(shape, tuple) else name
