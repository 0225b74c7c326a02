"""Listing and reading import neither JAX nor Flax, and one file imports tensorstore."""

from __future__ import annotations

import ast

from forking import run_forked
from repository import ROOT
from sources import Source, package_sources, parse

PATH = ROOT / "tests" / "data" / "bert" / "model.ckpt"
HEAVY = {"jax", "jaxlib", "flax", "optax", "orbax", "tensorflow"}
READING = f"""
import tf2flax
assert len(tf2flax.list_variables({str(PATH)!r})) == 139
assert tf2flax.load_variable({str(PATH)!r}, "global_step") == 123456
checkpoint = tf2flax.open_checkpoint({str(PATH.parent)!r})
checkpoint.read()
checkpoint["bert/pooler/dense/kernel"][1:3]
checkpoint["bert/pooler/dense/kernel"].open()[1:3].read().result()
"""


def imported_by(code: str) -> set[str]:
    done = run_forked(f"{code}\nimport sys; print(*sys.modules)", check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_reading_imports_neither_jax_nor_flax() -> None:
    imported = imported_by(READING)
    assert not imported & HEAVY
    assert "tensorstore" in imported


def test_listing_does_not_even_import_tensorstore() -> None:
    code = f"import tf2flax; tf2flax.list_variables({str(PATH)!r})"
    assert not imported_by(code) & (HEAVY | {"tensorstore"})


def test_that_check_can_fail() -> None:
    assert "jax" in imported_by(f"{READING}\ntf2flax.plan")
    assert "flax" in imported_by("import tf2flax\ntf2flax.init_from_checkpoint")


def importers_of(module: str, sources: dict[str, Source]) -> list[str]:
    found: list[str] = []
    for name, source in sources.items():
        for node in source.nodes:
            if isinstance(node, ast.Import):
                imported = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                imported = [node.module or ""] if not node.level else []
            else:
                continue
            if any(i.partition(".")[0] == module for i in imported):
                found.append(name)
    return sorted(set(found))


def test_one_file_imports_tensorstore() -> None:
    sources = package_sources()
    assert importers_of("tensorstore", sources) == ["_storage/requests.py"]
    assert "jax" in sources["_jax/targets.py"].text
    assert not importers_of("tensorflow", sources)


def test_that_check_can_fail_too() -> None:
    texts = {"a.py": "def f():\n  import tensorstore as ts", "b.py": "import os"}
    sources = {name: parse(text) for name, text in texts.items()}
    assert importers_of("tensorstore", sources) == ["a.py"]
