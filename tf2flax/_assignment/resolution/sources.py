"""Finds the tensors that an expression names: bound and counted captures, and scopes.

A *counted* capture is the `over` of a join, as in `stack("layer_{i}/w", over="i")`: it
stands for every number that the checkpoint has there.
"""

from __future__ import annotations

import dataclasses
import itertools

from tf2flax._assignment.language.captures import (
    literal_pattern,
    lowest_numbers,
    parse_name,
)
from tf2flax._assignment.language.expressions import (
    Expression,
    Joined,
    Source,
    map_sources,
    sources_of,
)
from tf2flax._assignment.language.nodes import FirstOf
from tf2flax._base.errors import AssignmentError
from tf2flax._base.manifest import Manifest
from tf2flax._base.names import MAX_DIGITS


@dataclasses.dataclass(frozen=True, slots=True)
class FoundSource:
    """An expression with names in place of captures, and the names that are missing.

    Attributes:
        expression: The expression.
        missing: Names that it needs but the checkpoint lacks, each once.
        is_counted: True if the checkpoint has a tensor for every counted capture.
        alternatives: Names of tensors that `first_of` could have chosen as well.
    """

    expression: Expression
    missing: tuple[str, ...]
    is_counted: bool = True
    alternatives: tuple[str, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """Names that it needs; those with captures that are still open are left out."""
        patterns = (
            parse_name(source.pattern) for source in sources_of(self.expression)
        )
        return frozenset(p.literal for p in patterns if not p.captures)


def find_source(expression: Expression, manifest: Manifest) -> FoundSource:
    """Finds the tensors of an expression.

    Args:
        expression: The expression; all its captures are counted ones.
        manifest: The checkpoint.

    Returns:
        The expression without captures, and what the checkpoint lacks.

    Raises:
        AssignmentError: Two tensors have the same number.
    """
    missing: dict[str, None] = {}
    alternatives: dict[str, None] = {}
    counted = _expand(expression, manifest, missing, alternatives)
    if missing:
        return FoundSource(counted, tuple(missing), is_counted=False)
    missing = dict.fromkeys(_names_missing(counted, manifest))
    return FoundSource(counted, tuple(missing), alternatives=tuple(alternatives))


def _names_missing(expression: Expression, manifest: Manifest) -> list[str]:
    names = (parse_name(source.pattern).literal for source in sources_of(expression))
    return [name for name in names if name not in manifest]


def _expand(
    expression: Expression,
    manifest: Manifest,
    missing: dict[str, None],
    alternatives: dict[str, None],
) -> Expression:
    """Puts what the checkpoint has in place of counted joins and of `first_of`.

    The operand of a counted join is repeated for each number that the checkpoint has.
    Patterns for which it has no number at all are added to `missing`, and so are all
    names of a `first_of` of which it has none.
    """
    if isinstance(expression, FirstOf):
        return _choose(expression, manifest, missing, alternatives)
    if isinstance(expression, Joined) and expression.over is not None:
        (operand,) = expression.operands
        over = expression.over
        operands = [
            _expand(
                bind_captures(operand, {over: text}), manifest, missing, alternatives
            )
            for text in _numbers_of(operand, over, manifest)
        ]
        if not operands:
            patterns = (source.pattern for source in sources_of(operand))
            first = next(p for p in patterns if over in parse_name(p).captures)
            missing[first] = None
            return expression
        return Joined(tuple(operands), expression.axis, expression.is_stack, None)
    children = [
        _expand(child, manifest, missing, alternatives) for child in expression.children
    ]
    return expression.with_children(children)


def _choose(
    expression: FirstOf,
    manifest: Manifest,
    missing: dict[str, None],
    alternatives: dict[str, None],
) -> Expression:
    """Chooses the first of several expressions whose tensors are there."""
    chosen: Expression | None = None
    absent: dict[str, None] = {}
    for operand in expression.operands:
        missing_here: dict[str, None] = {}
        expanded = _expand(operand, manifest, missing_here, alternatives)
        missing_here |= dict.fromkeys(_names_missing(expanded, manifest))
        if missing_here:
            absent |= missing_here
        elif chosen is None:
            chosen = expanded
        else:
            names = (parse_name(s.pattern).literal for s in sources_of(expanded))
            alternatives |= dict.fromkeys(names)
    if chosen is None:
        missing |= absent
        return expression
    # What the chosen one is made of is written when it is saved.
    for source in sources_of(chosen):
        alternatives.pop(parse_name(source.pattern).literal, None)
    return chosen


def _numbers_of(operand: Expression, over: str, manifest: Manifest) -> list[str]:
    """The numbers that a counted capture stands for, ascending.

    Of a gap its first number is included, so that it is reported as a missing name.
    """
    texts = _texts_by_number(operand, over, manifest)
    numbers: list[str] = []
    previous: int | None = None
    for number in sorted(texts):
        # The other numbers of a gap would only repeat the same message.
        if previous is not None and number > previous + 1:
            numbers.append(str(previous + 1))
        numbers.append(texts[number])
        previous = number
    return numbers


def _texts_by_number(
    operand: Expression, over: str, manifest: Manifest
) -> dict[int, str]:
    """The texts that a counted capture stands for in any source, by number."""
    texts: dict[int, str] = {}
    patterns = [parse_name(source.pattern) for source in sources_of(operand)]
    lowest = lowest_numbers(patterns)
    for pattern in patterns:
        if over not in pattern.captures:
            continue
        # Names that several tensors share count too: such a name is refused later, but
        # a stack that silently lacks a layer would not be.
        for binding in itertools.chain(
            pattern.among(manifest.names, frozenset(pattern.captures), lowest),
            pattern.among(manifest.shared_names, frozenset(pattern.captures), lowest),
        ):
            text = binding[over]
            if len(text) > MAX_DIGITS:
                raise AssignmentError(
                    f"`{pattern.text}`: in the checkpoint {{{over}}} is a number of "
                    f"{len(text)} digits, `{text[:20]}…`. Name the tensors one by one."
                )
            first = texts.setdefault(int(text), text)
            if first != text:
                raise AssignmentError(
                    f"`{pattern.text}`: the checkpoint has both `{first}` and `{text}` "
                    f"for {{{over}}}, which are the same number. Name the tensors one "
                    "by one."
                )
    return texts


def bind_captures(expression: Expression, binding: dict[str, str]) -> Expression:
    """Puts text in place of captures.

    Args:
        expression: The expression.
        binding: Capture -> text; other captures stay.

    Returns:
        The expression.

    Examples:
        >>> bind_captures(Source("layer_{i}/w").transpose(), {"i": "3"})
        src("layer_3/w").transpose()
    """
    return map_sources(
        expression, lambda s: Source(parse_name(s.pattern).expand(binding).text)
    )


def append_to_scopes(expression: Expression, name: str) -> Expression:
    """Turns an expression of scopes into one of the same name in each scope.

    Args:
        expression: The expression of scopes.
        name: The name; "" for the scope itself as a name.

    Returns:
        The expression of names.

    Examples:
        >>> append_to_scopes(Source("encoder/"), "kernel")
        src("encoder/kernel")
    """
    pattern = literal_pattern(name)

    def append(scope: Source) -> Source:
        prefix = "" if scope.pattern == "/" else scope.pattern
        return Source((prefix + pattern).removesuffix("/") or prefix)

    return map_sources(expression, append)
