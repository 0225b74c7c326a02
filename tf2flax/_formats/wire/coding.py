"""Varints, and CRC-32C under the mask with which TensorFlow stores it.

A varint has 7 bits a byte, least significant first.

Source: tensorflow/core/lib/core/coding.cc, tensorflow/core/lib/hash/crc32c.h.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Final

from tf2flax._base.errors import MalformedError

# The check value of CRC-32C: of the text "123456789".
_CRC_OF_DIGITS: Final = 0xE3069283
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


def decode_varint(varint: bytes) -> int:
    """Decodes one varint whose bytes are known to be it: the top bit ends it.

    Args:
        varint: Its bytes, nine at most.

    Returns:
        The value.

    Examples:
        >>> decode_varint(bytes([0xAC, 0x02]))
        300
    """
    bits = int.from_bytes(varint, "little")
    # Seven bits of each byte move together; most varints have four bytes or fewer.
    value = (
        bits & 0x7F | bits >> 1 & 0x3F80 | bits >> 2 & 0x1FC000 | bits >> 3 & 0xFE00000
    )
    for number in range(4, len(varint)):
        value |= (varint[number] & 0x7F) << 7 * number
    return value


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
    return _crc32c(data, crc)


def _fastest_crc32c() -> Callable[[Any, int], int]:
    """The fastest function that is installed: of data, and the CRC of what came before.

    fastcrc, an extra, folds 64 bytes at once where the processor can: it takes half of
    crc32c's time there, and is imported in a tenth of it. Its first versions take no
    memoryview, and hold the GIL.
    """
    try:
        from fastcrc.crc32 import iscsi

        if iscsi(memoryview(b"56789"), iscsi(b"1234")) == _CRC_OF_DIGITS:
            return iscsi
    except (ImportError, AttributeError, TypeError):
        pass
    import crc32c

    return crc32c.crc32c


_crc32c: Final = _fastest_crc32c()


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
