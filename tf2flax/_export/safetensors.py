"""Safetensors: a header in JSON, then the elements of all tensors, without gaps.

    8 bytes       | N bytes                                    |
    N, uint64 LE  | {"a": {"dtype", "shape", "data_offsets"}}  | aaaa | bb | …

Source: https://github.com/huggingface/safetensors, README.md, src/tensor.rs.
"""

from __future__ import annotations

import json
from collections.abc import Container, Sequence
from typing import Final

import ml_dtypes
import numpy as np

from tf2flax._base.errors import AssignmentError, UnsupportedError
from tf2flax._base.text import list_names

from .exporter import ExportedTensor, Exporter, TensorSource
from .outputs import raw_file

DTYPES: Final = {
    np.dtype(dtype): name
    for dtype, name in (
        (np.bool_, "BOOL"),
        (np.uint8, "U8"),
        (np.int8, "I8"),
        (np.int16, "I16"),
        (np.uint16, "U16"),
        (np.float16, "F16"),
        (ml_dtypes.bfloat16, "BF16"),
        (np.int32, "I32"),
        (np.uint32, "U32"),
        (np.float32, "F32"),
        (np.float64, "F64"),
        (np.int64, "I64"),
        (np.uint64, "U64"),
        (np.complex64, "C64"),
        (ml_dtypes.float8_e4m3fn, "F8_E4M3"),
        (ml_dtypes.float8_e5m2, "F8_E5M2"),
    )
}
# Names that mean something else in a header.
_RESERVED: Final = "__metadata__"
# Readers refuse longer headers (`MAX_HEADER_SIZE`, tensor.rs).
MAX_HEADER_NBYTES: Final = 100_000_000
# Elements begin at multiples of it (bytes).
_ALIGNMENT: Final = 8


class Safetensors(Exporter):
    """One file of safetensors."""

    name = "safetensors"
    endings = (".safetensors",)

    def check(self, tensors: Sequence[ExportedTensor]) -> None:
        """Refuses dtypes that safetensors lack, and the one name that is taken."""
        refuse_dtypes(tensors, DTYPES, "safetensors")
        for tensor in tensors:
            if tensor.name == _RESERVED:
                raise AssignmentError(
                    f"Name `{_RESERVED}` has another meaning in safetensors. Move the "
                    "tensor with assignment_map."
                )
            refuse_invalid_text(tensor.name)

    def write(self, path: str, source: TensorSource) -> None:
        """Writes the header, then the elements as they are read."""
        header, offsets, nbytes = _layout(source)
        with raw_file(path, nbytes, offsets, head=header) as file:
            source.read_into(file.take, in_boxes=True)


def _layout(source: TensorSource) -> tuple[bytes, list[tuple[str, int]], int]:
    """The header, the places of the tensors in the file, and its size in bytes."""
    # As the library sorts them: larger elements first, so that all are aligned.
    tensors = sorted(
        source.tensors, key=lambda tensor: (-tensor.dtype.itemsize, tensor.name)
    )
    fields: dict[str, object] = {_RESERVED: dict(source.metadata)}
    offset = 0
    starts: list[tuple[str, int]] = []
    for tensor in tensors:
        starts.append((tensor.name, offset))
        end = offset + tensor.nbytes
        fields[tensor.name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    if len(text) > MAX_HEADER_NBYTES:
        raise UnsupportedError(
            f"{len(tensors)} tensors need a header of {len(text)} bytes, and readers "
            f"of safetensors refuse more than {MAX_HEADER_NBYTES}. Convert a part of "
            "the checkpoint at a time, with assignment_map."
        )
    text += b" " * (-len(text) % _ALIGNMENT)
    header = len(text).to_bytes(8, "little") + text
    places = [(name, len(header) + start) for name, start in starts]
    return header, places, len(header) + offset


def refuse_dtypes(
    tensors: Sequence[ExportedTensor], dtypes: Container[np.dtype], format_name: str
) -> None:
    """Refuses tensors whose dtypes a format lacks.

    Raises:
        UnsupportedError: There are some; a few are named for each dtype.
    """
    lacking: dict[str, list[str]] = {}
    for tensor in tensors:
        if tensor.dtype not in dtypes:
            lacking.setdefault(str(tensor.dtype), []).append(tensor.name)
    if lacking:
        listed = "; ".join(
            f"{dtype} of {list_names(names, 3)}" for dtype, names in lacking.items()
        )
        # A cast of a complex tensor to a real one would lose half of it.
        is_complex = any(dtype.startswith("complex") for dtype in lacking)
        example = "complex64" if is_complex else "float32"
        holds = np.dtype(example) in dtypes
        give = f'Give a dtype that it holds (dtype=[(regex, "{example}")]), or leave'
        raise UnsupportedError(
            f"Format {format_name!r} does not hold {listed}. "
            f"{give if holds else 'Leave'} them out with assignment_map."
        )


def refuse_invalid_text(name: str) -> None:
    """Refuses a name that is not valid text: JSON holds no other bytes.

    Raises:
        AssignmentError: It has bytes that are not UTF-8.
    """
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise AssignmentError(
            f"Name {name!r} is not valid text: {error.reason}. Move the tensor with "
            "assignment_map."
        ) from error
