"""docs/architecture.md says what is there, and its picture is drawn from the code."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

from repository import ROOT

PACKAGE = ROOT / "tf2flax"
TEXT = (ROOT / "docs" / "architecture.md").read_text()
FOLDERS = sorted(path.parent.name for path in PACKAGE.glob("_*/__init__.py"))


def test_every_folder_has_one_row() -> None:
    rows = re.findall(r"^\| `(_[a-z]+)` \|", TEXT, re.MULTILINE)
    assert sorted(rows) == FOLDERS


def test_modules_that_it_names_are_there() -> None:
    named = re.findall(r"`([a-z_]+(?:/[a-z_]+)+)`", TEXT)
    assert len(named) > 12
    files = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py")}
    for name in named:
        inside = [name, f"_assignment/{name}"]
        assert any(f"{path}.py" in files for path in inside), name


def test_it_fits_on_a_page() -> None:
    assert len(TEXT.splitlines()) <= 100


def test_every_folder_says_what_it_does_and_what_it_never_does() -> None:
    for folder in FOLDERS:
        tree = ast.parse((PACKAGE / folder / "__init__.py").read_text())
        text = ast.get_docstring(tree) or ""
        assert re.search(r"\bnever\b|\bnot\b|\bno\b", text, re.IGNORECASE), folder
        assert "Begin" in text or "begin" in text, folder


def test_the_picture_is_drawn_from_the_code() -> None:
    command = [sys.executable, "-m", "checks.picture", "--check"]
    subprocess.run(command, cwd=ROOT, check=True)
