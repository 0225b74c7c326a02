"""The source of the package, read and parsed once for all tests that look at it."""

from __future__ import annotations

import ast
import dataclasses
import functools

from repository import ROOT


@dataclasses.dataclass(frozen=True)
class Source:
    """A file: its text, and every node of its syntax tree."""

    text: str
    nodes: tuple[ast.AST, ...]


def parse(text: str) -> Source:
    """Parses the text of a module."""
    return Source(text, tuple(ast.walk(ast.parse(text))))


@functools.cache
def package_sources() -> dict[str, Source]:
    """All files, by their paths in the package."""
    package = ROOT / "tf2flax"
    return {
        str(path.relative_to(package)): parse(path.read_text())
        for path in sorted(package.rglob("*.py"))
    }
