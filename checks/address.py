"""Moves the project: writes the address of its repository into every file that has it.

    python -m checks.address https://github.com/OWNER/NAME

Until then the address, which stands in `[project.urls]` of pyproject.toml, is a mere
placeholder.
The site is that of GitHub Pages. `tests/package/test_release.py` finds a file that this
does not know.
"""

from __future__ import annotations

import pathlib
import re
import sys
import tomllib
from collections.abc import Sequence
from typing import Final

ROOT: Final = pathlib.Path(__file__).resolve().parents[1]
# Files that name the repository or its site.
FILES: Final = (
    "pyproject.toml",
    "mkdocs.yml",
    "CITATION.cff",
    "RELEASE.md",
    "SECURITY.md",
)
_ADDRESS: Final = re.compile(r"https://github\.com/([\w.-]+)/([\w.-]+)")


def places_of(address: str) -> tuple[str, ...]:
    """What begins with an address: the repository, its files, and its site.

    Examples:
        >>> places_of("https://github.com/me/tf2flax")[2]
        'https://me.github.io/tf2flax'
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise SystemExit(f"Expected https://github.com/OWNER/NAME, got {address}.")
    owner, name = match.groups()
    return (
        address,
        f"https://raw.githubusercontent.com/{owner}/{name}",
        f"https://{owner}.github.io/{name}",
    )


def current_address(root: pathlib.Path) -> str:
    """The address that pyproject.toml has."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    return str(project["urls"]["Repository"])


def move(root: pathlib.Path, address: str) -> None:
    """Writes another address in place of the current one.

    Args:
        root: The repository.
        address: The new address.
    """
    pairs = tuple(
        zip(places_of(current_address(root)), places_of(address), strict=True)
    )
    for name in FILES:
        text = (root / name).read_text()
        for old, new in pairs:
            text = re.sub(rf"{re.escape(old)}\b", new, text)
        (root / name).write_text(text)


def main(arguments: Sequence[str]) -> int:
    """Moves the project, or says where it is."""
    if arguments:
        move(ROOT, arguments[0].rstrip("/"))
    print(*places_of(current_address(ROOT)), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
