"""An assignment map as the user wrote it -> entries; all wrong ones are reported.

A map is a mapping, or pairs. Keys are names, scopes or expressions; values are names,
scopes, leaves of the target, or lists of leaves. Entries with an expression or a
capture become rules, the others plain entries. A map is frozen (copied) as soon as it
is given. Nothing here looks into a checkpoint.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, Final, NamedTuple, cast

from tf2flax._base.caller import attribute_of, members, show_value
from tf2flax._base.collapsing import summarise
from tf2flax._base.errors import AssignmentError

from .captures import NamePattern, parse_name
from .entries import MapEntry, PlainEntry, Rule
from .expressions import Expression, Source
from .hints import (
    suggest_key,
    suggest_map,
    suggest_pair,
    suggest_tuple,
    suggest_value,
)
from .rule_checks import check_rule
from .writing import write_expression

# Names of the leaves of the target that are the object; () if there are none.
Identify = Callable[[object], tuple[str, ...]]


@dataclasses.dataclass(frozen=True, slots=True)
class MapFacts:
    """What a map that was loaded from a file knows besides its entries.

    Attributes:
        places: File and line of every entry, by its key and value.
        optional: Entries of `[optional]`: their keys and values.
        options: Options of `plan` that the file gives, by name.
        option_places: File and line of each of these options.
        parameters: Values of the file's parameters, by name.
    """

    places: Mapping[object, str] = dataclasses.field(default_factory=dict[object, str])
    optional: Set[object] = frozenset()
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    option_places: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    parameters: Mapping[str, int | float | str] = dataclasses.field(
        default_factory=dict[str, "int | float | str"]
    )

    def joined(
        self, after: MapFacts, entries: Set[object], added: Set[object]
    ) -> MapFacts:
        """Both together; what `after` knows of an option or parameter counts.

        Args:
            after: What the other map knows.
            entries: Keys and values of this map.
            added: Those of the other one.

        Returns:
            Both; an entry is optional only where each map that has it says so.
        """
        return MapFacts(
            {**self.places, **after.places},
            (self.optional - (added - after.optional))
            | (after.optional - (entries - self.optional)),
            {**self.options, **after.options},
            {**self.option_places, **after.option_places},
            {**self.parameters, **after.parameters},
        )


class LoadedMap:
    """A map that was loaded from a file; `tf2flax.load_map` makes its two kinds.

    Attributes:
        facts: What it knows besides its entries.
    """

    facts: MapFacts

    @property
    def options(self) -> Mapping[str, Any]:
        """Options of `plan` that the file gives; those of a call win."""
        return self.facts.options

    @property
    def parameters(self) -> Mapping[str, int | float | str]:
        """Values of the file's parameters, which stand in the entries already."""
        return self.facts.parameters


_NO_FACTS: Final = MapFacts()


class FrozenEntry(NamedTuple):
    """An entry as it was given, unchecked.

    Attributes:
        key: Its key.
        value: Its value; lists are copied.
        place: The file and line that it comes from, else "".
        is_optional: True if it comes from the table `[optional]` of a file.
    """

    key: object
    value: object
    place: str
    is_optional: bool


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenMap:
    """A map as it was when it was given: iterators are read, containers are copied.

    Attributes:
        entries: Its entries.
        facts: What it knows besides.
    """

    entries: tuple[FrozenEntry, ...]
    facts: MapFacts = _NO_FACTS


def facts_of(assignment_map: object) -> MapFacts:
    """What a map of any kind knows besides its entries."""
    is_known = isinstance(assignment_map, (LoadedMap, FrozenMap))
    return assignment_map.facts if is_known else _NO_FACTS


def freeze_map(assignment_map: object) -> FrozenMap:
    """Copies a map, so that it can be read again and does not change meanwhile.

    Args:
        assignment_map: A mapping, an iterable of `(key, value)` pairs, or a map that is
            frozen already.

    Returns:
        The map. Keys and values are the same objects, lists of leaves are copied.

    Raises:
        AssignmentError: It is not a map, or a member is not a pair.
    """
    if isinstance(assignment_map, FrozenMap):
        return assignment_map
    facts = facts_of(assignment_map)
    entries: list[FrozenEntry] = []
    for key, value in _pairs(assignment_map):
        is_name = isinstance(key, (str, Expression)) and isinstance(value, str)
        place = facts.places.get((key, value), "") if is_name else ""
        is_optional = is_name and (key, value) in facts.optional
        if isinstance(value, list):
            value = [*cast("list[object]", value)]
        entries.append(FrozenEntry(key, value, place, is_optional))
    return FrozenMap(tuple(entries), facts)


def check_map(assignment_map: FrozenMap) -> None:
    """Checks a map as far as possible without a target.

    Raises:
        AssignmentError: As `parse_map`, but objects that may be leaves are accepted.
    """
    parse_map(assignment_map, _identify_any)


def _identify_any(value: object) -> tuple[str, ...]:
    """Accepts every object that could be a leaf of some target."""
    kinds = (str, bytes, bool, int, float, complex, tuple, list, Mapping, type(None))
    return () if isinstance(value, kinds) else ("",)


