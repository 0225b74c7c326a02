"""The benchmarks run, at sizes where figures mean nothing, and write their page."""

from __future__ import annotations

import importlib
import importlib.util
import pathlib
import re
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


def test_a_section_that_is_measured_by_itself_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(ROOT)
    report = importlib.import_module("benchmarks.report")
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    title = re.search(r"^## (4\. .*)$", text, re.MULTILINE)
    assert title
    goals = [
        report.Goal("open of 100,000: tf2flax / TensorFlow", 1.25, 1.5, is_most=True),
        report.Goal("speed of something new", 0.5, 0.6),
    ]
    new = [
        report.Section(title[1], "Measured anew.", [], goals),
        report.Section("9. New", "Measured first.", []),
    ]
    updated = report.update_page(text, new, "benchmarks", "Measured by itself.")
    before, after = (re.split(r"^(?=## )", t, flags=re.M) for t in (text, updated))
    old, kept = ({b.partition("\n")[0]: b for b in part} for part in (before, after))
    assert [*kept] == [*old, "## 9. New"]
    changed = [name for name in old if old[name].rstrip() != kept[name].rstrip()]
    assert changed == ["## Goals", f"## {title[1]}"]
    assert "Measured anew.\n" in kept[f"## {title[1]}"]
    assert kept["## 9. New"].endswith("Measured first.\n\nMeasured by itself.\n")
    rows = kept["## Goals"].strip().splitlines()
    assert "| open of 100,000: tf2flax / TensorFlow | 1.25 | ≤ 1.5 | met |" in rows
    assert rows[-1] == "| speed of something new | 0.50 | ≥ 0.6 | **missed** |"
    assert len(rows) == len(old["## Goals"].strip().splitlines()) + 1
    # Measured again, nothing is there twice.
    assert (
        report.update_page(updated, new, "benchmarks", "Measured by itself.") == updated
    )


@pytest.mark.slow
def test_every_benchmark_runs(tmp_path: pathlib.Path) -> None:
    page = run(tmp_path)
    assert [n for n in range(1, 9) if f"\n## {n}. " in page] == [1, 2, 3, 4, 5, 6, 7, 8]
