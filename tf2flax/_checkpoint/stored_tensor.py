"""One tensor of a checkpoint, of which nothing is read before it is asked for."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tf2flax._base.caller import check_switch, show_value
from tf2flax._base.errors import AssignmentError, TruthError
from tf2flax._base.manifest import TensorEntry
from tf2flax._base.synonyms import missing_attribute
from tf2flax._base.tuning import DEFAULT_TUNING, Tuning
from tf2flax._base.values import Box
from tf2flax._reading import checks, parts, whole
from tf2flax._storage.lazy import open_view

from . import indexing

if TYPE_CHECKING:
    import numpy.typing as npt

    from tf2flax._storage.requests import TensorStore


class StoredTensor:
    """One tensor of a checkpoint; nothing of it is read before it is asked for.

    Examples:
        >>> import numpy as np, tf2flax
        >>> kernel = np.ones((32, 32), "float32")
        >>> tensor = tf2flax.open_checkpoint({"dense/kernel": kernel})["dense/kernel"]
        >>> tensor
        StoredTensor('dense/kernel', shape=(32, 32), dtype=float32)
        >>> tensor[4:6, :8].shape
        (2, 8)
    """

    __slots__ = ("_entry", "_tuning")

    def __init__(self, entry: TensorEntry, tuning: Tuning = DEFAULT_TUNING) -> None:
        """Wraps an entry; made by `Checkpoint`, not by users.

        Raises:
            AssignmentError: It is something else, such as a name.
        """
        if isinstance(entry, (str, bytes, os.PathLike)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise AssignmentError(
                f"A StoredTensor is not made of {show_value(entry)}. Look a name up: "
                "tf2flax.open_checkpoint(path)[name]."
            )
        self._entry = entry
        self._tuning = tuning

    @property
    def entry(self) -> TensorEntry:
        """The entry of the manifest, for the layers above."""
        return self._entry

    @property
    def tuning(self) -> Tuning:
        """How it is read: as the checkpoint that it was looked up in."""
        return self._tuning

    @property
    def name(self) -> str:
        """The tensor's key."""
        return self._entry.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole tensor."""
        return self._entry.spec.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of what is read: `object` for strings, integers for quantised ones."""
        return self._entry.spec.dtype.numpy

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes on disk; for strings this includes their lengths."""
        return self._entry.nbytes

    @property
    def slices(self) -> tuple[tuple[slice, ...], ...]:
        """Saved slices of a partitioned variable as numpy indices, else ()."""
        if not self._entry.is_sliced:
            return ()
        return tuple(
            tuple(map(slice, piece.box.starts, piece.box.stops))
            for piece in self._entry.pieces
        )

    def read(self, *, verify: bool = True) -> np.ndarray:
        """Reads the whole tensor.

        Args:
            verify: True compares its CRC-32C checksums.

        Returns:
            Array of `shape` and `dtype` in native byte order; a 0-d array where the
            rank is 0; an object array of `bytes` for strings.

        Raises:
            DamagedError: A data file is missing or short, a checksum differs, or the
                checkpoint has been replaced since it was opened.
            UnsupportedError: The dtype (variant, resource) holds no array.
            ReadError: The operating system refuses.
        """
        verify = check_switch("verify", verify)
        return whole.read_entry(self._entry, verify=verify, tuning=self._tuning)

    def open(self) -> TensorStore:
        """Opens a lazy view: slice, transpose, cast, concatenate, read asynchronously.

        Checksums cover whole tensors and are not compared here.

        Returns:
            A read-only `tensorstore.TensorStore` of `shape`, whose chunks are whole
            rows of up to 4 MiB; each is read when it is first needed.

        Raises:
            DamagedError: A data file is missing or short, or the checkpoint has been
                replaced since it was opened; likewise when the view is read.
            UnsupportedError: tensorstore lacks this dtype or so many axes, or cannot
                be used here, in a process forked after its first use.
            ReadError: The system or the store refuses.

        Examples:
            >>> import numpy as np, tf2flax
            >>> checkpoint = tf2flax.open_checkpoint({"kernel": np.ones((32, 32))})
            >>> view = checkpoint["kernel"].open()
            >>> view[2:4].T.read().result().shape
            (32, 2)
        """
        checks.check_whole(self._entry)

        def read(box: Box, out: np.ndarray) -> None:
            parts.read_box_into(self._entry, box, out, self._tuning)

        return open_view(
            self.shape,
            self.dtype,
            read,
            subject=f"Tensor `{self.name}`",
            waits=not checks.are_local((self._entry,)),
        )

    def __getitem__(self, index: object) -> Any:
        """Reads what numpy would give for the same index, and little else.

        Of rows, only those asked for are read; where columns are cut, the rows they
        touch. Checksums cover whole tensors and are compared only where all is read.

        Args:
            index: Whatever numpy takes.

        Returns:
            An array; a numpy scalar (or `bytes`) where numpy gives one.

        Raises:
            IndexError: As numpy.
            DamagedError: A data file is missing or short, or the checkpoint has been
                replaced since it was opened.
            UnsupportedError: The dtype (variant, resource) holds no array.
        """
        return indexing.read_index(self._entry, index, self._tuning)

    def __len__(self) -> int:
        """Length of the first axis."""
        if not self.shape:
            raise TypeError("len() of unsized object")
        return self.shape[0]

    def __bool__(self) -> bool:
        """The value of its element, which is read; False if it has none.

        Raises:
            UnsupportedError: It has several; a `ValueError` too, as NumPy's.
        """
        if self.size > 1:
            raise TruthError(
                f"Tensor `{self.name}` has {self.size:,} elements, and is neither true "
                "nor false. Write `name in checkpoint`, `tensor is not None`, "
                "`tensor.read().any()` or `.all()`."
            )
        return bool(self.size) and bool(self.read().reshape(-1)[0])

    def __iter__(self) -> Iterator[Any]:
        """Iterates over the rows of the tensor, read at once."""
        return iter(self.read())

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> np.ndarray:
        """Reads the tensor for `numpy.asarray`."""
        if copy is False:
            raise ValueError(
                f"Tensor `{self.name}` lies on disk: an array of it is always a copy."
            )
        array = self.read()
        return array if dtype is None else array.astype(dtype, copy=False)

    if not TYPE_CHECKING:  # type checkers are to find such names themselves

        def __getattr__(self, name: str) -> object:
            """Says what to write instead of a name that does not exist."""
            owner = type(self)
            raise missing_attribute(
                f"{owner.__name__!r} object", "StoredTensor", name, dir(owner)
            )

    def __repr__(self) -> str:
        """Names the tensor with shape and dtype."""
        dtype = self._entry.spec.dtype.name
        return f"StoredTensor({self.name!r}, shape={self.shape}, dtype={dtype})"

    def _repr_html_(self) -> str:
        """The tensor and the places of its bytes for notebooks."""
        from .notebook import tensor_html

        return tensor_html(self)
