"""Entries of a map as messages name them."""

from __future__ import annotations

from tf2flax._assignment.language.captures import NamePattern
from tf2flax._assignment.language.entries import MapEntry, PlainEntry


def key_of(entry: MapEntry) -> str:
    """The key of an entry, as it reads in the map."""
    return entry.source if isinstance(entry, PlainEntry) else entry.key


def target_of(entry: MapEntry) -> str:
    """The value of an entry, as it reads in the map; "" if it is an object."""
    if isinstance(entry.target, NamePattern):
        return entry.target.text
    return entry.target if isinstance(entry.target, str) else ""


def fills_scope(entry: MapEntry) -> bool:
    """True if an entry fills a scope, member by member; False if it names leaves."""
    if isinstance(entry, PlainEntry):
        return isinstance(entry.target, str) and entry.target.endswith("/")
    return entry.is_scope


def label_of(entry: MapEntry) -> str:
    """Number, place and text of an entry, for the beginning of a message.

    Examples:
        >>> label_of(PlainEntry(2, "a/", "b/", place="map.toml:7"))
        'Entry 2 (map.toml:7) `a/` -> `b/`'
    """
    place = f" ({entry.place})" if entry.place else ""
    return f"Entry {entry.number}{place} {entry}"
