"""A checkpoint under second names, while its own are given to the files of another.

Second names are links: nothing is copied. Which names, and what the index is then, is
told by whoever knows the format.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import NamedTuple

from .writing import write_new_file


class OtherNames(NamedTuple):
    """How a checkpoint goes on under other names of its data files.

    Attributes:
        contents: Contents of the index that has these names.
        names: Suffixes of its data files -> other ones, which no file has.
        empty: Suffixes of more data files that it must have, without contents.
    """

    contents: bytes
    names: Mapping[str, str]
    empty: tuple[str, ...]


# Finds other names for the data files of an index, given which suffixes are taken; None
# where there are none.
FindOtherNames = Callable[[bytes, Callable[[str], bool]], OtherNames | None]


@dataclasses.dataclass(slots=True)
class Bridge:
    """The old checkpoint under second names.

    Attributes:
        prefix: Path of the checkpoint, without suffix.
        aside: Path at which the old index lies until all is done.
        remove: Removes a file.
        names: Suffixes of data files -> paths that are their second names; empty where
            there are none.
        is_used: True while the index names them.
    """

    prefix: str
    aside: str
    remove: Callable[[str], None]
    names: dict[str, str] = dataclasses.field(default_factory=dict[str, str])
    is_used: bool = False
    _files: list[str] = dataclasses.field(default_factory=list[str])

    @property
    def index(self) -> str:
        """Path of the index that names them, until it takes the place of the old."""
        return f"{self.aside}.index"

    def build(self, find_names: FindOtherNames | None) -> None:
        """Gives the files second names, where the file system knows links.

        Args:
            find_names: Finds them; None for nothing.
        """
        if find_names is None:
            return
        try:
            with open(f"{self.prefix}.index", "rb") as file:
                contents = file.read()
            others = find_names(contents, lambda s: os.path.lexists(self.prefix + s))
            if others is None:
                return
            self._link(".index", self.aside)
            for suffix, second in others.names.items():
                self._link(suffix, self.prefix + second)
            for path in (*(self.prefix + s for s in others.empty), self.index):
                self._files.append(path)
                write_new_file(path, others.contents if path == self.index else b"")
        except OSError:
            self.clear()
            return
        self.names.update({s: self.prefix + n for s, n in others.names.items()})

    def _link(self, suffix: str, path: str) -> None:
        # Noted before: an interrupt may come when it is made.
        self._files.append(path)
        os.link(self.prefix + suffix, path)

    def clear(self) -> None:
        """Removes the second names, unless they are all that the checkpoint has."""
        if self.is_used:
            return
        for path in self._files:
            self.remove(path)
        self._files.clear()
