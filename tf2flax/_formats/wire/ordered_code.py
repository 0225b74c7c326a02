"""Keys under which slices are stored: a name and extents in an order-keeping code.

Source: tensorflow/core/lib/strings/ordered_code.cc and
tensorflow/core/util/saved_tensor_slice_util.cc.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tf2flax._base.errors import MalformedError

# Within a string, bytes 0x00 and 0xff are escaped, and this ends it.
_TERMINATOR: Final = b"\0\x01"
_ESCAPED_ZERO: Final = b"\0\xff"
_ESCAPED_FF: Final = b"\xff\0"
# The longest signed number: 64 bits, 7 in each byte. Source: `kLengthToHeaderBits`.
_MAX_SIGNED_NBYTES: Final = 10


def encode_slice_key(name: bytes, extents: Sequence[tuple[int, int]]) -> bytes:
    """Encodes the key of one stored slice.

    Args:
        name: The tensor's key.
        extents: Start and length along every axis; length -1 for a whole axis.

    Returns:
        The key.

    Examples:
        >>> encode_slice_key(b"w", [(0, -1), (2, 3)]).hex()
        '007700010102807f8283'
    """
    codes = [_encode_unsigned(0), _encode_string(name), _encode_unsigned(len(extents))]
    for start, length in extents:
        codes += [_encode_signed(start), _encode_signed(length)]
    return b"".join(codes)


def decode_slice_key(
    key: bytes,
) -> tuple[bytes, tuple[tuple[int, int], ...]] | None:
    """Decodes the key of a stored slice.

    Args:
        key: Any key of a table.

    Returns:
        The tensor's key and the extents; None where it is not such a key.

    Examples:
        >>> decode_slice_key(encode_slice_key(b"w", [(0, -1), (2, 3)]))
        (b'w', ((0, -1), (2, 3)))
    """
    try:
        zero, pos = _decode_unsigned(key, 0)
        if zero:
            return None
        name, pos = _decode_string(key, pos)
        rank, pos = _decode_unsigned(key, pos)
        if 2 * rank > len(key) - pos:
            return None
        extents: list[tuple[int, int]] = []
        for _ in range(rank):
            start, pos = _decode_signed(key, pos)
            length, pos = _decode_signed(key, pos)
            extents.append((start, length))
    except MalformedError:
        return None
    return (name, tuple(extents)) if pos == len(key) else None


def _encode_unsigned(value: int) -> bytes:
    """Length of the number in bytes, then the number, big-endian."""
    nbytes = (value.bit_length() + 7) // 8
    return bytes([nbytes]) + value.to_bytes(nbytes, "big")


def _decode_unsigned(data: bytes, pos: int) -> tuple[int, int]:
    if pos >= len(data):
        raise MalformedError("an ordered number is cut off")
    nbytes, pos = data[pos], pos + 1
    if nbytes > 8 or pos + nbytes > len(data):
        raise MalformedError("an ordered number is cut off")
    return int.from_bytes(data[pos : pos + nbytes], "big"), pos + nbytes


def _encode_string(text: bytes) -> bytes:
    # 0xff first: escaping a zero adds 0xff bytes, escaping an 0xff adds zeros.
    out = bytearray()
    for byte in text:
        if byte == 0x00:
            out += _ESCAPED_ZERO
        elif byte == 0xFF:
            out += _ESCAPED_FF
        else:
            out.append(byte)
    return bytes(out) + _TERMINATOR


def _decode_string(data: bytes, pos: int) -> tuple[bytes, int]:
    out = bytearray()
    while pos < len(data):
        byte = data[pos]
        if byte not in (0x00, 0xFF):
            out.append(byte)
            pos += 1
            continue
        pair = data[pos : pos + 2]
        pos += 2
        if pair == _TERMINATOR:
            return bytes(out), pos
        if pair == _ESCAPED_ZERO:
            out.append(0x00)
        elif pair == _ESCAPED_FF:
            out.append(0xFF)
        else:
            break
    raise MalformedError("an ordered string does not end")


def _signed_nbytes(value: int) -> int:
    """Bytes that a signed number takes: 7 of its bits in each, sign included."""
    magnitude = ~value if value < 0 else value
    return magnitude.bit_length() // 7 + 1


def _encode_signed(value: int) -> bytes:
    """A prefix of as many ones as bytes, less one, then the number; sign inverted.

    Negative numbers are the complement of positive ones, so that all sort correctly.
    """
    magnitude = ~value if value < 0 else value
    nbytes = _signed_nbytes(value)
    bits = 8 * nbytes
    header = ((1 << nbytes) - 1) << (bits - nbytes)
    encoded = (header | magnitude).to_bytes(nbytes, "big")
    return bytes(b ^ 0xFF for b in encoded) if value < 0 else encoded


def _decode_signed(data: bytes, pos: int) -> tuple[int, int]:
    if pos >= len(data):
        raise MalformedError("an ordered signed number is cut off")
    is_negative = data[pos] < 0x80
    head = data[pos : pos + _MAX_SIGNED_NBYTES]
    if is_negative:
        head = bytes(b ^ 0xFF for b in head)
    # As many ones as bytes, then a zero, then the number; of more than 7 bytes the ones
    # reach into the second:
    #     2 bytes  110nnnnn nnnnnnnn        9 bytes  11111111 10nnnnnn nnnnnnnn ...
    nbytes = 0
    for byte in head[:2]:
        ones = 8 - (byte ^ 0xFF).bit_length()
        nbytes += ones
        if ones < 8:
            break
    if not 1 <= nbytes <= _MAX_SIGNED_NBYTES or nbytes > len(head):
        raise MalformedError("an ordered signed number is cut off")
    bits = 8 * nbytes
    header = ((1 << nbytes) - 1) << (bits - nbytes)
    magnitude = int.from_bytes(head[:nbytes], "big") ^ header
    if _signed_nbytes(magnitude) != nbytes or magnitude >= 2**63:
        raise MalformedError("an ordered signed number is not in its shortest form")
    return (~magnitude if is_negative else magnitude), pos + nbytes
