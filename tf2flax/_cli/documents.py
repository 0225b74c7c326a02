"""The one JSON document of `--json`: strict JSON, whatever the numbers are."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any


def print_json(document: Mapping[str, Any]) -> None:
    """Prints a document; infinities and NaN, which JSON lacks, as strings.

    Args:
        document: Plain values.

    Examples:
        >>> print_json({"max_abs": float("inf"), "min": float("nan")})
        {
         "max_abs": "inf",
         "min": "nan"
        }
    """
    try:
        text = json.dumps(document, indent=1, allow_nan=False)
    except ValueError:  # rare, so that large documents are not copied for it
        text = json.dumps(_strict(document), indent=1, allow_nan=False)
    print(text)


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _strict(member) for key, member in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_strict(member) for member in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
