"""What a release says of itself agrees: version, addresses, targets, systems."""

from __future__ import annotations

import ast
import pathlib
import re
import tomllib

import pytest
import yaml
from repository import ROOT

import tf2flax
from checks import address
from checks.dist import NEEDED, sdist_problems, wheel_problems

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_the_version_comes_from_one_place() -> None:
    assert "version" in PYPROJECT["project"]["dynamic"]
    version = PYPROJECT["tool"]["hatch"]["version"]
    source = (ROOT / version["path"]).read_text()
    found = re.search(version["pattern"], source, re.MULTILINE)
    assert found
    assert found["version"] == tf2flax.__version__
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == tf2flax.__version__
    assert f"## [{tf2flax.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_addresses_agree() -> None:
    address = PYPROJECT["project"]["urls"]["Repository"]
    for name in ("mkdocs.yml", "CITATION.cff", "RELEASE.md", "SECURITY.md"):
        assert address in (ROOT / name).read_text(), name
    files = [*ROOT.glob("*.md"), *ROOT.glob("*.cff"), *(ROOT / "docs").glob("*.md")]
    for path in [*files, ROOT / "mkdocs.yml", ROOT / "pyproject.toml"]:
        for link in re.findall(
            r"https://github\.com/[\w-]*tf2flax[\w/-]*", path.read_text()
        ):
            assert link.startswith(address), f"{path.name}: {link}"


def test_one_command_moves_the_project(tmp_path: pathlib.Path) -> None:
    """It is a placeholder, and marked as one."""
    source = (ROOT / "pyproject.toml").read_text()
    assert "[project.urls]\n# PLACEHOLDER: " in source
    old = address.places_of(address.current_address(ROOT))
    globs = ("*.*", "docs/*.md", ".github/**/*.yml", "checks/*.py", "tf2flax/**/*.py")
    pages = [p for glob in globs for p in ROOT.glob(glob) if p.is_file()]
    holders = [p.name for p in pages if any(o in p.read_text() for o in old)]
    assert sorted(holders) == sorted(address.FILES)
    for name in address.FILES:
        (tmp_path / name).write_text((ROOT / name).read_text())
    address.move(tmp_path, "https://github.com/some-body/tf2flax.jax")
    texts = [(tmp_path / name).read_text() for name in address.FILES]
    assert not any(place in text for text in texts for place in old)
    urls = tomllib.loads(texts[0])["project"]["urls"]
    assert urls["Documentation"] == "https://some-body.github.io/tf2flax.jax/"
    assert urls["Issues"] == "https://github.com/some-body/tf2flax.jax/issues"
    with pytest.raises(SystemExit, match="OWNER/NAME"):
        address.move(tmp_path, "https://example.com/x")


def test_links_of_the_readme_are_absolute_on_pypi() -> None:
    hook = PYPROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    readme = (ROOT / "README.md").read_text()
    for substitution in hook["substitutions"]:
        pattern, replacement = substitution["pattern"], substitution["replacement"]
        readme = re.sub(pattern, replacement, readme)
    links = re.findall(r"\]\(([^)]+)\)", readme)
    assert len(links) > 10
    assert all(link.startswith(("https://", "#")) for link in links)
    # A page of GitHub around a picture is no picture.
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", readme)
    assert len(pictures) == 2
    assert all(p.startswith("https://raw.githubusercontent.com/") for p in pictures)
    assert all((ROOT / "docs" / p.rpartition("/")[2]).is_file() for p in pictures)


def targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text()
    return set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_call_the_targets_that_are_there(path: pathlib.Path) -> None:
    jobs = yaml.safe_load(path.read_text())["jobs"]
    runs = [
        step["run"] for job in jobs.values() for step in job["steps"] if "run" in step
    ]
    assert runs
    for run in runs:
        program, python, *names = run.split()
        assert (program, python) == ("make", "PYTHON=python"), run
        assert set(names) <= targets(), run


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "RELEASE.md", "docs/stability.md"])
def test_pages_name_targets_that_are_there(name: str) -> None:
    named = re.findall(r"`?make ([a-z-]+)", (ROOT / name).read_text())
    assert named
    assert set(named) <= targets() | {"are"}


def test_the_publishing_job_keeps_no_password() -> None:
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    publish = yaml.safe_load(text)["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert "secrets." not in text
    assert "password:" not in text


def test_pythons_that_are_supported_are_declared() -> None:
    page = (ROOT / "docs" / "stability.md").read_text()
    declared = re.findall(r":: (3\.\d+)'", str(PYPROJECT["project"]["classifiers"]))
    assert f"| {', '.join(declared)} | supported" in page
    tests = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    assert all(f'"{version}"' in tests for version in declared)


def names_with_examples_of_the_repository() -> set[str]:
    """What has examples in its docstring that open a file of the repository."""
    names: set[str] = set()

    def visit(node: ast.AST, name: str) -> None:
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
        text = ast.get_docstring(node) if isinstance(node, documented) else None
        lines = [
            x for x in (text or "").splitlines() if x.strip()[:3] in (">>>", "...")
        ]
        if any(word in line for line in lines for word in ("tests/", "examples/")):
            names.add(name)
        for child in getattr(node, "body", ()):
            if isinstance(child, (ast.ClassDef, ast.FunctionDef)):
                visit(child, f"{name}.{child.name}")

    for path in (ROOT / "tf2flax").rglob("*.py"):
        if not re.search(r"(>>>|\.\.\.).*(tests|examples)/", path.read_text()):
            continue
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = ".".join(part for part in parts if part != "__init__")
        visit(ast.parse(path.read_text()), module)
    return names


def test_examples_of_docstrings_run_from_an_installed_wheel() -> None:
    """`checks/installed.py` runs all but those that it names."""
    source = (ROOT / "checks" / "installed.py").read_text()
    named = re.search(r"^NEED_THE_REPOSITORY = (\{.*?\})", source, re.M | re.S)
    assert named
    assert names_with_examples_of_the_repository() == ast.literal_eval(named[1])


def test_stray_and_missing_files_of_a_distribution() -> None:
    wheel = ["tf2flax-1.dist-info/METADATA", *sorted(NEEDED)]
    assert wheel_problems(wheel) == []
    assert wheel_problems([*wheel, "tf2flax/_cli/README.md", "tests/a.py"]) == [
        "the wheel holds tests/a.py",
        "the wheel holds tf2flax/_cli/README.md",
    ]
    assert wheel_problems(wheel[:-1]) == ["the wheel lacks tf2flax/py.typed"]
    resources = (ROOT / "tf2flax").rglob("*.*")
    assert {
        str(path.relative_to(ROOT))
        for path in resources
        if path.suffix not in (".py", ".pyc")
    } <= NEEDED
    assert sdist_problems(["PKG-INFO", "a.py"], ["a.py"]) == []
    assert sdist_problems(["b.py"], ["a.py"]) == [
        "the sdist lacks a.py",
        "the sdist holds b.py, which git does not track",
    ]
