"""Draws docs/folders.svg: the folders of the package, and which imports which.

    python -m checks.picture            writes the picture
    python -m checks.picture --check    exits with 1 if it is out of date

Everything is read from the code: rows are the layers of pyproject.toml, arrows are the
imports between files, the text in a box is the first line of its `__init__.py`.
"""

from __future__ import annotations

import ast
import html
import itertools
import pathlib
import sys
import tomllib
from typing import Final

ROOT: Final = pathlib.Path(__file__).resolve().parents[1]
PACKAGE: Final = ROOT / "tf2flax"
PICTURE: Final = ROOT / "docs" / "folders.svg"
# All in pixels.
WIDTH: Final = 960
ROW_HEIGHT: Final = 96
BOX_HEIGHT: Final = 56
MARGIN: Final = 24
# Every folder stands on it: its arrows would cross all the others.
BASE: Final = "_base"


def layers() -> list[list[str]]:
    """Folders by layer, from the top, as pyproject.toml has them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (rows,) = (
        contract["layers"]
        for contract in project["tool"]["importlinter"]["contracts"]
        if contract.get("containers") == ["tf2flax"]
    )
    return [row.split(" | ") for row in rows]


def imports_between_folders() -> set[tuple[str, str]]:
    """Pairs of a folder that imports, and one that is imported."""
    pairs: set[tuple[str, str]] = set()
    for path in PACKAGE.rglob("*.py"):
        folder = path.relative_to(PACKAGE).parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                package, _, target = f"{node.module}.".partition(".")
                if package == "tf2flax" and target:
                    pairs.add((folder, target.partition(".")[0]))
    return {(a, b) for a, b in pairs if a != b and (PACKAGE / a).is_dir()}


def without_shortcuts(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Leaves out arrows that longer ways of arrows lead along already."""
    reachable = set(pairs)
    names = {name for pair in pairs for name in pair}
    for middle, start, end in itertools.product(names, repeat=3):
        if (start, middle) in reachable and (middle, end) in reachable:
            reachable.add((start, end))
    return {
        (a, b)
        for a, b in pairs
        if not any((a, m) in reachable and (m, b) in reachable for m in names)
    }


def purpose(folder: str) -> str:
    """First sentence of a folder's docstring."""
    tree = ast.parse((PACKAGE / folder / "__init__.py").read_text())
    return (ast.get_docstring(tree) or "").partition("\n")[0].rstrip(".")


def draw() -> str:
    """Draws the picture.

    Returns:
        Text of an SVG file.
    """
    rows = layers()
    pairs = {(a, b) for a, b in imports_between_folders() if BASE not in (a, b)}
    places: dict[str, tuple[float, float, float]] = {}  # left, top, width
    for number, row in enumerate(rows):
        width = (WIDTH - MARGIN * (len(row) + 1)) / len(row)
        # Below what imports them, so that fewer arrows cross.
        row.sort(key=lambda folder: _mean_left(folder, pairs, places))
        for column, folder in enumerate(row):
            left = MARGIN + column * (width + MARGIN)
            places[folder] = (left, MARGIN + number * ROW_HEIGHT, width)
    height = MARGIN + len(rows) * ROW_HEIGHT
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="14">',
        '<defs><marker id="end" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#557"/>'
        "</marker></defs>",
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    for folder, (left, top, width) in places.items():
        middle = left + width / 2
        colour = "#eef3ff" if folder != BASE else "#f3f3f3"
        lines += [
            f'<rect x="{left:.0f}" y="{top}" width="{width:.0f}" '
            f'height="{BOX_HEIGHT}" rx="6" fill="{colour}" stroke="#557"/>',
            f'<text x="{middle:.0f}" y="{top + 22}" text-anchor="middle" '
            f'font-weight="bold">{folder}</text>',
            f'<text x="{middle:.0f}" y="{top + 42}" text-anchor="middle" '
            f'font-size="11">{html.escape(purpose(folder))}</text>',
        ]
    for start, end in sorted(without_shortcuts(pairs)):
        lines.append(_arrow(places[start], places[end]))
    return "\n".join([*lines, "</svg>", ""])


def _mean_left(
    folder: str,
    pairs: set[tuple[str, str]],
    places: dict[str, tuple[float, float, float]],
) -> float:
    """Where the folders that import one lie, on average."""
    lefts = [places[a][0] for a, b in pairs if b == folder and a in places]
    return sum(lefts) / max(len(lefts), 1)


def _arrow(start: tuple[float, float, float], end: tuple[float, float, float]) -> str:
    """An arrow from the lower edge of one box to the upper edge of another."""
    left, top, width = start
    to_left, to_top, to_width = end
    # Where both boxes lie above each other, straight down; else from middle to middle.
    low, high = max(left, to_left), min(left + width, to_left + to_width)
    x = to_x = (low + high) / 2
    if low >= high:
        x, to_x = left + width / 2, to_left + to_width / 2
    dashes = ""
    if to_top - top > ROW_HEIGHT:
        # It crosses the boxes between them, beside the text and the other arrows.
        dashes = 'stroke-dasharray="3 4" '
        shift = min(width, to_width) / 2 - MARGIN
        x, to_x = x - shift, to_x - shift
    return (
        f'<line x1="{x:.0f}" y1="{top + BOX_HEIGHT}" x2="{to_x:.0f}" y2="{to_top}" '
        f'stroke="#557" {dashes}marker-end="url(#end)"/>'
    )


def main(arguments: list[str]) -> int:
    """Writes the picture, or compares it with the one that is there."""
    picture = draw()
    if arguments == ["--check"]:
        is_current = PICTURE.is_file() and PICTURE.read_text() == picture
        print("docs/folders.svg is " + ("current" if is_current else "out of date"))
        return not is_current
    PICTURE.write_text(picture)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
