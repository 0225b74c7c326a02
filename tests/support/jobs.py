"""Jobs of several processes on this machine, which talk by gloo over loopback."""

from __future__ import annotations

import json
import socket
import subprocess
from typing import Any

from forking import RESTORING, run_together
from repository import ROOT

WORKERS = ROOT / "tests" / "support"


def run_job(count: int, worker: str, *arguments: object) -> list[Any]:
    """Runs a worker in several processes; each gets its number, the count and a port.

    Returns:
        What each printed in its last line, as JSON.
    """
    done = start_job(count, worker, *arguments)
    # Those that were killed since another failed have nothing to say.
    failed = [process for process in done if process.returncode not in (0, -9)]
    assert not failed, failed[0].stderr[-4000:]
    return [json.loads(process.stdout.splitlines()[-1]) for process in done]


def start_job(
    count: int, worker: str, *arguments: object
) -> list[subprocess.CompletedProcess[str]]:
    """Runs a worker, which need not come to its end, in several processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = f"import runpy; runpy.run_path({str(WORKERS / worker)!r}, None, '__main__')"
    return run_together(
        code,
        [(i, count, port, *arguments) for i in range(count)],
        imports=RESTORING,
    )
