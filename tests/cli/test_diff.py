"""`tf2flax diff`: what is equal, what is accepted, and what is said of the rest."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pytest

import tf2flax
from tf2flax._cli import main

TOLERANCES: list[list[str]] = [
    [], ["--rtol", "1e-3"], ["--atol", "1e-3"], ["--rtol", "0.5", "--atol", "9"],
]  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def save(a: Any, b: Any) -> None:
    for name, value in (("a", a), ("b", b)):
        tf2flax.save_checkpoint(name, {"w": value}, overwrite=True)


@pytest.mark.parametrize("tolerance", TOLERANCES)
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_equal_nans_and_infinities_agree(odd: float, tolerance: list[str]) -> None:
    """Beside a number that is near, so that the bytes differ."""
    save(np.float32([odd, 1]), np.float32([odd, 1.00001]))
    assert main(["diff", "a", "b", *tolerance]) == (0 if tolerance else 1)
    # Of two dtypes, so that nothing is equal byte for byte.
    save(np.float32([odd, 1]), np.float64([odd, 1]))
    assert main(["diff", "a", "b", *tolerance]) == 1


@pytest.mark.parametrize("tolerance", TOLERANCES)
@pytest.mark.parametrize(
    ("one", "other"), [(np.nan, 1), (np.inf, 1), (np.inf, -np.inf), (np.nan, np.inf)]
)
def test_no_tolerance_accepts_an_infinity_or_a_nan_for_another(
    one: float, other: float, tolerance: list[str]
) -> None:
    for pair in ((one, other), (other, one)):
        save(*(np.float32([value, 1]) for value in pair))
        assert main(["diff", "a", "b", *tolerance]) == 1


@pytest.mark.parametrize("tolerance", TOLERANCES)
def test_differences_are_measured_where_dtypes_differ(
    tolerance: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    save(np.float32([1, 2]), np.float64([1, 2.0005]))
    assert main(["diff", "a", "b", "--json", *tolerance]) == 1
    (row,) = json.loads(capsys.readouterr().out)["differences"]
    more = "" if tolerance else ", values"
    assert row["fact"] == f"dtype float32 and float64{more}"
    assert row["max_abs"] == pytest.approx(5e-4)
    assert row["max_rel"] == pytest.approx(2.5e-4, rel=1e-3)


@pytest.mark.parametrize("more", [[], ["--json"]])
@pytest.mark.parametrize(
    ("pattern", "words"), [("nomatch/", "to see all"), ("ww", "Did you mean `w`?")]
)
def test_a_pattern_without_matches_is_an_error(
    pattern: str, words: str, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """As it is for `ls`."""
    save(np.float32(1), np.float32(1))
    assert main(["diff", "a", "b", pattern, *more]) == main(["ls", "a", pattern]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    message = error.splitlines()[0]
    assert f"`{pattern}` matches none of 1 tensor - in `a` and `b`. " in message
    assert words in message
