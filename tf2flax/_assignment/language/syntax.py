"""The text of an expression -> the expression: what `repr` writes is read back.

A small part of Python's grammar, read with `ast` and never executed.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable
from typing import Any, Final

from tf2flax._base.errors import AssignmentError
from tf2flax._base.names import nearest

from .expressions import Expression
from .making import concat, src, stack

_FUNCTIONS: Final[dict[str, Callable[..., Expression]]] = {
    "src": src,
    "concat": concat,
    "stack": stack,
}
_METHODS: Final = ("transpose", "reshape", "rearrange", "take", "cast")
# What begins so is meant as one: a call of ours, or of anything with a string.
_BEGINNING: Final = re.compile(r"\s*((src|concat|stack)\s*\(|[A-Za-z_.]+\(\s*[\"'])")
# Longer texts, or deeper ones, are no expressions that anybody wrote (characters;
# brackets that are opened).
_MAX_LENGTH: Final = 1 << 20
_MAX_BRACKETS: Final = 4000


def parse_key(text: str) -> str | Expression:
    """Reads a key of a map file: an expression, or a name as it stands.

    Args:
        text: The key.

    Returns:
        The expression where it begins as one, else the text itself.

    Raises:
        AssignmentError: It begins as an expression and is none.

    Examples:
        >>> parse_key("bert/pooler/")
        'bert/pooler/'
        >>> parse_key("src('w').transpose()")
        src("w").transpose()
    """
    return parse_expression(text) if is_expression(text) else text


def is_expression(text: str) -> bool:
    """Tells whether a key of a map file is read as an expression.

    Args:
        text: The key.

    Returns:
        Whether it begins as one.
    """
    return _BEGINNING.match(text) is not None


def parse_expression(text: str) -> Expression:
    """Reads an expression.

    Args:
        text: What `repr` of an expression writes.

    Returns:
        The expression.

    Raises:
        AssignmentError: It is none.
    """
    if len(text) > _MAX_LENGTH or sum(map(text.count, "([{")) > _MAX_BRACKETS:
        raise AssignmentError("the expression is too long to be one.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(text.strip(), mode="eval")
        result = _expression(tree.body)
    except SyntaxError as error:
        raise AssignmentError(f"no expression: {error.msg}.") from error
    except (RecursionError, MemoryError, ValueError) as error:
        if isinstance(error, AssignmentError):
            raise
        raise AssignmentError(f"no expression: {error}.") from error
    return result


def _expression(node: ast.expr) -> Expression:
    if isinstance(node, ast.Subscript):
        return _expression(node.value)[_value(node.slice)]
    if not isinstance(node, ast.Call):
        raise AssignmentError(
            f"no expression: expected src(...), concat(...) or stack(...), got "
            f"`{_shown(node)}`."
        )
    keywords = {one.arg: _argument(one.value) for one in node.keywords if one.arg}
    if len(keywords) != len(node.keywords):
        raise AssignmentError("no expression: `**` cannot be used.")
    arguments = [_argument(one) for one in node.args]
    if isinstance(node.func, ast.Name):
        function = _FUNCTIONS.get(node.func.id)
        if function is None:
            raise AssignmentError(_unknown(node.func.id, tuple(_FUNCTIONS)))
        return _called(function, node.func.id, arguments, keywords)
    if isinstance(node.func, ast.Attribute):
        name = node.func.attr
        if name not in _METHODS:
            raise AssignmentError(_unknown(f".{name}", [f".{m}" for m in _METHODS]))
        method = getattr(_expression(node.func.value), name)
        return _called(method, f".{name}", arguments, keywords)
    raise AssignmentError(f"no expression: `{_shown(node)}`.")


def _called(
    function: Callable[..., Expression],
    name: str,
    arguments: list[Any],
    keywords: dict[str, Any],
) -> Expression:
    try:
        return function(*arguments, **keywords)
    except TypeError as error:  # another number of arguments, or unknown keywords
        reason = str(error).rpartition("()")[2].strip() or str(error)
        raise AssignmentError(f"{name}: {reason}.") from error


def _argument(node: ast.expr) -> Any:
    is_nested = isinstance(node, ast.Call) and not _is_range(node)
    if is_nested or isinstance(node, ast.Subscript):
        return _expression(node)
    return _value(node)


def _value(node: ast.expr) -> Any:
    """A literal: text, an integer, None, `...`, a slice, a range, or several."""
    if isinstance(node, ast.Constant):
        if node.value is None or isinstance(node.value, (str, int, type(...))):
            return node.value
    elif isinstance(node, (ast.Tuple, ast.List)):
        items = [_value(one) for one in node.elts]
        return tuple(items) if isinstance(node, ast.Tuple) else items
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _value(node.operand)
        if isinstance(value, int):
            return -value
    elif isinstance(node, ast.Slice):
        parts = (node.lower, node.upper, node.step)
        return slice(*(None if part is None else _value(part) for part in parts))
    elif _is_range(node):
        assert isinstance(node, ast.Call)
        numbers = [_value(one) for one in node.args]
        is_known = 1 <= len(numbers) <= 3 and all(type(n) is int for n in numbers)
        if is_known and numbers[2:] != [0] and not node.keywords:
            return range(*numbers)
    raise AssignmentError(f"no expression: `{_shown(node)}` is no value that is known.")


def _is_range(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "range"
    )


def _unknown(name: str, known: list[str] | tuple[str, ...]) -> str:
    close = nearest(name, known, count=1)
    fix = f"Did you mean `{close[0]}`?" if close else f"There are {', '.join(known)}."
    return f"no expression: there is no `{name}`. {fix}"


def _shown(node: ast.expr) -> str:
    return ast.unparse(node)[:60]
