"""Does with a checkpoint all that a user can do, in little memory and little time.

Reads folders and paths as JSON from stdin; prints what happened to each as JSON. Run
with MALLOC_ARENA_MAX=2.
"""

from __future__ import annotations

import json
import pathlib
import pickle
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

import tf2flax

# What one checkpoint may take (seconds), and all of them together (bytes).
TIME_S = 10
ROOM_NBYTES = 1 << 30
ALLOWED = (tf2flax.DamagedError, tf2flax.UnsupportedError)
OK = np.arange(4, dtype="<f4")


def limit_memory() -> None:
    """From here on the process may grow by 1 GiB."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + ROOM_NBYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def exercise(path: str, *, is_ok_known: bool = True, views: bool = True) -> list[str]:
    """Everything a user can do with a checkpoint.

    Args:
        path: What to open.
        is_ok_known: Whether the tensor `ok` must be `OK` where it is read.
        views: Whether lazy views are read as well, which takes longer.

    Returns:
        The errors that came, all of which are allowed ones.
    """
    errors: list[str] = []

    def attempt(function: Callable[[], Any]) -> Any:
        try:
            return function()
        except ALLOWED as error:
            errors.append(f"{type(error).__name__}: {error}")
            return None

    checkpoint = attempt(lambda: tf2flax.open_checkpoint(path))
    if checkpoint is None:
        return errors
    names = attempt(lambda: list(checkpoint)) or ["ok", "x"]
    for name in names:
        check_tensor(checkpoint, name, attempt, is_ok_known=is_ok_known, views=views)
    attempt(lambda: tf2flax.list_variables(path))
    attempt(lambda: checkpoint.read())
    attempt(lambda: pickle.loads(pickle.dumps(checkpoint)).read())
    report = checkpoint.verify()
    if report.ok and errors and not report.unchecked:
        raise AssertionError(f"verify() found nothing, but: {errors[0]}")
    if report.damaged:
        attempt(report.raise_for_damage)
    return errors


def check_tensor(
    checkpoint: tf2flax.Checkpoint,
    name: str,
    attempt: Callable[[Any], Any],
    *,
    is_ok_known: bool,
    views: bool,
) -> None:
    try:
        tensor = attempt(lambda: checkpoint[name])
    except tf2flax.TensorNotFoundError:
        return
    if tensor is None:
        return
    whole = attempt(tensor.read)
    loaded = attempt(lambda: tf2flax.load_variable(checkpoint.prefix, name))
    unchecked = attempt(lambda: tensor.read(verify=False))
    first = attempt(lambda: tensor[:1]) if tensor.shape else None
    last = attempt(lambda: tensor[..., -1:]) if tensor.shape else None
    view = attempt(lambda: tensor.open().read().result()) if views else None
    if whole is None:
        return
    assert (whole.shape, whole.dtype) == (tensor.shape, tensor.dtype), name
    for found, want in [
        (loaded, whole),
        (unchecked, whole),
        (first, whole[:1] if whole.ndim else None),
        (last, whole[..., -1:] if whole.ndim else None),
        (view, whole),
    ]:
        assert found is None or same(found, want), name
    assert not is_ok_known or name != "ok" or same(whole, OK), (name, whole)


def same(found: Any, want: Any) -> bool:
    """Whether two reads gave the same bytes."""
    found, want = np.asarray(found), np.asarray(want)
    if found.shape != want.shape:
        return False
    if want.dtype == object or found.dtype.kind in "SO":
        return found.tolist() == want.tolist()
    return found.tobytes() == want.tobytes()


def too_slow(*_: object) -> None:
    raise TimeoutError(f"more than {TIME_S} seconds")


def main() -> None:
    paths: dict[str, str] = json.load(sys.stdin)
    import tensorstore  # its libraries count as the start  # noqa: F401

    limit_memory()
    signal.signal(signal.SIGPROF, too_slow)
    for name, path in paths.items():
        signal.setitimer(signal.ITIMER_PROF, TIME_S)
        try:
            outcome: dict[str, Any] = {"errors": exercise(path)}
        except BaseException as error:  # whatever it is, it is a failure
            outcome = {"failure": f"{type(error).__name__}: {error}"}
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps([name, outcome]), flush=True)


if __name__ == "__main__":
    main()
