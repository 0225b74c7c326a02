"""The names of the variables in Keras 3's weights: their layers' names and theirs.

A file of weights has a group for every layer, with the layer's name as an attribute
(since Keras 3.6), and its variables under numbers. Their own names follow from the
layer's class: as `config.json` tells it, or else as the name of the group does. Nothing
is guessed: where more than one choice fits, numbers stay. Opens
nothing but the config.

Source: keras-team/keras, keras/src/saving/saving_lib.py.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

from tf2flax._base.errors import UnsupportedError
from tf2flax._base.values import TensorSpec

from .config import OPTIMIZER, ConfigFile, Node, nodes_of
from .layers import BY_ATTRIBUTE, BY_SNAKE_CASE, CLASSES, Variable, slot_groups

_STORED: Final = re.compile(r"(?:(?P<group>.*)/)?vars/(?P<key>[^/]+)", re.S)
_NUMBERED: Final = re.compile(r"(.+?)(?:_\d+)?", re.S)


@dataclasses.dataclass(frozen=True, slots=True)
class Weights:
    """The weights of a file: shapes, and the objects that they belong to.

    Attributes:
        specs: Stored name -> shape and dtype; None where they are damaged.
        layers: Place of a group -> the name of its layer, as an attribute gives it.
        objects: Places of all groups that have variables, or could have.
    """

    specs: Mapping[str, TensorSpec | None]
    layers: Mapping[str, str]
    objects: Collection[str]

    @property
    def is_keras_3(self) -> bool:
        """True if variables lie where Keras 3 stores them."""
        return any(_STORED.fullmatch(name) for name in self.specs)

    def groups(self) -> set[str]:
        """Places of all groups with variables, and of the groups around them."""
        places: set[str] = set()
        for place in self.objects:
            while place and place not in places:
                places.add(place)
                place = place.rpartition("/")[0]
        return places


@dataclasses.dataclass(frozen=True, slots=True)
class VariableNames:
    """The names of the variables of a file.

    Attributes:
        keys: Names -> the stored names that bear them: several where names clash. What
            belongs to no named layer keeps its stored name.
        has_layers: True if the name of any layer is known.
        slots: Stored names of an optimizer's slots -> that of the variable, and what
            the slot is called. None of an optimizer whose order is not certain.
    """

    keys: dict[str, tuple[str, ...]]
    has_layers: bool
    slots: dict[str, tuple[str, str]]


def variable_names(
    weights: Weights, config: ConfigFile | None, path: str
) -> VariableNames:
    """Names variables.

    Args:
        weights: The weights of the file.
        config: The model's config, which is read.
        path: The file, for messages.

    Returns:
        The names.

    Raises:
        DamagedError: The config is malformed.
        UnsupportedError: These are not Keras 3's weights.
        ReadError: The system refuses.
    """
    if not weights.is_keras_3:
        raise UnsupportedError(
            f"`{path}` was not written in the format of Keras 3: names are the "
            "variables' own already. Use the checkpoint as it is."
        )
    described = config.read() if config is not None else None
    nodes = nodes_of(described, weights.groups()) if described is not None else {}
    names: dict[str, list[str]] = collections.defaultdict(list)
    namer = _Namer(weights, nodes)
    for stored, name in sorted(namer.names().items()):
        names[name].append(stored)
    keys = {name: tuple(stored) for name, stored in names.items()}
    is_named = any(stored != (name,) for name, stored in keys.items())
    return VariableNames(keys, is_named, namer.slots)


class _Namer:
    """Names the variables of one file."""

    def __init__(self, weights: Weights, nodes: Mapping[str, Node]) -> None:
        self._weights = weights
        # A config that gives a layer another name is not about these weights.
        self._nodes = {
            place: node
            for place, node in nodes.items()
            if not node.name or weights.layers.get(place, node.name) == node.name
        }
        # Filled by `names`; see `VariableNames`.
        self.slots: dict[str, tuple[str, str]] = {}
        self._keys: dict[str, dict[str, str]] = collections.defaultdict(dict)
        for stored in weights.specs:
            match = _STORED.fullmatch(stored)
            if match:
                self._keys[match["group"] or ""][match["key"]] = stored

    def names(self) -> dict[str, str]:
        """Every stored name -> the name of its variable."""
        names = {stored: stored for stored in self._weights.specs}
        # The optimizer's slots are named after the variables of the model.
        for group in sorted(self._keys, key=_belongs_to_optimizer):
            path = self._path(group)
            if path is None:
                continue
            for key, name in self._names_in(group, names).items():
                stored = self._keys[group][key]
                names[stored] = f"{path}/{name}" if path else name
        return names

    def _names_in(self, group: str, names: Mapping[str, str]) -> dict[str, str]:
        """Keys of a group -> names of the variables, or the keys themselves."""
        keys = self._numbered(group)
        names_in_order: Sequence[str] | None = None
        if _belongs_to_optimizer(group):
            names_in_order = self._slot_names(group, keys, names)
        else:
            variables = self._variables(group)
            if variables is not None:
                names_in_order = [variable.name for variable in variables]
        if names_in_order is None:
            return {key: key for key in self._keys[group]}
        return dict(zip(keys, names_in_order, strict=True))

    def _numbered(self, group: str) -> list[str]:
        """The keys of a group where they are numbers from 0 on; else none."""
        keys = self._keys.get(group, {})
        numbers = [str(number) for number in range(len(keys))]
        return numbers if all(number in keys for number in numbers) else []

    # --- layers -----------------------------------------------------------------------

    def _path(self, group: str) -> str | None:
        """The names of a layer and of those around it; None where it has none."""
        if not group:  # the variables of the model itself
            return "" if self._weights.layers or self._nodes else None
        name = self._name(group)
        if not name:
            return None
        names = [name]
        for outer in _around(group):
            name = self._name(outer)
            if name:
                names.append(name)
            elif outer in self._weights.objects and not self._weights.layers:
                return None
        return "/".join(reversed(names))

    def _name(self, group: str) -> str:
        node = self._nodes.get(group)
        return self._weights.layers.get(group) or (node.name if node else "")

    def _class(self, group: str) -> str:
        """The class of a layer; "" where nothing tells it for certain."""
        node = self._nodes.get(group)
        if node is not None:
            return node.class_name
        outer, _, attribute = group.rpartition("/")
        name = self._weights.layers.get(group, "")
        if outer not in self._weights.objects and outer:  # a list of layers
            numbered = _NUMBERED.fullmatch(attribute)
            return BY_SNAKE_CASE.get(numbered[1] if numbered else "", "")
        layer_class = CLASSES.get(self._class(outer)) if outer else None
        if layer_class is not None and attribute in layer_class.children:
            child = layer_class.children[attribute][0]
            if child:
                return child
        return BY_ATTRIBUTE.get((attribute, name), "")

    def _variables(self, group: str) -> tuple[Variable, ...] | None:
        """The variables of a layer, in the order of their numbers."""
        layer_class = CLASSES.get(self._class(group))
        keys = self._numbered(group)
        if layer_class is None or not keys:
            return None
        stored = [self._weights.specs[self._keys[group][key]] for key in keys]
        specs = [spec for spec in stored if spec is not None]
        if len(specs) < len(keys):
            return None
        node = self._nodes.get(group)
        return layer_class.names(
            node.config if node else None,
            [(len(spec.shape), _is_float(spec)) for spec in specs],
        )

    # --- optimizers -------------------------------------------------------------------

    def _slot_names(
        self, group: str, keys: Sequence[str], names: Mapping[str, str]
    ) -> list[str] | None:
        """The names of an optimizer's variables; None where they are not certain."""
        node = self._nodes.get(group)
        if node is None or node.config is None:
            return None
        first = ["iteration"]
        if not isinstance(node.config.get("learning_rate"), Mapping):  # no schedule
            first.append("learning_rate")
        shapes = [self._shape(self._keys[group][key]) for key in keys]
        if shapes[: len(first)] != [()] * len(first):
            return None
        groups = slot_groups(node.class_name, node.config)
        trained = self._trained_by_optimizer() if groups is not None else None
        if groups is None or trained is None or len(keys) == len(first):
            return [*first, *keys[len(first) :]]
        slots = [
            (stored, slot)
            for together in groups
            for stored in trained
            for slot in together
        ]
        expected: list[str | tuple[str, str]] = [*first, *slots]
        # Nadam keeps a product besides, before the slots or behind them.
        ends = (len(first), len(expected)) if node.class_name == "Nadam" else ()
        more = [[*expected[:at], str(at), *expected[at:]] for at in ends]
        for order in (*more, expected):
            expected_shapes = [
                () if isinstance(k, str) else self._shape(k[0]) for k in order
            ]
            if expected_shapes == shapes:
                return self._note_slots(group, order, names)
        return [*first, *keys[len(first) :]]

    def _note_slots(
        self,
        group: str,
        order: Sequence[str | tuple[str, str]],
        names: Mapping[str, str],
    ) -> list[str]:
        """Notes what an optimizer's slots belong to, and names its variables.

        Args:
            group: Group of the optimizer.
            order: For each number, the name, or stored name of a variable and slot.
            names: Stored names -> names of variables.
        """
        result: list[str] = []
        for number, variable in enumerate(order):
            if isinstance(variable, str):
                result.append(variable)
                continue
            self.slots[self._keys[group][str(number)]] = variable
            stored, slot = variable
            result.append(f"{names[stored].replace('/', '_')}_{slot}")
        return result

    def _shape(self, stored: str) -> tuple[int, ...]:
        spec = self._weights.specs[stored]
        return spec.shape if spec is not None else (-1,)

    def _trained_by_optimizer(self) -> list[str] | None:
        """Stored names of what the optimizer trains, in its order."""
        visited: set[str] = set()
        trained = list(self._trained("", visited))
        left = {
            group
            for group in self._keys
            if group not in visited and not _belongs_to_optimizer(group)
        }
        if None in trained or left:
            return None
        return [stored for stored in trained if stored]

    def _trained(
        self, place: str, visited: set[str], *, is_frozen: bool = False
    ) -> Iterator[str | None]:
        """Stored names below a place that are trained; None where that is unknown.

        In the order in which Keras makes slots: a layer's own variables, then those of
        the layers in it. One unknown layer makes the order of all slots unknown, since
        only their number and their shapes are stored.
        """
        node = self._nodes.get(place)
        # A layer that is used twice is trained once.
        if place in visited:
            return
        visited.add(place)
        is_frozen = is_frozen or (
            node is not None
            and node.config is not None
            and node.config.get("trainable") is False
        )
        if place in self._keys:
            variables = self._variables(place)
            if variables is None:
                yield None
                return
            for key, variable in zip(self._numbered(place), variables, strict=True):
                if variable.is_trained and not is_frozen:
                    yield self._keys[place][key]
        # The variables above still come first, whatever the order of the children.
        if node is not None and not _is_order_known(place, node):
            yield None
            return
        for child in node.children if node else ():
            yield from self._trained(child, visited, is_frozen=is_frozen)


def _is_order_known(place: str, node: Node) -> bool:
    """Tells whether a layer tracks the layers in it in the order of its children.

    A user's class has attributes in any order, and its config another: of those, one
    alone has an order, or one list.
    """
    containers = {child.rpartition("/")[0] for child in node.children}
    is_list = len(containers) == 1 and place not in containers
    return is_list or len(node.children) < 2 or node.class_name in CLASSES


def _around(group: str) -> Iterator[str]:
    """The places around a group, the nearest first."""
    while "/" in group:
        group = group.rpartition("/")[0]
        yield group


def _belongs_to_optimizer(group: str) -> bool:
    return group == OPTIMIZER or group.startswith(f"{OPTIMIZER}/")


def _is_float(spec: TensorSpec) -> bool:
    return "float" in spec.dtype.name and "float8" not in spec.dtype.name
