"""Statistics of the values of a tensor."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from tf2flax._base.dtypes import kind_of

# How much of a tensor is turned into float64 at once (elements).
_CHUNK: Final = 1 << 20


def describe_values(array: np.ndarray) -> dict[str, Any]:
    """Mean, standard deviation, least and greatest of the finite values, and counts.

    Args:
        array: The values; of strings, lengths are described.

    Returns:
        Numbers by name, ready for `json.dumps`.
    """
    if array.dtype == object:
        lengths = [len(element) for element in array.reshape(-1).tolist()]
        if not lengths:
            return {}
        return {"shortest": min(lengths), "longest": max(lengths)}
    moments = _Moments()
    for start in range(0, array.size, _CHUNK):
        moments.add(array.reshape(-1)[start : start + _CHUNK])
    statistics = moments.summary()
    if array.dtype.kind == "c" and moments.count:
        statistics["of"] = "absolute values"
    return statistics


class _Moments:
    """Sums over the elements of an array, of which one chunk is added at a time."""

    def __init__(self) -> None:
        self.count = 0
        self._num_nans = 0
        self._num_infs = 0
        self._num_zeros = 0
        # Sums are of values less the first one: else the squares of values that are
        # alike and far from 0 would be all that float64 can hold.
        self._shift = 0.0
        self._sum = 0.0
        self._sum_of_squares = 0.0
        self._min: int | float = math.inf
        self._max: int | float = -math.inf

    def add(self, chunk: np.ndarray) -> None:
        # NaNs that signal, and absolute values beyond the largest number.
        with np.errstate(invalid="ignore", over="ignore"):
            magnitudes = np.abs(chunk) if chunk.dtype.kind == "c" else chunk
            values = magnitudes.astype(np.float64)
        self._num_nans += int(np.isnan(values).sum())
        self._num_infs += int(np.isinf(values).sum())
        self._num_zeros += int((values == 0).sum())
        values = values[np.isfinite(values)]
        if not values.size:
            return
        if not self.count:
            self._shift = float(values[0])
        self.count += values.size
        with np.errstate(over="ignore", invalid="ignore"):
            self._sum += float((values - self._shift).sum())
            self._sum_of_squares += float(((values - self._shift) ** 2).sum())
        extremes = float(values.min()), float(values.max())
        if kind_of(chunk.dtype) in ("bool", "int"):
            # float64 does not hold all integers of 64 bits; those of ml_dtypes are few.
            whole = chunk if chunk.dtype.kind in "iub" else values
            extremes = int(whole.min()), int(whole.max())
        self._min = min(self._min, extremes[0])
        self._max = max(self._max, extremes[1])

    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = {
            "nan": self._num_nans,
            "inf": self._num_infs,
            "zeros": self._num_zeros,
        }
        if self.count:
            mean = self._sum / self.count
            variance = self._sum_of_squares / self.count - mean * mean
            summary |= {
                "mean": _json_float(self._shift + mean),
                "std": _json_float(math.sqrt(abs(variance))),
                "min": self._min,
                "max": self._max,
            }
        return summary


def _json_float(value: float) -> float | None:
    """None for what JSON lacks: infinities, as squares of large values may become."""
    return value if math.isfinite(value) else None
