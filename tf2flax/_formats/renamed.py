"""The tensors of one checkpoint under other names: a view, nothing copied."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

from tf2flax._base.errors import CheckpointError, SharedNameError, TensorNotFoundError
from tf2flax._base.manifest import Manifest, StoredNames, TensorEntry
from tf2flax._base.role_patterns import VARIABLE_SUFFIX
from tf2flax._base.roles import VARIABLE, Role, Roles
from tf2flax._base.text import list_names
from tf2flax._formats.object_graph import Names


class RenamedManifest(Manifest):
    """The tensors of one checkpoint under other names.

    A name that several variables share is not listed and not answered. It is still
    contained, so that an error says which tensors share it, and nobody takes them for
    missing or for one of them.
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

    def unlisted(self) -> tuple[str, ...]:
        """Keys of tensors that no listed name leads to, sorted.

        They share their names, or have none. Notes of TensorFlow's own, single strings
        such as the object graph, are no variables, and not among them.
        """
        listed = {key for name in self._names for key in self.places(name)}
        return tuple(
            key
            for key in self._base.names
            if key not in listed and not self._is_note(key)
        )

    def _is_note(self, key: str) -> bool:
        if key.endswith(VARIABLE_SUFFIX):
            return False
        try:
            spec = self._base.spec(key)
        except CheckpointError:  # nobody knows what it was
            return False
        return spec.dtype.is_string and not spec.shape

    def __contains__(self, name: object) -> bool:
        """Tells whether a variable has this name, or several."""
        return isinstance(name, str) and bool(self._keys_of(name))

    def is_shared(self, name: str) -> bool:
        """Tells whether several variables have this name."""
        return len(self._variables(self._keys_of(name))) > 1

    def hint(self, name: str) -> str:
        """Tells whether the name is one of the checkpoint below."""
        if name in self._base:
            return "It is a stored name: use the checkpoint itself, not a view of it."
        return ""

    def roles(self, *, may_read: bool = True) -> Roles:
        """What its tensors are to a training: what those below are.

        What names are made of has been read already.
        """
        return _RenamedRoles(self, self._base.roles())

    @property
    def names_by_key(self) -> dict[str, str]:
        """Keys in the checkpoint below -> the names of this view."""
        names = (*self._names, *self._shared_names)
        return {
            place: name
            for name in names
            for places in self._variables(self._keys[name])
            for place in places
        }

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

        return StoredNames(below.manifest, places, averages=below.averages)


class _RenamedRoles(Roles):
    """Roles of the tensors below a view, under its names."""

    def __init__(self, view: RenamedManifest, below: Roles) -> None:
        self._view = view
        self._below = below

    def of(self, name: str) -> Role:
        """The role of a tensor; see `Roles`."""
        return (
            self._renamed(self._below.of(key)) if (key := self._key(name)) else VARIABLE
        )

    def average(self, name: str, average: str) -> Role:
        """The role of a tensor where averages have a certain name; see `Roles`."""
        key = self._key(name)
        return self._renamed(self._below.average(key, average)) if key else VARIABLE

    def _key(self, name: str) -> str:
        """The key of a name; "" where it has none, or several."""
        try:
            return self._view.places(name)[0]
        except TensorNotFoundError:
            return ""

    def _renamed(self, role: Role) -> Role:
        if role.variable is None:
            return role
        return role._replace(variable=self._names.get(role.variable))

    @functools.cached_property
    def _names(self) -> dict[str, str]:
        return self._view.names_by_key
