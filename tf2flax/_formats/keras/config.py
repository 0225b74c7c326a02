"""The `config.json` of a Keras model -> which layer lies where among its weights.

Follows a config only as far as there are groups of weights, so that it never makes more
than the file of weights holds.

Source: keras-team/keras, `_save_container_state` and `_walk_saveable` in
keras/src/saving/saving_lib.py, `serialize_keras_object` in serialization_lib.py.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, cast

from tf2flax._base.errors import MalformedError

from .archive import CONFIG, config_in
from .file import KerasFile, damaged, read_error
from .layers import CLASSES, Config, LayerClass, snake_case

# A config of a model of 10,000 layers takes 10 MB (bytes).
MAX_CONFIG_NBYTES: Final = 64 << 20
# Where a model has its layers; the second name is that of TensorFlow 2.12 to 2.15.
_CONTAINERS: Final = ("layers", "_layer_checkpoint_dependencies")
OPTIMIZER: Final = "optimizer"
_ALIASES: Final = {
    name.lower(): name
    for name in (
        *("Adam", "AdamW", "Adamax", "Adagrad", "Adadelta", "Nadam", "Lamb"),
        *("SGD", "RMSprop", "Ftrl", "Lion", "Adafactor", "Muon"),
    )
}
# Classes that Keras exports under another name than their own, which paths have.
_OWN_NAMES: Final = {"GroupQueryAttention": "GroupedQueryAttention"}
# Of a Bidirectional, which keeps one config for two layers.
_DIRECTIONS: Final = {"forward_layer": "forward_", "backward_layer": "backward_"}


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """A layer, a model or an optimizer.

    Attributes:
        class_name: Its class, where that is one of Keras's own; else "".
        name: Its name; "" where the config does not tell.
        config: Its config; None where the config of another layer implies it.
        children: Places of the layers in it, in the order in which it tracks them.
    """

    class_name: str
    name: str
    config: Config | None
    children: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class ConfigFile:
    """The file that has the config of a model; picklable.

    Attributes:
        file: The file, or the archive that has it as a member.
        is_archive: True for an archive.
    """

    file: KerasFile
    is_archive: bool = False

    def read(self) -> Mapping[str, object] | None:
        """Reads and parses it.

        Returns:
            The config; None where the archive has none.

        Raises:
            DamagedError: It is malformed or gone.
            UnsupportedError: It is encrypted, or compressed in another way.
            ReadError: The system refuses.
        """
        try:
            if self.is_archive:
                contents = config_in(self.file)
                return None if contents is None else parse_json(contents)
            stream = self.file.open()
            try:
                if stream.nbytes > MAX_CONFIG_NBYTES:
                    raise MalformedError(f"it has {stream.nbytes} bytes, too many")
                return parse_json(stream.slice(0, stream.nbytes))
            except OSError as error:
                raise read_error(self.file.path, error) from error
            finally:
                stream.close()
        except MalformedError as error:
            raise damaged(f"`{CONFIG}`", error, self.file.path) from error


def parse_json(contents: bytes) -> Mapping[str, object]:
    """Parses a file whose value is an object.

    Args:
        contents: All of its bytes.

    Returns:
        The object.

    Raises:
        MalformedError: It is too large, or not JSON, or another value.
    """
    if len(contents) > MAX_CONFIG_NBYTES:
        raise MalformedError(f"it has {len(contents)} bytes, too many for JSON")
    try:
        value: object = json.loads(contents)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"it is not valid JSON ({str(error)[:200]})") from error
    parsed = mapping(value)
    if parsed is None:
        raise MalformedError("it is not a JSON object")
    return parsed


def nodes_of(config: Mapping[str, object], groups: Collection[str]) -> dict[str, Node]:
    """Finds the layers of a model among groups of weights.

    Args:
        config: The parsed `config.json`.
        groups: Places of the groups of weights, containers of layers included:
            `layers/dense`, `layers`.

    Returns:
        Layers and the optimizer, by the place of their group; the model is at "".
    """
    finder = _Finder(groups)
    finder.visit("", config)
    compiled = mapping(config.get("compile_config"))
    optimizer = compiled.get("optimizer") if compiled is not None else None
    if isinstance(optimizer, str):  # as given to `compile`, with every default
        optimizer = _of_alias(optimizer)
    serialized = _serialized(optimizer)
    if serialized is not None and OPTIMIZER in groups:
        finder.visit(OPTIMIZER, serialized)
    return finder.nodes


def mapping(value: object) -> Mapping[str, object] | None:
    """A value of JSON as an object; None for any other."""
    if not isinstance(value, Mapping):
        return None
    return cast(Mapping[str, object], value)


def elements(value: object) -> list[object]:
    """The elements of an array of JSON; none of any other value."""
    return cast(list[object], value) if isinstance(value, list) else []


class _Finder:
    """Walks a config and the groups together."""

    def __init__(self, groups: Collection[str]) -> None:
        self._groups = groups
        self.nodes: dict[str, Node] = {}

    def visit(self, place: str, serialized: Mapping[str, object]) -> None:
        """Adds the node of a group, and those of what is in it."""
        # Two configs for one group: the layer was stored where it was met first.
        if place in self.nodes:
            return
        config = mapping(serialized.get("config")) or {}
        class_name = _own_class(serialized)
        name = config.get("name")
        children = dict(self._children(place, class_name, config))
        self.nodes[place] = Node(
            class_name, name if isinstance(name, str) else "", config, tuple(children)
        )
        for child, description in children.items():
            if isinstance(description, Node):
                self.nodes.setdefault(child, description)
            else:
                self.visit(child, description)

    def _children(
        self, place: str, class_name: str, config: Config
    ) -> Iterator[tuple[str, Mapping[str, object] | Node]]:
        """Places of the layers in a layer, each with its serialized form or a node."""
        start = f"{place}/" if place else ""
        for attribute in _CONTAINERS:
            yield from self._members(start + attribute, config.get("layers"))
        layer_class = CLASSES.get(class_name, LayerClass())
        for attribute, (child_class, name) in layer_class.children.items():
            child = start + attribute
            if child not in self._groups:
                continue
            serialized = _child_config(attribute, config)
            if serialized is not None:
                yield child, serialized
            elif child_class:
                # Cells share the config of their layer.
                is_cell = child_class.endswith("Cell")
                yield child, Node(child_class, name, config if is_cell else None)
        for attribute, value in config.items():
            serialized = _serialized(value)
            if serialized is None:
                yield from self._members(start + attribute, value)
            elif start + attribute in self._groups:
                yield start + attribute, serialized

    def _members(
        self, container: str, value: object
    ) -> Iterator[tuple[str, Mapping[str, object]]]:
        """Places of the layers in a list: each goes by its class and a number."""
        if container not in self._groups:
            return
        counts: dict[str, int] = {}
        for element in elements(value):
            serialized = _serialized(element)
            if serialized is None or _is_operation(serialized):
                continue
            class_name = str(serialized["class_name"])
            name = snake_case(_OWN_NAMES.get(class_name, class_name))
            number = counts.get(name, -1) + 1
            counts[name] = number
            child = f"{container}/{name}_{number}" if number else f"{container}/{name}"
            if child in self._groups:
                yield child, serialized


def _serialized(value: object) -> Mapping[str, object] | None:
    """A value if it is an object that Keras serialized; None for any other."""
    fields = mapping(value)
    is_object = fields is not None and isinstance(fields.get("class_name"), str)
    return fields if is_object else None


def _own_class(serialized: Mapping[str, object]) -> str:
    """The class if it is one of Keras's; "" for others, which may have its name."""
    module = serialized.get("module", "keras")
    class_name = serialized.get("class_name")
    if module is None:  # also what Keras writes for classes of a script
        is_own = serialized.get("registered_name") is None
    else:
        is_own = str(module).partition(".")[0] == "keras"
    return class_name if is_own and isinstance(class_name, str) else ""


def _is_operation(serialized: Mapping[str, object]) -> bool:
    """Tells whether it is an operation on tensors (`x + y`), not a layer."""
    module = str(serialized.get("module"))
    return module.startswith(("keras.ops", "keras.src.ops"))


def _child_config(attribute: str, config: Config) -> Mapping[str, object] | None:
    """The config of the layer in an attribute, where the layer's own has one."""
    serialized = _serialized(config.get(attribute))
    if serialized is not None or attribute not in _DIRECTIONS:
        return serialized
    serialized = _serialized(config.get("layer"))
    layer = mapping(serialized.get("config")) if serialized is not None else None
    if serialized is None or layer is None:
        return None
    name = str(layer.get("name", "")).removeprefix(_DIRECTIONS["forward_layer"])
    renamed: dict[str, Any] = {**layer, "name": _DIRECTIONS[attribute] + name}
    return {**serialized, "config": renamed}


def _of_alias(alias: str) -> Mapping[str, object]:
    """An optimizer given by a word ("adam"), as Keras would serialize it."""
    class_name = _ALIASES.get(alias.lower(), alias)
    name = class_name if class_name == "SGD" else alias.lower()
    return {"class_name": class_name, "config": {"name": name}}
