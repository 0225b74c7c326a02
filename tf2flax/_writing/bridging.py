"""The index of a checkpoint, for the same data under other names of data files.

The number of data files stands in the header of the index and in their names. With
another number there, the same bytes are the same checkpoint:

    m.index  (1 file)    m.data-00000-of-00001
                            |  the same file under a second name
    bridge   (2 files)   m.data-00000-of-00002    m.data-00001-of-00002, empty

So a checkpoint goes on while its own names are given to the files of another one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Final

from tf2flax._base.errors import MalformedError
from tf2flax._formats.bundle import HEADER_KEY, data_file_suffix
from tf2flax._formats.wire.messages import format_bundle_header, parse_bundle_header
from tf2flax._formats.wire.sstable import Bytes, SSTable
from tf2flax._storage.bridges import OtherNames

from .table import build_table

# How many numbers of data files are tried: those of saves that were killed are taken.
_MAX_TRIES: Final = 100
# More data files than this are not given second names, which takes a while.
_MAX_DATA_FILES: Final = 10_000


def name_data_files_anew(
    index: bytes, is_taken: Callable[[str], bool]
) -> OtherNames | None:
    """Finds other names for the data files of a checkpoint.

    Args:
        index: All bytes of its index.
        is_taken: Tells whether there is a file of a suffix.

    Returns:
        The names, and the index that has them; None if the index is damaged, or if
        there are too many data files.
    """
    try:
        items = [(bytes(k), bytes(v)) for k, v in SSTable(Bytes(index)).items()]
        header = parse_bundle_header(dict(items)[HEADER_KEY])
    except (MalformedError, KeyError):
        return None
    count = header.num_data_files
    if not 1 <= count <= _MAX_DATA_FILES:
        return None
    for number in range(count + 1, count + 1 + _MAX_TRIES):
        others = [data_file_suffix(i, number) for i in range(number)]
        if not any(map(is_taken, others)):
            break
    else:
        return None
    value = format_bundle_header(dataclasses.replace(header, num_data_files=number))
    try:
        contents = build_table([(HEADER_KEY, value), *items[1:]])
    except ValueError:  # keys out of order
        return None
    suffixes = [data_file_suffix(i, count) for i in range(count)]
    names = dict(zip(suffixes, others[:count], strict=True))
    return OtherNames(contents, names, tuple(others[count:]))
