"""Varints: 7 bits a byte, least significant first.

Source: tensorflow/core/lib/core/coding.cc.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tf2flax._errors import MalformedError

_MAX_NBYTES: Final = 10
_UINT64_MAX: Final = 2**64 - 1


def read_varint64(buffer: Sequence[int], pos: int, stop: int) -> tuple[int, int]:
    """Reads one varint of at most 64 bits.

    Args:
        buffer: The bytes.
        pos: Where it begins.
        stop: Where it must have ended.

    Returns:
        The value, and the position after it.

    Raises:
        MalformedError: It does not end, or needs more than 64 bits.

    Examples:
        >>> read_varint64(bytes([0xAC, 0x02]), 0, 2)
        (300, 2)
    """
    value = 0
    for i in range(_MAX_NBYTES):
        if pos + i >= stop:
            raise MalformedError(f"a varint is cut off at byte {stop}")
        byte = buffer[pos + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            if value > _UINT64_MAX:
                break
            return value, pos + i + 1
    raise MalformedError(f"a varint at byte {pos} needs more than 64 bits")


def encode_varint64(value: int) -> bytes:
    """Encodes a varint.

    Args:
        value: The number, `0 <= value < 2**64`.

    Returns:
        Its bytes.

    Examples:
        >>> encode_varint64(300).hex()
        'ac02'
    """
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
