"""Fields of an optimizer's state -> entries of a map: which slot fills which leaf.

Each leaf of a field belongs to a parameter, by its name. What fills the parameter says
what fills the leaf: the same expression, with slots in place of tensors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

import numpy as np

from tf2flax._assignment.language.captures import literal_pattern
from tf2flax._assignment.language.expressions import Expression, Source
from tf2flax._assignment.language.slot_expressions import (
    SlotOf,
    axes_of,
    slot_expression,
)
from tf2flax._assignment.language.writing import write_expression
from tf2flax._assignment.resolution.assignments import Assignment, Leaf
from tf2flax._base import moments
from tf2flax._base.errors import AssignmentError
from tf2flax._base.text import list_names
from tf2flax._checkpoint.factored_slots import FactoredSlots, find_factored
from tf2flax._checkpoint.moment_slots import MomentSlots

from .optimizer_states import Field
from .restore import Job
from .targets import Target

# Gives the slots of Adafactor of a tensor.
FactoredOf = Callable[[str], FactoredSlots]
# Where the parameters may lie in the target of their plan.
_COLLECTIONS: Final = ("", "params/")
# What to do where optax and TensorFlow do not factor the same parameters.
_FACTORING: Final = (
    "give optax.adafactor the min_dim_size_to_factor= of the training, or "
    "factored=False"
)
# Moments of which the slots differ from variable to variable.
_OF_ADAFACTOR: Final = frozenset(
    (
        moments.ROWS,
        moments.COLUMNS,
        moments.UNFACTORED,
        moments.FACTORED_MOMENTUM,
    )
)


class StateEntry(NamedTuple):
    """What fills a leaf of the state, or the parts of a partitioned one.

    Attributes:
        expression: The source, with names of slots.
        target: Name of the leaf, or of the family of parts.
        parameters: Leaves of the state -> leaves of the parameters.
        field: The field of the state.
        slot: The slot, for reports.
        lacking: Axis of the parameter that the leaf lacks; None unless it is factored.
    """

    expression: Expression
    target: str
    parameters: Mapping[str, str]
    field: Field
    slot: str
    lacking: int | None = None


class _Pair(NamedTuple):
    """A leaf of the state, and the parameter that it belongs to.

    Attributes:
        leaf: The leaf of the state.
        parameter: The parameter.
        assignment: What fills the parameter; None where the plan keeps it.
        below: The name of the leaf within its field; begins with `/` unless it is "".
    """

    leaf: Leaf
    parameter: Leaf
    assignment: Assignment | None
    below: str


@dataclasses.dataclass(frozen=True, slots=True)
class SlotChoices:
    """What the caller says about slots, checked.

    Attributes:
        slots: Fields -> slots that they are filled from; None keeps a field.
        negate: Whether traces change their sign; None goes by the optimizer.
    """

    slots: Mapping[str, str | None]
    negate: bool | None

    def key_of(self, field: Field) -> str | None:
        """The key by which a field is chosen; None where it is not."""
        return next(
            (key for key in (field.path, field.name) if key in self.slots), None
        )


class FieldPlanner:
    """Makes the entries that fill fields; collects what does not fit.

    Attributes:
        problems: Why leaves cannot be filled.
    """

    def __init__(
        self, job: Job, target: Target, slots: MomentSlots, choices: SlotChoices
    ) -> None:
        """Takes all that decides.

        Args:
            job: That of the parameters.
            target: The state, taken apart.
            slots: Slots of the checkpoint.
            choices: What the caller says.
        """
        self.problems: list[str] = []
        self._slots = slots
        self._choices = choices
        self._keeps = job.options.on_missing.keeps
        self._state = {leaf.name: leaf for leaf in target.leaves}
        self._parameters = {
            name: leaf for leaf in job.target.leaves for name in leaf.names
        }
        self._assignments = {a.leaf: a for a in job.plan.assignments}

    def entries(self, field: Field) -> list[StateEntry]:
        """What fills a field.

        Args:
            field: The field.

        Returns:
            The entries; none for a field that keeps what it holds.
        """
        key = self._choices.key_of(field)
        if key is not None and self._choices.slots[key] is None:
            return []
        pairs = self._pairs(field)
        if key is None and field.moment is None:
            if pairs and not field.is_known:
                self.problems.append(_describe_unknown(field))
            return []
        if pairs is None:
            self.problems.append(
                f"`{field.path}` of the state does not have the structure of the "
                "parameters of the plan, or of their collection `params`. Make the "
                "state of the same tree: tx.init(params)."
            )
            return []
        if field.moment in _OF_ADAFACTOR and key is None:
            return self._of_adafactor(field, pairs)
        return self._of_slot(field, pairs, key)

    def _pairs(self, field: Field) -> list[_Pair] | None:
        """The leaves of a field with their parameters; None where these differ."""
        inside = f"{field.path}/"
        leaves = [
            leaf
            for name, leaf in self._state.items()
            if name == field.path or name.startswith(inside)
        ]
        below = [leaf.name[len(field.path) :] for leaf in leaves]
        for collection in _COLLECTIONS:
            names = [collection + name.removeprefix("/") for name in below]
            parameters = [self._parameters[n] for n in names if n in self._parameters]
            if len(parameters) < len(leaves):
                continue
            pairs = [
                _Pair(leaf, parameter, self._assignments.get(parameter.name), name)
                for leaf, parameter, name in zip(leaves, parameters, below, strict=True)
            ]
            # A state that nobody knows may have names in common by chance.
            return (
                pairs if field.is_known or all(map(_has_equal_shape, pairs)) else None
            )
        return None

    def _of_slot(
        self, field: Field, pairs: list[_Pair], key: str | None
    ) -> list[StateEntry]:
        """Entries of a field of which all leaves have slots of one name."""
        loaded = [pair for pair in pairs if pair.assignment is not None]
        if not loaded:
            return []
        variables = {name for pair in loaded for name in _sources(pair)}
        label = None if key is None else self._choices.slots[key]
        try:
            if label is None:
                assert field.moment is not None  # else it would have a key
                label = self._slots.choose(field.path, field.moment, variables)
            else:
                self._slots.sources(label)
                self._slots.use(label)
            is_negated = self._is_negated(field, label)
        except AssignmentError as error:
            self.problems.append(str(error))
            return []
        chosen = label

        def slot_of(name: str) -> str:
            slot = self._slots.slot_of(chosen, name)
            if slot is None:
                raise _NoSlotError(f"`{name}` has no slot `{chosen}`")
            return slot

        return [
            entry._replace(expression=-entry.expression if is_negated else entry[0])
            for entry in self._moved(field, loaded, slot_of, label)
        ]

    def _is_negated(self, field: Field, label: str) -> bool:
        """True where optax keeps minus what TensorFlow keeps."""
        if field.state != "TraceState":
            return False
        if self._choices.negate is not None:
            return self._choices.negate
        if field.moment is moments.RMS_MOMENTUM:
            return True
        last = label.rpartition("/")[2]
        if last == "momentum" and self._slots.counts_iterations:
            raise AssignmentError(
                f"`{field.path}`: the SGD of Keras keeps in `{label}` minus the "
                "learning rate times what optax.sgd keeps. Use optax.chain("
                "optax.scale_by_learning_rate(rate), optax.trace(decay)), and give "
                "negate=False."
            )
        return False

    def _moved(
        self,
        field: Field,
        pairs: Iterable[_Pair],
        slot_of: SlotOf,
        slot: str,
    ) -> Iterator[StateEntry]:
        """Entries with the expressions of parameters, each part of a family once."""
        seen: dict[tuple[Expression, str], dict[str, str]] = {}
        for pair in pairs:
            assignment = pair.assignment
            assert assignment is not None  # only those that are loaded
            if not _has_equal_shape(pair):
                self.problems.append(_describe_shape(pair))
                continue
            target = pair.leaf.name
            if assignment.box is not None:
                target = target.rpartition("/part_")[0]
            key = assignment.expression, target
            if key in seen:  # another part of the same variable
                seen[key][pair.leaf.name] = pair.parameter.name
                continue
            expression = self._expression(pair, assignment.expression, slot_of)
            if expression is not None:
                seen[key] = {pair.leaf.name: pair.parameter.name}
                yield StateEntry(expression, target, seen[key], field, slot)

    def _expression(
        self, pair: _Pair, expression: Expression, slot_of: SlotOf
    ) -> Expression | None:
        """What fills a leaf of the state; None where it is kept, or a problem."""
        try:
            return slot_expression(expression, slot_of)
        except _NoSlotError as error:
            if not self._keeps(pair.parameter.name):
                self.problems.append(
                    f"`{pair.leaf.name}`: {error}. Leave the parameter out of the "
                    "optimizer (optax.masked), or keep it: "
                    f'on_missing=[("^{pair.parameter.name}$", "keep")] of the plan.'
                )
        except AssignmentError as error:
            self.problems.append(_describe_refused(pair, expression, str(error)))
        return None

    def _of_adafactor(self, field: Field, pairs: list[_Pair]) -> list[StateEntry]:
        """Entries of a field of Adafactor, whose slots follow from shapes."""
        entries: list[StateEntry] = []
        for pair in pairs:
            if pair.assignment is None:
                continue
            is_factored = self._is_factored(field, pair)
            if field.moment in (moments.ROWS, moments.COLUMNS):
                entry = self._factor(field, pair) if is_factored else None
                entries += [] if entry is None else [entry]
            elif not is_factored or field.moment is moments.FACTORED_MOMENTUM:
                slot_of = _WholeSlots(self._factored, field).slot_of
                entries += self._moved(field, [pair], slot_of, field.name)
        return entries

    def _is_factored(self, field: Field, pair: _Pair) -> bool:
        """True if optax has rows and columns in place of the whole second moment."""
        whole = f"{field.path.rpartition('/')[0]}/v{pair.below}".removeprefix("/")
        leaf = self._state.get(whole)
        return leaf is not None and leaf.shape != pair.parameter.shape

    def _factored(self, name: str) -> FactoredSlots:
        slots = self._slots
        shape = slots.manifest.spec(name).shape
        return find_factored(slots.of_variable(name), shape, slots.manifest.shape_of)

    def _factor(self, field: Field, pair: _Pair) -> StateEntry | None:
        """What fills rows, or columns: a slot, perhaps with its axes in another order.

        Optax leaves the longest axis out of rows, the second longest out of columns.
        """
        assignment = pair.assignment
        assert assignment is not None  # only those that are loaded
        shape = pair.parameter.shape
        expression = assignment.expression
        # Through a transpose, axis i of the leaf is axis `axes[i]` of the tensor.
        axes = axes_of(expression, len(shape))
        if axes is None or assignment.box is not None:
            self.problems.append(
                _describe_refused(pair, expression, "more than a transpose (factored)")
            )
            return None
        # As optax does it, so that it is the same where axes are equally long.
        longest = [int(axis) for axis in np.argsort(shape)[-2:]]
        lacking = longest[1] if field.moment is moments.ROWS else longest[0]
        name = assignment.sources[0]
        slot = self._factored(name).lacking.get(axes[lacking])
        if slot is None:
            self.problems.append(
                f"`{pair.leaf.name}`: `{name}` has no slot that lacks its axis "
                f"{axes[lacking]}, as optax factors it: {_FACTORING}."
            )
            return None
        kept = [axis for i, axis in enumerate(axes) if i != lacking]
        source: Expression = Source(literal_pattern(slot))
        if kept != sorted(kept):
            source = source.transpose(*(sorted(kept).index(axis) for axis in kept))
        parameters = {pair.leaf.name: pair.parameter.name}
        return StateEntry(
            source, pair.leaf.name, parameters, field, field.name, lacking
        )


class _WholeSlots:
    """Slots of Adafactor that have the shape of their variable."""

    def __init__(self, factored: FactoredOf, field: Field) -> None:
        self._factored = factored
        self._is_momentum = field.moment is moments.FACTORED_MOMENTUM

    def slot_of(self, name: str) -> str:
        """The slot of a tensor.

        Raises:
            _NoSlotError: It has none.
        """
        factored = self._factored(name)
        slot = factored.momentum if self._is_momentum else factored.whole
        if slot is None:
            fact = "momentum" if self._is_momentum else "second moment of its shape"
            hint = f" (it is factored: {_FACTORING})" if factored.lacking else ""
            raise _NoSlotError(f"`{name}` has no slot that is its {fact}{hint}")
        return slot


class _NoSlotError(Exception):
    """A tensor has no slot of some name."""


def _has_equal_shape(pair: _Pair) -> bool:
    return pair.leaf.shape == pair.parameter.shape


def _sources(pair: _Pair) -> tuple[str, ...]:
    return () if pair.assignment is None else pair.assignment.sources


def _describe_refused(pair: _Pair, expression: Expression, problem: str) -> str:
    return (
        f"`{pair.leaf.name}`: slots do not go through {problem}, and the parameter "
        f"`{pair.parameter.name}` is `{write_expression(expression)}`. Keep that part "
        "of the state: split it off by optax.masked or optax.partition."
    )


def _describe_shape(pair: _Pair) -> str:
    return (
        f"`{pair.leaf.name}` has shape {list(pair.leaf.shape)}, and the parameter "
        f"`{pair.parameter.name}` {list(pair.parameter.shape)}. Make the state of the "
        "same parameters: tx.init(params)."
    )


def _describe_unknown(field: Field) -> str:
    return (
        f"`{field.path}` has the structure of the parameters, and which slot it is of "
        f"a {field.state} is not known. Give "
        f'slots={{"{field.name}": "..."}}, or slots={{"{field.name}": None}} to keep '
        "what it holds."
    )


def check_keys(choices: SlotChoices, fields: Iterable[Field]) -> None:
    """Checks that each key of `slots` is a field of the state.

    Raises:
        AssignmentError: One is not.
    """
    present = {name for field in fields for name in (field.name, field.path)}
    if unknown := [key for key in choices.slots if key not in present]:
        raise AssignmentError(
            f"slots: the state has no {list_names(unknown)}. It has "
            f"{list_names(sorted(present), 20)}."
        )
