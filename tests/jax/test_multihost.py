"""Jobs of several processes: each reads its part, and all of them fail together."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from bundle_writer import Tensor, rows_in, write_bundle
from jobs import run_job

NBYTES = 512 * 512 * 4
# Each of two, or four, processes needs one of so many parts. The mesh is of
# 2 x 4 devices: two processes have a row of it each, four have half a row.
NEEDED = {
    "replicated": {2: 1, 4: 1},
    "rows": {2: 2, 4: 4},
    "half rows": {2: 2, 4: 2},
    "columns": {2: 1, 4: 2},
    "both": {2: 2, 4: 4},
}


@pytest.mark.parametrize("count", [2, 4])
def test_several_processes(tmp_path: pathlib.Path, count: int) -> None:
    array = np.arange(512 * 512, dtype=np.float32).reshape(512, 512)
    write_bundle(tmp_path / "m", {"t": Tensor(array, rows_in(array, 3))})
    # What only the last of the processes finds: no index; half of the data.
    write_bundle(tmp_path / "short", {"t": Tensor(array, rows_in(array, 3))})
    data = tmp_path / "short.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[: NBYTES // 2])
    damaged = [str(tmp_path / "absent"), str(tmp_path / "short")]
    found = run_job(count, "multihost_worker.py", str(tmp_path / "m"), *damaged)
    totals = {
        strategy: {
            name: sum(one["read"][strategy][name] for one in found) / NBYTES
            for name in NEEDED
        }
        for strategy in ("local", "read-once", "auto")
    }
    for name, parts in NEEDED.items():
        copies = count / parts[count]
        # Of runs of 512 bytes, or 1 KiB, in rows of 2 KiB the gaps are read too.
        if (count, name) in ((4, "columns"), (4, "both")):
            assert 1.9 * copies < totals["local"][name] <= 2 * copies
        else:
            assert totals["local"][name] == copies
        assert totals["read-once"][name] == 1
        assert totals["auto"][name] == (1 if copies > 1 else totals["local"][name])
    for one in found:
        absent, short = one["failures"]
        is_last = one["process"] == count - 1
        for text, kind in ((absent, "NotFound"), (short, "Damaged")):
            assert kind in text
            assert text.startswith("ReadError: 1 of") != is_last
            assert (f"process {count - 1}: " in text) != is_last
        _expect_failures(one["mesh failures"], one["process"], count)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_any_mesh_in_force(tmp_path: pathlib.Path, count: int) -> None:
    array = np.arange(64 * 32, dtype=np.float32).reshape(64, 32)
    for name in ("m", "short"):
        write_bundle(tmp_path / name, {"t": Tensor(array, rows_in(array, 3))})
    data = tmp_path / "short.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[: array.nbytes // 2])
    arguments = (str(tmp_path / "m"), str(tmp_path / "short"))
    for one in run_job(count, "mesh_worker.py", *arguments):
        assert one["count"] > 90
        _expect_failures(one["failures"], one["process"], count)


def _expect_failures(texts: list[str], process: int, count: int) -> None:
    """The last process says what is wrong; the others that it does."""
    assert len(texts) == 2
    for text in texts:
        assert "Damaged" in text
        assert text.startswith("ReadError: 1 of") == (process < count - 1)
