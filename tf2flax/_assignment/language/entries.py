"""Entries of an assignment map: plain ones, and rules with expressions or captures."""

from __future__ import annotations

import dataclasses

from .captures import NamePattern, lowest_numbers, parse_name
from .expressions import Expression, sources_of


@dataclasses.dataclass(frozen=True, slots=True)
class PlainEntry:
    """A plain entry of an assignment map, with names in place of its objects.

    Attributes:
        number: Number of the entry in the map, from 1.
        source: The key: name of a tensor, or a scope ending in `/`.
        target: The value: a name or scope; or names of leaves that were given as
            objects.
        is_list: True if the value was a list of leaves: partitions of one tensor.
        place: File and line, if the map comes from a file; else "".
        is_optional: True if it may reach no leaf, or find no tensor, without a word.
    """

    number: int
    source: str
    target: str | tuple[str, ...]
    is_list: bool = False
    place: str = ""
    is_optional: bool = False

    def __str__(self) -> str:
        """The entry as it reads in the map."""
        return f"`{self.source}` -> {_target_text(self.target, is_list=self.is_list)}"


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """An entry of an assignment map with an expression or a capture.

    Attributes:
        number: Number of the entry in the map, from 1.
        source: The key. Its sources are all names, or all scopes.
        target: The value: a name or scope with captures; or names of leaves that were
            given as objects.
        key: The key as it reads in the map.
        is_list: True if the value was a list of leaves: partitions of one tensor.
        place: File and line, if the map comes from a file; else "".
        is_optional: True if it may reach no leaf, or find no tensor, without a word.
    """

    number: int
    source: Expression
    target: NamePattern | tuple[str, ...]
    key: str
    is_list: bool = False
    place: str = ""
    is_optional: bool = False

    @property
    def is_scope(self) -> bool:
        """True if the rule fills a scope, member by member."""
        return isinstance(self.target, NamePattern) and self.target.text.endswith("/")

    @property
    def names_leaves(self) -> bool:
        """True if the rule names its leaves, without captures."""
        target = self.target
        is_pattern = isinstance(target, NamePattern)
        return not (self.is_scope or (is_pattern and target.captures))

    def lowest(self) -> dict[str, int]:
        """The captures that are numbers -> the lowest number that each can be."""
        patterns = [parse_name(source.pattern) for source in sources_of(self.source)]
        if isinstance(self.target, NamePattern):
            patterns.append(self.target)
        return lowest_numbers(patterns)

    def __str__(self) -> str:
        """The rule as it reads in the map."""
        target = self.target
        text = target.text if isinstance(target, NamePattern) else target
        return f"`{self.key}` -> {_target_text(text, is_list=self.is_list)}"


MapEntry = PlainEntry | Rule


def _target_text(target: str | tuple[str, ...], *, is_list: bool) -> str:
    if isinstance(target, str):
        return f"`{target}`"
    if is_list:
        return f"[{', '.join(f'`{name}`' for name in target)}]"
    return f"`{target[0]}`"
