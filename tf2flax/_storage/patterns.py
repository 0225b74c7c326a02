"""Patterns that name the files of one checkpoint."""

from __future__ import annotations

import glob
from typing import Final

# One of several files, as a Saver names them.
_ANY_NUMBER: Final = "-?????-of-"


def part_names(pattern: str) -> list[str]:
    """The files of a checkpoint by the pattern that a Saver names, without a listing.

    Args:
        pattern: The last component: `model.ckpt-?????-of-00002`, perhaps with the
            ending of an index.

    Returns:
        Their names; none where it is another pattern.
    """
    start, _, end = pattern.rpartition(_ANY_NUMBER)
    count = end.removesuffix(".index")
    is_plain = bool(start) and not glob.has_magic(start) and len(count) == 5
    if not is_plain or not (count.isascii() and count.isdecimal()):
        return []
    return [f"{start}-{number:05d}-of-{end}" for number in range(int(count))]
