"""Measures files, functions, comments and branches against the limits of the house.

    python -m checks.sizes

Needs radon, which counts the branches of a function (its cyclomatic complexity).
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# radon has no types.

from __future__ import annotations

import ast
import pathlib
import sys
import tokenize
from collections.abc import Iterator
from typing import Final

from radon.complexity import cc_visit  # pyright: ignore

PACKAGE: Final = pathlib.Path(__file__).resolve().parents[1] / "tf2flax"
MAX_FILE_LINES: Final = 450
# Lines of a function, its docstring not counted.
MAX_FUNCTION_LINES: Final = 50
# Where indices are computed, the reader needs more comments than elsewhere.
FOLDERS_WITH_COMMENTS: Final = ("_reading", "_restoring", "_assignment/layouts")
MIN_COMMENTS_PER_100: Final = 6.0
MAX_COMPLEXITY: Final = 10
# Functions above that which have no comment in their body.
MAX_UNEXPLAINED: Final = 25


def comment_lines(path: pathlib.Path) -> set[int]:
    """Lines of a file that have a comment, those for tools not counted."""
    with tokenize.open(path) as file:
        return {
            token.start[0]
            for token in tokenize.generate_tokens(file.readline)
            if token.type == tokenize.COMMENT
            and not token.string.startswith(("# noqa", "# pyright", "# fmt", "# type"))
        }


def code_lines(path: pathlib.Path) -> set[int]:
    """Lines of a file that have code: no docstrings, comments or empty lines."""
    skipped = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            docstrings.update(range(node.lineno, (node.end_lineno or 0) + 1))
    lines: set[int] = set()
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type not in skipped:
                lines.update(range(token.start[0], token.end[0] + 1))
    return lines - docstrings


def functions_in(path: pathlib.Path) -> Iterator[tuple[ast.FunctionDef, int]]:
    """The functions of a file, with their lines apart from the docstring."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                lines -= (first.end_lineno or 0) - first.lineno + 1
            yield node, lines


def unexplained(path: pathlib.Path) -> Iterator[str]:
    """Functions with many branches and no comment that says why."""
    comments = comment_lines(path)
    blocks = list(cc_visit(path.read_text()))
    methods = [method for block in blocks for method in getattr(block, "methods", ())]
    for block in {id(block): block for block in (*blocks, *methods)}.values():
        if hasattr(block, "methods") or block.complexity <= MAX_COMPLEXITY:
            continue
        if not comments & set(range(block.lineno, block.endline + 1)):
            yield f"{path}:{block.lineno} {block.name} ({block.complexity})"


def main() -> int:
    """Prints every figure; the exit status says whether one is out of bounds."""
    wrong: list[str] = []
    paths = sorted(PACKAGE.rglob("*.py"))
    for path in paths:
        name = path.relative_to(PACKAGE.parent)
        lines = len(path.read_text().splitlines())
        if lines > MAX_FILE_LINES:
            wrong.append(f"{name} has {lines} lines, {MAX_FILE_LINES} at most")
        for node, count in functions_in(path):
            if count > MAX_FUNCTION_LINES:
                wrong.append(f"{name}:{node.lineno} {node.name} has {count} lines")
    for folder in FOLDERS_WITH_COMMENTS:
        inside = [path for path in paths if path.is_relative_to(PACKAGE / folder)]
        comments = sum(len(comment_lines(path)) for path in inside)
        code = sum(len(code_lines(path)) for path in inside)
        per_100 = 100 * comments / max(code, 1)
        print(f"{folder}: {per_100:.1f} comments per 100 lines of code")
        if per_100 < MIN_COMMENTS_PER_100:
            wrong.append(f"{folder} has fewer than {MIN_COMMENTS_PER_100}")
    unexplained_functions = [text for path in paths for text in unexplained(path)]
    print(f"{len(unexplained_functions)} functions with many branches, unexplained")
    if len(unexplained_functions) > MAX_UNEXPLAINED:
        wrong += unexplained_functions
    print("\n".join(wrong))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
