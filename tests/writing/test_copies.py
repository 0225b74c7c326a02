"""Tensors of a checkpoint that are written as they are: large ones in runs."""

from __future__ import annotations

import itertools
import pathlib
import time
from typing import Any

import numpy as np
import pytest
from bundle_writer import Tensor, rows_in, write_bundle
from forking import LISTING, run_forked
from old_files import flipped_bit

import tf2flax
from tf2flax import Tuning
from tf2flax._export import source
from tf2flax._restoring import in_order
from tf2flax._storage.local import LocalFile
from tf2flax._writing import slicing

ROWS = np.random.default_rng(0).standard_normal((300, 7), dtype=np.float32)
ARRAYS: dict[str, np.ndarray] = {
    "column": np.arange(5000, dtype=np.int64).reshape(5000, 1),
    "complex": ROWS.astype(np.complex64),
    "empty": ROWS[:0],
    "flags": ROWS > 0,
    "rank_4": np.arange(4900, dtype=np.int16).reshape(1, 1, 70, 70),
    "row": np.arange(5000, dtype=np.uint8).reshape(1, 5000),
    "scalar": np.array(7, np.int64),
    "sliced": ROWS + 1,
    "strings": np.array([b"", b"a" * 5000], object),
    "whole": ROWS,
}


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Elements of each run of a large tensor; a thousand bytes are large."""
    monkeypatch.setattr(slicing, "BLOCK_NBYTES", 1000)
    monkeypatch.setattr(in_order, "IN_FLIGHT_NBYTES", 1000)
    found: list[int] = []
    stream = slicing._PieceReads._stream

    def counted(self: Any, number: int, take: Any) -> None:
        def counted_take(array: np.ndarray) -> None:
            found.append(array.size)
            take(array)

        stream(self, number, counted_take)

    monkeypatch.setattr(slicing._PieceReads, "_stream", counted)
    return found


# Portions of a row or two are not joined again.
TUNING = Tuning(small_nbytes=0)


def write(prefix: pathlib.Path, **options: Any) -> None:
    tensors = {name: Tensor(array) for name, array in ARRAYS.items()}
    tensors["sliced"] = Tensor(ARRAYS["sliced"], rows_in(ROWS, 4))
    write_bundle(prefix, tensors, **options)


@pytest.mark.parametrize("big_endian", [False, True])
def test_copies_are_equal(
    tmp_path: pathlib.Path, runs: list[int], big_endian: bool
) -> None:
    write(tmp_path / "m", big_endian=big_endian)
    checkpoint = tf2flax.open_checkpoint(tmp_path / "m", tuning=TUNING)
    tf2flax.save_checkpoint(tmp_path / "copy", checkpoint)
    assert max(runs) < ROWS.size / 3  # they were cut
    runs.clear()
    members = {f"new/{name}": tensor for name, tensor in checkpoint.items()}
    tf2flax.save_checkpoint(tmp_path / "moved", members)
    assert max(runs) < ROWS.size / 3
    for path, scope in (("copy", ""), ("moved", "new/")):
        copy = tf2flax.open_checkpoint(tmp_path / path)
        assert copy.verify().ok
        for name, array in ARRAYS.items():
            tensor = copy[scope + name]
            assert tensor.read().dtype == array.dtype
            np.testing.assert_array_equal(tensor.read(), array)
            assert tensor.slices == checkpoint[name].slices


def test_what_a_plan_does_not_fill_is_copied(
    tmp_path: pathlib.Path, runs: list[int]
) -> None:
    write(tmp_path / "m")
    target = {"whole": ROWS}
    plan = tf2flax.plan(tmp_path / "m", {"whole": "whole"}, target)
    tf2flax.save_checkpoint(tmp_path / "n", {"whole": ROWS * 2}, plan=plan)
    written = tf2flax.open_checkpoint(tmp_path / "n")
    assert written.verify().ok
    assert runs
    for name, array in ARRAYS.items():
        expected = ROWS * 2 if name == "whole" else array
        np.testing.assert_array_equal(written[name].read(), expected)


def test_a_damaged_tensor_is_not_copied(
    tmp_path: pathlib.Path, runs: list[int]
) -> None:
    write(tmp_path / "m")
    checkpoint = tf2flax.open_checkpoint(tmp_path / "m", tuning=TUNING)
    data = tmp_path / "m.data-00000-of-00001"
    for name in ("whole", "sliced"):
        place = checkpoint[name].entry.pieces[-1].span.stop - 1
        with (
            flipped_bit(data, place),
            pytest.raises(tf2flax.DamagedError, match=f"`{name}` is damaged"),
        ):
            tf2flax.save_checkpoint(tmp_path / "n", checkpoint)
        assert not list(tmp_path.glob("n*"))
    assert runs


@pytest.mark.parametrize("block", [40, 1000, 10_000])
def test_slices_of_any_size(
    block: int, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large ones come in runs, small ones are read together; none is read twice."""
    monkeypatch.setattr(slicing, "BLOCK_NBYTES", block)
    monkeypatch.setattr(in_order, "IN_FLIGHT_NBYTES", 300)
    array = np.arange(24 * 30, dtype=np.int16).reshape(24, 30)
    rows, columns = (0, 1, 2, 3, 20, 24), (0, 2, 30)
    grid = [
        (slice(*r), slice(*c))
        for r in itertools.pairwise(rows)
        for c in itertools.pairwise(columns)
    ]
    write_bundle(tmp_path / "m", {"grid": Tensor(array, grid)})
    checkpoint = tf2flax.open_checkpoint(tmp_path / "m", tuning=TUNING)
    read: list[int] = []
    whole = LocalFile.read_into

    def counted(self: LocalFile, start: int, buffer: memoryview, **more: Any) -> None:
        read.append(len(buffer))
        whole(self, start, buffer, **more)

    monkeypatch.setattr(LocalFile, "read_into", counted)
    tf2flax.save_checkpoint(tmp_path / "n", checkpoint)
    assert sum(read) == array.nbytes
    read.clear()
    monkeypatch.setattr(source, "BATCH_NBYTES", block)
    tf2flax.convert(checkpoint, tmp_path / "o", format="tensorbundle")
    assert sum(read) <= array.nbytes * 1.1  # and small things of the index
    for path in ("n", "o"):
        copy = tf2flax.open_checkpoint(tmp_path / path)
        assert copy.verify().ok
        np.testing.assert_array_equal(copy["grid"].read(), array)
        assert sorted(map(str, copy["grid"].slices)) == sorted(map(str, grid))


