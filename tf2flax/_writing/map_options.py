"""Options and parameters of map files: which there are, and what they may be.

Opens no file.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from tf2flax._assignment.language.captures import parse_name
from tf2flax._assignment.language.expressions import (
    Expression,
    Source,
    map_sources,
    sources_of,
)
from tf2flax._assignment.resolution.option_checks import (
    check_logical_rules,
    check_nbytes,
    check_strategy,
    check_uneven,
)
from tf2flax._assignment.resolution.policies import MapOptions
from tf2flax._base.caller import check_switch, reworded, show_value
from tf2flax._base.errors import AssignmentError
from tf2flax._base.names import nearest

from .toml_values import toml_value

Parameter = int | float | str

# Options that a file may give -> what checks them.
_CHECKS: Final[dict[str, Callable[[str, Any], object]]] = {
    **{field.name: field.metadata["check"] for field in dataclasses.fields(MapOptions)},
    "on_uneven": check_uneven,
    "strategy": check_strategy,
    "verify": check_switch,
    "max_in_flight_bytes": check_nbytes,
    "logical_axis_rules": check_logical_rules,
}
# What only a call can say.
_CALLS_ALONE: Final = ("mesh", "progress", "sharding", "tuning")
# `load_map(path, ...)` cannot be given these by name.
_RESERVED: Final = ("path",)


def check_file_option(name: str, value: object, *, is_json: bool) -> None:
    """Checks an option that a map file gives.

    Args:
        name: Its name.
        value: Its value.
        is_json: Whether the file is JSON, in which messages then say what to write;
            else it is TOML.

    Raises:
        AssignmentError: There is no such option, a file cannot give it, or its value is
            not valid.
    """
    if name in _CALLS_ALONE:
        raise AssignmentError(
            f"option {name} cannot stand in a file. Give it in the call: "
            f"tf2flax.plan(..., {name}=...)."
        )
    if name not in _CHECKS:
        raise AssignmentError(
            f"plan has no option `{name}`. {_did_you_mean(name, _CHECKS, 'There are')}"
        )
    try:
        _CHECKS[name](name, value)
    except AssignmentError as error:
        raise AssignmentError(
            reworded(error, _as_json if is_json else toml_value)
        ) from error


def _as_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def check_parameter(name: str, value: object) -> Parameter:
    """Checks a parameter.

    Args:
        name: Its name.
        value: What the file or the caller gives.

    Returns:
        The value; NumPy's integers and floats as those of Python.

    Raises:
        AssignmentError: The name or the value cannot be one.
    """
    if not (name.isidentifier() and name.isascii()):
        raise AssignmentError(
            f"parameter {show_value(name)}: expected a name of letters, digits and _."
        )
    if name in _RESERVED:
        raise AssignmentError(
            f"parameter `{name}` has the name of an argument of tf2flax.load_map. Give "
            "it another one."
        )
    number: Any = value
    if not isinstance(value, (bool, int, float, str)):
        try:  # NumPy's scalars
            number = number.item()
        except (AttributeError, TypeError, ValueError):
            number = None
    if isinstance(number, bool) or not isinstance(number, (int, float, str)):
        raise AssignmentError(
            f"parameter `{name}`: expected an integer, a float or a string, got "
            f"{show_value(value)}."
        )
    return number


def override(
    parameters: Mapping[str, Parameter], given: Mapping[str, object]
) -> dict[str, Parameter]:
    """Puts the values of a call in place of those of the file.

    Raises:
        AssignmentError: The file has no such parameter, or a value cannot be one.
    """
    changed = dict(parameters)
    for name, value in given.items():
        if name not in parameters:
            raise AssignmentError(
                f"the file has no parameter `{name}`. "
                f"{_did_you_mean(name, parameters, 'It has')}"
            )
        changed[name] = check_parameter(name, value)
    return changed


def fill_name(text: str, parameters: Mapping[str, Parameter]) -> str:
    """Puts parameters in place of their captures in a name.

    Examples:
        >>> fill_name("layer_{n-1}/{part}", {"n": 12})
        'layer_11/{part}'
    """
    if not parameters or "{" not in text:
        return text
    return parse_name(text).expand({k: str(v) for k, v in parameters.items()}).text


def fill_key(
    key: str | Expression, parameters: Mapping[str, Parameter]
) -> str | Expression:
    """Puts parameters in place of their captures in all names of a key."""
    if isinstance(key, str):
        return fill_name(key, parameters)
    return map_sources(key, lambda s: Source(fill_name(s.pattern, parameters)))


def hint_at_parameter(texts: Iterable[str], parameters: Iterable[str]) -> str:
    """The parameter that a capture of a wrong entry may mean; begins with a space."""
    names = list(parameters)
    captures: list[str] = []
    for text in texts:
        try:
            captures += parse_name(text).captures
        except AssignmentError:
            continue
    for capture in captures:
        if capture not in names and (close := nearest(capture, names, count=1)):
            return f" Did you mean the parameter {{{close[0]}}}?"
    return ""


def refuse_near_parameter(
    key: str | Expression, target: str, parameters: Mapping[str, Parameter]
) -> None:
    """Refuses a capture of the value alone that is a misspelt parameter.

    It would be a capture like any other, and fill every scope.

    Raises:
        AssignmentError: There is such a capture.
    """
    if not parameters or "{" not in target:
        return
    patterns = [key] if isinstance(key, str) else [s.pattern for s in sources_of(key)]
    in_key = {name for pattern in patterns for name in parse_name(pattern).captures}
    for name in parse_name(target).captures:
        close = nearest(name, list(parameters), count=1)
        if name not in in_key and close:
            raise AssignmentError(
                f"capture {{{name}}} stands in the value alone, and matches every name "
                f"there. Did you mean the parameter {{{close[0]}}}? If not, give it "
                "another name."
            )


def _did_you_mean(name: str, names: Iterable[str], there_are: str) -> str:
    listed = list(names)
    if close := nearest(name, listed, count=1):
        return f"Did you mean `{close[0]}`?"
    if not listed:
        return "Give it a table [parameters]."
    return f"{there_are} {', '.join(f'`{name}`' for name in listed)}."
