"""Uses an installed tf2flax as a new user would; needs nothing of the repository.

`make release-check` runs it in fresh environments, outside the repository. It also runs
the examples of all docstrings, in an empty folder.
"""

from __future__ import annotations

import contextlib
import doctest
import importlib
import importlib.metadata
import pathlib
import pkgutil
import subprocess
import sys
import tempfile

import numpy as np

import tf2flax

HERE = pathlib.Path(__file__).resolve().parent
# Their examples need files that the wheel does not have: a checkpoint of which the
# bytes are counted, and files that only TensorFlow 2 writes.
NEED_THE_REPOSITORY = {
    "tf2flax._restoring",
    "tf2flax._checkpoint.checkpoint.Checkpoint.by_object_path",
    "tf2flax._checkpoint.checkpoint.Checkpoint.by_variable_name",
}


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
    number = run_examples()
    print(f"tf2flax {tf2flax.__version__} in {package}, {number} examples: all well")
    return 0


def run_examples() -> int:
    """Runs the examples of all docstrings in an empty folder; gives their number."""
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    finder, left_out = doctest.DocTestFinder(exclude_empty=True), set[str]()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for module in pkgutil.walk_packages(tf2flax.__path__, "tf2flax."):
            if module.name == "tf2flax.__main__":  # importing it runs a command
                continue
            for test in finder.find(importlib.import_module(module.name)):
                if test.name in NEED_THE_REPOSITORY:
                    left_out.add(test.name)
                elif test.examples:
                    runner.run(test)
    assert left_out == NEED_THE_REPOSITORY, left_out
    assert runner.tries > 100, runner.tries
    assert not runner.failures, f"{runner.failures} examples failed"
    return runner.tries


if __name__ == "__main__":
    sys.exit(main())
