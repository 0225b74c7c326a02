"""`checkpoints_iterator`: what is new, whole and latest, and an end in time."""

from __future__ import annotations

import pathlib
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import v1_writer as v1

import tf2flax
from tf2flax._checkpoint import watching


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "POLL_INTERVAL_S", 0.02)


def save(folder: pathlib.Path, step: int) -> str:
    arrays = {"a": np.full((100, 10), step, "<f4"), "b": np.ones(3)}
    return tf2flax.save_checkpoint(folder / f"m-{step}", arrays)


def test_each_new_checkpoint_once(tmp_path: pathlib.Path) -> None:
    wanted = threading.Semaphore(0)

    def train() -> None:
        for step in range(3):
            wanted.acquire()
            time.sleep(0.05)  # so that the iterator looks and finds nothing new
            save(tmp_path / "run", step)

    trainer = threading.Thread(target=train)
    trainer.start()
    checkpoints = tf2flax.checkpoints_iterator(tmp_path / "run", timeout=600)
    seen: list[str] = []
    for _ in range(3):
        wanted.release()
        seen.append(next(checkpoints))
    trainer.join()
    assert seen == [f"{tmp_path}/run/m-{step}" for step in range(3)]


def test_a_half_written_one_is_waited_for(tmp_path: pathlib.Path) -> None:
    prefix = save(tmp_path, 1)
    data = pathlib.Path(f"{prefix}.data-00000-of-00001")
    index = pathlib.Path(f"{prefix}.index")
    right = {path: path.read_bytes() for path in (data, index)}

    def found() -> list[str]:
        return list(tf2flax.checkpoints_iterator(tmp_path, timeout=0.05))

    assert found() == [prefix]
    data.write_bytes(right[data][:-1])
    assert found() == []
    data.unlink()
    assert found() == []
    data.write_bytes(right[data])
    for stop in (0, 10, len(right[index]) - 1):
        index.write_bytes(right[index][:stop])
        assert found() == []
    index.unlink()
    assert found() == []
    index.write_bytes(right[index])
    (tmp_path / "checkpoint").write_text("model_checkpoint_path: ")
    assert found() == []
    (tmp_path / "checkpoint").write_text("")
    assert found() == []


def test_it_is_yielded_once_it_is_whole(tmp_path: pathlib.Path) -> None:
    prefix = save(tmp_path, 1)
    data = f"{prefix}.data-00000-of-00001"
    part = pathlib.Path(data).rename(f"{data}.part")
    threading.Timer(0.2, part.rename, (data,)).start()
    assert next(tf2flax.checkpoints_iterator(tmp_path, timeout=600)) == prefix
    tf2flax.open_checkpoint(prefix)["a"].read()


def test_v1(tmp_path: pathlib.Path) -> None:
    v1.write_v1(tmp_path / "m", {"a": np.ones(3, "<f4")})
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "m"')
    assert list(tf2flax.checkpoints_iterator(tmp_path, timeout=0)) == [f"{tmp_path}/m"]
    whole = (tmp_path / "m").read_bytes()
    (tmp_path / "m").write_bytes(whole[:-1])
    assert list(tf2flax.checkpoints_iterator(tmp_path, timeout=0)) == []


def test_timeouts(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    with monkeypatch.context() as patch:
        patch.setattr(watching, "time", clock)
        assert list(tf2flax.checkpoints_iterator(tmp_path / "none", timeout=0.1)) == []
    assert 0.1 <= clock.now <= 0.1 + watching.POLL_INTERVAL_S
    answers = iter([False, False, True])
    called: list[bool] = []

    def is_over() -> bool:
        called.append(next(answers))
        return called[-1]

    prefix = save(tmp_path, 1)
    found = tf2flax.checkpoints_iterator(tmp_path, timeout=0, timeout_fn=is_over)
    assert list(found) == [prefix]
    assert called == [False, False, True]


class Clock:
    """Stands for the module `time`: who sleeps wakes in time, however busy it is."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_the_least_interval(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(watching, "time", clock)
    save(tmp_path, 1)
    found = tf2flax.checkpoints_iterator(tmp_path, min_interval_secs=0.3, timeout=0)
    assert isinstance(found, Iterator)
    next(found)
    save(tmp_path, 2)
    assert clock.now == 0
    assert next(found).endswith("m-2")
    assert clock.now == 0.3


def test_what_is_no_directory_name() -> None:
    with pytest.raises(tf2flax.UnsupportedError, match="Expected the path"):
        tf2flax.checkpoints_iterator(3)  # pyright: ignore[reportArgumentType]
