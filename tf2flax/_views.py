"""Other names for the tensors of checkpoints: views of manifests, nothing copied.

A view answers names with entries of the manifests below it; tensors are read as ever.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping

from ._errors import (
    AssignmentError,
    CheckpointError,
    DamagedError,
    MalformedError,
    TensorNotFoundError,
    UnsupportedError,
)
from ._formats.object_graph import (
    GRAPH_KEY,
    Names,
    ObjectGraph,
    names_by_path,
    names_by_variable,
)
from ._manifest import Entry, Manifest
from ._reading import read_entry
from ._specs import TensorSpec


class RenamedManifest(Manifest):
    """The tensors of one checkpoint under other names."""

    def __init__(
        self,
        base: Manifest,
        keys: Names,
        *,
        more_keys: Callable[[str], tuple[str, ...]] | None = None,
        way_out: str = "",
    ) -> None:
        """Renames tensors.

        Args:
            base: The checkpoint.
            keys: Names -> keys in the checkpoint; more than one where it is not clear
                which is meant.
            more_keys: Keys of a name that is not listed, of which the checkpoint may
                lack some.
            way_out: What else to do where it is not clear which is meant: "by_x()".
        """
        self._base = base
        self._keys = keys
        self._more_keys = more_keys
        self._way_out = way_out
        self._names: tuple[str, ...] = tuple(sorted(keys))

    @property
    def prefix(self) -> str:
        """Absolute path or URL of the checkpoint, without suffix."""
        return self._base.prefix

    @property
    def index_path(self) -> str:
        """The file that lists the tensors, for messages."""
        return self._base.index_path

    @property
    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return self._names

    def __contains__(self, name: object) -> bool:
        """Whether a tensor has this name."""
        return isinstance(name, str) and bool(self._keys_of(name))

    def hint(self, name: str) -> str:
        """Tells whether the name is one of the checkpoint below."""
        if name in self._base:
            return "It is a stored name: use the checkpoint itself, not a view of it."
        return ""

    def index_damage(self) -> tuple[tuple[str, str], ...]:
        """Checks the index of the checkpoint below; see `Manifest`."""
        return self._base.index_damage()

    def entry(self, name: str) -> Entry:
        """Finds the entry of a name.

        Args:
            name: The name.

        Returns:
            The entry, under this name.

        Raises:
            TensorNotFoundError: No tensor has this name.
            UnsupportedError: Several have it.
            DamagedError: Its entry is malformed.
        """
        keys = self._keys_of(name)
        if len(keys) > 1:
            candidates = ", ".join(f"`{key}`" for key in keys[:5])
            more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
            way_out = f", or {self._way_out}" if self._way_out else ""
            raise UnsupportedError(
                f"Name `{name}` is shared by {len(keys)} tensors: {candidates}{more} - "
                f"in `{self.index_path}`. Use the stored name of the one that is "
                f"meant{way_out}."
            )
        for key in keys:
            return self._base.entry(key)._replace(name=name)
        raise TensorNotFoundError(name, self.index_path)

    def _keys_of(self, name: str) -> tuple[str, ...]:
        keys = self._keys.get(name, ())
        if not keys and self._more_keys is not None:
            keys = tuple(key for key in self._more_keys(name) if key in self._base)
        return keys


class MergedManifest(Manifest):
    """The tensors of several checkpoints, each under a prefix of its own."""

    def __init__(self, parts: Mapping[str, Manifest]) -> None:
        """Merges checkpoints.

        Args:
            parts: Prefix of names -> checkpoint.

        Raises:
            AssignmentError: Two of them would have one name, or a prefix is no string.
        """
        self._parts = dict(parts)
        origin: dict[str, tuple[str, str]] = {}
        for added, part in self._parts.items():
            if not isinstance(added, str):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise AssignmentError(
                    f"Expected prefixes of names (str), got {added!r} for "
                    f'`{part.index_path}`. Write {{"a/": first, "": second}}.'
                )
            for name in part.names:
                full = added + name
                if full in origin:
                    first = self._parts[origin[full][0]].index_path
                    raise AssignmentError(
                        f"Name `{full}` is in two of the checkpoints: in `{first}` and "
                        f"in `{part.index_path}`. Give each a prefix of its own, as in "
                        '{"a/": first, "b/": second}.'
                    )
                origin[full] = (added, name)
        self._origin = origin
        self._names: tuple[str, ...] = tuple(sorted(origin))

    @property
    def prefix(self) -> str:
        """The checkpoints' own, joined."""
        return " + ".join(part.prefix for part in self._parts.values())

    @property
    def index_path(self) -> str:
        """The files that list the tensors, joined, for messages."""
        return " + ".join(part.index_path for part in self._parts.values())

    @property
    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return self._names

    def __contains__(self, name: object) -> bool:
        """Whether a tensor has this name."""
        return isinstance(name, str) and bool(self._origins_of(name))

    def hint(self, name: str) -> str:
        """Tells where the name would be found under a prefix."""
        for added, part in self._parts.items():
            if name in part:
                return f"Did you mean `{added}{name}`?"
        return ""

    def index_damage(self) -> tuple[tuple[str, str], ...]:
        """Checks the index of every checkpoint; see `Manifest`."""
        parts = self._parts.values()
        return tuple(damage for part in parts for damage in part.index_damage())

    def entry(self, name: str) -> Entry:
        """Finds the entry of a name.

        Args:
            name: The name, with its prefix.

        Returns:
            The entry, under this name.

        Raises:
            TensorNotFoundError: No tensor has this name.
            UnsupportedError: Several have it.
            DamagedError: Its entry is malformed.
        """
        origins = self._origins_of(name)
        if len(origins) > 1:
            found = ", ".join(
                f"`{own}` in `{self._parts[added].index_path}`"
                for added, own in origins[:5]
            )
            raise UnsupportedError(
                f"Name `{name}` leads to {len(origins)} tensors: {found}. Give each "
                'checkpoint a prefix of its own, as in {"a/": first, "b/": second}.'
            )
        for added, own in origins:
            return self._parts[added].entry(own)._replace(name=name)
        raise TensorNotFoundError(name, self.index_path)

    def _origins_of(self, name: str) -> list[tuple[str, str]]:
        """Where a name comes from; parts may know more names than they list."""
        if name in self._origin:
            return [self._origin[name]]
        return [
            (added, name.removeprefix(added))
            for added, part in self._parts.items()
            if name.startswith(added) and name.removeprefix(added) in part
        ]


