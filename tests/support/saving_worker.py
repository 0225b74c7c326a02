"""Saves a checkpoint over another, and is killed at the n-th call that changes a file.

    saving_worker.py PREFIX VALUE N

Prints "done" where it was not.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import numpy as np

import tf2flax


def main(prefix: str, value: int, count: int) -> None:
    left = count

    def dying(function: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                if function is original_write:  # half of it gets there
                    function(args[0], args[1][: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **options)

        return call

    original_write = os.write
    for name in ("write", "replace", "unlink", "fsync", "link"):
        setattr(os, name, dying(getattr(os, name)))
    tensors = {f"t{i}": np.full((64, 64), value + i, "<f4") for i in range(4)}
    tf2flax.save_checkpoint(prefix, tensors, data_files=2, overwrite=True)
    sys.stdout.write("done")
    sys.stdout.flush()


main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
