"""Why the checkpoint lacks tensors: a wrong scope, a missing level, layers, names.

Problems with one root are one cause: the outermost scope of a name under which nothing
lies. Where all scopes are there, the name itself is wrong.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Hashable, Sequence

from tf2flax._base.collapsing import collapse
from tf2flax._base.text import and_more

from .adjacent_captures import explain_adjacent_captures
from .fused import explain_fused
from .missing_levels import explain_missing_levels
from .missing_names import explain_name, kind_of_name, tensor_meant
from .missing_scopes import MAX_ROOTS, MissingScope, put_before
from .problems import Cause, SourceNotFound, group_by_key, label_of_problems
from .scopes import template_of
from .shifted_levels import explain_shifted_levels
from .spellings import suggest_for_key
from .suggestions import (
    Surroundings,
    change_key,
    max_searches,
)
from .ways_out import keep_missing


def explain_missing_tensors(
    problems: Sequence[SourceNotFound], around: Surroundings
) -> list[Cause]:
    """Finds the causes of tensors that the checkpoint lacks.

    Args:
        problems: The problems.
        around: Names of the checkpoint and the target.

    Returns:
        Causes: scopes that are missing first, then single tensors.
    """
    adjacent, problems = explain_adjacent_captures(problems, around)
    fused, problems = explain_fused(problems, around)
    levels, problems = explain_missing_levels(problems, around)
    shifted, problems = explain_shifted_levels(problems, around)
    roots = [_root_of(problem, around) for problem in problems]
    kinds = [
        ("scope", template_of(root))
        if root
        else ("name", *kind_of_name(problem, around))
        for problem, root in zip(problems, roots, strict=True)
    ]
    groups = group_by_key(problems, kinds)
    limit = max_searches(around.tensors)
    scopes: list[MissingScope] = []
    names: list[Cause] = []
    for group in groups:
        members = [problems[number] for number in group]
        may_search = len(scopes) + len(names) < limit
        if roots[group[0]]:
            missing = [(problems[number], roots[number] or "") for number in group]
            scopes.append(MissingScope(missing, around, may_search=may_search))
        else:
            kind = kinds[group[0]][1]
            names.append(explain_name(members, kind, around, may_search=may_search))
    _withdraw_shared(scopes)
    return [
        *adjacent,
        *fused,
        *levels,
        *shifted,
        *_join_advice(_join_scopes(scopes, around)),
        *_without_shared(names, around),
    ]


def _join_advice(causes: Sequence[Cause]) -> list[Cause]:
    """Joins scopes that one change of a key mends: `{m}/` for query, key and value."""
    joined: dict[Hashable, list[Cause]] = {}
    for number, cause in enumerate(causes):
        is_key = cause.advice.startswith("Did you mean")
        key = (cause.label, cause.advice) if is_key else number
        joined.setdefault(key, []).append(cause)
    return [
        dataclasses.replace(
            first,
            fact=f"{first.fact[:-1]}; {len(alike)} more alike.",
            problems=tuple(p for cause in (first, *alike) for p in cause.problems),
        )
        if alike
        else first
        for first, *alike in joined.values()
    ]


def _without_shared(causes: Sequence[Cause], around: Surroundings) -> list[Cause]:
    """Takes back a tensor that was found for several leaves of one scope."""
    keys = [(tensor_meant(cause.advice), _parent_of_leaf(cause)) for cause in causes]
    counts = collections.Counter(keys)
    return [
        dataclasses.replace(
            cause,
            advice=f"`{key[0]}` is as much like the names that other leaves need: only "
            "its meaning tells which leaf it fills. "
            f"{keep_missing(_leaves_of(cause), around)}",
        )
        if key[0] and counts[key] > 1
        else cause
        for cause, key in zip(causes, keys, strict=True)
    ]


def _parent_of_leaf(cause: Cause) -> str:
    return (_leaves_of(cause)[0] or "").rpartition("/")[0]


def _leaves_of(cause: Cause) -> list[str | None]:
    return [p.leaf if isinstance(p, SourceNotFound) else None for p in cause.problems]


def _withdraw_shared(scopes: Sequence[MissingScope]) -> None:
    """Takes back a scope that was found for several: all would get its tensors.

    As `attn/` for `attn/query/`, `attn/key/` and `attn/value/`.
    """
    counts = collections.Counter((scope.parent, scope.moved) for scope in scopes)
    for scope in scopes:
        if scope.moved is not None and counts[scope.parent, scope.moved] > 1:
            scope.moved, scope.is_moved = None, False
    counts = collections.Counter(
        name for scope in scopes for name in {*scope.scopes_of_layers}
    )
    for scope in scopes:
        if any(counts[name] > 1 for name in scope.scopes_of_layers):
            scope.layers = ()


def _root_of(problem: SourceNotFound, around: Surroundings) -> str | None:
    """The outermost scope of a missing name under which nothing lies; or None."""
    if "{" in problem.source:  # a counted capture without any number
        return None
    if problem.leaf is None and suggest_for_key(problem.source):
        return None
    root = around.tensors.missing_root(problem.source)
    # Below a tensor, as below `w` in `w/Adam`, the name is wrong, and not the scope.
    return None if root is None or root[:-1] in around.tensors else root


def _join_scopes(scopes: Sequence[MissingScope], around: Surroundings) -> list[Cause]:
    """Joins scopes that are missing for the same reason."""
    keys = [
        ("moved", scope.relation)
        if scope.relation is not None and scope.relation[0] == ""
        else ("entry", scope.problems[0].entry.number, scope.parent)
        for scope in scopes
    ]
    causes: list[Cause] = []
    for key in dict.fromkeys(keys):
        members = [s for s, k in zip(scopes, keys, strict=True) if k == key]
        if key[0] == "moved" and len(members) > 1:
            causes.append(_explain_level(members))
            continue
        causes += [scope.explain() for scope in members if scope.layers]
        members = [scope for scope in members if not scope.layers]
        if len(members) > MAX_ROOTS and not members[0].beside:
            causes.append(_join_members(members, around, may_search=True).explain())
        elif len(members) > 1 and not any(scope.is_explained for scope in members):
            # The same is said of each: what lies under the scope around them.
            causes.append(_join_members(members, around, may_search=False).explain())
        else:
            causes += [scope.explain() for scope in members]
    return causes


def _join_members(
    scopes: Sequence[MissingScope], around: Surroundings, *, may_search: bool
) -> MissingScope:
    missing = [pair for scope in scopes for pair in scope.missing]
    missing.sort(key=lambda pair: pair[1] != scopes[0].root)
    return MissingScope(missing, around, may_search=may_search)


def _explain_level(scopes: Sequence[MissingScope]) -> Cause:
    """Scopes of which all names lack the same beginning."""
    relation = scopes[0].relation
    assert relation is not None
    problems = tuple(problem for scope in scopes for problem in scope.problems)
    rows = collapse([(root,) for scope in scopes for _, root in scope.missing])
    roots = list(dict.fromkeys(row.cells[0] for row in rows))
    listed = ", ".join(f"`{root}`" for root in roots[:MAX_ROOTS])
    listed = and_more(listed, len(roots) - MAX_ROOTS)
    fact = (
        f"nothing lies under {listed}, which {len(problems)} leaves need; the same "
        f"names lie under `{relation[1]}`."
    )
    # The key of a single entry is written whole; of several, what is true of all.
    entries = {problem.entry.number for problem in problems}
    advice = put_before(relation[1], problems)
    if len(entries) == 1:
        entry = problems[0].entry
        key = change_key(entry, "/", relation[1])
        advice = f"Did you mean `{key}`?" if key else scopes[0].explain().advice
    return Cause(label_of_problems(problems), fact, problems, advice)
