"""Keras weights in several files -> one manifest, as if they lay in one.

An index (`model.weights.json`) names the files of every group of variables; each file
is HDF5. A tensor lies whole in one of them; those of a layer may lie in several.

Source: keras-team/keras, `ShardedH5IOStore` in keras/src/saving/saving_lib.py (since
Keras 3.10).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Final

from tf2flax._base.errors import (
    DamagedError,
    MalformedError,
    TensorNotFoundError,
    UnsupportedError,
)
from tf2flax._base.manifest import TensorEntry
from tf2flax._base.values import TensorSpec

from .config import ConfigFile, elements, mapping, parse_json
from .file import damaged
from .hdf5 import Hdf5Manifest
from .manifest import KerasManifest
from .names import Weights

_MAP: Final = "weight_map"
_ENDING: Final = ".h5"
# How many more files are looked for than an index names.
_MAX_UNNAMED: Final = 1000
_NUMBERED: Final = re.compile(r"(?P<start>.*)_(?P<number>\d{5})(?P<end>\.weights\.h5)")


@dataclasses.dataclass(frozen=True, slots=True)
class ShardIndex:
    """An index of files of weights, parsed.

    Attributes:
        path: The index, for messages.
        files: Place of a group, as `layers/dense/vars` -> the names of its files.
        total_nbytes: Bytes of all tensors; 0 if the index does not say.
    """

    path: str
    files: Mapping[str, tuple[str, ...]]
    total_nbytes: float = 0

    @classmethod
    def parse(cls, path: str, contents: bytes) -> ShardIndex:
        """Parses an index.

        Args:
            path: Its path or URL, for messages.
            contents: All of its bytes.

        Returns:
            The index.

        Raises:
            DamagedError: It is not JSON, or names files that cannot belong to it.
            UnsupportedError: It is JSON of another kind.
        """
        try:
            parsed = parse_json(contents)
            metadata = mapping(parsed.get("metadata")) or {}
            total = metadata.get("total_size")
            total_nbytes = float(total) if isinstance(total, int | float) else 0.0
            return cls(path, _files_in(parsed, path), total_nbytes)
        except OverflowError as error:
            raise damaged("The index of the weights", error, path) from error
        except MalformedError as error:
            raise damaged("The index of the weights", error, path) from error

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all files, sorted."""
        return tuple(sorted({name for names in self.files.values() for name in names}))

    def is_reached_by(self, nbytes: float) -> bool:
        """Tells whether tensors are as large together as the index says."""
        return nbytes >= self.total_nbytes - 0.5  # sizes of booleans are fractions

    def unnamed(self) -> Iterator[str]:
        """Names of files that may belong to it as well, in order.

        Keras 3.10 names the first file of a group alone, also where its variables go on
        in the next ones.
        """
        matches = [_NUMBERED.fullmatch(name) for name in self.names]
        named = {int(match["number"]): match for match in matches if match}
        if not named:
            return
        last = max(named)
        for number in range(min(named), last + _MAX_UNNAMED):
            if number not in named:
                yield f"{named[last]['start']}_{number:05d}{named[last]['end']}"


def _files_in(parsed: Mapping[str, object], path: str) -> dict[str, tuple[str, ...]]:
    weight_map = mapping(parsed.get(_MAP))
    if weight_map is None:
        raise UnsupportedError(
            f"`{path}` is JSON without a `{_MAP}`, not an index of Keras weights. Give "
            "the file of weights, or the folder that holds it."
        )
    files: dict[str, tuple[str, ...]] = {}
    for group, value in weight_map.items():
        names = [value] if isinstance(value, str) else elements(value)
        if not names:
            raise MalformedError(f"`{group[:200]}` names no file")
        files[group.strip("/")] = tuple(
            _checked_name(name, group, path) for name in names
        )
    if not files:
        raise MalformedError("it names no files")
    return files


def _checked_name(name: object, group: str, path: str) -> str:
    """The name of a file beside the index: no other file is ever opened."""
    if not isinstance(name, str) or not name:
        raise MalformedError(f"`{group[:200]}` names no file, but {repr(name)[:80]}")
    try:
        name.encode()
    except UnicodeEncodeError as error:  # JSON may escape half a character
        raise MalformedError(
            f"`{group[:200]}` lies in {ascii(name)[:80]}, which cannot name a file"
        ) from error
    if any(separator in name for separator in ("/", "\\", "\0")) or name in (".", ".."):
        raise MalformedError(
            f"`{group[:200]}` lies in `{name[:200]}`, which is not a file of its folder"
        )
    if not name.endswith(_ENDING):
        raise UnsupportedError(
            f"`{path}` is the index of files that are not Keras weights: "
            f"`{name[:200]}`. Give an index of `*.weights.h5` files."
        )
    return name


