"""CRC-32C: whichever package computes it, the same number."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import crc32c as reference
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tf2flax._formats.wire import coding

POLYNOMIAL = 0x82F63B78  # of CRC-32C, its bits reversed


def bit_by_bit(data: bytes, crc: int = 0) -> int:
    """By the definition."""
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (POLYNOMIAL if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@given(data=st.binary(max_size=300), cut=st.integers(0, 300))
@example(data=b"123456789", cut=4)
@example(data=b"", cut=0)
def test_by_definition(data: bytes, cut: int) -> None:
    assert coding.crc32c(data) == bit_by_bit(data)
    assert coding.crc32c(data[cut:], coding.crc32c(data[:cut])) == bit_by_bit(data)


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 1000, 1 << 14, (1 << 20) + 7])
@pytest.mark.parametrize("offset", [0, 1, 31])
def test_of_any_buffer_wherever_it_begins(size: int, offset: int) -> None:
    """Long ones are folded in registers, and begin at no particular address."""
    array = np.random.default_rng(size).integers(0, 256, size + offset, np.uint8)
    part = array[offset:]
    expected = reference.crc32c(part.tobytes(), 0x12345678)
    for buffer in (part.tobytes(), bytearray(part), part.data, part):
        assert coding.crc32c(buffer, 0x12345678) == expected
    read_only = part.view()
    read_only.flags.writeable = False
    assert coding.crc32c(read_only.data, 0x12345678) == expected


def old_fastcrc(data: Any, _crc: int | None = None) -> int:
    raise TypeError(f"argument 'data': '{type(data).__name__}' is no 'bytes'")


@pytest.mark.parametrize(
    "found", [None, types.SimpleNamespace(), old_fastcrc, lambda _data, _crc=0: 7]
)
def test_a_package_that_is_absent_or_old_is_not_used(
    found: Callable[..., int] | types.SimpleNamespace | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module: Any = types.SimpleNamespace(iscsi=found) if callable(found) else found
    monkeypatch.setitem(sys.modules, "fastcrc", module and types.ModuleType("fastcrc"))
    monkeypatch.setitem(sys.modules, "fastcrc.crc32", module)
    assert coding._fastest_crc32c() is reference.crc32c


def test_the_fastest_that_is_there_is_used() -> None:
    fastcrc = pytest.importorskip("fastcrc")
    assert coding._fastest_crc32c() is fastcrc.crc32.iscsi
