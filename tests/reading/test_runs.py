"""Which runs of a file are read, by what a read costs, and how many side by side."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import numpy as np
import pytest
from bundle_writer import Tensor, rows_in, write_bundle
from http_server import Served, serving
from hypothesis import given, settings
from hypothesis import strategies as st

import tf2flax
from tf2flax._base.tuning import Tuning
from tf2flax._base.values import Box
from tf2flax._reading.parts import count_read_nbytes, read_box_into
from tf2flax._reading.runs import batch_runs
from tf2flax._reading.strides import strides_of
from tf2flax._reading.whole import read_many

LOCAL, STORE = Tuning(), Tuning()
ROWS, NEAR, SLOW = (
    Tuning(remote_latency_s=s, remote_nbytes_per_s=b, remote_parallelism=n)
    for s, b, n in ((0.03, 1e9, 1), (1e-3, 1e9, 8), (0.03, 1e6, 32))
)


@pytest.mark.parametrize(
    ("tuning", "is_local", "runs", "nbytes", "gap", "expected"),
    [
        # A 64th of the columns of 4096 x 16384 float32: 4096 times 1 KiB.
        (LOCAL, True, 4096, 1024, 64_512, "runs"),  # 4 KiB for a read of a disk
        (STORE, False, 4096, 1024, 64_512, "rows"),  # 30 ms / 32 at 200 MB/s: 187,500
        (ROWS, False, 4096, 1024, 64_512, "rows"),  # one after the other: 30 MB each
        (NEAR, False, 4096, 1024, 64_512, "rows"),  # 1 ms / 8 at 1 GB/s: 125,000
        (SLOW, False, 4096, 1024, 64_512, "runs"),  # 30 ms / 32 at 1 MB/s: 938
        # A gap that takes as long as a request, and one that takes longer.
        (STORE, False, 100, 1024, 187_000, "rows"),
        (STORE, False, 100, 1024, 188_000, "runs"),
        (LOCAL, True, 100, 1024, 4000, "rows"),
        (LOCAL, True, 100, 1024, 4200, "runs"),
        # Locally no more than 8 bytes for one, where that is many.
        (LOCAL, True, 4096, 4, 2044, "runs"),
        (STORE, False, 4096, 4, 2044, "rows"),
    ],
)
def test_runs_are_joined_where_that_takes_less_time(
    tuning: Tuning, is_local: bool, runs: int, nbytes: int, gap: int, expected: str
) -> None:
    cost = tuning.read_cost_of(is_local=is_local)
    shape, strides = (runs, nbytes), (nbytes + gap, 1)
    batches = list(batch_runs(0, shape, strides, 1, cost, tuning, is_local=is_local))
    read = sum(batch.size for batch in batches)
    if expected == "runs":
        assert read == runs * nbytes
        assert all(batch.length == nbytes for batch in batches)
    else:
        # Buffers end with their last run: the gap behind it is read by nobody.
        whole = runs * (nbytes + gap) - gap
        assert whole - gap * len(batches) <= read <= whole
        assert len(batches) < runs


ARRAY = np.random.default_rng(0).standard_normal((96, 256), dtype=np.float32)
SPEEDS = st.builds(
    Tuning,
    chunk_nbytes=st.sampled_from([64, 4096, 1 << 20]),
    remote_latency_s=st.sampled_from([1e-9, 1e-6, 0.03]),
    remote_nbytes_per_s=st.sampled_from([1e6, 200e6]),
    remote_parallelism=st.sampled_from([1, 32]),
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("runs")
    tensors = {
        "whole": Tensor(ARRAY),
        "sliced": Tensor(ARRAY, rows_in(ARRAY, 3, axis=1)),
    }
    write_bundle(folder / "m", tensors)
    with serving({f"/{p.name}": p.read_bytes() for p in folder.iterdir()}) as served:
        yield served


@given(data=st.data(), tuning=SPEEDS)
@settings(max_examples=40, deadline=None)
def test_a_box_is_the_same_however_it_is_read(
    served: Served, data: st.DataObject, tuning: Tuning
) -> None:
    rows = sorted(data.draw(st.tuples(*[st.integers(0, 96)] * 2)))
    columns = sorted(data.draw(st.tuples(*[st.integers(0, 256)] * 2)))
    # Of few rows, so that reading run by run takes no more requests than that.
    box = Box((rows[0], columns[0]), (min(rows[1], rows[0] + 12), columns[1]))
    out = np.empty(box.shape, np.float32)
    manifest = tf2flax.open_checkpoint(f"{served.url}/m").manifest
    for name in ("whole", "sliced"):
        entry = manifest.entry(name)
        out.fill(np.nan)
        before = served.nbytes
        read_box_into(entry, box, out, tuning)
        assert np.array_equal(out, ARRAY[box.within(Box.whole(ARRAY.shape))])
        strides = strides_of(ARRAY.shape)
        first = box.starts[0] * strides[0] + box.starts[1]
        counted = count_read_nbytes(entry, first, box.shape, strides, tuning)
        assert served.nbytes - before == counted


def test_columns_of_a_store_are_read_by_rows(served: Served) -> None:
    tensor = tf2flax.open_checkpoint(f"{served.url}/m")["whole"]
    before = len(served.requests)
    assert np.array_equal(tensor[:, :4], ARRAY[:, :4])
    assert len(served.requests) - before == 1


def test_requests_of_one_reader_wait_side_by_side(tmp_path: pathlib.Path) -> None:
    # Small tensors with as much between them as is worth a request, and a large one of
    # which buffer after buffer is filled.
    tensors: dict[str, Tensor] = {"rows": Tensor(ARRAY)}
    for i in range(24):
        tensors[f"small_{i:02d}"] = Tensor(np.full(2, i, np.float32))
        tensors[f"small_{i:02d}_skipped"] = Tensor(np.zeros(64, np.float32))
    write_bundle(tmp_path / "m", tensors)
    files = {f"/{path.name}": path.read_bytes() for path in tmp_path.iterdir()}
    tuning = Tuning(
        read_cost_nbytes=8, remote_latency_s=1e-9, chunk_nbytes=1 << 14, max_workers=1
    )
    with serving(files) as served:
        manifest = tf2flax.open_checkpoint(f"{served.url}/m").manifest
        names = [name for name in manifest.names if name[-2:].isdigit()]
        served.delay_s = 0.05
        entries = [manifest.entry(name) for name in names]
        arrays = read_many(entries, verify=True, tuning=tuning)
        assert [array[0] for array in arrays] == list(range(24))
        assert served.most_at_once > 3
        served.most_at_once = 0
        out = np.empty((96, 255), np.float32)
        # Joined, since a run of them lies beside the next: 24 buffers of 4 KiB.
        near = Tuning(chunk_nbytes=1 << 14, remote_latency_s=0.03)
        read_box_into(manifest.entry("rows"), Box((0, 0), (96, 255)), out, near)
        assert np.array_equal(out, ARRAY[:, :255])
        assert served.most_at_once > 3
