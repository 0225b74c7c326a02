"""Folders of other programs: what they are by the names in them, what reads them.

One table, `FOLDERS`; then folders with a checkpoint further down, or in an archive.
Reads no file but the end of a zip archive.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import os
import re
from collections.abc import Iterable
from typing import Final

from tf2flax._base.errors import CheckpointError
from tf2flax._formats import formats
from tf2flax._formats.foreign_zip import describe_zip
from tf2flax._storage.base import Storage
from tf2flax._storage.foreign import PATH, file_of_name, recognise_file

from .choosing import checkpoints_in, listed_names, prefixes_in

_READS: Final = " reads it; tf2flax reads checkpoints of TensorFlow and Keras weights."


@dataclasses.dataclass(frozen=True, slots=True)
class ForeignFolder:
    """A kind of folder that is no checkpoint of TensorFlow.

    Attributes:
        kind: What it is, with its article.
        reader: The expression that reads it; `PATH` stands for the folder.
        names: Patterns of names, of which one tells the kind.
    """

    kind: str
    reader: str
    names: tuple[str, ...]


ORBAX: Final = ForeignFolder(
    "a checkpoint of Orbax",
    f"orbax.checkpoint.PyTreeCheckpointer().restore({PATH})",
    (
        "_CHECKPOINT_METADATA",
        "_METADATA",
        "_sharding",
        "manifest.ocdbt",
        "ocdbt.process_*",
        "checkpoint.orbax*",
    ),
)
FOLDERS: Final = (
    ForeignFolder(
        "a checkpoint of T5X",
        f"t5x.checkpoints.load_t5x_checkpoint({PATH})",
        ("target.*", "state.param_states.*"),
    ),
    ORBAX,
    ForeignFolder(
        "a folder of Flax's own checkpoints",
        f"flax.training.checkpoints.restore_checkpoint({PATH}, target=None)",
        ("checkpoint_[0-9]*",),
    ),
    ForeignFolder(
        "a model in safetensors",
        "safetensors.numpy.load_file(<each `.safetensors` file>)",
        ("*.safetensors", "*.safetensors.index.json"),
    ),
    ForeignFolder(
        "a model in MessagePack, as Flax writes it",
        f"flax.serialization.msgpack_restore(pathlib.Path({PATH}, "
        "'flax_model.msgpack').read_bytes())",
        ("flax_model*.msgpack",),
    ),
    ForeignFolder(
        "a model of PyTorch",
        "torch.load(<each file of weights>, weights_only=True)",
        ("pytorch_model*.bin", "*.pt", "*.pth", "pytorch_model.bin.index.json"),
    ),
    ForeignFolder(
        "a distributed checkpoint of PyTorch",
        f"torch.distributed.checkpoint.format_utils.dcp_to_torch_save({PATH}, <file>)",
        ("*.distcp",),
    ),
    ForeignFolder(
        "a model of TensorFlow.js",
        f"tensorflowjs.converters.load_keras_model({PATH} + '/model.json')",
        ("group*-shard*of*",),
    ),
    ForeignFolder("an array of Zarr", f"zarr.open({PATH})", (".zarray", "zarr.json")),
    ForeignFolder("a group of Zarr", f"zarr.open({PATH})", (".zgroup",)),
    ForeignFolder("a model in GGUF", "gguf.GGUFReader(<the file>)", ("*.gguf",)),
    ForeignFolder("a model in ONNX", "onnx.load(<the file>)", ("*.onnx",)),
)
# Names that are asked for one by one in a place that cannot be listed.
_ASKED: Final = (
    "_CHECKPOINT_METADATA",
    "_METADATA",
    "manifest.ocdbt",
    "model.safetensors",
    "flax_model.msgpack",
    "pytorch_model.bin",
    ".zarray",
    ".zgroup",
    "zarr.json",
)
# A cache of huggingface_hub: a folder for each revision, all links.
_CACHE: Final = {"blobs", "refs", "snapshots"}
# So many folders in a folder are looked into, and so many names are shown.
_MAX_FOLDERS: Final = 32
_MAX_SHOWN: Final = 4


def kind_of_folder(
    storage: Storage, directory: str, state: bytes
) -> tuple[str, str] | None:
    """Recognises a folder of another program.

    Args:
        storage: The place.
        directory: The folder; no checkpoint lies in it.
        state: The file `checkpoint` in it; empty where there is none.

    Returns:
        Its kind, and what to do; None where nobody knows it.
    """
    names = listed_names(storage, directory)
    if not names and not storage.is_local:
        names = _asked(storage, directory)
    full_path = storage.show(directory)
    state_file = recognise_file(state, "") if state else None
    # Orbax and T5X write a file of that name, too.
    is_other = state_file is not None and "MessagePack" in state_file.kind
    for folder in FOLDERS:
        if _any_like(names, folder.names) or (is_other and folder is ORBAX):
            # A step of a CheckpointManager holds its items in folders.
            is_step = folder is ORBAX and "default" in names
            path = os.path.join(full_path, "default") if is_step else full_path
            reader = folder.reader.replace(PATH, repr(path))
            return folder.kind, f"`{reader}`{_READS}"
    if _any_like(names, ("saved_model.pb", "saved_model.pbtxt")):
        return (
            "a SavedModel without variables: its graph has no values, or constants",
            "Give the checkpoint that it was made of.",
        )
    steps = [name for name in names if name.isdecimal()]
    if any(
        _any_like(listed_names(storage, os.path.join(directory, step)), _ORBAX_STEP)
        for step in steps[:_MAX_SHOWN]
    ):
        # Names of steps have few digits; one of many more is a folder of its own.
        step = max(steps, key=lambda name: (len(name), name))
        reader = f"orbax.checkpoint.CheckpointManager({full_path!r}).restore({step})"
        return "a folder of steps of Orbax's CheckpointManager", f"`{reader}`{_READS}"
    return None


_ORBAX_STEP: Final = ("_CHECKPOINT_METADATA", "default", "state", "params", "items")


def describe_contents(storage: Storage, directory: str) -> str:
    """Says what lies in a folder that leads to no checkpoint, and may be meant.

    Args:
        storage: The place.
        directory: The folder.

    Returns:
        Sentences; "" where there is nothing to say.
    """
    further_down = checkpoints_below(storage, directory)
    if further_down:
        which = " or ".join(f"`{storage.show(path)}`" for path in further_down)
        return f"Did you mean {which}?"
    # Remains of a checkpoint say more than other files beside them.
    names = listed_names(storage, directory)
    data = [m["prefix"] for name in names if (m := _DATA.fullmatch(name))]
    if data:
        return (
            f"It holds data of `{data[0]}`, whose index is missing: copy "
            f"`{data[0]}.index` there."
        )
    graphs = [name for name in names if name.endswith(".meta")]
    if graphs:
        return (
            f"It holds `{graphs[0]}` alone, which is a graph without values: copy the "
            "`.index` and `.data-…` files there."
        )
    for name in names:
        if name.endswith(".zip"):
            path = os.path.join(directory, name)
            fix = describe_zip(storage, path, formats.endings()).fix(storage.show(path))
            return f"It holds `{name}`. {fix}"
        kind = file_of_name(name)
        if kind is not None:
            fix = kind.fix(storage.show(os.path.join(directory, name)))
            return f"It holds `{name}`, {kind.kind}. {fix}"
    return ""


def checkpoints_below(storage: Storage, directory: str) -> list[str]:
    """Finds a few checkpoints in the folders of a folder, newest step first."""
    try:
        folders = storage.folders_in(directory)[:_MAX_FOLDERS]
    except CheckpointError:
        return []
    if set(folders) >= _CACHE:
        snapshots = os.path.join(directory, "snapshots")
        return checkpoints_below(storage, snapshots)
    paths: list[str] = []
    for folder in folders:
        path = os.path.join(directory, folder)
        paths += checkpoints_in(storage, path)[:_MAX_SHOWN]
        paths += prefixes_in(storage, os.path.join(path, "variables"))[:_MAX_SHOWN]
    return paths[:_MAX_SHOWN]


_DATA: Final = re.compile(r"(?P<prefix>.*)\.data-\d{5}-of-\d{5}", re.S)


def _any_like(names: Iterable[str], patterns: tuple[str, ...]) -> bool:
    return any(
        fnmatch.fnmatchcase(name, pattern) for name in names for pattern in patterns
    )


def _asked(storage: Storage, directory: str) -> list[str]:
    """The names of `_ASKED` that are there."""
    try:
        return [n for n in _ASKED if storage.is_file(os.path.join(directory, n))]
    except CheckpointError:
        return []
