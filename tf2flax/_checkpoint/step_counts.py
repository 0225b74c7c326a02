"""How many steps an optimizer has done, by what a checkpoint holds; and the way back.

    beta2_power   multiplied up in float32: says it for Adam, until it has run out
    iter          the counter of Keras and TF2
    global_step   of the training

The first that is there counts. Reads these scalars, and no other tensor.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Final

import numpy as np

from tf2flax._base.caller import show_value
from tf2flax._base.errors import AssignmentError, TensorNotFoundError
from tf2flax._base.manifest import Manifest
from tf2flax._base.powers import has_run_out, power_after, steps_of
from tf2flax._base.role_patterns import ITERATIONS, VARIABLE_SUFFIX
from tf2flax._base.text import counted
from tf2flax._reading.whole import read_entry

_NUMBER: Final = re.compile(r"_\d+$")
_WAY_OUT: Final = (
    'Give the tensor that is meant, count="...", or the number of steps, count=1000.'
)


@dataclasses.dataclass(frozen=True, slots=True)
class Counter:
    """A scalar of the checkpoint that follows from the number of steps.

    Attributes:
        name: Its name.
        value: What is stored.
        beta: The beta of which it is a power; None for a counter.
    """

    name: str
    value: np.ndarray
    beta: float | None = None

    def after(self, steps: int, before: int) -> np.ndarray:
        """What it is after other steps than those that it was stored after.

        Args:
            steps: Number of steps.
            before: Number of steps when it was stored.
        """
        if steps == before:
            return self.value
        if self.beta is None:
            return np.asarray(self.value + (steps - before), self.value.dtype)
        return np.asarray(power_after(self.beta, steps), self.value.dtype)


@dataclasses.dataclass(frozen=True, slots=True)
class StepCount:
    """The number of steps, and where it is from.

    Attributes:
        steps: The number.
        source: Name of the tensor that says it; "" if the caller does.
        counters: All scalars that are written back with it.
    """

    steps: int
    source: str
    counters: tuple[Counter, ...]

    def __str__(self) -> str:
        """The count and its source, as plans show it."""
        source = f"from {self.source}" if self.source else "as given"
        return f"count {self.steps} {source}"


@dataclasses.dataclass(frozen=True, slots=True)
class CountQuestion:
    """Whose steps are asked for.

    Attributes:
        betas: Those of the optimizer.
        prefix: What the names of its scalars begin with; None for any.
        scopes: Scopes of its slots.
        count: What the caller says: the number, or the tensor that says it; None takes
            the only candidate.
    """

    betas: tuple[float, float]
    prefix: str | None
    scopes: Collection[str]
    count: int | str | None


class _Scalars:
    """The scalars of a checkpoint that say how many steps were done."""

    def __init__(self, manifest: Manifest, question: CountQuestion) -> None:
        """Sorts them.

        Args:
            manifest: The checkpoint.
            question: Whose steps are asked for.
        """
        self._manifest = manifest
        self._betas = question.betas
        self._prefix = question.prefix
        self._scopes = question.scopes
        self._roles = manifest.roles()
        roles = {name: self._roles.of(name) for name in manifest.names}
        counters = {n: _bare(r.name) for n, r in roles.items() if r.kind == "counter"}
        self.powers = self._narrowed(filter(self.is_power, manifest.names))
        self.iterations = self._narrowed(
            name for name, counter in counters.items() if counter in ITERATIONS
        )
        self.global_steps = self._narrowed(
            (n for n, counter in counters.items() if counter == "global_step"),
            is_shared=True,
        )

    def _narrowed(self, names: Iterable[str], *, is_shared: bool = False) -> list[str]:
        """Those of the optimizer that is meant, as far as scopes tell."""
        candidates = sorted(names)
        scopes = set(self._scopes)
        if self._prefix is not None:
            prefix = self._prefix
            scopes = {prefix.rstrip("/")}
            below = [name for name in candidates if name.startswith(prefix)]
            # A training has one `global_step`, whatever optimizers it has.
            candidates = below if below or not is_shared else candidates
        of_scopes = [name for name in candidates if _scope_of(name) in scopes]
        return of_scopes if "" not in scopes and of_scopes else candidates

    def read(self, name: str) -> np.ndarray:
        """Reads a scalar.

        Raises:
            AssignmentError: It is not one.
        """
        value = read_entry(self._manifest.entry(name))
        if value.shape != () or value.dtype.kind not in "iuf":
            raise AssignmentError(
                f"count: `{name}` is {value.dtype} of shape {list(value.shape)}, and "
                f"not a number. {_WAY_OUT}"
            )
        return value

    def is_power(self, name: str) -> bool:
        """True for a power of beta2."""
        role = self._roles.of(name)
        return role.kind == "optimizer" and role.name.startswith("beta2_power")

    def count_of(self, name: str) -> int | None:
        """The number of steps that a tensor says; None for a power that has run out."""
        value = self.read(name)
        if not self.is_power(name):
            return int(value)
        power = float(value)
        if has_run_out(power):
            return None
        beta1, beta2 = self._betas
        steps = steps_of(power, beta2)
        if steps is None:
            raise AssignmentError(
                f"`{name}` is {power!r}, which is not a power of beta2 = {beta2}, "
                "multiplied up in float32. Give betas=(beta1, beta2) of the optimizer, "
                "or count=."
            )
        partner = self.partner(name)
        if partner is None:
            return steps
        other_power = float(self.read(partner))
        expected = float(power_after(beta1, steps))
        if other_power == expected or (has_run_out(other_power) and expected < 1e-30):
            return steps
        raise AssignmentError(
            f"`{name}` says that {counted(steps, 'step')} were done, and `{partner}` "
            f"is {other_power!r} where beta1 = {beta1} gives {expected!r}. Give "
            "betas=(beta1, beta2) of the optimizer, or count=."
        )

    def partner(self, name: str) -> str | None:
        """The power of beta1 beside that of beta2."""
        head, _, tail = name.rpartition("beta2_power")
        partner = f"{head}beta1_power{tail}"
        return partner if partner in self._manifest else None

    def counters(self, source: str) -> tuple[Counter, ...]:
        """What is written back: the source of the count, and what goes with it."""
        names = [source] if source else []
        for group in (self.powers, self.iterations, self.global_steps):
            # Of several, nobody knows which ones belong to the optimizer.
            if len(group) == 1 and group[0] not in names:
                names.append(group[0])
        if source and self.is_power(source):
            names = [n for n in names if n == source or not self.is_power(n)]
        counters: list[Counter] = []
        beta1, beta2 = self._betas
        for name in names:
            is_power = self.is_power(name)
            counters.append(Counter(name, self.read(name), beta2 if is_power else None))
            if is_power and (partner := self.partner(name)):
                counters.append(Counter(partner, self.read(partner), beta1))
        return tuple(counters)


def find_count(manifest: Manifest, question: CountQuestion) -> StepCount:
    """Finds how many steps an optimizer has done.

    Args:
        manifest: The checkpoint.
        question: Whose steps are asked for.

    Returns:
        The number, where it is from, and what is written back with it.

    Raises:
        AssignmentError: There are several candidates, or none; or a power is not one of
            the betas.
        TensorNotFoundError: The tensor that the caller names is not there.
    """
    scalars, count = _Scalars(manifest, question), question.count
    if isinstance(count, int):
        return StepCount(count, "", scalars.counters(""))
    if count is not None:
        if count not in manifest:
            raise TensorNotFoundError(count, manifest.index_path)
        steps = scalars.count_of(count)
        if steps is None:
            raise AssignmentError(
                f"count: `{count}` has run out: it is {float(scalars.read(count))}, "
                f"after any number of steps. {_WAY_OUT}"
            )
        return StepCount(steps, count, scalars.counters(count))
    run_out = ""
    for group in (scalars.powers, scalars.iterations, scalars.global_steps):
        if len(group) > 1:
            raise _several(manifest, scalars, group)
        for name in group:
            steps = scalars.count_of(name)
            if steps is not None:
                return StepCount(steps, name, scalars.counters(name))
            run_out = f"`{name}` has run out, and "
    raise AssignmentError(
        f"The state of the optimizer counts steps: {run_out}no tensor says how many "
        f"were done - in `{manifest.index_path}`. {_WAY_OUT}"
    )


def _several(
    manifest: Manifest, scalars: _Scalars, names: Sequence[str]
) -> AssignmentError:
    listed: list[str] = []
    for name in names[:20]:
        try:
            steps = scalars.count_of(name)
            text = "run out" if steps is None else counted(steps, "step")
        except AssignmentError:
            text = show_value(scalars.read(name).item())
        listed.append(f"`{name}` ({text})")
    return AssignmentError(
        f"Several tensors may say how many steps were done: {', '.join(listed)} - in "
        f'`{manifest.index_path}`. Give the one that is meant, count="{names[0]}", '
        "or the prefix of the optimizer, prefix=."
    )


def _bare(name: str) -> str:
    """The name of a counter without the number that TensorFlow adds to the second."""
    return _NUMBER.sub("", name)


def _scope_of(name: str) -> str:
    """The scope of a scalar; in an object graph, the path of its optimizer."""
    return name.removesuffix(VARIABLE_SUFFIX).rpartition("/")[0]
