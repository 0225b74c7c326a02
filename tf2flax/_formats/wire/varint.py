"""Varints: 7 bits a byte, least significant first.

Source: tensorflow/core/lib/core/coding.cc.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tf2flax._base.errors import MalformedError

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
    value = shift = 0
    after = pos
    for byte in buffer[pos : pos + _MAX_NBYTES]:
        after += 1
        if byte < 0x80:
            value |= byte << shift
            if after > stop or value > _UINT64_MAX:
                break
            return value, after
        value |= (byte & 0x7F) << shift
        shift += 7
    if after > stop or after - pos < _MAX_NBYTES:
        raise MalformedError(f"a varint is cut off at byte {stop}")
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
