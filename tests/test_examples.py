"""Every example runs; the demo's figures are checked, and so is that it can fail."""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run(path: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(path), *arguments], capture_output=True, text=True
    )


@pytest.mark.parametrize(
    "path", [p for p in EXAMPLES if p.stem != "bert_demo"], ids=lambda p: p.stem
)
def test_example(path: pathlib.Path) -> None:
    done = run(path)
    assert done.returncode == 0, done.stderr


def test_the_demo() -> None:
    done = run(ROOT / "examples" / "bert_demo.py")
    assert done.returncode == 0, done.stderr
    figures = re.findall(r"(linen|nnx) +(\w+_output) +([\d.e-]+)", done.stdout)
    assert len(figures) == 4
    assert all(0 < float(figure) <= 1e-5 for _, _, figure in figures)
    assert "139 tensors" in done.stdout
    assert "39 leaves loaded" in done.stdout


def test_the_demo_can_fail(tmp_path: pathlib.Path) -> None:
    from bundle_writer import write_bundle

    import tf2flax

    arrays = tf2flax.open_checkpoint(ROOT / "tests" / "data" / "bert").read()
    arrays["bert/encoder/layer_1/output/dense/bias"][3] += 1e-3
    write_bundle(tmp_path / "model.ckpt", arrays)
    shutil.copy(ROOT / "tests" / "data" / "bert" / "oracle.npz", tmp_path)
    done = run(ROOT / "examples" / "bert_demo.py", str(tmp_path / "model.ckpt"))
    assert done.returncode == 1
    assert "FAILED" in done.stdout
