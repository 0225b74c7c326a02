"""The object graph of a TF2 checkpoint -> the names that people have for its tensors.

Such a checkpoint stores a variable under the path of attributes that leads to it, and
the graph, itself a tensor, has the variable's name and every other path. An export of
Keras 3 stores most variables under two paths. Pure functions: no file is opened here.

Source: tensorflow/core/protobuf/trackable_object_graph.proto,
tensorflow/python/checkpoint/trackable_utils.py (keys and how names are escaped),
`object_graph_key_mapping` in tensorflow/python/training/saver.py.
"""

from __future__ import annotations

import bisect
import dataclasses
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final, TypeVar

from tf2flax._base.role_patterns import SLOT_MARKER, VARIABLE_SUFFIX

from .wire.graph_messages import TrackableObject, parse_object_graph, prune_object_graph

# The string tensor that holds the graph.
GRAPH_KEY: Final = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VARIABLE_ATTRIBUTE: Final = "VARIABLE_VALUE"
# The two lists of a Keras 3 export. `ExportArchive.track` puts the model's variables,
# which are objects of Keras, in the first; `write_out` puts the tf.Variables that the
# exported functions use in the second. TensorFlow takes them for different objects.
# Source: keras/src/export/saved_model.py (export_lib.py before Keras 3.7).
_KERAS_LIST: Final = re.compile(
    rf"(variables|_all_variables)/[0-9]+{re.escape(VARIABLE_SUFFIX)}"
)
# Names that a search for one path may try, and children that it may follow. Real
# graphs need a handful, since no object has two attributes of one name; a crafted one
# could ask for billions.
_MAX_STEPS: Final = 1_000_000

Names = Mapping[str, tuple[str, ...]]
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, slots=True)
class ObjectGraph:
    """Objects and how they refer to each other; the first is the root.

    Attributes:
        nodes: The objects.
    """

    nodes: tuple[TrackableObject, ...]
    # Of each object: names of children -> numbers of the objects.
    _children: tuple[Mapping[str, tuple[int, ...]], ...] = dataclasses.field(
        init=False, repr=False, compare=False
    )
    # Characters of the longest of these names.
    _longest: int = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        children = tuple(
            _collect((child.local_name, child.node_id) for child in node.children)
            for node in self.nodes
        )
        longest = max((len(name) for names in children for name in names), default=0)
        object.__setattr__(self, "_children", children)
        object.__setattr__(self, "_longest", longest)

    @classmethod
    def parse(cls, data: bytes) -> ObjectGraph:
        """Parses the graph.

        Args:
            data: A `TrackableObjectGraph`.

        Returns:
            The graph.

        Raises:
            MalformedError: It does not parse, or refers to an object that is not there.
        """
        return cls(parse_object_graph(data))

    def keys_at(self, path: str) -> tuple[str, ...]:
        """Follows any path of attributes from the root to a variable.

        A variable is stored under one path only, though several may lead to it. What
        follows `.OPTIMIZER_SLOT` in the path of a slot is taken as it is stored.

        Args:
            path: Names joined by `/`; a name may itself hold one.

        Returns:
            The keys under which what it leads to is stored, though the checkpoint may
            lack them; none where it leads nowhere, several where names that hold a
            `/` make it lead to several variables.
        """
        keys = self._walk(path)
        variable, marker, slot = path.partition(SLOT_MARKER)
        if keys or not marker:
            return keys
        stored_slot = slot.replace(".", "..") + VARIABLE_SUFFIX
        return tuple(
            key.removesuffix(VARIABLE_SUFFIX) + marker + stored_slot
            for key in self._walk(variable)
        )

    def _walk(self, path: str) -> tuple[str, ...]:
        ends = [i for i, character in enumerate(path) if character == "/"]
        ends.append(len(path))
        keys: dict[str, None] = {}
        todo = [(0, 0)] if self.nodes else []  # an object, and where names go on
        seen = set(todo)  # graphs have cycles
        steps = 0
        while todo:
            node_id, start = todo.pop()
            if start > len(path):
                keys.update(dict.fromkeys(self.values_of(node_id)))
                continue
            first = bisect.bisect_left(ends, start)
            last = bisect.bisect_right(ends, start + self._longest)
            for end in ends[first:last]:
                children = self._children[node_id].get(path[start:end], ())
                steps += 1 + len(children)
                if steps > _MAX_STEPS:
                    return ()
                for child in children:
                    if (child, end + 1) not in seen:
                        seen.add((child, end + 1))
                        todo.append((child, end + 1))
        return tuple(keys)

    def values_of(self, node_id: int) -> tuple[str, ...]:
        """Keys of the values of an object that is a variable.

        Args:
            node_id: Number of the object.
        """
        return tuple(
            attribute.checkpoint_key
            for attribute in self.nodes[node_id].attributes
            if attribute.name == _VARIABLE_ATTRIBUTE
        )


