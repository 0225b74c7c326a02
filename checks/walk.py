"""Counts the files of the package that restoring one leaf enters.

    python -m checks.walk

Whoever reads the code to follow one leaf from a checkpoint into a tree opens these
files, in this order.
"""

from __future__ import annotations

import pathlib
import sys
import tempfile
import threading
from types import CodeType, FrameType
from typing import Any, Final

import numpy as np

PACKAGE: Final = pathlib.Path(__file__).resolve().parents[1] / "tf2flax"
# What a reader can follow: it may fall, and never grow.
MAX_FILES: Final = 32


def files_entered(prefix: str) -> list[str]:
    """Restores one leaf by one plain entry, and notes which files are entered.

    Args:
        prefix: A checkpoint with a tensor `a/kernel` of shape `[4, 4]` and float32.

    Returns:
        Files of the package, in the order in which a function of theirs is first
        called, on whatever thread; what modules do while they are imported does not
        count.
    """
    import jax

    import tf2flax

    target = {"kernel": jax.ShapeDtypeStruct((4, 4), "float32")}
    restore: Any = tf2flax.init_from_checkpoint
    files: dict[str, None] = {}

    def note(frame: FrameType, event: str, _argument: object) -> None:
        code: CodeType = frame.f_code
        if event != "call" or code.co_name in ("<module>", "__getattr__"):
            return
        path = pathlib.Path(code.co_filename)
        if path.is_relative_to(PACKAGE):
            files.setdefault(str(path.relative_to(PACKAGE)))

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        restore(prefix, {"a/kernel": "kernel"}, target)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return list(files)


def main() -> int:
    """Prints the files; the exit status says whether there are too many."""
    import tf2flax

    with tempfile.TemporaryDirectory() as folder:
        prefix = f"{folder}/model.ckpt"
        tf2flax.save_checkpoint(prefix, {"a/kernel": np.ones((4, 4), np.float32)})
        files = files_entered(prefix)
    for number, name in enumerate(files, start=1):
        print(f"{number:3} {name}")
    print(f"{len(files)} files, {MAX_FILES} at most")
    return len(files) > MAX_FILES


if __name__ == "__main__":
    sys.exit(main())
