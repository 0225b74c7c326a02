"""Several checkpoints as one, each under a prefix: a view, nothing copied.

Also reads what `merge_checkpoints` is given, which may have several forms.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from tf2flax._base.caller import members, show_value
from tf2flax._base.errors import AssignmentError, SharedNameError, TensorNotFoundError
from tf2flax._base.manifest import Manifest, StoredNames, TensorEntry
from tf2flax._base.roles import VARIABLE, Role, Roles

from .stored_tensor import StoredTensor


class MergedManifest(Manifest):
    """The tensors of several checkpoints, those of each under a prefix."""

    def __init__(self, checkpoints: Iterable[tuple[str, Manifest]]) -> None:
        """Merges checkpoints.

        Args:
            checkpoints: Prefixes of names, each with its checkpoint.

        Raises:
            AssignmentError: Two of them would have one name, or a prefix is not
                a string.
        """
        self._checkpoints: tuple[tuple[str, Manifest], ...] = tuple(checkpoints)
        # Numbers of checkpoints: a prefix may be there twice.
        origin: dict[str, tuple[int, str]] = {}
        for number, (added, manifest) in enumerate(self._checkpoints):
            if not isinstance(added, str):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise AssignmentError(
                    f"Expected prefixes of names (str), got {show_value(added)} for "
                    f'`{manifest.index_path}`. Write {{"a/": first, "": second}}.'
                )
            for name in (*manifest.names, *manifest.shared_names):
                full = added + name
                if full in origin:
                    first = self._checkpoints[origin[full][0]][1].index_path
                    raise AssignmentError(
                        f"Name `{full}` is in two of the checkpoints: in `{first}` and "
                        f"in `{manifest.index_path}`. Give each a different prefix, "
                        'as in {"a/": first, "b/": second}.'
                    )
                origin[full] = (number, name)
        self._origin = origin
        self._names: tuple[str, ...] = tuple(
            sorted(
                added + name
                for added, manifest in self._checkpoints
                for name in manifest.names
            )
        )

    @property
    def prefix(self) -> str:
        """Prefixes of the checkpoints, joined."""
        return " + ".join(manifest.prefix for _, manifest in self._checkpoints)

    @property
    def index_path(self) -> str:
        """The files that list the tensors, joined, for messages."""
        return " + ".join(manifest.index_path for _, manifest in self._checkpoints)

    @property
    def names(self) -> tuple[str, ...]:
        """All names that one tensor has, sorted."""
        return self._names

    @property
    def shared_names(self) -> tuple[str, ...]:
        """Names that several tensors of one checkpoint have, sorted."""
        checkpoints = self._checkpoints
        return tuple(
            sorted(
                added + name
                for added, manifest in checkpoints
                for name in manifest.shared_names
            )
        )

    def __contains__(self, name: object) -> bool:
        """Tells whether a tensor has this name, or several."""
        return isinstance(name, str) and bool(self._origins_of(name))

    def is_shared(self, name: str) -> bool:
        """Tells whether several tensors have this name."""
        origins = self._origins_of(name)
        return len(origins) > 1 or any(
            self._checkpoints[number][1].is_shared(base_name)
            for number, base_name in origins
        )

    def roles(self, *, may_read: bool = True) -> Roles:
        """What its tensors are to the trainings that they come from."""
        roles = [
            (added, manifest.roles(may_read=may_read))
            for added, manifest in self._checkpoints
        ]
        return _MergedRoles(self, roles)

    @property
    def averaged(self) -> tuple[str, ...]:
        """Names that stand for moving averages in one of the checkpoints, sorted."""
        return tuple(
            sorted(
                added + name
                for added, manifest in self._checkpoints
                for name in manifest.averaged
            )
        )

    def hint(self, name: str) -> str:
        """Tells where the name would be found under a prefix."""
        for added, manifest in self._checkpoints:
            if name in manifest:
                return f"Did you mean `{added}{name}`?"
        return ""

    def index_damage(self) -> tuple[tuple[str, str], ...]:
        """Checks the index of every checkpoint; see `Manifest`."""
        checkpoints = self._checkpoints
        return tuple(
            damage for _, manifest in checkpoints for damage in manifest.index_damage()
        )

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
        number, base_name = self.origin(name)
        return self._checkpoints[number][1].entry(base_name)._replace(name=name)

    def origin(self, name: str) -> tuple[int, str]:
        """Finds which checkpoint a name is of.

        Args:
            name: The name, with its prefix.

        Returns:
            The number of that checkpoint, and the name without prefix.

        Raises:
            SharedNameError: It is of several.
            TensorNotFoundError: It is of none.
        """
        origins = self._origins_of(name)
        if len(origins) > 1:
            candidates = ", ".join(
                f"`{base_name}` in `{self._checkpoints[number][1].index_path}`"
                for number, base_name in origins[:5]
            )
            message = (
                f"Name `{name}` leads to {len(origins)} tensors: {candidates}. Give "
                "each checkpoint a different prefix, as in "
                '{"a/": first, "b/": second}.'
            )
            raise SharedNameError(name, self.index_path, (), message)
        for origin in origins:
            return origin
        raise TensorNotFoundError(name, self.index_path)

    def _origins_of(self, name: str) -> list[tuple[int, str]]:
        """Checkpoints that have a name, which may have more names than they list."""
        if name in self._origin:
            return [self._origin[name]]
        return [
            (number, name.removeprefix(added))
            for number, (added, manifest) in enumerate(self._checkpoints)
            if name.startswith(added) and name.removeprefix(added) in manifest
        ]

    def stored(self) -> StoredNames:
        """As `Manifest.stored`, with the prefixes, since no file holds all tensors.

        Raises:
            AssignmentError: A checkpoint has an object graph, and it is not the only
                one.
        """
        prefixes = [prefix for prefix, _ in self._checkpoints]
        below = [manifest.stored() for _, manifest in self._checkpoints]
        graphs = [
            stored.manifest for stored in below if stored.manifest.has_object_graph
        ]
        if graphs:
            # The graph names tensors of its file, so that no prefix may be put there.
            _check_one_file(below, graphs[0])

        def places(name: str) -> tuple[str, ...]:
            number, base_name = self.origin(name)
            stored_names = below[number].places(base_name)
            if graphs:
                return stored_names
            return tuple(prefixes[number] + place for place in stored_names)

        averages = {
            name: variable
            for added, stored in zip(prefixes, below, strict=True)
            for name, variable in stored.prefixed_averages("" if graphs else added)
        }
        if graphs:
            return StoredNames(graphs[0], places, averages=averages)
        manifests = (stored.manifest for stored in below)
        return StoredNames(
            MergedManifest(zip(prefixes, manifests, strict=True)),
            places,
            averages=averages,
            takes_new_names=all(stored.takes_new_names for stored in below),
        )


class _MergedRoles(Roles):
    """Roles in several checkpoints: nothing belongs to a tensor of another one."""

    def __init__(
        self, merged: MergedManifest, roles: Sequence[tuple[str, Roles]]
    ) -> None:
        self._merged = merged
        self._roles = roles

    def of(self, name: str) -> Role:
        """The role of a tensor; see `Roles`."""
        return self._in_its_checkpoint(name, lambda roles, base: roles.of(base))

    def average(self, name: str, average: str) -> Role:
        """The role of a tensor where averages have a certain name; see `Roles`."""
        return self._in_its_checkpoint(
            name, lambda roles, base: roles.average(base, average)
        )

    def stands_for_slot(self, name: str) -> bool:
        """True where a view of slots is one of the checkpoints; see `Roles`."""
        try:
            number, base_name = self._merged.origin(name)
        except TensorNotFoundError:
            return False
        return self._roles[number][1].stands_for_slot(base_name)

    def _in_its_checkpoint(self, name: str, find: Callable[[Roles, str], Role]) -> Role:
        try:
            number, base_name = self._merged.origin(name)
        except TensorNotFoundError:
            return VARIABLE
        added, roles = self._roles[number]
        role = find(roles, base_name)
        variable = None if role.variable is None else added + role.variable
        # The optimizers of two checkpoints are two, though neither is in a scope.
        is_scoped = role.scope or role.kind == "slot"
        scope = f"{added}{role.scope}".rstrip("/") if is_scoped else ""
        return role._replace(variable=variable, scope=scope)


def _check_one_file(below: Sequence[StoredNames], graph: Manifest) -> None:
    """Refuses several files, since the graph of one would have to name all tensors."""
    paths = list(dict.fromkeys(stored.manifest.prefix for stored in below))
    if len(paths) > 1:
        names = ", ".join(f"`{path}`" for path in paths[:5])
        raise AssignmentError(
            f"The plan was made for {len(paths)} merged checkpoints, of which "
            f"`{graph.prefix}` has an object graph, and the graph of one file "
            f"cannot name the tensors of several: {names}. "
            "Make a plan for each checkpoint and save it with that, or save the tree "
            "without a plan."
        )


def prefixed(checkpoints: object) -> list[tuple[str, Any]]:
    """Reads prefixes and checkpoints from what is merged.

    Args:
        checkpoints: A mapping, pairs, or checkpoints alone; any iterable.

    Returns:
        Pairs of a prefix ("" for none) and a checkpoint or path, which may be of any
        type: they are checked when they are opened.

    Raises:
        AssignmentError: It is none of these.
    """
    if isinstance(checkpoints, Mapping):
        items = list(cast(Mapping[str, Any], checkpoints).items())
        # A checkpoint is a mapping as well: of names to tensors.
        if any(isinstance(value, StoredTensor) for _, value in items[:1]):
            raise _not_mergeable("one checkpoint")
        return items
    # Text is iterable as well, and one path is not several.
    if isinstance(checkpoints, str | bytes) or not isinstance(checkpoints, Iterable):
        raise _not_mergeable(type(checkpoints).__name__)
    pairs: list[tuple[str, Any]] = []
    for element in members("merge_checkpoints", cast(Iterable[Any], checkpoints)):
        if not isinstance(element, tuple | list):
            pairs.append(("", element))
            continue
        pair = cast(Sequence[Any], element)
        if len(pair) != 2:
            raise _not_mergeable(f"{len(pair)} elements in place of a pair")
        is_swapped = isinstance(pair[0], (Mapping, os.PathLike))  # pyright: ignore[reportUnknownArgumentType]
        if is_swapped and isinstance(pair[1], str):
            raise _not_mergeable("a pair whose prefix comes second")
        pairs.append((pair[0], pair[1]))
    if isinstance(checkpoints, tuple) and _is_pair(cast(tuple[Any, ...], checkpoints)):
        raise _not_mergeable("one pair in place of several")
    return pairs


def _is_pair(elements: tuple[Any, ...]) -> bool:
    """True for a prefix of names and an open checkpoint, which are not two of them."""
    if len(elements) != 2 or not isinstance(elements[1], Mapping):
        return False
    prefix = elements[0]
    # A checkpoint and the folder of another one are two.
    is_prefix = isinstance(prefix, str) and prefix.endswith("/") and "://" not in prefix
    return is_prefix and not pathlib.Path(prefix).is_dir()


def _not_mergeable(what: str) -> AssignmentError:
    return AssignmentError(
        f"Expected checkpoints with prefixes of names, got {what}. Write "
        '{"a/": first, "b/": second}, [("a/", first), ("", second)] or '
        "[first, second]."
    )
