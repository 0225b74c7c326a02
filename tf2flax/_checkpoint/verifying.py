"""Every byte of a checkpoint checked: a report instead of the first error.

Reads through `_reading.whole`; changes nothing and keeps no tensor.
"""

from __future__ import annotations

import collections
import dataclasses
import posixpath
from typing import Any

from tf2flax._base.data_files import DataFile
from tf2flax._base.errors import (
    DamagedError,
    ReadError,
    ReplacedError,
    UnsupportedError,
)
from tf2flax._base.manifest import Manifest, TensorEntry
from tf2flax._base.progress import ProgressFunction, reporting
from tf2flax._base.text import counted, printable
from tf2flax._base.tuning import DEFAULT_TUNING, Tuning
from tf2flax._base.values import ByteRange
from tf2flax._reading.whole import check_many


@dataclasses.dataclass(frozen=True, slots=True)
class Damage:
    """One thing that is wrong.

    Attributes:
        name: The tensor, or the file.
        message: The fact, the place, and what to do.

    Examples:
        >>> Damage("a/kernel", "Tensor `a/kernel` is damaged: ...").name
        'a/kernel'
    """

    name: str
    message: str


@dataclasses.dataclass(frozen=True, slots=True)
class VerificationReport:
    """The result of a verification.

    Attributes:
        prefix: The checkpoint.
        num_tensors: Number of tensors that it lists.
        nbytes: Bytes of tensors that were read and checked.
        damaged: Everything that is wrong: files first, then tensors by name.
        unchecked: Tensors that could not be checked, since their dtype holds no array,
            and the names that several tensors share in a view.

    Examples:
        >>> import numpy as np, tf2flax
        >>> report = tf2flax.open_checkpoint({"step": np.int64(7)}).verify()
        >>> report.ok, report.num_tensors, report.damaged
        (True, 1, ())
    """

    prefix: str
    num_tensors: int
    nbytes: int
    damaged: tuple[Damage, ...]
    unchecked: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """True if nothing is wrong."""
        return not self.damaged

    def raise_for_damage(self) -> None:
        """Does nothing where nothing is wrong.

        Raises:
            DamagedError: Something is; the message is the report.
        """
        if self.damaged:
            raise DamagedError(str(self))

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        return {"ok": self.ok, **dataclasses.asdict(self)}

    def __str__(self) -> str:
        """The report as text, a line for each thing that is wrong."""
        result = f"{len(self.damaged)} damaged" if self.damaged else "all well"
        lines = [
            f"Checkpoint {printable(self.prefix)}: "
            f"{counted(self.num_tensors, 'tensor')}, {self.nbytes} bytes checked: "
            f"{result}"
        ]
        lines += [f"  {printable(damage.message)}" for damage in self.damaged]
        if self.unchecked:
            names = ", ".join(map(printable, self.unchecked))
            lines.append(f"  Not checked: {names}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The report for notebooks."""
        from .notebook import verification_html

        return verification_html(self)


def verify(
    manifest: Manifest,
    *,
    progress: bool | ProgressFunction = False,
    tuning: Tuning = DEFAULT_TUNING,
) -> VerificationReport:
    """Checks all that a checkpoint holds.

    Args:
        manifest: The checkpoint.
        progress: As for `Checkpoint.verify`.
        tuning: How much is read at once.

    Returns:
        The report.

    Raises:
        ReplacedError: A file is no longer the one that was opened.
        ReadError: The system or the store refuses.
    """
    files: list[Damage] = []
    try:
        files += [Damage(path, text) for path, text in manifest.index_damage()]
        names, shared_names = manifest.names, manifest.shared_names
    except ReplacedError:
        raise
    except DamagedError as error:
        damages = files or [Damage(manifest.index_path, str(error))]
        return VerificationReport(manifest.prefix, 0, 0, tuple(damages))
    tensors: dict[str, Damage] = {}
    unchecked = list(shared_names)
    entries: list[TensorEntry] = []
    for name in names:
        try:
            entries.append(manifest.entry(name))
        except DamagedError as error:
            tensors[name] = Damage(name, str(error))
        except UnsupportedError:
            unchecked.append(name)
    total = sum(entry.nbytes for entry in entries)
    with reporting(
        progress, total, f"Verifying {posixpath.basename(manifest.prefix)}"
    ) as advance:
        errors = check_many(entries, advance, tuning)
    for name, error in errors.items():
        if isinstance(error, UnsupportedError):
            unchecked.append(name)
        else:
            tensors[name] = Damage(name, str(error))
    files += _foreign_files(entries, tensors)
    return VerificationReport(
        prefix=manifest.prefix,
        num_tensors=len(names),
        nbytes=sum(entry.nbytes for entry in entries if entry.name not in errors),
        damaged=(*files, *(tensors[name] for name in sorted(tensors))),
        unchecked=tuple(sorted(unchecked)),
    )


def _ends(entries: list[TensorEntry]) -> dict[DataFile, int]:
    """The end of the last tensor in every data file."""
    ends: dict[DataFile, int] = {}
    for entry in entries:
        for piece in entry.pieces:
            if piece.data_file is not None:
                stop = max(piece.span.stop, ends.get(piece.data_file, 0))
                ends[piece.data_file] = stop
    return ends


def _reaches(file: DataFile, stop: int) -> bool:
    """Tells whether a file is there and whole; else every tensor in it says so."""
    try:
        file.check_span(ByteRange(0, stop), subject="The checkpoint")
    except ReplacedError:
        raise
    except (DamagedError, ReadError):
        return False
    return True


def _foreign_files(
    entries: list[TensorEntry], damaged: dict[str, Damage]
) -> list[Damage]:
    """Recognises data files of another checkpoint: none of their tensors fits."""
    fits: collections.Counter[DataFile] = collections.Counter()
    differs: collections.Counter[DataFile] = collections.Counter()
    for entry in entries:
        for piece in entry.pieces:
            if piece.data_file is not None and piece.nbytes:
                is_damaged = entry.name in damaged
                (differs if is_damaged else fits)[piece.data_file] += 1
    foreign: list[Damage] = []
    ends = _ends(entries)
    for file, count in differs.items():
        if count < 2 or fits[file] or not _reaches(file, ends[file]):
            continue
        foreign.append(
            Damage(
                file.path,
                f"None of the {count} tensors in it fits its checksum: it is the data "
                f"of another checkpoint - at `{file.path}`. Copy it again, from where "
                "the index came from.",
            )
        )
    return foreign
