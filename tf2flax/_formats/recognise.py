"""All formats, in one tuple; which of them a prefix, a file or a pattern is of."""

from __future__ import annotations

from typing import Final

from tf2flax._storage.base import Storage

from .bundle_format import BundleFormat
from .format import Candidate, Format, Location
from .keras.format import KerasFormat, ShardedKerasFormat
from .v1 import V1Format

# Asked in this order. What is recognised by its last bytes comes first, so that of a
# table in a store nothing but these is read.
FORMATS: Final[tuple[Format, ...]] = (
    BundleFormat(),
    V1Format(),
    KerasFormat(),
    ShardedKerasFormat(),
)


def find_by_prefix(storage: Storage, prefix: str) -> Location | None:
    """Finds the checkpoint whose files share a prefix; None where there is none."""
    for file_format in FORMATS:
        location = file_format.find_by_prefix(storage, prefix)
        if location is not None:
            return location
    return None


def find_by_pattern(
    storage: Storage, pattern: str, paths: tuple[str, ...]
) -> Location | None:
    """Finds the checkpoint that several files are together.

    Args:
        storage: The place.
        pattern: What matches the files.
        paths: The files, one at least.

    Returns:
        Where it lies; None where no format recognises all of them.
    """
    for file_format in FORMATS:
        if file_format.takes_patterns and all(
            file_format.recognise(Candidate(storage, path)) for path in paths
        ):
            return Location(file_format, storage, pattern, paths)
    return None


def recognise(storage: Storage, candidate: Candidate) -> Location | None:
    """Finds the format of a file; None where it is of none."""
    for file_format in FORMATS:
        if file_format.recognise(candidate):
            path = candidate.path
            return Location(file_format, storage, path, (path,))
    return None


def files_in_folder(storage: Storage, folder: str) -> tuple[str, ...]:
    """The files of the checkpoint that a folder is; see `Format.files_in_folder`."""
    for file_format in FORMATS:
        paths = file_format.files_in_folder(storage, folder)
        if paths:
            return paths
    return ()


def endings() -> tuple[str, ...]:
    """Endings of the names that files of all formats have, for suggestions."""
    return tuple(ending for file_format in FORMATS for ending in file_format.endings)
