"""Where a command writes a file: checked in one place, before anything is read.

Commands make no folders: where one is missing, its name is more likely misspelt.
"""

from __future__ import annotations

import errno
import os
import pathlib
import stat

import tf2flax
from tf2flax._base.names import why_no_file
from tf2flax._storage.faults import write_error
from tf2flax._storage.local import LOCAL
from tf2flax._storage.stores import storage_of


def check_output(
    out: str | None, option: str, file: str, *, overwrite: bool, ending: str = ""
) -> str:
    """Checks the file that an option names.

    Args:
        out: The path; None if the option is not given.
        option: The option: `-o`.
        file: What the help calls its value: `FILE.npy`.
        overwrite: True if a file that exists may be replaced.
        ending: How its name ends, in lower case; "" for any ending.

    Returns:
        The absolute path; "" if no file is wanted.

    Raises:
        AssignmentError: It is no name of a file, has another ending, or there is
            nothing to replace.
        ExistsError: Something lies there.
        ReadError: Its folder does not exist.
        UnsupportedError: It is a URL.
    """
    if out is None:
        if overwrite:
            raise tf2flax.AssignmentError(
                f"--overwrite: there is no output. Give {option} {file} too."
            )
        return ""
    storage, text = storage_of(out)
    if not storage.is_local:
        raise tf2flax.UnsupportedError(
            f"{option}: `{storage.show(text)}` is not a local path. Write a local "
            "file, and copy it."
        )
    if reason := why_no_file(text):
        raise tf2flax.AssignmentError(
            f"{option}: {text!r} is not a valid file name: {reason}."
        )
    if not out.lower().endswith(ending):
        raise tf2flax.AssignmentError(
            f"{option}: expected a file that ends in {ending}, got `{out}`. Write "
            f"`{out}{ending}`."
        )
    path = pathlib.Path(LOCAL.show(text))
    if path.is_dir():
        raise tf2flax.ExistsError(
            f"A folder lies at the output - at `{out}`. Choose another path."
        )
    # Not of devices and pipes, such as /dev/stdout: nothing is lost there.
    if (path.is_file() or path.is_symlink()) and not overwrite:
        raise tf2flax.ExistsError(
            f"The output exists already - at `{out}`. Choose another path, or give "
            "--overwrite."
        )
    check_folder(out)
    return str(path)


def check_folder(out: str) -> None:
    """Refuses an output whose folder does not exist.

    Args:
        out: A path; of a URL there is nothing to check.

    Raises:
        ReadError: It does not exist, or is no folder.
    """
    storage, text = storage_of(out)
    if not storage.is_local:
        return
    folder = pathlib.Path(text).parent
    try:
        is_folder = stat.S_ISDIR(folder.stat().st_mode)
    except FileNotFoundError as error:
        raise tf2flax.ReadError(
            f"Cannot write `{out}`: the folder `{folder}` does not exist. Make it, or "
            "choose another path."
        ) from error
    except OSError as error:
        raise write_error(out, error) from error
    if not is_folder:
        raise write_error(out, NotADirectoryError(0, os.strerror(errno.ENOTDIR)))
