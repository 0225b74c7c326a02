"""Rules, the entries with expressions or captures: what they reach, and from where.

`find_reaches` looks at names alone. `precedence` then decides which entry gets a leaf,
and `apply_rules` looks for the tensors of what rules have won.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from tf2flax._assignment.language.aliases import alias_sources
from tf2flax._assignment.language.captures import NamePattern
from tf2flax._assignment.language.entries import Rule
from tf2flax._assignment.language.expressions import Expression
from tf2flax._base.errors import AssignmentError

from . import problems
from .claims import Claim, Claims, name_of
from .partitions import family_of, member_of_scope, parts_of
from .precedence import Reach, Won, strength_of_name, strength_of_scope
from .sources import FoundSource, append_to_scopes, bind_captures, find_source


class _Spelling(NamedTuple):
    """A source that a leaf may have.

    Attributes:
        reach: How the rule reaches the leaf under this name.
        expression: The source.
        alias: Last component of the leaf's name, if an alias replaced it.
    """

    reach: Reach
    expression: Expression
    alias: str | None


def find_reaches(claims: Claims, rules: Sequence[Rule]) -> list[Reach]:
    """Finds what rules reach, by names alone; problems are added to `claims`.

    Returns:
        The leaves that rules name, then those that lie in their scopes.
    """
    naming, scopes = _NamingRules(claims), _ScopeRules(claims)
    reaches: list[Reach] = []
    for rule in rules:
        if not rule.is_scope:
            reaches += naming.find_reaches(rule)
    for rule in rules:
        if rule.is_scope:
            reaches += scopes.find_reaches(rule)
    return reaches


def apply_rules(claims: Claims, won: Sequence[Won]) -> None:
    """Adds the claims of rules: first those that name leaves, then those of scopes.

    Args:
        claims: The state of the resolution, without any claim so far.
        won: What rules get.
    """
    scopes = _ScopeRules(claims)
    for is_scope in (False, True):
        for reaches, leaves in won:
            if (reaches[0].scope is not None) != is_scope:
                continue
            spellings = [s for reach in reaches for s in scopes.spellings(reach)]
            # Exact names of all reaches come before aliases.
            spellings.sort(key=lambda spelling: spelling.alias is not None)
            _assign_leaves(claims, leaves, spellings)


class _NamingRules:
    """Rules that name leaves, or families of parts."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        splits = (family_of(name) for name in claims.index)
        self._families = {split[0] for split in splits if split and split[1] == 0}

    def find_reaches(self, rule: Rule) -> list[Reach]:
        """Finds what one rule names."""
        target = rule.target
        if isinstance(target, NamePattern):
            return self._match_leaves(rule, target)
        if not rule.is_list:
            reach = self._reach_name(rule, target[0], rule.source, 0)
            return [] if reach is None else [reach]
        parts = self._claims.find_family(rule, target) if target else ()
        return [self._make_reach(rule, target, parts, rule.source, 0)] if parts else []

    def _match_leaves(self, rule: Rule, target: NamePattern) -> list[Reach]:
        """Reaches of a rule whose value is a name, with captures or without."""
        lowest = rule.lowest()
        reaches: list[Reach] = []
        for name, binding in self._matches(target, lowest):
            source = bind_captures(rule.source, binding)
            captured = target.count_captured(binding)
            reach = self._reach_name(rule, name, source, captured)
            if reach is not None:
                reaches.append(reach)
        # A pattern may match no leaf; a name that no leaf has is a mistake.
        if not reaches and not target.captures and not rule.is_optional:
            problem = problems.TargetNotFound(rule, target.literal)
            self._claims.problems.append(problem)
        return reaches

    def _matches(
        self, target: NamePattern, lowest: Mapping[str, int]
    ) -> Iterator[tuple[str, dict[str, str]]]:
        """Leaves and families that a pattern names; a tied leaf by all its names."""
        if not target.captures:
            yield target.literal, {}
            return
        for name in sorted(self._families.union(self._claims.index)):
            leaf = self._claims.index.get(name, name)
            # Patterns skip leaves without numbers, as scopes do.
            if leaf in self._claims.leaves and not self._holds_numbers(leaf):
                continue
            binding = target.matches(name, lowest=lowest)
            if binding is not None:
                yield name, binding

    def _holds_numbers(self, leaf: str) -> bool:
        return self._claims.leaves[leaf].dtype is not None

    def _reach_name(
        self, rule: Rule, name: str, source: Expression, captured: int
    ) -> Reach | None:
        """The leaf, or the parts of the family, of a name; None if it has neither."""
        index = self._claims.index
        if name in index:
            return self._make_reach(rule, (name,), (), source, captured)
        parts = parts_of(name, index)
        if not parts:
            return None
        return self._make_reach(rule, parts, parts, source, captured)

    def _make_reach(
        self,
        rule: Rule,
        names: Sequence[str],
        parts: tuple[str, ...],
        source: Expression,
        captured: int,
    ) -> Reach:
        return Reach(
            rule=rule,
            source=source,
            scope=None,
            member=names[0],
            leaves=tuple(self._claims.index[name] for name in names),
            parts=parts,
            strength=strength_of_name(captured),
        )


