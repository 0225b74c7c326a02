"""Text of an expression -> the expression: what `repr` writes is read back.

A small part of Python's grammar: calls of a few functions and methods, indices, `+`,
`-`, `*`, and the values of `literals`. It is parsed with `ast` and never executed.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeVar

from tf2flax._base.errors import AssignmentError
from tf2flax._base.names import nearest
from tf2flax._base.synonyms import synonym_of

from .expressions import METHOD_NAMES, Expression
from .literals import OPERATORS, is_range, read_literal, show_node
from .making import concat, first_of, src, stack
from .rows import Rows, check_vocabulary
from .variables import fill_variables

T = TypeVar("T")

_FUNCTIONS: Final[dict[str, Callable[..., Expression]]] = {
    "src": src,
    "concat": concat,
    "stack": stack,
    "first_of": first_of,
}
# A text that begins like this is meant as an expression: a call of one of our
# functions, behind numbers, signs and parentheses; or a call of anything with a string,
# which is a typing error of one.
# A number is taken whole: with all ways to cut "1.1.1.1", a text would take years.
_NUMBER: Final = r"[-+*()\s]|(?>\.?\d[\d._]*(?:[eE][-+]?\d+)?j?)(?!\w)"
_CALL: Final = r"(?:src|concat|stack|first_of)\s*\("
_WRONG_CALL: Final = r"\s*[A-Za-z_.]+\(\s*[\"']"
_BEGINNING: Final = re.compile(rf"(?:{_NUMBER})*{_CALL}|{_WRONG_CALL}")
# Where there are parameters, they may stand in place of the numbers.
_VARIABLE: Final = r"[A-Za-z_]\w*(?=[)\s]*[-+*])"
_BEGINNING_WITH_PARAMETERS: Final = re.compile(
    rf"(?:{_NUMBER}|{_VARIABLE})*{_CALL}|{_WRONG_CALL}"
)
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
    begins_so = _BEGINNING_WITH_PARAMETERS if parameters else _BEGINNING
    return parse_expression(text, parameters) if begins_so.match(text) else text


def is_expression(text: str) -> bool:
    """True if a key of a map without parameters is read as an expression."""
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
        value = _read_value(body)
        if isinstance(value, Expression):
            return value
        raise _not_an_expression(body)
    except AssignmentError:
        raise
    except SyntaxError as error:
        raise AssignmentError(f"not a valid expression: {error.msg}.") from error
    except (RecursionError, MemoryError, ValueError) as error:
        raise AssignmentError(f"not a valid expression: {error}.") from error


def _read_value(node: ast.expr) -> Any:
    """Reads an expression, or a number beside one."""
    match node:
        case ast.UnaryOp(op=ast.USub()):
            return -_read_value(node.operand)
        case ast.UnaryOp(op=ast.UAdd()):
            value = _read_value(node.operand)
            if isinstance(value, Expression):
                raise AssignmentError(
                    f"not a valid expression: `{show_node(node)}` begins with a +. "
                    "Leave it out."
                )
            return value
        case ast.BinOp():
            function = OPERATORS.get(type(node.op))
            if function is None:
                raise AssignmentError(
                    f"not a valid expression: `{show_node(node)}` has another operator "
                    "than +, - and *."
                )
            return function(_read_value(node.left), _read_value(node.right))
        case ast.Constant(value=int() | float() | complex()):
            return node.value
        case _:
            return _read_expression(node)


def _read_expression(node: ast.expr) -> Expression:
    if isinstance(node, ast.Subscript):
        return _read_expression(node.value)[read_literal(node.slice)]
    if isinstance(node, ast.Attribute) and node.attr == "T":
        return _read_expression(node.value).T
    if isinstance(node, (ast.BinOp, ast.UnaryOp)):
        value = _read_value(node)
        if isinstance(value, Expression):
            return value
    if not isinstance(node, ast.Call):
        raise _not_an_expression(node)
    match node.func:
        case ast.Name(id=name):
            function = _FUNCTIONS.get(name)
            if function is None:
                raise AssignmentError(_unknown_name(name, list(_FUNCTIONS)))
        case ast.Attribute(attr=method):
            name = f".{method}"
            if method not in METHOD_NAMES:
                raise AssignmentError(_unknown_method(method))
            function = getattr(_read_expression(node.func.value), method)
        case _:
            raise AssignmentError(
                f"not a valid expression: `{show_node(node)}` calls something else "
                "than a function or method."
            )
    return _call(function, name, node)


def _not_an_expression(node: ast.expr) -> AssignmentError:
    return AssignmentError(
        "not a valid expression: expected src(...), concat(...), stack(...) or "
        f"first_of(...), got `{show_node(node)}`."
    )


def _call(function: Callable[..., T], name: str, node: ast.Call) -> T:
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
    if isinstance(node, ast.Call) and not is_range(node):
        is_rows = isinstance(node.func, ast.Name) and node.func.id == "vocabulary"
        return _read_rows(node) if is_rows else _read_expression(node)
    if isinstance(node, ast.Subscript) or any(
        isinstance(part, ast.Call) and not is_range(part) for part in ast.walk(node)
    ):
        return _read_expression(node)
    return read_literal(node)


def _read_rows(node: ast.Call) -> Rows:
    """Reads a call of `vocabulary`; its files are read by whoever knows the folder."""
    return _call(check_vocabulary, "vocabulary", node)


def _unknown_method(method: str) -> str:
    if instead := synonym_of("Expression", method):
        return f"not a valid expression: there is no `.{method}`. Write {instead}."
    return _unknown_name(f".{method}", [f".{listed}" for listed in METHOD_NAMES])


def _unknown_name(name: str, names: list[str]) -> str:
    close = nearest(name, names, count=1)
    fix = f"Did you mean `{close[0]}`?" if close else f"There are {', '.join(names)}."
    return f"not a valid expression: there is no `{name}`. {fix}"
