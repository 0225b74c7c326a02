"""The recipes run as pasted, are short, and their commands exit with 0."""

from __future__ import annotations

import doctest
import pathlib
import re
import shlex

import pytest
from repository import ROOT

from tf2flax._cli import main

PAGE = ROOT / "docs" / "recipes.md"
TEXT = PAGE.read_text()
COMMANDS = [
    line.partition("  #")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    for line in block.splitlines()
]


@pytest.fixture(autouse=True)
def _folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with what the page asks for."""
    for name in ("tests", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    # The page appends the examples to it.
    monkeypatch.syspath_prepend(str(ROOT / "examples"))


def test_recipes_run_as_pasted() -> None:
    test = doctest.DocTestParser().get_doctest(TEXT, {}, "recipes", str(PAGE), 0)
    assert len(test.examples) > 35
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(test)
    assert runner.failures == 0


def test_five_recipes_of_at_most_ten_lines() -> None:
    recipes = TEXT.split("\n## ")[1:]
    assert len(recipes) == 5
    for recipe in recipes:
        blocks = re.findall(r"```python\n(.*?)```", recipe, re.DOTALL)
        lines = [line for line in blocks[0].splitlines() if line[:3] in {">>>", "..."}]
        assert 0 < len(lines) <= 10, recipe.splitlines()[0]


def test_commands_exit_with_0() -> None:
    assert len(COMMANDS) >= 7
    for command in COMMANDS:
        program, *arguments = shlex.split(command)
        assert program == "tf2flax"
        assert main(arguments) == 0, command
