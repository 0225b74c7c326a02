"""Text of an expression -> the expression: what `repr` writes is read back.

A small part of Python's grammar: calls of three functions and a few methods, indices,
and the values of `literals`. It is parsed with `ast` and never executed.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from tf2flax._base.errors import AssignmentError
from tf2flax._base.names import nearest

from .expressions import Expression
from .literals import is_range, read_literal, show_node
from .making import concat, src, stack
from .variables import fill_variables

_FUNCTIONS: Final[dict[str, Callable[..., Expression]]] = {
    "src": src,
    "concat": concat,
    "stack": stack,
}
_METHODS: Final = ("transpose", "reshape", "rearrange", "take", "cast")
# A text that begins like this is meant as an expression: a call of one of our
# functions, or a call of anything with a string, which is a typing error of one.
_BEGINNING: Final = re.compile(r"\s*((src|concat|stack)\s*\(|[A-Za-z_.]+\(\s*[\"'])")
_NO_PARAMETERS: Final[Mapping[str, int | float | str]] = MappingProxyType({})
# Nobody wrote a text that is longer or deeper (characters; brackets that are opened).
_MAX_LENGTH: Final = 1 << 20
_MAX_BRACKETS: Final = 4000


def parse_key(
    text: str, parameters: Mapping[str, int | float | str] = _NO_PARAMETERS
) -> str | Expression:
    """Reads a key of a map file: an expression, or a name as it stands.

    Args:
        text: The key.
        parameters: Values of the variables in an expression, by name.

    Returns:
        The expression if the text begins like one, else the text itself.

    Raises:
        AssignmentError: It begins like an expression and is not a valid one.

    Examples:
        >>> parse_key("bert/pooler/")
        'bert/pooler/'
        >>> parse_key("src('w').transpose()")
        src("w").transpose()
    """
    return parse_expression(text, parameters) if is_expression(text) else text


def is_expression(text: str) -> bool:
    """True if a key of a map file is read as an expression, valid or not."""
    return _BEGINNING.match(text) is not None


def parse_expression(
    text: str, parameters: Mapping[str, int | float | str] = _NO_PARAMETERS
) -> Expression:
    """Reads an expression.

    Args:
        text: The text that `repr` of an expression writes.
        parameters: Values of its variables, by name.

    Raises:
        AssignmentError: The text is not a valid expression.
    """
    # Python's parser may crash on deeper texts, instead of raising an error.
    if len(text) > _MAX_LENGTH or sum(map(text.count, "([{")) > _MAX_BRACKETS:
        raise AssignmentError("not a valid expression: the text is too long.")
    try:
        with warnings.catch_warnings():
            # About escapes that Python does not know, in names with backslashes.
            warnings.simplefilter("ignore", SyntaxWarning)
            body = ast.parse(text.strip(), mode="eval").body
        if parameters:
            body = fill_variables(body, parameters)
        return _read_expression(body)
    except AssignmentError:
        raise
    except SyntaxError as error:
        raise AssignmentError(f"not a valid expression: {error.msg}.") from error
    except (RecursionError, MemoryError, ValueError) as error:
        raise AssignmentError(f"not a valid expression: {error}.") from error


def _read_expression(node: ast.expr) -> Expression:
    if isinstance(node, ast.Subscript):
        return _read_expression(node.value)[read_literal(node.slice)]
    if not isinstance(node, ast.Call):
        raise AssignmentError(
            f"not a valid expression: expected src(...), concat(...) or stack(...), "
            f"got `{show_node(node)}`."
        )
    match node.func:
        case ast.Name(id=name):
            function = _FUNCTIONS.get(name)
            if function is None:
                raise AssignmentError(_unknown_name(name, list(_FUNCTIONS)))
        case ast.Attribute(attr=method):
            name = f".{method}"
            if method not in _METHODS:
                names = [f".{listed}" for listed in _METHODS]
                raise AssignmentError(_unknown_name(name, names))
            function = getattr(_read_expression(node.func.value), method)
        case _:
            raise AssignmentError(
                f"not a valid expression: `{show_node(node)}` calls something else "
                "than a function or method."
            )
    return _call(function, name, node)


def _call(function: Callable[..., Expression], name: str, node: ast.Call) -> Expression:
    keywords = {
        keyword.arg: _read_argument(keyword.value)
        for keyword in node.keywords
        if keyword.arg
    }
    if len(keywords) != len(node.keywords):
        raise AssignmentError("not a valid expression: `**` cannot be used.")
    arguments = [_read_argument(argument) for argument in node.args]
    try:
        return function(*arguments, **keywords)
    except TypeError as error:  # another number of arguments, or unknown keywords
        reason = str(error).rpartition("()")[2].strip() or str(error)
        raise AssignmentError(f"{name}: {reason}.") from error


def _read_argument(node: ast.expr) -> Any:
    is_nested = isinstance(node, ast.Call) and not is_range(node)
    if is_nested or isinstance(node, ast.Subscript):
        return _read_expression(node)
    return read_literal(node)


def _unknown_name(name: str, names: list[str]) -> str:
    close = nearest(name, names, count=1)
    fix = f"Did you mean `{close[0]}`?" if close else f"There are {', '.join(names)}."
    return f"not a valid expression: there is no `{name}`. {fix}"
