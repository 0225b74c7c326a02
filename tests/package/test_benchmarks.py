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
    arguments += ["--only", "memory"]
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    assert importlib.import_module("benchmarks.__main__").main() == 0
    page = (tmp_path / "benchmarks.md").read_text()
    assert "## 1. A BERT-large-shaped bundle onto one device" in page
    assert "| raw preadv |" in page
    assert "| time of Orbax / time of tf2flax |" in page
    assert "| one row shard: bytes served / needed | 1.00 | ≤ 1.05 | met |" in page
    assert "| speed of Orbax / speed of copying |" in page
    for what in ("save_checkpoint of jax arrays", "convert to npz"):
        row = re.search(rf"^\| {what}: MB over what is kept \| ([\d.]+)", page, re.M)
        assert row
        assert 0 < float(row[1]) < 256


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
        report.Section("98. New", "Measured first.", []),
        report.Section("99. Newer", "Measured first, too.", []),
    ]
    updated = report.update_page(text, new, "benchmarks", "Measured by itself.")
    before, after = (re.split(r"^(?=## )", t, flags=re.M) for t in (text, updated))
    old, kept = ({b.partition("\n")[0]: b for b in part} for part in (before, after))
    *numbered, last = old
    assert last == "## Accelerators"
    assert [*kept] == [*numbered, "## 98. New", "## 99. Newer", last]
    assert numbered[1:4] == ["## What you gain", "## How it was measured", "## Goals"]
    changed = [name for name in old if old[name].rstrip() != kept[name].rstrip()]
    assert changed == ["## Goals", f"## {title[1]}"]
    assert "Measured anew.\n" in kept[f"## {title[1]}"]
    assert kept["## 98. New"].endswith("Measured first.\n\nMeasured by itself.\n\n")
    rows = kept["## Goals"].strip().splitlines()
    assert "| open of 100,000: tf2flax / TensorFlow | 1.25 | ≤ 1.5 | met |" in rows
    assert rows[-1] == "| speed of something new | 0.50 | ≥ 0.6 | **missed** |"
    assert len(rows) == len(old["## Goals"].strip().splitlines()) + 1
    # Measured again, nothing is there twice.
    assert (
        report.update_page(updated, new, "benchmarks", "Measured by itself.") == updated
    )


def test_what_a_user_gains_is_said_by_the_goals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(ROOT)
    report = importlib.import_module("benchmarks.report")
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    goal = report.Goal("time of Orbax / time of tf2flax", 4.321, 4)
    section = report.Section("98. New", "Measured anew.", [], [goal])
    updated = report.update_page(text, [section], "benchmarks", "")
    _, gains = updated.split("## What you gain\n\n")
    gains = gains.partition("\n\n")[0]
    assert "\n- 4.3 times as fast as Orbax restores the same tensors" in gains
    assert len(gains.splitlines()) > 5
    before = text.partition("## Goals")[0].splitlines()
    after = updated.partition("## Goals")[0].splitlines()
    assert sum(a != b for a, b in zip(before, after, strict=True)) <= 1


def test_accelerators_are_checked_on_what_is_there(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import jax

    monkeypatch.syspath_prepend(ROOT)
    accelerator = importlib.import_module("benchmarks.accelerator")
    page = tmp_path / "page.md"
    page.write_text("# Benchmarks\n\n## 1. One\n\nMeasured.\n")
    arguments = ["--small", "--output", str(page), "--scratch", str(tmp_path)]
    before = jax.config.read("jax_enable_x64")
    try:
        assert accelerator.main(arguments) == 0
    finally:
        jax.config.update("jax_enable_x64", before)
    section = "\n".join(accelerator.kept_section(page))
    assert page.read_text().startswith("# Benchmarks\n\n## 1. One\n\nMeasured.\n")
    for dtype in ("bfloat16", "complex128", "int4", "float8_e5m2"):
        assert f"| values of {dtype} | ok |" in section
    assert "in portions | skipped | on CPU it comes whole |" in section
    assert "This is a CPU" in section
    assert "failed" not in section
    assert "ok         values of float32" in capsys.readouterr().out


def test_a_check_that_fails_is_said_and_returned(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT)
    accelerator = importlib.import_module("benchmarks.accelerator")

    def breaks(*_: object) -> None:
        raise ValueError("no such memory")

    def differs(*_: object) -> list[object]:
        return [accelerator.judged("values of float32", False)]

    rest = ["check_dtypes", "check_memory_kinds", "check_portions", "check_many"]
    for name in rest:
        monkeypatch.setattr(accelerator, name, differs)
    monkeypatch.setattr(accelerator, "check_saving", breaks)
    monkeypatch.setattr(accelerator, "allow_wide_dtypes", lambda: None)
    page = tmp_path / "page.md"
    assert accelerator.main(["--output", str(page)]) == 1
    text = page.read_text()
    assert "| values of float32 | **failed** |  |" in text
    assert "| breaks | **failed** | ValueError: no such memory |" in text


def test_what_accelerators_gave_outlasts_the_other_benchmarks(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT)
    main = importlib.import_module("benchmarks.__main__")
    monkeypatch.setattr(main, "benchmarks", lambda small: {})
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--output", str(tmp_path)])
    page = tmp_path / "benchmarks.md"
    assert main.main() == 0
    assert "## Accelerators\n\nNot measured on an accelerator yet" in page.read_text()
    page.write_text("# Benchmarks\n\n## Accelerators\n\nChecked: a GPU.\n")
    assert main.main() == 0
    assert page.read_text().endswith("\n\n## Accelerators\n\nChecked: a GPU.\n")


@pytest.mark.slow
def test_every_benchmark_runs(tmp_path: pathlib.Path) -> None:
    page = run(tmp_path)
    assert [n for n in range(1, 13) if f"\n## {n}. " in page] == [*range(1, 13)]
