"""Warnings that point at the caller's own line, however deep they arise."""

from __future__ import annotations

import inspect
import os
import pathlib
import warnings
from typing import Final

_PACKAGE: Final = str(pathlib.Path(__file__).parents[1].absolute()) + os.sep


def warn_caller(message: str) -> None:
    """Warns, at the line outside of this package that led here.

    A fixed number of frames would be wrong as soon as a function in between is added.

    Args:
        message: The text of the UserWarning.
    """
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)
