"""Converting, next to copying the data file: both end when the disk has everything."""

from __future__ import annotations

import os
import pathlib
import shutil
import time
from collections.abc import Callable
from typing import Any

import tf2flax

from . import checkpoints
from .measuring import Timing, interleaved, ratio
from .report import Goal, Section, Table
from .restores import Scale

FORMATS = ("orbax", "safetensors", "npz", "tensorbundle")
# The least that Orbax may have of the speed of a copy.
ORBAX_GOAL = 0.6


def converting(folder: pathlib.Path, scale: Scale) -> Section:
    """Converts a BERT-large-shaped bundle to every format, and copies it."""
    prefix = checkpoints.bundle(folder / "bert.ckpt", scale.shapes)
    nbytes = checkpoints.nbytes_of(scale.shapes)
    runs: dict[str, Callable[[], float]] = {"copy": lambda: _copy(prefix, folder)}
    for name in FORMATS:
        runs[name] = lambda name=name: _convert(prefix, folder, format=name)
    runs["orbax, by reference"] = lambda: _convert(
        prefix, folder, format="orbax", by_reference=True
    )
    for run in runs.values():  # the page cache has everything then
        run()
    timings = interleaved(runs, scale.rounds)
    speeds = {name: ratio(timings["copy"], timing) for name, timing in timings.items()}
    return Section(
        "7. Converting",
        f"{nbytes / 1e9:.2f} GB of float32, every tensor verified, in a running "
        "process; `copy` copies the data file. All end when the disk has everything.",
        [_table(timings, speeds, nbytes)],
        [Goal("speed of Orbax / speed of copying", speeds["orbax"], ORBAX_GOAL)],
    )


def _table(timings: dict[str, Timing], speeds: dict[str, float], nbytes: int) -> Table:
    return Table(
        ("", "median s", "best s", "GB/s", "× speed of copying"),
        [
            (
                name,
                f"{timing.median:.3f}",
                f"{timing.best:.3f}",
                f"{nbytes / timing.median / 1e9:.2f}",
                f"{speeds[name]:.2f}",
            )
            for name, timing in timings.items()
        ],
    )


def _copy(prefix: str, folder: pathlib.Path) -> float:
    """Copies the data file, and waits for the disk."""
    begun = time.perf_counter()
    shutil.copyfile(f"{prefix}.data-00000-of-00001", folder / "copy")
    with (folder / "copy").open("rb") as file:
        os.fsync(file.fileno())
    seconds = time.perf_counter() - begun
    (folder / "copy").unlink()
    return seconds


def _convert(prefix: str, folder: pathlib.Path, **options: Any) -> float:
    out = folder / "out"
    begun = time.perf_counter()
    tf2flax.convert(prefix, out, **options)
    seconds = time.perf_counter() - begun
    for path in folder.glob("out*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return seconds
