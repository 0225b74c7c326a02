"""Several processes save one checkpoint: each its shards, and all of them, or none."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from jobs import run_job

import tf2flax

NBYTES = 16 * 8 * 4
# Who is told what: the text of the last process, and that of the others.
ERRORS = {
    "a leaf is gone": "was deleted or donated",
    "no space": "No space left on device",
    "no space, and one is there": "No space left on device",
}
ALIKE = ("other trees", "other options", "another prefix")


def test_two_processes(tmp_path: pathlib.Path) -> None:
    check_job(tmp_path, 2)


@pytest.mark.slow
def test_four_processes(tmp_path: pathlib.Path) -> None:
    check_job(tmp_path, 4)


def check_job(folder: pathlib.Path, count: int) -> None:
    found = run_job(count, "saving_job_worker.py", folder)
    checkpoint = tf2flax.open_checkpoint(folder / "all/m")
    data = sorted((folder / "all").glob("m.data-*"))
    assert [path.name for path in data] == [
        f"m.data-{i:05d}-of-{count:05d}" for i in range(count)
    ]
    assert sorted(path.name for path in (folder / "all").iterdir()) == [
        "checkpoint", *(path.name for path in data), "m.index",
    ]  # fmt: skip
    # Each element is there once, also those that all processes have.
    sizes = [path.stat().st_size for path in data]
    strings = len(checkpoint["params/text"].read()[()]) + 5  # length and checksum
    assert sum(sizes) == strings + sum(
        tensor.nbytes for tensor in checkpoint.values() if tensor.dtype != "string"
    )
    num_slices = {name: len(tensor.slices) for name, tensor in checkpoint.items()}
    assert num_slices["params/rows"] == num_slices["params/both"] == 8
    assert (num_slices["params/half rows"], num_slices["params/columns"]) == (2, 4)
    assert num_slices["params/replicated"] == num_slices["params/none"] == 0
    assert num_slices["params/family"] == 4
    few = sorted((folder / "few").glob("m.data-*"))
    assert [one["few"] for one in found] == [NBYTES] + [0] * (count - 1)
    assert len(few) == 2 * count
    for name, offset in (("rows", 0), ("columns", 2)):
        want = np.arange(16 * 8, dtype=np.float32).reshape(16, 8) + offset
        assert np.array_equal(checkpoint[f"params/{name}"].read(), want)
    assert tf2flax.latest_checkpoint(folder / "all") == f"{folder}/all/m"
    check_errors(found, count)


def check_errors(found: list[dict], count: int) -> None:
    for one in found:
        is_last = one["process"] == count - 1
        errors = one["errors"]
        for case, text in ERRORS.items():
            assert text in errors[case]
            assert ("processes could not save" in errors[case]) != is_last, errors[case]
        for case in ALIKE:
            assert "Give all of them the same prefix" in errors[case], errors[case]
        assert "does not see what process 0 wrote" in errors["another place"]
        assert "A checkpoint is there already" in errors["it exists"]
        assert errors["it exists"].startswith("ExistsError") == (one["process"] == 0)
        assert "Input/output error" in errors["no renaming"]
