"""Vocabularies against live TensorFlow 1.15: `tf.train.warm_start` with `VocabInfo`.

The recorded cases of `tests/data/vocabulary` once more, and random files, sizes, axes,
buckets and partitions. Both give the same values, or both fail, but for two decisions:
a word may stand twice in the new file, which TensorFlow refuses; and `old_size` counts
for columns as well, where TensorFlow does not look at it.
"""

from __future__ import annotations

import base64
import json
import os
import pathlib
import random
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest
from bundle_writer import Tensor, rows_in, write_bundle
from repository import DATA

import tf2flax

TF1 = os.environ.get("TF2FLAX_TF1_PYTHON", "")
EXAMPLES = int(os.environ.get("TF2FLAX_ORACLE_EXAMPLES", "60"))
WORKER = pathlib.Path(__file__).with_name("vocabulary_worker.py")
RECORDED = json.loads((DATA / "vocabulary" / "recorded.json").read_text())
MISSING = RECORDED["missing"]
WORDS = [b"the", b"cat", b"sat", b" sat", b"sat ", b"mat", b"\xc3\xa9", b"\xff", b"a b"]
WORDS += [b"x\0y", b"x\ry", b"[UNK]", b"##s", b"THE"]

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.skipif(not TF1, reason="set TF2FLAX_TF1_PYTHON"),
]


class Worker:
    """TensorFlow in a process of its own, which some vocabularies kill."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def ask(self, case: dict[str, Any]) -> dict[str, Any] | None:
        """TensorFlow's answer; None if it died of the case (signal 11)."""
        if self._process is None:
            self._process = subprocess.Popen(
                [TF1, "-W", "ignore", str(WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        process = self._process
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps(case) + "\n")
        process.stdin.flush()
        for line in process.stdout:
            if line.startswith("ANSWER "):
                return json.loads(line.removeprefix("ANSWER "))
        code = self.close()
        assert code == -signal.SIGSEGV, (code, case)
        return None

    def close(self) -> int:
        """Ends the process; its exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        assert process.stdin
        assert process.stdout
        process.stdin.close()
        process.stdout.close()
        return process.wait()


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


def ours(case: dict[str, Any], folder: pathlib.Path) -> dict[str, Any]:
    for name in ("old", "new"):
        (folder / name).write_bytes(base64.b64decode(case[name]))
    options = dict(case["options"])
    table = np.arange(case["rows"] * 3, dtype="f4").reshape(-1, 3) + 1
    axis = options.get("axis", 0)
    table = np.ascontiguousarray(table.T) if axis else table
    parts = min(options.pop("old_parts", None) or 0, table.shape[0])
    slices = rows_in(table, parts) if parts else None
    write_bundle(folder / "m", {"table": Tensor(table, slices)})
    parts = options.pop("new_parts", None)
    try:
        rows = tf2flax.vocabulary(folder / "old", folder / "new", **options)
        shape = [*table.shape]
        shape[axis] = len(rows.numbers)
        target: dict[str, Any] = {"x": jax.ShapeDtypeStruct(tuple(shape), "float32")}
        if parts:
            heights = [len(p) for p in np.array_split(np.arange(shape[0]), parts)]
            target = {
                f"x/part_{i}": jax.ShapeDtypeStruct((n, shape[1]), "float32")
                for i, n in enumerate(heights)
            }
        key = tf2flax.src("table").take(rows, fill=MISSING)
        tree = tf2flax.init_from_checkpoint(folder / "m", {key: "x"}, target)
    except tf2flax.AssignmentError as error:
        return {"error": str(error)}
    leaves = [np.asarray(leaf) for leaf in tree.values()]
    return {"values": np.concatenate(leaves).tolist()}


def names_a_word_twice(case: dict[str, Any]) -> bool:
    words = base64.b64decode(case["new"]).removesuffix(b"\n").split(b"\n")
    words = [word.removesuffix(b"\r") for word in words][
        : case["options"].get("new_size")
    ]
    return len(words) > len({*words})


@pytest.mark.parametrize("name", list(RECORDED["cases"]))
def test_what_was_recorded_is_what_tensorflow_does(name: str, worker: Worker) -> None:
    case = RECORDED["cases"][name]
    answer = worker.ask(case)
    assert answer is not None
    assert answer.get("values") == case.get("values")
    assert answer.get("error") == case.get("error")


def as_tensorflow_takes_it(case: dict[str, Any]) -> dict[str, Any]:
    """A case in which the old file of columns ends where `old_size` says."""
    options = dict(case["options"])
    if not options.get("axis") or "old_size" not in options:
        return case
    words = base64.b64decode(case["old"]).split(b"\n")[: options.pop("old_size")]
    old = base64.b64encode(b"\n".join(words)).decode()
    return {**case, "old": old, "options": options}


def draw_file(rng: random.Random) -> tuple[bytes, int]:
    count = rng.randint(1, 8)
    words = rng.sample(WORDS, count)
    if rng.random() < 0.1:
        words[rng.randrange(count)] = rng.choice([b"", b"\r", b" "])
    if rng.random() < 0.15:
        words[rng.randrange(count)] = words[0]
    end = rng.choice([b"\n", b"\n", b"\r\n"])
    return end.join(words) + rng.choice([b"", end]), count


def draw_case(rng: random.Random) -> dict[str, Any]:
    (old, num_old), (new, num_new) = draw_file(rng), draw_file(rng)
    options: dict[str, Any] = {}
    for name, count in (("old_size", num_old), ("new_size", num_new)):
        if rng.random() < 0.4:
            options[name] = rng.randint(1, count + (rng.random() < 0.1))
    if rng.random() < 0.5:
        options["num_oov_buckets"] = rng.randint(0, 3)
    if rng.random() < 0.3 and options.get("old_size", 0) <= num_old:
        options["axis"] = 1
    if rng.random() < 0.3:
        options["old_parts"] = rng.randint(2, 3)
    count = options.get("new_size", num_new) + options.get("num_oov_buckets", 0)
    if rng.random() < 0.3 and not options.get("axis") and count > 2:
        options["new_parts"] = 2
    rows = num_old + rng.choice([0, 0, 1, 3, -1 if num_old > 1 else 0])
    encoded = {n: base64.b64encode(f).decode() for n, f in (("old", old), ("new", new))}
    return {**encoded, "options": options, "rows": rows}


def test_random_vocabularies(worker: Worker, tmp_path: pathlib.Path) -> None:
    rng = random.Random()
    counts = {"values": 0, "error": 0, "died": 0}
    for number in range(EXAMPLES):
        case = draw_case(rng)
        folder = tmp_path / str(number)
        folder.mkdir()
        theirs, got = worker.ask(as_tensorflow_takes_it(case)), ours(case, folder)
        facts = f"{json.dumps(case)}\n{theirs}\n{got}"
        if theirs is None:
            counts["died"] += 1
            continue
        if "error" in theirs and names_a_word_twice(case):
            # Which row it is in the old file, the recorded case says.
            continue
        assert theirs.get("values") == got.get("values"), facts
        counts["values" if "values" in got else "error"] += 1
    assert counts["values"] > EXAMPLES // 4
    assert counts["error"] > EXAMPLES // 30
    assert counts["died"] <= EXAMPLES // 10
