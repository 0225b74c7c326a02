"""Decides which entry gets a leaf: the one that says most of the leaf's name.

Neither the order of the map nor what the checkpoint holds matters, only names. Among
plain entries TensorFlow's order of keys decides; the winner then competes with rules.
docs/maps.md ("Who gets a leaf") has examples of every case.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tf2flax._assignment.language.entries import MapEntry, PlainEntry, Rule
from tf2flax._assignment.language.expressions import Expression

from . import problems
from .claims import Claims


class Strength(NamedTuple):
    """Strength of an entry: how much of a leaf's name it says; the greatest wins.

    Strengths are compared as tuples, field by field.

    Attributes:
        names_leaf: True if the entry names the leaf, or its family, and not a scope.
        depth: Number of components of the scope, captures filled in; 0 if the entry
            names the leaf.
        literal: Minus the number of components that have captures.
        is_rule: True for a rule of a scope. False for rules that name the leaf: such a
            rule and a plain entry are equal, and clash.
    """

    names_leaf: bool
    depth: int
    literal: int
    is_rule: bool


def strength_of_name(captured: int = 0) -> Strength:
    """Strength of an entry that names the leaf.

    Args:
        captured: Number of components of the entry's value that have captures.

    Examples:
        >>> strength_of_name() > strength_of_name(1) > strength_of_scope("a/b/c/")
        True
    """
    return Strength(names_leaf=True, depth=0, literal=-captured, is_rule=False)


def strength_of_scope(
    scope: str, captured: int = 0, *, is_rule: bool = False
) -> Strength:
    """Strength of an entry that reaches the leaf by a scope.

    Args:
        scope: The entry's value with text in place of captures, ending in `/`.
        captured: Number of components of the value that have captures.
        is_rule: True if the entry is a rule.

    Examples:
        >>> strength_of_scope("a/b/", captured=2) > strength_of_scope("a/")
        True
        >>> strength_of_scope("a/") > strength_of_scope("/", is_rule=True)
        True
        >>> strength_of_scope("a/", is_rule=True) > strength_of_scope("a/")
        True
    """
    depth = 0 if scope == "/" else scope.count("/")
    return Strength(names_leaf=False, depth=depth, literal=-captured, is_rule=is_rule)


@dataclasses.dataclass(frozen=True, slots=True)
class Reach:
    """A leaf, or a family of parts, that a rule reaches.

    Attributes:
        rule: The rule.
        source: The rule's key, with the target's captures filled in.
        scope: The rule's value likewise, ending in `/`; None if it names the leaf.
        member: Name of the leaf, or of the family of parts.
        leaves: Name of the leaf, or of the parts that the rule reaches.
        parts: All parts of the family; () for a leaf that is not a part.
        strength: Strength of the rule for these leaves.
    """

    rule: Rule
    source: Expression
    scope: str | None
    member: str
    leaves: tuple[str, ...]
    parts: tuple[str, ...]
    strength: Strength


@dataclasses.dataclass(frozen=True, slots=True)
class PlainReach:
    """A plain entry that reaches a leaf."""

    entry: PlainEntry
    strength: Strength


class Won(NamedTuple):
    """What a rule gets.

    Attributes:
        reaches: How it reaches the leaves; several where a tied leaf has several names
            that the rule's captures match. The tensor of any of them fills the leaf.
        leaves: Names of the leaves.
    """

    reaches: tuple[Reach, ...]
    leaves: list[str]


def choose_winners(
    claims: Claims,
    reaches: Sequence[Reach],
    plain: Mapping[str, Sequence[PlainReach]],
) -> list[Won]:
    """Decides about every leaf that a rule reaches.

    Args:
        claims: The state of the resolution: `rule_leaves` gets the winners, and
            entries that lose are recorded.
        reaches: Reaches of all rules.
        plain: For each of these leaves, the plain entries that reach it, in
            TensorFlow's order.

    Returns:
        What rules get, in the order of the reaches.
    """
    by_leaf: dict[str, list[int]] = {}
    for number, reach in enumerate(reaches):
        claims.mark_used(reach.rule)
        for leaf in reach.leaves:
            by_leaf.setdefault(leaf, []).append(number)
    won: dict[tuple[int, ...], list[str]] = {}
    for leaf, numbers in by_leaf.items():
        # A single reach needs no comparison: most leaves of most maps.
        if len(numbers) == 1 and leaf not in plain:
            claims.rule_leaves[leaf] = reaches[numbers[0]].rule
            won.setdefault((numbers[0],), []).append(leaf)
            continue
        best = max(numbers, key=lambda number: reaches[number].strength)
        rule_reaches = [reaches[number] for number in numbers]
        rival = _plain_winner(claims, leaf, plain.get(leaf, ()))
        if rival is not None and rival.strength > reaches[best].strength:
            _record_winner(claims, leaf, rival.entry, losers=rule_reaches)
        # A plain entry of equal strength reports the clash when it is applied.
        elif _give_to_rule(claims, leaf, rule_reaches, reaches[best]):
            rule = reaches[best].rule
            names = [best, *(n for n in numbers if n != best)]
            key = tuple(n for n in names if reaches[n].rule is rule)
            won.setdefault(key, []).append(leaf)
    return [
        Won(tuple(reaches[number] for number in key), won[key]) for key in sorted(won)
    ]


def _plain_winner(
    claims: Claims, leaf: str, reaches: Sequence[PlainReach]
) -> PlainReach | None:
    """The last entry, as in TensorFlow; None if no plain entry reaches the leaf.

    It is a problem if an entry that names the leaf loses to a scope in this way.
    """
    if not reaches:
        return None
    winner = reaches[-1]
    naming = [reach.entry for reach in reaches if reach.strength.names_leaf]
    if naming and not winner.strength.names_leaf:
        claims.problems.append(problems.NameLoses(naming[-1], winner.entry, leaf))
    return winner


def _record_winner(
    claims: Claims, leaf: str, winner: MapEntry, losers: Sequence[Reach]
) -> None:
    """Gives a leaf to an entry, and records the rules that lose it."""
    claims.rule_leaves[leaf] = winner
    for rule in _rules_of(losers):
        claims.record_override(leaf, rule.key, rule, winner)


def _give_to_rule(
    claims: Claims, leaf: str, reaches: Sequence[Reach], best: Reach
) -> bool:
    """Gives a leaf to the strongest rule; False, and a problem, if several are."""
    rivals = [reach for reach in reaches if reach.rule is not best.rule]
    equal = [reach for reach in rivals if reach.strength == best.strength]
    for rule in _rules_of(equal):
        claims.problems.append(problems.Clash(rule, best.rule, leaf))
    weaker = [reach for reach in rivals if reach.strength < best.strength]
    _record_winner(claims, leaf, best.rule, losers=weaker)
    return not equal


def _rules_of(reaches: Sequence[Reach]) -> Iterable[Rule]:
    """The rules of some reaches, each once; equal rules are different entries."""
    return {id(reach.rule): reach.rule for reach in reaches}.values()
