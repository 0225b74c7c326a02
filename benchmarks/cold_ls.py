"""`tf2flax ls` in a new process, against TensorFlow's `list_variables` in another.

    python benchmarks/cold_ls.py [--tensorflow PYTHON] [--rounds N]

Method: a checkpoint of 400 variables; the two commands one after the other, N rounds;
wall-clock time of whole processes; the ratio of the medians. PYTHON is one that has
TensorFlow (default: this one). Fails where the ratio is below 8.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import numpy as np

import tf2flax

NUM_VARIABLES = 400
LEAST_RATIO = 8.0
THEIRS = (
    "import sys, tensorflow as tf\n"
    "for name, shape in tf.train.list_variables(sys.argv[1]): print(name, shape)"
)


def main() -> int:
    """Compares, prints and judges."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tensorflow", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tensors = {
            f"layer_{i // 4}/part_{i % 4}/w": np.full((4, i % 7), i, np.float32)
            for i in range(NUM_VARIABLES)
        }
        prefix = tf2flax.save_checkpoint(f"{folder}/m.ckpt", tensors)
        ours = [sys.executable, "-m", "tf2flax", "ls", prefix]
        theirs = [arguments.tensorflow, "-c", THEIRS, prefix]
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(arguments.rounds + 1):
            for command, found in zip((ours, theirs), times, strict=True):
                found.append(seconds(command))
    medians = [statistics.median(found[1:]) for found in times]  # the first warms up
    ratio = medians[1] / medians[0]
    version = "import tensorflow as tf; print(tf.__version__)"
    print(f"machine: {platform.platform()}, {os.cpu_count()} cores")
    print(f"tf2flax {tf2flax.__version__}, Python {platform.python_version()}")
    print(f"TensorFlow {output([arguments.tensorflow, '-c', version]).strip()}")
    print(f"tf2flax ls      {medians[0]:6.2f} s")
    print(f"list_variables  {medians[1]:6.2f} s")
    print(f"ratio           {ratio:6.1f}  (at least {LEAST_RATIO})")
    return 0 if ratio >= LEAST_RATIO else 1


def seconds(command: Sequence[str]) -> float:
    """Wall-clock time of a process that prints every variable."""
    start = time.perf_counter()
    lines = output(command).splitlines()
    assert len(lines) == NUM_VARIABLES
    return time.perf_counter() - start


def output(command: Sequence[str]) -> str:
    """What a process prints."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment
    ).stdout


if __name__ == "__main__":
    sys.exit(main())
