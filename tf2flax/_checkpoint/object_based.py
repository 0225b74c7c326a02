"""Checkpoints of TF2, which have an object graph: what their tensors are called.

The graph is read when a view, a message or the way back needs it. What it means is
`_formats.object_graph`'s; that Keras 3 stores a variable twice is found here, since the
entries of both tensors are needed for it.
"""

from __future__ import annotations

import bisect
from collections.abc import Collection, Iterable, Iterator

from tf2flax._base.errors import CheckpointError, DamagedError, MalformedError
from tf2flax._base.manifest import Manifest, TensorEntry, have_equal_checksums
from tf2flax._base.roles import Roles
from tf2flax._base.values import TensorSpec
from tf2flax._formats.object_graph import (
    GRAPH_KEY,
    Names,
    ObjectGraph,
    names_by_path,
    names_by_variable,
    places_of_export,
    slots_of_graph,
    without_tensors,
)
from tf2flax._formats.renamed import RenamedManifest
from tf2flax._reading.whole import read_entry

from .object_roles import ObjectRoles


class ObjectBasedManifest(Manifest):
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

    @property
    def has_object_graph(self) -> bool:
        """True: the graph names its tensors, and nothing else may."""
        return True

    def __contains__(self, name: object) -> bool:
        """Tells whether a tensor is stored under this name."""
        return name in self._base

    def hint(self, name: str) -> str:
        """Says which view has a name, or a scope that ends in `/`."""
        try:
            views = (
                ("by_variable_name()", self.by_variable_name()),
                ("by_object_path()", self.by_object_path()),
            )
        except CheckpointError:  # the message does without
            return ""
        for verb, view in views:
            if view.is_shared(name):
                return view.refusal(name)
            if name in view or (name.endswith("/") and _has_scope(view, name)):
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

    def entry(self, name: str) -> TensorEntry:
        """The entry of a stored name; see `Manifest`."""
        return self._base.entry(name)

    def by_variable_name(self) -> RenamedManifest:
        """The tensors under their variables' own names.

        Raises:
            DamagedError: The object graph is malformed.
            ReadError: The system or the store refuses.
        """
        keys = self._keys_by_variable()
        return RenamedManifest(
            self, keys, twins=self._twins(keys), way_out="by_object_path()"
        )

    def by_object_path(self) -> RenamedManifest:
        """The tensors under their paths of attributes; see `by_variable_name`."""
        keys, graph = names_by_path(self.names), self._object_graph()
        twins = self._twins(self._keys_by_variable())
        return RenamedManifest(self, keys, more_keys=graph.keys_at, twins=twins)

    def twins(self) -> dict[str, tuple[str, ...]]:
        """Keys of variables that an export of Keras 3 holds twice -> both keys.

        Raises:
            DamagedError: The object graph is malformed.
            ReadError: The system or the store refuses.
        """
        return self._twins(self._keys_by_variable())

    def unwritten_copies(self, written: Collection[str]) -> dict[str, tuple[str, ...]]:
        """Finds what may be another copy of a variable that is written in one place.

        Args:
            written: Keys of the tensors that get new values.

        Returns:
            By such a key: those of tensors that get none, of the same variable name, in
            the other list of a Keras 3 export.

        Raises:
            DamagedError: The object graph is malformed.
            ReadError: The system or the store refuses.
        """
        copies: dict[str, tuple[str, ...]] = {}
        for keys in self._keys_by_variable().values():
            lists = places_of_export(keys)
            for these, others in (lists, lists[::-1]):
                left = tuple(key for key in others if key not in written)
                if left:
                    copies |= {key: left for key in these if key in written}
        return copies

    def roles(self, *, may_read: bool = True) -> Roles:
        """What its tensors are to a training, as names, keys and the graph say.

        What a damaged graph would say is left out; see `Manifest`.
        """
        try:
            graph = self._object_graph() if may_read else None
        except CheckpointError:
            graph = None
        if graph is None:
            return super().roles()
        keys = names_by_variable(graph, _Stored(self._base))
        return ObjectRoles(self, keys, slots_of_graph(graph), self._twins(keys))

    def graph_of(self, dropped: Collection[str]) -> bytes:
        """The object graph of a copy that holds fewer tensors.

        Args:
            dropped: Keys that the copy lacks.

        Returns:
            A `TrackableObjectGraph` that refers to none of them.

        Raises:
            DamagedError: The object graph is malformed.
            ReadError: The system or the store refuses.
        """
        try:
            return without_tensors(self._graph_bytes(), frozenset(dropped))
        except MalformedError as error:
            raise self._damaged_graph(error) from error

    def _keys_by_variable(self) -> Names:
        return names_by_variable(self._object_graph(), _Stored(self._base))

    def _twins(self, keys: Names) -> dict[str, tuple[str, ...]]:
        """Variables that an export of Keras 3 holds twice: key -> both keys.

        Two tensors are one variable where a name has exactly these two, one in each
        list, and they are equal by what the index says. Where a name has more, any two
        of them may be equal by chance: fresh biases are all zero.
        """
        twins: dict[str, tuple[str, ...]] = {}
        for stored in keys.values():
            if len(stored) == 2:
                model, exported = places_of_export(stored)
                if model and exported and self._are_equal(*model, *exported):
                    pair = (*model, *exported)
                    twins |= dict.fromkeys(pair, pair)
        return twins

    def _are_equal(self, first: str, second: str) -> bool:
        """Tells whether dtype, shape and CRC-32C are equal; of slices, each CRC-32C."""
        try:
            entries = self._base.entry(first), self._base.entry(second)
        except DamagedError:
            return True  # a lookup raises it again, and says more than a refusal
        is_alike = entries[0].spec == entries[1].spec
        return is_alike and have_equal_checksums(*entries) is True

    def _object_graph(self) -> ObjectGraph:
        if self._graph is None:
            try:
                self._graph = ObjectGraph.parse(self._graph_bytes())
            except MalformedError as error:
                raise self._damaged_graph(error) from error
        return self._graph

    def _graph_bytes(self) -> bytes:
        entry = self._base.entry(GRAPH_KEY)
        if not entry.spec.dtype.is_string or entry.spec.shape:
            raise MalformedError("it is not a string")
        return read_entry(entry).item()

    def _damaged_graph(self, error: MalformedError) -> DamagedError:
        return DamagedError(
            f"Tensor `{GRAPH_KEY}` is damaged: {error} - in `{self.index_path}`. Use "
            "the stored names."
        )


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


def _has_scope(view: Manifest, scope: str) -> bool:
    for names in (view.names, view.shared_names):
        first = bisect.bisect_left(names, scope)
        if first < len(names) and names[first].startswith(scope):
            return True
    return False