class ObjectBasedManifest:
    """A checkpoint of TF2's kind, that knows what its tensors are called elsewhere."""

    def __init__(self, base: Manifest) -> None:
        """Wraps a checkpoint that holds an object graph, which is read when needed."""
        self._base = base
        self._graph: ObjectGraph | None = None

    @property
    def prefix(self) -> str:
        """Absolute path or URL of the checkpoint, without suffix."""
        return self._base.prefix

    @property
    def index_path(self) -> str:
        """The file that lists the tensors, for messages."""
        return self._base.index_path

    @property
    def names(self) -> tuple[str, ...]:
        """All names as they are stored, sorted."""
        return self._base.names

    def __contains__(self, name: object) -> bool:
        """Whether a tensor is stored under this name."""
        return name in self._base

    def hint(self, name: str) -> str:
        """Tells which view has a name, or a scope that ends in `/`."""
        try:
            views = (
                ("by_variable_name()", self.by_variable_name()),
                ("by_object_path()", self.by_object_path()),
            )
        except CheckpointError:  # a message does without
            return ""
        for verb, view in views:
            if name in view or (name.endswith("/") and _has_scope(view.names, name)):
                what = "scope" if name.endswith("/") else "name"
                return f"Stored names differ: this {what} is in `checkpoint.{verb}`."
        return ""

    def index_damage(self) -> tuple[tuple[str, str], ...]:
        """Checks every block of the index; see `Manifest`."""
        return self._base.index_damage()

    def spec(self, name: str) -> TensorSpec:
        """Shape and dtype of one tensor; see `Manifest`."""
        return self._base.spec(name)

    def specs(self) -> Iterable[tuple[str, TensorSpec]]:
        """All names with shape and dtype; see `Manifest`."""
        return self._base.specs()

    def entry(self, name: str) -> Entry:
        """The entry of a stored name; see `Manifest`."""
        return self._base.entry(name)

    def by_variable_name(self) -> RenamedManifest:
        """The tensors under their variables' own names.

        Raises:
            DamagedError: The object graph is malformed.
            ReadError: The system or the store refuses.
        """
        keys = names_by_variable(self._object_graph(), _Stored(self._base))
        return RenamedManifest(self._base, keys, way_out="by_object_path()")

    def by_object_path(self) -> RenamedManifest:
        """The tensors under their paths of attributes; see `by_variable_name`."""
        keys, graph = names_by_path(self.names), self._object_graph()
        return RenamedManifest(self._base, keys, more_keys=graph.keys_at)

    def _object_graph(self) -> ObjectGraph:
        if self._graph is None:
            entry = self._base.entry(GRAPH_KEY)
            try:
                if not entry.spec.dtype.is_string or entry.spec.shape:
                    raise MalformedError("it is no string")
                contents: bytes = read_entry(entry).item()
                self._graph = ObjectGraph.parse(contents)
            except MalformedError as error:
                raise DamagedError(
                    f"Tensor `{GRAPH_KEY}` is damaged: {error} - in "
                    f"`{self.index_path}`. Use the stored names."
                ) from error
        return self._graph


class _Stored:
    """The names of a manifest as a collection."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest

    def __contains__(self, name: object) -> bool:
        return name in self._manifest

    def __iter__(self) -> Iterator[str]:
        return iter(self._manifest.names)

    def __len__(self) -> int:
        return len(self._manifest.names)


def _has_scope(names: tuple[str, ...], scope: str) -> bool:
    first = bisect.bisect_left(names, scope)
    return first < len(names) and names[first].startswith(scope)
