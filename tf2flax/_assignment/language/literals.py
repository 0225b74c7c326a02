"""Values inside expressions as text, and back: one codec for both ways.

What `repr` of an expression writes, `read_literal` reads, and so do Python itself and,
inside a string, the files of maps. Names with literal braces are the matter of
`captures`, which both writes and reads them.
"""

from __future__ import annotations

import ast
import functools
import itertools
import json
import operator
from collections.abc import Callable
from types import EllipsisType
from typing import Any, Final

from tf2flax._base.errors import AssignmentError

# Rows in steady steps are printed as a range from this many on.
_MIN_RANGE: Final = 4
# How much of a text a message shows (characters).
_MAX_SHOWN: Final = 60
# Integers that no dtype holds are not computed: Python does not even write long ones.
_MAX_COMPUTED: Final = 1 << 64
OPERATORS: Final[dict[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}

Slice = tuple[int | None, int | None, int | None]
# One item of a basic index; a slice is a triple, since `slice` has no hash.
IndexItem = int | None | EllipsisType | Slice


def quote(text: str) -> str:
    r"""Writes a string in double quotes, as Python, TOML and JSON read it.

    Examples:
        >>> print(quote('a "b"\n\x7f'))
        "a \"b\"\n\u007f"
    """
    # JSON's escapes are those of Python and TOML; TOML wants DEL escaped as well.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


@functools.cache
def write_integers(values: tuple[int, ...]) -> str:
    """Writes integers with commas between them."""
    return ", ".join(map(str, values))


def write_index(index: tuple[IndexItem, ...]) -> str:
    """Writes an index with its brackets.

    Examples:
        >>> write_index(((None, None, 2), 0)), write_index((...,)), write_index(())
        ('[::2, 0]', '[...]', '[()]')
    """
    return f"[{', '.join(map(_write_item, index)) or '()'}]"


def _write_item(item: IndexItem) -> str:
    if isinstance(item, EllipsisType):
        return "..."
    if not isinstance(item, tuple):
        return str(item)
    start, stop, step = ("" if bound is None else str(bound) for bound in item)
    return f"{start}:{stop}{f':{step}' if step else ''}"


def write_rows(rows: tuple[int, ...], max_rows: int | None = None) -> str:
    """Writes numbers of rows, as a range if they are one.

    Args:
        rows: The numbers.
        max_rows: More than these are cut, for people; None writes all.

    Examples:
        >>> write_rows((0, 2, 4, 6)), write_rows((3, 1))
        ('range(0, 7, 2)', '[3, 1]')
        >>> write_rows((3, 1, *range(30_000)), max_rows=16)
        '[3, 1, … 30,002 rows]'
    """
    if len(rows) >= _MIN_RANGE:
        step = rows[1] - rows[0]
        is_range = step and all(b - a == step for a, b in itertools.pairwise(rows))
        # Rows that are not there are none of a range, even if it looks so.
        if is_range and min(rows) >= 0:
            stop = rows[-1] + (1 if step > 0 else -1)
            return f"range({rows[0]}, {stop}{f', {step}' if step != 1 else ''})"
    if max_rows is not None and len(rows) > max_rows:
        return f"[{rows[0]}, {rows[1]}, … {len(rows):,} rows]"
    return f"[{write_integers(rows)}]"


def read_literal(node: ast.expr) -> Any:
    """Reads a value that can stand in an expression; executes nothing.

    Args:
        node: Syntax tree of a string, a number, sums and products of numbers, None,
            `...`, a slice, a range, or of a tuple or list of these.

    Raises:
        AssignmentError: It is something else.
    """
    match node:
        case ast.Constant(
            value=None | str() | int() | float() | complex() | EllipsisType()
        ):
            return node.value
        case ast.Tuple():
            return tuple(read_literal(member) for member in node.elts)
        case ast.List():
            return [read_literal(member) for member in node.elts]
        case ast.UnaryOp(op=ast.USub()):
            # For Python, -1 is a minus and a 1.
            number = read_literal(node.operand)
            if isinstance(number, (int, float, complex)):
                return -number
        case ast.BinOp() if function := OPERATORS.get(type(node.op)):
            # Of parameters (`[:, units : 2 * units]`); and 1+2j is a sum for Python.
            numbers = [read_literal(side) for side in (node.left, node.right)]
            if all(type(number) in (int, float, complex) for number in numbers):
                number = function(*numbers)
                if not isinstance(number, int) or abs(number) < _MAX_COMPUTED:
                    return number
        case ast.Slice():
            bounds = (node.lower, node.upper, node.step)
            return slice(*(None if b is None else read_literal(b) for b in bounds))
        case ast.Call(keywords=[]) if is_range(node):
            numbers = [read_literal(argument) for argument in node.args]
            # What `range` itself would refuse, with an error of another kind.
            is_valid = 1 <= len(numbers) <= 3 and numbers[2:] != [0]
            if is_valid and all(type(number) is int for number in numbers):
                return range(*numbers)
        case _:
            pass
    fix = ""
    if isinstance(node, ast.Name):
        fix = " Put names into quotes; variables have values in the table [parameters]."
    raise AssignmentError(
        f"not a valid expression: `{show_node(node)}` is not a value that can stand in "
        f"one.{fix}"
    )


def is_range(node: ast.expr) -> bool:
    """True if a syntax tree calls `range`."""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "range"
    )


def show_node(node: ast.expr) -> str:
    """Writes a syntax tree for a message, cut where it is long."""
    return ast.unparse(node)[:_MAX_SHOWN]
