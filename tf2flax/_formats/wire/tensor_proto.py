"""Values of tensors inside messages: `SavedTensorSlices` and `TensorProto` -> arrays.

A tensor may take gigabytes in one message, so that fields are found where they lie and
packed numbers are read in place, not through message objects.

Source: tensorflow/core/util/saved_tensor_slice.proto,
tensorflow/core/framework/tensor.proto, https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from tf2flax._base.errors import MalformedError
from tf2flax._base.memory import empty
from tf2flax._base.values import StoredDtype

from .coding import read_varint64

_VARINT: Final = 0
_FIXED64: Final = 1
_BYTES: Final = 2
_FIXED32: Final = 5
# A varint takes ten bytes at most.
_MAX_VARINT_NBYTES: Final = 10

# Field numbers of TensorProto.
_DTYPE: Final = 1
_SHAPE: Final = 2
_CONTENT: Final = 4
_STRINGS: Final = 8
# dtype -> field that holds its values, and how they are stored there: as the varint of
# a signed or unsigned number, or as numbers of fixed width.
_TYPED_FIELDS: Final[dict[str, tuple[int, str]]] = {
    "float32": (5, "<f4"),
    "float64": (6, "<f8"),
    "int32": (7, "int32"),
    "uint8": (7, "int32"),
    "int16": (7, "int32"),
    "int8": (7, "int32"),
    "uint16": (7, "int32"),
    "qint8": (7, "int32"),
    "quint8": (7, "int32"),
    "qint16": (7, "int32"),
    "quint16": (7, "int32"),
    "qint32": (7, "int32"),
    "complex64": (9, "<f4"),
    "int64": (10, "int64"),
    "bool": (11, "bool"),
    "complex128": (12, "<f8"),
    "float16": (13, "bits"),
    "bfloat16": (13, "bits"),
    "uint32": (16, "uint32"),
    "uint64": (17, "uint64"),
}


@dataclasses.dataclass(frozen=True, slots=True)
class SavedSlice:
    """One stored slice of a V1 checkpoint; its values are not decoded yet.

    Attributes:
        name: The tensor's key.
        extents: The `TensorSliceProto` that says which slice this is, as stored.
        tensor: The `TensorProto` with the values, in place.
    """

    name: bytes
    extents: bytes
    tensor: memoryview


def parse_saved_slice(data: memoryview) -> SavedSlice:
    """Finds the fields of a `SavedTensorSlices` that holds one slice.

    Args:
        data: The message.

    Returns:
        Its fields, in place.

    Raises:
        MalformedError: It does not parse, or holds no slice.
    """
    saved = _last(data, 2)
    if saved is None:
        raise MalformedError("expected the values of a slice, got a message without")
    tensor = _last(saved, 3)
    return SavedSlice(
        name=bytes(_last(saved, 1) or b""),
        extents=bytes(_last(saved, 2) or b""),
        tensor=memoryview(b"") if tensor is None else tensor,
    )


def decode_tensor(
    data: memoryview, dtype: StoredDtype, code: int, shape: tuple[int, ...]
) -> np.ndarray:
    """Decodes the values of a `TensorProto`, all of which must be there.

    Args:
        data: The message.
        dtype: What it must hold.
        code: TensorFlow's number of that dtype.
        shape: The shape that it must have; its own may be missing.

    Returns:
        Array of `shape` in native byte order; strings as `object`.

    Raises:
        MalformedError: It does not parse; or has another dtype, another shape, too few
            or too many values, or one that the dtype cannot hold.
    """
    count = 1
    for dim in shape:
        count *= dim
    fields: dict[int, list[tuple[int, Any]]] = {}
    number, storage = _TYPED_FIELDS.get(dtype.name, (_STRINGS, "strings"))
    wanted = (_DTYPE, _SHAPE, _CONTENT, number)
    for field, kind, value in _fields(data):
        if field in wanted:
            fields.setdefault(field, []).append((kind, value))
    _check_dtype(fields.get(_DTYPE, []), code, dtype)
    _check_shape(fields.get(_SHAPE, []), shape)
    contents = [
        bytes(value) for kind, value in fields.get(_CONTENT, []) if kind == _BYTES
    ]
    values = fields.get(number, [])
    if dtype.is_string:
        return _strings(values, count).reshape(shape)
    if contents and contents[-1]:
        array = _from_content(contents[-1], dtype, count)
    elif storage.startswith("<"):
        array = _from_fixed(values, np.dtype(storage), dtype, count)
    else:
        array = _from_varints(values, storage, dtype, count)
    return array.reshape(shape)


def _from_content(content: bytes, dtype: StoredDtype, count: int) -> np.ndarray:
    if len(content) != count * dtype.numpy.itemsize:
        raise MalformedError(
            f"expected {count * dtype.numpy.itemsize} bytes of values, got "
            f"{len(content)}"
        )
    return np.frombuffer(content, dtype.numpy).copy()


def _from_fixed(
    values: list[tuple[int, Any]], stored: np.dtype, dtype: StoredDtype, count: int
) -> np.ndarray:
    """Numbers of fixed width: packed into one field or several, or one by one."""
    single = _FIXED32 if stored.itemsize == 4 else _FIXED64
    runs: list[memoryview | bytes] = []
    for kind, value in values:
        if kind not in (_BYTES, single) or len(value) % stored.itemsize:
            raise MalformedError(f"its {dtype.name} values are stored as another type")
        runs.append(value)
    nbytes = sum(map(len, runs))
    if nbytes != count * dtype.numpy.itemsize:
        _wrong_count(nbytes // dtype.numpy.itemsize, count)
    out = empty(count, dtype.numpy)
    buffer = out.view(np.uint8)
    start = 0
    for run in runs:
        buffer[start : start + len(run)] = np.frombuffer(run, np.uint8)
        start += len(run)
    return out


def _from_varints(
    values: list[tuple[int, Any]], storage: str, dtype: StoredDtype, count: int
) -> np.ndarray:
    runs: list[np.ndarray] = []
    total = 0
    for kind, value in values:
        if kind == _VARINT:
            run = np.array([value], np.uint64)
        elif kind == _BYTES:
            run = decode_varints(value)
        else:
            raise MalformedError(f"its {dtype.name} values are stored as another type")
        total += len(run)
        if total > count:
            _wrong_count(total, count)
        runs.append(run)
    if total != count:
        _wrong_count(total, count)
    numbers = np.concatenate([np.zeros(0, np.uint64), *runs])
    if storage == "bool":
        return numbers != 0
    if storage == "bits":
        if numbers.size and numbers.max() > np.iinfo(np.uint16).max:
            raise MalformedError(f"a {dtype.name} value has more than 16 bits")
        return numbers.astype(np.uint16).view(dtype.numpy)
    # A varint holds what the field's type can: the low bits count, as in protobuf.
    typed = numbers.astype(storage)
    out = typed.astype(dtype.numpy)
    if not np.array_equal(out.astype(storage), typed):
        raise MalformedError(f"a value is beyond what {dtype.name} holds")
    return out


def _strings(values: list[tuple[int, Any]], count: int) -> np.ndarray:
    if len(values) != count:
        _wrong_count(len(values), count)
    out = empty(count, object)
    for i, (kind, value) in enumerate(values):
        if kind != _BYTES:
            raise MalformedError("its strings are stored as another type")
        out[i] = bytes(value)
    return out


def _wrong_count(count: int, expected: int) -> None:
    raise MalformedError(f"expected {expected} values, got {count}")


def _check_dtype(values: list[tuple[int, Any]], code: int, dtype: StoredDtype) -> None:
    """TensorFlow leaves the dtype out of the values; where it is there, it agrees."""
    if values and values[-1] not in ((_VARINT, 0), (_VARINT, code)):
        raise MalformedError(
            f"expected values of dtype {dtype.name}, got dtype number {values[-1][1]}"
        )


def _check_shape(values: list[tuple[int, Any]], shape: tuple[int, ...]) -> None:
    # TensorFlow leaves the shape out of the values as well. As in protobuf, the last
    # of several values of a field counts, and what is left out is 0.
    if not values:
        return
    kind, value = values[-1]
    if kind != _BYTES:
        raise MalformedError("its shape is stored as another type")
    dims: list[int] = []
    for field, kind, dim in _fields(value):
        if field == 2 and kind == _BYTES:
            sizes = [size for number, _, size in _fields(dim) if number == 1]
            dims.append(sizes[-1] if sizes else 0)
    if dims and tuple(dims) != shape:
        raise MalformedError(
            f"expected values of shape {list(shape)}, got shape {dims[:16]}"
        )


def decode_varints(data: memoryview) -> np.ndarray:
    """Decodes packed varints, all at once.

    Every byte of a varint but its last has the highest bit set; the others are digits,
    the least significant first. So the i-th digits of all numbers are added at once:

        bytes    01 | AC 02 | 07        last    0  2  3
        digits    1 | 2C  2 |  7        first   0  1  3

    Args:
        data: Their bytes.

    Returns:
        The numbers, uint64.

    Raises:
        MalformedError: The last does not end, or one is too long.

    Examples:
        >>> decode_varints(memoryview(bytes([1, 0xAC, 0x02])))
        array([  1, 300], dtype=uint64)
    """
    raw = np.frombuffer(data, np.uint8)
    last = np.flatnonzero(raw < 0x80)
    if not raw.size:
        return np.zeros(0, np.uint64)
    if not last.size or last[-1] != raw.size - 1:
        raise MalformedError("a varint is cut off")
    if last.size == raw.size:  # small numbers only
        return raw.astype(np.uint64)
    first = np.concatenate([[0], last[:-1] + 1])
    lengths = last - first + 1
    longest = int(lengths.max())
    if longest > _MAX_VARINT_NBYTES:
        raise MalformedError("a varint needs more than 64 bits")
    out = np.zeros(last.size, np.uint64)
    for i in range(longest):
        has_more = lengths > i
        digits = (raw[first[has_more] + i] & 0x7F).astype(np.uint64)
        out[has_more] |= digits << np.uint64(7 * i)
    return out


def _last(data: memoryview, number: int) -> memoryview | None:
    """The last field of a number that holds bytes, which is the one that counts."""
    last = None
    for field, kind, value in _fields(data):
        if field == number and kind == _BYTES:
            last = value
    return last


def _fields(data: memoryview) -> Iterator[tuple[int, int, Any]]:
    """Walks over the fields of a message.

    Yields:
        Number, wire type, and the value: an int, or its bytes in place.
    """
    pos, stop = 0, len(data)
    while pos < stop:
        tag, pos = read_varint64(data, pos, stop)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, pos = read_varint64(data, pos, stop)
            yield number, kind, value
            continue
        if kind == _BYTES:
            nbytes, pos = read_varint64(data, pos, stop)
        elif kind in (_FIXED32, _FIXED64):
            nbytes = 4 if kind == _FIXED32 else 8
        else:
            raise MalformedError(f"a message has a field of wire type {kind}")
        if number == 0 or pos + nbytes > stop:
            raise MalformedError("a field leaves its message")
        yield number, kind, data[pos : pos + nbytes]
        pos += nbytes
