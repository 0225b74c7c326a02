"""Messages of the object graph of a TF2 checkpoint, as frozen values.

Source: tensorflow/core/protobuf/trackable_object_graph.proto.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Final

from tf2flax._base.errors import MalformedError
from tf2flax._base.values import decode_name

from .messages import MESSAGE_CLASSES, parse_message

_GRAPH: Final[Any] = MESSAGE_CLASSES["TrackableObjectGraph"]


@dataclasses.dataclass(frozen=True, slots=True)
class ObjectReference:
    """An attribute of an object that is another object.

    Attributes:
        node_id: Number of the other object.
        local_name: Name of the attribute.
    """

    node_id: int
    local_name: str


@dataclasses.dataclass(frozen=True, slots=True)
class SerializedTensor:
    """A value that an object has stored.

    Attributes:
        name: Its kind: `VARIABLE_VALUE`, ...
        full_name: The variable's name; "" if it has none.
        checkpoint_key: The key under which it is stored.
    """

    name: str
    full_name: str
    checkpoint_key: str


@dataclasses.dataclass(frozen=True, slots=True)
class SlotReference:
    """A slot that an optimizer keeps for a variable.

    Attributes:
        variable_id: Number of the variable; any number, as `slot_id`.
        name: Name of the slot: `m`.
        slot_id: Number of the slot.
    """

    variable_id: int
    name: str
    slot_id: int


@dataclasses.dataclass(frozen=True, slots=True)
class TrackableObject:
    """One object of an object graph.

    Attributes:
        children: The objects it refers to.
        attributes: The values that it has stored.
        slots: Those that it keeps, if it is an optimizer.
    """

    children: tuple[ObjectReference, ...]
    attributes: tuple[SerializedTensor, ...]
    slots: tuple[SlotReference, ...] = ()


def parse_object_graph(data: bytes) -> tuple[TrackableObject, ...]:
    """Parses the object graph of a TF2 checkpoint.

    Args:
        data: A `TrackableObjectGraph`.

    Returns:
        Its objects; the first is the root.

    Raises:
        MalformedError: It does not parse, or refers to an object that is not there.
    """
    graph = parse_message(_GRAPH, data)
    count = len(graph.nodes)
    nodes: list[TrackableObject] = []
    for node in graph.nodes:
        for child in node.children:
            if not 0 <= child.node_id < count:
                raise MalformedError(
                    f"expected objects within [0, {count}), got {child.node_id}"
                )
        children = [
            ObjectReference(child.node_id, decode_name(child.local_name))
            for child in node.children
        ]
        attributes = [
            SerializedTensor(
                name=decode_name(attribute.name),
                full_name=decode_name(attribute.full_name),
                checkpoint_key=decode_name(attribute.checkpoint_key),
            )
            for attribute in node.attributes
        ]
        slots = [
            SlotReference(
                slot.original_variable_node_id,
                decode_name(slot.slot_name),
                slot.slot_variable_node_id,
            )
            for slot in node.slot_variables
        ]
        nodes.append(TrackableObject(tuple(children), tuple(attributes), tuple(slots)))
    return tuple(nodes)


def prune_object_graph(data: bytes, is_dropped: Callable[[str], bool]) -> bytes:
    """Leaves stored values out of an object graph.

    Args:
        data: A `TrackableObjectGraph`.
        is_dropped: Whether the value under a key is left out.

    Returns:
        The graph without them, and without references to slots whose value is left
        out; fields that are not known here are kept. The same bytes where nothing is.

    Raises:
        MalformedError: It does not parse.
    """
    graph = parse_message(_GRAPH, data)
    removed = 0
    emptied: set[int] = set()
    for number, node in enumerate(graph.nodes):
        count = _remove(
            node.attributes, lambda value: is_dropped(decode_name(value.checkpoint_key))
        )
        removed += count
        if count and not node.attributes:
            emptied.add(number)
    for node in graph.nodes:
        _remove(node.slot_variables, lambda slot: slot.slot_variable_node_id in emptied)
    return graph.SerializeToString(deterministic=True) if removed else data


def _remove(messages: Any, is_removed: Callable[[Any], bool]) -> int:
    """Removes messages from a repeated field; returns how many."""
    numbers = [n for n, message in enumerate(messages) if is_removed(message)]
    for number in reversed(numbers):
        del messages[number]
    return len(numbers)
