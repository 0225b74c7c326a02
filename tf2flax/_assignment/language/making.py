"""`src`, `concat`, `stack` and `first_of`: the functions that begin an expression."""

from __future__ import annotations

from typing import SupportsIndex

from tf2flax._base.caller import show_value
from tf2flax._base.errors import AssignmentError

from .arguments import check_integer
from .expressions import Expression, Joined, Source
from .hints import suggest_key
from .nodes import FirstOf


def src(name: str) -> Expression:
    """Begins an expression with a tensor of the checkpoint, or a scope.

    Args:
        name: Name of the tensor, or a scope ending in `/`; may have captures
            (`layer_{i}`).

    Returns:
        The expression, whose methods say what is done to the tensor.

    Raises:
        AssignmentError: It is not a name.

    Examples:
        >>> import tf2flax
        >>> tf2flax.src("head/weights").transpose()
        src("head/weights").transpose()
    """
    return _source(name)


def concat(
    *sources: str | Expression, axis: SupportsIndex = 0, over: str | None = None
) -> Expression:
    """Joins tensors, or all tensors of scopes, along one of their axes.

    Args:
        *sources: Names, scopes or expressions.
        axis: The axis, as `numpy.concatenate`.
        over: Name of a capture in the source, which must be the only one: it is
            repeated for each number that the checkpoint has there, in ascending order.

    Returns:
        The expression.

    Raises:
        AssignmentError: There is no source, or the options do not fit them.

    Examples:
        >>> import tf2flax
        >>> tf2flax.concat("q/kernel", "k/kernel", "v/kernel", axis=1)
        concat("q/kernel", "k/kernel", "v/kernel", axis=1)
    """
    return _join(sources, axis, over, is_stack=False)


def stack(
    *sources: str | Expression, axis: SupportsIndex = 0, over: str | None = None
) -> Expression:
    """Joins tensors, or all tensors of scopes, along a new axis.

    Args:
        *sources: Names, scopes or expressions.
        axis: Place of the new axis, as `numpy.stack`.
        over: Name of a capture in the source, which must be the only one: it is
            repeated for each number that the checkpoint has there, in ascending order.

    Returns:
        The expression.

    Raises:
        AssignmentError: There is no source, or the options do not fit them.

    Examples:
        >>> import tf2flax
        >>> tf2flax.stack("bert/encoder/layer_{i}/", over="i")
        stack("bert/encoder/layer_{i}/", over="i", axis=0)
    """
    return _join(sources, axis, over, is_stack=True)


def first_of(*sources: str | Expression) -> Expression:
    """Takes the first of several tensors that the checkpoint has.

    It is chosen when a restore is planned. Of scopes it is chosen for each member: the
    averages of the variables that have some, and the other variables themselves.

    Args:
        *sources: Names, scopes or expressions.

    Returns:
        The expression.

    Raises:
        AssignmentError: There is no source.

    Examples:
        >>> import tf2flax
        >>> tf2flax.first_of("w/ExponentialMovingAverage", "w")
        first_of("w/ExponentialMovingAverage", "w")
    """
    return FirstOf(_operands("first_of", sources))


def _source(name: str) -> Source:
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise AssignmentError(
            f"src: expected the name of a tensor or scope, got {show_value(name)}."
            f"{_suggest_source(name)}"
        )
    if not name:
        raise AssignmentError('src: expected a name, got "". All of it is "/".')
    return Source(name)


def _suggest_source(value: object) -> str:
    """What to write instead of something that is not a name; begins with a space."""
    if isinstance(value, Expression):
        return " It is an expression already."
    return suggest_key(value)


def _suggest_operand(verb: str, value: object) -> str:
    if isinstance(value, (list, tuple, set)):
        return " Give them one by one, not in a list."
    if isinstance(value, int):
        return f" Give the axis by name: {verb}(..., axis={value})."
    return suggest_key(value)


def _suggest_over(value: object) -> str:
    """The capture that `over` may mean: its name, without braces."""
    if isinstance(value, str) and value.strip("{}").isidentifier():
        return f' Write over="{value.strip("{}")}".'
    return ' Write over="i" for the capture `{i}` of the name.'


def _join(
    sources: tuple[str | Expression, ...],
    axis: SupportsIndex,
    over: str | None,
    *,
    is_stack: bool,
) -> Expression:
    verb = "stack" if is_stack else "concat"
    operands = _operands(verb, sources)
    if over is not None:
        if not isinstance(over, str) or not over.isidentifier():  # pyright: ignore[reportUnnecessaryIsInstance]
            raise AssignmentError(
                f"{verb}: expected the name of a capture for over, got "
                f"{show_value(over)}.{_suggest_over(over)}"
            )
        if len(operands) != 1:
            raise AssignmentError(
                f"{verb}: with over={over!r}, expected one source, got {len(operands)}."
            )
    return Joined(operands, check_integer(verb, "axis", axis), is_stack, over)


def _operands(verb: str, sources: tuple[object, ...]) -> tuple[Expression, ...]:
    """Makes expressions of names; expressions stay as they are."""
    if not sources:
        raise AssignmentError(f"{verb}: expected names or expressions, got none.")
    operands: list[Expression] = []
    for source in sources:
        if not isinstance(source, (str, Expression)):
            raise AssignmentError(
                f"{verb}: expected names or expressions, got "
                f"{type(source).__name__}.{_suggest_operand(verb, source)}"
            )
        operands.append(_source(source) if isinstance(source, str) else source)
    return tuple(operands)
