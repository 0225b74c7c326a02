"""Entries -> numpy arrays: whole and checked, one or many at once; or only checked.

Never decides where an array goes afterwards; `parts` reads parts of tensors.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np

from tf2flax._base.errors import CheckpointError, UnsupportedError
from tf2flax._base.manifest import TensorEntry
from tf2flax._base.memory import SmallArrays, aligned_empty, view_at
from tf2flax._base.progress import Advance
from tf2flax._base.tuning import DEFAULT_TUNING, Tuning
from tf2flax._base.values import Box

from .checks import check_readable, is_local
from .destinations import Destination
from .groups import GroupReader, ReadOptions
from .pieces import empty_for
from .scheduling import count_workers, run_groups
from .strides import strides_of
from .targets import UnitReceiver, ViewReceiver
from .units import ReadUnit, ViewRead, box_units_of


def read_entry(entry: TensorEntry, *, verify: bool = True) -> np.ndarray:
    """Reads one tensor whole, in this thread.

    Args:
        entry: Where it lies.
        verify: True compares CRC-32C checksums.

    Returns:
        Array of the tensor's shape, in native byte order; strings as `object`.

    Raises:
        DamagedError: A data file is missing or short, or a checksum differs.
        UnsupportedError: The dtype holds no array.
        ReadError: The operating system refuses.
    """
    check_readable(entry)
    tensors = _WholeTensors((entry,))
    reader = GroupReader(tensors, ReadOptions(verify=verify, advance=_ignore))
    for job in reader.open():
        job()
    return tensors.arrays[entry.name]


def read_many(
    entries: Sequence[TensorEntry],
    *,
    verify: bool = True,
    advance: Advance | None = None,
    tuning: Tuning = DEFAULT_TUNING,
) -> dict[str, np.ndarray]:
    """Reads tensors whole and in parallel; small neighbours share one read.

    Args:
        entries: Where they lie.
        verify: True compares CRC-32C checksums.
        advance: Called, from several threads, with bytes read and the tensor's name.
        tuning: How much is read at once.

    Returns:
        Arrays by name, in the order of the entries.

    Raises:
        DamagedError: As `read_entry`; the first failure ends the rest.
    """
    for entry in entries:
        check_readable(entry)
    arrays: dict[str, np.ndarray] = {}

    def collect(tensors: Sequence[_WholeTensors]) -> Callable[[], None]:
        for target in tensors:
            arrays.update(target.arrays)
        return _wait_for_nothing

    large, small = _split_by_size(entries, tuning)
    targets = [_WholeTensors((entry,)) for entry in large]
    if small:
        targets.append(_WholeTensors(small, SmallArrays()))
    run_groups(
        targets,
        collect,
        workers=_count_workers(entries, len(targets), tuning),
        verify=verify,
        advance=advance or _ignore,
        tuning=tuning,
    )
    return {entry.name: arrays[entry.name] for entry in entries}


def check_many(
    entries: Sequence[TensorEntry],
    advance: Advance,
    tuning: Tuning = DEFAULT_TUNING,
) -> dict[str, CheckpointError]:
    """Checks tensors whole and in parallel, without keeping them.

    Args:
        entries: Where they lie.
        advance: Called, from several threads, with bytes read and the tensor's name.
        tuning: How much is read at once.

    Returns:
        What is wrong, by name of the tensor: the damage of its first damaged piece, or
        `UnsupportedError` where the dtype holds no array.

    Raises:
        ReplacedError: A file is not any more the one that was opened.
        ReadError: The system or the store refuses; the first failure ends the rest.
    """
    errors: dict[str, CheckpointError] = {}
    # Pieces are read in any order: of each tensor, the first damaged one counts.
    damages: dict[str, tuple[Box, CheckpointError]] = {}
    lock = threading.Lock()

    def report(unit: ReadUnit, error: CheckpointError) -> None:
        assert unit.piece is not None
        name, box = unit.entry.name, unit.piece.box
        with lock:
            if name not in damages or box < damages[name][0]:
                damages[name] = box, error

    readable: list[TensorEntry] = []
    for entry in entries:
        try:
            check_readable(entry)
        except UnsupportedError as error:
            errors[entry.name] = error
        else:
            readable.append(entry)
    large, small = _split_by_size(readable, tuning)
    targets = [_CheckedTensors((entry,)) for entry in large]
    if small:
        targets.append(_CheckedTensors(small))
    run_groups(
        targets,
        lambda _: _wait_for_nothing,
        workers=_count_workers(readable, len(targets), tuning),
        verify=True,
        advance=advance,
        report=report,
        tuning=tuning,
    )
    errors.update((name, error) for name, (_, error) in damages.items())
    return errors


def _ignore(_nbytes: int, _name: str) -> None:
    """Reports no progress."""


def _wait_for_nothing() -> None:
    """Waits for host memory that nobody uses any more."""


def _count_workers(entries: Sequence[TensorEntry], groups: int, tuning: Tuning) -> int:
    return count_workers(
        sum(entry.nbytes for entry in entries),
        groups=groups,
        is_local=all(map(is_local, entries)),
        tuning=tuning,
    )


def _split_by_size(
    entries: Sequence[TensorEntry], tuning: Tuning
) -> tuple[list[TensorEntry], list[TensorEntry]]:
    """Tells apart tensors that are groups of their own, and those that share one."""
    large: list[TensorEntry] = []
    small: list[TensorEntry] = []
    for entry in entries:
        is_small = entry.nbytes <= tuning.small_nbytes and not entry.is_sliced
        (small if is_small else large).append(entry)
    return large, small


class _CheckedTensors:
    """Tensors that are read and checked, and of which nothing is kept.

    Attributes:
        host_nbytes: 0, since nothing waits to be handed on.
    """

    def __init__(self, entries: Sequence[TensorEntry]) -> None:
        self.host_nbytes = 0
        self._entries = entries

    @property
    def units(self) -> Sequence[tuple[ReadUnit, UnitReceiver]]:
        """Every piece, read whole."""
        return [(unit, self) for entry in self._entries for unit in box_units_of(entry)]

    @property
    def views(self) -> Sequence[tuple[ViewRead, ViewReceiver]]:
        """Nothing is read in part."""
        return ()

    def allocate(self) -> None:
        """Needs no room."""

    def destinations(self, unit: ReadUnit) -> Sequence[Destination]:
        """Elements go nowhere."""
        return ()

    def receive(self, unit: ReadUnit, elements: np.ndarray, *, is_lent: bool) -> None:
        """Drops elements that were checked."""

    def finish(self) -> None:
        """Has nothing left to do."""


class _WholeTensors(_CheckedTensors):
    """Whole tensors, as arrays in a dict.

    Attributes:
        arrays: The arrays by name.
    """

    def __init__(
        self, entries: Sequence[TensorEntry], small_arrays: SmallArrays | None = None
    ) -> None:
        """Allocates nothing yet.

        Args:
            entries: The tensors.
            small_arrays: What makes memory for small ones; None gives each its own,
                which is freed when the array is.
        """
        super().__init__(entries)
        self.arrays: dict[str, np.ndarray] = {}
        self._small_arrays = small_arrays
        self._lock = threading.Lock()

    def allocate(self) -> None:
        """Makes arrays of tensors that come in several pieces.

        All others are made when their elements are there, or about to come.
        """
        for entry in self._entries:
            if entry.is_sliced:
                self.arrays[entry.name] = empty_for(entry, entry.spec.shape)

    def destinations(self, unit: ReadUnit) -> Sequence[Destination]:
        """The part of the tensor's array that the unit fills."""
        assert unit.piece is not None
        entry, shape = unit.entry, unit.piece.box.shape
        if not entry.is_sliced:
            self.arrays[entry.name] = empty_for(entry, shape)
        part = self._part_of(unit)
        return [Destination(part, offset=0, strides=strides_of(shape))]

    def receive(self, unit: ReadUnit, elements: np.ndarray, *, is_lent: bool) -> None:
        """Copies elements, or takes their array over where nobody needs it any more."""
        entry = unit.entry
        shape, dtype = entry.spec.shape, entry.spec.dtype.numpy
        if entry.is_sliced:
            part = self._part_of(unit)
            part[...] = elements.reshape(part.shape)
        elif not is_lent or entry.spec.dtype.is_string:
            self.arrays[entry.name] = elements.reshape(shape)
        elif self._small_arrays is not None:
            stored = elements.view(np.uint8).data
            with self._lock:
                array = self._small_arrays.copy(shape, dtype, stored)
            self.arrays[entry.name] = array
        else:
            array = aligned_empty(shape, dtype)
            array.reshape(-1)[...] = elements
            self.arrays[entry.name] = array

    def _part_of(self, unit: ReadUnit) -> np.ndarray:
        assert unit.piece is not None
        array = self.arrays[unit.entry.name]
        if not unit.entry.is_sliced:
            return array
        return view_at(array, unit.piece.box.within(Box.whole(array.shape)))
