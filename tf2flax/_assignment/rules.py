"""Rules: entries with expressions or captures, stronger than every plain entry.

A rule that names a leaf beats rules of scopes, of which the deeper one wins; two of the
same strength for one leaf are an error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from tf2flax._errors import AssignmentError

from . import problems
from .aliases import alias_sources
from .captures import NamePattern
from .claims import Claim, Claims, name_of
from .expressions import Expression
from .partitions import family_of, parts_of
from .sources import Found, below, bind, find
from .values import Rule

# A source, and the last component of the leaf's name where an alias stands in for it.
_Spelling = tuple[Expression, str | None]


@dataclasses.dataclass(frozen=True, slots=True)
class _Reach:
    """A member of a scope that a rule of scopes reaches.

    Attributes:
        rule: The rule.
        source: Its key, with the target's captures filled in.
        scope: Its value likewise: a scope, ending in `/`.
        member: Name of the leaf, or of the family of parts.
        leaves: The leaf, or the parts.
    """

    rule: Rule
    source: Expression
    scope: str
    member: str
    leaves: tuple[str, ...]

    @property
    def depth(self) -> int:
        """Components of the target scope: the deeper one wins."""
        return 0 if self.scope == "/" else self.scope.count("/")


def apply_rules(claims: Claims, rules: Sequence[Rule]) -> None:
    """Adds the claims of rules.

    Args:
        claims: What has been claimed so far: nothing.
        rules: The rules, in any order.
    """
    naming = _Naming(claims)
    for rule in rules:
        if not rule.is_scope:
            naming.apply(rule)
    _Scopes(claims).apply([rule for rule in rules if rule.is_scope])


class _Naming:
    """Rules that name leaves, or families of parts."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        families = (family_of(name) for name in claims.index)
        self._families = {one[0] for one in families if one and one[1] == 0}

    def apply(self, rule: Rule) -> None:
        """Adds the claims of one rule."""
        target = rule.target
        if isinstance(target, NamePattern):
            for name, binding in self._matches(target):
                self._assign(rule, name, bind(rule.source, binding))
            if not self._claims.is_used(rule) and not target.captures:
                names = tuple(self._claims.index)
                self._claims.problems.append(
                    problems.TargetNotFound(rule, target.literal, names)
                )
        elif not rule.is_list:
            self._assign(rule, target[0], rule.source)
        elif target:
            parts = self._claims.family_parts(rule, target)
            if parts:
                self._take(rule, target, parts, rule.source)

    def _matches(self, target: NamePattern) -> Iterator[tuple[str, dict[str, str]]]:
        """Leaves and families that a pattern names; a leaf under one name alone."""
        if not target.captures:
            yield target.literal, {}
            return
        done: set[str] = set()
        for name in sorted(self._families.union(self._claims.index)):
            leaf = self._claims.index.get(name, name)
            if leaf in self._claims.leaves and not self._holds_numbers(leaf):
                continue  # as scopes do
            binding = target.matches(name)
            if binding is not None and leaf not in done:
                done.add(leaf)
                yield name, binding

    def _holds_numbers(self, leaf: str) -> bool:
        return self._claims.leaves[leaf].dtype is not None

    def _assign(self, rule: Rule, name: str, source: Expression) -> None:
        index = self._claims.index
        if name in index:
            self._take(rule, [name], (), source)
        elif parts := parts_of(name, index):
            self._take(rule, parts, parts, source)

    def _take(
        self,
        rule: Rule,
        names: Sequence[str],
        parts: tuple[str, ...],
        source: Expression,
    ) -> None:
        self._claims.use(rule)
        leaves = [self._claims.index[name] for name in names]
        for leaf in leaves:
            other = self._claims.taken.setdefault(leaf, rule)
            if other is not rule:
                self._claims.problems.append(problems.Clash(rule, other, leaf))
                return
        _claim_found(self._claims, rule, leaves, parts, [(source, None)])


