"""The object graph of a TF2 checkpoint -> what its tensors are called by people.

Such a checkpoint stores a variable under the path of attributes that leads to it, and
the graph, in a tensor of its own, tells the variable's name and every other path. Pure
functions: no file is opened here.

Source: tensorflow/core/protobuf/trackable_object_graph.proto,
tensorflow/python/checkpoint/trackable_utils.py (keys and how names are escaped),
`object_graph_key_mapping` in tensorflow/python/training/saver.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final

from tf2flax._wire.protos import TrackableObject, parse_object_graph

# The string tensor that holds the graph.
GRAPH_KEY: Final = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VARIABLE_SUFFIX: Final = "/.ATTRIBUTES/VARIABLE_VALUE"
_VARIABLE_ATTRIBUTE: Final = "VARIABLE_VALUE"
_SLOTS: Final = ".OPTIMIZER_SLOT"
# States that a walk to one path may visit; real graphs need a handful.
_MAX_STEPS: Final = 100_000

Names = Mapping[str, tuple[str, ...]]


@dataclasses.dataclass(frozen=True, slots=True)
class ObjectGraph:
    """Objects and how they refer to each other; the first is the root.

    Attributes:
        nodes: The objects.
    """

    nodes: tuple[TrackableObject, ...]

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

    def key_at(self, path: str) -> str | None:
        """Follows any path of attributes from the root to a variable.

        A variable is stored under one path only, though several may lead to it.

        Args:
            path: Names joined by `/`; a name may itself hold one.

        Returns:
            The key under which the variable is stored; None where the path leads to
            none.
        """
        seen: set[tuple[int, int]] = set()
        todo = [(0, 0)] if self.nodes else []
        while todo and len(seen) < _MAX_STEPS:
            node_id, start = todo.pop()
            if (node_id, start) in seen:
                continue
            seen.add((node_id, start))
            node = self.nodes[node_id]
            if start > len(path):
                for attribute in node.attributes:
                    if attribute.name == _VARIABLE_ATTRIBUTE:
                        return attribute.checkpoint_key
                continue
            for child in node.children:
                after = start + len(child.local_name)
                if path.startswith(child.local_name, start) and (
                    after == len(path) or path.startswith("/", after)
                ):
                    todo.append((child.node_id, after + 1))
        return None


def names_by_variable(graph: ObjectGraph, stored: Collection[str]) -> Names:
    """Finds what variables are called, as TensorFlow's name-based reader maps them.

    Args:
        graph: The graph.
        stored: Keys that the checkpoint holds.

    Returns:
        Own names (`dense/kernel`, those of slots included) -> keys, more than one
        where variables share a name. Tensors without a name are left out.
    """
    return _collect(
        (attribute.full_name, attribute.checkpoint_key)
        for node in graph.nodes
        for attribute in node.attributes
        if attribute.full_name and attribute.checkpoint_key in stored
    )


def names_by_path(stored: Iterable[str]) -> Names:
    """Finds the plain paths of variables.

    Args:
        stored: Keys that the checkpoint holds.

    Returns:
        Paths (`model/layer-0/kernel`) -> keys. What is no variable's value (tables,
        configurations) is left out. A slot is
        `<variable>/.OPTIMIZER_SLOT/<optimizer>/<slot>`.

    Examples:
        >>> names_by_path(["odd..name.Sx/.ATTRIBUTES/VARIABLE_VALUE"])
        {'odd.name/x': ('odd..name.Sx/.ATTRIBUTES/VARIABLE_VALUE',)}
    """
    return _collect(
        (_unescape(key.removesuffix(_VARIABLE_SUFFIX)), key)
        for key in stored
        if key.endswith(_VARIABLE_SUFFIX)
    )


def _collect(pairs: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = {}
    for name, key in pairs:
        found.setdefault(name, {})[key] = None
    return {name: tuple(keys) for name, keys in found.items()}


def _unescape(path: str) -> str:
    parts = path.split("/")
    return "/".join(
        part if part == _SLOTS else "".join(_unescaped(part)) for part in parts
    )


def _unescaped(part: str) -> Iterator[str]:
    """A dot stands before a dot, or before an S for a slash."""
    characters = iter(part)
    for character in characters:
        if character != ".":
            yield character
            continue
        escaped = next(characters, "")
        yield {"S": "/", ".": "."}.get(escaped, f".{escaped}")
