"""Which checkpoints lie in a folder that no state file leads through, newest first.

Goes by names, and recognises by their contents only files that are a checkpoint by
themselves. Opens none.
"""

from __future__ import annotations

import collections
import glob
import os
import re
from collections.abc import Iterable, Sequence
from typing import Final

from tf2flax._base.errors import CheckpointError
from tf2flax._formats import formats
from tf2flax._formats.format import Candidate
from tf2flax._storage.base import Storage

from .interrupted_saves import is_part

INDEX: Final = ".index"
# Files of one V2 checkpoint, of which any stands for all.
MEMBER: Final = re.compile(r"(?P<prefix>.*)\.(index|meta|data-\d{5}-of-\d{5})", re.S)
# One of the files of a V1 checkpoint that was saved by several devices.
V1_FILE: Final = re.compile(r"(?P<prefix>.*)-\d{5}-of-(?P<count>\d{5})", re.S)
# A V1 checkpoint in one file has no ending of its own; people call it so.
_V1_NAME: Final = ".ckpt"
# So many files are looked at; each costs a request in a store. Of others, the names
# decide: one too many is listed, and none is taken for the only one.
_MAX_RECOGNISED: Final = 64
# The number of a step at the end of a prefix; else the first number in a file's name,
# as Keras writes epochs (`weights.05-0.32.h5`).
_STEP: Final = re.compile(r"-(\d{1,18})(-\?{5}-of-\d{5})?")
_NUMBER: Final = re.compile(r"\d{1,18}")


def checkpoints_in(storage: Storage, directory: str) -> list[str]:
    """Finds the checkpoints that lie in a directory.

    Args:
        storage: The place.
        directory: The directory; not those in it.

    Returns:
        Prefixes, patterns and files, each of which opens; newest step first. None of
        a save that was interrupted, and none where the place cannot be listed.
    """
    names = listed_names(storage, directory)
    prefixes = [path for path in prefixes_in(storage, directory) if not is_part(path)]
    # What is given -> the file that shows what it is.
    heads = {name: name for name in names if _may_be_alone(name, set(names))}
    heads |= {pattern: files[0] for pattern, files in _patterns_among(names).items()}
    paths = [
        os.path.join(directory, path)
        for number, (path, head) in enumerate(heads.items())
        if number >= _MAX_RECOGNISED
        or is_checkpoint(storage, os.path.join(directory, head))
    ]
    return newest_first([*prefixes, *paths])


def prefixes_in(storage: Storage, directory: str) -> list[str]:
    """Prefixes of the V2 checkpoints in a directory, those of parts included.

    A link that leads nowhere is none, and neither is what macOS keeps beside a file.
    """
    paths = [
        os.path.join(directory, name)
        for name in listed_names(storage, directory)
        if name.endswith(INDEX) and not name.startswith("._")
    ]
    if storage.is_local:  # a store lists only what is there
        paths = [path for path in paths if storage.is_file(path)]
    return [path.removesuffix(INDEX) for path in paths]


def files_in(storage: Storage, directory: str) -> list[str]:
    """Files in a directory that may be checkpoints by themselves, by their names."""
    paths = [
        os.path.join(directory, name)
        for name in listed_names(storage, directory)
        if name.endswith(formats.endings()) and not name.startswith("._")
    ]
    return [path for path in paths if not storage.is_local or storage.is_file(path)]


def newest_first(paths: Iterable[str]) -> list[str]:
    """Sorts checkpoints by the steps in their names, the highest first.

    Those without a number come last.

    Examples:
        >>> newest_first(["m.ckpt-5", "m.ckpt", "m.ckpt-10"])
        ['m.ckpt-10', 'm.ckpt-5', 'm.ckpt']
    """
    return sorted(paths, key=lambda path: (-step_in_name(path), path))


def step_in_name(path: str) -> int:
    """The step in the name of a checkpoint; -1 where there is none."""
    name = os.path.basename(path)
    for match in _STEP.finditer(name):
        if match.end() == len(name):
            return int(match[1])
    for ending in formats.endings():
        number = _NUMBER.search(name.removesuffix(ending))
        if name.endswith(ending):
            return int(number[0]) if number else -1
    return -1


def stem_of(path: str) -> str:
    """The name of a checkpoint without its step: `model.ckpt` of `model.ckpt-7`."""
    return re.sub(r"-\d*\Z", "", os.path.basename(path))


def listed_names(storage: Storage, directory: str) -> list[str]:
    """Names in a directory; none where it cannot be listed: a message does without."""
    try:
        return storage.names_in(directory)
    except CheckpointError:
        return []


def _may_be_alone(name: str, names: set[str]) -> bool:
    """Tells by its name whether a file may be a checkpoint by itself."""
    if name.startswith("._") or MEMBER.fullmatch(name) or V1_FILE.fullmatch(name):
        return False
    has_graph = f"{name}.meta" in names and f"{name}{INDEX}" not in names
    return has_graph or _V1_NAME in name or name.endswith(formats.endings())


def _patterns_among(names: Sequence[str]) -> dict[str, list[str]]:
    """Patterns of V1 checkpoints in several files, and the files of each."""
    patterns: dict[str, list[str]] = collections.defaultdict(list)
    for name in names:
        match = V1_FILE.fullmatch(name)
        if match and not MEMBER.fullmatch(name):
            stem = glob.escape(match["prefix"])
            patterns[f"{stem}-?????-of-{match['count']}"].append(name)
    return {
        pattern: files
        for pattern, files in patterns.items()
        if len(files) == int(pattern[-5:])
    }


def is_checkpoint(storage: Storage, path: str) -> bool:
    """Tells by its contents whether a file is a checkpoint of any format."""
    candidate = Candidate(storage, path)
    try:
        return storage.is_file(path) and any(
            file_format.recognise(candidate) for file_format in formats.FORMATS
        )
    except CheckpointError:
        return False
