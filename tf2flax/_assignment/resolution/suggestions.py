"""Lines that can be pasted into a map: other keys and values.

A suggestion is written as it stands in a map: braces of names are doubled, and what an
entry writes with captures (`layer_{i}`) is suggested with captures. `new_entries` has
entries to add.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Mapping, Sequence, Set
from typing import Final

from tf2flax._assignment.language.captures import literal_pattern, parse_name
from tf2flax._assignment.language.entries import MapEntry, PlainEntry
from tf2flax._assignment.language.expressions import (
    Expression,
    Source,
    map_sources,
    sources_of,
)
from tf2flax._assignment.language.literals import quote
from tf2flax._base.collapsing import list_collapsed
from tf2flax._base.errors import CheckpointError
from tf2flax._base.manifest import Manifest
from tf2flax._base.roles import Roles

from .entry_labels import target_of
from .likeness import likeness
from .scopes import NameTable, template_of

# What stands for another thing in each layer: numbers, and captures of a pattern.
_VARYING: Final = re.compile(r"(\{[A-Za-z_]\w*(?:\.\.\.|[+-]\d+)?\}|\d+)")
_CAPTURE: Final = re.compile(r"(?<!\{)\{[A-Za-z_]\w*(?:\.\.\.|[+-]\d+)?\}")
# Causes of one message that get suggestions, and names that are compared for all.
_MAX_SUGGESTED: Final = 20
_MAX_COMPARED: Final = 400_000
# What lies under a scope: so many are looked at, and so many are named.
_MAX_CHILDREN: Final = 1000
_MAX_LISTED: Final = 5
# Numbers of a tuple that may be a shape: NumPy's arrays have at most 64 axes.
_MAX_RANK: Final = 64
# Components with the same number are the same from this likeness on.
_MIN_ALIKE: Final = 0.6
# Components of names that are compared with each other.
_MAX_DEPTH: Final = 64


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What a map was meant for: names, and shapes of leaves.

    Attributes:
        manifest: The checkpoint.
        shapes: Shape of every leaf, by all its names.
        claimed: For each entry, by number, the sources that it gives to leaves, and
            the shapes of these leaves.
        abstract: Names of leaves that cannot stay as they are.
    """

    manifest: Manifest
    shapes: Mapping[str, tuple[int, ...]]
    claimed: Mapping[int, Sequence[tuple[Expression, tuple[int, ...]]]]
    abstract: Set[str] = frozenset()

    @functools.cached_property
    def tensors(self) -> NameTable:
        """Names of the checkpoint."""
        return NameTable(self.manifest.names)

    @functools.cached_property
    def tensors_by_template(self) -> Mapping[str, Sequence[str]]:
        """Names of the checkpoint, by what they are without their numbers."""
        names: dict[str, list[str]] = {}
        for name in self.manifest.names:
            names.setdefault(template_of(name), []).append(name)
        return names

    @functools.cached_property
    def leaves(self) -> NameTable:
        """Names of the target."""
        return NameTable(sorted(self.shapes))

    @functools.cached_property
    def roles(self) -> Roles:
        """What the tensors are to a training, by their names."""
        return self.manifest.roles(may_read=False)

    @functools.cached_property
    def taken(self) -> Mapping[int, Set[str]]:
        """For each entry, by number, names of tensors that it gives to leaves."""
        return {
            number: {
                parse_name(source.pattern).literal
                for expression, _ in claims
                for source in sources_of(expression)
            }
            for number, claims in self.claimed.items()
        }

    def is_taken(self, entry: MapEntry, tensor: str) -> bool:
        """True if an entry gives a tensor to a leaf."""
        return tensor in self.taken.get(entry.number, ())

    def fits(self, entry: MapEntry, tensor: str, leaf: str | None) -> bool:
        """True if a tensor may be meant for a leaf of an entry, by its size.

        Args:
            entry: The entry.
            tensor: Name of the tensor.
            leaf: Name of the leaf; None for that which the entry names.

        Returns:
            False if the tensor has another number of elements than the leaf, and the
            key is no expression.
        """
        if not isinstance(source_of_entry(entry), Source):
            return True
        shape = self.shapes.get(leaf or target_of(entry))
        try:
            stored = self.manifest.spec(tensor).shape
        except CheckpointError:  # shared or damaged: reading it says so
            return True
        return shape is None or math.prod(shape) == math.prod(stored)

    def may_fill(self, entry: MapEntry, tensor: str, leaf: str | None) -> bool:
        """True if a tensor fits a leaf, and its entry does not give it to another."""
        return not self.is_taken(entry, tensor) and self.fits(entry, tensor, leaf)


