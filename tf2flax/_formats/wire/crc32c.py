"""CRC-32C, and the mask under which TensorFlow stores it.

Source: tensorflow/core/lib/hash/crc32c.h.
"""

from __future__ import annotations

import functools
from typing import Final

import crc32c as _crc32c

_MASK_DELTA: Final = 0xA282EAD8
_UINT32: Final = 0xFFFFFFFF
# The polynomial of CRC-32C, x^0 in the highest bit, without x^32.
_POLYNOMIAL: Final = 0x82F63B78


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


def combine(first: int, second: int, second_nbytes: int) -> int:
    """Computes the CRC of bytes from the CRCs of the first and of the others.

    A CRC is the remainder of a polynomial over GF(2): appending n bytes multiplies
    what stands before them by x^(8n).

    Args:
        first: CRC of the first bytes, unmasked.
        second: CRC of the bytes behind them, unmasked.
        second_nbytes: Number of those bytes.

    Returns:
        The CRC of both, unmasked.

    Examples:
        >>> hex(combine(crc32c(b"12345"), crc32c(b"6789"), 4))
        '0xe3069283'
    """
    return _multiply(_power(8 * second_nbytes), first) ^ second


@functools.lru_cache(maxsize=256)
def _power(exponent: int) -> int:
    """X to some power, modulo the polynomial."""
    result, square = 1 << 31, 1 << 30
    while exponent:
        if exponent & 1:
            result = _multiply(square, result)
        square = _multiply(square, square)
        exponent >>= 1
    return result


def _multiply(a: int, b: int) -> int:
    """The product of two polynomials, modulo the polynomial."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product
