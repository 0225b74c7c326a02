"""Layers that differ by their numbers: other numbers in the checkpoint than in a map.

    needed   layer_1, layer_2, layer_3
    there    layer_0, layer_1, layer_2      the numbers are shifted: `layer_{i-1}`
    there    layer_1, layer_2               the model has more layers

Numbers are shifted only where all of them, without a remainder, are others by the same
difference.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence, Set
from typing import Final, NamedTuple

from tf2flax._assignment.language.captures import literal_pattern, parse_name
from tf2flax._assignment.language.entries import MapEntry, PlainEntry
from tf2flax._assignment.language.expressions import (
    Expression,
    Source,
    map_sources,
)
from tf2flax._base.collapsing import list_collapsed

from .entry_labels import fills_scope, target_of
from .new_entries import NewEntry
from .renamed_layers import Missing
from .suggestions import Surroundings, did_you_mean, source_of_entry, write_key

# Scopes whose numbers are compared, what lies under each, and numbers of a message.
_MAX_PARENTS: Final = 50
_MAX_CHILDREN: Final = 1000
_MAX_LISTED: Final = 3
# The only number of a component: no leading zeros, which `{i+1}` does not match.
_NUMBERED: Final = re.compile(r"(\D*)(0|[1-9]\d{0,17})(\D*)")
_LAST_NUMBER: Final = re.compile(r"\d+(?=\D*$)")
_CAPTURE: Final = re.compile(r"(?<!\{)\{([A-Za-z_]\w*)([+-]\d+)?\}")


class _Place(NamedTuple):
    """Where a number stands: what is around the component, and around it within."""

    parent: str
    before: str
    after: str


def describe_layers(
    missing: Missing, beside: Sequence[str], around: Surroundings, *, is_captured: bool
) -> str:
    """Says which numbers there are, where scopes have others.

    Args:
        missing: Problems, and the scope of each under which nothing lies. These scopes
            differ by numbers alone.
        beside: Components that the checkpoint has in place of theirs, by number.
        around: Names of the checkpoint and the target.
        is_captured: True if a capture of the key stands for the number.

    Returns:
        Sentences.
    """
    fact = f"The checkpoint has {_list_components(beside)} there"
    if shift := describe_shift(missing, around):
        return f"{fact}. {shift}"
    numbers = [_number_of(component) for component in beside]
    lowest = min(_number_of(_component_of(root)) for _, root in missing)
    if lowest > max(numbers) and (len(numbers) > 1 or is_captured):
        return f"{fact}: was the model built with another number of layers?"
    return f"{fact}."


def describe_shift(missing: Missing, around: Surroundings) -> str:
    """Says how to write numbers that are shifted; "" where they are not.

    Args:
        missing: Problems, and the scope or name of each that is missing.
        around: Names of the checkpoint and the target.

    Returns:
        Sentences.
    """
    shift = _find_shift(missing, around)
    if not shift:
        return ""
    by = "one" if abs(shift) == 1 else str(abs(shift))
    written = _shifted(missing, shift, around)
    return f"The numbers differ by {by}. {written}".rstrip()


def _find_shift(missing: Missing, around: Surroundings) -> int:
    """By how much all needed numbers are higher than those there; 0 if they are not."""
    needed: dict[_Place, set[int]] = {}
    for _, root in missing:
        place = _place_of(root)
        if place is None or len(needed) > _MAX_PARENTS:
            return 0
        needed.setdefault(place[0], set()).add(place[1])
    numbers = {problem.entry.number for problem, _ in missing}
    taken = {name for number in numbers for name in around.taken.get(number, ())}
    shifts = {
        _shift_of(wanted, *_numbers_there(place, taken, around))
        for place, wanted in needed.items()
    }
    return shifts.pop() if len(shifts) == 1 else 0


def _numbers_there(
    place: _Place, taken: Set[str], around: Surroundings
) -> tuple[set[int], set[int]]:
    """The numbers that the checkpoint has at a place; and those of tensors in use."""
    there, used = set[int](), set[int]()
    children = around.tensors.children_of(place.parent)
    for child in itertools.islice(children, _MAX_CHILDREN):
        scope = place.parent + child
        numbered = _place_of(scope)
        if numbered is None or numbered[0] != place:
            continue
        there.add(numbered[1])
        below = around.tensors.range_under(scope)
        if any(around.tensors.names[i] in taken for i in below):
            used.add(numbered[1])
    return there, used


def _shift_of(missing: set[int], there: set[int], used: set[int]) -> int:
    """By how much all that is needed is higher than what is there; 0 if it is not."""
    needed = missing | used
    if len(there) < 2 or len(needed) != len(there):
        return 0
    shift = min(needed) - min(there)
    return shift if {number + shift for number in there} == needed else 0


def _shifted(missing: Missing, shift: int, around: Surroundings) -> str:
    """What to write where numbers are shifted; "" where that is not known."""
    problem, root = missing[0]
    entry = problem.entry
    if len({problem.entry.number for problem, _ in missing}) > 1:
        return ""
    places = {place for _, scope in missing if (place := _place_of(scope))}
    parents = {place.parent for place, _ in places}
    if key := shift_key(entry, root, -shift):
        # The key would move what it finds in other scopes as well.
        depth = root.rstrip("/").count("/")
        taken = around.taken.get(entry.number, ())
        is_whole = all(_parent_at(name, depth) in parents for name in taken)
        return did_you_mean([key]) if is_whole else ""
    scope = _scope_of(entry)
    if root.endswith("/"):  # `renamed_layers` has what is written of whole layers
        return ""
    if scope is None or len(parents) > 1 or not min(parents).startswith(scope):
        return ""
    # The entry stays for what lies beside the layers.
    ((parent, before, after), _), *_ = places
    target = target_of(entry)
    value = ("" if target == "/" else target) + parent[len(scope) :]
    written = [
        literal_pattern(beginning + before) + capture + literal_pattern(after)
        for beginning, capture in ((parent, f"{{i{-shift:+d}}}"), (value, "{i}"))
    ]
    return str(NewEntry(repr(Source(written[0])), written[1]))


def _parent_at(name: str, depth: int) -> str:
    """The scope that the component of a name at a depth lies in."""
    return "".join(f"{component}/" for component in name.split("/")[:depth])


def _scope_of(entry: MapEntry) -> str | None:
    """The scope that a plain entry names, "" for all; None if it is another entry."""
    if not isinstance(entry, PlainEntry) or not fills_scope(entry):
        return None
    return "" if entry.source == "/" else entry.source


def shift_key(
    entry: MapEntry, root: str, shift: int, *, before: str | None = None
) -> str | None:
    """Writes the key of an entry with another offset of the capture of a number.

    Args:
        entry: The entry.
        root: A scope or name that its key stands for; the number is in its last
            component.
        shift: What is added to the number.
        before: What stands before the number instead; None for what stands there.

    Returns:
        The key; None if no single capture stands for the number.

    Examples:
        >>> from tf2flax._assignment.language.grammar import parse_map
        >>> (entry,) = parse_map({"enc/layer_{i}/w": "l{i}"}, lambda value: ())
        >>> shift_key(entry, "enc/layer_3/", -1)
        'enc/layer_{i-1}/w'
    """
    changed = shift_source(source_of_entry(entry), root, shift, before=before)
    return write_key(entry, changed) if changed is not None else None


def shift_source(
    source: Expression, root: str, shift: int, *, before: str | None = None
) -> Expression | None:
    """As `shift_key`, of the source that a key is."""
    place = root.rstrip("/").count("/")
    is_changed = False

    def change(source: Source) -> Source:
        nonlocal is_changed
        components = source.pattern.split("/")
        beginning = "/".join(components[: place + 1])
        captures = (
            _CAPTURE.findall(components[place]) if len(components) > place else ()
        )
        if (
            len(captures) != 1
            or parse_name(beginning).matches(root.rstrip("/")) is None
        ):
            return source
        is_changed = True
        name, offset = captures[0]
        number = int(offset or 0) + shift
        written = f"{{{name}{number:+d}}}" if number else f"{{{name}}}"
        if before is None:
            components[place] = _CAPTURE.sub(lambda _: written, components[place])
        else:
            components[place] = literal_pattern(before) + written
        return Source("/".join(components))

    changed = map_sources(source, change)
    return changed if is_changed else None


def _place_of(root: str) -> tuple[_Place, int] | None:
    """Where the number of the last component stands, and which it is."""
    slash = "/" if root.endswith("/") else ""
    parent, middle, component = root.removesuffix("/").rpartition("/")
    match = _NUMBERED.fullmatch(component)
    if match is None:
        return None
    return _Place(parent + middle, match[1], match[3] + slash), int(match[2])


def _component_of(root: str) -> str:
    return root.removesuffix("/").rpartition("/")[2]


def _number_of(component: str) -> list[int]:
    """The last number of a component, in a list that is empty without one."""
    return [int(number) for number in _LAST_NUMBER.findall(component)]


def _list_components(components: Sequence[str]) -> str:
    """Lists components: a run of numbers by its ends."""
    if len(components) == 1:
        return f"`{components[0]}`"
    numbers = [number for component in components for number in _number_of(component)]
    if numbers == list(range(numbers[0], numbers[0] + len(components))):
        return f"`{components[0]}` to `{components[-1]}`"
    return list_collapsed(components, _MAX_LISTED)
