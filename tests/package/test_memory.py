"""Memory of host arrays: in huge pages, no more than they take, and free when they are.

`docs/decisions.md` promises what the tests here are called.
"""

from __future__ import annotations

import gc
import mmap
import pathlib
import resource
import sys
from collections.abc import Callable

import numpy as np
import pytest

from tf2flax._base import memory
from tf2flax._base.memory import ALIGNMENT, HUGE_NBYTES, aligned_empty

MIB = 1 << 20
_SETTING = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
NEEDS_HUGE_PAGES = pytest.mark.skipif(
    not _SETTING.exists() or "[never]" in _SETTING.read_text(),
    reason="the system has no transparent huge pages",
)
NEEDS_PROC = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
# Around a huge page, whole numbers of them, and tails that are short or nearly full.
SIZES = [
    0, 1, 63, HUGE_NBYTES - 1, HUGE_NBYTES, HUGE_NBYTES + 1, 4 * MIB, 5 * MIB - 12345,
    7 * MIB, 256 * MIB - 100_000,
]  # fmt: skip


def filled(nbytes: int) -> np.ndarray:
    array = aligned_empty((nbytes,), np.dtype(np.uint8))
    array.fill(7)
    return array


def faults_of(function: Callable[[], object]) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    function()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident() -> int:
    """Bytes of anonymous memory of this process that are there."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon")


@pytest.mark.parametrize("nbytes", SIZES)
def test_arrays_are_aligned_writable_and_as_large_as_asked(nbytes: int) -> None:
    array = aligned_empty((nbytes,), np.dtype(np.uint8))
    assert array.__array_interface__["data"][0] % ALIGNMENT == 0 or not nbytes
    assert array.shape == (nbytes,)
    assert array.flags.c_contiguous
    assert array.flags.writeable
    if nbytes:
        array[0] = array[-1] = 5
        assert array[0] == array[-1] == 5


@pytest.mark.parametrize("dtype", ["float64", "int8", "complex128", "bool", "<u2"])
def test_shapes_and_dtypes_are_kept(dtype: str) -> None:
    shape = (3, 1 << 10, 1 << 10)
    array = aligned_empty(shape, np.dtype(dtype))
    assert array.shape == shape
    assert array.dtype == np.dtype(dtype)
    array[...] = 1
    assert array.all()


@NEEDS_HUGE_PAGES
def test_a_large_array_takes_a_page_fault_for_each_huge_page() -> None:
    held: list[np.ndarray] = []
    faults = faults_of(lambda: held.extend(filled(4 * MIB) for _ in range(32)))
    # 32,768 in ordinary pages; where huge ones are scarce, some fall back.
    assert faults < 8_000, faults


@NEEDS_PROC
@pytest.mark.parametrize("nbytes", [4 * MIB, 2 * MIB + 4096, 5 * MIB - 12345])
def test_no_more_memory_than_arrays_take_and_a_hundredth(nbytes: int) -> None:
    gc.collect()
    before = resident()
    held = [filled(nbytes) for _ in range(24)]
    taken = resident() - before
    # The interpreter's own pages, of this test too, are the rest.
    assert taken <= sum(array.nbytes for array in held) * 1.01 + MIB, taken


@NEEDS_PROC
def test_memory_is_free_when_its_array_is_whatever_its_neighbours_do() -> None:
    held = [filled(4 * MIB) for _ in range(24)]
    before = resident()
    del held[::2]
    assert resident() <= before - 12 * 4 * MIB + MIB
    assert all((array == 7).all() for array in held)


@pytest.mark.parametrize(
    "error", [OSError(12, "no mappings left"), AttributeError("x")]
)
def test_without_a_mapping_memory_comes_from_numpy(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_: object, **__: object) -> mmap.mmap:
        raise error

    monkeypatch.setattr(memory.mmap, "mmap", refuse)
    array = filled(5 * MIB)
    assert array.__array_interface__["data"][0] % ALIGNMENT == 0
    assert (array == 7).all()


def test_advice_that_the_system_refuses_is_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory.mmap, "MADV_HUGEPAGE", 9999)
    assert (filled(5 * MIB) == 7).all()


def test_poison_reaches_mapped_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_POISON", 0xFF)
    assert np.isnan(aligned_empty((MIB,), np.dtype(np.float32))).all()
