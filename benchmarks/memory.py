"""Peaks of host memory: of a restore, of saving, and of converting."""

from __future__ import annotations

import pathlib
from typing import Any

from . import checkpoints
from .processes import Worker
from .report import Goal, Section, Table

MB = 10**6
# What a restore may hold besides its result, and the most that it is given for reads.
IN_FLIGHT = 128 * MB
RESTORE_GOAL = IN_FLIGHT + 64 * MB
# What a save or a conversion may hold besides the arrays that are saved.
WRITE_GOAL = 256 * MB
FORMATS = ("safetensors", "npz", "orbax", "tensorbundle")
COLUMNS = 1024
LAYERS = 16


def shapes_of(nbytes: int) -> dict[str, tuple[int, int]]:
    """Tensors that have so many bytes together, one of them a quarter of all."""
    rows = nbytes // (4 * COLUMNS)
    small = max(1, rows * 3 // 4 // 48)
    shapes = {f"layer_{i}/w": (small, COLUMNS) for i in range(48)}
    return {"embedding": (rows - 48 * small, COLUMNS), **shapes}


def memory(folder: pathlib.Path, nbytes: int) -> Section:
    """Benchmark 11: peaks over what a process held before, and over the result.

    Args:
        folder: Where checkpoints are written: twice the size must fit.
        nbytes: Bytes of all tensors.
    """
    rows: list[tuple[str, ...]] = []
    goals: list[Goal] = []

    def measure(what: str, most: int, contender: str, **options: Any) -> None:
        with Worker(contender, **options) as worker:
            answer = worker.run()
        peak = answer["peak_nbytes"] - answer["result_nbytes"]
        rows.append(
            (what, f"{answer['seconds']:.2f}", f"{peak / MB:,.0f}", f"{most // MB:,}")
        )
        goals.append(
            Goal(f"{what}: MB over what is kept", peak / MB, most / MB, is_most=True)
        )

    out = str(folder / "out")
    shapes = shapes_of(nbytes)
    for kind in ("NumPy", "jax"):
        measure(
            f"save_checkpoint of {kind} arrays",
            WRITE_GOAL,
            "save",
            path=out,
            shapes=shapes,
            kind=kind,
        )
        _remove(out)
    prefix = checkpoints.bundle(folder / "memory.ckpt", shapes)
    measure(
        f"restore, max_in_flight_bytes of {IN_FLIGHT // MB} MB",
        RESTORE_GOAL,
        "tf2flax",
        prefix=prefix,
        max_in_flight_bytes=IN_FLIGHT,
    )
    for kind in FORMATS:
        measure(
            f"convert to {kind}",
            WRITE_GOAL,
            "convert",
            path=out,
            prefix=prefix,
            kind=kind,
        )
    _remove(prefix)
    layer = nbytes // (4 * COLUMNS * LAYERS)
    shapes = {f"layer_{i}/w": (layer, COLUMNS) for i in range(LAYERS)}
    prefix = checkpoints.bundle(folder / "layers.ckpt", shapes)
    measure(
        "save_checkpoint of stacked layers by their plan",
        WRITE_GOAL,
        "save stacked",
        path=out,
        prefix=prefix,
        layers=LAYERS,
    )
    _remove(prefix)
    _remove(out)
    return Section(
        "11. Memory",
        f"{nbytes / 1e9:.2f} GB of float32, a quarter of it one tensor (of the stacked "
        f"layers, one leaf of {LAYERS}), each in a process of its own: the peak of its "
        "first run over what it held before, the arrays that it writes or the result "
        "of the restore not counted.",
        [Table(("", "s", "peak MB", "goal MB"), rows)],
        goals,
    )


def _remove(prefix: str) -> None:
    for path in checkpoints.data_files(prefix):
        pathlib.Path(path).unlink()
