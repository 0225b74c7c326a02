"""Parameters of a map file as variables in its expressions: `reshape(heads, -1)`."""

from __future__ import annotations

import ast
from collections.abc import Mapping

from tf2flax._base.errors import AssignmentError
from tf2flax._base.names import nearest

from .captures import literal_pattern


def fill_variables(
    tree: ast.expr, parameters: Mapping[str, int | float | str]
) -> ast.expr:
    """Puts values in place of the names in a syntax tree, but those that are called.

    Args:
        tree: The tree, which is changed.
        parameters: Values by name, at least one.

    Returns:
        The tree.

    Raises:
        AssignmentError: There is no such parameter.

    Examples:
        >>> tree = ast.parse("src('w').reshape(heads, -1)", mode="eval").body
        >>> ast.unparse(fill_variables(tree, {"heads": 4}))
        "src('w').reshape(4, -1)"
    """
    return _Filler(parameters).visit(tree)


class _Filler(ast.NodeTransformer):
    """Replaces names; what is called is not visited."""

    def __init__(self, parameters: Mapping[str, int | float | str]) -> None:
        self._parameters = parameters

    def visit_Call(self, node: ast.Call) -> ast.expr:
        """Visits the arguments, and what a method is called of."""
        if isinstance(node.func, ast.Attribute):
            node.func.value = self.visit(node.func.value)
        node.args = [self.visit(argument) for argument in node.args]
        for keyword in node.keywords:
            keyword.value = self.visit(keyword.value)
        return node

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """The value in place of the name."""
        value = self._parameters.get(node.id)
        if value is None:
            close = nearest(node.id, list(self._parameters), count=1)
            listed = ", ".join(f"`{name}`" for name in self._parameters)
            fix = f"Did you mean `{close[0]}`?" if close else f"There are {listed}."
            raise AssignmentError(f"there is no parameter `{node.id}`. {fix}")
        # For Python, -1 is a minus and a 1.
        if not isinstance(value, str) and value < 0:
            return ast.UnaryOp(ast.USub(), ast.Constant(-value))
        # A parameter is text, and no pattern: its braces are literal.
        return ast.Constant(literal_pattern(value) if isinstance(value, str) else value)
