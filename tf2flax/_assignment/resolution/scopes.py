"""Scopes of names: which there are, what lies under one, and which is like another.

Names are sorted, so that what lies under a scope is a range of them, found by
bisection. Only `scopes_of` lists every scope, down to a depth: names of thousands of
letters have thousands of scopes.
"""

from __future__ import annotations

import bisect
import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from tf2flax._base.names import nearest

# Children of a scope that are looked at, when one of them may have been meant.
_MAX_CHILDREN: Final = 1000
# Components of a name that are looked at. Models nest 10 to 20 scopes.
_MAX_DEPTH: Final = 64
_NUMBER: Final = re.compile(r"\d+")


@dataclasses.dataclass(frozen=True, slots=True)
class NameTable:
    """Names, and the scopes that they lie under.

    Attributes:
        names: The names, sorted.
    """

    names: Sequence[str]

    def __len__(self) -> int:
        """Number of names."""
        return len(self.names)

    def __contains__(self, name: str) -> bool:
        """True if there is such a name, or anything under such a scope."""
        first = bisect.bisect_left(self.names, name)
        if first == len(self.names):
            return False
        if name.endswith("/") and self.names[first].startswith(name):
            return True
        return self.names[first] == name

    def range_under(self, beginning: str) -> range:
        """Numbers of the names that begin with a text, which may be a scope."""
        first = bisect.bisect_left(self.names, beginning)
        # Nothing that begins so sorts after the greatest character.
        stop = bisect.bisect_left(self.names, beginning + chr(0x10FFFF))
        return range(first, stop)

    def count_under(self, scope: str) -> int:
        """Number of names under a scope; "" and `/` are all of them."""
        return len(self.range_under("" if scope == "/" else scope))

    def children_of(self, scope: str) -> Iterator[str]:
        """Yields what follows a scope: names, and scopes with their `/`, each once.

        Args:
            scope: The scope, ending in `/`; "" for the outermost names.
        """
        numbers = self.range_under(scope)
        position = numbers.start
        while position < numbers.stop:
            below = self.names[position][len(scope) :]
            component, slash, _ = below.partition("/")
            yield component + slash
            # Everything under the same child is passed over at once.
            last = scope + component + slash + (chr(0x10FFFF) if slash else "")
            position = bisect.bisect_right(self.names, last, position)

    def missing_root(self, name: str) -> str | None:
        """The outermost scope of a name under which nothing lies.

        Args:
            name: A name, or a scope that ends in `/`.

        Returns:
            The scope; None if something lies under all of them.

        Examples:
            >>> NameTable(["a/b/w", "c"]).missing_root("a/x/y/w")
            'a/x/'
        """
        position = 0
        for _ in range(_MAX_DEPTH):
            position = name.find("/", position) + 1
            if not position:
                return None
            if name[:position] not in self:
                return name[:position]
        return None

    def like_children(self, scope: str, component: str) -> list[str]:
        """The scopes directly under another one whose names are most like a name.

        Args:
            scope: The scope; "" for the outermost ones.
            component: The name, without `/`.

        Returns:
            Scopes, best first.
        """
        children = self._scopes_under(scope)
        return [f"{scope}{child}/" for child in nearest(component, children)]

    def _scopes_under(self, scope: str) -> list[str]:
        children: list[str] = []
        for child in self.children_of(scope):
            if child.endswith("/"):
                children.append(child[:-1])
            if len(children) == _MAX_CHILDREN:
                break
        return children

    def numbers_beside(self, scope: str, component: str) -> list[str]:
        """The scopes beside one whose names differ from its name by numbers alone.

        Args:
            scope: The scope around them; "" for the outermost ones.
            component: Name of the one, without `/`: `layer_7`.

        Returns:
            Names of the others without `/`, by number: `layer_0`, `layer_1` ...
        """
        template = template_of(component)
        if template == component:
            return []
        children = self._scopes_under(scope)
        alike = [child for child in children if template_of(child) == template]
        return sorted(alike, key=lambda child: [len(n) for n in _NUMBER.findall(child)])


def other_beginnings(name: str, names: NameTable) -> list[str]:
    """Names that there are, with more or less before them than a name has.

    Args:
        name: A name, or a scope that ends in `/`.
        names: The names that there are.

    Returns:
        The name without its first component, if that is there; else the names and
        scopes that end in it, the shortest first.

    Examples:
        >>> table = NameTable(["params/a/w", "params/b/w"])
        >>> other_beginnings("a/", table), other_beginnings("x/params/b/w", table)
        (['params/a/'], ['params/b/w'])
    """
    shorter = name.partition("/")[2]
    if shorter and shorter in names:
        return [shorter]
    ending, is_scope = f"/{name}", name.endswith("/")
    longer: set[str] = set()
    for candidate in names.names:
        position = candidate.rfind(ending)
        end = position + len(ending)
        if position > 0 and (is_scope or end == len(candidate)):
            longer.add(candidate[:end])
    return sorted(longer, key=lambda text: (text.count("/"), text))


def template_of(text: str) -> str:
    """A text with `#` in place of every number.

    Examples:
        >>> template_of("layer_12/w")
        'layer_#/w'
    """
    return _NUMBER.sub("#", text)


def scopes_of(names: Iterable[str]) -> frozenset[str]:
    """Lists the scopes that names lie under, down to 64 components.

    Examples:
        >>> sorted(scopes_of(["a/b/w", "c"]))
        ['a/', 'a/b/']
    """
    scopes: set[str] = set()
    for name in names:
        scope = "/".join(name.split("/", _MAX_DEPTH)[:_MAX_DEPTH])
        if scope == name:
            scope = name.rpartition("/")[0]
        while scope and f"{scope}/" not in scopes:
            scopes.add(f"{scope}/")
            scope = scope.rpartition("/")[0]
    return frozenset(scopes)