def describe_numbers(name: str, around: Surroundings) -> str:
    """Says that a tuple of numbers stands where a leaf was meant; "" if none does.

    `{"w": (3, 4)}` is a tree of two leaves `w/0` and `w/1`, of shape () each.
    """
    numbers = around.leaves.range_under(f"{name}/")[:_MAX_RANK]
    names = [around.leaves.names[i] for i in numbers]
    if not names or sorted(names) != sorted(f"{name}/{i}" for i in range(len(names))):
        return ""
    if any(around.shapes[leaf] for leaf in names):
        return ""
    listed = " and ".join(f"`{leaf}`" for leaf in (names[0], names[-1])[: len(names)])
    return (
        f"`{name}` is a tuple or list of numbers, each of which is a leaf: {listed}. "
        "Where they are the shape of a leaf, write "
        'jax.ShapeDtypeStruct(shape, "float32") in the target.'
    )


def list_below(name: str, around: Surroundings) -> str:
    """Says what lies under the innermost scope of a name that is there, if anything."""
    root = around.tensors.missing_root(name) or name
    scope = root[:-1].rpartition("/")[0] + "/"
    scope = "" if scope == "/" else scope
    children = list(itertools.islice(around.tensors.children_of(scope), _MAX_CHILDREN))
    if not children:
        return ""
    what = f"`{scope}`" if scope else "The checkpoint"
    return f"{what} holds {list_collapsed(children, _MAX_LISTED)}."


def write_line(entry: MapEntry, key: str, value: str) -> str:
    """Writes an entry with another key and value, as a line of a map.

    Args:
        entry: The entry.
        key: The key, as `write_key` writes it.
        value: The value.

    Returns:
        A dict of one entry: `{"a/": "params/"}`; in the form of TOML for a map from
        such a file.
    """
    if ".toml:" in entry.place:
        # Keys may hold double quotes, which single ones leave as they are.
        literal = f"'{key}'" if "'" not in key and key.isprintable() else quote(key)
        return f"{literal} = {quote(value)}"
    is_text = isinstance(entry, PlainEntry) or entry.key != repr(entry.source)
    return f"{{{quote(key) if is_text else key}: {quote(value)}}}"


