"""Entries -> numpy arrays: whole and checked, one or many at once; or only checked.

Never decides where an array goes afterwards; `parts` reads parts of tensors.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np

from tf2flax._base.errors import CheckpointError, UnsupportedError
from tf2flax._base.manifest import EncodedPiece, Piece, TensorEntry
from tf2flax._base.memory import SmallArrays, view_at
from tf2flax._base.progress import Advance
from tf2flax._base.tuning import DEFAULT_TUNING, Tuning
from tf2flax._base.values import Box

from .checks import are_local, check_readable, check_whole, empty_for, read_piece
from .destinations import Destination
from .groups import GroupReader, ReadOptions
from .scheduling import count_workers, report_nothing, run_groups, wait_for_nothing
from .strides import strides_of
from .targets import SmallRead, UnitReceiver, ViewReceiver
from .units import ReadUnit, ViewRead, box_units_of


def read_entry(
    entry: TensorEntry, *, verify: bool = True, tuning: Tuning = DEFAULT_TUNING
) -> np.ndarray:
    """Reads one tensor whole, in this thread.

    Args:
        entry: Where it lies.
        verify: True compares CRC-32C checksums.
        tuning: How much is read at once.

    Returns:
        Array of the tensor's shape, in native byte order; strings as `object`.

    Raises:
        DamagedError: A data file is missing or short, or a checksum differs.
        UnsupportedError: The dtype holds no array.
        ReadError: The operating system refuses.
    """
    if entry.nbytes <= tuning.small_nbytes and not entry.is_sliced:
        check_whole(entry)  # one read is all there is to do
        return read_piece(entry, entry.pieces[0], verify=verify)
    check_readable(entry)
    tensors = _WholeTensors((entry,))
    options = ReadOptions(verify=verify, advance=report_nothing, tuning=tuning)
    reader = GroupReader(tensors, options)
    for job in reader.open():
        job()
    return tensors.arrays[id(entry)]


def read_many(
    entries: Sequence[TensorEntry],
    *,
    verify: bool = True,
    advance: Advance | None = None,
    tuning: Tuning = DEFAULT_TUNING,
) -> list[np.ndarray]:
    """Reads tensors whole and in parallel; small neighbours share one read.

    Args:
        entries: Where they lie.
        verify: True compares CRC-32C checksums.
        advance: Called, from several threads, with bytes read and the tensor's name.
        tuning: How much is read at once.

    Returns:
        Their arrays, in the same order.

    Raises:
        DamagedError: As `read_entry`; the first failure ends the rest.
    """
    # Before anything is read, so that the error comes at once.
    for entry in entries:
        check_readable(entry)
    arrays: dict[int, np.ndarray] = {}

    def collect(tensors: Sequence[_WholeTensors]) -> Callable[[], None]:
        for target in tensors:
            arrays.update(target.arrays)
        return wait_for_nothing

    is_local = are_local(entries)
    large, small, nbytes = _split_by_size(entries, tuning)
    # A group for each large tensor, since a group is opened as a whole; one for all
    # small ones, since there may be a million of them.
    targets = [_WholeTensors((entry,)) for entry in large]
    if small:
        targets.append(_WholeTensors((), small))
    run_groups(
        targets,
        collect,
        workers=count_workers(
            nbytes, groups=len(targets), is_local=is_local, tuning=tuning
        ),
        is_local=is_local,
        verify=verify,
        advance=advance or report_nothing,
        tuning=tuning,
    )
    return [arrays[id(entry)] for entry in entries]


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
        ReplacedError: A file is no longer the one that was opened.
        ReadError: The system or the store refuses; the first failure ends the rest.
    """
    errors: dict[str, CheckpointError] = {}
    # Pieces are read in any order: of each tensor, the first damaged one counts.
    damages: dict[str, tuple[Box, CheckpointError]] = {}
    lock = threading.Lock()

    def report(
        entry: TensorEntry, piece: Piece | EncodedPiece, error: CheckpointError
    ) -> None:
        name, box = entry.name, piece.box
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
    is_local = are_local(readable)
    large, small, nbytes = _split_by_size(readable, tuning)
    targets = [_CheckedTensors((entry,)) for entry in large]
    if small:
        targets.append(_CheckedTensors((), small))
    run_groups(
        targets,
        lambda _: wait_for_nothing,
        workers=count_workers(
            nbytes, groups=len(targets), is_local=is_local, tuning=tuning
        ),
        is_local=is_local,
        verify=True,
        advance=advance,
        report=report,
        tuning=tuning,
    )
    errors.update((name, error) for name, (_, error) in damages.items())
    return errors


