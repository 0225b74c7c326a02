"""Checks of a rule by itself: scopes and names, and where captures get their texts."""

from __future__ import annotations

from collections.abc import Iterator

from tf2flax._base.errors import AssignmentError

from .capture_hints import suggest_over, suggest_value_capture
from .captures import NamePattern, parse_name
from .entries import Rule
from .expressions import Expression, Joined, Source, sources_of


def check_rule(rule: Rule) -> None:
    """Checks that key and value of a rule fit together.

    Raises:
        AssignmentError: Scopes and names are mixed, or a capture has no meaning.
    """
    _check_scopes(rule)
    _check_captures(rule)


def _check_scopes(rule: Rule) -> None:
    """Checks that names fill leaves, and scopes fill scopes."""
    patterns = [source.pattern for source in sources_of(rule.source)]
    scopes = [pattern for pattern in patterns if pattern.endswith("/")]
    names = [pattern for pattern in patterns if not pattern.endswith("/")]
    # An expression of scopes is evaluated once for every member. A single tensor in it
    # would be the same for all of them, which nobody means.
    if scopes and names:
        raise AssignmentError(
            f"`{scopes[0]}` is a scope and `{names[0]}` a name; all sources of an "
            "expression are names, or all are scopes."
        )
    if scopes and not isinstance(rule.target, NamePattern):
        raise AssignmentError(
            f"`{scopes[0]}` is a scope, and fills a scope, not a leaf. Give the value "
            "as a scope ending in `/`."
        )
    if isinstance(rule.target, NamePattern):
        target = rule.target.text
        if scopes and not rule.is_scope:
            raise AssignmentError(
                f"`{scopes[0]}` is a scope, and `{target}` is not. Did you mean "
                f"`{target}/`?"
            )
        if names and rule.is_scope:
            key = names[0]
            # Other libraries join names by dots: `encoder.layer.0.`
            if "/" not in key and key.count(".") > 1:
                key = key.rstrip(".").replace(".", "/")
            raise AssignmentError(
                f"`{target}` is a scope, so the key must be one too. Did you mean "
                f"`{key}/`?"
            )


def _check_captures(rule: Rule) -> None:
    """Checks that every capture gets its text from the value, or is counted by `over`.

    Leaves of the target give the captures of the value their texts; with these the key
    becomes the name of one tensor.
    """
    target = rule.target
    given = target.captures if isinstance(target, NamePattern) else ()
    paths = _check_kinds(rule)
    for name, operand in counted_captures(rule.source):
        inside = [*dict.fromkeys(_free_captures(operand))]
        if name in paths:
            raise AssignmentError(
                f'over="{name}" counts numbers, and {{{name}...}} stands for whole '
                "components. Give one of them another name."
            )
        if name in given:
            raise AssignmentError(
                f'{{{name}}} is counted by over="{name}" and stands in the value as '
                "well. Give one of them another name."
            )
        if name not in inside:
            # What the value has is not what is meant to be counted.
            free = [capture for capture in inside if capture not in given] or inside
            raise AssignmentError(
                f'over="{name}": there is no capture {{{name}}} in {operand!r}. '
                f"{suggest_over(name, free)}"
            )
    in_key = [*dict.fromkeys(_free_captures(rule.source))]
    for name in in_key:
        if name not in given:
            text = target.text if isinstance(target, NamePattern) else ""
            raise AssignmentError(
                f"capture {{{name}}} of the key is missing in the value, which gives "
                f"it its meaning. {suggest_value_capture(in_key, given, name, text)}"
            )


def _check_kinds(rule: Rule) -> set[str]:
    """Names of the captures of several components, each alike in the whole entry."""
    patterns = [parse_name(source.pattern) for source in sources_of(rule.source)]
    if isinstance(rule.target, NamePattern):
        patterns.append(rule.target)
        _check_scope_end(rule, rule.target)
    written = [capture for pattern in patterns for capture in pattern.written]
    paths = {capture.name for capture in written if capture.is_path}
    for capture in written:
        if capture.name in paths and not capture.is_path:
            raise AssignmentError(
                f"{{{capture.name}...}} and {capture} stand in one entry. Write it in "
                "the same way everywhere, or give one of them another name."
            )
    return paths


def _check_scope_end(rule: Rule, target: NamePattern) -> None:
    """Checks that a name follows `{path...}` in a scope of the target."""
    last = target.written[-1] if target.written else None
    if rule.is_scope and last and last.is_path and target.literals[-1] == "/":
        raise AssignmentError(
            f"the scope `{target.text}` ends in {last}, so that nothing says where "
            "the scope ends. Let a name follow it, or name leaves: "
            f"`{target.text}kernel`."
        )


def _free_captures(expression: Expression) -> Iterator[str]:
    """Yields the captures that no `over` around them counts."""
    if isinstance(expression, Source):
        yield from parse_name(expression.pattern).captures
    counted = expression.over if isinstance(expression, Joined) else None
    for child in expression.children:
        yield from (name for name in _free_captures(child) if name != counted)


def counted_captures(expression: Expression) -> Iterator[tuple[str, Expression]]:
    """Yields the captures that an `over` counts, and the operand that it repeats."""
    if isinstance(expression, Joined) and expression.over is not None:
        yield expression.over, expression.operands[0]
    for child in expression.children:
        yield from counted_captures(child)
