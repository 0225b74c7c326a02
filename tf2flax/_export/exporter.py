"""The contract of an exporter: it checks what its format can hold, and writes it."""

from __future__ import annotations

import abc
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar, Protocol

import numpy as np

from tf2flax._assignment.resolution.assignments import Assignment
from tf2flax._base.errors import AssignmentError
from tf2flax._base.manifest import TensorEntry
from tf2flax._base.values import Box
from tf2flax._writing.new_tensors import NewTensor


@dataclasses.dataclass(frozen=True, slots=True)
class ExportedTensor:
    """A tensor that is written.

    Attributes:
        name: Its name in the new file.
        shape: Its shape.
        dtype: Its dtype; `object` for strings.
        assignment: What fills it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    assignment: Assignment

    @property
    def is_string(self) -> bool:
        """True for tensors of strings."""
        return self.dtype == object

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return Box.whole(self.shape).size * self.dtype.itemsize


# Takes a box of a tensor, in memory that may be used again afterwards.
TakeBox = Callable[[ExportedTensor, Box, np.ndarray], None]


class TensorSource(Protocol):
    """What an exporter writes: checked, and read when it asks for it."""

    @property
    def tensors(self) -> Sequence[ExportedTensor]:
        """The tensors, sorted by name."""
        ...

    @property
    def metadata(self) -> Mapping[str, str]:
        """Text about the conversion: source, step, map."""
        ...

    @property
    def index_paths(self) -> Sequence[str]:
        """The index files of TensorFlow that name the tensors."""
        ...

    def read_into(self, take: TakeBox, *, in_boxes: bool = False) -> None:
        """Reads all tensors, in the order and in the threads that suit the files.

        Args:
            take: Takes every tensor; called in this thread.
            in_boxes: True may hand on large tensors as several boxes, each of which is
                one run of elements: whole rows, or parts of the only row.
        """
        ...

    def read_each(
        self, tensors: Sequence[ExportedTensor]
    ) -> Iterator[tuple[ExportedTensor, np.ndarray]]:
        """Reads some of the tensors whole, one after the other.

        Args:
            tensors: Which, sorted by name.
        """
        ...

    def read_in_order(self, tensors: Sequence[ExportedTensor], take: TakeBox) -> None:
        """Reads some of the tensors, one after the other.

        Args:
            tensors: Which, sorted by name.
            take: Takes every tensor, large ones in boxes as `read_into` has them, in
                the order of their elements.
        """
        ...

    def stored(self, name: str) -> TensorEntry:
        """A tensor of the checkpoint."""
        ...

    def copy_of(self, tensor: ExportedTensor) -> NewTensor:
        """A large tensor that is written as it is stored, in its slices."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class ExportOptions:
    """Options of `convert` that only some formats have.

    Attributes:
        data_files: Number of data files.
        flat: True writes names as they are, where a format would nest them.
        by_reference: How a format refers to the data files of the checkpoint instead of
            copying their bytes; False copies.
    """

    data_files: int = 1
    flat: bool = False
    by_reference: bool | str = False


class Exporter(abc.ABC):
    """One format that checkpoints are converted to.

    Attributes:
        name: What users call it.
        endings: Endings of names of files that are of this format.
        option_names: Fields of `ExportOptions` that it has.
        takes_strings: False leaves tensors of strings out.
    """

    name: ClassVar[str]
    endings: ClassVar[tuple[str, ...]] = ()
    option_names: ClassVar[frozenset[str]] = frozenset()
    takes_strings: ClassVar[bool] = False

    def __init__(self, options: ExportOptions) -> None:
        """Refuses options that the format does not have.

        Raises:
            AssignmentError: One of them is not the default.
        """
        self.options = options
        for field in dataclasses.fields(options):
            value = getattr(options, field.name)
            if field.name not in self.option_names and value != field.default:
                raise AssignmentError(
                    f"Option {field.name}: format {self.name!r} has no such option. "
                    "Leave it out."
                )

    def leaves_out(self, tensor: ExportedTensor) -> bool:
        """True for tensors of strings that the format does not hold."""
        return tensor.is_string and not self.takes_strings

    @property
    def writes_in_place(self) -> bool:
        """True if `write` makes whole files appear itself, beside what is there."""
        return False

    def find_present(self, path: str) -> str | None:
        """Finds what an output would replace.

        Returns:
            The path of it; None where nothing is.
        """
        return path if os.path.lexists(path) else None

    def may_replace(self, path: str) -> bool:
        """True unless something else lies at an output, such as a folder of files."""
        return not os.path.isdir(path)

    @abc.abstractmethod
    def check(self, tensors: Sequence[ExportedTensor]) -> None:
        """Refuses names, shapes and dtypes that the format does not hold.

        Raises:
            AssignmentError: Names that it does not hold.
            UnsupportedError: Dtypes that it does not hold.
        """

    @abc.abstractmethod
    def write(self, path: str, source: TensorSource) -> None:
        """Writes everything.

        Args:
            path: A file or directory that does not exist yet; its folder does.
            source: What is written.
        """
