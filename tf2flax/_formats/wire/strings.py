"""String tensors: lengths, a checksum of the lengths, then the bytes.

Source: `ReadStringTensor`, `WriteStringTensor`,
tensorflow/core/util/tensor_bundle/tensor_bundle.cc.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tf2flax._base.errors import MalformedError

from .coding import crc32c, encode_varint64, mask, read_varint64

_UINT32_MAX: Final = 2**32 - 1
# Masked CRC of the lengths (bytes).
_CHECKSUM_NBYTES: Final = 4


def encode_strings(elements: Sequence[bytes]) -> tuple[bytes, int]:
    """Encodes the elements of a string tensor, little-endian.

    Args:
        elements: The elements, in row-major order.

    Returns:
        All bytes of the tensor, and the unmasked CRC that its entry stores.

    Examples:
        >>> data, crc = encode_strings([b"a", b""])
        >>> decode_strings(memoryview(data), 2, is_big_endian=False)[0]
        [b'a', b'']
    """
    if not elements:
        return b"", 0
    packed = bytearray()
    lengths = bytearray()
    for element in elements:
        nbytes = len(element)
        packed += nbytes.to_bytes(4 if nbytes <= _UINT32_MAX else 8, "little")
        lengths += encode_varint64(nbytes)
    crc = crc32c(packed)
    checksum = mask(crc).to_bytes(_CHECKSUM_NBYTES, "little")
    crc = crc32c(checksum, crc)
    for element in elements:
        crc = crc32c(element, crc)
    return b"".join((bytes(lengths), checksum, *elements)), crc


def decode_strings(
    data: memoryview, count: int, *, is_big_endian: bool
) -> tuple[list[bytes], int]:
    """Decodes the elements of a string tensor.

    Args:
        data: All bytes of the tensor.
        count: Number of elements.
        is_big_endian: Byte order of the machine that wrote them; lengths are varints,
            but enter the checksums as numbers of that machine.

    Returns:
        The elements, and the unmasked CRC that the tensor's entry stores: of the
        lengths, of their checksum, and of the bytes.

    Raises:
        MalformedError: Lengths or their checksum do not fit the data.
    """
    if not data and not count:
        return [], 0
    if count + _CHECKSUM_NBYTES > len(data):
        raise MalformedError(
            f"{len(data)} bytes cannot hold {count} strings and a checksum"
        )
    order = "big" if is_big_endian else "little"
    lengths: list[int] = []
    packed = bytearray()
    pos = 0
    for _ in range(count):
        length, pos = read_varint64(data, pos, len(data))
        lengths.append(length)
        # Lengths are checksummed as uint32, those beyond it as uint64.
        packed += length.to_bytes(4 if length <= _UINT32_MAX else 8, order)
    crc = crc32c(packed)
    checksum = bytes(data[pos : pos + _CHECKSUM_NBYTES])
    pos += _CHECKSUM_NBYTES
    if pos > len(data):
        raise MalformedError("the checksum of the lengths of its strings is cut off")
    stored = int.from_bytes(checksum, order)
    if stored != mask(crc):
        raise MalformedError(
            f"the lengths of its strings have stored crc32c {stored:08x}, computed "
            f"{mask(crc):08x}"
        )
    if pos + sum(lengths) != len(data):
        raise MalformedError(
            f"strings of {sum(lengths)} bytes do not fill the {len(data) - pos} bytes "
            "after their lengths"
        )
    crc = crc32c(checksum, crc)
    crc = crc32c(data[pos:], crc)
    elements: list[bytes] = []
    for length in lengths:
        elements.append(bytes(data[pos : pos + length]))
        pos += length
    return elements, crc
