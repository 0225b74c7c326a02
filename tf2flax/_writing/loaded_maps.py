"""Maps as `load_map` gives them: a dict or a list that knows more than its entries.

Lines, options, parameters and optional entries stay when such a map is copied or joined
with another one. `dict(loaded)` and `list(loaded)` have the entries only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Self, cast

from tf2flax._assignment.language.expressions import Expression
from tf2flax._assignment.language.grammar import LoadedMap, MapFacts, facts_of

Key = str | Expression
_NO_FACTS: Final = MapFacts()


def _join(before: Any, after: Any) -> MapFacts:
    """What two maps know together."""
    facts = facts_of(before), facts_of(after)
    return facts[0].joined(facts[1], _named_entries(before), _named_entries(after))


def _named_entries(entries: Any) -> set[object]:
    """Entries of a map whose values are names; files hold no others."""
    is_mapping = isinstance(entries, Mapping)
    pairs = cast("Any", entries).items() if is_mapping else entries
    return {
        (key, value)
        for key, value in pairs
        if isinstance(key, (str, Expression)) and isinstance(value, str)
    }


class MapTable(dict[Key, str], LoadedMap):
    """A map from a file in which every key occurs once: a dict that knows its lines.

    Joined with another map by `|`, the entries, options and parameters of the right one
    count.

    Examples:
        >>> import tempfile, tf2flax
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     tf2flax.save_map(f"{folder}/map.toml", {"q": "kernel"})
        ...     loaded = tf2flax.load_map(f"{folder}/map.toml")
        >>> type(loaded | {"global_step": "step"}).__name__
        'MapTable'
    """

    def __init__(
        self,
        entries: Mapping[Key, str] | Iterable[tuple[Key, str]] = (),
        facts: MapFacts = _NO_FACTS,
    ) -> None:
        """Makes it; `load_map` does."""
        super().__init__(entries)
        self.facts: MapFacts = facts

    def copy(self) -> Self:
        """A copy that knows as much."""
        return type(self)(self, self.facts.joined(_NO_FACTS, set(), set()))

    def __or__(self, after: Any) -> Any:
        """Both maps as one."""
        if not isinstance(after, dict):
            return NotImplemented
        after = cast("dict[Key, str]", after)
        return type(self)({**self, **after}, _join(self, after))

    def __ror__(self, before: Any) -> Any:
        """Both maps as one; what this one knows stays."""
        if not isinstance(before, dict):
            return NotImplemented
        before = cast("dict[Key, str]", before)
        return type(self)({**before, **self}, _join(before, self))

    def __ior__(self, after: Any) -> Self:
        """Adds the entries of another map, and what it knows."""
        # Pairs may come from a generator, which gives them once.
        is_map = isinstance(after, (dict, LoadedMap))
        entries = cast("Any", after if is_map else dict[Any, Any](after))
        self.facts = _join(self, entries)
        self.update(entries)
        return self


class MapPairs(list[tuple[Key, str]], LoadedMap):
    """A map from a file that holds pairs: a list that knows its lines.

    Joined with other pairs by `+`, the options and parameters of the right one count.
    """

    def __init__(
        self, entries: Iterable[tuple[Key, str]] = (), facts: MapFacts = _NO_FACTS
    ) -> None:
        """Makes it; `load_map` does."""
        super().__init__(entries)
        self.facts: MapFacts = facts

    def copy(self) -> Self:
        """A copy that knows as much."""
        return type(self)(self, self.facts.joined(_NO_FACTS, set(), set()))

    def __add__(self, after: Any) -> Any:
        """Both maps as one."""
        if not isinstance(after, list):
            return NotImplemented
        after = cast("list[tuple[Key, str]]", after)
        return type(self)([*self, *after], _join(self, after))

    def __radd__(self, before: Any) -> Any:
        """Both maps as one; what this one knows stays."""
        if not isinstance(before, list):
            return NotImplemented
        before = cast("list[tuple[Key, str]]", before)
        return type(self)([*before, *self], _join(before, self))

    def __iadd__(self, after: Any) -> Self:
        """Adds the pairs of another map, and what it knows."""
        after = after if isinstance(after, LoadedMap) else list(after)
        self.facts = _join(self, after)
        self.extend(after)
        return self
