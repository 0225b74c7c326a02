"""Several processes save one checkpoint: each its shards, and all of them, or none."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import pathlib
from collections.abc import Iterator

import jax
import numpy as np
import pytest
from gcs_server import serving_bucket
from jobs import run_job, start_job
from s3_server import serving_s3

import tf2flax
from tf2flax._jax import agreement
from tf2flax._writing import together
from tf2flax._writing.trees import prepare_tree

NBYTES = 16 * 8 * 4
# Who is told what: the text of the last process, and that of the others.
ERRORS = {
    "a leaf is gone": "was deleted or donated",
    "no space": "No space left on device",
    "the store refuses": "All 3 retry attempts failed: Service Unavailable",
    "no space, and one is there": "No space left on device",
}
ALIKE = ("other trees", "other options", "another prefix")


def test_two_processes(tmp_path: pathlib.Path) -> None:
    check_job(tmp_path, 2)


@pytest.mark.slow
def test_four_processes(tmp_path: pathlib.Path) -> None:
    check_job(tmp_path, 4)


def check_job(folder: pathlib.Path, count: int) -> None:
    found, names = run_saving_job(folder, count)
    data = [f"run/m.data-{i:05d}-of-{count + 1:05d}" for i in range(count + 1)]
    assert names == ["run/checkpoint", *data, "run/m.index"]
    checkpoint = tf2flax.open_checkpoint(folder / "all/m")
    files = sorted((folder / "all").glob("m.data-*"))
    assert [path.name for path in files] == [
        f"m.data-{i:05d}-of-{count:05d}" for i in range(count)
    ]
    assert sorted(path.name for path in (folder / "all").iterdir()) == [
        "checkpoint", *(path.name for path in files), "m.index",
    ]  # fmt: skip
    # Each element is there once, also those that all processes have.
    sizes = [path.stat().st_size for path in files]
    assert sum(sizes) == sum(tensor.nbytes for tensor in checkpoint.values())
    # By the lowest of those that have it: the mesh is of 2 x 4 devices.
    writers = {
        name: [int(piece.path[-14:-9]) for piece in tensor.entry.pieces]
        for name, tensor in checkpoint.items()
    }
    assert writers["params/rows"] == [i * count // 8 for i in range(8)]
    assert writers["params/half_rows"] == [0, count // 2]
    assert writers["params/columns"] == [i * count // 8 for i in range(4)]
    assert writers["params/replicated"] == writers["params/host"] == [0]
    num_slices = {name: len(tensor.slices) for name, tensor in checkpoint.items()}
    assert num_slices["params/rows"] == num_slices["params/both"] == 8
    assert (num_slices["params/half_rows"], num_slices["params/columns"]) == (2, 4)
    assert num_slices["params/replicated"] == num_slices["params/none"] == 0
    assert num_slices["params/family"] == 4
    few = sorted((folder / "few").glob("m.data-*"))
    assert [one["few"] for one in found] == [NBYTES] + [0] * (count - 1)
    assert len(few) == 2 * count
    for name, offset in (("rows", 0), ("columns", 2)):
        want = np.arange(16 * 8, dtype=np.float32).reshape(16, 8) + offset
        assert np.array_equal(checkpoint[f"params/{name}"].read(), want)
    assert tf2flax.latest_checkpoint(folder / "all") == f"{folder}/all/m"
    check_errors(found, count)
    for one in found:
        parts = [text.partition(": ")[2] for text in one["refusals"]]
        assert len(parts) == 4
        for text in parts[:2]:
            assert "`odd` spans processes, and its shards are no slices of" in text
        assert "covered only partly by leaves that span processes: `odd`" in parts[2]
        assert "covered several times by leaves that span" in parts[3]


def run_saving_job(folder: pathlib.Path, count: int) -> tuple[list[dict], list[str]]:
    """What the processes found, and what they left in a store."""
    rng = np.random.default_rng(0)
    tensors = {f"layer_{i}/w": rng.random((4, 6), "f4") for i in range(4)}
    tensors |= {
        "kernel": rng.random((8, 16), "f4"), "kernel/Adam": rng.random((8, 16), "f4"),
        "narrow": rng.random((4, 3), "f4"), "table": rng.random((4, 8), "f4"),
        "bias": rng.random(5, "f4"), "global_step": np.int64(7),
    }  # fmt: skip
    tf2flax.save_checkpoint(folder / "source/m", tensors)
    with serving_bucket() as bucket:
        # The first answers of all kinds are faults.
        seen: set[tuple[str, str]] = set()

        def fail(method: str, key: str) -> str:
            if f"refused/m.data-{count - 1:05d}" in key:
                return "503"
            is_first = (method, key) not in seen
            seen.add((method, key))
            return "503" if is_first and method == "POST" else ""

        bucket.fails = fail
        found = run_job(count, "saving_job_worker.py", folder, bucket.url)
        names = bucket.names()
    return found, names


def check_errors(found: list[dict], count: int) -> None:
    for one in found:
        is_last = one["process"] == count - 1
        errors = one["errors"]
        for case, text in ERRORS.items():
            assert text in errors[case]
            assert ("processes could not save" in errors[case]) != is_last, errors[case]
        for case in ALIKE:
            assert "Give all of them the same prefix" in errors[case], errors[case]
        assert "does not see what process 0 wrote" in errors["another place"]
        assert "A checkpoint is there already" in errors["it exists"]
        assert errors["it exists"].startswith("ExistsError") == (one["process"] == 0)
        assert "Input/output error" in errors["no renaming"]


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_another_process_has_ended(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Told in each of four steps; in the last one, the checkpoint is there."""
    processes = {0: jax.devices()[0]}
    done: list[int] = []

    def fail(_: jax.Array) -> None:
        raise ValueError("UNKNOWN: Gloo AllGather failed: reset by peer")

    @contextlib.contextmanager
    def all_or_none(*_: object) -> Iterator[agreement.Agreement]:
        one = agreement.Agreement({})
        yield one
        one.notes = {0: one.note}
        done.append(0)
        if len(done) == step:
            monkeypatch.setattr(agreement, "_same", fail)
            agreement.exchange_rows(processes, np.zeros(2, np.uint32))

    monkeypatch.setattr(together, "all_or_none", all_or_none)
    save = together.SharedSave(tmp_path / "new" / "m", processes, 1, False)
    with pytest.raises(
        tf2flax.ReadError, match=r"has ended, .* reset by peer. Look"
    ) as e:
        save.run(lambda: prepare_tree({"a": np.ones(2)}))
    is_there = step == 4
    assert ("is written and complete. Another" in str(e.value)) == is_there
    assert (tmp_path / "new" / "m.index").exists() == is_there
    assert (tmp_path / "new").exists() == is_there


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_killed_at_any_moment(tmp_path: pathlib.Path, victim: int) -> None:
    killed = 0
    for calls in range(1, 60, 1 if victim else 2):
        prefix = tmp_path / f"{calls}" / "m"
        old = {name: np.full((16, 8), 100, "f4") for name in ("rows", "columns")}
        tf2flax.save_checkpoint(prefix, old, data_files=2)
        done = start_job(2, "saving_kill_worker.py", prefix, victim, calls)
        assert done[victim].returncode in (0, -9), done[victim].stderr
        try:
            got = tf2flax.open_checkpoint(prefix).read()
        except tf2flax.CheckpointNotFoundError:
            got = {}  # between the old index and the new one
        new = np.arange(16 * 8, dtype="f4").reshape(16, 8) + 500
        for array in got.values():
            want = new if got["rows"][0, 0] == 500 else old["rows"]
            assert np.array_equal(array, want)
        if "done" in done[victim].stdout:
            break
        killed += 1
    else:
        pytest.fail("it never came to its end")
    assert killed >= (3 if victim else 6)
    assert got["rows"][0, 0] == 500


