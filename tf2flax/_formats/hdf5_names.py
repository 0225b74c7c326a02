"""What an HDF5 file of Keras weights holds: where its datasets lie, and their names.

Walks the groups, follows no link out of the file, and gives every weight a name of its
own. Reads no dataset.

Source: keras-team/keras, keras/src/legacy/saving/legacy_h5_format.py (`.h5` of Keras 1
and 2) and keras/src/saving/saving_lib.py (Keras 3).
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Sequence
from typing import Final

from tf2flax._errors import MalformedError

from .hdf5_dataset import Handle, check_link, load_h5py

# The attribute in which Keras 1 and 2 list the weights of a layer, or those of an
# optimizer; in parts (`weight_names0`, ...) where it would be longer than 64 KiB.
# Source: `save_attributes_to_hdf5_group`, legacy_h5_format.py.
_LIST: Final = b"weight_names"
# Where a whole model of Keras 1 and 2 has its layers.
_MODEL: Final = b"model_weights/"
# Where Keras 3 has the variables of a layer, with the layer's name as an attribute.
# Source: `H5IOStore._create_h5_group`, saving_lib.py.
_VARIABLES: Final = b"/vars/"
# No model nests so deep, or has so long names. Without bounds, the paths alone could
# take more memory than any multiple of the file (groups, bytes).
MAX_DEPTH: Final = 64
_MAX_PLACE_NBYTES: Final = 4096
# Every link takes more than this in a file, unless groups share their links (bytes).
_MIN_LINK_NBYTES: Final = 8


@dataclasses.dataclass(frozen=True, slots=True)
class Weight:
    """A dataset.

    Attributes:
        place: Where it lies: `model_weights/dense/dense/kernel:0`.
        name: The end of that which is its name: `dense/kernel:0`.
        is_listed: Whether a group lists it by that name.
    """

    place: bytes
    name: bytes
    is_listed: bool

    @property
    def short_name(self) -> str:
        """The name of the variable."""
        return self._shown(self.name)

    @property
    def long_name(self) -> str:
        """The name of the layer, and that of the variable."""
        return self._shown(self.place.removeprefix(_MODEL))

    def _shown(self, name: bytes) -> str:
        text = decode(name)
        return text.removesuffix(":0") if self.is_listed else text


@dataclasses.dataclass(frozen=True, slots=True)
class _Group:
    """A group that is still to be walked.

    Attributes:
        place: Where it lies, with a `/` at its end; empty for the root.
        parent: The group that links to it; of the root, itself.
        named_from: Where in the places of its weights their names begin.
        is_listed: Whether a group around it lists its weights.
    """

    place: bytes
    parent: Handle
    named_from: int = 0
    is_listed: bool = False


class Walk:
    """All datasets of a file.

    The list of a layer's weights holds their names, at which they lie below its group.
    So their places tell their names, and the list only that there are some.

    Attributes:
        weights: The datasets.
        layers: By the names of Keras 3's layers, where they are stored.
    """

    def __init__(self, root: Handle, file_nbytes: int) -> None:
        """Walks.

        Args:
            root: The root group.
            file_nbytes: Length of the file.

        Raises:
            MalformedError: Groups are within themselves, or lack what they list.
            RefusedError: A link leads elsewhere.
        """
        self.weights: list[Weight] = []
        self.layers: dict[str, list[str]] = collections.defaultdict(list)
        self._h5py = load_h5py()
        self._links_left = file_nbytes // _MIN_LINK_NBYTES
        self._visited: set[int] = {self._h5py.h5o.get_info(root).addr}
        self._groups: list[_Group] = [_Group(b"", root)]
        while self._groups:
            group = self._groups.pop()
            handle = root
            if group.place:
                name = group.place[:-1].rpartition(b"/")[2]
                handle = self._h5py.h5g.open(group.parent, name)
            self._walk_group(handle, group)

    def _walk_group(self, handle: Handle, group: _Group) -> None:
        h5o, place = self._h5py.h5o, group.place
        named_from, is_listed = group.named_from, group.is_listed
        names = self._names_in(handle, place)
        count = self._listed_count(handle)
        if count is not None:
            named_from, is_listed = len(place), True
            if count and not names:
                raise MalformedError(
                    f"`{decode(place)}` lists {count} weights and holds none"
                )
        for name in names:
            info = h5o.get_info(handle, name)
            if info.type == h5o.TYPE_DATASET:
                weight = place + name
                self.weights.append(Weight(weight, weight[named_from:], is_listed))
            elif info.type == h5o.TYPE_GROUP:
                if info.addr in self._visited:
                    raise MalformedError(f"`{decode(place + name)}` is linked twice")
                self._visited.add(info.addr)
                below = _Group(place + name + b"/", handle, named_from, is_listed)
                self._groups.append(below)
        if place.endswith(_VARIABLES):
            layer = self._layer_name(handle)
            if layer:
                self.layers[layer].append(decode(place.removesuffix(_VARIABLES)))

    def _names_in(self, handle: Handle, place: bytes) -> list[bytes]:
        """The names of what a group links to."""
        names: list[bytes] = []

        def add(name: bytes, info: Handle) -> None:
            self._links_left -= 1
            if self._links_left < 0:
                raise MalformedError("it has more links than its bytes can hold")
            # HDF5 would follow the one, and stay where it is with the others.
            if b"/" in name or name in (b"", b"."):
                raise MalformedError(f"`{decode(place)}` links to {name[:80]!r}")
            if place.count(b"/") >= MAX_DEPTH:
                raise MalformedError(f"it has groups more than {MAX_DEPTH} deep")
            if len(place) + len(name) > _MAX_PLACE_NBYTES:
                raise MalformedError(
                    f"it has paths of more than {_MAX_PLACE_NBYTES} bytes"
                )
            check_link(info, place + name)
            names.append(name)

        handle.links.iterate(add, info=True)
        return names

    def _listed_count(self, handle: Handle) -> int | None:
        """How many weights a group lists; None where it has no list."""
        h5a = self._h5py.h5a

        def length(attribute: bytes) -> int:
            return h5a.open(handle, attribute).get_space().get_simple_extent_npoints()

        if h5a.exists(handle, _LIST):
            return length(_LIST)
        parts = (b"%s%d" % (_LIST, number) for number in itertools.count())
        lengths = [
            length(part)
            for part in itertools.takewhile(lambda one: h5a.exists(handle, one), parts)
        ]
        return sum(lengths) if lengths else None

    def _layer_name(self, handle: Handle) -> str | None:
        """The name of the layer whose variables a group holds."""
        h5a = self._h5py.h5a
        if not h5a.exists(handle, b"name"):
            return None
        if h5a.open(handle, b"name").get_space().get_simple_extent_npoints() != 1:
            return None
        name = self._h5py.AttributeManager(self._h5py.Group(handle))["name"]
        is_name = isinstance(name, str) and len(name) <= _MAX_PLACE_NBYTES
        return name if is_name else None


def named(
    weights: Sequence[Weight],
) -> tuple[dict[str, bytes], dict[str, tuple[str, ...]]]:
    """Gives every weight a name of its own.

    Args:
        weights: All weights of a file.

    Returns:
        Their places by name; and, by each name that is that of several variables, the
        names they go by instead.

    Raises:
        MalformedError: There is no way to tell some apart.
    """
    alike: dict[str, list[Weight]] = collections.defaultdict(list)
    for weight in weights:
        alike[weight.short_name].append(weight)
    several = {short: group for short, group in alike.items() if len(group) > 1}
    clashing = [weight for group in several.values() for weight in group]
    given = {weight.place: weight.long_name for weight in clashing}
    if len({*given.values(), *alike}) < len(given) + len(alike):
        given = {weight.place: decode(weight.place) for weight in clashing}
    places = {short: group[0].place for short, group in alike.items()}
    for short in several:
        del places[short]
    for place, name in given.items():
        if name in places:
            raise MalformedError(f"several weights are called `{name}`")
        places[name] = place
    shared = {
        short: tuple(sorted(given[weight.place] for weight in group))
        for short, group in several.items()
    }
    return places, shared


def decode(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def encode(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
