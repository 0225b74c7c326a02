"""Map files: assignment maps in TOML or JSON, to be published, reviewed and checked.

The text itself is parsed in `map_parsing` and made in `map_formatting`, without files.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from tf2flax._base.errors import AssignmentError, ExistsError, ReadError
from tf2flax._base.names import nearest, why_no_file
from tf2flax._checkpoint.state import PathLike
from tf2flax._storage.faults import system_error, write_error
from tf2flax._storage.local import LOCAL
from tf2flax._storage.not_paths import refuse_home
from tf2flax._storage.stores import storage_of
from tf2flax._storage.writing import write_document

from .loaded_maps import MapPairs, MapTable
from .map_formatting import check_map_to_write, format_json, format_toml
from .map_parsing import parse_map_text
from .vocabularies import folder_of

# A map of a million entries would have some 100 MB; no map has (bytes).
_MAX_NBYTES: Final = 64 << 20
_ENDINGS: Final = (".toml", ".json")
# Longer names than these are no file's (letters).
_MAX_NAME: Final = 255


def load_map(path: PathLike, **parameters: int | float | str) -> MapTable | MapPairs:
    r"""Reads an assignment map from a TOML or JSON file, and checks its grammar.

    Args:
        path: The file: `.toml` or `.json`. Its tables: `assignment_map`; `optional`,
            entries that may reach no leaf or find no tensor; `parameters`, which stand
            in names as `{name}` and in expressions as variables; `options` of
            `tf2flax.plan`, where the call does not give them.
        **parameters: Values in place of those of the file.

    Returns:
        A dict of names, scopes and expressions to names and scopes, or a list of pairs
        if the file holds pairs. Messages about its entries name file and line, also of
        a copy or of a map made of it by `|`.

    Raises:
        AssignmentError: The file, an entry, an option or a parameter is malformed, or
            the file has no such parameter; all such lines are named.
        ReadError: The file cannot be read.

    Examples:
        >>> import pathlib, tempfile, tf2flax
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "map.toml"
        ...     lines = [
        ...         "[parameters]",
        ...         "heads = 12",
        ...         "[assignment_map]",
        ...         '"src(\'q\').reshape(heads, -1)" = "q/kernel"',
        ...     ]
        ...     _ = path.write_text("\n".join(lines))
        ...     tf2flax.load_map(path, heads=16)
        {src("q").reshape(16, -1): 'q/kernel'}
    """
    name = _name_of(path)
    is_json = _is_json(name)
    return parse_map_text(_read(path, name), name, parameters, is_json=is_json)


def save_map(
    path: PathLike,
    assignment_map: Mapping[Any, str] | Sequence[tuple[Any, str]],
    *,
    overwrite: bool = False,
) -> None:
    """Writes an assignment map to a TOML or JSON file.

    Args:
        path: The file: `.toml` or `.json`.
        assignment_map: A dict, or pairs, of names, scopes and expressions to names and
            scopes. Of a map that was loaded, the values of its parameters stand in the
            entries; its options and optional entries are written too.
        overwrite: Whether a file that exists already is replaced; of a symbolic link,
            the file that it leads to. Its comments stay: those at the top, and those at
            entries that are written again.

    Raises:
        AssignmentError: Keys or values that no file can hold (objects), or that
            `load_map` would refuse.
        ExistsError: The file exists already.
        ReadError: The system refuses.

    Examples:
        >>> import pathlib, tempfile, tf2flax
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "map.toml"
        ...     key = tf2flax.src("head/weights").transpose()
        ...     tf2flax.save_map(path, {key: "params/head/kernel"})
        ...     print(path.read_text().strip())
        [assignment_map]
        'src("head/weights").transpose()' = "params/head/kernel"
    """
    if isinstance(path, (Mapping, list, tuple)):
        raise AssignmentError("Expected the path first, then the map.")
    name = _name_of(path)
    format_map = format_json if _is_json(name) else format_toml
    contents = check_map_to_write(assignment_map, folder_of(name))
    file = _local_file(path, name, "Give a local path.")
    if os.path.lexists(file) and not overwrite:
        raise ExistsError(
            f"A file is there already - at `{name}`. Choose another path, or give "
            "overwrite=True."
        )
    # A link may lead to a file that is not there yet.
    old_text = _read(path, name) if os.path.exists(file) else ""
    _write(name, file, format_map(contents, old_text))


def _name_of(path: object) -> str:
    """The path of a map file as text."""
    try:
        name = os.fsdecode(cast("PathLike", path))
    except TypeError as error:
        raise AssignmentError(
            "Expected the path of a map file (str, bytes or os.PathLike), got "
            f"{type(path).__name__}."
        ) from error
    if reason := why_no_file(name):
        raise AssignmentError(f"{name!r} is not a valid file name: {reason}.")
    refuse_home(name)
    return name


def _is_json(name: str) -> bool:
    suffix = os.path.splitext(name)[1].lower()
    if suffix not in _ENDINGS:
        ending = f"`{suffix}`" if suffix else "a name without such an ending"
        raise AssignmentError(
            f"`{name}`: expected a map file, `.toml` or `.json`, got {ending}."
        )
    return suffix == ".json"


def _local_file(path: PathLike, name: str, way_out: str) -> str:
    """The absolute path of a map file; URLs of other files are refused."""
    storage, text = storage_of(path)
    if not storage.is_local:
        raise AssignmentError(f"`{name}`: map files are local files. {way_out}")
    return LOCAL.show(text)


def _read(path: PathLike, name: str) -> str:
    path_of_file = _local_file(path, name, "Download it first.")
    try:
        # A pipe would be waited for, and a device has no end.
        if os.path.exists(path_of_file) and not os.path.isfile(path_of_file):
            kind = "a folder" if os.path.isdir(path_of_file) else "not a regular file"
            raise AssignmentError(f"`{name}`: expected a map file, and this is {kind}.")
        with open(path_of_file, "rb") as file:
            contents = file.read(_MAX_NBYTES + 1)
    except OSError as error:
        fact = system_error(name, error)
        close = ""
        if isinstance(error, FileNotFoundError) and (near := _close_to(path_of_file)):
            close = os.path.join(os.path.split(name)[0], near)  # as the path was given
        raise (
            ReadError(f"{fact} Did you mean `{close}`?") if close else fact
        ) from error
    if len(contents) > _MAX_NBYTES:
        raise AssignmentError(f"`{name}`: expected a map file, got more than 64 MiB.")
    try:
        return contents.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = contents[: error.start].count(b"\n") + 1
        raise AssignmentError(f"{name}:{line}: expected text in UTF-8.") from error


def _close_to(path: str) -> str:
    """Name of the map file beside a path that is most like it; "" for none."""
    folder, name = os.path.split(path)
    try:
        names = [n for n in os.listdir(folder or ".") if n.endswith(_ENDINGS)]
    except OSError:
        return ""
    close = nearest(name[:_MAX_NAME], names, 1)
    return close[0] if close else ""


def _write(name: str, file: str, text: str) -> None:
    try:
        write_document(file, text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise AssignmentError(
            f"A name in the map is not valid text: {error.reason}."
        ) from error
    except OSError as error:
        raise write_error(name, error) from error
