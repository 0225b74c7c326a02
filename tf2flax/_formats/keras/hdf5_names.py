"""The weights in an HDF5 file of Keras's: where their datasets lie, and their names.

Walks the groups, follows no link out of the file, and gives every weight a name of its
own. Reads no dataset, and no attribute but the names of layers.

Source: keras-team/keras, keras/src/legacy/saving/legacy_h5_format.py (`.h5` of Keras 1
and 2) and keras/src/saving/saving_lib.py (Keras 3).
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import struct
from collections.abc import Mapping, Sequence
from typing import Final

from tf2flax._base.errors import MalformedError
from tf2flax._base.values import decode_name

from .file import FileSlice
from .hdf5_dataset import Handle, RefusedError, load_h5py
from .hdf5_heaps import REFERENCE, Heaps

# The attribute in which Keras 1 and 2 list the weights of a layer, or those of an
# optimizer; in parts (`weight_names0`, ...) where it would be longer than 64 KiB.
# Source: `save_attributes_to_hdf5_group`, legacy_h5_format.py.
_LIST: Final = b"weight_names"
# Where a whole model of Keras 1 and 2 has its layers.
_MODEL: Final = b"model_weights/"
# Where Keras 3 has the variables of a layer, with the layer's name as an attribute.
# Source: `H5IOStore._create_h5_group`, saving_lib.py.
_VARIABLES: Final = b"vars"
# No model nests so deep, or has so long names. Without bounds, the paths alone could
# take more memory than any multiple of the file (groups, bytes).
MAX_DEPTH: Final = 64
_MAX_PLACE_NBYTES: Final = 4096
# Headers of objects, their messages, and those of attributes. Source: HDF5 File Format
# Specification, IV.A.
_HEADER: Final = struct.Struct("<BxHxxxxI4x")
_MESSAGE: Final = struct.Struct("<HH4x")
_SPAN: Final = struct.Struct("<QQ")
_LENGTHS: Final = struct.Struct("<BxHHH")
_ATTRIBUTE: Final = 0x0C
_CONTINUATION: Final = 0x10
_FIXED_STRING: Final = 3
_VARYING: Final = 9
# Every link takes more than this in a file, unless groups share their links (bytes).
_MIN_LINK_NBYTES: Final = 8


@dataclasses.dataclass(frozen=True, slots=True)
class Weight:
    """A dataset.

    Attributes:
        place: Path in the file: `model_weights/dense/dense/kernel:0`.
        name: The end of that which is its name: `dense/kernel:0`.
        is_listed: True if a group lists it by that name.
    """

    place: bytes
    name: bytes
    is_listed: bool

    @property
    def short_name(self) -> str:
        """The name of the variable."""
        return self._display_name(self.name)

    @property
    def long_name(self) -> str:
        """The name of the layer, and that of the variable."""
        return self._display_name(self.place.removeprefix(_MODEL))

    def _display_name(self, name: bytes) -> str:
        text = decode_name(name)
        return text.removesuffix(":0") if self.is_listed else text


@dataclasses.dataclass(frozen=True, slots=True)
class _Group:
    """A group that is still to be walked.

    Attributes:
        place: Path in the file, with a `/` at its end; empty for the root.
        handle: The group.
        around: Addresses of the groups around it, and its own.
        named_from: Position in the places of its weights at which their names begin.
        is_listed: True if a group around it lists its weights.
    """

    place: bytes
    handle: Handle
    around: frozenset[int] = frozenset()
    named_from: int = 0
    is_listed: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class FoundWeights:
    """The datasets of a file, and the objects that they belong to.

    Attributes:
        weights: The datasets.
        objects: Places of the objects whose variables Keras 3 stores, if they have any.
        layers: Place of such an object -> its name, if it has one.
    """

    weights: tuple[Weight, ...]
    objects: frozenset[str]
    layers: dict[str, str]


def find_weights(root: Handle, stream: FileSlice) -> FoundWeights:
    """Walks all groups of a file and finds its datasets.

    Args:
        root: The root group.
        stream: The file.

    Raises:
        MalformedError: Groups lack what they list.
        RefusedError: A link leads elsewhere, or back to a group that it lies in.
    """
    walk = _GroupWalk(root, stream)
    walk.check_counts()
    objects, layers = walk.name_layers(stream)
    return FoundWeights(tuple(walk.weights), frozenset(objects), layers)


class _GroupWalk:
    """A walk over all groups of a file, without recursion.

    The list of a layer's weights holds their names, at which they lie below its group.
    So their places tell their names, and of the list only the length is needed.

    Attributes:
        weights: The datasets.
    """

    def __init__(self, root: Handle, stream: FileSlice) -> None:
        self.weights: list[Weight] = []
        self._h5py = load_h5py()
        self._named_at: dict[bytes, int] = {}
        self._listed: dict[bytes, int] = {}
        self._links_left = stream.nbytes // _MIN_LINK_NBYTES
        self._visited: set[int] = set()
        self._has_shared: bool = False
        self._groups: list[_Group] = [_Group(b"", root)]
        while self._groups:
            self._walk_group(self._groups.pop())

    def _walk_group(self, group: _Group) -> None:
        h5i, place = self._h5py.h5i, group.place
        named_from, is_listed = group.named_from, group.is_listed
        links = self._links_in(group.handle, place)
        count = self._listed_count(group.handle)
        if count is not None:
            named_from, is_listed = len(place), True
            self._listed[place] = count
        for name, address in links:
            here = place + name
            try:
                handle = self._h5py.h5o.open(group.handle, name)
                kind = h5i.get_type(handle)
            except (KeyError, RuntimeError, ValueError):
                # Damage of one object: an error for who reads it, not for all others.
                handle, kind = None, h5i.DATASET
            if kind == h5i.DATASET:
                self.weights.append(Weight(here, here[named_from:], is_listed))
            elif kind == h5i.GROUP:
                if address in group.around:
                    raise RefusedError(
                        f"`{decode_name(here)}` is a link to a group that it lies in",
                        fix="Delete this link, or save the weights again.",
                    )
                # Another link to a group gives its weights other names as well.
                self._has_shared |= address in self._visited
                self._visited.add(address)
                around = group.around | {address}
                self._groups.append(
                    _Group(here + b"/", handle, around, named_from, is_listed)
                )
                if name == _VARIABLES and place:
                    self._named_at[place[:-1]] = address

    def _links_in(self, handle: Handle, place: bytes) -> list[tuple[bytes, int]]:
        """Names and addresses of what a group links to."""
        links: list[tuple[bytes, int]] = []
        problems: list[MalformedError | RefusedError] = []

        def add(name: bytes, info: Handle) -> bool | None:
            self._links_left -= 1
            is_hard = info.type == self._h5py.h5l.TYPE_HARD
            problem = self._problem_of(place, name, is_hard=is_hard)
            if problem is None:
                links.append((name, int(info.u)))
                return None
            # h5py would hide what is raised here; anything but None ends the walk.
            problems.append(problem)
            return True

        handle.links.iterate(add, info=True)
        if problems:
            raise problems[0]
        return links

    def _problem_of(
        self, place: bytes, name: bytes, *, is_hard: bool
    ) -> MalformedError | RefusedError | None:
        """Why a link is not followed; None where it is."""
        if self._links_left < 0 and self._has_shared:
            return RefusedError("its groups are linked to each other too often")
        if self._links_left < 0:
            return MalformedError("it has more links than its bytes can hold")
        # HDF5 takes such names for paths: "a/b" leads on, "." stays where it is.
        if b"/" in name or name in (b"", b"."):
            return MalformedError(f"`{decode_name(place)}` links to {name[:80]!r}")
        if place.count(b"/") > MAX_DEPTH:
            return RefusedError(f"it has groups more than {MAX_DEPTH} deep")
        if len(place) + len(name) > _MAX_PLACE_NBYTES:
            return RefusedError(f"it has paths of more than {_MAX_PLACE_NBYTES} bytes")
        if not is_hard:
            return RefusedError(
                f"`{decode_name(place + name)}` is a link to another place or file, "
                "which is not followed"
            )
        return None

    def _listed_count(self, handle: Handle) -> int | None:
        """Number of weights that a group lists; None if it has no list."""
        h5a = self._h5py.h5a

        def length(attribute: bytes) -> int:
            return h5a.open(handle, attribute).get_space().get_simple_extent_npoints()

        if h5a.exists(handle, _LIST):
            return length(_LIST)
        names = (b"%s%d" % (_LIST, number) for number in itertools.count())
        lengths = [
            length(name)
            for name in itertools.takewhile(
                lambda name: h5a.exists(handle, name), names
            )
        ]
        return sum(lengths) if lengths else None

    def check_counts(self) -> None:
        """Checks that groups hold as many weights as they list."""
        counts = collections.Counter(
            weight.place.removesuffix(weight.name)
            for weight in self.weights
            if weight.is_listed
        )
        for place, count in self._listed.items():
            if counts[place] < count:
                raise MalformedError(
                    f"`{decode_name(place)}` lists {count} weights and holds "
                    f"{counts[place]}"
                )

    def name_layers(self, stream: FileSlice) -> tuple[set[str], dict[str, str]]:
        """Reads the names of layers, which are attributes.

        Returns:
            Places of all objects with variables; and place -> name of those that have
            one.
        """
        heaps = Heaps(stream)
        objects: set[str] = set()
        layers: dict[str, str] = {}
        for place, address in self._named_at.items():
            objects.add(decode_name(place))
            try:
                name = _attribute(stream, heaps, address, b"name")
            except MalformedError:  # of a name, hints and views alone make use
                continue
            if name and len(name) <= _MAX_PLACE_NBYTES:
                layers[decode_name(place)] = decode_name(name)
        return objects, layers


def _attribute(
    stream: FileSlice, heaps: Heaps, address: int, name: bytes
) -> bytes | None:
    """Reads an attribute that is a string, without h5py: HDF5 hangs on damaged heaps.

    Args:
        stream: The file.
        heaps: Its heaps.
        address: Where the header of the object lies.
        name: The attribute.

    Returns:
        The string; None where the object has a header of a newer version, or no such
        attribute.

    Raises:
        MalformedError: Something is not where it should be.

    Source: HDF5 File Format Specification, IV.A.1.a (headers), IV.A.2.m (attributes).
    """
    version, count, nbytes = _HEADER.unpack(stream.slice(address, _HEADER.size))
    if version != 1:
        return None
    blocks = [(address + 16, nbytes)]
    while blocks:
        start, nbytes = blocks.pop(0)
        block = stream.slice(start, nbytes)
        position = 0
        while position + _MESSAGE.size <= len(block) and count:
            kind, size = _MESSAGE.unpack_from(block, position)
            position += _MESSAGE.size
            message = block[position : position + size]
            position += size
            count -= 1
            if kind == _CONTINUATION and len(message) >= _SPAN.size:
                blocks.append(_SPAN.unpack_from(message))
            elif kind == _ATTRIBUTE:
                value = _string_in(heaps, message, name)
                if value is not None:
                    return value
    return None


def _string_in(heaps: Heaps, message: bytes, name: bytes) -> bytes | None:
    """The string in the message of an attribute, if it has that name.

    Version 1 pads each field to a multiple of 8 bytes; version 3 adds one byte, the
    encoding of the name:

        | version, 3 lengths | (encoding) | name | datatype | dataspace | value ...
    """
    if len(message) < _LENGTHS.size:
        return None
    version, *sizes = _LENGTHS.unpack_from(message)
    position = _LENGTHS.size + (1 if version == 3 else 0)
    fields: list[bytes] = []
    for size in sizes:
        fields.append(message[position : position + size])
        position += -(-size // 8) * 8 if version == 1 else size
    attribute_name, datatype, space = fields
    is_scalar = len(space) > 1 and space[1] == 0
    if attribute_name.rstrip(b"\0") != name or not is_scalar or len(datatype) < 8:
        return None
    # The class of the datatype, and of strings of varying length (class 9, type 1) a
    # reference to a heap instead of the string itself.
    kind, value = datatype[0] & 15, message[position:]
    if kind == _FIXED_STRING:
        return value[: int.from_bytes(datatype[4:8], "little")].rstrip(b"\0")
    is_string = kind == _VARYING and datatype[1] & 15 == 1
    if not is_string or len(value) < REFERENCE.size:
        return None
    return heaps.get(value[: REFERENCE.size])


def open_dataset(root: Handle, place: bytes) -> Handle:
    """Opens a dataset that was found.

    Args:
        root: The root group.
        place: Where it lies.

    Returns:
        The dataset.
    """
    return load_h5py().h5d.open(root, place)


def name_weights(
    weights: Sequence[Weight],
) -> tuple[dict[str, bytes], dict[str, tuple[str, ...]]]:
    """Gives every weight a name that no other weight has.

    Args:
        weights: All weights of a file.

    Returns:
        Their places by name; and, by each name that is that of several variables, the
        names they go by instead.

    Raises:
        RefusedError: Some weights cannot be told apart.
    """
    by_short_name: dict[str, list[Weight]] = collections.defaultdict(list)
    for weight in weights:
        by_short_name[weight.short_name].append(weight)
    several = {name: group for name, group in by_short_name.items() if len(group) > 1}
    clashing = [weight for group in several.values() for weight in group]
    # Weights of one name go by their layer's name as well. If that clashes with any
    # name, by their whole places, which are different.
    given = {weight.place: weight.long_name for weight in clashing}
    if len({*given.values(), *by_short_name}) < len(given) + len(by_short_name):
        given = {weight.place: decode_name(weight.place) for weight in clashing}
    places = {name: group[0].place for name, group in by_short_name.items()}
    for name in several:
        del places[name]
    for place, name in given.items():
        if name in places:
            raise RefusedError(f"several weights are called `{name}`")
        places[name] = place
    shared = {
        name: tuple(sorted(given[weight.place] for weight in group))
        for name, group in several.items()
    }
    return places, shared


def layer_hint(name: str, layers: Mapping[str, str]) -> str:
    """Says where the layer in a name is stored.

    Args:
        name: A name that is not stored.
        layers: Place of a group -> name of its layer.

    Returns:
        A sentence; "" where no part of the name is a layer's.
    """
    places: dict[str, list[str]] = collections.defaultdict(list)
    for place, layer in layers.items():
        places[layer].append(place)
    for layer in reversed(name.split("/")):
        if layer in places:
            which = " or ".join(f"`{place}/`" for place in places[layer][:4])
            return f"Layer `{layer}` is stored as {which}."
    return ""
