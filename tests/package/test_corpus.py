"""The corpus of damaged checkpoints: each refused, by an error and nothing else."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import v1_writer as v1
from bundle_writer import Tensor, rows_in, write_bundle
from damaged_corpus import CASES
from damaged_corpus import ROOT as CORPUS
from old_files import write_as_if_old
from repository import ROOT

import tf2flax


@pytest.fixture(scope="module")
def outcomes() -> dict[str, dict[str, Any]]:
    paths = {name: str(CORPUS / name / case.path) for name, case in CASES.items()}
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "support" / "corpus_worker.py")],
        input=json.dumps(paths), capture_output=True, text=True, check=False,
        cwd=ROOT, env={**os.environ, "MALLOC_ARENA_MAX": "2"}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    return dict(map(json.loads, done.stdout.splitlines()))


@pytest.mark.parametrize("name", list(CASES))
def test_refused(name: str, outcomes: dict[str, dict[str, Any]]) -> None:
    outcome = outcomes[name]
    assert "failure" not in outcome, outcome
    assert outcome["errors"]
    for error in outcome["errors"]:
        assert str(CORPUS / name) in error  # every message names the place
        assert error.endswith((".", "`"))


def test_the_corpus_is_what_its_generator_makes(tmp_path: pathlib.Path) -> None:
    for name, case in CASES.items():
        case.write(tmp_path / name)
    made = {path.relative_to(tmp_path) for path in tmp_path.rglob("*")}
    kept = {path.relative_to(CORPUS) for path in CORPUS.rglob("*")}
    assert made == kept
    for path in made:
        if (tmp_path / path).is_file():
            assert (tmp_path / path).read_bytes() == (CORPUS / path).read_bytes(), path


def test_the_right_one_is_read(tmp_path: pathlib.Path) -> None:
    """What the corpus is checked with does let right checkpoints pass."""
    sys.path.insert(0, str(ROOT / "tests"))
    from corpus_worker import exercise

    write_bundle(tmp_path / "m", {"ok": np.arange(4, dtype="<f4")})
    assert exercise(str(tmp_path / "m")) == []
    write_bundle(tmp_path / "w", {"ok": np.arange(1, 5, dtype="<f4")})
    with pytest.raises(AssertionError):
        exercise(str(tmp_path / "w"))


SMALL = np.arange(6, dtype="<i2").reshape(3, 2)
STRINGS = np.array([b"ab", b"c"], object)


def small(folder: pathlib.Path, kind: str) -> tuple[str, list[pathlib.Path]]:
    if kind == "v1":
        v1.write_v1(folder / "m", {"a": SMALL, "s": STRINGS})
        return f"{folder}/m", [folder / "m"]
    tensors = {"a": Tensor(SMALL, slices=rows_in(SMALL, 2)), "s": STRINGS}
    write_bundle(folder / "m", tensors)
    return f"{folder}/m", [folder / "m.index", folder / "m.data-00000-of-00001"]


def is_right(prefix: str) -> bool:
    """Whether it reads as it should; False where it is refused; else an error."""
    try:
        got = tf2flax.open_checkpoint(prefix).read()
    except (tf2flax.DamagedError, tf2flax.UnsupportedError):
        return False
    assert sorted(got) == ["a", "s"]
    assert got["a"].dtype == SMALL.dtype
    assert got["a"].tolist() == SMALL.tolist()
    assert got["s"].tolist() == STRINGS.tolist()
    return True


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_every_prefix_of_every_file(tmp_path: pathlib.Path, kind: str) -> None:
    prefix, files = small(tmp_path, kind)
    assert is_right(prefix)
    for file in files:
        whole = file.read_bytes()
        for stop in range(len(whole)):
            write_as_if_old(file, whole[:stop])
            assert not is_right(prefix), stop
        file.write_bytes(whole)


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_every_flip_of_every_bit(tmp_path: pathlib.Path, kind: str) -> None:
    prefix, files = small(tmp_path, kind)
    bits, harmless = 0, 0
    for file in files:
        whole = file.read_bytes()
        for bit in range(8 * len(whole)):
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << bit % 8
            write_as_if_old(file, flipped)
            bits += 1
            harmless += is_right(prefix)
        file.write_bytes(whole)
    # Padding of the footer, and the meta index, which nobody reads.
    assert 0 < harmless < 8 * 64
    assert bits > 1500


def test_verify_tells_data_of_another_checkpoint(tmp_path: pathlib.Path) -> None:
    arrays = {name: np.arange(8.0) + i for i, name in enumerate("abc")}
    write_bundle(tmp_path / "one", arrays)
    write_bundle(tmp_path / "two", {name: -array for name, array in arrays.items()})
    (tmp_path / "two.data-00000-of-00001").rename(tmp_path / "one.data-00000-of-00001")
    report = tf2flax.open_checkpoint(tmp_path / "one").verify()
    assert not report.ok
    assert "data of another checkpoint" in report.damaged[0].message
    assert [damage.name for damage in report.damaged[1:]] == ["a", "b", "c"]
    with pytest.raises(tf2flax.DamagedError, match="4 damaged"):
        report.raise_for_damage()
    data = tmp_path / "one.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-1])
    report = tf2flax.open_checkpoint(tmp_path / "one").verify()
    assert [damage.name for damage in report.damaged] == ["a", "b", "c"]
    assert "1 are missing" in str(report)
    data.unlink()
    report = tf2flax.open_checkpoint(tmp_path / "one").verify()
    assert [damage.name for damage in report.damaged] == ["a", "b", "c"]
    assert "data file is missing" in str(report)


def test_verify_tells_files_that_go_on(tmp_path: pathlib.Path) -> None:
    write_bundle(tmp_path / "m", {"a": np.arange(8.0)})
    with (tmp_path / "m.data-00000-of-00001").open("ab") as file:
        file.write(b"xyz")
    report = tf2flax.open_checkpoint(tmp_path / "m").verify()
    assert "67 bytes, 3 more than its index lists" in str(report)
    assert tf2flax.open_checkpoint(tmp_path / "m")["a"].read().size == 8


def test_verify_does_not_blame_the_data_for_the_index() -> None:
    report = tf2flax.open_checkpoint(CORPUS / "slices_hole" / "m").verify()
    assert [damage.name for damage in report.damaged] == ["x"]


def test_verify_reports_progress(tmp_path: pathlib.Path) -> None:
    arrays = {f"t{i}": np.zeros((1 << 20) // 8 + i) for i in range(9)}
    write_bundle(tmp_path / "m", arrays | {"small": np.zeros(3), "s": STRINGS})
    checkpoint = tf2flax.open_checkpoint(tmp_path / "m")
    seen: list[tf2flax.Progress] = []
    report = checkpoint.verify(progress=seen.append)
    total = sum(tensor.nbytes for tensor in checkpoint.values())
    assert report.nbytes == total
    assert seen[-1].done == seen[-1].total == total
    done = [progress.done for progress in seen]
    assert done == sorted(done)