class _Scopes:
    """Rules that fill scopes, member by member."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims

    def apply(self, rules: Sequence[Rule]) -> None:
        """Adds the claims of all of them: for each leaf, of the deepest."""
        reached: dict[str, list[_Reach]] = {}
        for rule in rules:
            for reach in self._reaches(rule):
                for leaf in reach.leaves:
                    reached.setdefault(leaf, []).append(reach)
        winners: dict[_Reach, list[str]] = {}
        for leaf, reaches in reached.items():
            winner = self._winner(leaf, reaches)
            if winner is not None:
                winners.setdefault(winner, []).append(leaf)
        first = len(self._claims.problems)
        for reach, leaves in winners.items():
            self._claims.taken.update(dict.fromkeys(leaves, reach.rule))
            self._assign(reach, leaves)
        self._join_missing(first)

    def _reaches(self, rule: Rule) -> list[_Reach]:
        """The members of all scopes that a rule's value stands for, each once."""
        target = rule.target
        assert isinstance(target, NamePattern)
        index = self._claims.index
        found: dict[tuple[str, str], _Reach] = {}
        sources: dict[str, Expression] = {}
        for name, leaf in index.items():
            if self._claims.leaves[leaf].dtype is None:
                continue
            binding = self._binding(target, name)
            if binding is None:
                continue
            scope = target.expand(binding).literal
            member = _cut_at_part(name, scope)
            if (scope, member) in found:
                continue
            if scope not in sources:
                sources[scope] = bind(rule.source, binding)
            names = [member] if member in index else parts_of(member, index)
            leaves = tuple(index[one] for one in names)
            reach = _Reach(rule, sources[scope], scope, member, leaves)
            found[scope, member] = reach
            if not leaves:
                self._claims.problems.append(problems.CutName(rule, member))
        return [found[key] for key in sorted(found)]

    def _binding(self, target: NamePattern, name: str) -> dict[str, str] | None:
        return {} if target.text == "/" else target.matches(name, is_scope=True)

    def _winner(self, leaf: str, reaches: list[_Reach]) -> _Reach | None:
        """Which rule gets a leaf; None where one that names it has it, or two would."""
        deepest = max(reach.depth for reach in reaches)
        best = next(reach for reach in reaches if reach.depth == deepest)
        by = self._claims.taken.get(leaf, best.rule)
        for reach in reaches:
            self._claims.use(reach.rule)
            if reach.rule is by:
                continue
            if by is best.rule and reach.depth == deepest:
                self._claims.problems.append(problems.Clash(reach.rule, by, leaf))
                return None
            self._claims.override(leaf, reach.rule.key, reach.rule, by)
        return best if by is best.rule else None

    def _assign(self, reach: _Reach, leaves: Sequence[str]) -> None:
        names = self._claims.names_within(reach.member, reach.scope[:-1])
        tails = [tail_of(name, reach.scope) for name in names]
        spelled: list[_Spelling] = [(below(reach.source, tail), None) for tail in tails]
        for tail, name in zip(tails, names, strict=True):
            component = name.rpartition("/")[2]
            aliases = alias_sources(tail, component, self._claims.options.aliases)
            spelled += [(below(reach.source, one), component) for one in aliases]
        is_family = reach.member not in self._claims.index
        parts = reach.leaves if is_family else ()
        _claim_found(self._claims, reach.rule, leaves, parts, spelled)

    def _join_missing(self, first: int) -> None:
        """Says once that nothing lies under a rule's scope, not for each member."""
        added = self._claims.problems[first:]
        by_rule: dict[int, list[problems.Problem]] = {}
        for problem in added:
            by_rule.setdefault(id(problem.entry), []).append(problem)
        del self._claims.problems[first:]
        names = self._claims.manifest.names
        for found in by_rule.values():
            rule = found[0].entry
            if (
                len(found) > 1
                and isinstance(rule, Rule)
                and all(isinstance(one, problems.SourceNotFound) for one in found)
                and not problems.rule_scope_holds_tensors(rule, names)
            ):
                self._claims.problems.append(problems.ScopeNotFound(rule, len(found)))
            else:
                self._claims.problems += found


def tail_of(name: str, scope: str) -> str:
    """What of a member's name lies below its scope.

    Args:
        name: The member's name; that of the scope itself for a family called so.
        scope: The scope, ending in `/`.

    Returns:
        The rest; "" for the scope itself.

    Examples:
        >>> tail_of("params/dense/kernel", "params/")
        'dense/kernel'
        >>> tail_of("w", "/")
        'w'
    """
    return name if scope == "/" else name[len(scope) :]


def _cut_at_part(name: str, scope: str) -> str:
    """A member's name, cut where a part's number begins, as TensorFlow does."""
    found = name.find("/part_", max(len(scope) - 1, 0) if scope != "/" else 0)
    return name if found < 0 else name[:found]


def _claim_found(
    claims: Claims,
    rule: Rule,
    leaves: Sequence[str],
    parts: tuple[str, ...],
    spelled: Sequence[_Spelling],
) -> None:
    """Claims leaves for the first spelling whose tensors are all there."""
    found: list[tuple[Found, str | None]] = []
    try:
        for expression, alias in spelled:
            found.append((find(expression, claims.manifest), alias))
    except AssignmentError as error:
        source = repr(spelled[0][0])
        claims.problems.append(problems.Misfit(rule, leaves[0], source, str(error)))
        return
    best = next((one for one in found if not one[0].missing), None)
    if best is None:
        # What was counted, but has gaps, tells more than what is not there at all.
        nearest = next((one for one, _ in found if one.is_counted), found[0][0])
        claims.lacks(rule, leaves, nearest.missing)
        return
    source, alias = best[0].expression, best[1]
    whole: Mapping[Expression, None] = {
        one.expression: None for one, by in found if by and not one.missing
    }
    if alias is not None and len(whole) > 1:
        names = [name_of(expression) for expression in whole]
        claims.problems.append(problems.Ambiguous(rule, leaves[0], names))
        return
    for leaf in leaves:
        claims.claim(Claim(leaf, source, rule, parts, alias))
