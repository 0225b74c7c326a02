"""Roles of tensors in a training: variables, slots, averages, counters.

A checkpoint stores names, shapes and bytes, and not what an optimizer made of them; so
roles follow from names and shapes, as TensorFlow's optimizers give them. What knows
more (the object graph of TF2, the config of Keras) has `Roles` of its own. All else
asks `Manifest.roles()`: views, `ls --no-slots`, `convert`, reports, stale copies.

A slot, or an average, belongs to a tensor that the checkpoint holds, and its shape
fits. `x/Adam` without an `x`, and a layer called `Momentum`, are variables. Where a
scope may be that of an optimizer or a layer, `role_evidence` tells which.

Source: tensorflow/python/training/slot_creator.py, moving_averages.py, optimizer.py;
tensorflow/python/keras/optimizer_v2/optimizer_v2.py; google-research/bert
optimization.py; mesh_tensorflow/optimize.py.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Collection, Iterator
from typing import Final, Literal, NamedTuple

from .keras_slots import flatten_names, read_slot_name
from .role_evidence import RoleEvidence
from .role_patterns import (
    AVERAGES,
    COUNTER,
    FACTORED,
    FLAT_SLOT,
    ITERATIONS,
    METRIC,
    NUMBERED,
    OPTIMIZER_LIST,
    PARTITION,
    POWER,
    SEED,
    SETTING,
    SLOT,
    SLOT_MARKER,
    SLOT_SUFFIX,
    VARIABLE_SUFFIX,
)

Kind = Literal["variable", "slot", "average", "optimizer", "counter", "metric", "seed"]
# Shape of a tensor by its name; None where it is not known.
ShapeOf = Callable[[str], tuple[int, ...] | None]


class Role(NamedTuple):
    """What a tensor is to a training.

    Attributes:
        kind: "variable", and whatever else is stored; "slot"; "average"; "optimizer",
            what an optimizer keeps for all variables (powers of betas, settings);
            "counter", of steps; "metric", what is measured; "seed", of a generator of
            random numbers.
        variable: Name of the tensor that a slot or an average belongs to; None where it
            cannot be told.
        name: What it is called below its variable, or its optimizer: `Adam_1`,
            `ExponentialMovingAverage`, `beta1_power`. "" for variables.
        scope: Scope of the optimizer, without a `/` at its end: `training/Adam`.
    """

    kind: Kind
    variable: str | None = None
    name: str = ""
    scope: str = ""


VARIABLE: Final = Role("variable")


class Roles(abc.ABC):
    """Roles of the tensors of a checkpoint, found when they are asked for."""

    @abc.abstractmethod
    def of(self, name: str) -> Role:
        """The role of a tensor.

        Args:
            name: One of the checkpoint's names.
        """

    @abc.abstractmethod
    def average(self, name: str, average: str) -> Role:
        """The role of a tensor where averages have a certain name.

        Args:
            name: One of the checkpoint's names.
            average: Last component of names of averages.

        Returns:
            A role of kind "average", or `VARIABLE` for everything else.
        """

    def stands_for_slot(self, name: str) -> bool:
        """True for a name of a variable under which a view shows its slot."""
        del name
        return False

    def is_of_training(self, name: str) -> bool:
        """True for slots, averages, and what else optimizers keep; counters stay."""
        return self.of(name).kind in ("slot", "average", "optimizer")

    def counts_steps(self, name: str) -> bool:
        """True for what advances with every step, for all variables at once."""
        role = self.of(name)
        if role.kind == "slot":
            return role.variable is None
        if role.kind == "optimizer":
            return not SETTING.fullmatch(role.name)
        return role.kind == "counter" and not role.name.startswith("save_counter")

    def lineage(self, name: str) -> Iterator[str]:
        """Yields what a tensor belongs to: its variable, and that one's where it has.

        Args:
            name: A name; an average may have slots itself, to undo its bias.
        """
        seen = {name}
        variable = self.of(name).variable
        while variable is not None and variable not in seen:
            seen.add(variable)
            yield variable
            variable = self.of(variable).variable


class NamedRoles(Roles):
    """Roles that follow from names and shapes alone."""

    def __init__(self, names: Collection[str], shape_of: ShapeOf) -> None:
        """Takes names; looks at none of them yet.

        Args:
            names: All names of the checkpoint.
            shape_of: Shapes; asked for only where a name could be that of a slot.
        """
        self._names = names
        # Several slots have one variable, whose entry is decoded once.
        self._shape_of = functools.cache(shape_of)
        self._roles: dict[str, Role] = {}
        self._splits: dict[tuple[str, str], tuple[str, str] | None] = {}

    def of(self, name: str) -> Role:
        """The role of a tensor; see `Roles`."""
        role = self._roles.get(name)
        if role is None:
            role = self._roles[name] = self._find(name)
        return role

    def average(self, name: str, average: str) -> Role:
        """The role of a tensor where averages have a certain name; see `Roles`."""
        role = self.of(name)
        if role.kind == "average":
            return role if role.name == average else VARIABLE
        if role.kind == "variable" and name.endswith(f"/{average}"):
            scope = name[: -len(average) - 1]
            role = self._child("average", name, scope, average)
            return role if role and role.variable else VARIABLE
        return VARIABLE

    def _find(self, name: str) -> Role:
        if SLOT_MARKER in name:
            return self._marked(name)
        plain = name.removesuffix(VARIABLE_SUFFIX)
        scope, _, last = plain.rpartition("/")
        if plain == name and (role := self._belonging(name, scope, last)) is not None:
            return role
        return (
            self._of_optimizer(name, plain, scope, last)
            or _beside_weights(plain, last)
            or VARIABLE
        )

    def _belonging(self, name: str, scope: str, last: str) -> Role | None:
        """The role of what belongs to one variable; None for all else."""
        suffixed = SLOT_SUFFIX.fullmatch(name) if "_slot_" in last else None
        if suffixed and suffixed["variable"] in self._names:
            variable, slot = suffixed["variable"], suffixed["slot"]
            if self._fits(name, variable, slot):
                return Role("slot", variable, slot)
        kind = _kind_of_child(last)
        if kind is None:
            return None
        role = self._child(kind, name, scope, last)
        if role and kind == "slot" and self._evidence.is_variable(name, last):
            return VARIABLE
        if role is None and self._is_cut_off(name, scope, last):
            role = Role(kind, None, last)
        return role

    def _child(self, kind: Kind, name: str, scope: str, last: str) -> Role | None:
        """The role of what may be a child of a variable's name.

        An optimizer in a scope repeats the name of the variable below it:
        `training/dense/kernel/Adam` belongs to `dense/kernel`. The longest name wins.
        Where nothing tells the scope from a layer, the role has no variable.
        """
        split = self._split(name, scope, last)
        if split is None:
            return None
        prefix, variable = split
        if prefix and not self._evidence.repeats_names(prefix, last):
            return Role(kind, None, last)
        return Role(kind, variable, last, prefix)

    def _split(self, name: str, scope: str, last: str) -> tuple[str, str] | None:
        """Takes a scope apart: that of an optimizer, and the longest variable in it."""
        # Asked for again by `_evidence`, for all names.
        key = name, last
        if key not in self._splits:
            self._splits[key] = self._find_split(name, scope, last)
        return self._splits[key]

    def _find_split(self, name: str, scope: str, last: str) -> tuple[str, str] | None:
        start = 0
        while start <= len(scope):
            variable = scope[start:]
            if variable in self._names and self._fits(name, variable, last):
                return scope[: max(start - 1, 0)], variable
            slash = scope.find("/", start)
            if slash < 0:
                return None
            start = slash + 1
        return None

    @functools.cached_property
    def _evidence(self) -> RoleEvidence:
        """What lies around a name; looked up only where the name alone may mislead."""

        def find_variable(name: str) -> tuple[str, str] | None:
            scope, _, last = name.rpartition("/")
            return self._split(name, scope, last)

        return RoleEvidence(self._names, self._shape_of, find_variable)

    def _fits(self, name: str, variable: str, last: str) -> bool:
        """Tells whether a shape can be that of a slot of a variable."""
        shape = self._shape_of(name)
        if shape is None:
            return True
        if last == "local_step":
            return shape == ()
        of_variable = self._shape_of(variable)
        if of_variable is None or shape == of_variable:
            return True
        return (
            FACTORED.fullmatch(last) is not None
            and len(shape) == len(of_variable) - 1 >= 1
            and any(
                shape == of_variable[:axis] + of_variable[axis + 1 :]
                for axis in range(len(of_variable))
            )
        )

    def _is_cut_off(self, name: str, scope: str, last: str) -> bool:
        """True for a slot of a partition whose name the writer has cut.

        TensorFlow takes a slot's own name for what follows the name of its partition,
        also where the scope of the optimizer stands before it:

            partition `a/b/part_0`, slot `train/a/b/part_0/Adam`    (12 letters are cut)
            stored as `a/b`         +   `/` + `b/part_0/Adam`

        So a part of the scope or of the variable is left between both. What it belongs
        to cannot be told for certain, and is not.

        Source: `_create_slot_var`, tensorflow/python/training/slot_creator.py.
        """
        end = scope.find("/")
        while end >= 0:
            variable, left = scope[:end], scope[end + 1 :]
            if variable in self._names and self._fits(name, variable, last):
                number = PARTITION.search(left)
                whole = f"/{variable}/part_{number[0] if number else ''}"
                if number and (whole.endswith(left) or left.endswith(whole)):
                    return True
            end = scope.find("/", end + 1)
        return False

    def _of_optimizer(
        self, name: str, plain: str, scope: str, last: str
    ) -> Role | None:
        """The role of what belongs to no variable, or nobody knows to which."""
        is_scalar = self._has_rank_0
        if (
            _kind_alone(last) is None
            and "training" not in plain
            and ("optimizer" not in plain and "/_variables/" not in plain)
        ):
            return None  # as nearly always: the patterns below take time
        if COUNTER.fullmatch(last) and is_scalar(name):
            return Role("counter", name=last)
        if POWER.fullmatch(last) and is_scalar(name):
            return Role("optimizer", name=last)
        if NUMBERED.fullmatch(plain) or is_of_optimizer_list(name, self._names):
            kind: Kind = "optimizer" if is_scalar(name, default=False) else "slot"
            return Role(kind, None, last)
        if (
            SETTING.fullmatch(last)
            and scope
            and is_scalar(name)
            and self._is_optimizer(scope, name)
        ):
            return Role("optimizer", name=last)
        if FLAT_SLOT.fullmatch(last) and self._has_counter(scope):
            return self._joined(name, scope, last) or Role("slot", None, last)
        if SLOT.fullmatch(last) and self._is_below_counter(scope):
            return Role("slot", None, last)
        return None

    def _joined(self, name: str, scope: str, last: str) -> Role | None:
        """The role of a slot of Keras 3, whose name has that of its variable in it."""
        shape = self._shape_of(name)
        reading = read_slot_name(
            last, {}, self._flat, lambda variable: self._shape_of(variable) == shape
        )
        return None if reading is None else Role("slot", *reading, scope)

    @functools.cached_property
    def _flat(self) -> dict[str, str]:
        return flatten_names({name: name for name in self._names})

    def _marked(self, name: str) -> Role:
        """The role of a slot of TF2, whose key says what it belongs to."""
        path, _, slot = name.partition(SLOT_MARKER)
        optimizer, _, last = slot.removesuffix(VARIABLE_SUFFIX).rpartition("/")
        keys = (f"{path}{VARIABLE_SUFFIX}", path)
        variable = next((key for key in keys if key in self._names), None)
        return Role("slot", variable, last.replace("..", "."), optimizer)

    def _has_rank_0(self, name: str, *, default: bool = True) -> bool:
        shape = self._shape_of(name)
        return default if shape is None else shape == ()

    def _is_optimizer(self, scope: str, name: str) -> bool:
        """True for a scope that holds an optimizer's counter, or slots."""
        suffix = VARIABLE_SUFFIX if name.endswith(VARIABLE_SUFFIX) else ""
        return self._has_counter(scope, suffix) or scope in self._scopes

    def _has_counter(self, scope: str, suffix: str = "") -> bool:
        counters = (f"{scope}/{counter}{suffix}" for counter in ITERATIONS)
        return any(c in self._names and self._has_rank_0(c) for c in counters)

    def _is_below_counter(self, scope: str) -> bool:
        """True below a scope that holds an optimizer's counter."""
        end = len(scope)
        while end > 0:
            if self._has_counter(scope[:end]):
                return True
            end = scope.rfind("/", 0, end)
        return False

    @functools.cached_property
    def _scopes(self) -> frozenset[str]:
        """Scopes of optimizers that have slots."""
        scopes: set[str] = set()
        for name in self._names:
            scope, _, last = name.rpartition("/")
            if SLOT_MARKER in name:
                scopes.add(self._marked(name).scope)
            elif _kind_of_child(last) == "slot":
                role = self._child("slot", name, scope, last)
                scopes.update({role.scope} if role else ())
        return frozenset(scopes)


