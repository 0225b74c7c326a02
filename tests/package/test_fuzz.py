"""Fuzzing, in a process of its own: short here, longer by `make fuzz`."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from fuzz_worker import REFUSED_PER_S
from repository import ROOT

WORKER = ROOT / "tests" / "support" / "fuzz_worker.py"
SECONDS = float(os.environ.get("TF2FLAX_FUZZ_SECONDS", "6"))


def test_fuzz() -> None:
    done = subprocess.run(
        [sys.executable, str(WORKER), str(SECONDS)],
        capture_output=True, text=True, check=False, cwd=ROOT,
        env={**os.environ, "MALLOC_ARENA_MAX": "2", "PYTHONPATH": str(ROOT)},
        timeout=SECONDS + 300,
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stderr[-6000:])
    counts = json.loads(done.stdout)
    for kind in ("bundle", "v1", "raw"):
        # Some are harmless, most are not; both must have been tried.
        assert counts[kind]["refused"] >= REFUSED_PER_S * SECONDS, counts
        assert counts[kind]["read"] > 0, counts
