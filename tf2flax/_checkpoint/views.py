"""Other names for the tensors of checkpoints: views of manifests, nothing copied.

A view answers names with entries of the manifests below it; tensors are read as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from tf2flax._base.caller import show_value
from tf2flax._base.errors import AssignmentError, SharedNameError, TensorNotFoundError
from tf2flax._base.manifest import Manifest, StoredNames, TensorEntry
from tf2flax._base.text import list_names
from tf2flax._formats.object_graph import Names


class RenamedManifest(Manifest):
    """The tensors of one checkpoint under other names.

    A name that several variables share is not listed and not answered. It is still
    contained, so that whoever asks is told which tensors share it, and takes them
    neither for missing nor for one of them.
    """

    def __init__(
        self,
        base: Manifest,
        keys: Names,
        *,
        more_keys: Callable[[str], tuple[str, ...]] | None = None,
        twins: Mapping[str, tuple[str, ...]] | None = None,
        way_out: str = "",
    ) -> None:
        """Renames tensors.

        Args:
            base: The checkpoint.
            keys: Names -> keys in the checkpoint; more than one where it is not clear
                which is meant.
            more_keys: Keys of a name that is not listed, of which the checkpoint may
                lack some.
            twins: Keys of variables that are stored several times -> all keys of that
                variable; the first is read.
            way_out: What else to do where it is not clear which is meant: "by_x()".
        """
        self._base = base
        self._keys = keys
        self._more_keys = more_keys
        self._twins: Mapping[str, tuple[str, ...]] = twins or {}
        self._way_out = way_out
        # A variable that is stored twice is listed under the name of its first place.
        listed = {name: self._variables(keys[name]) for name in keys}
        self._names: tuple[str, ...] = tuple(
            sorted(
                name
                for name, variables in listed.items()
                if len(variables) == 1 and variables[0][0] in keys[name]
            )
        )
        self._shared_names: tuple[str, ...] = tuple(
            sorted(name for name, variables in listed.items() if len(variables) > 1)
        )

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
        """All names that one variable has, sorted."""
        return self._names

    @property
    def shared_names(self) -> tuple[str, ...]:
        """Names that several variables have, sorted."""
        return self._shared_names

    @property
    def base(self) -> Manifest:
        """The checkpoint below."""
        return self._base

    def __contains__(self, name: object) -> bool:
        """Whether a variable has this name, or several."""
        return isinstance(name, str) and bool(self._keys_of(name))

    def is_shared(self, name: str) -> bool:
        """Whether several variables have this name."""
        return len(self._variables(self._keys_of(name))) > 1

    def hint(self, name: str) -> str:
        """Tells whether the name is one of the checkpoint below."""
        if name in self._base:
            return "It is a stored name: use the checkpoint itself, not a view of it."
        return ""

    def index_damage(self) -> tuple[tuple[str, str], ...]:
        """Checks the index of the checkpoint below; see `Manifest`."""
        return self._base.index_damage()

    def entry(self, name: str) -> TensorEntry:
        """Finds the entry of a name.

        Args:
            name: The name.

        Returns:
            The entry, under this name.

        Raises:
            SharedNameError: Several variables have this name.
            TensorNotFoundError: No variable has it.
            DamagedError: Its entry is malformed.
        """
        # Both entries of a variable that is stored twice: neither may be malformed.
        entries = [self._base.entry(key) for key in self.places(name)]
        return entries[0]._replace(name=name)

    def places(self, name: str) -> tuple[str, ...]:
        """Finds all keys under which the variable of a name is stored.

        Args:
            name: The name.

        Returns:
            Keys in the checkpoint below; more than one where it is stored twice.

        Raises:
            SharedNameError: Several variables have this name.
            TensorNotFoundError: No variable has it.
        """
        keys = self._keys_of(name)
        variables = self._variables(keys)
        if len(variables) > 1:
            raise SharedNameError(name, self.index_path, (), self.refusal(name))
        for places in variables:
            return places
        raise TensorNotFoundError(name, self.index_path)

    def refusal(self, name: str) -> str:
        """Says which tensors share a name.

        Args:
            name: The name.

        Returns:
            Sentences, with what to do.
        """
        keys = self._keys_of(name)
        way_out = f", or {self._way_out}" if self._way_out else ""
        return (
            f"Name `{name}` is shared by {len(keys)} tensors: {list_names(keys)} - "
            f"in `{self.index_path}`. Use the stored name of the one that is "
            f"meant{way_out}."
        )

    def _keys_of(self, name: str) -> tuple[str, ...]:
        keys = self._keys.get(name, ())
        if not keys and self._more_keys is not None:
            keys = tuple(key for key in self._more_keys(name) if key in self._base)
        return keys

    def _variables(self, keys: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
        """The variables that keys belong to, each as all of its keys."""
        if len(keys) == 1:
            return (self._twins.get(keys[0], keys),)
        return tuple(dict.fromkeys(self._twins.get(key, (key,)) for key in keys))

    def stored(self) -> StoredNames:
        """As `Manifest.stored`: the names of the view lead to those below it."""
        below = self._base.stored()

        def places(name: str) -> tuple[str, ...]:
            keys = self.places(name)
            return tuple(place for key in keys for place in below.places(key))

        return StoredNames(below.manifest, places)


class MergedManifest(Manifest):
    """The tensors of several checkpoints, each under a prefix of its own."""

    def __init__(self, parts: Iterable[tuple[str, Manifest]]) -> None:
        """Merges checkpoints.

        Args:
            parts: Prefixes of names, each with its checkpoint.

        Raises:
            AssignmentError: Two of them would have one name, or a prefix is no string.
        """
        self._parts: tuple[tuple[str, Manifest], ...] = tuple(parts)
        # Numbers of parts: a prefix may be there twice.
        origin: dict[str, tuple[int, str]] = {}
        for number, (added, part) in enumerate(self._parts):
            if not isinstance(added, str):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise AssignmentError(
                    f"Expected prefixes of names (str), got {show_value(added)} for "
                    f'`{part.index_path}`. Write {{"a/": first, "": second}}.'
                )
            for name in (*part.names, *part.shared_names):
                full = added + name
                if full in origin:
                    first = self._parts[origin[full][0]][1].index_path
                    raise AssignmentError(
                        f"Name `{full}` is in two of the checkpoints: in `{first}` and "
                        f"in `{part.index_path}`. Give each a prefix of its own, as in "
                        '{"a/": first, "b/": second}.'
                    )
                origin[full] = (number, name)
        self._origin = origin
        self._names: tuple[str, ...] = tuple(
            sorted(added + name for added, part in self._parts for name in part.names)
        )

    @property
    def prefix(self) -> str:
        """The checkpoints' own, joined."""
        return " + ".join(part.prefix for _, part in self._parts)

    @property
    def index_path(self) -> str:
        """The files that list the tensors, joined, for messages."""
        return " + ".join(part.index_path for _, part in self._parts)

    @property
    def names(self) -> tuple[str, ...]:
        """All names that one tensor has, sorted."""
        return self._names

    @property
    def shared_names(self) -> tuple[str, ...]:
        """Names that several tensors of one checkpoint have, sorted."""
        parts = self._parts
        return tuple(
            sorted(added + name for added, part in parts for name in part.shared_names)
        )

    @property
    def parts(self) -> tuple[tuple[str, Manifest], ...]:
        """The checkpoints, each with the prefix of its names."""
        return self._parts

    def __contains__(self, name: object) -> bool:
        """Whether a tensor has this name, or several."""
        return isinstance(name, str) and bool(self._origins_of(name))

    def is_shared(self, name: str) -> bool:
        """Whether several tensors have this name."""
        origins = self._origins_of(name)
        return len(origins) > 1 or any(
            self._parts[number][1].is_shared(name_in_part)
            for number, name_in_part in origins
        )

    def hint(self, name: str) -> str:
        """Tells where the name would be found under a prefix."""
        for added, part in self._parts:
            if name in part:
                return f"Did you mean `{added}{name}`?"
        return ""

    def index_damage(self) -> tuple[tuple[str, str], ...]:
        """Checks the index of every checkpoint; see `Manifest`."""
        parts = self._parts
        return tuple(damage for _, part in parts for damage in part.index_damage())

    def entry(self, name: str) -> TensorEntry:
        """Finds the entry of a name.

        Args:
            name: The name, with its prefix.

        Returns:
            The entry, under this name.

        Raises:
            SharedNameError: Several tensors have this name.
            TensorNotFoundError: No tensor has it.
            DamagedError: Its entry is malformed.
        """
        number, name_in_part = self.origin(name)
        return self._parts[number][1].entry(name_in_part)._replace(name=name)

    def origin(self, name: str) -> tuple[int, str]:
        """Finds which checkpoint a name is of.

        Args:
            name: The name, with its prefix.

        Returns:
            The number of that checkpoint in `parts`, and the name without prefix.

        Raises:
            SharedNameError: It is of several.
            TensorNotFoundError: It is of none.
        """
        origins = self._origins_of(name)
        if len(origins) > 1:
            candidates = ", ".join(
                f"`{name_in_part}` in `{self._parts[number][1].index_path}`"
                for number, name_in_part in origins[:5]
            )
            message = (
                f"Name `{name}` leads to {len(origins)} tensors: {candidates}. Give "
                "each checkpoint a prefix of its own, as in "
                '{"a/": first, "b/": second}.'
            )
            raise SharedNameError(name, self.index_path, (), message)
        for origin in origins:
            return origin
        raise TensorNotFoundError(name, self.index_path)

    def _origins_of(self, name: str) -> list[tuple[int, str]]:
        """Where a name comes from; parts may know more names than they list."""
        if name in self._origin:
            return [self._origin[name]]
        return [
            (number, name.removeprefix(added))
            for number, (added, part) in enumerate(self._parts)
            if name.startswith(added) and name.removeprefix(added) in part
        ]

    def stored(self) -> StoredNames:
        """As `Manifest.stored`, with the prefixes, as no file holds all of the parts.

        Raises:
            AssignmentError: A part has an object graph, and the parts are no single
                checkpoint.
        """
        prefixes = [prefix for prefix, _ in self.parts]
        parts = [part.stored() for _, part in self.parts]
        graphs = [part.manifest for part in parts if part.manifest.has_object_graph]
        if graphs:
            _check_one_file(parts, graphs[0])

        def places(name: str) -> tuple[str, ...]:
            number, name_in_part = self.origin(name)
            stored_names = parts[number].places(name_in_part)
            if graphs:
                return stored_names
            return tuple(prefixes[number] + place for place in stored_names)

        if graphs:
            return StoredNames(graphs[0], places)
        stored_parts = (part.manifest for part in parts)
        return StoredNames(
            MergedManifest(zip(prefixes, stored_parts, strict=True)), places
        )


def _check_one_file(parts: Sequence[StoredNames], graph: Manifest) -> None:
    """Refuses parts of several files, where the graph of one would have to name all."""
    paths = list(dict.fromkeys(part.manifest.prefix for part in parts))
    if len(paths) > 1:
        names = ", ".join(f"`{path}`" for path in paths[:5])
        raise AssignmentError(
            f"The plan was made for {len(paths)} merged checkpoints, of which "
            f"`{graph.prefix}` has an object graph, and the graph of one file "
            f"cannot name the tensors of several: {names}. "
            "Make a plan for each checkpoint and save it with that, or save the tree "
            "without a plan."
        )
