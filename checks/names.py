"""Counts names that say nothing, and names that say two things; both must be none.

    python -m checks.names

A variable is called by what it is (`leaf`, `tensor`, `entry`), never by a pronoun. A
function or class that other files import has a name of its own.
"""

from __future__ import annotations

import ast
import collections
import pathlib
import sys
from collections.abc import Iterator
from typing import Final

PACKAGE: Final = pathlib.Path(__file__).resolve().parents[1] / "tf2flax"
PRONOUNS: Final = frozenset(
    {"one", "found", "own", "shown", "known", "said", "told", "other", "rest"}
)


def pronouns_in(source: str) -> Iterator[tuple[int, str]]:
    """Finds variables, parameters and fields that are called by a pronoun.

    Args:
        source: Text of a module.

    Yields:
        Line and name; the parameters of operators (`__eq__(self, other)`) are left out.
    """
    tree = ast.parse(source)
    of_operators = {
        id(argument)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and node.name.startswith("__")
        and node.name != "__init__"
        for argument in node.args.args
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and id(node) not in of_operators:
            name = node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            name = node.attr
        else:
            continue
        if name.strip("_") in PRONOUNS:
            yield node.lineno, name


def names_defined_twice(package: pathlib.Path) -> dict[str, list[str]]:
    """Finds functions and classes of one name, of which some file imports one.

    Args:
        package: Folder of the package.

    Returns:
        Files by name.
    """
    files: dict[str, list[str]] = collections.defaultdict(list)
    imported: set[str] = set()
    for path in sorted(package.rglob("*.py")):
        tree = ast.parse(path.read_text())
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                files[node.name].append(str(path.relative_to(package)))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                imported.update(alias.name for alias in node.names)
    commands = {"add_to", "run"}  # every command of the command line has these two
    return {
        name: paths
        for name, paths in files.items()
        if len(paths) > 1 and name in imported - commands
    }


def main() -> int:
    """Prints what is wrong; the exit status says whether anything is."""
    lines = [
        f"{path.relative_to(PACKAGE.parent)}:{line}: `{name}` says nothing"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line, name in pronouns_in(path.read_text())
    ]
    lines += [
        f"`{name}` is defined in {' and '.join(paths)}"
        for name, paths in names_defined_twice(PACKAGE).items()
    ]
    print("\n".join([*lines, f"{len(lines)} names to mend"]))
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main())
