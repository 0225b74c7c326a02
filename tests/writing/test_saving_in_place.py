"""A SavedModel saved over the source of its plan: the old or the new, always."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from forking import RESTORING, run_forked
from repository import DATA
from v1_writer import write_v1

import tf2flax
from tf2flax._storage.stores import KvStorage, storage_of

MODEL = DATA / "saved_model" / "model"
ENTRIES = {"fc1/": "fc1/", "head/": "head/"}
NAMES = ("replace", "rename", "unlink", "link", "fsync", "write")

# Finds out what lies in the folder; and saves there, doubled, dying at the n-th call.
PROGRAM = """
import os, signal, sys
import numpy as np, tf2flax

def plan_of(folder):
    view = tf2flax.open_checkpoint(folder).by_variable_name()
    target = {}
    for name in ("fc1/kernel", "fc1/bias", "head/kernel", "head/bias"):
        layer, _, part = name.partition("/")
        target.setdefault(layer, {})[part] = np.zeros(view[name].shape, "f4")
    plan = tf2flax.plan(view, {"fc1/": "fc1/", "head/": "head/"}, target)
    tree = {k: {p: view[f"{k}/{p}"].read() * 2 for p in v} for k, v in target.items()}
    return plan, tree

def save(folder, data_files):
    plan, tree = plan_of(folder)
    prefix = os.path.join(folder, "variables", "variables")
    tf2flax.save_checkpoint(
        prefix, tree, plan=plan, overwrite=True, data_files=data_files
    )
"""
KILLED = (
    PROGRAM
    + """
folder, data_files, left = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
original_write = os.write