class ShardedHdf5Manifest(KerasManifest):
    """Names and entries of Keras weights in several files."""

    def __init__(
        self,
        index: ShardIndex,
        shards: Mapping[str, Hdf5Manifest],
        config: ConfigFile | None = None,
    ) -> None:
        """Puts the files together.

        Args:
            index: The index.
            shards: The files, by the names that the index has.
            config: The `config.json` beside them.

        Raises:
            DamagedError: The files do not hold what the index says.
        """
        self._index = index
        self._config = config
        self._shards = dict(shards)
        self._file_of: dict[str, str] = {}
        for file, shard in shards.items():
            for name in shard.names:
                self._add(name, file)
        self._check_groups()
        self._check_total()
        self._names: tuple[str, ...] = tuple(sorted(self._file_of))

    @property
    def prefix(self) -> str:
        """Path of the index."""
        return self._index.path

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all weights, sorted by code point."""
        return self._names

    def __contains__(self, name: object) -> bool:
        """Tells whether a weight has this name."""
        return name in self._file_of

    @property
    def weights(self) -> Weights:
        """Those of all files; a layer's name is in one file only."""
        specs: dict[str, TensorSpec | None] = {}
        layers: dict[str, str] = {}
        objects: set[str] = set()
        for shard in self._shards.values():
            weights = shard.weights
            specs.update(weights.specs)
            layers.update(weights.layers)
            objects.update(weights.objects)
        return Weights(specs, layers, objects)

    def index_damage(self) -> tuple[tuple[str, str], ...]:
        """Checks every file; see `Hdf5Manifest`."""
        shards = self._shards.values()
        return tuple(damage for shard in shards for damage in shard.index_damage())

    def entry(self, name: str) -> TensorEntry:
        """Looks up one weight.

        Args:
            name: Its name.

        Returns:
            The entry, with one piece.

        Raises:
            TensorNotFoundError: No weight has this name.
            DamagedError: What its file says of it is impossible.
            UnsupportedError: Its values lie in another file, or behind a plugin.
        """
        file = self._file_of.get(name)
        if file is None:
            raise TensorNotFoundError(name, self._index.path, (), self.hint(name))
        return self._shards[file].entry(name)

    def _add(self, name: str, file: str) -> None:
        first = self._file_of.get(name)
        if first is not None:
            raise self._damaged(
                f"`{name}` lies in two of the files, `{first}` and `{file}`"
            )
        group = name.rpartition("/")[0]
        files = self._index.files.get(group, ())
        # What another save left: its values may be of any step. Where one file alone is
        # named, others may hold the rest of the group, as Keras 3.10 has it.
        if file not in files and len(files) != 1:
            raise self._damaged(
                f"`{file}` holds `{name}`, which the index does not place there"
            )
        self._file_of[name] = file

    def _check_groups(self) -> None:
        held: set[tuple[str, str]] = {
            (name.rpartition("/")[0], file) for name, file in self._file_of.items()
        }
        for group, files in self._index.files.items():
            for file in files:
                if (group, file) not in held:
                    raise self._damaged(
                        f"`{file}` lacks `{group}`, which the index places there"
                    )

    def _check_total(self) -> None:
        held = sum(nbytes_of(shard) for shard in self._shards.values())
        if self._index.total_nbytes and not self._index.is_reached_by(held):
            raise self._damaged(
                f"its {len(self._shards)} files hold {held:.0f} bytes of the "
                f"{self._index.total_nbytes:.0f} that the index counts"
            )

    def _damaged(self, fact: str) -> DamagedError:
        return DamagedError(
            f"The weights are damaged: {fact} - in `{self._index.path}`. Copy the "
            "index and all of its files again, from one save."
        )


def nbytes_of(shard: Hdf5Manifest) -> float:
    """Bytes of all tensors of a file, as Keras counts them: a boolean is a bit."""
    return sum(
        spec.size * (1 / 8 if spec.dtype.name == "bool" else spec.dtype.numpy.itemsize)
        for spec in shard.weights.specs.values()
        if spec is not None
    )


def missing_shard(name: str, index: ShardIndex, present: int) -> DamagedError:
    """The error for a file that is not there.

    Args:
        name: The file.
        index: The index that names it.
        present: Number of files that are there.
    """
    return DamagedError(
        f"A file of the weights is missing: `{name}`, one of the {len(index.names)} "
        f"that the index names, of which {present} are there - in `{index.path}`. Copy "
        "it next to the index."
    )
