"""What was recorded, as it is given -> arrays by name.

Trees, dicts, `.npz` files; also names in the model for arrays that are called otherwise
there.
"""

from __future__ import annotations

import os
import pathlib
import zipfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from tf2flax._base.caller import show_value
from tf2flax._base.errors import (
    AssignmentError,
    DamagedError,
    NotFoundError,
    ReadError,
    UnsupportedError,
)
from tf2flax._base.names import nearest
from tf2flax._base.text import list_names

from .naming import OUTPUT, name_arrays, normal_name


def read_recorded(recorded: Any, option: str = "recorded") -> dict[str, np.ndarray]:
    """Names recorded arrays.

    Args:
        recorded: A tree, a dict of names to arrays, or the path of a `.npz` file.
        option: Name of the argument, for messages.

    Raises:
        NotFoundError: There is no such file.
        DamagedError: It is not a sound `.npz` file.
        UnsupportedError: It holds objects of Python.
        AssignmentError: There is no array.
    """
    is_path = isinstance(recorded, (str, bytes, os.PathLike))
    named = name_arrays(_read_npz(recorded, option) if is_path else recorded).all()
    if not named:
        raise AssignmentError(
            f"{option}: expected recorded arrays, a tree or a .npz file, got "
            f"{show_value(recorded)}."
        )
    return {name: np.asarray(array) for name, array in named.items()}


def _read_npz(given: Any, option: str) -> dict[str, np.ndarray]:
    path = pathlib.Path(os.fsdecode(given))
    try:
        # NumPy leaves files open that it cannot read.
        with path.open("rb") as file:
            archive = np.load(file)
            if isinstance(archive, np.ndarray):  # a .npy file
                return {OUTPUT: archive}
            return dict(archive)
    except FileNotFoundError as error:
        raise NotFoundError(
            f"{option}: there is no file - at `{path}`. Record with "
            "numpy.savez(path, name=array, ...)."
        ) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise ReadError(f"{option}: cannot read `{path}`: {reason}.") from error
    except ValueError as error:
        if "pickle" in str(error):
            raise UnsupportedError(
                f"{option}: `{path}` holds objects of Python, or is not a .npz file. "
                "Record arrays of numbers with numpy.savez."
            ) from error
        raise DamagedError(
            f"{option}: `{path}` is not a sound .npz file: {error}. Copy it again."
        ) from error
    except (EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DamagedError(
            f"{option}: `{path}` is not a sound .npz file: {error}. Copy it again."
        ) from error


def names_in_model(
    recorded: Sequence[str],
    given: Mapping[str, str],
    arrays: Sequence[str],
    outputs: int,
    inputs: Collection[str] = (),
) -> tuple[dict[str, str], dict[str, str]]:
    """Finds which array of a model each recorded array is compared with.

    Equal names first, then the end of a name, where it is the end of no other one; last
    the only output, if there is one recorded array left for it.

    Args:
        recorded: Names of recorded arrays.
        given: Names in the model that the caller says.
        arrays: Names of the arrays of the model.
        outputs: How many of them are outputs; these come first.
        inputs: Recorded arrays that may be inputs of the model.

    Returns:
        Names in the model by recorded name; and why there is none, for the others.
    """
    pairs: dict[str, str] = {}
    facts: dict[str, str] = {}
    for name in recorded:
        wanted = normal_name(given.get(name, name))
        matches = [wanted] if wanted in arrays else _ending_alike(wanted, arrays)
        if len(matches) == 1:
            pairs[name] = matches[0]
        elif matches:
            facts[name] = f"may be {list_names(matches, 3)} of the model"
        else:
            close = nearest(wanted, list(arrays))
            hint = f"; did you mean `{close[0]}`?" if close else ""
            facts[name] = f"the model gives no `{wanted}`{hint}"
    # What the caller calls otherwise is never guessed.
    left = [name for name in facts if name not in given and name not in inputs]
    if outputs == 1 and len(left) == 1 and arrays[0] not in pairs.values():
        pairs[left[0]] = arrays[0]
        del facts[left[0]]
    return pairs, facts


def _ending_alike(name: str, arrays: Sequence[str]) -> list[str]:
    return [
        array
        for array in arrays
        if array.endswith(f"/{name}") or name.endswith(f"/{array}")
    ]