def dying(function):
    def call(*arguments, **options):
        global left
        left -= 1
        if left == 0:
            if function is original_write:  # half of it gets there
                function(arguments[0], arguments[1][: len(arguments[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call

for name in ("write", "replace", "rename", "unlink", "fsync", "link"):
    setattr(os, name, dying(getattr(os, name)))
save(folder, data_files)
sys.stdout.write("done")
sys.stdout.flush()
"""
)
functions: dict[str, Any] = {}
exec(PROGRAM, functions)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    shutil.copytree(MODEL, tmp_path / "model")
    return tmp_path / "model"


def factor_of(folder: pathlib.Path) -> int:
    """By what all weights in a SavedModel are multiplied, and nothing else."""
    factors: set[int] = set()
    for path in (folder, folder / "variables" / "variables"):
        checkpoint = tf2flax.open_checkpoint(path)
        assert checkpoint.verify().ok
        before = tf2flax.open_checkpoint(MODEL)
        assert list(checkpoint) == list(before)
        for name, tensor in checkpoint.items():
            old, new = before[name].read(), tensor.read()
            if old.dtype != np.float32:
                assert np.array_equal(old, new)
            else:
                factors |= {int(f) for f in np.unique(new / old)}
    (factor,) = factors
    return factor


def check_others(folder: pathlib.Path) -> None:
    """What is no checkpoint is as it was, and no state file is there."""
    for path in MODEL.rglob("*"):
        if path.is_file() and path.parent.name != "variables":
            assert (folder / path.relative_to(MODEL)).read_bytes() == path.read_bytes()
    assert not list(folder.rglob("checkpoint"))


def names_in(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in (folder / "variables").iterdir())


def files_of(count: int) -> list[str]:
    data = [f"variables.data-{i:05d}-of-{count:05d}" for i in range(count)]
    return [*data, "variables.index"]


@pytest.mark.parametrize("data_files", [1, 2, 3])
def test_it_is_saved_over_the_source_of_its_plan(
    folder: pathlib.Path, data_files: int
) -> None:
    functions["save"](folder, data_files)
    assert factor_of(folder) == 2
    assert names_in(folder) == files_of(data_files)
    check_others(folder)
    functions["save"](folder, data_files)  # once more, with a plan of the new one
    assert factor_of(folder) == 4
    assert names_in(folder) == files_of(data_files)


@pytest.mark.parametrize("way", ["link", "dots", "below", "pbtxt"])
def test_no_state_file_gets_into_a_saved_model(
    folder: pathlib.Path, way: str, tmp_path: pathlib.Path
) -> None:
    """Whatever path leads into it."""
    variables = folder / "variables"
    if way == "link":
        (tmp_path / "link").symlink_to(variables)
        variables = tmp_path / "link"
    elif way == "dots":
        variables = folder / "assets" / ".." / "variables" / "."
        (folder / "assets").mkdir(exist_ok=True)
    elif way == "below":
        variables = folder / "assets.extra"
    else:
        (folder / "saved_model.pb").rename(folder / "saved_model.pbtxt")
    for name in ("variables", "more"):
        prefix = os.path.join(variables, name)  # noqa: PTH118 - with its dots
        tf2flax.save_checkpoint(prefix, {"a": np.ones(2)}, overwrite=True)
    tf2flax.save_checkpoint(folder / "beside", {"a": np.ones(2)})
    assert not list(folder.rglob("checkpoint"))


def test_the_plan_is_of_the_checkpoint_that_was_replaced(folder: pathlib.Path) -> None:
    """It must be made again; what it reads by then is refused, not mixed."""
    plan, tree = functions["plan_of"](folder)
    prefix = folder / "variables" / "variables"
    tf2flax.save_checkpoint(prefix, tree, plan=plan, overwrite=True)
    with pytest.raises(tf2flax.DamagedError, match="has been replaced"):
        tf2flax.save_checkpoint(prefix, tree, plan=plan, overwrite=True)
    assert factor_of(folder) == 2


class KilledError(BaseException):
    """Ends a save; from then on no call changes a file."""


def killed_save(
    monkeypatch: pytest.MonkeyPatch, folder: pathlib.Path, data_files: int, number: int
) -> bool:
    """Saves, and is as good as killed at the n-th call; True if it came to its end."""
    calls: list[str] = []

    def dying(name: str) -> Any:
        original = getattr(os, name)

        def call(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            if len(calls) == number and name == "write":  # half of it gets there
                original(arguments[0], arguments[1][: len(arguments[1]) // 2])
            if len(calls) >= number:
                raise KilledError
            return original(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for name in NAMES:
            patch.setattr(os, name, dying(name))
        # Renames are tried again after what a signal handler raises.
        with contextlib.suppress(KilledError, tf2flax.ReadError):
            functions["save"](folder, data_files)
    return len(calls) < number


def really_killed_save(
    _: pytest.MonkeyPatch, folder: pathlib.Path, data_files: int, number: int
) -> bool:
    """The same in a process of its own, by SIGKILL."""
    done = run_forked(KILLED, folder, data_files, number, imports=RESTORING)
    assert done.returncode in (0, -9), done.stderr
    return done.stdout == "done"


@pytest.mark.parametrize("data_files", [1, 2])
@pytest.mark.parametrize(
    "save", [killed_save, pytest.param(really_killed_save, marks=pytest.mark.slow)]
)
def test_killed_at_every_step(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    save: Callable[..., bool],
    data_files: int,
) -> None:
    factors: list[int] = []
    for number in range(1, 200):
        folder = tmp_path / str(number)
        shutil.copytree(MODEL, folder)
        is_done = save(monkeypatch, folder, data_files, number)
        factors.append(factor_of(folder))
        check_others(folder)
        if is_done:
            break
        # The next save finds its way through what is left, and removes second names.
        functions["save"](folder, 1)
        assert factor_of(folder) == 2 * factors[-1]
        left = [name for name in names_in(folder) if ".tempstate" not in name]
        assert left == files_of(1)
    else:
        pytest.fail("it never came to its end")
    assert factors == sorted(factors)
    assert factors.count(1) >= 10
    assert factors.count(2) >= 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(5, "Input/output error")])
@pytest.mark.parametrize("data_files", [1, 2])
def test_interrupted_or_refused_at_every_step(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    data_files: int,
    error: Any,
) -> None:
    factors: set[int] = set()
    for number in range(1, 200):
        folder = tmp_path / str(number)
        shutil.copytree(MODEL, folder)
        calls: list[str] = []

        def disturbed(name: str, number: int, calls: list[str]) -> Any:
            original = getattr(os, name)

            def call(*arguments: Any, **options: Any) -> Any:
                calls.append(name)
                if len(calls) == number:
                    raise error
                return original(*arguments, **options)

            return call

        with monkeypatch.context() as patch:
            for name in NAMES:
                patch.setattr(os, name, disturbed(name, number, calls))
            with contextlib.suppress(KeyboardInterrupt, tf2flax.ReadError):
                functions["save"](folder, data_files)
        factors.add(factor_of(folder))
        check_others(folder)
        if len(calls) < number:
            break
    else:
        pytest.fail("it never came to its end")
    assert factors == {1, 2}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("m.index", "the name of a file of the checkpoint"),
        ("m.data-00000-of-00001", "Give its prefix"),
        ("checkpoint", "the name of the state file"),
    ],
)
@pytest.mark.parametrize("place", ["", "memory://in-place-{}/"])
def test_files_of_another_checkpoint_are_no_prefixes(
    place: str, name: str, words: str, *, overwrite: bool, tmp_path: pathlib.Path
) -> None:
    folder = place.format(f"{name}{overwrite}") or f"{tmp_path}/"
    tf2flax.save_checkpoint(f"{folder}m", {"w": np.arange(3.0)})
    with pytest.raises(tf2flax.AssignmentError, match=words):
        tf2flax.save_checkpoint(
            f"{folder}{name}", {"w": np.zeros(3)}, overwrite=overwrite
        )
    assert np.array_equal(tf2flax.load_variable(f"{folder}m", "w"), np.arange(3.0))
    assert tf2flax.latest_checkpoint(folder) == f"{folder}m"


@pytest.mark.parametrize("place", ["", "memory://in-place-v1/"])
def test_a_v1_checkpoint_in_several_files_is_one(
    place: str, tmp_path: pathlib.Path
) -> None:
    """Files of other programs that are called alike are none, and stay."""
    folder = place or f"{tmp_path}/"
    shards = [f"m-0000{i}-of-00002" for i in range(2)]
    for name in shards:
        write_v1(tmp_path / "from" / name, {"w": np.ones(2)})
    (tmp_path / "from" / "m-00000-of-00003").write_bytes(b"records")
    storage, root = storage_of(folder)
    for path in (tmp_path / "from").iterdir():
        if isinstance(storage, KvStorage):
            storage.client.start_write(root + path.name, path.read_bytes()).result()
        else:
            shutil.copy(path, folder)
    if not place:
        source = tf2flax.open_checkpoint(f"{folder}m-?????-of-00002")
        with pytest.raises(tf2flax.ExistsError, match=f"at `{folder}{shards[0]}`"):
            tf2flax.convert(source, f"{folder}m", format="tensorbundle")
    with pytest.raises(tf2flax.ExistsError, match=f"at `{folder}{shards[0]}`"):
        tf2flax.save_checkpoint(f"{folder}m", {"w": np.zeros(2)})
    tf2flax.save_checkpoint(f"{folder}m", {"w": np.zeros(2)}, overwrite=True)
    assert [n for n in storage.names_in(root) if "-of" in n] == [
        "m-00000-of-00003", "m.data-00000-of-00001",
    ]  # fmt: skip
    # A prefix that only the files of another program share is free.
    tf2flax.save_checkpoint(f"{folder}m-00000-of-00003.x", {"w": np.zeros(2)})


@pytest.mark.parametrize("contents", [b"", b"x = 1\n", bytes(100)])
def test_a_file_that_is_no_checkpoint_is_not_replaced(
    contents: bytes, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "weights.py").write_bytes(contents)
    with pytest.raises(tf2flax.ExistsError, match="no checkpoint lies"):
        tf2flax.save_checkpoint(
            tmp_path / "weights.py", {"w": np.ones(2)}, overwrite=True
        )
    assert (tmp_path / "weights.py").read_bytes() == contents
    assert list(tmp_path.iterdir()) == [tmp_path / "weights.py"]
