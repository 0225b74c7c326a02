"""TensorBundle (V2 checkpoints) as a format: found by prefix, opened by its index.

The index is read once, to see whether it is there. While somebody replaces the
checkpoint it is read again, until index and data files belong together.
"""

from __future__ import annotations

import functools
import time
from typing import Final

from tf2flax._base.errors import CheckpointError, DamagedError
from tf2flax._base.manifest import DataFile, Manifest
from tf2flax._storage.base import Index, Storage
from tf2flax._storage.faults import recognise_wrong_file
from tf2flax._storage.snapshots import replaced

from .bundle import BundleManifest
from .format import Candidate, Format, Location

# How often the index of a checkpoint that is being replaced is read again, and how long
# is waited before (s): exchanging names takes less than a millisecond for each file.
_MAX_OPENINGS: Final = 10
_REPLACING_S: Final = 0.01
# What is needed of an index to recognise something else in its place (bytes).
_HEAD_NBYTES: Final = 64


class BundleFormat(Format):
    """V2 checkpoints: `<prefix>.index` and data files beside it."""

    name = "TensorBundle (V2 checkpoint)"

    def recognise(self, candidate: Candidate) -> bool:
        """False: no file of it is a checkpoint by itself; a prefix finds it.

        An index under another name ends like a V1 file, and is refused there.
        """
        return False

    def find_by_prefix(self, storage: Storage, prefix: str) -> Location | None:
        """Reads the index of a prefix; None where there is none."""
        index = storage.read_index(f"{prefix}.index")
        if index is None:
            return None
        return Location(self, storage, prefix, index=index)

    def open(self, location: Location) -> Manifest:
        """Parses the index; see `Format`.

        Raises:
            DamagedError: It is not a table, malformed, or still being replaced.
        """
        storage, prefix = location.storage, location.path
        index = location.index
        for _ in range(_MAX_OPENINGS):
            if index is None:
                break
            manifest = _parse_index(storage, prefix, index)
            if index.settle(manifest.data_paths()):
                return manifest
            # Somebody is replacing the checkpoint: its index comes last.
            time.sleep(_REPLACING_S)
            index = storage.read_index(f"{prefix}.index")
        raise replaced("The checkpoint", f"{storage.show(prefix)}.index")


def _parse_index(storage: Storage, prefix: str, index: Index) -> BundleManifest:
    full_prefix = storage.show(prefix)
    base = full_prefix if storage.is_local else prefix
    data_file = functools.partial(_data_file, index, base)
    try:
        return BundleManifest(full_prefix, index.contents, data_file)
    except CheckpointError:
        # Perhaps it is another kind of file, which says more than what is malformed.
        wrong_file = recognise_wrong_file(index.contents[:_HEAD_NBYTES])
        if not wrong_file:
            raise
    raise DamagedError(
        f"Expected the index of a checkpoint, got {wrong_file[0]} - at "
        f"`{full_prefix}.index`. {wrong_file[1]}"
    )


def _data_file(index: Index, prefix: str, suffix: str) -> DataFile:
    """The file of a suffix; a function of the module, so that it is picklable."""
    return index.file(prefix + suffix)
