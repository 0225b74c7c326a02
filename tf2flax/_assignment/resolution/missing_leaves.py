"""Why the target lacks what values of a map name, and which values it has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tf2flax._assignment.language.captures import literal_pattern, parse_name
from tf2flax._assignment.language.entries import MapEntry
from tf2flax._assignment.language.expressions import sources_of
from tf2flax._base.names import nearest
from tf2flax._base.text import list_names

from .entry_labels import key_of, label_of
from .likeness import closest_names
from .problems import (
    Cause,
    KeyIsNotScope,
    TargetNotFound,
    group_by_key,
    label_of_problems,
)
from .scopes import other_beginnings, scopes_of, template_of
from .spellings import captures_for_stars, suggest_for_target
from .suggestions import (
    Surroundings,
    change_key,
    describe_numbers,
    did_you_mean,
    max_searches,
    source_of_entry,
    write_line,
)

# Names that a message suggests.
_MAX_NAMED: Final = 3
_MAX_LEAVES: Final = 1000


def explain_missing_leaves(
    problems: Sequence[TargetNotFound], around: Surroundings
) -> list[Cause]:
    """Finds the causes of values that name nothing.

    Args:
        problems: The problems.
        around: Names of the checkpoint and the target.

    Returns:
        Causes, in the order of their first entries.
    """
    prefix = _common_prefix(problems, around)
    causes: list[Cause] = []
    if prefix:
        lacking = [p for p in problems if prefix + p.target in around.leaves]
        problems = [p for p in problems if prefix + p.target not in around.leaves]
        causes.append(
            Cause(
                label_of_problems(lacking),
                f"{lacking[0].fact} {len(lacking)} values lack the same beginning: "
                f"such leaves lie under `{prefix}`.",
                tuple(lacking),
                f"Put `{prefix}` before the values.",
            )
        )
    roots = [
        None
        if suggest_for_target(problem.target)
        else around.leaves.missing_root(problem.target)
        for problem in problems
    ]
    keys = [template_of(r) if r else number for number, r in enumerate(roots)]
    limit = max_searches(around.leaves)
    for group in group_by_key(problems, keys):
        members = [problems[number] for number in group]
        root = roots[group[0]]
        if root and len(group) > 1:
            causes.append(_explain_root(members, root, around))
        else:
            advice = _suggest_value(members[0], around) if len(causes) < limit else ""
            causes.append(
                Cause(
                    label_of(members[0].entry), members[0].fact, tuple(members), advice
                )
            )
    return causes


def _common_prefix(problems: Sequence[TargetNotFound], around: Surroundings) -> str:
    """The scope under which all that the values name lies, of two at least; or ""."""
    if len(problems) < 2 or not problems[0].target:
        return ""
    ending = f"/{problems[0].target}"
    for name in around.leaves.names:
        if name.endswith(ending):
            prefix = name[: len(name) - len(ending) + 1]
            lacking = [p for p in problems if prefix + p.target in around.leaves]
            return prefix if len(lacking) > 1 else ""
    return ""


def _explain_root(
    problems: Sequence[TargetNotFound], root: str, around: Surroundings
) -> Cause:
    """Values under scopes that hold no leaf."""
    fact = f"no leaf lies under `{root}`, which {len(problems)} entries name"
    parent, slash, component = root[:-1].rpartition("/")
    like = around.leaves.like_children(parent + slash, component)
    advice = ""
    if like:
        new = like[0]
        if all(problem.target.startswith(root) for problem in problems):
            fact += f"; {around.leaves.count_under(new)} lie under `{new}`"
        else:  # roots of several numbers: what differs is the last component
            root, new = f"{component}/", f"{new[:-1].rpartition('/')[2]}/"
        advice = f"In the values, write `{new}` in place of `{root}`."
    elif all(p.target[len(root) :] in around.leaves for p in problems):
        advice = f"Leave `{root}` out of the values."
    elif new := _scope_with(problems, root, around):
        advice = f"In the values, write `{new}` in place of `{root}`."
    return Cause(label_of_problems(problems), f"{fact}.", tuple(problems), advice)


def _scope_with(
    problems: Sequence[TargetNotFound], root: str, around: Surroundings
) -> str:
    """The only scope under which the leaves lie that another one lacks; or ""."""
    if not all(problem.target.startswith(root) for problem in problems):
        return ""
    below = [problem.target[len(root) :] for problem in problems]
    scopes = [
        name[: len(name) - len(below[0])]
        for name in around.leaves.names
        if name.endswith(f"/{below[0]}")
    ]
    alike = [s for s in scopes if all(s + name in around.leaves for name in below)]
    return alike[0] if len(alike) == 1 else ""


def _suggest_value(problem: TargetNotFound, around: Surroundings) -> str:
    """The value that may be meant: a scope for a scope, a leaf for a tensor."""
    target, leaves = problem.target, around.leaves
    if not target:
        return "Write `/` for the whole target."
    if spelling := suggest_for_target(target):
        captured = captures_for_stars(key_of(problem.entry), target)
        line = captured and write_line(problem.entry, *captured)
        return f"{spelling} Write `{line}`." if line else spelling
    if text := describe_numbers(target, around):
        return text
    entry = problem.entry
    keys = [source.pattern for source in sources_of(source_of_entry(entry))]
    if any(key.endswith("/") for key in keys):
        if f"{target}/" in leaves:
            return f"Did you mean the scope `{literal_pattern(target)}/`?"
        others = other_beginnings(f"{target}/", leaves)[:_MAX_NAMED]
        return _did_you_mean(others or nearest(f"{target}/", scopes_of(leaves.names)))
    if f"{target}/" in leaves:
        return _suggest_below(entry, keys[0], target, around)
    key = parse_name(keys[0]).literal
    beginnings = other_beginnings(target, leaves)
    near = beginnings or closest_names(target, leaves.names)[0]
    fitting = [name for name in near if around.fits(entry, key, name)]
    if beginnings and len(fitting) > 1:  # as likely, and of one size
        return f"Name the leaf that is meant: {list_names(fitting, _MAX_NAMED)}."
    return _did_you_mean((fitting or near)[:_MAX_NAMED])


def _suggest_below(entry: MapEntry, key: str, target: str, around: Surroundings) -> str:
    """What to write where the value is a scope without its `/`, and the key no scope.

    Args:
        entry: The entry.
        key: What its key names.
        target: Its value.
        around: Names of the checkpoint and the target.
    """
    name = parse_name(key).literal
    if name not in around.tensors and f"{name}/" in around.tensors:
        written = change_key(entry, name, f"{name}/") or f"{key}/"
        line = write_line(entry, written, f"{literal_pattern(target)}/")
        return f"Both are scopes, and these end in `/`: write `{line}`."
    leaves = around.leaves
    names = [leaves.names[i] for i in leaves.range_under(f"{target}/")]
    if name not in around.tensors:
        close = nearest(f"{name}/", scopes_of(around.manifest.names), count=1)
        written = change_key(entry, name, close[0]) if close else None
        line = write_line(entry, written or f"{key}/", f"{literal_pattern(target)}/")
        return f"Are both scopes? These end in `/`: write `{line}`."
    fitting = [leaf for leaf in names if around.fits(entry, name, leaf)]
    return f"`{key}` is one tensor. {_did_you_mean(_ending(fitting, key))}".rstrip()


def _ending(names: Sequence[str], key: str) -> Sequence[str]:
    """The names that end as a key does."""
    last = key.rpartition("/")[2]
    alike = [name for name in names[:_MAX_LEAVES] if name.rpartition("/")[2] == last]
    return (alike or names)[:3]


def _did_you_mean(names: Sequence[str]) -> str:
    return did_you_mean([literal_pattern(name) for name in names])


def explain_wrong_key(problem: KeyIsNotScope, around: Surroundings) -> Cause:
    """Explains a key that is not a scope, though the value is.

    Args:
        problem: The problem.
        around: Names of the checkpoint and the target.

    Returns:
        The cause.
    """
    key, target = problem.entry.source, str(problem.entry.target)
    label = label_of(problem.entry)
    if key in around.tensors:
        fact = f"`{target}` is a scope and `{key}` is one tensor."
        numbers = around.leaves.range_under("" if target == "/" else target)
        names = [around.leaves.names[i] for i in numbers]
        last = key.rpartition("/")[2]
        names = [name for name in names if around.fits(problem.entry, key, name)]
        alike = [name for name in names if name.rpartition("/")[2] == last]
        advice = _did_you_mean(alike[:3])
        if not advice:
            advice = "Give the name of the leaf that the tensor fills."
        return Cause(label, fact, (problem,), advice)
    scope = f"{key}/"
    close = [scope] if scope in around.tensors else []
    if not close:
        close = list(nearest(scope, scopes_of(around.manifest.names)))
    return Cause(label, problem.fact, (problem,), _did_you_mean(close))
