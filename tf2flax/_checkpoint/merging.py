"""Several checkpoints as one, each under a prefix: a view, nothing copied.

Also reads what `merge_checkpoints` is given, which may have several forms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from tf2flax._base.caller import members, show_value
from tf2flax._base.errors import AssignmentError, SharedNameError, TensorNotFoundError
from tf2flax._base.manifest import Manifest, StoredNames, TensorEntry

from .stored_tensor import StoredTensor


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


def prefixed(checkpoints: object) -> list[tuple[str, Any]]:
    """Reads prefixes and checkpoints from what is merged.

    Args:
        checkpoints: A mapping, pairs, or checkpoints alone; any iterable.

    Returns:
        Pairs of a prefix ("" for none) and a checkpoint or path, which may be of any
        type: whoever opens them checks that.

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
        pairs.append((pair[0], pair[1]))
    return pairs


def _not_mergeable(what: str) -> AssignmentError:
    return AssignmentError(
        f"Expected checkpoints with prefixes of names, got {what}. Write "
        '{"a/": first, "b/": second}, [("a/", first), ("", second)] or '
        "[first, second]."
    )
