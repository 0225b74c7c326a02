"""What is given where the path of a checkpoint belongs, and what to give instead.

Only for messages: knows no checkpoint, and asks values for attributes alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import unquote

from tf2flax._base.caller import attribute_of
from tf2flax._base.errors import UnsupportedError
from tf2flax._base.names import nearest

# Schemes as others spell them, and as tensorstore does.
_SPELLINGS: Final = {"gcs": "gs", "s3a": "s3", "s3n": "s3"}
_SCHEMES: Final = ("gs", "s3", "http", "https", "file", "memory")
# Variables as shells of UNIX and Windows write them; a drive of Windows.
_VARIABLE: Final = re.compile(r"\$\{\w+\}|\$[A-Za-z_]\w*|%\w+%", re.A)
_DRIVE: Final = re.compile(r"(?P<letter>[A-Za-z]):[\\/]+")
_TAR: Final = re.compile(r"\|(tar|tgz|tar\.gz):")


def not_a_path(value: object) -> UnsupportedError:
    """The error for a value that is neither a path nor a KvStore."""
    return UnsupportedError(
        "Expected the path of a checkpoint (str, bytes, os.PathLike or "
        f"tensorstore.KvStore), got {type(value).__name__}.{_suggest(value)}"
    )


def refuse_home(path: str) -> None:
    """Refuses `~` for the home directory, unless a folder has that name.

    Raises:
        UnsupportedError: It is one.
    """
    expanded = os.path.expanduser(path)
    if expanded != path and not os.path.lexists(path.partition("/")[0]):
        raise UnsupportedError(
            f"`{path}`: only shells take `~` for the home directory. Give `{expanded}`."
        )


def describe_spelling(path: str) -> str:
    """Says what to give for a path that a shell, or Windows, would understand.

    Args:
        path: A local path at which nothing lies.

    Returns:
        Sentences; "" for any other path.
    """
    names = [match.strip("${}%") for match in _VARIABLE.findall(path)]
    # A folder may be called so: then something else is wrong with the path.
    if names and os.path.lexists(_first_folder_with_variable(path)):
        return ""
    unset = [name for name in names if name not in os.environ]
    if unset:
        return f"The variable `{unset[0]}` of the environment is not set."
    if names:
        expanded = _VARIABLE.sub(
            lambda m: os.environ[m[0].strip("${}%")], path.removeprefix("./")
        )
        return f"Only shells replace `{_VARIABLE.findall(path)[0]}`. Give `{expanded}`."
    return _describe_windows(path)


def _describe_windows(path: str) -> str:
    """Says what to give for a path of Windows; "" for any other."""
    drive = _DRIVE.match(path)
    if os.name == "nt" or not (drive or path.startswith("\\\\")):
        return ""
    fact = "It is a path of Windows, and this system is another one."
    if drive is None:
        return f"{fact} Copy the files here."
    below = path[drive.end() :].replace("\\", "/")
    mounted = f"/mnt/{drive['letter'].lower()}/{below}"
    return f"{fact} WSL has it at `{mounted}`; elsewhere, copy the files here."


def _first_folder_with_variable(path: str) -> str:
    """A path as far as the component that has a variable in its name."""
    match = _VARIABLE.search(path)
    end = path.find("/", match.end()) if match else -1
    return path if end < 0 else path[:end]


def unknown_scheme(text: str, url: re.Match[str], scheme: str) -> UnsupportedError:
    """The error for a URL that tensorstore does not know.

    Args:
        text: The URL.
        url: Its beginning, `gcs://`.
        scheme: What tensorstore does not know of it: of a pipeline of stores perhaps a
            later one; "" where it does not say.
    """
    if scheme and scheme != url["scheme"]:
        fix = unpack_tar(text) or "Unpack the file to a local directory."
        return UnsupportedError(
            f"tensorstore opens nothing by `|{scheme}:` - in `{text}`. {fix}"
        )
    close = [_SPELLINGS.get(url["scheme"].lower(), "")]
    close = [*filter(None, close), *nearest(url["scheme"], _SCHEMES, 1)]
    fix = "Copy the checkpoint's files to a local directory."
    if close:
        fix = f"Did you mean `{close[0]}://{text[url.end() :]}`?"
    return UnsupportedError(
        f"tensorstore does not know {url[0]} URLs - in `{text}`. {fix}"
    )


def unpack_tar(url: str) -> str:
    """What to do about a file in a tar archive; "" where a URL has none.

    Examples:
        >>> unpack_tar("file:///a/bert.tar|tar:bert/model.ckpt")
        "Unpack it, `tar -xf 'bert.tar'`, and give `bert/model.ckpt`."
    """
    tar = _TAR.search(url)
    if tar is None:
        return ""
    archive = unquote(url[: tar.start()].rpartition("/")[2])
    inside = url[tar.end() :] or "the prefix of the checkpoint in it"
    fix = f"Unpack it, `tar -xf {archive!r}`, and give `{inside}`."
    is_here = url.lower().startswith("file:")
    return fix if is_here else f"Download it first. {fix}"


def _suggest(value: Any) -> str:
    """What to give instead; begins with a space, or is ""."""
    prefix = attribute_of(value, "prefix")
    shape = attribute_of(value, "shape")
    is_named = isinstance(attribute_of(value, "name"), str)
    is_plan = callable(attribute_of(value, "restore"))
    is_file = callable(attribute_of(value, "write"))
    if value is None:
        return (
            " None is what tf2flax.latest_checkpoint gives where it finds no "
            "checkpoint."
        )
    if isinstance(value, Mapping) and isinstance(prefix, str):
        return (
            f" It is open already: look names up in it (`checkpoint[name]`), or give "
            f'its path, "{prefix}".'
        )
    if is_plan:
        return " A plan has its checkpoint already: call its `restore()`."
    if isinstance(value, Mapping):
        return (
            " The path comes first. Arrays in memory are written to a path by "
            "tf2flax.save_checkpoint(path, arrays)."
        )
    if is_named:
        if is_file:
            return " Give the name of the file, which need not be open."
        return " Give the checkpoint that it is from."
    if isinstance(value, (list, tuple, set, frozenset)) or (
        isinstance(value, Iterable) and shape is None
    ):
        return " tf2flax.merge_checkpoints shows several checkpoints as one."
    return ""