# There are many names, and few last components.
@functools.lru_cache(maxsize=1024)
def _kind_of_child(last: str) -> Kind | None:
    """What a child of a variable would be, by the last component of its name."""
    if AVERAGES.fullmatch(last):
        return "average"
    return "slot" if SLOT.fullmatch(last) else None


@functools.lru_cache(maxsize=1024)
def _kind_alone(last: str) -> Kind | None:
    """What a tensor that belongs to no variable could be, by the same."""
    if COUNTER.fullmatch(last):
        return "counter"
    if POWER.fullmatch(last) or SETTING.fullmatch(last):
        return "optimizer"
    return "slot" if SLOT.fullmatch(last) or FLAT_SLOT.fullmatch(last) else None


def _beside_weights(plain: str, last: str) -> Role | None:
    """The role of what Keras keeps beside weights; None for all else."""
    # Words first, as nearly no name has them: patterns take time.
    if "metrics/" in plain and METRIC.fullmatch(plain):
        return Role("metric", name=last)
    if "seed_generator" in plain and SEED.fullmatch(plain):
        return Role("seed", name=last)
    return None


def is_of_optimizer_list(name: str, names: Collection[str]) -> bool:
    """True if a tensor is in the list of variables of a Keras 3 optimizer.

    Metrics have such a list, too, but count no iterations.
    """
    match = OPTIMIZER_LIST.fullmatch(name)
    return match is not None and (
        f"{match['optimizer']}_iterations{VARIABLE_SUFFIX}" in names
    )