def parse_map(assignment_map: object, identify: Identify) -> tuple[MapEntry, ...]:
    """Checks the types of a map and finds the objects in it.

    Args:
        assignment_map: A mapping, an iterable of `(key, value)` pairs, or a map that is
            frozen.
        identify: Finds the leaves that are an object.

    Returns:
        The entries, in the map's order.

    Raises:
        AssignmentError: The map, a key or a value is of a wrong type, a capture or an
            expression is malformed, or an object is not exactly one leaf of the target.
            All problems are listed.
    """
    entries: list[MapEntry] = []
    problems: list[str] = []
    frozen = freeze_map(assignment_map)
    for number, entry in enumerate(frozen.entries, start=1):
        key, value, place, is_optional = entry
        if not isinstance(key, (str, Expression)):
            problems.append(
                f"Entry {number}: expected the name of a tensor, a scope or an "
                f"expression (tf2flax.src) as the key, got {_describe(key)}."
                f"{suggest_key(key)}"
            )
            continue
        try:
            parsed = _parse_entry(number, key, value, identify, place)
            entries.append(
                dataclasses.replace(parsed, is_optional=True) if is_optional else parsed
            )
        except AssignmentError as error:
            where = f" ({place})" if place else ""
            problems.append(f"Entry {number}{where} `{key}`: {error}")
    if problems:
        raise AssignmentError(summarise(problems))
    return tuple(entries)


def check_entry(key: str | Expression, target: str) -> None:
    """Checks an entry without a target, as `parse_map` does.

    Raises:
        AssignmentError: Captures or scopes of key and value do not fit together.
    """
    _parse_entry(0, key, target, lambda _: (), "")


def _pairs(assignment_map: object) -> list[tuple[object, object]]:
    if isinstance(assignment_map, Mapping):
        entries = cast("Mapping[object, object]", assignment_map)
        if not _is_checkpoint(entries):
            return list(entries.items())
    if isinstance(assignment_map, (str, bytes, Mapping)) or not isinstance(
        assignment_map, Iterable
    ):
        raise AssignmentError(
            "Expected an assignment map (a dict, or pairs) of checkpoint names to "
            f"target names, got {_describe(cast('object', assignment_map))}."
            f"{suggest_map(cast('object', assignment_map))}"
        )
    pairs: list[tuple[object, object]] = []
    given = members("assignment map", cast("Iterable[object]", assignment_map))
    for number, pair in enumerate(given, start=1):
        items = cast("Sequence[object]", pair)
        if not isinstance(pair, (tuple, list)) or len(items) != 2:
            raise AssignmentError(
                f"Entry {number}: expected a pair of a checkpoint name and a target, "
                f"got {_describe(items)}.{suggest_pair(items)}"
            )
        pairs.append((items[0], items[1]))
    if not pairs and isinstance(assignment_map, Iterator):
        raise AssignmentError(
            "Expected an assignment map, got an iterator without entries: perhaps it "
            "was read before. Give the entries as a list or dict, which can be read "
            "again; {} fills nothing on purpose."
        )
    return pairs


def _parse_entry(
    number: int, key: str | Expression, value: object, identify: Identify, place: str
) -> MapEntry:
    # Most entries of most maps: two names that have no braces to be read.
    if isinstance(key, str) and isinstance(value, str) and not has_braces(key, value):
        return PlainEntry(number, key, value, place=place)
    target, is_list = _parse_target(value, identify)
    if isinstance(key, str):
        pattern = parse_name(key)
        has_captures = pattern.captures or (
            isinstance(target, NamePattern) and target.captures
        )
        if not has_captures:
            names = target.literal if isinstance(target, NamePattern) else target
            return PlainEntry(number, pattern.literal, names, is_list, place)
        if key == "":
            raise AssignmentError('expected a name, got "". All of it is "/".')
    source = Source(key) if isinstance(key, str) else key
    text = key if isinstance(key, str) else write_expression(key)
    rule = Rule(number, source, target, text, is_list, place)
    check_rule(rule)
    return rule


def has_braces(*names: str) -> bool:
    """True if names have braces, as most have not: these stand for themselves."""
    text = "".join(names)
    return "{" in text or "}" in text


def _parse_target(
    value: object, identify: Identify
) -> tuple[NamePattern | tuple[str, ...], bool]:
    """Reads the value of an entry, and says whether it is a list of leaves."""
    if isinstance(value, str):
        return parse_name(value), False
    if isinstance(value, list):
        members = cast("list[object]", value)
        return tuple(_leaf_name(member, identify) for member in members), True
    return (_leaf_name(value, identify),), False


def _leaf_name(value: object, identify: Identify) -> str:
    """Finds the one leaf of the target that an object is."""
    names = identify(value)
    if len(names) == 1:
        return names[0]
    if names:
        listed = ", ".join(f"`{name}`" for name in names)
        raise AssignmentError(
            f"the object given stands at {len(names)} leaves of the target: {listed}. "
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
            f"{suggest_tuple(cast('tuple[object, ...]', value))}"
        )
    raise AssignmentError(
        "expected a name, a leaf of the target or a list of leaves, got "
        f"{_describe(value)}, which is not a leaf of the target.{suggest_value(value)}"
    )


def _is_checkpoint(value: object) -> bool:
    """True for an open checkpoint, which is a mapping as well, of names to tensors."""
    is_plain = type(value) is dict  # as most maps are
    return not is_plain and attribute_of(value, "manifest") is not None


def _describe(value: object) -> str:
    """Describes a value by its type, and its text or shape."""
    if value is None:
        return "None"
    name = type(value).__name__
    if isinstance(value, (str, bytes, int, float, bool)):
        return f"{name} {show_value(value)}"[:80]
    shape = attribute_of(value, "shape")
    return f"{name} of shape {shape}" if isinstance(shape, tuple) else name
