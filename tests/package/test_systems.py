"""docs/guide.md on systems: what it says is what the package declares and needs."""

from __future__ import annotations

import tomllib

from repository import ROOT

PACKAGE = ROOT / "tf2flax"


def section() -> str:
    text = (ROOT / "docs" / "guide.md").read_text()
    return text.partition("## Systems\n")[2].partition("\n## ")[0]


def test_the_guide_names_the_systems_and_versions_that_are_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    classifiers: list[str] = project["classifiers"]
    assert "Operating System :: POSIX :: Linux" in classifiers
    assert "Linux" in section()
    prefix = "Programming Language :: Python :: "
    versions = [c.removeprefix(prefix) for c in classifiers if c.startswith(prefix)]
    assert len(versions) == 3
    assert all(version in section() for version in versions)
    readme = (ROOT / "README.md").read_text()
    assert f"Linux, with Python {versions[0]} to {versions[-1]}" in readme


def test_what_windows_lacks_is_what_the_package_uses() -> None:
    code = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    for call in ("fcntl", "resource"):
        assert f"`{call}`" in section()
        assert f"import {call}\n" in code
