"""The benchmarks run, at sizes where figures mean nothing, and write their page."""

from __future__ import annotations

import importlib
import importlib.util
import pathlib
import subprocess
import sys

import pytest
from forking import RESTORING, forking_subprocess
from repository import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="measured by Linux")


def run(folder: pathlib.Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "benchmarks", "--small", "--output", str(folder)]
    done = subprocess.run(
        [*command, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return (folder / "benchmarks.md").read_text()


def test_restores_are_measured_side_by_side(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here alone contenders are forked, since it takes seconds to start each."""
    monkeypatch.syspath_prepend(ROOT)
    orbax = ["orbax.checkpoint"] if importlib.util.find_spec("orbax") else []
    forking = forking_subprocess(*RESTORING, *orbax)
    for name in ("benchmarks.processes", "benchmarks.remote"):
        monkeypatch.setattr(importlib.import_module(name), "subprocess", forking)
    arguments = ["--small", "--output", str(tmp_path)]
    arguments += ["--only", "one-device", "--only", "http", "--only", "converting"]
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    assert importlib.import_module("benchmarks.__main__").main() == 0
    page = (tmp_path / "benchmarks.md").read_text()
    assert "## 1. A BERT-large-shaped bundle onto one device" in page
    assert "| raw preadv |" in page
    assert "| time of Orbax / time of tf2flax |" in page
    assert "| one row shard: bytes served / needed | 1.00 | ≤ 1.05 | met |" in page
    assert "| speed of Orbax / speed of copying |" in page


@pytest.mark.slow
def test_every_benchmark_runs(tmp_path: pathlib.Path) -> None:
    page = run(tmp_path)
    assert [n for n in range(1, 9) if f"\n## {n}. " in page] == [1, 2, 3, 4, 5, 6, 7, 8]
