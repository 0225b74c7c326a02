"""CRC-32C, and the mask under which TensorFlow stores it.

Source: tensorflow/core/lib/hash/crc32c.h.
"""

from __future__ import annotations

from typing import Final

import crc32c as _crc32c

_MASK_DELTA: Final = 0xA282EAD8
_UINT32: Final = 0xFFFFFFFF


def crc32c(data: bytes | bytearray | memoryview, crc: int = 0) -> int:
    """Computes or continues a CRC-32C; releases the GIL for long buffers.

    Args:
        data: The bytes.
        crc: CRC of the bytes before them.

    Returns:
        The CRC of both, unmasked.

    Examples:
        >>> hex(crc32c(b"123456789"))
        '0xe3069283'
    """
    return _crc32c.crc32c(data, crc)


def mask(crc: int) -> int:
    """Masks a CRC the way files store it.

    Args:
        crc: The CRC.

    Returns:
        Its stored form.

    Examples:
        >>> unmask(mask(7))
        7
    """
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & _UINT32


def unmask(masked: int) -> int:
    """Undoes `mask`.

    Args:
        masked: A stored CRC.

    Returns:
        The CRC itself.
    """
    rotated = (masked - _MASK_DELTA) & _UINT32
    return ((rotated >> 17) | (rotated << 15)) & _UINT32
