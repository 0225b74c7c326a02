"""Rows that two vocabularies give: `tf2flax.vocabulary`, for `.take`.

A value alone, which knows where the files are. It is read by `_writing`, since nothing
here opens a file.
"""

from __future__ import annotations

import dataclasses
from typing import SupportsIndex

from tf2flax._base.caller import show_value
from tf2flax._base.errors import AssignmentError
from tf2flax._base.names import why_no_file

from .arguments import MAX_ROWS, check_integer
from .literals import quote


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Rows:
    """Rows of a table for another vocabulary; made by `tf2flax.vocabulary`.

    Attributes:
        old: File of the words that the table has, one in each line, as it was given.
        new: File of the words that the leaf has.
        axis: Axis of the words in the table.
        old_size: Number of words that count in the old file; None for all.
        new_size: Number of words that count in the new file; None for all.
        num_oov_buckets: Number of rows after the words, for words of neither.
        folder: Absolute path of the folder from which the paths are counted.
        row_numbers: For each row of the leaf the row of the table, or -1; None before
            the files have been read.

    Examples:
        >>> import os, pathlib, tempfile, tf2flax
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     old, new = pathlib.Path(folder, "old"), pathlib.Path(folder, "new")
        ...     _ = old.write_text(os.linesep.join(["mat", "the", "bird"]))
        ...     _ = new.write_text(os.linesep.join(["the", "cat", "mat"]))
        ...     rows = tf2flax.vocabulary(old, new)
        >>> rows.numbers
        (1, -1, 0)
    """

    old: str
    new: str
    axis: int = 0
    old_size: int | None = None
    new_size: int | None = None
    num_oov_buckets: int = 0
    folder: str = dataclasses.field(default="", compare=False)
    row_numbers: tuple[int, ...] | None = None

    @property
    def numbers(self) -> tuple[int, ...]:
        """For each row of the leaf the row of the table; -1 where it has none."""
        if self.row_numbers is None:
            raise AssignmentError(
                f"{self!r}: the files have not been read. Make it with "
                "tf2flax.vocabulary or tf2flax.load_map."
            )
        return self.row_numbers

    def __repr__(self) -> str:
        """The call that makes it."""
        options = {
            "axis": self.axis or None,
            "old_size": self.old_size,
            "new_size": self.new_size,
            "num_oov_buckets": self.num_oov_buckets or None,
        }
        given = "".join(
            f", {name}={value}" for name, value in options.items() if value is not None
        )
        return f"vocabulary({quote(self.old)}, {quote(self.new)}{given})"


def check_vocabulary(
    old: str,
    new: str,
    *,
    axis: SupportsIndex = 0,
    old_size: SupportsIndex | None = None,
    new_size: SupportsIndex | None = None,
    num_oov_buckets: SupportsIndex = 0,
) -> Rows:
    """Checks what `vocabulary` is given; its files are not read yet.

    Raises:
        AssignmentError: Paths are not text, or numbers are no integers.
    """
    for value in (old, new):
        if not isinstance(value, str) or why_no_file(value):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise AssignmentError(
                f"vocabulary: expected the path of a file, got {show_value(value)}."
            )
    # None is all of a file, whose lines are not counted yet.
    sizes = {
        name: None if size is None else check_integer("vocabulary", name, size)
        for name, size in (("old_size", old_size), ("new_size", new_size))
    }
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise AssignmentError(
                f"vocabulary: expected {name} from 1 on, got {size}. None is all of "
                "the file."
            )
    buckets = check_integer("vocabulary", "num_oov_buckets", num_oov_buckets)
    if not 0 <= buckets <= MAX_ROWS:
        bounds = "from 0 on" if buckets < 0 else f"of at most {MAX_ROWS}"
        raise AssignmentError(
            f"vocabulary: expected num_oov_buckets {bounds}, got {buckets}."
        )
    number = check_integer("vocabulary", "axis", axis)
    return Rows(old, new, number, sizes["old_size"], sizes["new_size"], buckets)
