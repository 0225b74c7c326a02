"""Writes V1 checkpoints for tests, right and wrong, straight from the format's text.

Source: tensorflow/core/util/saved_tensor_slice.proto, tensorflow/core/framework/
tensor.proto. An encoder of its own, as `bundle_writer` is.
"""

from __future__ import annotations

import pathlib
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from bundle_writer import (
    CODES,
    Tensor,
    extents_of,
    field,
    shape_bytes,
    slice_bytes,
    slice_key,
    table_bytes,
    varint,
)

Encoding = Literal["packed", "unpacked", "mixed", "content"]
# dtype -> field of TensorProto, and how a number is written: struct code, or a varint.
FIELDS = {
    "float32": (5, "<f"), "float64": (6, "<d"), "int32": (7, ""), "uint8": (7, ""),
    "int16": (7, ""), "int8": (7, ""), "uint16": (7, ""), "complex64": (9, "<f"),
    "int64": (10, ""), "bool": (11, ""), "complex128": (12, "<d"), "float16": (13, ""),
    "bfloat16": (13, ""), "uint32": (16, ""), "uint64": (17, ""),
}  # fmt: skip
WHOLE = (0, -1)


def tensor_proto(array: np.ndarray, encoding: Encoding = "packed") -> bytes:
    """The values of an array; TensorFlow leaves dtype and shape out."""
    if array.dtype == object:
        return b"".join(field(8, bytes(element)) for element in array.ravel())
    if encoding == "content":
        return field(4, np.ascontiguousarray(array).tobytes())
    number, code = FIELDS[array.dtype.name]
    numbers: list[Any] = array.ravel().tolist()
    if array.dtype.kind == "c":
        numbers = [part for one in numbers for part in (one.real, one.imag)]
    if number == 13:
        numbers = np.ascontiguousarray(array).view(np.uint16).ravel().tolist()
    encoded = [struct.pack(code, one) if code else varint(int(one)) for one in numbers]
    wire = {"": 0, "<f": 5, "<d": 1}[code]
    if encoding == "packed":
        return field(number, b"".join(encoded)) if encoded else b""
    if encoding == "mixed":
        half = len(encoded) // 2
        first = field(number, b"".join(encoded[:half]))
        encoded = encoded[half:]
    else:
        first = b""
    return first + b"".join(varint(number << 3 | wire) + one for one in encoded)


def saved_slice(
    name: bytes, extents: Sequence[tuple[int, int]], tensor: bytes
) -> bytes:
    parts = field(1, name) + field(2, slice_bytes(extents)) + field(3, tensor)
    return field(2, parts)


def slice_meta(
    name: bytes,
    code: int,
    dims: Sequence[int],
    slices: Sequence[Sequence[tuple[int, int]]],
) -> bytes:
    """What the list says of one tensor."""
    shape = field(2, shape_bytes(dims))
    listed = b"".join(field(4, slice_bytes(one)) for one in slices)
    return field(1, name) + shape + field(3, code) + listed


def saved_list(metas: Sequence[bytes], version: bytes | None = None) -> bytes:
    version = field(1, 1) if version is None else version
    listed = b"".join(field(1, meta) for meta in metas)
    return field(1, listed + field(2, version))


def write_v1(
    path: pathlib.Path,
    tensors: Mapping[str, np.ndarray | Tensor],
    *,
    encoding: Encoding = "packed",
    only: Mapping[str, Sequence[int]] | None = None,
    extra: Mapping[bytes, bytes] | None = None,
    **table: Any,
) -> None:
    """Writes one file.

    `only`: which slices of a tensor go into this file. `extra`: raw entries to add or
    replace.
    """
    metas: list[bytes] = []
    entries: dict[bytes, bytes] = {}
    for name, value in tensors.items():
        tensor = value if isinstance(value, Tensor) else Tensor(value)
        key = name.encode("utf-8", "surrogateescape")
        boxes = tensor.slices or [tuple(slice(None) for _ in tensor.array.shape)]
        chosen = range(len(boxes)) if only is None else only.get(name, ())
        if not len(chosen):
            continue
        extents = [extents_of(boxes[i], tensor.array.shape) for i in chosen]
        code = tensor.code or CODES[tensor.array.dtype.name]
        metas.append(slice_meta(key, code, tensor.array.shape, extents))
        for i, extent in zip(chosen, extents, strict=True):
            part = tensor.array[(*boxes[i], ...)]  # an array, also of rank 0
            stored = tensor_proto(part, encoding)
            entries[slice_key(key, extent)] = saved_slice(key, extent, stored)
    entries[b""] = saved_list(metas)
    entries |= extra or {}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(table_bytes(sorted(entries.items()), **table))