@pytest.mark.slow
@pytest.mark.skipif(
    not pathlib.Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc"
)
@pytest.mark.parametrize("place", ["files", "a store"])
def test_peak_memory_is_bounded(tmp_path: pathlib.Path, place: str) -> None:
    with serving_bucket() as bucket:
        prefix = "gs://bucket/m" if place == "a store" else str(tmp_path / "m")
        arguments = (prefix, 1 << 30, bucket.url)
        found = run_job(2, "saving_memory_worker.py", *arguments)
        nbytes = sum(len(contents) for contents, _ in bucket.objects.values())
    assert (nbytes > 1 << 30) == (place == "a store")
    for one in found:
        assert one["peak"] <= 256 << 20, found


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("moto"), reason="needs moto[server]")
def test_two_processes_and_s3(tmp_path: pathlib.Path) -> None:
    with serving_s3("bucket") as variables, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        run_job(2, "saving_flat_worker.py", "s3://bucket/run/m", json.dumps(variables))
        got = tf2flax.open_checkpoint("s3://bucket/run/m")
        assert got.verify().ok
        want = np.arange(16 * 8, dtype="f4").reshape(16, 8)
        assert np.array_equal(got["rows"].read(), want)
        assert len(got["rows"].slices) == 8


def test_an_optimizer_of_two_processes(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        name + slot: rng.random(shape, "f4")
        for name, shape in (("kernel", (8, 16)), ("bias", (16,)))
        for slot in ("", "/Adam", "/Adam_1")
    }
    # As TensorFlow multiplies them up.
    powers = {
        f"beta{i}_power": np.full(9, beta, "f4").cumprod(dtype="f4")
        for i, beta in ((1, 0.9), (2, 0.999))
    }
    before = {name: power[7] for name, power in powers.items()}
    source = {**tensors, **before, "global_step": np.int64(7)}
    tf2flax.save_checkpoint(tmp_path / "source" / "m", source)
    for one in run_job(2, "saving_optimizer_worker.py", tmp_path):
        assert one["as_parameters"] == {"kernel": True, "bias": True}
    checkpoint = tf2flax.open_checkpoint(tmp_path / "new" / "m")
    assert checkpoint.verify().ok
    assert sorted(checkpoint) == sorted(source)
    for name, array in tensors.items():
        assert np.array_equal(checkpoint[name].read(), array + 1), name
        # The slots are cut as their parameters: transposed, by both axes of the mesh.
        assert len(checkpoint[name].slices) == (8 if name.startswith("kernel") else 0)
    assert checkpoint["global_step"].read() == 8
    assert all(checkpoint[name].read() == power[8] for name, power in powers.items())
    # Counters, and what all have, are written once.
    sizes = sum(path.stat().st_size for path in (tmp_path / "new").glob("m.data*"))
    assert sizes == sum(tensor.nbytes for tensor in checkpoint.values())