class _ScopeRules:
    """Rules that fill scopes, member by member."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims

    def find_reaches(self, rule: Rule) -> list[Reach]:
        """Finds the members of all scopes that a rule's value stands for, each once."""
        target = rule.target
        assert isinstance(target, NamePattern)
        reaches: dict[tuple[str, str], Reach] = {}
        sources: dict[str, Expression] = {}
        lowest = rule.lowest()
        for name, leaf in self._claims.index.items():
            if self._claims.leaves[leaf].dtype is None:
                continue
            binding = self._match_scope(target, name, lowest)
            if binding is None:
                continue
            scope = target.expand(binding).literal
            member = member_of_scope(name, scope[:-1], self._claims.index)
            # All parts of a family are one member.
            if (scope, member) in reaches:
                continue
            if scope not in sources:  # of all its members
                sources[scope] = bind_captures(rule.source, binding)
            captured = target.count_captured(binding)
            reach = self._make_reach(rule, scope, member, sources[scope], captured)
            reaches[scope, member] = reach
        return [reaches[key] for key in sorted(reaches)]

    def _match_scope(
        self, target: NamePattern, name: str, lowest: Mapping[str, int]
    ) -> dict[str, str] | None:
        """Texts of the captures of a scope; None if a name is not below it."""
        if target.text == "/":
            return {}
        return target.matches(name, is_scope=True, lowest=lowest)

    def _make_reach(
        self,
        rule: Rule,
        scope: str,
        member: str,
        source: Expression,
        captured: int,
    ) -> Reach:
        index = self._claims.index
        parts = () if member in index else parts_of(member, index)
        return Reach(
            rule=rule,
            source=source,
            scope=scope,
            member=member,
            leaves=tuple(index[name] for name in parts or [member] if name in index),
            parts=parts,
            strength=strength_of_scope(scope, captured, is_rule=True),
        )

    def spellings(self, reach: Reach) -> list[_Spelling]:
        """Sources that a leaf may have; those of a scope's member exact names first."""
        scope = reach.scope
        if scope is None:
            return [_Spelling(reach, reach.source, None)]
        names = self._claims.names_within(reach.member, scope[:-1])
        below_scope = [name_below(name, scope) for name in names]
        spellings: list[_Spelling] = [
            _Spelling(reach, append_to_scopes(reach.source, name), None)
            for name in below_scope
        ]
        aliases = self._claims.options.aliases
        for name, full_name in zip(below_scope, names, strict=True):
            component = full_name.rpartition("/")[2]
            spellings += [
                _Spelling(reach, append_to_scopes(reach.source, spelled), component)
                for spelled in alias_sources(name, component, aliases)
            ]
        return spellings


def name_below(name: str, scope: str) -> str:
    """The part of a member's name that lies below its scope.

    Args:
        name: Name of the member; that of the scope itself for a family of that name.
        scope: The scope, ending in `/`.

    Returns:
        The name below the scope; "" for the scope itself.

    Examples:
        >>> name_below("params/dense/kernel", "params/")
        'dense/kernel'
        >>> name_below("w", "/")
        'w'
    """
    return name if scope == "/" else name[len(scope) :]


def _assign_leaves(
    claims: Claims, leaves: Sequence[str], spellings: Sequence[_Spelling]
) -> None:
    """Claims leaves for the first spelling of which the checkpoint has all tensors."""
    rule = spellings[0].reach.rule
    candidates: list[tuple[FoundSource, _Spelling]] = []
    try:
        for spelling in spellings:
            source = find_source(spelling.expression, claims.manifest)
            candidates.append((source, spelling))
    except AssignmentError as error:
        key = repr(spellings[0].expression)
        claims.problems.append(problems.Mismatch(rule, leaves[0], key, str(error)))
        return
    complete = [candidate for candidate in candidates if not candidate[0].missing]
    if not complete:
        # A stack that has gaps explains more than names that are not there at all.
        counted = [candidate for candidate in candidates if candidate[0].is_counted]
        chosen, spelling = (counted or candidates)[0]
        claims.report_missing(
            rule,
            leaves,
            chosen.missing,
            tuple(sorted(chosen.names.difference(chosen.missing))),
            source=chosen.expression,
            parts=spelling.reach.parts,
        )
        return
    first, (reach, _, alias) = complete[0]
    # If the exact name is not there, only one of its aliases may be.
    distinct = list(dict.fromkeys(source.expression for source, _ in complete))
    if alias is not None and len(distinct) > 1:
        names = tuple(name_of(expression) for expression in distinct)
        claims.problems.append(problems.Ambiguous(rule, leaves[0], names))
        return
    for leaf in leaves:
        claims.assign(
            Claim(leaf, first.expression, rule, reach.parts, alias, first.alternatives)
        )