def max_searches(names: NameTable) -> int:
    """Number of causes in one message for which near names are looked up.

    A look-up takes a pass over all names.
    """
    return max(3, min(_MAX_SUGGESTED, _MAX_COMPARED // max(len(names), 1)))


def did_you_mean(names: Sequence[str]) -> str:
    """Suggests names, the best first; "" for no names.

    Examples:
        >>> did_you_mean(["a", "b"])
        'Did you mean `a` or `b`?'
    """
    if not names:
        return ""
    return f"Did you mean {' or '.join(f'`{name}`' for name in names)}?"


def transfer(old: str, new: str, pattern: str) -> str:
    """Changes a pattern as a name that it stands for is changed.

    Args:
        old: A name that the pattern stands for, or another one of the same form.
        new: What the name should be instead.
        pattern: The pattern, of as many components as the name.

    Returns:
        The pattern for the new name: components that the names share come from the
        pattern, and so do numbers and captures in components that are alike.

    Examples:
        >>> transfer("a/layer_0/w", "enc/layers_0/w", "a/layer_{i}/w")
        'enc/layers_{i}/w'
    """
    olds, patterns = old.split("/"), pattern.split("/")
    if old == pattern or len(olds) > _MAX_DEPTH:
        return new
    news = new.split("/")
    written: list[str] = []
    for place, component in enumerate(news):
        same = [k for k, text in enumerate(olds) if text == component]
        if same and len(olds) == len(patterns):
            written.append(patterns[same[-1]])
            continue
        varying = _VARYING.findall(component)
        like = [
            k
            for k, text in enumerate(olds[: len(patterns)])
            if varying
            and _VARYING.findall(text) == varying
            # `bottleneck_v1` is not `unit_1` with another name, where both stand.
            and (
                (len(news) == len(olds) and k == place)
                or likeness(template_of(text), template_of(component)) >= _MIN_ALIKE
            )
        ]
        # The component at the same place from the end, or else the last one.
        aligned = place - len(news) + len(olds)
        k = aligned if aligned in like else like[-1] if like else 0
        replacing = _VARYING.findall(patterns[k])
        if like and len(replacing) == len(varying):
            parts = _VARYING.split(component)
            parts[1::2] = replacing
            written.append("".join(parts))
        else:
            written.append(component)
    return "/".join(written)


def with_captures(pattern: str, name: str) -> str | None:
    """Writes a name that there is with the captures of a pattern that is like it.

    Args:
        pattern: A name or scope as it is written in a map.
        name: The name.

    Returns:
        The pattern for the name; None if its captures have no place there.

    Examples:
        >>> with_captures("params/layer_{i}/{part}", "params/layers_0/query")
        'params/layers_{i}/{part}'
    """
    patterns, components = pattern.split("/"), name.split("/")
    if not _CAPTURE.search(pattern):
        return literal_pattern(name)
    if len(patterns) != len(components):
        return None
    written: list[str] = []
    for like, component in zip(patterns, components, strict=True):
        captures = _VARYING.findall(like)
        parts = _VARYING.split(component)
        if _CAPTURE.fullmatch(like):
            written.append(like)
        elif not _CAPTURE.search(like):
            written.append(literal_pattern(component))
        elif len(captures) == len(parts) // 2:
            parts[1::2] = captures
            written.append("".join(parts))
        else:
            return None
    return "/".join(written)


def change_key(entry: MapEntry, old: str, new: str) -> str | None:
    """Writes the key of an entry with another name, or the beginning of one.

    Args:
        entry: The entry.
        old: Scope or name that the key has now, with text in place of captures.
        new: What it should have instead.

    Returns:
        The key as it is written in a map; None if it does not begin with the old one,
        if it stays the same, or if a capture would have no place in it: every leaf
        would get one tensor.
    """
    count = old.count("/") + 1
    is_changed, is_lost = False, False

    def change(source: Source) -> Source:
        nonlocal is_changed, is_lost
        components = source.pattern.split("/")
        beginning = "/".join(components[: count - 1]) + "/"
        if not old.endswith("/"):
            beginning = source.pattern
        if parse_name(beginning).matches(old) is None:
            return source
        is_changed = True
        below = source.pattern[len(beginning) :]
        changed = transfer(old, literal_pattern(new), beginning) + below or "/"
        is_lost |= not captures_of(source.pattern) <= captures_of(changed)
        return Source(changed)

    plain = isinstance(entry, PlainEntry)
    source = Source(literal_pattern(entry.source)) if plain else entry.source
    changed = map_sources(source, change)
    if old != new and changed == source:  # captures that swallow the difference
        return None
    return write_key(entry, changed) if is_changed and not is_lost else None


def captures_of(pattern: str) -> set[str]:
    """The captures of a name or scope as it is written in a map."""
    return set(parse_name(pattern).captures)


def write_key(entry: MapEntry, source: Expression) -> str:
    """Writes a key in the form in which that of an entry is written."""
    is_text = isinstance(entry, PlainEntry) or entry.key != repr(entry.source)
    if is_text and isinstance(source, Source):
        return source.pattern
    return repr(source)


def source_of_entry(entry: MapEntry) -> Expression:
    """The source of an entry as it is written, with its captures."""
    if isinstance(entry, PlainEntry):
        return Source(literal_pattern(entry.source))
    return entry.source


def scopes_named(entry: MapEntry) -> list[str]:
    """The names or scopes that the key of an entry holds, as they are written."""
    return [source.pattern for source in sources_of(source_of_entry(entry))]
