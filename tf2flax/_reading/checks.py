"""What is refused before a tensor is read: dtypes, ranks, files that are cut short."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tf2flax._base.errors import UnsupportedError
from tf2flax._base.manifest import DataFile, TensorEntry
from tf2flax._base.values import Box

# NumPy's own limit on axes.
MAX_ARRAY_RANK: Final = 64


def check_readable(entry: TensorEntry) -> None:
    """Refuses what no array can hold, before anything of it is read.

    Raises:
        UnsupportedError: The dtype holds no array, or there are too many axes.
    """
    if not entry.spec.dtype.is_readable:
        raise UnsupportedError(
            f"{subject_of(entry)} is of dtype {entry.spec.dtype.name}, which no NumPy "
            f"array can hold - at {entry.pieces[0].place}. Leave it out of what is "
            "read."
        )
    if len(entry.spec.shape) > MAX_ARRAY_RANK:
        raise UnsupportedError(
            f"{subject_of(entry)} has {len(entry.spec.shape)} axes, a NumPy array has "
            f"at most {MAX_ARRAY_RANK} - at {entry.pieces[0].place}. Leave it out "
            "of what is read."
        )


def check_whole(entry: TensorEntry) -> None:
    """Checks that all of a tensor can be there, before memory for it is allocated.

    Raises:
        DamagedError: A data file is missing or short.
        UnsupportedError: The dtype holds no array.
        ReadError: The system or the store refuses.
    """
    check_readable(entry)
    check_pieces(entry, Box.whole(entry.spec.shape))


def check_pieces(entry: TensorEntry, box: Box) -> None:
    """Checks that the pieces of a box can be there, before memory is allocated.

    Raises:
        DamagedError: A data file is missing or short.
        ReadError: The system or the store refuses.
    """
    # Of an empty tensor, whose box shares nothing with any piece, all are checked.
    is_whole = box.shape == entry.spec.shape
    for piece in entry.pieces:
        if is_whole or box.intersection(piece.box):
            piece.check(subject=subject_of(entry))


def are_local(entries: Iterable[TensorEntry]) -> bool:
    """Tells whether reading tensors asks no other machine.

    Pieces that only their format can read count as remote: nothing is known of them.
    """
    local_file: DataFile | None = None
    for entry in entries:
        for piece in entry.pieces:
            # Nearly always the file of the tensor before: spares asking it.
            if piece.data_file is None or piece.data_file is not local_file:
                if not piece.is_local:
                    return False
                local_file = piece.data_file
    return True


def subject_of(entry: TensorEntry) -> str:
    """Names a tensor at the beginning of a message."""
    return f"Tensor `{entry.name}`"
