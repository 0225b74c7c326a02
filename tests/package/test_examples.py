"""Every example runs; the demo's figures are checked, and so is that it can fail."""

from __future__ import annotations

import contextlib
import io
import pathlib
import re
import runpy
import subprocess
import sys
import warnings
from typing import Any

import jax
import numpy as np
import pytest
from bundle_writer import write_bundle
from forking import RESTORING, forking_subprocess
from repository import ROOT

import tf2flax

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
DEMO = ROOT / "examples" / "bert_demo.py"
BERT = ROOT / "tests" / "data" / "bert"
# One port of several; tests/ports/test_ports.py runs all of them.
ARGUMENTS = {"ports_demo": ["bert_linen"]}
# These start processes of their own.
STARTING = {"two_processes"}
# These say how many devices there are, which is settled in this process.
CONFIGURING = {"wide_deep_partitioned"}
OUTPUTS = [
    (kind, output)
    for kind in ("linen", "nnx")
    for output in ("sequence_output", "pooled_output")
]


def run(path: pathlib.Path, *arguments: str) -> tuple[int | str, str]:
    """Runs an example in this process: its exit code, and what it prints.

    Warnings are errors here too. The processes that one example starts itself are
    forked from one that has imported JAX; the demo runs in a new one below.
    """
    printed, code = io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        if path.stem in STARTING:
            forking = forking_subprocess(*RESTORING)
            patch.setattr(subprocess, "Popen", forking.Popen)
        if path.stem in CONFIGURING:
            patch.setattr(type(jax.config), "update", lambda *_: None)
        patch.setattr(sys, "argv", [str(path), *arguments])
        patch.syspath_prepend(str(path.parent))
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as ended:
            code = ended.code or 0
    return code, printed.getvalue()


def figures(printed: str) -> dict[tuple[str, str], float]:
    """The differences that the demo prints, by model and output."""
    found = re.findall(r"^  (linen|nnx) +(\w+_output) +(\S+)$", printed, re.MULTILINE)
    return {(kind, output): float(figure) for kind, output, figure in found}


@pytest.mark.parametrize(
    "path", [p for p in EXAMPLES if p != DEMO], ids=lambda p: p.stem
)
def test_example(path: pathlib.Path) -> None:
    code, printed = run(path, *ARGUMENTS.get(path.stem, []))
    assert code == 0
    is_program = "__main__" in path.read_text()
    if is_program and path.stem not in STARTING:  # the output of those goes elsewhere
        assert "OK: all within 1e-05" in printed


@pytest.mark.parametrize(
    ("stem", "function", "array", "change"),
    [
        ("partitioned", "main", "emb_div", 1e-3),
        ("partitioned", "main", "emb_div", np.nan),
        ("warm_start", "main", "pooled_output", 1e-3),
        ("moving_averages", "main", "ema_logits_even", 1e-3),
        pytest.param("finetune", "main", "losses", 1e-3, marks=pytest.mark.slow),
        ("wide_deep_partitioned", "compare", "probabilities", 1e-3),
        ("savedmodel", "main", "y", 1e-3),
    ],
)
def test_an_example_can_fail(
    stem: str,
    function: str,
    array: str,
    change: float,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = ROOT / "examples" / f"{stem}.py"
    monkeypatch.syspath_prepend(str(path.parent))
    example = runpy.run_path(str(path), run_name=stem)
    load = np.load

    def changed(file: pathlib.Path) -> dict[str, np.ndarray]:
        arrays = dict(load(file))
        if array in arrays or stem != "finetune":  # which loads two files
            arrays[array] = arrays[array] + np.float32(change)
        return arrays

    monkeypatch.setattr(np, "load", changed)
    assert example[function]() == 1
    assert "FAILED: not all within 1e-05" in capsys.readouterr().out


@pytest.mark.parametrize("stem", ["savedmodel", "new_head"])
def test_an_example_that_saves_can_fail(
    stem: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = ROOT / "examples" / f"{stem}.py"
    monkeypatch.syspath_prepend(str(path.parent))
    example = runpy.run_path(str(path), run_name=stem)
    save = tf2flax.save_checkpoint

    def changed(prefix: str, tree: Any, **options: Any) -> str:
        return save(prefix, jax.tree.map(lambda leaf: leaf + 1, tree), **options)

    monkeypatch.setattr(tf2flax, "save_checkpoint", changed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*copied from the checkpoint as they were")
        assert example["main"]() == 1
    assert "FAILED: the" in capsys.readouterr().out


@pytest.mark.parametrize("stem", ["savedmodel", "new_head"])
def test_an_example_fits_on_a_screen(stem: str) -> None:
    assert len((ROOT / "examples" / f"{stem}.py").read_text().splitlines()) <= 80


@pytest.fixture(scope="module")
def printed() -> str:
    """What the demo prints, run as `make demo` does."""
    command = [sys.executable, "-W", "error", str(DEMO)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_demo(printed: str) -> None:
    differences = figures(printed)
    assert list(differences) == OUTPUTS
    # 0 would mean that the recorded outputs were compared with themselves.
    assert all(0 < difference <= 1e-5 for difference in differences.values())
    assert "139 tensors" in printed
    assert "39 leaves loaded" in printed


def test_the_demo_lists_every_tensor(printed: str) -> None:
    table, _, _ = printed.partition("\n\n")
    listed: dict[str, tuple[str, str]] = {}
    for line in table.splitlines()[2:]:
        row = re.fullmatch(r"  (\S+) +(\w+) +(\[[\d, ]*\])(.*)", line)
        assert row, line
        name, dtype, shape, slots = row.groups()
        for slot in ["", *slots.split()]:
            listed[name + slot] = (dtype, shape)
    assert listed == {
        name: (str(tensor.dtype), str(list(tensor.shape)))
        for name, tensor in tf2flax.open_checkpoint(BERT).items()
    }


@pytest.mark.parametrize("change", [1e-3, np.nan])
def test_the_demo_can_fail(tmp_path: pathlib.Path, change: float) -> None:
    arrays = tf2flax.open_checkpoint(BERT).read()
    arrays["bert/encoder/layer_1/output/dense/bias"][3] += change
    write_bundle(tmp_path / "model.ckpt", arrays)
    code, printed = run(DEMO, str(tmp_path / "model.ckpt"))
    assert code == 1
    differences = figures(printed)
    assert list(differences) == OUTPUTS
    assert not any(difference <= 1e-5 for difference in differences.values())
    assert "FAILED" in printed