def _split_by_size(
    entries: Sequence[TensorEntry], tuning: Tuning
) -> tuple[list[TensorEntry], list[TensorEntry], int]:
    """Splits tensors: each large one is a group, small ones share a group.

    Returns:
        Large, sliced and encoded ones and strings; small ones; and the bytes of all.
    """
    large: list[TensorEntry] = []
    small: list[TensorEntry] = []
    total = 0
    for entry in entries:
        nbytes = entry.nbytes
        total += nbytes
        is_small = (
            nbytes <= tuning.small_nbytes
            and not entry.is_sliced
            and not entry.spec.dtype.is_string
            and entry.pieces[0].data_file is not None
        )
        (small if is_small else large).append(entry)
    return large, small, total


class _CheckedTensors:
    """Tensors that are read and checked, and of which nothing is kept.

    Attributes:
        host_nbytes: 0, since nothing waits to be handed on.
    """

    def __init__(
        self, large: Sequence[TensorEntry], small: Sequence[TensorEntry] = ()
    ) -> None:
        """Names the tensors.

        Args:
            large: Tensors that are read piece by piece.
            small: Tensors of one small piece of plain bytes, which share reads.
        """
        self.host_nbytes = 0
        self._large = large
        self._small = small

    @property
    def small(self) -> list[SmallRead]:
        """The pieces of small tensors."""
        return [
            (piece, entry, self)
            for entry in self._small
            for piece in entry.pieces
            if piece.data_file is not None
        ]

    @property
    def units(self) -> Sequence[tuple[ReadUnit, UnitReceiver]]:
        """Every other piece, read whole."""
        return [(unit, self) for entry in self._large for unit in box_units_of(entry)]

    @property
    def views(self) -> Sequence[tuple[ViewRead, ViewReceiver]]:
        """Nothing is read in part."""
        return ()

    def allocate(self) -> None:
        """Needs no room."""

    def destinations(self, unit: ReadUnit) -> Sequence[Destination]:
        """Elements go nowhere."""
        return ()

    def receive_stored(
        self, entry: TensorEntry, piece: Piece, stored: memoryview
    ) -> None:
        """Drops bytes that were checked."""

    def receive(self, unit: ReadUnit, elements: np.ndarray) -> None:
        """Drops elements that were checked."""

    def finish(self) -> None:
        """Has nothing left to do."""


class _WholeTensors(_CheckedTensors):
    """Whole tensors, as arrays in a dict.

    Attributes:
        arrays: The arrays, by `id` of the entry: several may have one name, such as
            the pieces of a tensor.
    """

    def __init__(
        self, large: Sequence[TensorEntry], small: Sequence[TensorEntry] = ()
    ) -> None:
        """Allocates nothing yet; see `_CheckedTensors`."""
        super().__init__(large, small)
        self.arrays: dict[int, np.ndarray] = {}
        self._small_arrays = SmallArrays()
        self._lock = threading.Lock()

    def allocate(self) -> None:
        """Makes arrays of tensors that come in several pieces.

        All others are made when their elements are there, or about to come.
        """
        for entry in self._large:
            if entry.is_sliced:
                self.arrays[id(entry)] = empty_for(entry, entry.spec.shape)

    def destinations(self, unit: ReadUnit) -> Sequence[Destination]:
        """The part of the tensor's array that the unit fills."""
        assert unit.piece is not None
        entry, shape = unit.entry, unit.piece.box.shape
        # Encoded tensors and strings come as arrays already: no array waits for them.
        if not entry.is_sliced:
            self.arrays[id(entry)] = empty_for(entry, shape)
        part = self._part_of(unit)
        return [Destination(part, offset=0, strides=strides_of(shape))]

    def receive_stored(
        self, entry: TensorEntry, piece: Piece, stored: memoryview
    ) -> None:
        """Copies a small tensor."""
        spec = entry.spec
        # Many small arrays share a block, which is filled by one thread at a time.
        with self._lock:
            array = self._small_arrays.copy(spec.shape, spec.dtype.numpy, stored)
        self.arrays[id(entry)] = array

    def receive(self, unit: ReadUnit, elements: np.ndarray) -> None:
        """Takes the array over, or copies it into the tensor's own."""
        entry = unit.entry
        if entry.is_sliced:
            part = self._part_of(unit)
            part[...] = elements.reshape(part.shape)
        else:
            self.arrays[id(entry)] = elements.reshape(entry.spec.shape)

    def _part_of(self, unit: ReadUnit) -> np.ndarray:
        assert unit.piece is not None
        array = self.arrays[id(unit.entry)]
        if not unit.entry.is_sliced:
            return array
        return view_at(array, unit.piece.box.within(Box.whole(array.shape)))
