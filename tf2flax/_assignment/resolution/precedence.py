"""Who gets a leaf: the entry that says most of its name, whatever the order of a map.

Names alone decide, never what the checkpoint holds. Among plain entries TensorFlow's
order of keys decides; its winner then meets the rules.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tf2flax._assignment.language.entries import MapEntry, PlainEntry, Rule
from tf2flax._assignment.language.expressions import Expression

from . import problems
from .claims import Claims


class Strength(NamedTuple):
    """How much of a leaf's name an entry says; the greatest gets the leaf.

    Attributes:
        names_leaf: Whether it names the leaf, or its family, instead of a scope.
        depth: Components of the scope, captures filled in; 0 where it names the leaf.
        literal: Minus the number of components with captures.
        is_rule: Whether it is a rule, of scopes alone: a rule and a plain entry that
            name one leaf are equal.
    """

    names_leaf: bool
    depth: int
    literal: int
    is_rule: bool


def strength_of_name(captured: int = 0) -> Strength:
    """The strength of an entry that names the leaf.

    Args:
        captured: Components of its value that have captures.

    Returns:
        The strength.

    Examples:
        >>> strength_of_name() > strength_of_name(1) > strength_of_scope("a/b/c/")
        True
    """
    return Strength(names_leaf=True, depth=0, literal=-captured, is_rule=False)


def strength_of_scope(
    scope: str, captured: int = 0, *, is_rule: bool = False
) -> Strength:
    """The strength of an entry that reaches the leaf by a scope.

    Args:
        scope: Its value, with text in place of captures; ends in `/`.
        captured: Components of its value that have captures.
        is_rule: Whether it is a rule.

    Returns:
        The strength.

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
        source: Its key, with the target's captures filled in.
        scope: Its value likewise, ending in `/`; None where it names the leaf.
        member: Name of the leaf, or of the family of parts.
        leaves: The leaf, or the parts that are meant.
        parts: All parts of the family; () for a leaf by itself.
        strength: How much of the name the rule says.
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


def choose_winners(
    claims: Claims,
    reaches: Sequence[Reach],
    plain: Mapping[str, Sequence[PlainReach]],
) -> list[tuple[Reach, list[str]]]:
    """Decides about every leaf that a rule reaches, and notes in `claims` who has it.

    Args:
        claims: What has been claimed so far: nothing.
        reaches: What the rules reach.
        plain: The plain entries that reach these leaves, in TensorFlow's order.

    Returns:
        The reaches of rules that get leaves, and which.
    """
    by_leaf: dict[str, list[int]] = {}
    for number, reach in enumerate(reaches):
        claims.use(reach.rule)
        for leaf in reach.leaves:
            by_leaf.setdefault(leaf, []).append(number)
    won: dict[int, list[str]] = {}
    for leaf, numbers in by_leaf.items():
        if len(numbers) == 1 and leaf not in plain:  # most leaves of most maps
            claims.taken[leaf] = reaches[numbers[0]].rule
            won.setdefault(numbers[0], []).append(leaf)
            continue
        best = max(numbers, key=lambda number: reaches[number].strength)
        of_rules = [reaches[number] for number in numbers]
        rival = _plain_winner(claims, leaf, plain.get(leaf, ()))
        if rival is not None and rival.strength > reaches[best].strength:
            _yield_to(claims, leaf, of_rules, rival.entry)
        # A plain entry of equal strength says itself that it names the rule's leaf.
        elif _give_to_rule(claims, leaf, of_rules, reaches[best]):
            won.setdefault(best, []).append(leaf)
    return [(reaches[number], won[number]) for number in sorted(won)]


def _plain_winner(
    claims: Claims, leaf: str, reaches: Sequence[PlainReach]
) -> PlainReach | None:
    """The last, as in TensorFlow; no entry that names the leaf may lose so."""
    if not reaches:
        return None
    winner = reaches[-1]
    naming = [reach.entry for reach in reaches if reach.strength.names_leaf]
    if naming and not winner.strength.names_leaf:
        claims.problems.append(problems.NameLoses(naming[-1], winner.entry, leaf))
    return winner


def _yield_to(claims: Claims, leaf: str, losers: Sequence[Reach], by: MapEntry) -> None:
    """Gives a leaf to an entry, and notes the rules that lose it, each once."""
    claims.taken[leaf] = by
    for rule in {id(reach.rule): reach.rule for reach in losers}.values():
        claims.override(leaf, rule.key, rule, by)


def _give_to_rule(
    claims: Claims, leaf: str, reaches: Sequence[Reach], best: Reach
) -> bool:
    """Gives a leaf to the strongest rule; False, and a problem, where several are."""
    others = [reach for reach in reaches if reach.rule is not best.rule]
    equal = [reach for reach in others if reach.strength == best.strength]
    for rule in {id(reach.rule): reach.rule for reach in equal}.values():
        claims.problems.append(problems.Clash(rule, best.rule, leaf))
    weaker = [reach for reach in others if reach.strength < best.strength]
    _yield_to(claims, leaf, weaker, best.rule)
    return not equal
