"""Rules: entries with expressions or captures; what they reach, and from where.

Who gets a leaf is decided in `precedence`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tf2flax._assignment.language.aliases import alias_sources
from tf2flax._assignment.language.captures import NamePattern
from tf2flax._assignment.language.entries import Rule
from tf2flax._assignment.language.expressions import Expression
from tf2flax._base.errors import AssignmentError

from . import problems
from .claims import Claim, Claims, name_of
from .partitions import family_of, parts_of
from .precedence import Reach, strength_of_name, strength_of_scope
from .sources import Found, below, bind, find

# A source, and the last component of the leaf's name where an alias stands in for it.
_Spelling = tuple[Expression, str | None]


def find_reaches(claims: Claims, rules: Sequence[Rule]) -> list[Reach]:
    """Finds what rules reach, by names alone.

    Args:
        claims: Leaves and manifest; problems with names are added.
        rules: The rules, in any order.

    Returns:
        What they name, then what lies in their scopes.
    """
    naming, scopes = _Naming(claims), _Scopes(claims)
    reaches: list[Reach] = []
    for rule in rules:
        if not rule.is_scope:
            reaches += naming.reaches(rule)
    for rule in rules:
        if rule.is_scope:
            reaches += scopes.reaches(rule)
    return reaches


def apply_rules(claims: Claims, won: Sequence[tuple[Reach, list[str]]]) -> None:
    """Adds the claims of rules.

    Args:
        claims: What has been claimed so far: nothing.
        won: What rules reach, and the leaves of it that they get.
    """
    for reach, leaves in won:
        if reach.scope is None:
            _claim_found(claims, reach, leaves, [(reach.source, None)])
    first = len(claims.problems)
    scopes = _Scopes(claims)
    for reach, leaves in won:
        if reach.scope is not None:
            _claim_found(claims, reach, leaves, scopes.spellings(reach, reach.scope))
    scopes.join_missing(first)


class _Naming:
    """Rules that name leaves, or families of parts."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        families = (family_of(name) for name in claims.index)
        self._families = {one[0] for one in families if one and one[1] == 0}

    def reaches(self, rule: Rule) -> list[Reach]:
        """What one rule names."""
        target = rule.target
        if isinstance(target, NamePattern):
            named = [
                self._reach(rule, name, bind(rule.source, binding))
                for name, binding in self._matches(target)
            ]
            reaches = [reach for reach in named if reach is not None]
            if not reaches and not target.captures:
                names = tuple(self._claims.index)
                self._claims.problems.append(
                    problems.TargetNotFound(rule, target.literal, names)
                )
            return reaches
        if not rule.is_list:
            reach = self._reach(rule, target[0], rule.source)
            return [] if reach is None else [reach]
        parts = self._claims.family_parts(rule, target) if target else ()
        return [self._made(rule, target, parts, rule.source)] if parts else []

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

    def _reach(self, rule: Rule, name: str, source: Expression) -> Reach | None:
        """A leaf, or the parts of a family, under a name; None where it has neither."""
        index = self._claims.index
        if name in index:
            return self._made(rule, (name,), (), source)
        parts = parts_of(name, index)
        return self._made(rule, parts, parts, source) if parts else None

    def _made(
        self,
        rule: Rule,
        names: Sequence[str],
        parts: tuple[str, ...],
        source: Expression,
    ) -> Reach:
        pattern = rule.target if isinstance(rule.target, NamePattern) else None
        return Reach(
            rule=rule,
            source=source,
            scope=None,
            member=names[0],
            leaves=tuple(self._claims.index[name] for name in names),
            parts=parts,
            strength=strength_of_name(pattern.captured_components if pattern else 0),
        )


class _Scopes:
    """Rules of scopes, member by member."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims

    def reaches(self, rule: Rule) -> list[Reach]:
        """The members of all scopes that a rule's value stands for, each once."""
        target = rule.target
        assert isinstance(target, NamePattern)
        index = self._claims.index
        captured = target.captured_components
        found: dict[tuple[str, str], Reach] = {}
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
            parts = () if member in index else parts_of(member, index)
            leaves = tuple(index[n] for n in parts or [member] if n in index)
            found[scope, member] = Reach(
                rule=rule,
                source=sources[scope],
                scope=scope,
                member=member,
                leaves=leaves,
                parts=parts,
                strength=strength_of_scope(scope, captured, is_rule=True),
            )
            if not leaves:
                self._claims.problems.append(problems.CutName(rule, member))
        return [found[key] for key in sorted(found)]

    def _binding(self, target: NamePattern, name: str) -> dict[str, str] | None:
        return {} if target.text == "/" else target.matches(name, is_scope=True)

    def spellings(self, reach: Reach, scope: str) -> list[_Spelling]:
        """Names that a member's tensor may have, exact ones first, with the alias."""
        names = self._claims.names_within(reach.member, scope[:-1])
        tails = [tail_of(name, scope) for name in names]
        spelled: list[_Spelling] = [(below(reach.source, tail), None) for tail in tails]
        for tail, name in zip(tails, names, strict=True):
            component = name.rpartition("/")[2]
            aliases = alias_sources(tail, component, self._claims.options.aliases)
            spelled += [(below(reach.source, one), component) for one in aliases]
        return spelled

    def join_missing(self, first: int) -> None:
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
    reach: Reach,
    leaves: Sequence[str],
    spelled: Sequence[_Spelling],
) -> None:
    """Claims leaves for the first spelling whose tensors are all there."""
    rule = reach.rule
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
        claims.claim(Claim(leaf, source, rule, reach.parts, alias))
