"""The errors for a path at which no checkpoint lies: what may have been meant instead.

Looks around by names, and recognises what is there; what it suggests opens.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

from tf2flax._base.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    UnsupportedError,
)
from tf2flax._storage.base import Storage
from tf2flax._storage.not_paths import describe_spelling, unpack_tar
from tf2flax._storage.stores import archive_error, missing_archive

from .choosing import INDEX, V1_FILE, checkpoints_in, listed_names
from .foreign_folders import describe_contents, kind_of_folder
from .interrupted_saves import describe_interrupted_save
from .near_paths import close_to, is_there, suggest_folder
from .state import State
from .state_faults import paths_meant, why_unparsed

# So many checkpoints of a folder are listed.
_MAX_LISTED: Final = 8
# What a state file lists is tried so often.
_MAX_TRIED: Final = 8
_SEPARATOR: Final = re.compile(r"[/\\]")


def no_checkpoint_in(storage: Storage, directory: str, state: State) -> CheckpointError:
    """The error for a directory that leads to no checkpoint, or to several."""
    if error := _archive_error(storage, directory):
        return error
    full_path = storage.show(directory)
    prefix = directory.rstrip("/")
    if prefix != directory and prefix and is_there(storage, prefix):
        return CheckpointNotFoundError(
            f"No directory at `{full_path}`: only folders end in a slash. Did you mean "
            f"`{storage.show(prefix)}`?"
        )
    if storage.is_local and not os.path.isdir(directory):
        spelling = describe_spelling(directory)
        fix = spelling or suggest_folder(storage, directory)
        if not spelling and prefix and os.path.isdir(os.path.dirname(prefix) or "."):
            # A prefix with a slash, perhaps.
            close = close_to(storage, prefix)
            fix = f"Did you mean `{storage.show(close)}`?" if close else fix
        return CheckpointNotFoundError(f"No directory at `{full_path}`. {fix}")
    checkpoints = checkpoints_in(storage, directory)
    interrupted = describe_interrupted_save(storage, directory)
    meant = [] if not state.is_present else _meant_by(storage, directory, state)
    # Where anything of TensorFlow's lies, that is meant, whatever else is there.
    if not checkpoints and not meant and not interrupted and not state.named:
        kind = kind_of_folder(storage, directory, state.contents)
        if kind is not None:
            return UnsupportedError(
                f"`{full_path}` is {kind[0]}, not a TensorFlow checkpoint. {kind[1]}"
            )
    reason = _reason(storage, state)
    if state.is_present and [*meant, *checkpoints]:
        first = [*meant, *checkpoints][0]
        fix = f"Did you mean the prefix `{storage.show(first)}`?"
    elif len(checkpoints) > 1:
        reason = f"{reason}, and {len(checkpoints)} checkpoints"
        fix = f"Give one of them, newest step first: {_listed(storage, checkpoints)}."
    elif checkpoints:
        fix = f"Did you mean `{storage.show(checkpoints[0])}`?"
    else:
        fix = "" if interrupted else describe_contents(storage, directory)
        fix = fix or "Give the prefix of a checkpoint (its files without `.index`)."
    if interrupted:
        fix = f"{fix} {interrupted}" if checkpoints else interrupted
    return CheckpointNotFoundError(
        f"Couldn't find a checkpoint in the directory `{full_path}`: {reason}. {fix}"
    )


def _reason(storage: Storage, state: State) -> str:
    """Why a directory leads to no checkpoint."""
    state_path = storage.show(state.path)
    if not state.is_present:
        return "it holds no `checkpoint` state file"
    if state.named:
        named = state.prefix or state.named
        return f"its state file names `{named}`, which is not there - in `{state_path}`"
    if state.prefix is None and state.contents:
        fact = why_unparsed(state.contents)
        return f"its state file does not parse: {fact} - in `{state_path}`"
    if state.prefix is None:
        return f"its state file cannot be read - at `{state_path}`"
    return f"its state file names no checkpoint - in `{state_path}`"


def _meant_by(storage: Storage, directory: str, state: State) -> list[str]:
    """The first checkpoint that a state file seems to mean and that is there.

    Checkpoints are often moved together with a state file of absolute paths, or of
    paths of Windows. After the latest, the state file lists others.
    """
    named = [state.named] if state.named else []
    for path in [*named, *paths_meant(state.contents)][:_MAX_TRIED]:
        beside = os.path.join(directory, _SEPARATOR.split(path)[-1])
        translated = storage.join_state(directory, path.replace("\\", "/"))
        for prefix in (translated, beside):
            if prefix and is_there(storage, prefix):
                return [prefix]
    return []


def no_checkpoint_at(storage: Storage, path: str) -> CheckpointError:
    """The error for a prefix, file or pattern that means no checkpoint."""
    if not path:
        return CheckpointNotFoundError(
            "The path is empty. Give the prefix of a checkpoint (its files without "
            "`.index`) or its directory; the current one is `.`."
        )
    if error := _archive_error(storage, path):
        return error
    full_path = storage.show(path)
    folder, name = os.path.split(path)
    is_pipe = storage.is_local and os.path.exists(path) and not os.path.isdir(path)
    if path == "-" or is_pipe:
        # A file would have been opened.
        kind = "Standard input" if path == "-" else f"`{full_path}`, a pipe or device,"
        return CheckpointNotFoundError(
            f"{kind} cannot be read as a checkpoint. Give the prefix of files (without "
            "`.index`) or their directory."
        )
    moved = _in_another_spelling(storage, path)
    spelling = describe_spelling(path) if storage.is_local else ""
    if moved or spelling:
        fix = f"Did you mean `{storage.show(moved)}`?" if moved else spelling
        return CheckpointNotFoundError(f"No checkpoint at `{full_path}`. {fix}")
    if storage.is_local and not os.path.isdir(folder or "."):
        fix = _suggest_url(storage, path) or suggest_folder(storage, path)
        return CheckpointNotFoundError(
            f"No checkpoint at `{full_path}`: there is no directory `{folder or '.'}`. "
            f"{fix}"
        )
    patterns = _v1_patterns(storage, path)
    interrupted = describe_interrupted_save(storage, folder, name)
    missing = _missing_files(storage, path)
    # What is certain comes first; names that are merely alike, last.
    if glob.has_magic(name) and _prefixes_matching(storage, path):
        fix = "A V2 checkpoint is given by its prefix, not by a pattern."
    elif patterns:
        which = " or ".join(f"`{storage.show(pattern)}`" for pattern in patterns[:4])
        fix = f"Did you mean the pattern {which}?"
    elif interrupted:
        fix = interrupted
    elif url := _suggest_url(storage, path):
        fix = url
    elif close := close_to(storage, path):
        fix = f"Did you mean `{storage.show(close)}`?"
    else:
        fix = "" if missing else describe_contents(storage, folder)
        fix = fix if fix.startswith("Did you") else ""
        fix = fix or "Give its prefix (its files without `.index`) or its directory."
    reason = missing or f"there is no `{full_path}.index`"
    return CheckpointNotFoundError(f"No checkpoint at `{full_path}`: {reason}. {fix}")


def _archive_error(storage: Storage, path: str) -> CheckpointError | None:
    """The error for an archive that is not there or not read; None for no error."""
    archive, mark, _ = path.partition("|zip:")
    if not mark or not storage.is_local or os.path.lexists(archive):
        return archive_error(storage, path)
    problem = f"No checkpoint at `{storage.show(path)}`"
    return missing_archive(problem, storage.show(archive))


def _suggest_url(storage: Storage, path: str) -> str:
    """What to write for a member of a local archive; "" where none is meant."""
    archive, _, member = path.partition("|")
    if not storage.is_local or ":" not in member or not storage.is_file(archive):
        return ""
    url = f"file://{quote(storage.show(archive))}|{member}"
    return unpack_tar(url) or f"What is in an archive has a URL: `{url}`."


def _missing_files(storage: Storage, path: str) -> str:
    """Which files of a checkpoint are there without its index; "" for none."""
    full_path = storage.show(path)
    for link in (path, f"{path}{INDEX}"):
        if storage.is_local and os.path.islink(link) and not os.path.exists(link):
            goal = os.readlink(link)
            return f"`{storage.show(link)}` is a link to `{goal}`, which is not there"
    folder, name = os.path.split(path)
    names = listed_names(storage, folder)
    has_data = any(neighbour.startswith(f"{name}.data-") for neighbour in names)
    if has_data:
        return f"its data is there, and its index `{full_path}.index` is not"
    if f"{name}.meta" in names:
        return (
            f"only its graph is there, `{full_path}.meta`, which has no values; copy "
            f"`{name}.index` and `{name}.data-…` there"
        )
    return ""


def _in_another_spelling(storage: Storage, path: str) -> str:
    """A path of Windows as it is here; "" where nothing is there."""
    if "\\" not in path:
        return ""
    parts = _SEPARATOR.split(path)
    for first in range(len(parts)):
        candidate = "/".join(parts[first:])
        if candidate and is_there(storage, candidate):
            return candidate
    return ""


def _listed(storage: Storage, paths: Sequence[str]) -> str:
    text = ", ".join(f"`{storage.show(path)}`" for path in paths[:_MAX_LISTED])
    more = len(paths) - _MAX_LISTED
    return f"{text} and {more} more" if more > 0 else text


def _prefixes_matching(storage: Storage, pattern: str) -> list[str]:
    try:
        return storage.matches(f"{pattern}.index")
    except CheckpointError:  # the message does without
        return []


def _v1_patterns(storage: Storage, prefix: str) -> list[str]:
    """Patterns of V1 checkpoints in several files that have a prefix.

    Args:
        storage: The place.
        prefix: What comes before `-00000-of-00002`.

    Returns:
        A pattern for each number of files, sorted.
    """
    folder, start = os.path.split(prefix)
    matches = map(V1_FILE.fullmatch, listed_names(storage, folder))
    counts = {match["count"] for match in matches if match and match["prefix"] == start}
    # Folders are taken as they are written; a file's name may look like a pattern.
    stem = prefix.removesuffix(start) + glob.escape(start)
    return [f"{stem}-?????-of-{count}" for count in sorted(counts)]
