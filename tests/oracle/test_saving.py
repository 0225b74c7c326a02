"""TensorFlow 1.15 and 2 restore what `save_checkpoint` wrote, bit for bit."""

from __future__ import annotations

import base64
import importlib.util
import itertools
import json
import os
import pathlib
import shutil
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from jobs import run_job

import tf2flax

WORKER = pathlib.Path(__file__).with_name("saver_worker.py")
TF1 = os.environ.get("TF2FLAX_TF1_PYTHON", "")
TF2 = sys.executable if importlib.util.find_spec("tensorflow") else ""
DTYPES = [
    "float32", "float64", "float16", "int8", "int16", "int32", "int64", "uint8",
    "uint16", "uint32", "uint64", "bool", "complex64", "complex128",
]  # fmt: skip
OF_TF2 = ["bfloat16", "float8_e5m2", "float8_e4m3fn", "int4", "uint4"]

pytestmark = pytest.mark.oracle


def arrays(dtypes: list[str]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    found: dict[str, np.ndarray] = {}
    for name in dtypes:
        dtype = np.dtype(getattr(ml_dtypes, name, None) or name)
        values = rng.integers(0, 2 if name == "bool" else 7, (5, 4)).astype(dtype)
        found |= {f"{name}": values, f"{name}_0": values[0, 0], f"{name}_z": values[:0]}
    return found


def plain(array: np.ndarray) -> object:
    if array.dtype == object:
        return [base64.b64encode(one).decode() for one in array.ravel()]
    return array.tobytes().hex()


# With the Python of TensorFlow 1.15, and with that of TensorFlow 2.
ON_BOTH = pytest.mark.parametrize(
    "python",
    [
        pytest.param(
            TF1, marks=pytest.mark.skipif(not TF1, reason="set TF2FLAX_TF1_PYTHON")
        ),
        pytest.param(
            TF2, marks=pytest.mark.skipif(not TF2, reason="TensorFlow is not installed")
        ),
    ],
    ids=["tf1", "tf2"],
)


def families() -> dict[str, dict[str, np.ndarray]]:
    """Families of which parts are empty, at every place, along every axis."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for rows in (*itertools.product((0, 1, 2), repeat=3), (0, 0), (0, 3), (2, 0)):
        for axis, shape in ((0, (0, 2)), (0, (0,)), (0, (0, 0)), (1, (2, 0, 3))):
            sizes = [[*shape[:axis], n, *shape[axis + 1 :]] for n in rows]
            values = iter(range(100))
            found[f"f{len(found)}"] = {
                f"part_{i}": np.array(
                    [next(values) for _ in range(np.prod(size, dtype=int))], "<f4"
                ).reshape(size)
                for i, size in enumerate(sizes)
            }
    return found


@pytest.mark.slow
@ON_BOTH
def test_tensorflow_restores_families_with_empty_parts(
    tmp_path: pathlib.Path, python: str
) -> None:
    prefix = tf2flax.save_checkpoint(tmp_path / "m", families(), data_files=2)
    want = tf2flax.open_checkpoint(prefix).read()
    done = subprocess.run(
        [python, str(WORKER), prefix, json.dumps([*want]), "whole"],
        capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    got = json.loads(done.stdout.splitlines()[-1])
    for name, array in want.items():
        assert got[name]["shape"] == list(array.shape)
        assert got[name]["read"] == plain(array), name
        if array.size:
            assert got[name]["saver"] == plain(array), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("python", "dtypes"),
    [
        pytest.param(
            TF1,
            [*DTYPES, "bfloat16"],
            marks=pytest.mark.skipif(not TF1, reason="set TF2FLAX_TF1_PYTHON"),
        ),
        pytest.param(
            TF2,
            [*DTYPES, *OF_TF2],
            marks=pytest.mark.skipif(not TF2, reason="TensorFlow is not installed"),
        ),
    ],
    ids=["tf1", "tf2"],
)
def test_tensorflow_restores_it(
    tmp_path: pathlib.Path, python: str, dtypes: list[str]
) -> None:
    table = np.arange(60, dtype="<f4").reshape(10, 6)
    tree = {
        **arrays(dtypes),
        "strings": np.array([[b"", b"a\0b"], [b"x" * 300, b"\xff"]], object),
        "text": "one",
        "none": np.empty((0, 2), object),
        "rows": {f"part_{i}": table[a:b] for i, (a, b) in enumerate([(0, 4), (4, 10)])},
        "columns": {
            f"part_{i}": table[:, a:b] for i, (a, b) in enumerate([(0, 1), (1, 6)])
        },
        "many": {f"n{i}": np.full(i % 5, i, "<i8") for i in range(2000)},
        "odd names/é": {"a.b": np.ones(2, "<f4"), "\0x": np.ones(1, "<f4")},
    }
    for count in (1, 3):
        prefix = tf2flax.save_checkpoint(
            tmp_path / f"m-{count}", tree, data_files=count
        )
        checkpoint = tf2flax.open_checkpoint(prefix)
        want = checkpoint.read()
        assert want["rows"].tolist() == want["columns"].tolist() == table.tolist()
        names = [name for name in want if not name.startswith("many/")]
        names += ["many/n7", "many/n1999"]
        done = subprocess.run(
            [python, str(WORKER), prefix, json.dumps(names)],
            capture_output=True, text=True, check=False, timeout=500,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        got = json.loads(done.stdout.splitlines()[-1])
        assert got["__all__"] == sorted(want, key=str.encode)
        assert got["__latest__"] == prefix
        restored = 0
        for name in names:
            assert got[name]["read"] == plain(want[name]), name
            assert got[name]["shape"] == list(want[name].shape), name
            assert got[name]["dtype"] == checkpoint[name].entry.spec.dtype.name, name
            for way in ("saver", "parts"):
                assert got[name].get(way, plain(want[name])) == plain(want[name]), name
                restored += way in got[name]
        assert restored >= 10


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
@ON_BOTH
def test_tensorflow_restores_what_several_processes_saved(
    tmp_path: pathlib.Path, python: str, count: int
) -> None:
    prefix = str(tmp_path / "m")
    run_job(count, "saving_flat_worker.py", prefix)
    want = tf2flax.open_checkpoint(prefix).read()
    done = subprocess.run(
        [python, str(WORKER), prefix, json.dumps([*want])],
        capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    got = json.loads(done.stdout.splitlines()[-1])
    assert got["__all__"] == sorted(want)
    for name, array in want.items():
        assert array.shape == (16, 8)
        for way in ("read", "saver", "parts"):
            assert got[name][way] == plain(array), (name, way)


@pytest.mark.slow
@ON_BOTH
@pytest.mark.parametrize("data_files", [1, 3])
def test_tensorflow_restores_what_is_being_replaced(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    python: str,
    data_files: int,
) -> None:
    """The old checkpoint under its second names, as a kill may leave it."""
    want = {"a": np.arange(6, dtype="<f4").reshape(2, 3), "b": np.ones(9, "<i4")}
    folder, left = tmp_path / "m", tmp_path / "left"
    prefix = tf2flax.save_checkpoint(folder / "m", want, data_files=data_files)
    replace = os.replace

    def copied(source: str, target: str) -> None:
        replace(source, target)
        if target.endswith(f".data-00000-of-0000{data_files}"):
            shutil.copytree(folder, left, dirs_exist_ok=True)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", copied)
        changed = {name: array * 2 for name, array in want.items()}
        tf2flax.save_checkpoint(prefix, changed, data_files=data_files, overwrite=True)
    assert (left / f"m.data-00000-of-0000{data_files + 1}").exists()
    done = subprocess.run(
        [python, str(WORKER), str(left / "m"), json.dumps([*want])],
        capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    got = json.loads(done.stdout.splitlines()[-1])
    for name, array in want.items():
        for way in ("read", "saver", "parts"):
            assert got[name][way] == plain(array), name
