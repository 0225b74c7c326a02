"""Host memory of restores: the result, and a bounded window besides."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
from forking import RESTORING, run_forked
from repository import ROOT

import tf2flax

WORKER = ROOT / "tests" / "support" / "memory_worker.py"
BOUND = 64 << 20
pytestmark = pytest.mark.skipif(
    not pathlib.Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc"
)


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """One tensor of four times the bound, and many that take another 160 MiB."""
    rng = np.random.default_rng(0)
    block = rng.standard_normal((2048, 1024), dtype=np.float32)  # 8 MiB
    tensors = {f"t{i:02d}": block + np.float32(i) for i in range(20)}
    tensors["large"] = np.tile(block, (32, 1))
    path = tmp_path_factory.mktemp("memory") / "m"
    tf2flax.save_checkpoint(path, tensors)
    return path


@pytest.mark.parametrize("way", ["one device", "columns", "cast", "transposed"])
def test_peak_memory_is_bounded(way: str, prefix: pathlib.Path) -> None:
    done = run_forked(
        WORKER.read_text(), prefix, way, BOUND, check=True, imports=RESTORING
    )
    found = json.loads(done.stdout)
    assert found["peak"] - found["result"] <= BOUND + (256 << 20), found
