"""`show`: the histogram of a tensor's values, and the file that `-o` writes."""

from __future__ import annotations

import itertools
import json
import os
import pathlib
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from bundle_writer import write_bundle
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tf2flax
from tf2flax._cli import main
from tf2flax._cli.histogram import count_values, draw_histogram
from tf2flax._cli.npy import written_dtype

NAN, INF = float("nan"), float("inf")
# Values; edges and counts, or None where there is nothing to draw.
HISTOGRAMS: dict[str, tuple[Any, list[float] | None, list[int]]] = {
    "bools": (np.array([True, False, True]), [0, 1, 2], [1, 2]),
    "one kind of bool": (np.array([True, True]), [0, 1, 2], [0, 2]),
    "few integers": (np.array([3, 5, 5]), [3, 4, 5, 6], [1, 0, 2]),
    "all bytes": (
        np.arange(256, dtype=np.uint8),
        [0, 25, 51, 76, 102, 128, 153, 179, 204, 230, 256],
        [25, 26, 25, 26, 26, 25, 26, 25, 26, 26],
    ),
    "integers that float64 lacks": (
        np.array([2**63, 2**64 - 1, 2**64 - 2, 2**64 - 1], np.uint64),
        [2**63 + 2**63 * i // 10 for i in range(11)],
        [1, *[0] * 8, 3],
    ),
    "int64 from end to end": (
        np.array([-(2**63), 2**63 - 1]),
        [-(2**63) + 2**64 * i // 10 for i in range(11)],
        [1, *[0] * 8, 1],
    ),
    "int4": (np.array([-8, 7, 7], ml_dtypes.int4), None, [1, *[0] * 8, 2]),
    "equal": (np.float32([2, 2, 2]), [2, 2], [3]),
    "nan and inf": (
        np.array([0, 1, NAN, INF, -INF, 1]),
        [i / 10 for i in range(11)],
        [1, *[0] * 8, 2],
    ),
    "neighbours": (np.array([1, 1 + 2**-52]), [1, 1 + 2**-52], [2]),
    "the largest": (np.array([-1.7e308, 1.7e308]), None, [1, *[0] * 8, 1]),
    "bfloat16": (np.array([1, 2, 2], ml_dtypes.bfloat16), None, [1, *[0] * 8, 2]),
    "complex": (np.array([3 + 4j, 5, -5], np.complex64), [5, 5], [3]),
    "strings": (np.array([b"", b"ab", b"cd"], object), [0, 1, 2, 3], [1, 0, 2]),
}  # fmt: skip


@pytest.mark.parametrize("name", list(HISTOGRAMS))
def test_counts(name: str) -> None:
    values, edges, counts = HISTOGRAMS[name]
    histogram = count_values(values)
    assert histogram is not None
    assert list(histogram.counts) == counts
    if edges is not None:
        assert list(histogram.edges) == pytest.approx(edges, rel=1e-15)
    assert histogram.of == {"complex": "absolute values", "strings": "lengths"}.get(
        name, "values"
    )
    json.dumps(histogram.to_dict(), allow_nan=False)
    assert draw_histogram(histogram, [], width=40, ascii=True)


@pytest.mark.parametrize(
    "values",
    [np.zeros((0, 3)), np.float32(1), np.array([NAN, INF]), np.array([1, NAN]),
     np.array(b"a", object), np.array([], object)],
)  # fmt: skip
def test_nothing_to_draw(values: np.ndarray) -> None:
    assert count_values(np.asarray(values)) is None


@given(
    values=hnp.arrays(
        st.sampled_from(["f4", "f8", "f2", "i1", "u2", "i8", "u8", "?"]),
        hnp.array_shapes(max_dims=2, max_side=30),
    )
)
def test_every_finite_value_is_in_its_bin(values: np.ndarray) -> None:
    histogram = count_values(values)
    finite = [v for v in values.reshape(-1).tolist() if v not in (INF, -INF) and v == v]
    if len(finite) < 2:
        assert histogram is None
        return
    assert histogram is not None
    edges = list(histogram.edges)
    assert edges == sorted(edges)
    last = len(edges) - 2
    counts = [
        sum(low <= v < high or (i == last and v == high) for v in finite)
        for i, (low, high) in enumerate(itertools.pairwise(edges))
    ]
    assert list(histogram.counts) == counts
    assert sum(counts) == len(finite)


def test_bars() -> None:
    values = np.repeat([0, 1, 2, 3], [1600, 800, 1, 0])
    histogram = count_values(values)
    assert histogram is not None
    assert draw_histogram(histogram, [("nan", 7)], width=24, ascii=False) == [
        "  0  1,600  ████████████",
        "  1    800  ██████",
        "  2      1  ▏",
        "nan      7",
    ]
    assert draw_histogram(histogram, [], width=0, ascii=True) == [
        "0  1,600  #####", "1    800  ##", "2      1  #"
    ]  # fmt: skip
    wide = count_values(np.array([1e9, 1e9 + 1]))
    assert wide is not None
    # As many digits as tell the bounds apart.
    assert draw_histogram(wide, [], width=40, ascii=True)[0].split()[:3] == [
        "1000000000", "to", "1000000000.1"
    ]  # fmt: skip


@pytest.fixture
def prefix(tmp_path: pathlib.Path) -> str:
    write_bundle(
        tmp_path / "m",
        {
            "w": np.array([[1, 2, NAN], [2, INF, 2]], np.float32),
            "b": np.array([1.5, -2, NAN], ml_dtypes.bfloat16),
            "i4": np.array([-8, 7], ml_dtypes.int4),
            "scalar": np.array(7, np.int64),
            "empty": np.zeros((0, 3), np.float16),
            "strings": np.array([[b"a", b""], [b"\xff!", b"b"]], object),
            "zero": np.array([b"a\0"], object),
            "flags": np.array([True, False]),
            "c": np.array([1 + 2j], np.complex128),
        },
    )
    return str(tmp_path / "m")


def test_histogram_is_shown(
    prefix: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["show", prefix, "w"]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("  histogram")
    assert lines[start + 1].split()[:4] == ["1", "to", "1.1", "1"]
    assert lines[start + 10].split()[:4] == ["1.9", "to", "2", "3"]
    assert lines[start + 11].split() == ["nan", "1"]
    assert lines[start + 12].split() == ["inf", "1"]
    assert max(map(len, lines[start : start + 12])) <= 60
    assert main(["show", prefix, "strings"]) == 0
    assert "  histogram of lengths\n" in capsys.readouterr().out
    for name in ("scalar", "empty"):
        assert main(["show", prefix, name]) == 0
        assert "\n  histogram" not in capsys.readouterr().out
    assert main(["show", prefix, "flags", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["histogram"] == {
        "of": "values", "edges": [0, 1, 2], "counts": [1, 1]
    }  # fmt: skip
    assert facts["output"] is None


@pytest.mark.parametrize(
    ("encoding", "term", "is_terminal", "bar"),
    [
        ("utf-8", "xterm", True, "█"),
        ("utf-8", "dumb", True, "#"),
        ("utf-8", "linux", True, "#"),
        ("utf-8", "dumb", False, "█"),
        ("ascii", "xterm", True, "#"),
        ("latin-1", "xterm", False, "#"),
    ],
)
def test_letters_that_the_terminal_has(
    encoding: str,
    term: str,
    is_terminal: bool,
    bar: str,
    prefix: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", term)
    with (tmp_path / "out").open("w", encoding=encoding) as file:
        monkeypatch.setattr(file, "isatty", lambda: is_terminal, raising=False)
        monkeypatch.setattr(sys, "stdout", file)
        assert main(["show", prefix, "w"]) == 0
    assert bar in (tmp_path / "out").read_text(encoding)


# Name of a tensor -> dtype and values of the file, and what is said of it.
WRITTEN: dict[str, tuple[str, Any, str]] = {
    "w": ("<f4", [[1, 2, NAN], [2, INF, 2]], ""),
    "b": ("<f4", [1.5, -2, NAN], "(as float32: NumPy has no bfloat16)"),
    "i4": ("|i1", [-8, 7], "(as int8: NumPy has no int4)"),
    "scalar": ("<i8", 7, ""),
    "empty": ("<f2", np.zeros((0, 3)), ""),
    "strings": ("|S2", [[b"a", b""], [b"\xff!", b"b"]], "(as S2: NumPy has no string)"),
    "flags": ("|b1", [True, False], ""),
    "c": ("<c16", [1 + 2j], ""),
}


@pytest.mark.parametrize("name", list(WRITTEN))
def test_output(
    name: str, prefix: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dtype, values, text = WRITTEN[name]
    out = str(tmp_path / "x.npy")
    assert main(["show", prefix, name, "-o", out]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"  written   {out} {text}".rstrip()
    read = np.load(out, allow_pickle=False)
    assert read.dtype.str == dtype
    assert read.shape == np.shape(values)
    np.testing.assert_array_equal(read, np.asarray(values, read.dtype))
    assert main(["show", prefix, name, "-o", out]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["show", prefix, name, "-o", out, "--overwrite", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["output"]["path"] == out


@pytest.mark.parametrize("name", [
    "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
    "float8_e4m3b11fnuz", "float4_e2m1fn", "int4", "uint4", "int2", "uint2",
])  # fmt: skip
def test_the_dtype_that_is_written_holds_every_value(name: str) -> None:
    dtype = np.dtype(getattr(ml_dtypes, name))
    wide = written_dtype(dtype)
    # Elements narrower than a byte have the upper bits of it unused.
    bits = 16 if dtype.itemsize == 2 else int(name.strip("uintfloa").split("_")[0])
    values = np.arange(2**bits, dtype=f"u{dtype.itemsize}").view(dtype)
    with np.errstate(invalid="ignore"):  # NaNs that signal
        widened = values.astype(wide)
        back = widened.astype(dtype).astype(wide)
        exact = values.astype(np.float64)
        np.testing.assert_array_equal(back, widened)
        np.testing.assert_array_equal(widened.astype(np.float64), exact)


def test_nans_that_signal(tmp_path: pathlib.Path) -> None:
    """Their casts raise warnings of NumPy, which are errors here."""
    for name, bits in (
        ("bfloat16", 0x7F81),
        ("float32", 0x7F800001),
        ("float16", 0x7C01),
    ):
        dtype = np.dtype(getattr(ml_dtypes, name, name))
        values = np.full(3, bits, f"u{dtype.itemsize}").view(dtype)
        prefix = tf2flax.save_checkpoint(tmp_path / name, {"w": values})
        assert main(["show", prefix, "w", "-o", f"{tmp_path}/{name}.npy"]) == 0
        assert np.isnan(np.load(f"{tmp_path}/{name}.npy")).all()
        assert main(["stats", prefix]) == 1
        assert main(["diff", prefix, prefix]) == 0


def test_outputs_that_are_refused(
    prefix: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    (tmp_path / "d.npy").mkdir()
    for out, words in (
        (f"{prefix}.index", "expected a file that ends in .npy"),
        ("gs://bucket/x.npy", "not a local path"),
        (f"{tmp_path}/d.npy", "A folder lies at the output"),
        (f"{prefix}.index/x.npy", "Cannot write"),
    ):
        assert main(["show", prefix, "w", "-o", out, "--overwrite"]) == 2, out
        assert words in capsys.readouterr().err
    assert main(["show", prefix, "zero", "-o", f"{tmp_path}/x.npy"]) == 2
    assert "end in zero bytes" in capsys.readouterr().err
    assert main(["show", prefix, "w", "--overwrite"]) == 2
    assert "Give -o FILE.npy too." in capsys.readouterr().err
    (tmp_path / "d.npy").rmdir()
    assert sorted(tmp_path.rglob("*")) == before


def test_nothing_is_left_half_written(
    prefix: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "x.npy"
    out.write_bytes(b"before")
    before = sorted(tmp_path.rglob("*"))
    for failure, code in (
        (OSError(28, "No space left"), 2),
        (KeyboardInterrupt(), 130),
    ):

        def fail(_: int, failure: BaseException = failure) -> None:
            raise failure

        monkeypatch.setattr(os, "fsync", fail)
        given = ["show", prefix, "w", "-o", str(out), "--overwrite"]
        assert main(given) == code
        assert out.read_bytes() == b"before"
        assert sorted(tmp_path.rglob("*")) == before


def test_damage_is_not_written(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = tf2flax.save_checkpoint(tmp_path / "m", {"a": np.ones(4, np.float32)})
    data = tmp_path / "m.data-00000-of-00001"
    data.write_bytes(b"\1" + data.read_bytes()[1:])
    out = str(tmp_path / "x.npy")
    assert main(["show", prefix, "a", "-o", out]) == 1
    text = capsys.readouterr().out
    assert f"not written, since the checksum differs: {out}" in text
    assert not pathlib.Path(out).exists()
