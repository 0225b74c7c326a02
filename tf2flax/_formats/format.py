"""The contract of a format: it recognises its files, and opens checkpoints of them.

A new format is a subclass of `Format` in a new file, and a line in the tuple
`FORMATS` of `formats`. Nothing else names it.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from typing import ClassVar, Final

from tf2flax._base.data_files import DataFile
from tf2flax._base.errors import CheckpointError
from tf2flax._base.manifest import Manifest
from tf2flax._storage.base import Index, Storage

# Formats that end in a magic number have it within these (bytes).
TAIL_NBYTES: Final = 8


class Candidate:
    """A file that may be a checkpoint; its bytes are read when a format asks for them.

    Attributes:
        path: Its path in the storage.
    """

    def __init__(self, storage: Storage, path: str) -> None:
        """Reads nothing yet."""
        self.path: str = path
        self._file: DataFile = storage.file(path)

    @functools.cached_property
    def head(self) -> bytes:
        """Its first bytes, at most 4096; none where it cannot be read."""
        return self._file.head()

    def has_at(self, start: int, magic: bytes) -> bool | None:
        """Tells whether certain bytes stand at a position; None beyond the end."""
        buffer = bytearray(len(magic))
        try:
            self._file.read_into(start, memoryview(buffer), subject="The checkpoint")
        except CheckpointError:
            return None
        return bytes(buffer) == magic

    @functools.cached_property
    def tail(self) -> bytes:
        """Its last bytes, at most `TAIL_NBYTES`.

        Raises:
            DamagedError: It is not there.
            ReadError: The system or the store refuses.
        """
        return self._file.tail(TAIL_NBYTES)


@dataclasses.dataclass(frozen=True, slots=True)
class Location:
    """The place of a checkpoint, and the format that opens it.

    Attributes:
        format: The format.
        storage: The place.
        path: Prefix of the checkpoint; else its file, or a pattern of files.
        files: Its files, as its format lists them; () where a prefix stands for them.
        index: The index that was read in order to find a prefix; None otherwise.
    """

    format: Format
    storage: Storage
    path: str
    files: tuple[str, ...] = ()
    index: Index | None = None


class Format(abc.ABC):
    """One kind of checkpoint: how it is recognised, and how it is opened.

    Attributes:
        name: Its name for people.
        endings: Endings of its files' names, for suggestions alone: contents decide.
        takes_patterns: True if the files that a pattern matches are one checkpoint.
    """

    name: ClassVar[str]
    endings: ClassVar[tuple[str, ...]] = ()
    takes_patterns: ClassVar[bool] = False

    @abc.abstractmethod
    def recognise(self, candidate: Candidate) -> bool:
        """Tells by its contents whether a file is a checkpoint of this format.

        Raises:
            CheckpointError: The file cannot be read.
        """

    @abc.abstractmethod
    def open(self, location: Location) -> Manifest:
        """Reads what a checkpoint lists, and none of its tensors.

        Args:
            location: Where it lies; found by a method of this format.

        Returns:
            Its names and entries.

        Raises:
            CheckpointError: It is damaged, cannot be read, or is of a newer version.
        """

    def find_by_prefix(self, storage: Storage, prefix: str) -> Location | None:
        """Finds a checkpoint whose files share a prefix; no file has just that name.

        Args:
            storage: The place.
            prefix: The prefix.

        Returns:
            Where it lies; None where there is none, or the format knows no prefixes.

        Raises:
            CheckpointError: What lies there cannot be read.
        """
        return None

    def files_in_folder(self, storage: Storage, folder: str) -> tuple[str, ...]:
        """Finds the checkpoint that a folder is, as another program saved it.

        Args:
            storage: The place.
            folder: The folder.

        Returns:
            Paths: first the file by which the checkpoint is recognised, then others
            that `open` needs besides; () if the folder is not such a checkpoint.

        Raises:
            CheckpointError: It is not clear which one is meant, or nothing can be read.
        """
        return ()
