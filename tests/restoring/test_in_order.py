"""Leaves handed on in the order of their elements."""

from __future__ import annotations

import pathlib
import threading
import time
from typing import Any

import jax
import numpy as np
import pytest
from bundle_writer import Tensor, write_bundle

import tf2flax
from tf2flax import Tuning
from tf2flax._base.values import Box
from tf2flax._restoring import in_order, run_reads
from tf2flax._storage.local import LocalFile

ARRAY = np.arange(64 * 16, dtype=np.float32).reshape(64, 16)
LIMIT = 512
# A row is a portion, and a job; portions are not joined again.
TUNING = Tuning(
    chunk_nbytes=64, job_nbytes=64, small_nbytes=0, portions_in_flight=8, max_workers=4
)


@pytest.mark.parametrize("slow", [0, 5, 63])
def test_what_comes_early_waits_within_what_may_be_in_flight(
    slow: int, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_order, "IN_FLIGHT_NBYTES", LIMIT)
    write_bundle(tmp_path / "m", {"t": Tensor(ARRAY)})
    checkpoint = tf2flax.open_checkpoint(tmp_path / "m")
    target = {"t": jax.ShapeDtypeStruct(ARRAY.shape, "float32")}
    (assignment,) = tf2flax.plan(checkpoint, {"t": "t"}, target).assignments
    first = checkpoint.manifest.entry("t").pieces[0].span.start
    lock = threading.Lock()
    held, most = 0, 0
    allocate, read_into = run_reads.LeafArrays.allocate, LocalFile.read_into

    def counted(self: run_reads.LeafArrays) -> None:
        nonlocal held, most
        with lock:
            held += self.host_nbytes
            most = max(most, held)
        allocate(self)

    def slowed(self: LocalFile, start: int, buffer: memoryview, **more: Any) -> None:
        if start == first + slow * 64:
            time.sleep(0.3)
        read_into(self, start, buffer, **more)

    monkeypatch.setattr(run_reads.LeafArrays, "allocate", counted)
    monkeypatch.setattr(LocalFile, "read_into", slowed)
    taken: list[np.ndarray] = []
    boxes: list[Box] = []

    def take(box: Box, array: np.ndarray) -> None:
        nonlocal held
        with lock:
            held -= array.nbytes
        boxes.append(box)
        taken.append(array.copy())

    in_order.read_in_order(assignment, checkpoint.manifest, take, tuning=TUNING)
    assert [box.starts for box in boxes] == [(row, 0) for row in range(64)]
    np.testing.assert_array_equal(np.concatenate(taken), ARRAY)
    assert most <= LIMIT
    assert held == 0
