"""Scopes of names: which there are, and whether tensors lie under one."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence

from tf2flax._assignment.language.captures import parse_name
from tf2flax._assignment.language.entries import Rule
from tf2flax._assignment.language.expressions import sources_of


def scopes_of(names: Iterable[str]) -> frozenset[str]:
    """Lists every scope that a name lies under.

    Examples:
        >>> sorted(scopes_of(["a/b/w", "c"]))
        ['a/', 'a/b/']
    """
    scopes: set[str] = set()
    for name in names:
        scope = name.rpartition("/")[0]
        while scope and f"{scope}/" not in scopes:
            scopes.add(f"{scope}/")
            scope = scope.rpartition("/")[0]
    return frozenset(scopes)


def scope_holds_tensors(scope: str, names: Sequence[str]) -> bool:
    """Tells whether any tensor lies under a scope.

    Args:
        scope: The scope, ending in `/`; `/` alone holds all tensors.
        names: Names of all tensors, sorted.

    Returns:
        True if one does.
    """
    if scope == "/":
        return bool(names)
    first = bisect.bisect_left(names, scope)
    return first < len(names) and names[first].startswith(scope)


def rule_scope_holds_tensors(rule: Rule, names: Sequence[str]) -> bool:
    """Tells whether any tensor lies under a scope of a rule.

    Args:
        rule: The rule; its captures may stand for any text.
        names: Names of all tensors.

    Returns:
        True if one does.
    """
    patterns = {source.pattern for source in sources_of(rule.source)}
    return any(
        pattern == "/" or parse_name(pattern).matches(name, is_scope=True) is not None
        for pattern in patterns
        for name in names
    )
