"""The prefix that a caller gives -> the destination of a save."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator

from tf2flax._base.caller import show_value
from tf2flax._base.errors import AssignmentError, ExistsError, ReadError
from tf2flax._checkpoint.state import PathLike
from tf2flax._storage.faults import write_error
from tf2flax._storage.local import LOCAL
from tf2flax._storage.local_destination import LocalDestination
from tf2flax._storage.save_destinations import SaveDestination
from tf2flax._storage.stores import KvStorage, storage_of

from .bridging import name_data_files_anew


def open_destination(prefix: PathLike, token: str = "") -> SaveDestination:
    """Checks a prefix, and makes the destination of a save of it.

    Args:
        prefix: A local path or a URL, without suffix.
        token: As that of `SaveDestination`; "" for a new one.

    Raises:
        AssignmentError: No file can have this name, or it is a directory.
        UnsupportedError: It is not a path, or a URL that tensorstore does not know.
        ReadError: The store cannot be opened.
    """
    storage, text = storage_of(prefix)
    _check_name(text)
    if isinstance(storage, KvStorage):
        # Here, since who writes local files needs none of it.
        from tf2flax._storage.store_destination import StoreDestination

        _refuse_directory(storage.show(text), text.endswith("/") or not text)
        return StoreDestination(storage, text, token)
    path = LOCAL.show(text)
    _refuse_directory(path, not os.path.basename(path) or os.path.isdir(path))
    return LocalDestination(path, token, find_names=name_data_files_anew)


def _check_name(path: str) -> None:
    """Refuses names that no file, or no line of the state file, can have."""
    if "\0" in path:
        raise AssignmentError(f"{path!r} is not a valid file name: it has a NUL.")
    try:
        os.fsencode(path)
        os.path.basename(path).encode()  # as the state file must
    except UnicodeEncodeError as error:
        raise AssignmentError(
            f"{show_value(path)} is not a valid file name: {error.reason}."
        ) from error


def _refuse_directory(path: str, is_directory: bool) -> None:
    if is_directory:
        raise AssignmentError(
            f"`{path}` is a directory, and a checkpoint needs a name in it: "
            f"`{os.path.join(path, 'model.ckpt')}`."
        )


def refuse_present(destination: SaveDestination, *, is_replacing: bool) -> None:
    """Refuses a place where a checkpoint is already.

    Args:
        destination: The place.
        is_replacing: Whether what is there is to be replaced.

    Raises:
        ExistsError: One is there, and is not to be replaced.
        ReadError: The store refuses.
    """
    present = destination.existing()
    if present and not is_replacing:
        raise ExistsError(
            f"A checkpoint is there already - at `{present[0]}`. Choose another "
            "prefix, or give overwrite=True."
        )


@contextlib.contextmanager
def writing_to(destination: SaveDestination) -> Generator[None]:
    """Names the destination in errors of the system that a block raises.

    Args:
        destination: Where the block writes.

    Raises:
        ReadError: The system refuses.
    """
    try:
        yield
    except (ExistsError, ReadError):  # both are OSErrors, and say what is wrong
        raise
    except OSError as error:
        raise write_error(destination.path, error) from error
