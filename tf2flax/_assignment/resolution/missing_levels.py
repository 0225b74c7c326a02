"""Why the checkpoint lacks what a scope should hold: it lies a level further down.

    `bert/pooler/` -> `params/pooler/`        the target has params/pooler/kernel,
                                              the checkpoint bert/pooler/dense/kernel

Only for entries that fill no leaf at all: of others, the scope is right for some.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tf2flax._assignment.language.captures import literal_pattern, parse_name
from tf2flax._assignment.language.expressions import Source, map_sources
from tf2flax._base.text import counted, list_names

from .entry_labels import fills_scope, target_of
from .near_scopes import find_deeper_scopes
from .problems import Cause, SourceNotFound, explain_entries, label_of_problems
from .suggestions import (
    Surroundings,
    did_you_mean,
    scopes_named,
    source_of_entry,
    write_key,
)

# Scopes of one entry that are searched, and scopes further down that are suggested.
_MAX_SCOPES: Final = 20
_MAX_SUGGESTED: Final = 3


def explain_missing_levels(
    problems: Sequence[SourceNotFound], around: Surroundings
) -> tuple[list[Cause], list[SourceNotFound]]:
    """Finds entries whose scope lies further down in the checkpoint.

    Args:
        problems: The problems.
        around: Names of the checkpoint and the target.

    Returns:
        Causes, and the problems that they do not explain.
    """
    return explain_entries(problems, lambda members: _explain_entry(members, around))


def _explain_entry(
    problems: Sequence[SourceNotFound], around: Surroundings
) -> Cause | None:
    """The cause, if all that one entry names lies further down."""
    entry = problems[0].entry
    patterns = scopes_named(entry)
    if not fills_scope(entry) or around.claimed.get(entry.number) or len(patterns) > 1:
        return None
    below = _names_below(problems, patterns[0])
    scopes = list(below)[:_MAX_SCOPES]
    if not scopes or any(scope not in around.tensors for scope in scopes):
        return None
    levels: list[str] | None = None
    for scope in scopes:
        deeper = find_deeper_scopes(scope, [n for n, _ in below[scope]], around.tensors)
        ends = [d[len(scope) :] for d in deeper]
        levels = ends if levels is None else [end for end in levels if end in ends]
    scope, (name, leaf) = scopes[0], below[scopes[0]][0]
    fitting = [
        level
        for level in levels or []
        if scope + level + name not in around.tensors
        or around.may_fill(entry, scope + level + name, leaf)
    ]
    if not fitting:
        return None
    source = source_of_entry(entry)
    keys = [
        write_key(entry, map_sources(source, lambda s, level=level: _deeper(s, level)))
        for level in fitting
    ]
    count = around.tensors.count_under(scope + fitting[0])
    fact = (
        f"what {counted(len(problems), 'leaf', 'leaves')} of `{target_of(entry)}` "
        f"{'needs' if len(problems) == 1 else 'need'} does not lie directly under "
        f"`{scope}`; {counted(count, 'tensor')} lie under `{scope}{fitting[0]}`."
    )
    advice = did_you_mean(keys)
    if len(keys) > 1:
        listed = list_names([scope + level for level in fitting], _MAX_SUGGESTED)
        advice = f"Name the scope that is meant: {listed} have what is needed."
    return Cause(label_of_problems(problems), fact, tuple(problems), advice)


def _deeper(source: Source, level: str) -> Source:
    return Source(source.pattern + literal_pattern(level))


def _names_below(
    problems: Sequence[SourceNotFound], written: str
) -> dict[str, list[tuple[str, str]]]:
    """Names without the scope of the entry, and their leaves, by that scope."""
    pattern = parse_name(written)
    names: dict[str, list[tuple[str, str]]] = {}
    for problem in problems:
        binding = pattern.matches(problem.source, is_scope=True)
        if binding is not None and problem.leaf:
            scope = pattern.expand(binding).literal
            name = problem.source[len(scope) :]
            names.setdefault(scope, []).append((name, problem.leaf))
    return names
