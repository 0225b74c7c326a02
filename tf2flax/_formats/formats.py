"""All formats, in one tuple: whoever looks for a checkpoint asks them in turn."""

from __future__ import annotations

from typing import Final

from .bundle import BundleFormat
from .format import Format
from .keras.format import KerasFormat, ShardedKerasFormat
from .v1 import V1Format

# Asked in this order. What is recognised by its last bytes comes first, so that of a
# table in a store nothing but these is read.
FORMATS: Final[tuple[Format, ...]] = (
    BundleFormat(),
    V1Format(),
    KerasFormat(),
    ShardedKerasFormat(),
)


def endings() -> tuple[str, ...]:
    """Endings of the names that files of all formats have, for suggestions."""
    return tuple(ending for file_format in FORMATS for ending in file_format.endings)
