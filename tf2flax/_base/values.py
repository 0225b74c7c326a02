"""Frozen, validated values that all folders share: ranges, boxes, dtypes, specs, names.

Box((1, 2), (3, 5))        ByteRange(16, 24): bytes 16 to 23 of a file
0 1 2 3 4 5
0 . . . . . .              starts (1, 2), stops (3, 5), shape (2, 3)
1 . . # # # .
2 . . # # # .
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Final

import ml_dtypes
import numpy as np

from .errors import MalformedError

# Largest element count that TensorFlow's own shapes can hold (int64).
# Source: `TensorShapeBase::AddDim`, tensorflow/core/framework/tensor_shape.cc.
MAX_ELEMENTS: Final = 2**63 - 1
# TensorFlow refuses shapes of more axes (`TensorShapeRep::MaxDimensions`).
MAX_STORED_RANK: Final = 254


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class ByteRange:
    """Half-open range `[start, stop)` of one data file, in bytes."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop:
            raise ValueError(f"Expected 0 <= start <= stop, got {self}.")

    @property
    def nbytes(self) -> int:
        """Length of the range, in bytes."""
        return self.stop - self.start


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Box:
    """Index ranges of an array: half-open `[start, stop)` along every axis."""

    starts: tuple[int, ...]
    stops: tuple[int, ...]

    def __post_init__(self) -> None:
        starts, stops = self.starts, self.stops
        if len(starts) != len(stops):
            raise ValueError(f"Expected as many starts as stops, got {self}.")
        if starts and (min(starts) < 0 or any(map(operator.gt, starts, stops))):
            raise ValueError(f"Expected 0 <= start <= stop, got {self}.")

    @staticmethod
    @functools.lru_cache(maxsize=1024)  # many tensors are alike
    def whole(shape: tuple[int, ...]) -> Box:
        """The box that is all of an array of `shape`."""
        return Box((0,) * len(shape), shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent along every axis."""
        return tuple(map(operator.sub, self.stops, self.starts))

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(map(operator.sub, self.stops, self.starts))

    def fits(self, shape: tuple[int, ...]) -> bool:
        """True if the box lies within an array of `shape`."""
        return len(shape) == len(self.stops) and all(
            stop <= dim for stop, dim in zip(self.stops, shape, strict=True)
        )

    def contains(self, box: Box) -> bool:
        """True if every element of `box` is one of this box."""
        return box is self or (
            all(map(operator.le, self.starts, box.starts))
            and all(map(operator.ge, self.stops, box.stops))
        )

    def intersection(self, box: Box) -> Box | None:
        """The box that both share; None if they share no element."""
        starts = tuple(map(max, self.starts, box.starts))
        stops = tuple(map(min, self.stops, box.stops))
        if any(map(operator.ge, starts, stops)):
            return None
        if starts == self.starts and stops == self.stops:
            return self
        return Box(starts, stops)

    def within(self, origin: Box) -> tuple[slice, ...]:
        """This box as numpy indices into an array that holds `origin`."""
        return tuple(
            slice(a - o, b - o)
            for a, b, o in zip(self.starts, self.stops, origin.starts, strict=True)
        )

    def moved(self, by: tuple[int, ...]) -> Box:
        """This box, moved so far along every axis."""
        return Box(
            tuple(map(operator.add, self.starts, by)),
            tuple(map(operator.add, self.stops, by)),
        )

    def relative_to(self, origin: Box) -> Box:
        """This box in the coordinates of `origin`, which contains it."""
        return Box(
            tuple(map(operator.sub, self.starts, origin.starts)),
            tuple(map(operator.sub, self.stops, origin.starts)),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class StoredDtype:
    """A dtype as TensorFlow names it, and the numpy dtype that holds its elements.

    Attributes:
        name: TensorFlow's name: `float32`, `qint8`, `string`, `variant`, ...
        numpy: The dtype that reading gives; `object` for strings (of `bytes`) and for
            dtypes that cannot be read.
        is_readable: False for `variant` and `resource`, which hold no array.
    """

    name: str
    numpy: np.dtype
    is_readable: bool = True

    @property
    def is_string(self) -> bool:
        """True if elements are byte strings of varying length."""
        return self.name == "string"


# Every dtype of tensorflow/core/framework/types.proto that a bundle may name. Quantised
# integers read as the integers they are. Elements narrower than a byte take one.
STORED_DTYPES: Final[dict[int, StoredDtype]] = {
    1: StoredDtype("float32", np.dtype("<f4")),
    2: StoredDtype("float64", np.dtype("<f8")),
    3: StoredDtype("int32", np.dtype("<i4")),
    4: StoredDtype("uint8", np.dtype("u1")),
    5: StoredDtype("int16", np.dtype("<i2")),
    6: StoredDtype("int8", np.dtype("i1")),
    7: StoredDtype("string", np.dtype(object)),
    8: StoredDtype("complex64", np.dtype("<c8")),
    9: StoredDtype("int64", np.dtype("<i8")),
    10: StoredDtype("bool", np.dtype(bool)),
    11: StoredDtype("qint8", np.dtype("i1")),
    12: StoredDtype("quint8", np.dtype("u1")),
    13: StoredDtype("qint32", np.dtype("<i4")),
    14: StoredDtype("bfloat16", np.dtype(ml_dtypes.bfloat16)),
    15: StoredDtype("qint16", np.dtype("<i2")),
    16: StoredDtype("quint16", np.dtype("<u2")),
    17: StoredDtype("uint16", np.dtype("<u2")),
    18: StoredDtype("complex128", np.dtype("<c16")),
    19: StoredDtype("float16", np.dtype("<f2")),
    20: StoredDtype("resource", np.dtype(object), is_readable=False),
    21: StoredDtype("variant", np.dtype(object), is_readable=False),
    22: StoredDtype("uint32", np.dtype("<u4")),
    23: StoredDtype("uint64", np.dtype("<u8")),
    24: StoredDtype("float8_e5m2", np.dtype(ml_dtypes.float8_e5m2)),
    25: StoredDtype("float8_e4m3fn", np.dtype(ml_dtypes.float8_e4m3fn)),
    26: StoredDtype("float8_e4m3fnuz", np.dtype(ml_dtypes.float8_e4m3fnuz)),
    27: StoredDtype("float8_e4m3b11fnuz", np.dtype(ml_dtypes.float8_e4m3b11fnuz)),
    28: StoredDtype("float8_e5m2fnuz", np.dtype(ml_dtypes.float8_e5m2fnuz)),
    29: StoredDtype("int4", np.dtype(ml_dtypes.int4)),
    30: StoredDtype("uint4", np.dtype(ml_dtypes.uint4)),
    31: StoredDtype("int2", np.dtype(ml_dtypes.int2)),
    32: StoredDtype("uint2", np.dtype(ml_dtypes.uint2)),
    33: StoredDtype("float4_e2m1fn", np.dtype(ml_dtypes.float4_e2m1fn)),
}

STRING: Final = STORED_DTYPES[7]
# Kinds of NumPy's dtypes whose elements may be text or bytes.
STRING_KINDS: Final = "OSUT"
# NumPy's dtypes, in native order -> those of TensorFlow. Quantised integers are plain
# ones to NumPy: only a tensor that comes from a checkpoint keeps its own.
DTYPES_BY_NUMPY: Final[Mapping[np.dtype, StoredDtype]] = {
    dtype.numpy: dtype
    for dtype in STORED_DTYPES.values()
    if dtype.is_readable and not dtype.name.startswith(("q", "string"))
}


@dataclasses.dataclass(frozen=True, slots=True)
class TensorSpec:
    """Shape and dtype of one tensor: all that matching needs of it."""

    shape: tuple[int, ...]
    dtype: StoredDtype

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of an array in row-major order, in elements.

    Examples:
        >>> row_major((2, 3, 4))
        (12, 4, 1)
    """
    strides = [1] * len(shape)
    for axis in reversed(range(len(shape) - 1)):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    return tuple(strides)


def is_row_major(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """True if a view without gaps has its elements in ascending order."""
    size = 1
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        # Along an axis of one element there are no steps.
        if length != 1 and stride != size:
            return False
        size *= length
    return True


def checked_spec(
    dtype_code: int, dims: tuple[int, ...], *, is_unknown_rank: bool
) -> TensorSpec:
    """Checks a shape and a dtype as they are stored.

    Args:
        dtype_code: TensorFlow's number of the dtype.
        dims: The shape.
        is_unknown_rank: True if it is stored as a shape of unknown rank.

    Returns:
        The spec; a dtype that is not known is one that cannot be read.

    Raises:
        MalformedError: No tensor can have them.
    """
    if is_unknown_rank:
        raise MalformedError("expected a shape, got one of unknown rank")
    if len(dims) > MAX_STORED_RANK:
        raise MalformedError(
            f"expected at most {MAX_STORED_RANK} axes, got {len(dims)}"
        )
    if any(dim < 0 for dim in dims):
        raise MalformedError(f"expected dimensions >= 0, got {list(dims)}")
    dtype = STORED_DTYPES.get(dtype_code)
    if dtype is None:
        if dtype_code <= 0:
            raise MalformedError(f"expected a dtype, got number {dtype_code}")
        name = f"number {dtype_code}"
        dtype = StoredDtype(name, np.dtype(object), is_readable=False)
    # Zero dimensions do not excuse the others: numpy cannot hold such shapes either.
    elements = math.prod(dim for dim in dims if dim)
    if elements * dtype.numpy.itemsize > MAX_ELEMENTS:
        raise MalformedError(f"the size of shape {list(dims)} overflows")
    return TensorSpec(dims, dtype)


@functools.lru_cache(maxsize=1024)  # many tensors are alike
def spec_and_fault(
    dtype_code: int, dims: tuple[int, ...], is_unknown_rank: bool, size: int
) -> tuple[TensorSpec, str]:
    """Checks shape and dtype; says what is wrong with the stored size, if anything.

    That is to be known before anything is allocated; but a tensor that is saved as
    slices has no size of its own.
    """
    spec = checked_spec(dtype_code, dims, is_unknown_rank=is_unknown_rank)
    dtype = spec.dtype
    fact = ""
    if dtype.is_string:
        # One byte of length at least for each element, then the lengths' checksum;
        # no elements may also be no bytes.
        if size < spec.size + 4 and (size or spec.size):
            fact = (
                f"expected at least {spec.size + 4} bytes for {spec.size} strings, "
                f"got {size}"
            )
    elif dtype.is_readable and size != spec.size * dtype.numpy.itemsize:
        fact = (
            f"expected {spec.size * dtype.numpy.itemsize} bytes for shape "
            f"{list(spec.shape)} of {dtype.name}, got {size}"
        )
    return spec, fact


def encode_name(name: str) -> bytes:
    """Turns a name into the key that is stored: UTF-8.

    Raises:
        UnicodeEncodeError: The name holds half of a surrogate pair, which stands for no
            byte.
    """
    return name.encode("utf-8", "surrogateescape")


def decode_name(key: bytes) -> str:
    r"""Turns a stored key into a name, of which `encode_name` makes the same key.

    Bytes that are not UTF-8 become lone surrogates, as in names of files.

    Examples:
        >>> decode_name(b"a/\xff"), encode_name(decode_name(b"a/\xff"))
        ('a/\udcff', b'a/\xff')
    """
    return key.decode("utf-8", "surrogateescape")
