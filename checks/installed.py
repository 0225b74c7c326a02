"""Uses an installed tf2flax as a new user would; needs nothing of the repository.

`make release-check` runs it in fresh environments, outside the repository.
"""

from __future__ import annotations

import importlib.metadata
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

import tf2flax

HERE = pathlib.Path(__file__).resolve().parent


def main() -> int:
    """Writes, lists, verifies, plans, restores and converts a small checkpoint."""
    package = pathlib.Path(tf2flax.__file__).resolve().parent
    assert HERE.parent / "tf2flax" != package, "this is the repository's package"
    assert importlib.metadata.version("tf2flax") == tf2flax.__version__
    kernel = np.arange(12, dtype="float32").reshape(3, 4)
    tensors = {"dense/kernel": kernel, "dense/bias": np.ones(4, "float32")}
    with tempfile.TemporaryDirectory() as folder:
        prefix = tf2flax.save_checkpoint(f"{folder}/model.ckpt", tensors)
        command = [pathlib.Path(sys.executable).parent / "tf2flax", "ls", prefix]
        listed = subprocess.run(command, check=True, capture_output=True, text=True)
        assert listed.stdout.splitlines()[1].split("\t")[0] == "dense/kernel"
        assert tf2flax.open_checkpoint(prefix).verify().ok
        target = {"params": {"kernel": np.zeros((3, 4), "float32")}}
        plan = tf2flax.plan(prefix, {"dense/": "params/"}, target)
        assert np.array_equal(plan.restore()["params"]["kernel"], kernel)
        report = tf2flax.convert(prefix, f"{folder}/model.npz")
        assert np.array_equal(np.load(f"{folder}/model.npz")["dense/kernel"], kernel)
        assert len(report.written) == len(tensors)
    print(f"tf2flax {tf2flax.__version__} in {package}: all well")
    return 0


if __name__ == "__main__":
    sys.exit(main())
