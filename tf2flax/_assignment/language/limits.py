"""What an expression is not: too deep, too large, or something that must end one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tf2flax._base.errors import AssignmentError

from .writing import write_expression

if TYPE_CHECKING:
    from .expressions import Expression

# What is deeper or larger is a mistake, or an attack on the recursion of those who walk
# it (operations around each other, and all together).
MAX_DEPTH: Final = 100
MAX_SIZE: Final = 10_000


def check_size(expression: Expression) -> tuple[int, int]:
    """Counts operations, and refuses those around what must be the outermost one.

    Returns:
        Number of operations around each other, and number of all operations.

    Raises:
        AssignmentError: There are too many, or an operand keeps elements of the leaf.
    """
    for child in expression.children:
        if child.keeps_leaf:
            raise AssignmentError(
                f'fill="keep" keeps elements of the leaf as they lie there, so that '
                f"nothing can follow {write_expression(child)}. Make it the last "
                "operation."
            )
    below = [child.depth_and_size for child in expression.children]
    depth = 1 + max((depth for depth, _ in below), default=0)
    size = 1 + sum(size for _, size in below)
    if depth > MAX_DEPTH or size > MAX_SIZE:
        raise AssignmentError(
            f"Expected at most {MAX_DEPTH} operations around each other, and "
            f"{MAX_SIZE} in all. Make the expression of fewer operations."
        )
    return depth, size