def test_many_slices_take_as_long_as_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is looked up once: 1,000 took 20 s where each was planned by itself."""
    monkeypatch.setattr(slicing, "BLOCK_NBYTES", 1000)
    array = np.arange(1000, dtype=np.float32)
    write_bundle(tmp_path / "m", {"w": Tensor(array, rows_in(array, 1000))})
    checkpoint = tf2flax.open_checkpoint(tmp_path / "m")
    begun = time.process_time()
    tf2flax.save_checkpoint(tmp_path / "n", checkpoint)
    assert time.process_time() - begun < 3
    np.testing.assert_array_equal(tf2flax.load_variable(tmp_path / "n", "w"), array)


def test_many_strings_are_copied(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are no runs of bytes, however many they are."""
    monkeypatch.setattr(slicing, "BLOCK_NBYTES", 100)
    monkeypatch.setattr(source, "BATCH_NBYTES", 100)
    strings = np.array([b"x" * (i % 7) for i in range(500)], object)
    prefix = tf2flax.save_checkpoint(tmp_path / "m", {"s": strings, "w": ROWS})
    tf2flax.convert(prefix, tmp_path / "n", format="tensorbundle")
    tf2flax.save_checkpoint(tmp_path / "o", tf2flax.open_checkpoint(prefix))
    for path in ("n", "o"):
        copy = tf2flax.open_checkpoint(tmp_path / path)
        assert copy["s"].read().tolist() == strings.tolist()
        np.testing.assert_array_equal(copy["w"].read(), ROWS)


WORKER = """
import pathlib, re, sys
import tf2flax
from tf2flax._restoring import in_order
from tf2flax._writing import slicing

def status(field):
    text = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(rf"^{field}:\\s+(\\d+) kB", text, re.MULTILINE)[1]) << 10

in_order.IN_FLIGHT_NBYTES, slicing.BLOCK_NBYTES = 8 << 20, 2 << 20
checkpoint = tf2flax.open_checkpoint(sys.argv[1])
tf2flax.save_checkpoint(sys.argv[2], {"small": checkpoint["small"]})
before = status("VmRSS")
pathlib.Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
tf2flax.save_checkpoint(sys.argv[2], checkpoint, overwrite=True)
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(
    not pathlib.Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc"
)
def test_peak_memory(tmp_path: pathlib.Path) -> None:
    """What may be in flight, of a tensor of eight times as much."""
    large = np.random.default_rng(0).standard_normal((16384, 1024), dtype=np.float32)
    tensors = {"large": large, "small": large[:1]}
    tf2flax.save_checkpoint(tmp_path / "m", tensors)
    done = run_forked(
        WORKER, tmp_path / "m", tmp_path / "n", check=True, imports=LISTING
    )
    assert int(done.stdout) < 24 << 20
