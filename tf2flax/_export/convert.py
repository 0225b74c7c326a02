"""`convert`: a checkpoint of TensorFlow becomes files that other libraries read.

Everything is checked before the first byte is written: the map, names, dtypes, and that
nothing lies at the output. Imports no JAX.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import posixpath
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import numpy as np

from tf2flax._assignment.language.grammar import FrozenMap, freeze_map
from tf2flax._base.caller import check_switch, show_value
from tf2flax._base.errors import (
    AssignmentError,
    DamagedError,
    ExistsError,
    ReadError,
    UnsupportedError,
)
from tf2flax._base.manifest import Manifest
from tf2flax._base.names import why_no_file
from tf2flax._base.progress import Advance, ProgressFunction, check_progress, reporting
from tf2flax._base.text import counted, format_nbytes, list_names, printable
from tf2flax._checkpoint.checkpoint import Checkpoint
from tf2flax._checkpoint.opening import open_checkpoint
from tf2flax._checkpoint.state import PathLike
from tf2flax._formats.object_graph import GRAPH_KEY
from tf2flax._storage.faults import write_error
from tf2flax._storage.local import LOCAL
from tf2flax._storage.stores import storage_of
from tf2flax._storage.writing import new_folders

from . import exporters
from .by_reference import WAYS
from .exporter import ExportedTensor, Exporter, ExportOptions, TensorSource
from .outputs import new_output
from .selection import (
    Selection,
    refuse_hidden,
    select_all,
    select_by_map,
    without_slots,
)
from .source import CheckpointSource

Format = Literal["orbax", "safetensors", "tensorbundle", "npz"]
_STEP = "global_step"
# Gives what reads the tensors that are written.
SourceMaker = Callable[[list[ExportedTensor], Advance], TensorSource]


@dataclasses.dataclass(frozen=True, slots=True)
class ConversionReport:
    """What a conversion wrote, and what it did not.

    Attributes:
        path: The output, absolute.
        format: Its format.
        written: Names of the tensors in it, sorted.
        dropped: Names of the checkpoint's tensors that no entry of the map names, or
            that `slots=False` drops.
        left_out: Names of tensors of strings, which the format does not hold.
        nbytes: Bytes of the elements that were written.
        kept: Names of the leaves that were written as a target has them, where there is
            one (`tf2flax convert --target`): no entry of the map fills them.

    Examples:
        >>> import tempfile, numpy as np, tf2flax
        >>> checkpoint = {"bert/pooler/bias": np.zeros(2), "global_step": np.int64(7)}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = tf2flax.convert(
        ...         checkpoint,
        ...         f"{folder}/bert.safetensors",
        ...         assignment_map={"bert/pooler/": "pooler/"},
        ...     )
        >>> report.written, report.dropped
        (('pooler/bias',), ('global_step',))
    """

    path: str
    format: str
    written: tuple[str, ...]
    dropped: tuple[str, ...]
    left_out: tuple[str, ...]
    nbytes: int
    kept: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, ready for `json.dumps`."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        """The report, in a few lines."""
        lines = [
            f"{printable(self.path)}: {counted(len(self.written), 'tensor')}, "
            f"{format_nbytes(self.nbytes)}"
        ]
        if self.kept:
            lines.append(f"as in the target, not filled: {list_names(self.kept)}")
        if self.dropped:
            lines.append(f"dropped: {list_names(self.dropped)}")
        if self.left_out:
            lines.append(f"strings, left out: {list_names(self.left_out)}")
        if GRAPH_KEY in self.left_out:
            # Without the graph, nothing says which variable a path of objects is.
            lines.append(
                "names are paths of objects; "
                "open_checkpoint(path).by_variable_name() has those of variables"
            )
        return "\n".join(lines)


def convert(
    checkpoint: PathLike | Checkpoint | Mapping[str, Any],
    out: PathLike,
    *,
    format: Format | None = None,
    assignment_map: Any = None,
    dtype: Any = None,
    data_files: int = 1,
    slots: bool = True,
    flat: bool = False,
    overwrite: bool = False,
    verify: bool = True,
    by_reference: bool | Literal["hardlink", "symlink", "beside"] = False,
    progress: bool | ProgressFunction = False,
) -> ConversionReport:
    """Writes a checkpoint in another format, or in TensorFlow's own, changed.

    Tensors are streamed: memory holds 128 MiB of reads, and the largest tensor where
    it is needed whole: where an expression changes it. Of a partitioned variable that
    "tensorbundle" writes in slices, it holds the largest slice.

    Args:
        checkpoint: A path, or an open checkpoint or view.
        out: Local path of the output: a file for "safetensors" and "npz", a directory
            for "orbax", a prefix for "tensorbundle". It appears once it is whole.
        format: "safetensors", "orbax", "npz" or "tensorbundle"; None goes by the ending
            of `out`. Strings are left out of "safetensors" and "orbax", and listed.
        assignment_map: What is written under which names: checkpoint names, scopes,
            captures or expressions -> names. A scope moves every tensor under it;
            tensors that no entry names are dropped. Where two tensors give one name,
            that is an error, unless one entry says more of it. `[options]` of a map
            file are those of `plan`, and not used. None writes all tensors.
        dtype: A dtype for the tensors of its own kind (a float dtype for those of
            floating point), of which there must be one; or pairs of a regex of names
            and a dtype, for tensors of any kind. None keeps every dtype.
        data_files: Number of data files of "tensorbundle".
        slots: False drops what training adds: optimizer slots and moving averages.
        flat: True keeps names whole in "orbax"; False nests them at "/".
        overwrite: Whether an output that exists is replaced, once the new one is whole.
        verify: True compares the CRC-32C of everything that is read.
        by_reference: For "orbax": True copies nothing and writes an index of the bytes
            in TensorFlow's data files, which are linked into the output ("hardlink",
            "symlink"; True takes whichever works) or lie below it ("beside"). Orbax
            does not notice when these bytes change; `tf2flax verify` of the output
            does.
        progress: True draws a bar on stderr; a function is called with a
            `tf2flax.Progress`.

    Returns:
        What was written, dropped and left out.

    Raises:
        ExistsError: The output exists, and `overwrite` is not given.
        AssignmentError: The map does not fit the checkpoint, names do not fit the
            format ("a" beside "a/b" in a tree), or an option is not valid.
        UnsupportedError: The format does not hold a dtype; `out` is a URL; tensors
            cannot be referred to; or, without a map, a view leaves out tensors that
            share their names.
        DamagedError: A checksum differs, or a data file is short.
        ReadError: The system refuses, as when the disk is full; nothing is left then.

    Examples:
        >>> import tempfile, numpy as np, tf2flax
        >>> checkpoint = tf2flax.open_checkpoint({"kernel": np.ones((3, 2)), "step": 7})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = tf2flax.convert(checkpoint, f"{folder}/model.npz")
        ...     np.load(report.path)["kernel"].shape
        (3, 2)
        >>> report.written
        ('kernel', 'step')
    """
    has_slots = check_switch("slots", slots)
    output = prepare_output(
        out,
        format=format,
        options=(data_files, flat, by_reference),
        overwrite=overwrite,
        verify=verify,
        progress=progress,
    )
    opened = open_checkpoint(checkpoint)
    frozen = None if assignment_map is None else freeze_map(assignment_map)
    selection = _select(opened.manifest, frozen, dtype, has_slots=has_slots)

    def make_source(tensors: list[ExportedTensor], advance: Advance) -> TensorSource:
        return CheckpointSource(
            opened,
            tensors,
            metadata_of(opened, frozen),
            verify=output.is_verified,
            advance=advance,
        )

    return output.write(opened, selection, make_source)


@dataclasses.dataclass(frozen=True, slots=True)
class Output:
    """Where a conversion writes, and how.

    Attributes:
        path: The output, absolute.
        exporter: Writes its format.
        is_replacing: True if an output that exists is replaced.
        is_verified: True if checksums are compared.
        progress: Option `progress`.
    """

    path: str
    exporter: Exporter
    is_replacing: bool
    is_verified: bool
    progress: bool | ProgressFunction

    def write(
        self, checkpoint: Checkpoint, selection: Selection, make_source: SourceMaker
    ) -> ConversionReport:
        """Checks all that is selected, and writes it.

        Args:
            checkpoint: Where the tensors come from.
            selection: What is written.
            make_source: Gives what reads the tensors.

        Returns:
            What was written, dropped and left out.
        """
        path, exporter = self.path, self.exporter
        tensors = [
            tensor for tensor in selection.tensors if not exporter.leaves_out(tensor)
        ]
        if not tensors:
            raise AssignmentError("There is nothing to write: no arrays are left.")
        exporter.check(tensors)
        if self.is_replacing:
            _refuse_loss(exporter, path, checkpoint.manifest)
        else:
            _refuse_present(exporter, path)
        total = sum(tensor.nbytes for tensor in tensors)
        title = f"Converting {posixpath.basename(checkpoint.prefix)}"
        with reporting(self.progress, total, title) as advance:
            _write(exporter, path, make_source(tensors, advance))
        return _report(path, exporter, selection, tensors, total)


def prepare_output(
    out: PathLike,
    *,
    format: object,
    options: tuple[int, object, object],
    overwrite: object,
    verify: object,
    progress: bool | ProgressFunction,
) -> Output:
    """Checks the options of `convert` that say what is written where.

    Args:
        out: As `convert`.
        format: As `convert`.
        options: `data_files`, `flat` and `by_reference` of `convert`.
        overwrite: As `convert`.
        verify: As `convert`.
        progress: As `convert`.

    Raises:
        AssignmentError: One of them is not valid.
        UnsupportedError: `out` is a URL.
    """
    data_files, flat, by_reference = options
    path = _check_output(out)
    is_replacing = check_switch("overwrite", overwrite)
    is_verified = check_switch("verify", verify)
    check_progress(progress)
    exporter = _exporter_for(path, format)(
        ExportOptions(
            data_files, check_switch("flat", flat), _check_reference(by_reference)
        )
    )
    return Output(path, exporter, is_replacing, is_verified, progress)


def _check_reference(way: object) -> bool | str:
    if way is False or way is True:
        return way
    if isinstance(way, str) and way in WAYS:
        return way
    raise AssignmentError(
        "Option by_reference: expected True, False, 'hardlink', 'symlink' or 'beside', "
        f"got {show_value(way)}."
    )


def _select(
    manifest: Manifest, entries: FrozenMap | None, dtype: object, *, has_slots: bool
) -> Selection:
    if entries is None:
        refuse_hidden(manifest, has_slots=has_slots)
        selection = select_all(manifest, dtype)
    else:
        selection = select_by_map(manifest, entries, dtype)
    return selection if has_slots else without_slots(selection, manifest)


def _check_output(out: PathLike) -> str:
    """The absolute path of an output."""
    storage, text = storage_of(out)
    if not storage.is_local:
        raise UnsupportedError(
            f"`{storage.show(text)}` is not a local path: conversions are written to "
            "local files. Write it there, and copy it."
        )
    if reason := why_no_file(text):
        raise AssignmentError(f"{text!r} is not a valid file name: {reason}.")
    path = LOCAL.show(text)
    return path.rstrip("/") or path


def _exporter_for(path: str, name: object) -> type[Exporter]:
    """The exporter of a format, by its name or by the ending of the output."""
    for exporter in exporters.EXPORTERS:
        is_meant = path.endswith(exporter.endings) if name is None else False
        if is_meant or (isinstance(name, str) and exporter.name == name):
            return exporter
    names = ", ".join(repr(exporter.name) for exporter in exporters.EXPORTERS)
    if name is None:
        raise AssignmentError(
            f"`{path}`: its ending does not say the format. Give format=, "
            f"one of {names}."
        )
    raise AssignmentError(
        f"Option format: expected one of {names}, got {show_value(name)}."
    )


def _refuse_present(exporter: Exporter, path: str) -> None:
    present = exporter.find_present(path)
    if present is not None:
        raise ExistsError(
            f"The output exists already - at `{present}`. Choose another path, or give "
            "overwrite=True."
        )


def _refuse_loss(exporter: Exporter, path: str, manifest: Manifest) -> None:
    """Refuses to replace what is no earlier output, or holds the checkpoint itself.

    Raises:
        ExistsError: It would be lost.
    """
    if exporter.writes_in_place or not os.path.lexists(path):
        return
    if not exporter.may_replace(path):
        raise ExistsError(
            f"A folder of something else lies at the output - at `{path}`. Choose "
            "another path: overwrite replaces outputs alone."
        )
    target = os.path.realpath(path)
    for file in sorted({manifest.index_path, *_data_paths(manifest)}):
        place = os.path.realpath(file)
        # Links of an earlier output by reference lead out of it.
        if place == target or place.startswith(f"{target}/"):
            raise ExistsError(
                f"The checkpoint itself lies at the output - at `{file}`. Choose "
                "another path."
            )


def _data_paths(manifest: Manifest) -> Iterator[str]:
    """Yields the files of all tensors, of any format; some more than once."""
    for name in manifest.names:
        # What is damaged is refused where it is converted.
        with contextlib.suppress(DamagedError):
            yield from (piece.path for piece in manifest.entry(name).pieces)


def _write(exporter: Exporter, path: str, source: TensorSource) -> None:
    try:
        with new_folders(path):
            if exporter.writes_in_place:
                exporter.write(path, source)
                return
            with new_output(path) as temporary:
                exporter.write(temporary, source)
    except (ExistsError, ReadError):  # both are OSErrors, and say what is wrong
        raise
    except OSError as error:
        raise write_error(path, error) from error


def metadata_of(checkpoint: Checkpoint, entries: FrozenMap | None) -> dict[str, str]:
    """Where the tensors come from, as text."""
    source = checkpoint.prefix.encode("utf-8", "backslashreplace").decode()
    metadata = {"source": source}
    if _STEP in checkpoint:
        step = checkpoint[_STEP]
        if not step.shape and step.dtype.kind in "iu":
            # A damaged step is left out here, and refused where it is converted.
            with contextlib.suppress(DamagedError):
                metadata["step"] = str(int(np.asarray(step.read())))
    if entries is not None:
        pairs = [[str(key), str(value)] for key, value, *_ in entries.entries]
        metadata["assignment_map"] = json.dumps(pairs)
    return metadata


def _report(
    path: str,
    exporter: Exporter,
    selection: Selection,
    tensors: list[ExportedTensor],
    nbytes: int,
) -> ConversionReport:
    written = {tensor.name for tensor in tensors}
    return ConversionReport(
        path=path,
        format=exporter.name,
        written=tuple(tensor.name for tensor in tensors),
        dropped=selection.dropped,
        left_out=tuple(t.name for t in selection.tensors if t.name not in written),
        nbytes=nbytes,
    )
