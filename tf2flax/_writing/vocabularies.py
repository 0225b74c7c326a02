"""`vocabulary`: the rows of a table that the words of another vocabulary had.

Reads the files, one word in each line, as TensorFlow does. In map files, paths count
from the folder of the map.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Final, SupportsIndex, cast

from tf2flax._assignment.language.expressions import Expression
from tf2flax._assignment.language.nodes import TakenRows
from tf2flax._assignment.language.rows import Rows, check_vocabulary
from tf2flax._base.caller import show_value
from tf2flax._base.errors import AssignmentError
from tf2flax._checkpoint.state import PathLike
from tf2flax._storage.faults import system_error
from tf2flax._storage.local import LOCAL
from tf2flax._storage.stores import storage_of

# Tables have fewer words, and words are short.
_MAX_NBYTES: Final = 1 << 28


def vocabulary(
    old: PathLike,
    new: PathLike,
    *,
    axis: SupportsIndex = 0,
    old_size: SupportsIndex | None = None,
    new_size: SupportsIndex | None = None,
    num_oov_buckets: SupportsIndex = 0,
) -> Rows:
    """Finds the rows of a table for another vocabulary, as `tf.train.VocabInfo`.

    Args:
        old: File of the words that the table has, one in each line.
        new: File of the words that the leaf has. A word twice in it gets the row twice.
        axis: Axis of the words in the table.
        old_size: Number of words that count in the old file; None for all.
        new_size: Number of words that count in the new file; None for all.
        num_oov_buckets: Number of rows after the words, for words of neither file.

    Returns:
        The rows, for `.take(rows, fill=...)`: -1 for words that the old file lacks.

    Raises:
        AssignmentError: A line is empty, a word stands twice in the old file, or more
            words are asked for than there are; file and line are named.
        ReadError: The system refuses.

    Examples:
        >>> import os, pathlib, tempfile, tf2flax
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     old, new = pathlib.Path(folder, "old"), pathlib.Path(folder, "new")
        ...     _ = old.write_text(os.linesep.join(["mat", "the", "bird"]))
        ...     _ = new.write_text(os.linesep.join(["the", "cat", "mat"]))
        ...     rows = tf2flax.vocabulary(old, new)
        >>> rows.numbers
        (1, -1, 0)
        >>> key = tf2flax.src("table").take(rows, fill="keep")

    Source: `generate_vocab_remapping`,
    tensorflow/core/kernels/generate_vocab_remapping_op.cc.
    """
    rows = check_vocabulary(
        _path_of(old),
        _path_of(new),
        axis=axis,
        old_size=old_size,
        new_size=new_size,
        num_oov_buckets=num_oov_buckets,
    )
    return _read_rows(rows, os.getcwd())


def folder_of(path: str) -> str:
    """The absolute path of the folder that a map file lies in, not a link to it."""
    storage, text = storage_of(path)
    file = LOCAL.show(text) if storage.is_local else path
    return os.path.dirname(os.path.realpath(file) if os.path.islink(file) else file)


def read_vocabularies(expression: Expression, folder: str) -> Expression:
    """Reads the vocabularies of an expression.

    Args:
        expression: The expression, as it was read from a text.
        folder: The folder from which its paths count.

    Raises:
        AssignmentError: As `vocabulary`.
        ReadError: The system refuses.
    """
    if not expression.children:
        return expression
    expression = expression.with_children(
        [read_vocabularies(child, folder) for child in expression.children]
    )
    if isinstance(expression, TakenRows) and isinstance(expression.rows, Rows):
        return dataclasses.replace(expression, rows=_read_rows(expression.rows, folder))
    return expression


def move_vocabularies(expression: Expression, folder: str) -> Expression:
    """Writes paths of vocabularies as they read from another folder.

    Args:
        expression: The expression.
        folder: The folder.

    Returns:
        The expression; absolute paths stay as they are.
    """
    if not expression.children:
        return expression
    expression = expression.with_children(
        [move_vocabularies(child, folder) for child in expression.children]
    )
    if isinstance(expression, TakenRows) and isinstance(expression.rows, Rows):
        rows = expression.rows
        old, new = (_moved(path, rows.folder, folder) for path in (rows.old, rows.new))
        rows = dataclasses.replace(rows, old=old, new=new, folder=folder)
        return dataclasses.replace(expression, rows=rows)
    return expression


def _moved(path: str, old_folder: str, folder: str) -> str:
    """A path that leads from a folder where another one led from its own.

    words/old.txt from /maps, for /maps/v2              ../words/old.txt
    the same, where /maps/v2 is a link to /data/v2      ../../maps/words/old.txt
    """
    if os.path.isabs(storage_of(path)[1]):  # a URL of a file, perhaps
        return path
    file = os.path.join(old_folder, path)
    moved = os.path.relpath(file, folder)
    # What `..` leaves is where a link leads, and not where it lies.
    if os.path.realpath(os.path.join(folder, moved)) == os.path.realpath(file):
        return moved
    parent, name = os.path.split(file)
    return os.path.join(
        os.path.relpath(os.path.realpath(parent), os.path.realpath(folder)), name
    )


def _path_of(path: object) -> str:
    try:
        return os.fsdecode(cast("PathLike", path))
    except TypeError as error:
        raise AssignmentError(
            f"vocabulary: expected the path of a file, got {show_value(path)}."
        ) from error


def _read_rows(rows: Rows, folder: str) -> Rows:
    """Reads both files."""
    old_path, new_path = (_located(path, folder) for path in (rows.old, rows.new))
    old_words = _sized(_read_lines(old_path), rows.old_size, old_path)
    _refuse_empty(old_words, old_path)
    numbers: dict[bytes, int] = {}
    for number, word in enumerate(old_words):
        first = numbers.setdefault(word, number)
        if first != number:
            raise AssignmentError(
                f"{old_path}:{number + 1}: {_show(word)} stands in line {first + 1} "
                "already, so that it has two rows. Give old_size= if the table has "
                "fewer words."
            )
    new_words = _read_lines(new_path)
    # TensorFlow reads all of this file, whatever its size is said to be.
    _refuse_empty(new_words, new_path)
    taken = [numbers.get(w, -1) for w in _sized(new_words, rows.new_size, new_path)]
    row_numbers = (*taken, *[-1] * rows.num_oov_buckets)
    return dataclasses.replace(rows, folder=folder, row_numbers=row_numbers)


def _located(path: str, folder: str) -> str:
    """The path of a vocabulary, from the folder in which it was named."""
    storage, text = storage_of(path)
    if not storage.is_local:
        raise AssignmentError(
            f"`{path}`: vocabularies are local files. Download it first."
        )
    return os.path.join(folder, text)


def _sized(words: Sequence[bytes], size: int | None, path: str) -> Sequence[bytes]:
    """The first words of a file."""
    if size is not None and size > len(words):
        raise AssignmentError(
            f"{path}:{len(words)}: expected {size} words, and the file ends here. Give "
            "another size, or None for all words."
        )
    return words[:size]


def _refuse_empty(words: Sequence[bytes], path: str) -> None:
    if b"" in words:
        line = words.index(b"") + 1
        raise AssignmentError(
            f"{path}:{line}: expected a word, got an empty line. Delete the line, "
            "if no row of the table belongs to it."
        )


def _read_lines(path: str) -> list[bytes]:
    """The lines of a file, without what ends them."""
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_NBYTES + 1)
    except OSError as error:
        raise system_error(path, error) from error
    if len(content) > _MAX_NBYTES:
        raise AssignmentError(f"`{path}`: expected a vocabulary, got over 256 MiB.")
    if not content:
        raise AssignmentError(f"{path}:1: expected words, and the file is empty.")
    lines = content.removesuffix(b"\n").split(b"\n")
    # One carriage return is part of the line's end; spaces belong to the word.
    return [line.removesuffix(b"\r") for line in lines]


def _show(word: bytes) -> str:
    return show_value(word.decode(errors="backslashreplace"))
