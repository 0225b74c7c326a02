"""Options of `plan`, `init_from_checkpoint` and `warm_start`, each in one place.

`RestoreOptions` has their types, as callers write them; `CheckedOptions` their defaults
and checks; the docstring of `plan` says what they mean. Knows no target and no map.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX and Flax leave many of their types unknown; what leaves this file is annotated.

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypedDict, TypeVar

from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from tf2flax._assignment.language.expressions import Expression
from tf2flax._assignment.language.grammar import facts_of
from tf2flax._assignment.resolution.option_checks import (
    check_logical_rules,
    check_nbytes,
    check_strategy,
    check_uneven,
)
from tf2flax._assignment.resolution.policies import (
    MapOptions,
    UnusedPolicy,
    check_option,
    option_field,
)
from tf2flax._base.caller import check_switch, show_value
from tf2flax._base.errors import AssignmentError
from tf2flax._base.names import nearest
from tf2flax._base.progress import ProgressFunction, check_progress
from tf2flax._base.tuning import Tuning, check_tuning

from .meshes import describe_manual_axes

F = TypeVar("F", bound=Callable[..., Any])

# Keys of mappings are invariant, so that each kind of mapping is a case of its own.
AssignmentMap = (
    Mapping[str, Any]
    | Mapping[Expression, Any]
    | Mapping[str | Expression, Any]
    | Iterable[tuple[str | Expression, Any]]
)
# What `on_missing` and `on_mismatch` take.
PolicyOption = (
    Literal["error", "keep"]
    | Sequence[tuple[str | re.Pattern[str], Literal["error", "keep"]]]
)
# A name of a mesh axis, several, or None, as entries of a PartitionSpec are.
AxisNames = str | tuple[str, ...] | None
# What `on_unused` takes.
UnusedOption = (
    Literal["ignore", "warn", "error"]
    | Sequence[tuple[str | re.Pattern[str], Literal["ignore", "warn", "error"]]]
)
# Pairs of a logical name and the mesh axes that it means.
LogicalRules = Sequence[tuple[str, AxisNames]]
# What the option `sharding` takes: one for all leaves, a tree, or a function.
ShardingOption = Any
# How processes share in reading.
Strategy = Literal["auto", "local", "read-once"]

# Enough for the largest leaves of most models to be read side by side; a few hundredths
# of a host's memory.
MAX_IN_FLIGHT_BYTES: Final = 1 << 30


class RestoreOptions(TypedDict, total=False):
    """Options as callers write them; see `tf2flax.plan`."""

    aliases: Mapping[str, tuple[str, ...]] | None
    dtype: Any
    sharding: ShardingOption
    mesh: Mesh | AbstractMesh | None
    logical_axis_rules: LogicalRules | None
    strategy: Strategy
    on_missing: PolicyOption
    on_mismatch: PolicyOption
    on_unused: UnusedOption
    on_uneven: Literal["error", "replicate"]
    verify: bool
    max_in_flight_bytes: int
    tuning: Tuning | None
    progress: bool | ProgressFunction


def _check_mesh(option: str, mesh: Any) -> object:
    if not isinstance(mesh, (Mesh, AbstractMesh, type(None))):
        raise AssignmentError(
            f"Option {option}: expected a jax.sharding.Mesh, got {show_value(mesh)}."
            f"{_suggest_mesh(mesh)}"
        )
    if mesh is not None and mesh.empty:
        raise AssignmentError(
            f"Option {option}: the mesh has no axes and no devices (that of "
            "jax.sharding.get_mesh() where none is set). Give one that has some, "
            "or None."
        )
    if problem := describe_manual_axes(mesh):
        raise AssignmentError(f"Option {option}: {problem}")
    return mesh


def _suggest_mesh(value: object) -> str:
    """What to give instead of something that is not a mesh; begins with a space."""
    if isinstance(value, NamedSharding):
        return " Give its `.mesh`, or the sharding itself as option sharding."
    if isinstance(value, PartitionSpec):
        return " Give it as option sharding, and the mesh here."
    return ' Make it: jax.make_mesh((jax.device_count(),), ("data",)).'


def _check_progress(_option: str, progress: object) -> object:
    check_progress(progress)
    return progress


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckedOptions(MapOptions):
    """Options with their defaults, checked; see `tf2flax.plan`."""

    verify: bool = option_field(True, check_switch)
    progress: bool | ProgressFunction = option_field(False, _check_progress)
    strategy: Strategy = option_field("auto", check_strategy)
    max_in_flight_bytes: int = option_field(MAX_IN_FLIGHT_BYTES, check_nbytes)
    tuning: Tuning | None = option_field(None, check_tuning)
    sharding: ShardingOption = option_field(None)
    mesh: Mesh | AbstractMesh | None = option_field(None, _check_mesh)
    on_uneven: Literal["error", "replicate"] = option_field("error", check_uneven)
    logical_axis_rules: LogicalRules | None = option_field(None, check_logical_rules)


def check_options(
    function: str, options: RestoreOptions, assignment_map: object = None
) -> CheckedOptions:
    """Checks the options of a call, and adds those of the map and the defaults.

    Args:
        function: Name of the function that was called, for the message.
        options: What the caller gave: it wins, also where it is the default.
        assignment_map: The map, which may come from a file that gives options.

    Returns:
        All options.

    Raises:
        TypeError: There is no such option.
        AssignmentError: A value is not valid.
    """
    fields = {field.name: field for field in dataclasses.fields(CheckedOptions)}
    checked: dict[str, Any] = {}
    facts = facts_of(assignment_map)
    for name, value in facts.options.items():
        if name not in options:
            place = facts.option_places.get(name, "")
            try:
                checked[name] = _placed(check_option(fields[name], value), place)
            except AssignmentError as error:
                raise AssignmentError(f"{place}: {error}") from error
    for name, value in options.items():
        if name not in fields:
            close = nearest(name, list(fields), count=1)
            hint = f". Did you mean {close[0]!r}?" if close else ""
            raise TypeError(
                f"{function}() got an unexpected keyword argument {name!r}{hint}"
            )
        checked[name] = check_option(fields[name], value)
    return CheckedOptions(**checked)


def _placed(value: object, place: str) -> object:
    """An option of a map file, which knows its place if it can fail later."""
    if isinstance(value, UnusedPolicy):
        return dataclasses.replace(value, place=place)
    return value


def takes_options(function: F) -> F:
    """Spells the options of a function with `**options` in its signature.

    So `help()` and `inspect.signature` show all of them, with their defaults.

    Args:
        function: A function whose last parameter is `**options`.

    Returns:
        The same function.
    """
    fields = dataclasses.fields(CheckedOptions)
    defaults = {field.name: field.metadata["default"] for field in fields}
    signature = inspect.signature(function)
    parameters = [
        *list(signature.parameters.values())[:-1],
        *(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=defaults[name],
                annotation=getattr(annotation, "__forward_arg__", annotation),
            )
            for name, annotation in RestoreOptions.__annotations__.items()
        ),
    ]
    setattr(function, "__signature__", signature.replace(parameters=parameters))  # noqa: B010
    return function
