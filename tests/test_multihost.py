"""Leaves whose sharding spans processes: each reads what its own devices need."""

from __future__ import annotations

import pathlib
import socket
import subprocess
import sys

import numpy as np
from bundle_writer import Tensor, rows_in, write_bundle

WORKER = pathlib.Path(__file__).with_name("multihost_worker.py")


def test_two_processes(tmp_path: pathlib.Path) -> None:
    array = np.arange(512 * 512, dtype=np.float32).reshape(512, 512)
    write_bundle(tmp_path / "m", {"t": Tensor(array, rows_in(array, 3))})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, WORKER, str(i), str(port), tmp_path / "m"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        for process in processes:
            out, err = process.communicate(timeout=120)
            assert process.returncode == 0, err
            assert "equal" in out
    finally:
        for process in processes:
            process.kill()
