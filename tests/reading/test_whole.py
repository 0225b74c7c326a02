"""Whole tensors: into a dict or only checked, by the same machine, in tiny chunks."""

from __future__ import annotations

import pathlib
import threading

import numpy as np
import pytest
from bundle_writer import Tensor, rows_in, write_bundle
from http_server import serving
from ml_dtypes import bfloat16
from old_files import write_as_if_old

import tf2flax
from tf2flax._base.manifest import TensorEntry
from tf2flax._base.tuning import Tuning
from tf2flax._reading import scheduling
from tf2flax._reading.whole import check_many, read_entry, read_many

# Makes tensors of some bytes as hard to read as those of some GiB.
TINY = Tuning(
    chunk_nbytes=32, small_nbytes=24, job_nbytes=64, min_direct_nbytes=8,
    read_cost_nbytes=8,
)  # fmt: skip
GRID = [
    (rows, columns)
    for rows in (slice(0, 3), slice(3, 11))
    for columns in (slice(0, 5), slice(5, 7))
]


def tensors() -> dict[str, Tensor]:
    array = np.arange(77, dtype=np.float32).reshape(11, 7)
    strings = np.array([b"", b"ab", b"c" * 40], object)
    return {
        "columns": Tensor(array + 1, rows_in(array, 3, axis=1)),
        "complex": Tensor((array + 2).astype(np.complex64)),
        "empty": Tensor(array[:0]),
        "grid": Tensor(array + 3, GRID),
        "narrow": Tensor((array + 4).astype(bfloat16)),
        "rows": Tensor(array + 5, rows_in(array, 4)),
        "scalar": Tensor(np.array(7, np.int64)),
        "strings": Tensor(strings),
        "strings/sliced": Tensor(strings, [(slice(0, 2),), (slice(2, 3),)]),
        **{f"small/{i}": Tensor(np.array([i, -i], np.int32)) for i in range(9)},
        "whole": Tensor(array),
    }


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    write_bundle(tmp_path / "m", tensors())
    return tmp_path / "m"


def entries_of(path: pathlib.Path) -> list[TensorEntry]:
    manifest = tf2flax.open_checkpoint(path).manifest
    return [manifest.entry(name) for name in manifest.names]


class Counter:
    """Counts bytes by tensor, from several threads."""

    def __init__(self) -> None:
        self.nbytes: dict[str, int] = {}
        self._lock = threading.Lock()

    def __call__(self, nbytes: int, name: str) -> None:
        with self._lock:
            self.nbytes[name] = self.nbytes.get(name, 0) + nbytes


@pytest.mark.parametrize("tuning", [TINY, Tuning()], ids=["tiny", "default"])
def test_all_ways_to_read_agree(path: pathlib.Path, tuning: Tuning) -> None:
    entries = entries_of(path)
    counter = Counter()
    arrays = read_many(entries, advance=counter, tuning=tuning)
    assert counter.nbytes == {entry.name: entry.nbytes for entry in entries}
    for entry, read in zip(entries, arrays, strict=True):
        wanted = tensors()[entry.name].array
        for array in (read, read_entry(entry)):
            assert array.dtype == wanted.dtype
            assert array.shape == wanted.shape
            assert array.tolist() == wanted.tolist()
            assert array.flags.writeable
    counter = Counter()
    assert check_many(entries, counter, tuning) == {}
    assert counter.nbytes == {entry.name: entry.nbytes for entry in entries}


@pytest.mark.parametrize("tuning", [TINY, Tuning()], ids=["tiny", "default"])
def test_damage_is_found_wherever_it_is(path: pathlib.Path, tuning: Tuning) -> None:
    entries = entries_of(path)
    data = path.with_name("m.data-00000-of-00001")
    whole = data.read_bytes()
    for entry in entries:
        for number, piece in enumerate(entry.pieces):
            assert piece.data_file is not None
            if not piece.nbytes:
                continue
            for place in (piece.span.start, piece.span.stop - 1):
                damaged = bytearray(whole)
                damaged[place] ^= 1
                write_as_if_old(data, damaged)
                fresh = entries_of(path)
                errors = check_many(fresh, Counter(), tuning)
                assert list(errors) == [entry.name]
                assert f"Tensor `{entry.name}` is damaged" in str(errors[entry.name])
                with pytest.raises(tf2flax.DamagedError, match=f"`{entry.name}`"):
                    read_many(fresh, tuning=tuning)
                if not entry.spec.dtype.is_string:
                    arrays = read_many(fresh, verify=False, tuning=tuning)
                    assert len(arrays) == len(fresh)
            # Of several damaged pieces, the first is reported.
            if number == 1:
                damaged = bytearray(whole)
                for other in entry.pieces:
                    assert other.data_file is not None
                    damaged[other.span.start] ^= 1
                write_as_if_old(data, damaged)
                errors = check_many(entries_of(path), Counter(), tuning)
                first = min(entry.pieces, key=lambda piece: piece.box)
                assert first.place in str(errors[entry.name])


@pytest.mark.parametrize("tuning", [TINY, Tuning()], ids=["tiny", "default"])
def test_what_a_short_file_lacks_is_reported_alone(
    path: pathlib.Path, tuning: Tuning
) -> None:
    entries = entries_of(path)
    data = path.with_name("m.data-00000-of-00001")
    stored = data.read_bytes()
    for size in (0, len(stored) // 3, len(stored) - 1):
        write_as_if_old(data, stored[:size])
        lacking = {
            entry.name
            for entry in entries
            for piece in entry.pieces
            if piece.data_file is not None and piece.span.stop > size
        }
        assert set(check_many(entries_of(path), Counter(), tuning)) == lacking


@pytest.mark.parametrize("is_local", [True, False])
@pytest.mark.parametrize(
    ("cut", "lost"), [(1, "d"), (400, "d"), (401, "cd"), (900, "bcd"), (1250, "bcd")]
)
def test_small_tensors_beyond_the_end_of_a_file_are_named(
    tmp_path: pathlib.Path, cut: int, lost: str, is_local: bool
) -> None:
    """Also where a large one lies between them, so that several reads are one job."""
    small = np.ones(100, np.float32)
    names = {"a": small, "big": np.ones((300, 300), np.float32)}
    names |= dict.fromkeys("bcd", small)
    write_bundle(tmp_path / "m", {name: Tensor(a) for name, a in names.items()})
    data = tmp_path / "m.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-cut])
    files = {f"/{path.name}": path.read_bytes() for path in tmp_path.iterdir()}
    with serving(files) as served:
        place = tmp_path if is_local else served.url
        checkpoint = tf2flax.open_checkpoint(f"{place}/m")
        found = {damage.name for damage in checkpoint.verify().damaged}
        assert found - {str(data), f"{served.url}/{data.name}"} == {
            *lost, *(("big",) if cut > 1200 else ())
        }  # fmt: skip
        for name in names:
            if name not in found:
                checkpoint[name].read()


def test_an_interrupt_goes_up_where_no_thread_reads(
    path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it comes as a job begins, before anything would report it."""
    asked: list[bool] = []
    are_given_up = scheduling.Readers.are_given_up

    def interrupted(self: scheduling.Readers) -> bool:
        asked.append(True)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return are_given_up.__get__(self)

    monkeypatch.setattr(scheduling.Readers, "are_given_up", property(interrupted))
    entries = [entry for entry in entries_of(path) if entry.name == "whole"]
    with pytest.raises(KeyboardInterrupt):
        read_many(entries)
    assert len(asked) == 2
