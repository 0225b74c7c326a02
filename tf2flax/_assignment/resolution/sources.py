"""Which tensors an expression names: counted captures, and what is missing of them."""

from __future__ import annotations

import dataclasses
import itertools

from tf2flax._assignment.language.captures import literal_pattern, parse_name
from tf2flax._assignment.language.expressions import (
    Expression,
    Joined,
    Source,
    map_sources,
    sources_of,
)
from tf2flax._base.errors import AssignmentError
from tf2flax._base.manifest import Manifest
from tf2flax._base.names import MAX_DIGITS


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """An expression with names in place of captures, as far as they are there.

    Attributes:
        expression: The expression.
        missing: Names that it needs and the checkpoint lacks, each once.
        is_counted: Whether every counted capture was found at least once.
    """

    expression: Expression
    missing: tuple[str, ...]
    is_counted: bool = True


def find(expression: Expression, manifest: Manifest) -> Found:
    """Finds the tensors of an expression.

    Args:
        expression: The expression; captures that are left are counted ones.
        manifest: The checkpoint.

    Returns:
        What was found.

    Raises:
        AssignmentError: Two tensors have the same number.
    """
    missing: dict[str, None] = {}
    counted = _count(expression, manifest, missing)
    if missing:
        return Found(counted, tuple(missing), is_counted=False)
    for source in sources_of(counted):
        name = parse_name(source.pattern).literal
        if name not in manifest:
            missing[name] = None
    return Found(counted, tuple(missing))


def _count(
    expression: Expression, manifest: Manifest, missing: dict[str, None]
) -> Expression:
    """Repeats what is counted for each number that the checkpoint has."""
    if isinstance(expression, Joined) and expression.over is not None:
        (operand,) = expression.operands
        over = expression.over
        operands = [
            _count(bind(operand, {over: text}), manifest, missing)
            for text in _numbers(operand, over, manifest)
        ]
        if not operands:
            first = next(
                s for s in sources_of(operand) if over in parse_name(s.pattern).captures
            )
            missing[first.pattern] = None
            return expression
        return Joined(tuple(operands), expression.axis, expression.is_stack, None)
    children = [_count(child, manifest, missing) for child in expression.children]
    return expression.with_children(children)


def _numbers(operand: Expression, over: str, manifest: Manifest) -> list[str]:
    """The numbers of a capture, ascending, without gaps: gaps will be missing names."""
    texts: dict[int, str] = {}
    for source in sources_of(operand):
        pattern = parse_name(source.pattern)
        if over not in pattern.captures:
            continue
        # A shared name counts: it is refused later, where a shorter stack would not be.
        for binding in itertools.chain(
            pattern.among(manifest.names, frozenset(pattern.captures)),
            pattern.among(manifest.shared_names, frozenset(pattern.captures)),
        ):
            text = binding[over]
            if len(text) > MAX_DIGITS:
                raise AssignmentError(
                    f"`{pattern.text}`: the checkpoint has {{{over}}} as a number of "
                    f"{len(text)} digits, `{text[:20]}…`. Name the tensors one by one."
                )
            other = texts.setdefault(int(text), text)
            if other != text:
                raise AssignmentError(
                    f"`{pattern.text}`: the checkpoint has {{{over}}} as `{other}` and "
                    f"as `{text}`, which are one number. Name the tensors one by one."
                )
    found = sorted(texts)
    if not found:
        return []
    # A gap is one missing name, however wide; the rest would say the same again.
    result: list[str] = []
    for before, number in zip([found[0] - 1, *found], found, strict=False):
        if number > before + 1:
            result.append(str(before + 1))
        result.append(texts[number])
    return result


def bind(expression: Expression, binding: dict[str, str]) -> Expression:
    """Puts text in place of captures.

    Args:
        expression: The expression.
        binding: Capture -> text.

    Returns:
        The expression.

    Examples:
        >>> bind(Source("layer_{i}/w").transpose(), {"i": "3"})
        src("layer_3/w").transpose()
    """
    return map_sources(
        expression, lambda s: Source(parse_name(s.pattern).expand(binding).text)
    )


def below(expression: Expression, tail: str) -> Expression:
    """Goes from scopes to a name in each.

    Args:
        expression: An expression of scopes.
        tail: The rest of the name.

    Returns:
        The expression of names.

    Examples:
        >>> below(Source("encoder/"), "kernel")
        src("encoder/kernel")
    """
    rest = literal_pattern(tail)

    def name(scope: Source) -> Source:
        own = "" if scope.pattern == "/" else scope.pattern
        return Source((own + rest).removesuffix("/") or own)

    return map_sources(expression, name)
