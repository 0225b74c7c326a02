"""The scripts of `make checks` see what they look for, and pass what is right."""

from __future__ import annotations

import pathlib
import re

import numpy as np
import pytest

import tf2flax
from checks import names, walk

sizes = pytest.importorskip("checks.sizes", exc_type=ImportError)  # radon: dev packages

RIGHT = '''"""A module."""


def width(shape: tuple[int, ...]) -> int:
    """Width of a shape."""
    return shape[-1]  # the last axis is the fast one
'''
BRANCHES = "\n".join(f"    if x == {i}:\n        return {i}" for i in range(10))


@pytest.fixture
def package(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A package that all checks pass; its folders are those that need comments."""
    package = tmp_path / "tf2flax"
    for folder in ("_reading", "_restoring", "_assignment/layouts"):
        (package / folder).mkdir(parents=True)
        (package / folder / "right.py").write_text(RIGHT)
    monkeypatch.setattr(names, "PACKAGE", package)
    monkeypatch.setattr(sizes, "PACKAGE", package)
    return package


def test_what_is_right_passes(
    package: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert names.main() == 0
    assert capsys.readouterr().out.endswith("0 names to mend\n")
    assert sizes.main() == 0
    assert "_reading: 50.0 comments per 100 lines" in capsys.readouterr().out
    assert package.exists()


@pytest.mark.parametrize(
    "line",
    [
        "found = 1",
        "for one in (): ...",
        "def f(known): ...",
        "def f(*, told=1): ...",
        "self.own = 1",
        "with open() as rest: ...",
        "_said: int = 1",
        "class A:\n    other: int",
        "(shown, x) = 1, 2",
        "[one for one in ()]",
        "class A:\n    def f(self, other): ...",
        "class A:\n    def __init__(self, other): ...",
    ],
)
def test_pronouns_are_seen(
    package: pathlib.Path, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    (package / "_reading" / "wrong.py").write_text(f"{RIGHT}\n\n{line}\n")
    assert names.main() == 1
    printed = capsys.readouterr().out
    assert re.match(r"tf2flax/_reading/wrong\.py:\d+: `\w+` says nothing\n", printed)
    assert printed.endswith("1 names to mend\n")


@pytest.mark.parametrize(
    "line",
    [
        "entry = x.found",
        "another = shown()",
        "class A:\n    def __eq__(self, other): ...",
    ],
)
def test_other_uses_are_none(line: str) -> None:
    assert not list(names.pronouns_in(line))


def test_names_with_two_meanings_are_seen(package: pathlib.Path) -> None:
    (package / "a.py").write_text("class Entry: ...\ndef _join(): ...\n")
    (package / "b.py").write_text("def Entry(): ...\ndef _join(): ...\n")
    assert names.main() == 0  # nobody imports them
    (package / "c.py").write_text("from .a import Entry\n")
    assert names.names_defined_twice(package) == {"Entry": ["a.py", "b.py"]}
    assert names.main() == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n" * 451, "_jax/wrong.py has 451 lines, 450 at most"),
        ("def f():\n" + "    x = 1\n" * 50, "_jax/wrong.py:1 f has 51 lines"),
        ("class A:\n  def f(self):\n" + "    x = 1\n" * 50, "wrong.py:2 f has 51"),
    ],
)
def test_sizes_are_seen(
    package: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    message: str,
) -> None:
    (package / "_jax").mkdir()
    (package / "_jax" / "wrong.py").write_text(text)
    assert sizes.main() == 1
    assert message in capsys.readouterr().out


def test_docstrings_do_not_count(package: pathlib.Path) -> None:
    docstring = '    """A\n' + "    line\n" * 60 + '    """\n'
    (package / "a.py").write_text(f"def f():\n{docstring}" + "    x = 1\n" * 49)
    assert sizes.main() == 0


def test_missing_comments_are_seen(
    package: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = package / "_assignment" / "layouts" / "wrong.py"
    path.write_text("x = 1  # noqa: E501\n" * 31)
    assert sizes.main() == 1
    assert "_assignment/layouts has fewer than 6.0" in capsys.readouterr().out


def test_branches_need_a_reason(
    package: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "MAX_UNEXPLAINED", 0)
    path = package / "a.py"
    path.write_text(f"def f(x):\n{BRANCHES}\n")
    assert len(list(sizes.unexplained(path))) == 1
    assert sizes.main() == 1
    path.write_text(f"class A:\n  def f(x):\n{BRANCHES}\n")
    assert len(list(sizes.unexplained(path))) == 1
    path.write_text(f"def f(x):\n    # Small numbers stay.\n{BRANCHES}\n")
    assert not list(sizes.unexplained(path))
    assert sizes.main() == 0


def test_the_walk_counts_files(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = f"{tmp_path}/m"
    tf2flax.save_checkpoint(prefix, {"a/kernel": np.ones((4, 4), np.float32)})
    files = walk.files_entered(prefix)
    assert len(files) == len({*files})
    assert {"_jax/restore.py", "_storage/local.py"} <= {*files}
    monkeypatch.setattr(walk, "MAX_FILES", 1000)
    assert walk.main() == 0
    monkeypatch.setattr(walk, "MAX_FILES", 10)
    assert walk.main() == 1
