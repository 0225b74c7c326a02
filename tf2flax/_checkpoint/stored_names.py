"""Names of views -> where the checkpoint below holds their tensors: the way back.

A view is read under its names and written under the stored ones, so that whatever read
the checkpoint reads what is written in its place: TensorFlow finds the variables of an
object-based checkpoint by the object graph, which knows only stored names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from tf2flax._base.errors import AssignmentError
from tf2flax._base.manifest import Manifest

from .object_based import ObjectBasedManifest
from .views import MergedManifest, RenamedManifest


@dataclasses.dataclass(frozen=True, slots=True)
class StoredNames:
    """A checkpoint under stored names, and the way there from those of a view.

    Attributes:
        manifest: The tensors as they are stored; the view hides some of them.
        places: Name in the view -> all stored names of that variable, one at least.
            Several where an export of Keras 3 holds it twice. `SharedNameError` and
            `TensorNotFoundError` as `Manifest.entry`.
        is_view: Whether names may differ.
    """

    manifest: Manifest
    places: Callable[[str], tuple[str, ...]]
    is_view: bool = True


def stored_names(manifest: Manifest) -> StoredNames:
    """Finds what lies below views.

    Args:
        manifest: A checkpoint or a view of one, or several merged ones.

    Returns:
        Its stored names. Of merged checkpoints without object graphs, those with the
        prefixes, as no file holds them all.

    Raises:
        AssignmentError: Merged checkpoints, one of which has an object graph, are no
            single checkpoint.
    """
    if isinstance(manifest, RenamedManifest):
        return _below_names(manifest)
    if isinstance(manifest, MergedManifest):
        return _below_merge(manifest)
    return StoredNames(manifest, lambda name: (name,), is_view=False)


def _below_names(view: RenamedManifest) -> StoredNames:
    base = stored_names(view.base)

    def places(name: str) -> tuple[str, ...]:
        return tuple(place for key in view.places(name) for place in base.places(key))

    return StoredNames(base.manifest, places)


def _below_merge(merge: MergedManifest) -> StoredNames:
    prefixes = [prefix for prefix, _ in merge.parts]
    parts = [stored_names(part) for _, part in merge.parts]
    graphs = [
        part.manifest
        for part in parts
        if isinstance(part.manifest, ObjectBasedManifest)
    ]
    if not graphs:
        stored = (part.manifest for part in parts)
        manifest = MergedManifest(zip(prefixes, stored, strict=True))

        def places_with_prefix(name: str) -> tuple[str, ...]:
            number, name_in_part = merge.origin(name)
            places = parts[number].places(name_in_part)
            return tuple(prefixes[number] + place for place in places)

        return StoredNames(manifest, places_with_prefix)
    paths = list(dict.fromkeys(part.manifest.prefix for part in parts))
    if len(paths) > 1:
        names = ", ".join(f"`{path}`" for path in paths[:5])
        raise AssignmentError(
            f"The plan was made for {len(paths)} merged checkpoints, of which "
            f"`{graphs[0].prefix}` has an object graph, and the graph of one file "
            f"cannot name the tensors of several: {names}. "
            "Make a plan for each checkpoint and save it with that, or save the tree "
            "without a plan."
        )

    def places(name: str) -> tuple[str, ...]:
        number, name_in_part = merge.origin(name)
        return parts[number].places(name_in_part)

    return StoredNames(graphs[0], places)
