"""Every import contract of pyproject.toml is kept, and breaking it is seen.

Each case adds one import to a copy of the package. Needs import-linter, which comes
with the dev packages: `make check` and `.ci/run` install them.
"""

from __future__ import annotations

import pathlib
import re
import shutil
import tomllib

import pytest
from forking import run_forked
from repository import ROOT

pytest.importorskip("importlinter")

LAYERS = "Imports point downwards (docs/architecture.md)"
ENGINE = "Within the engine: suggestions, plans, resolution, layouts, language"
NO_FILES = "The engine touches no file"
NO_JAX = "JAX and Flax only in _jax and above"
TENSORSTORE = "tensorstore only in _storage"
# Contract, file of the package, line that is added to it.
BREAKS = [
    (LAYERS, "_base/errors.py", "from tf2flax._storage import local"),
    (LAYERS, "_storage/local.py", "import tf2flax._formats"),
    (LAYERS, "_formats/__init__.py", "from tf2flax import _assignment"),
    (LAYERS, "_formats/__init__.py", "import tf2flax._reading"),
    (LAYERS, "_reading/__init__.py", "import tf2flax._restoring"),
    (LAYERS, "_restoring/__init__.py", "import tf2flax._checkpoint"),
    (LAYERS, "_checkpoint/__init__.py", "import tf2flax._jax.plan"),
    (LAYERS, "_jax/plan.py", "import tf2flax._writing.save"),
    (LAYERS, "_writing/save.py", "import tf2flax._cli"),
    (LAYERS, "_of_no_layer/__init__.py", "'A folder that no layer names.'"),
    (ENGINE, "_assignment/language/__init__.py", "from .. import layouts"),
    (
        ENGINE,
        "_assignment/layouts/__init__.py",
        "import tf2flax._assignment.resolution",
    ),
    (ENGINE, "_assignment/resolution/__init__.py", "from ..plans import assignments"),
    (ENGINE, "_assignment/of_no_layer/__init__.py", "'A folder that no layer names.'"),
    (NO_FILES, "_assignment/layouts/__init__.py", "import tf2flax._storage.local"),
    (NO_FILES, "_assignment/plans/__init__.py", "import tensorstore"),
    (NO_JAX, "_base/errors.py", "import jax"),
    (NO_JAX, "_reading/__init__.py", "from flax import nnx"),
    (NO_JAX, "_restoring/__init__.py", "def f():\n    import jax.numpy"),
    (TENSORSTORE, "_jax/plan.py", "import tensorstore"),
    (TENSORSTORE, "_cli/__init__.py", "def f():\n    import tensorstore as ts"),
]


LINT = """
import os, sys
os.environ["COLUMNS"] = "200"
folder = sys.argv.pop(1)
os.chdir(folder)
sys.path.insert(0, folder)
from importlinter.cli import lint_imports_command
lint_imports_command()
"""


def lint(package: pathlib.Path) -> tuple[int, dict[str, str]]:
    """Checks a copy of the package: the exit code, and KEPT or BROKEN by contract."""
    done = run_forked(
        LINT, package.parent, "--config", ROOT / "pyproject.toml",
        "--cache-dir", package.parent / "cache", imports=("importlinter.cli",),
    )  # fmt: skip
    states = re.findall(r"^(\S.*) (KEPT|BROKEN)$", done.stdout, re.MULTILINE)
    assert states, done
    return done.returncode, dict(states)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A copy of the package; what a test adds to it, it removes again."""
    folder = tmp_path_factory.mktemp("contracts") / "tf2flax"
    ignored = shutil.ignore_patterns("__pycache__")
    return shutil.copytree(ROOT / "tf2flax", folder, ignore=ignored)


def test_all_are_kept(package: pathlib.Path) -> None:
    code, states = lint(package)
    assert code == 0
    assert set(states.values()) == {"KEPT"}
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    names = [c["name"] for c in config["tool"]["importlinter"]["contracts"]]
    assert sorted(states) == sorted(names)
    # A new contract needs a case below.
    assert {contract for contract, *_ in BREAKS} == set(names)


@pytest.mark.parametrize(("contract", "file", "line"), BREAKS)
def test_a_break_is_seen(
    package: pathlib.Path, contract: str, file: str, line: str
) -> None:
    path = package / file
    before = path.read_text() if path.exists() else None
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{before or ''}\n{line}\n")
    try:
        code, states = lint(package)
    finally:
        if before is None:
            shutil.rmtree(path.parent)
        else:
            path.write_text(before)
    assert code == 1
    assert states[contract] == "BROKEN"