def names_by_variable(graph: ObjectGraph, stored: Collection[str]) -> Names:
    """Finds the names of variables, as TensorFlow's name-based reader maps them.

    Args:
        graph: The graph.
        stored: Keys that the checkpoint holds.

    Returns:
        Names (`dense/kernel`, those of slots included) -> keys, more than one if
        variables share a name. Tensors without a name are left out.
    """
    return _collect(
        (attribute.full_name, attribute.checkpoint_key)
        for node in graph.nodes
        for attribute in node.attributes
        if attribute.full_name and attribute.checkpoint_key in stored
    )


def slots_of_graph(graph: ObjectGraph) -> dict[str, tuple[str, str]]:
    """Finds the slots that optimizers keep for variables.

    Args:
        graph: The graph.

    Returns:
        Key of a slot -> key of the variable, and the name of the slot. References to
        objects that are not there, or hold no value, are left out.
    """
    slots: dict[str, tuple[str, str]] = {}
    count = len(graph.nodes)
    for node in graph.nodes:
        for slot in node.slots:
            if not (0 <= slot.variable_id < count and 0 <= slot.slot_id < count):
                continue
            variables = graph.values_of(slot.variable_id)
            for key in graph.values_of(slot.slot_id) if variables else ():
                slots[key] = (variables[0], slot.name)
    return slots


def places_of_export(keys: Iterable[str]) -> tuple[list[str], list[str]]:
    """Finds keys in the two lists of variables that a Keras 3 export has.

    Args:
        keys: Keys of tensors.

    Returns:
        Those in `variables/`, the model's own, and those in `_all_variables/`, the ones
        that exported functions use. Other keys are in neither.

    Examples:
        >>> places_of_export(["variables/0/.ATTRIBUTES/VARIABLE_VALUE", "step"])
        (['variables/0/.ATTRIBUTES/VARIABLE_VALUE'], [])
    """
    lists: dict[str, list[str]] = {"variables": [], "_all_variables": []}
    for key in keys:
        match = _KERAS_LIST.fullmatch(key)
        if match:
            lists[match[1]].append(key)
    return lists["variables"], lists["_all_variables"]


def without_tensors(data: bytes, dropped: Collection[str]) -> bytes:
    """Drops values from a graph that a copy of its checkpoint does not hold.

    Without that, TensorFlow would look for tensors that are not there. Objects stay,
    and what they are called.

    Args:
        data: A `TrackableObjectGraph`.
        dropped: Keys that the copy lacks.

    Returns:
        The graph, the same bytes where it refers to none of them.

    Raises:
        MalformedError: It does not parse.
    """
    ordered = sorted(dropped)

    def is_dropped(key: str) -> bool:
        # A table's key is the beginning of those of its two tensors.
        first = bisect.bisect_left(ordered, key)
        return first < len(ordered) and (
            ordered[first] == key or ordered[first].startswith(f"{key}-")
        )

    return prune_object_graph(data, is_dropped)


def names_by_path(stored: Iterable[str]) -> Names:
    """Finds the plain paths of variables.

    Args:
        stored: Keys that the checkpoint holds.

    Returns:
        Paths (`model/layer-0/kernel`) -> keys. All but values of variables (tables,
        configurations) is left out. A slot is
        `<variable>/.OPTIMIZER_SLOT/<optimizer>/<slot>`.

    Examples:
        >>> names_by_path(["odd..name.Sx/.ATTRIBUTES/VARIABLE_VALUE"])
        {'odd.name/x': ('odd..name.Sx/.ATTRIBUTES/VARIABLE_VALUE',)}
    """
    return _collect(
        (_unescape(key.removesuffix(VARIABLE_SUFFIX)), key)
        for key in stored
        if key.endswith(VARIABLE_SUFFIX)
    )


def _collect(pairs: Iterable[tuple[str, _T]]) -> dict[str, tuple[_T, ...]]:
    """The values of each name, every one once, in order."""
    values: dict[str, dict[_T, None]] = {}
    for name, value in pairs:
        values.setdefault(name, {})[value] = None
    return {name: tuple(distinct) for name, distinct in values.items()}


def _unescape(path: str) -> str:
    return "/".join("".join(_unescaped(name)) for name in path.split("/"))


def _unescaped(name: str) -> Iterator[str]:
    """The characters of a name: `..` is a dot, `.S` a slash, any other dot itself."""
    characters = iter(name)
    for character in characters:
        if character != ".":
            yield character
            continue
        escaped = next(characters, "")
        yield {"S": "/", ".": "."}.get(escaped, f".{escaped}")
