"""Writes the source of a leaf as its entry does: layers that are counted stay so.

stack("enc/layer_{i}/", over="i") -> `params/`
leaf `params/w`     stack("enc/layer_0/w", "enc/layer_1/w", ... 46 more)
                    stack("enc/layer_{i}/w", over="i")
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tf2flax._assignment.language.aliases import FLAX_ALIASES, alias_sources
from tf2flax._assignment.language.captures import NamePattern
from tf2flax._assignment.language.entries import MapEntry, Rule
from tf2flax._assignment.language.expressions import Expression, Joined
from tf2flax._base.errors import AssignmentError
from tf2flax._base.manifest import Manifest

from .entry_labels import fills_scope
from .sources import append_to_scopes, bind_captures, find_source

# Names in a leaf's scope: itself, and those of its aliases.
_MAX_SPELLINGS: Final = 8


def write_counted(
    entry: MapEntry, expression: Expression, leaf: str, manifest: Manifest
) -> Expression:
    """Writes the source of a leaf with the counted captures of its entry.

    Args:
        entry: The entry.
        expression: The source, with names in place of captures.
        leaf: Name of the leaf.
        manifest: The checkpoint.

    Returns:
        An expression of the same tensors; the source itself if nothing is counted.
    """
    if not isinstance(entry, Rule) or not isinstance(entry.target, NamePattern):
        return expression
    if not fills_scope(entry) or not is_counted(entry.source):
        return expression
    for written in _written_so(entry, entry.target, leaf):
        try:
            if find_source(written, manifest).expression == expression:
                return written
        except AssignmentError:  # of another spelling of the name
            continue
    return expression


def _written_so(rule: Rule, target: NamePattern, leaf: str) -> Iterator[Expression]:
    """Yields the sources that a leaf of a rule's scope may have."""
    binding: dict[str, str] | None = {}
    scope = ""
    if target.text != "/":
        binding = target.matches(leaf, is_scope=True, lowest=rule.lowest())
        scope = "" if binding is None else target.expand(binding).literal
    if binding is None:
        return
    below = leaf[len(scope) :]
    source = bind_captures(rule.source, binding)
    spelled = alias_sources(below, below.rpartition("/")[2], FLAX_ALIASES)
    for name in (below, *spelled)[:_MAX_SPELLINGS]:
        yield append_to_scopes(source, name)


def is_counted(expression: Expression) -> bool:
    """True if an expression counts the tensors of a checkpoint."""
    if isinstance(expression, Joined) and expression.over is not None:
        return True
    return any(map(is_counted, expression.children))
