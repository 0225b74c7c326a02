"""`tf2flax compare`: numbers, facts, exit codes; no JAX."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tf2flax._cli import main


def save(path: pathlib.Path, **arrays: object) -> str:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return str(path)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(["compare", *arguments])
    return code, capsys.readouterr().out


def test_equal_files(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    got = save(tmp_path / "a.npz", x=np.float32([1, 2]), y=np.arange(3))
    want = save(tmp_path / "b.npz", x=np.float32([1, 2.000001]), y=np.arange(3))
    code, out = run(capsys, got, want)
    assert code == 0
    assert [line.split("\t")[:2] for line in out.splitlines()] == [
        ["x", "ok"],
        ["y", "ok"],
    ]
    assert run(capsys, got, want, "--rtol", "0", "--atol", "0")[0] == 1
    assert run(capsys, got, want, "--rtol", "1e-6", "--atol", "0")[0] == 0


def test_a_file_that_is_not_there(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = save(tmp_path / "a.npz", x=np.ones(1))
    for ending in ("npz", "safetensors"):
        missing = str(tmp_path / f"b.{ending}")
        for paths in ((there, missing), (missing, there)):
            assert main(["compare", *paths]) == 2
            message = capsys.readouterr().err
            assert message.startswith(f"tf2flax: No file at `{missing}`.")


@pytest.mark.parametrize(
    ("got", "want", "fact"),
    [
        ({"x": np.ones(2)}, {"x": np.ones(2) * 2}, ""),
        ({"x": np.ones((2, 3))}, {"x": np.ones((3, 2))}, "shape [2, 3], recorded is"),
        ({"x": np.array([1, np.nan])}, {"x": np.ones(2)}, "NaN in 1 of 2 elements"),
        ({"x": np.ones(2)}, {"x": np.array([1, np.nan])}, "elements, recorded"),
        ({"x": np.ones(1), "y": np.ones(1)}, {"x": np.ones(1)}, "not recorded"),
        ({"x": np.ones(1)}, {"x": np.ones(1), "y": np.ones(1)}, "recorded alone"),
    ],
)
def test_differences_are_told(
    got: dict[str, np.ndarray],
    want: dict[str, np.ndarray],
    fact: str,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = save(tmp_path / "a.npz", **got), save(tmp_path / "b.npz", **want)
    code, out = run(capsys, *paths)
    assert code == 1
    assert "\tdiffers\t" in out
    assert fact in out
    code, out = run(capsys, *paths, "--json")
    document = json.loads(out)
    assert (code, document["ok"]) == (1, False)
    assert document["first"]["name"] in {**got, **want}


def test_a_table_on_a_terminal(
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    got = save(tmp_path / "a.npz", x=np.ones(2), y=np.array([3.0, 4.0]))
    want = save(tmp_path / "b.npz", x=np.ones(2), y=np.array([4.0, 3.0]))
    assert run(capsys, got, want) == (
        1,
        "2 arrays: 1 agree, 1 differ (rtol 1e-05, atol 1e-05)\n"
        "   array   max abs   max rel    cosine\n"
        "   x      0.00e+00  0.00e+00  1.000000\n"
        "!  y      1.00e+00  2.50e-01  0.960000\n"
        "The first that differs: y\n",
    )


def test_files_without_arrays_are_not_equal(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = save(tmp_path / "a.npz")
    assert run(capsys, empty, empty)[0] == 1


def test_jax_is_not_imported(tmp_path: pathlib.Path) -> None:
    got = save(tmp_path / "a.npz", x=np.ones(2))
    code = (
        "import sys; from tf2flax._cli import main; "
        f"assert main(['compare', {got!r}, {got!r}]) == 0; "
        "assert not {'jax', 'flax', 'tensorstore'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
