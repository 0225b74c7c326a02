"""Loads the model of `wide_deep_partitioned.py` in two processes of one job.

Each has four of the eight devices of the mesh, reads what these need, and compares the
outputs of the whole model.

Needs: jax. Size: 36 kB, in tests/data/wide_deep_partitioned. Time: ten seconds.
Exits 0 only if every output is within 1e-5 of what TensorFlow 1.15 computed.
"""

from __future__ import annotations

import socket
import subprocess
import sys

import jax
from wide_deep_partitioned import compare

COUNT = 2


def work(process: int, port: int) -> int:
    """One process of the job."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8 // COUNT)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", COUNT, process)
    return compare()


def main() -> int:
    """Starts the processes, and waits for them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, __file__]
    processes = [
        subprocess.Popen([*command, str(process), str(port)])
        for process in range(COUNT)
    ]
    return max(abs(process.wait()) for process in processes)


if __name__ == "__main__":
    sys.exit(work(*map(int, sys.argv[1:])) if len(sys.argv) > 1 else main())
