"""Contenders in processes of their own, that wait for their turn."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
from types import TracebackType
from typing import Any, Self

ROOT = pathlib.Path(__file__).resolve().parent.parent
# What a contender needs to be installed, by the first word of its name.
NEEDS = {
    "TensorFlow": "tensorflow",
    "safetensors": "safetensors",
    "Orbax": "orbax.checkpoint",
}


def environment(devices: int = 1) -> dict[str, str]:
    """Variables for a process that measures, on a number of CPU devices."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }


def is_there(contender: str) -> bool:
    """Whether what a contender needs is installed."""
    module = NEEDS.get(contender.split()[0])
    if module is None:
        return True
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


class Worker:
    """A process that runs one contender, again and again, when it is asked to."""

    def __init__(
        self,
        contender: str,
        *,
        devices: int = 1,
        backed_nbytes: int = 0,
        **options: Any,
    ) -> None:
        """Starts the process.

        Args:
            contender: Its name in `contenders.py`.
            devices: How many CPU devices JAX has.
            backed_nbytes: Bytes of memory that are fetched and freed before each run;
                see `measuring.back_memory`.
            options: What the contender takes.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.contenders", contender],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(devices),
            cwd=ROOT,
        )
        self._backed_nbytes = backed_nbytes
        self._tell(options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()

    def run(self, action: str = "run") -> dict[str, Any]:
        """Runs once.

        Args:
            action: `run`, `digest` (which also digests the values) or `profile`.

        Returns:
            `seconds`, `peak_nbytes` over what was held before, `read_nbytes`,
            `result_nbytes`; `digest` and `profile` where they are asked for.
        """
        return self._ask({"action": action, "backed_nbytes": self._backed_nbytes})

    def seconds(self) -> float:
        """Runs once, and says how long it took."""
        return self.run()["seconds"]

    def _tell(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        self._tell(request)
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"contender ended: {self._process.args}")
        return json.loads(answer)
