"""Which tensors give which names, as the entries of a map say from key to value.

Two tensors may give one name, of which a file holds a single tensor::

    "l{i}/h{j}/w": "l{i}{j}/w"      l1/h23/w -> l123/w <- l12/h3/w

`refuse_collisions` says so, unless another entry says more of the name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from tf2flax._assignment.language.captures import NamePattern, parse_name
from tf2flax._assignment.language.entries import MapEntry, Rule
from tf2flax._assignment.language.expressions import sources_of
from tf2flax._assignment.language.rule_checks import counted_captures
from tf2flax._assignment.resolution.assignments import Assignment
from tf2flax._assignment.resolution.entry_labels import fills_scope, label_of, target_of
from tf2flax._assignment.resolution.partitions import family_of
from tf2flax._assignment.resolution.precedence import (
    Strength,
    strength_of_name,
    strength_of_scope,
)
from tf2flax._assignment.resolution.scopes import NameTable
from tf2flax._base.collapsing import summarise
from tf2flax._base.errors import AssignmentError
from tf2flax._base.manifest import Manifest
from tf2flax._base.text import list_names


class Origin(NamedTuple):
    """A name, and what gives it.

    Attributes:
        name: The name in the new file.
        entry: The entry of the map.
        tensors: Names of the tensors; patterns, where captures are counted.
        binding: What captures stand for.
    """

    name: str
    entry: MapEntry
    tensors: tuple[str, ...]
    binding: Mapping[str, str]

    @property
    def strength(self) -> Strength:
        """How much of the name the entry says."""
        target = self.entry.target
        assert isinstance(target, str | NamePattern)  # no object is a leaf here
        is_rule = isinstance(target, NamePattern)
        scope = target.expand(self.binding).literal if is_rule else target
        captured = target.count_captured(self.binding) if is_rule else 0
        if fills_scope(self.entry):
            return strength_of_scope(scope, captured, is_rule=is_rule)
        return strength_of_name(captured)


def origins_of(entries: Sequence[MapEntry], manifest: Manifest) -> Iterator[Origin]:
    """Yields the names that entries fill, found from their tensors.

    Raises:
        AssignmentError: A value has captures that its key lacks.
    """
    for entry in entries:
        if isinstance(entry, Rule):
            yield from _origins_of_rule(entry, manifest)
        elif isinstance(entry.target, str):
            if not (entry.target.endswith("/") and entry.source.endswith("/")):
                if not entry.is_optional or entry.source in manifest:
                    yield Origin(entry.target, entry, (entry.source,), {})
                continue
            scope = _prefix(entry.source)
            for number in NameTable(manifest.names).range_under(scope):
                name = manifest.names[number]
                member = _prefix(entry.target) + name[len(scope) :]
                yield Origin(member, entry, (name,), {})


def refuse_collisions(
    origins: Sequence[Origin],
    assignments: Mapping[str, Assignment],
    manifest: Manifest,
) -> None:
    """Refuses names that several tensors give, where no entry is meant to win.

    Args:
        origins: What gives names.
        assignments: What fills each name.
        manifest: The checkpoint.

    Raises:
        AssignmentError: Tensors would be lost; all names are listed.
    """
    by_name: dict[str, list[Origin]] = {}
    for origin in origins:
        by_name.setdefault(origin.name, []).append(origin)
    problems: list[str] = []
    parts: list[str] = []
    for name, rivals in by_name.items():
        assignment = assignments.get(name)
        if assignment is not None:
            if len(rivals) > 1:
                problems += _describe_collision(rivals, assignment, manifest)
        # What an optional entry lacks is not lost.
        elif all(tensor in manifest for tensor in rivals[0].tensors):
            if family_of(name) is None:
                problems.append(_describe_unfilled(rivals[0]))
            else:
                parts.append(name)
    if problems:
        raise AssignmentError(summarise(problems))
    if parts:
        raise AssignmentError(
            f"These names are read as parts of partitioned variables, and no scope "
            f"moves them: {list_names(parts)}. Give each an entry of its own."
        )


def _describe_unfilled(origin: Origin) -> str:
    """A name that a tensor gives, and that the value of its entry reads otherwise."""
    return (
        f"{label_of(origin.entry)}: {_listed(origin)} gives the name `{origin.name}`, "
        f"but the value `{target_of(origin.entry)}` reads that name otherwise, and "
        "there is no tensor for it. Give this tensor a separate entry."
    )


def _describe_collision(
    rivals: Sequence[Origin], assignment: Assignment, manifest: Manifest
) -> Iterator[str]:
    """The first two tensors of a name of which one would be lost by accident."""
    winner = assignment.entry
    of_winner = [rival for rival in rivals if rival.entry is winner]
    # What one entry gives: the tensors that fill the name come first.
    of_winner.sort(key=lambda rival: rival.tensors != assignment.sources)
    for rival in rivals if of_winner else ():
        chosen = of_winner[0]
        is_lost = rival.tensors != chosen.tensors
        # Weaker entries lose on purpose.
        is_equal = rival.entry is winner or rival.strength >= chosen.strength
        is_there = not rival.entry.is_optional or all(
            tensor in manifest for tensor in rival.tensors
        )
        if is_lost and is_equal and is_there:
            by = ""
            if rival.entry is not winner:
                by = f" (the second by {label_of(rival.entry).replace('E', 'e', 1)})"
            yield (
                f"{label_of(winner)}: {_listed(chosen)} and {_listed(rival)} both give "
                f"the name `{chosen.name}`{by}. Give one of them another name, with a "
                "separate entry."
            )
            return


def _listed(origin: Origin) -> str:
    return ", ".join(f"`{tensor}`" for tensor in origin.tensors)


def _prefix(scope: str) -> str:
    """What names in a scope begin with; `/` is the scope of all names."""
    return "" if scope == "/" else scope


def _origins_of_rule(rule: Rule, manifest: Manifest) -> Iterator[Origin]:
    target = rule.target
    assert isinstance(target, NamePattern)  # no object is a leaf here
    sources = [parse_name(source.pattern) for source in sources_of(rule.source)]
    in_key = {capture for source in sources for capture in source.captures}
    if alone := [capture for capture in target.captures if capture not in in_key]:
        raise AssignmentError(
            f"{label_of(rule)}: only a target says what {{{alone[0]}}} "
            "stands for. Use it in the key too."
        )
    counted = frozenset(name for name, _ in counted_captures(rule.source))
    lowest = rule.lowest()
    if rule.is_scope:
        # Of several scopes, members of the first have the names that are written.
        scope = sources[0]
        for name in manifest.names:
            binding = (
                {}
                if scope.text == "/"
                else scope.matches(name, is_scope=True, digits=counted, lowest=lowest)
            )
            if binding is not None:
                below = name[len(_prefix(scope.expand(binding).literal)) :]
                # `a_0/w` and `a_1/w` are one, where i of `a_{i}/` is counted.
                free = {k: v for k, v in binding.items() if k not in counted}
                tensor = _prefix(_text(scope.expand(free))) + below
                member = _prefix(target.expand(free).literal) + below
                yield Origin(member, rule, (tensor,), free)
        return
    for binding in _bindings(sources, counted, lowest, manifest.names):
        tensors = tuple(_text(source.expand(binding)) for source in sources)
        yield Origin(target.expand(binding).literal, rule, tensors, binding)


def _text(pattern: NamePattern) -> str:
    """A name, as it is; a pattern, where captures are counted."""
    return pattern.text if pattern.captures else pattern.literal


def _bindings(
    sources: Sequence[NamePattern],
    counted: frozenset[str],
    lowest: Mapping[str, int],
    names: Sequence[str],
) -> list[dict[str, str]]:
    """What the captures of several names can stand for, together."""
    bindings: list[dict[str, str]] = [{}]
    for source in sources:
        extended: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
        for binding in bindings:
            pattern = source.expand(binding)
            matches: Iterable[dict[str, str]] = [{}]
            if pattern.captures:
                matches = pattern.among(names, counted, lowest)
            for match in matches:
                free = {k: v for k, v in match.items() if k not in counted}
                merged = binding | free
                extended[tuple(sorted(merged.items()))] = merged
        bindings = list(extended.values())
    return bindings
