"""One of several processes that save together, of which one is killed.

    saving_kill_worker.py NUMBER COUNT PORT PREFIX VICTIM CALLS

Process VICTIM is killed at its CALLS-th call that changes a file; "done" is printed
where it was not.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from saving_job_worker import ARRAY, SPECS, spread, start

import tf2flax


def main(process: int, port: str, prefix: str, victim: int, calls: int) -> None:
    start(process, port)
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("d", "m"))
    tree = {
        name: spread(ARRAY + 500, mesh, SPECS[name]) for name in ("rows", "columns")
    }
    if process == victim:
        die_at(calls)
    tf2flax.save_checkpoint(prefix, tree, overwrite=True)
    sys.stdout.write("done\n")


def die_at(calls: int) -> None:
    left = calls

    def dying(function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    for name in ("write", "replace", "unlink", "fsync", "link"):
        setattr(os, name, dying(getattr(os, name)))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[3], sys.argv[4], int(sys.argv[5]), int(sys.argv[6]))
