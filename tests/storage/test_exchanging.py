"""A checkpoint that takes another's place, interrupted or refused at any moment."""

from __future__ import annotations

import _thread
import contextlib
import fcntl
import os
import pathlib
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from forking import run_forked, run_together

import tf2flax
from tf2flax._storage import exchanging

NAMES = ("replace", "rename", "unlink", "link", "fsync", "write")


def save(prefix: pathlib.Path, value: int, data_files: int = 2) -> str:
    tensors = {f"t{i}": np.full((8, 3), value + i, "<f4") for i in range(4)}
    return tf2flax.save_checkpoint(
        prefix, tensors, data_files=data_files, overwrite=True
    )


def value_of(prefix: str | pathlib.Path) -> int | None:
    """Which checkpoint is there, whole; None for none."""
    try:
        checkpoint = tf2flax.open_checkpoint(prefix)
    except tf2flax.CheckpointNotFoundError:
        return None
    assert checkpoint.verify().ok
    found = {int(a[0, 0]) - i for i, a in enumerate(checkpoint.read().values())}
    (value,) = found
    return value


class Disturbed:
    """Calls of the system, of which the n-th is disturbed."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        number: int,
        error: Callable[[], BaseException],
        *,
        is_after: bool = False,
        names: tuple[str, ...] = NAMES,
    ) -> None:
        self.calls: list[str] = []
        for name in names:
            monkeypatch.setattr(os, name, self.wrapped(name, number, error, is_after))

    def wrapped(
        self, name: str, number: int, error: Callable[[], BaseException], after: bool
    ) -> Any:
        original = getattr(os, name)

        def call(*args: Any, **options: Any) -> Any:
            self.calls.append(name)
            is_it = len(self.calls) == number
            if is_it and not after:
                raise error()
            result = original(*args, **options)
            if is_it:
                raise error()
            return result

        return call


def temporary(folder: pathlib.Path) -> list[str]:
    return [path.name for path in folder.iterdir() if "tempstate" in path.name]


@pytest.mark.parametrize("is_after", [False, True])
@pytest.mark.parametrize("files", [(1, 1), (2, 2), (2, 1)])
def test_interrupted_at_every_call(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    files: tuple[int, int],
    *,
    is_after: bool,
) -> None:
    seen: set[int | None] = set()
    for number in range(1, 200):
        folder = tmp_path / str(number)
        save(folder / "m", 100, files[0])
        with monkeypatch.context() as patch:
            calls = Disturbed(patch, number, KeyboardInterrupt, is_after=is_after).calls
            try:
                save(folder / "m", 500, files[1])
            except KeyboardInterrupt:
                pass
            else:
                break
        seen.add(value_of(folder / "m"))
        assert value_of(folder / "m") in (100, 500)  # never none
        assert value_of(folder) in (100, 500)
        assert not temporary(folder), (number, calls)
        # Neither are there second names of data files.
        assert len(list(folder.iterdir())) - 2 in files
    else:
        pytest.fail("it never came to its end")
    assert seen == {100, 500}
    assert value_of(folder / "m") == 500
    assert number >= 10


@pytest.mark.parametrize("files", [(1, 1), (2, 2), (2, 1)])
def test_refused_at_every_call(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, files: tuple[int, int]
) -> None:
    def error() -> OSError:
        return OSError(5, "Input/output error")

    for number in range(1, 200):
        folder = tmp_path / str(number)
        save(folder / "m", 100, files[0])
        with monkeypatch.context() as patch:
            calls = Disturbed(patch, number, error).calls
            with contextlib.suppress(tf2flax.ReadError):
                save(folder / "m", 500, files[1])
                if len(calls) < number:
                    break
        assert value_of(folder / "m") in (100, 500), (number, calls)
        assert not [name for name in temporary(folder) if ".old" not in name]
    else:
        pytest.fail("it never came to its end")
    assert number >= 10


def test_refused_where_there_are_no_links(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the old data may be lost; the new ones are somewhere, and it says so."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    original = os.replace
    for name in ("data-00000-of-00002", "data-00001-of-00002", "index"):
        prefix = pathlib.Path(save(tmp_path / name / "m", 100))

        def replace(source: str, target: str, name: str = name) -> None:
            if target.endswith(name) and ".tempstate" not in target:
                raise OSError(5, "Input/output error")
            original(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "link", refuse)
            patch.setattr(os, "replace", replace)
            with pytest.raises(tf2flax.ReadError) as caught:
                save(prefix, 500)
        if name == "data-00000-of-00002":
            assert "what was there is still there" in str(caught.value)
            assert value_of(prefix) == 100
            assert not temporary(prefix.parent)
        else:
            assert "the old checkpoint is lost" in str(caught.value)
            assert value_of(prefix) is None
            (index,) = prefix.parent.glob("m.tempstate*.index")
            assert str(index.with_suffix("")) in str(caught.value)
            assert value_of(index.with_suffix("")) == 500


@pytest.mark.parametrize(
    ("files", "has_links", "refused", "words"),
    [
        # From other names to other names; back to those of the old index; to the place
        # of data that is gone.
        ((1, 2), True, ".data-00000-of-00002", "what was there is still there, and"),
        ((2, 2), False, ".old", "and what was there opens again"),
        ((2, 2), False, ".data-00001-of-00002", "none of them opens"),
    ],
)
def test_renames_that_are_not_undone(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    files: tuple[int, int],
    refused: str,
    words: str,
    *,
    has_links: bool,
) -> None:
    """It is said what opens then, and only what does not open."""
    prefix = save(tmp_path / "m", 100, files[0])
    replace, link = os.replace, os.link
    is_undoing = False

    def refuse(source: str, target: str) -> None:
        nonlocal is_undoing
        # The last step is the first to fail; from then on that of the case.
        if target == f"{prefix}.index" and ".tempstate" in source and not is_undoing:
            is_undoing = True
            raise OSError(5, "Input/output error")
        if is_undoing and source.endswith(refused):
            raise OSError(5, "Input/output error")
        replace(source, target)

    def refuse_to_link(source: str, target: str) -> None:
        # The index alone has no second name, so that the old one goes aside.
        if not has_links and source == f"{prefix}.index":
            raise PermissionError(1, "Operation not permitted")
        link(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        patch.setattr(os, "link", refuse_to_link)
        with pytest.raises(tf2flax.ReadError, match=words) as caught:
            save(tmp_path / "m", 500, files[1])
    if ".old" in refused:
        old, new = str(caught.value).split("`")[3:7:2]
        pathlib.Path(old).replace(new)
        assert value_of(str(caught.value).split("`")[7]) == 500
    is_whole = "none" not in words
    assert value_of(prefix) == (100 if is_whole else None)


@pytest.mark.parametrize("files", [(2, 2), (2, 1)])
def test_a_directory_that_cannot_be_read(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, files: tuple[int, int]
) -> None:
    """It has no lock then, and no list of names; the old one goes on as always."""
    prefix = save(tmp_path / "m", 100, files[0])
    original, replace, listed = os.open, os.replace, os.listdir
    seen: list[int | None] = []

    def refuse(path: Any, *arguments: Any, **options: Any) -> int:
        if os.fspath(path) == str(tmp_path):
            raise PermissionError(13, "Permission denied")
        return original(path, *arguments, **options)

    def refuse_names(path: Any = ".") -> list[Any]:
        if os.fspath(path) == str(tmp_path):
            raise PermissionError(13, "Permission denied")
        return listed(path)

    def watched(source: str, target: str) -> None:
        replace(source, target)
        seen.append(value_of(prefix))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        patch.setattr(os, "replace", watched)
        patch.setattr(os, "listdir", refuse_names)
        with pytest.raises(tf2flax.ExistsError):
            tf2flax.save_checkpoint(prefix, {"t": np.ones(2)})
        with pytest.raises(tf2flax.ReadError, match="is written and complete"):
            save(tmp_path / "m", 500, files[1])
    assert seen == ([100, 100, 100, 500, 500] if files == (2, 2) else [100, 500, 500])
    assert not temporary(tmp_path)


def test_the_lock_ends_with_the_exchange(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where another process was forked meanwhile and has the file open still."""
    copies: list[int] = []
    original = os.open

    def open_twice(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        descriptor = original(path, flags, *arguments, **options)
        if os.fspath(path) == str(tmp_path):
            copies.append(os.dup(descriptor))
        return descriptor

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", open_twice)
        save(tmp_path / "m", 100)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert copies
    for number in (descriptor, *copies):
        os.close(number)


def test_an_interrupt_that_always_comes(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = save(tmp_path / "m", 100)
    original = os.replace

    def replace(source: str, target: str) -> None:
        if source.endswith(".index"):
            raise KeyboardInterrupt
        original(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path / "m", 500)
    assert value_of(prefix) == 500


def test_signals_wait_for_the_end(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real ones, also two, and whatever a handler raises."""
    prefix = save(tmp_path / "m", 100)
    original = os.replace

    def slow(source: str, target: str) -> None:
        if source.endswith(".old.index"):
            for number in (signal.SIGINT, signal.SIGUSR1):
                os.kill(os.getpid(), number)
        time.sleep(0.02)
        original(source, target)

    def leave(*_: object) -> None:
        raise SystemExit(3)

    before = signal.signal(signal.SIGUSR1, leave)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", slow)
            # The handler of the second signal may run a moment after the first.
            with contextlib.suppress(SystemExit):
                with pytest.raises((KeyboardInterrupt, SystemExit)):
                    save(tmp_path / "m", 500)
                time.sleep(0.05)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert value_of(prefix) == 500
    assert not temporary(tmp_path)


def test_without_threads(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(_thread, "start_new_thread", refuse)
    assert value_of(save(tmp_path / "m", 100)) == 100
    assert value_of(save(tmp_path / "m", 500)) == 500
    assert not temporary(tmp_path)


def test_saving_when_python_ends(tmp_path: pathlib.Path) -> None:
    code = (
        "import atexit, numpy, tf2flax\n"
        f"path = {str(tmp_path / 'm')!r}\n"
        "atexit.register(lambda: tf2flax.save_checkpoint(path, {'a': numpy.ones(2)}))"
    )
    run_forked(code, check=True)
    assert tf2flax.load_variable(tmp_path / "m", "a").tolist() == [1, 1]


@pytest.mark.parametrize("has_links", [True, False])
def test_the_moment_without_a_checkpoint(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, *, has_links: bool
) -> None:
    """Where there are links there is none; else only renames, one for each file."""

    def noting(name: str, index: pathlib.Path, calls: list[tuple[str, bool]]) -> Any:
        original = getattr(os, name)

        def call(*args: Any, **options: Any) -> Any:
            if name == "link" and not has_links:
                raise PermissionError(1, "Operation not permitted")
            result = original(*args, **options)
            calls.append((name, index.exists()))
            return result

        return call

    for old, new in ((1, 1), (4, 4), (4, 3), (3, 4)):
        folder = tmp_path / f"{old}-{new}"
        save(folder / "m", 100, old)
        noted: list[tuple[str, bool]] = []
        with monkeypatch.context() as patch:
            for name in NAMES:
                patch.setattr(os, name, noting(name, folder / "m.index", noted))
            save(folder / "m", 500, new)
        calls = [name for name, _ in noted]
        moment = [name for name, is_there in noted if not is_there]
        # The rename that ends it is the one after which the index is there again.
        is_short = has_links or old != new
        assert moment == ([] if is_short else ["replace"] * (1 + new))
        assert "fsync" in calls[calls.index("replace") :]


def test_second_names_that_a_killed_save_left(tmp_path: pathlib.Path) -> None:
    """They are not taken again, and the next save removes them."""
    for count in (2, 3, 4):
        prefix = save(tmp_path / "m", 100, 2)
        for number in range(count):
            path = tmp_path / f"m.data-{number:05d}-of-{count:05d}"
            if not path.exists():
                path.write_bytes(b"left")
        assert value_of(prefix) == 100
        assert value_of(save(tmp_path / "m", 500, 2)) == 500
        assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("contents", [b"", b"not a table" * 9])
def test_a_damaged_index_is_replaced_all_the_same(
    tmp_path: pathlib.Path, contents: bytes
) -> None:
    prefix = save(tmp_path / "m", 100)
    (tmp_path / "m.index").write_bytes(contents)
    assert value_of(save(tmp_path / "m", 500)) == 500
    assert not temporary(pathlib.Path(prefix).parent)


def test_temporary_files_of_a_killed_save(tmp_path: pathlib.Path) -> None:
    left = f"{tmp_path}/m.tempstate{'ab' * 8}"
    names = [f"{left}{s}" for s in (".index", ".data-00000-of-00001", ".old")]
    others = [
        f"{tmp_path}/m.tempstate", f"{left}.txt", f"{tmp_path}/m2.tempstate{'ab' * 8}",
    ]  # fmt: skip
    for path in (*names, *others):
        pathlib.Path(path).write_bytes(b"")
    save(tmp_path / "m", 100)
    assert all(map(os.path.exists, (*names, *others)))  # somebody may be writing them
    for path in (*names, *others):
        os.utime(path, (0, time.time() - 90_000))
    save(tmp_path / "m", 500)
    assert not any(map(os.path.exists, names))
    assert all(map(os.path.exists, others))


def test_a_job_runs_once() -> None:
    runs: list[int] = []
    exchanging.uninterrupted(lambda: runs.append(1))
    assert runs == [1]
    with pytest.raises(OSError, match="no"):
        exchanging.uninterrupted(lambda: (_ for _ in ()).throw(OSError("no")))


WRITER = """
import sys, numpy as np, tf2flax
value = int(sys.argv[2])
for _ in range(12):
    tensors = {f"t{i}": np.full((value, 3), value + i, "<f4") for i in range(4)}
    tf2flax.save_checkpoint(sys.argv[1], tensors, data_files=2, overwrite=True)
"""


def test_two_processes_that_write_one_prefix(tmp_path: pathlib.Path) -> None:
    writers = run_together(WRITER, [(tmp_path / "m", 100), (tmp_path / "m", 500)])
    assert [writer.returncode for writer in writers] == [0, 0], writers
    assert value_of(tmp_path / "m") in (100, 500)
    assert not temporary(tmp_path)


class Clock:
    """Stands for the module `time`; whoever sleeps lets the time go by."""

    def __init__(self, on_sleep: Callable[[], None] = lambda: None) -> None:
        self.sleeps = 0
        self._now = 0.0
        self._on_sleep = on_sleep

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        self._now += seconds
        self._on_sleep()


def test_another_exchange_is_waited_for_but_not_for_ever(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        clock = Clock(on_sleep=lambda: fcntl.flock(lock, fcntl.LOCK_UN))
        monkeypatch.setattr(exchanging, "time", clock)
        assert value_of(save(tmp_path / "m", 100)) == 100
        assert clock.sleeps == 1
        fcntl.flock(lock, fcntl.LOCK_EX)
        clock = Clock()
        monkeypatch.setattr(exchanging, "time", clock)
        assert value_of(save(tmp_path / "m", 500)) == 500
        # Once for the files, and once for the state file.
        limit = 2 * exchanging._MAX_WAITING_S
        assert clock.monotonic() == pytest.approx(limit, abs=1)
    finally:
        os.close(lock)
