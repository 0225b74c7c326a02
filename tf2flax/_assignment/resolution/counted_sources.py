"""Writes the source of a leaf as its entry does: layers that are counted stay so.

stack("enc/layer_{i}/", over="i") -> `params/`
leaf `params/w`     stack("enc/layer_0/w", "enc/layer_1/w", ... 46 more)
                    stack("enc/layer_{i}/w", over="i")
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from tf2flax._assignment.language.aliases import FLAX_ALIASES, alias_sources
from tf2flax._assignment.language.captures import (
    NamePattern,
    literal_pattern,
    parse_name,
)
from tf2flax._assignment.language.entries import MapEntry, Rule
from tf2flax._assignment.language.expressions import (
    Expression,
    Joined,
    Source,
    map_sources,
    sources_of,
)
from tf2flax._base.errors import AssignmentError
from tf2flax._base.manifest import Manifest

from .entry_labels import fills_scope
from .problems import SourceNotFound
from .scopes import template_of
from .sources import append_to_scopes, bind_captures, find_source
from .suggestions import Surroundings, source_of_entry, write_key

# Names in a leaf's scope: itself, and those of its aliases.
_MAX_SPELLINGS: Final = 8
_CAPTURE: Final = re.compile(r"\{\w+\}")


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


def scope_around(problem: SourceNotFound, around: Surroundings) -> str:
    """Finds the one scope under which all that an entry counts lies.

    Args:
        problem: A tensor that is missing, with the capture that is counted.
        around: Names of the checkpoint and the target.

    Returns:
        The scope; "" if there is none, or several, or the entry finds other tensors.
    """
    entry = problem.entry
    is_used = bool(around.claimed.get(entry.number))
    source = source_of_entry(entry)
    if is_used or not is_counted(source) or len(list(sources_of(source))) > 1:
        return ""
    template = template_of(_CAPTURE.sub("0", problem.source))
    scopes = [
        name.removesuffix(template)
        for name in around.tensors_by_template
        if name.endswith(f"/{template}")
    ]
    # Of scopes with numbers, the numbers would be another capture.
    if len(scopes) != 1 or scopes[0] not in around.tensors:
        return ""
    scope = scopes[0]
    counted = parse_name(literal_pattern(scope) + problem.source)
    if not any(map(counted.matches, around.tensors_by_template[scope + template])):
        return ""
    return scope


def key_under(entry: MapEntry, scope: str) -> str:
    """Writes the key of an entry with a scope around its names."""
    around = literal_pattern(scope)
    source = source_of_entry(entry)
    moved = map_sources(source, lambda inner: Source(around + inner.pattern))
    return write_key(entry, moved)


def is_counted(expression: Expression) -> bool:
    """True if an expression counts the tensors of a checkpoint."""
    if isinstance(expression, Joined) and expression.over is not None:
        return True
    return any(map(is_counted, expression.children))
