"""How time and memory grow with bytes, tensors and devices."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import tf2flax

from . import checkpoints
from .measuring import slope
from .processes import Worker
from .report import Plot, Section, Table

TENSORS = 64  # of the checkpoints that grow in bytes


def growth(
    folder: pathlib.Path,
    megabytes: Sequence[int],
    counts: Sequence[int],
    devices: Sequence[int],
    rounds: int,
) -> Section:
    """Benchmark 5: 10 MB to 4 GB, 10² to 10⁵ tensors, 1 to 64 devices."""
    tables: list[Table] = []
    plots: list[Plot] = []
    notes: list[str] = []

    def add(
        name: str, what: str, sizes: Sequence[int], found: Sequence[tuple[float, int]]
    ) -> None:
        seconds = [one[0] for one in found]
        peaks = [one[1] / 1e6 for one in found]
        rows = [
            (f"{size:,}", f"{second:.3f}", f"{peak:,.0f}")
            for size, second, peak in zip(sizes, seconds, peaks, strict=True)
        ]
        tables.append(Table((what, "best s", "peak MB"), rows))
        lines = {"seconds": (sizes, seconds), "peak MB": (sizes, peaks)}
        plots.append(Plot(f"growth-{name}", f"Growth with {what}", what, "", lines))
        upper = len(sizes) // 2  # where what is there at any size no longer shows
        if len(sizes) > 1:
            notes.append(
                f"{what}: over the upper half, time grows with the power "
                f"{slope(sizes[upper:], seconds[upper:]):.2f}, peak memory with "
                f"{slope(sizes[upper:], peaks[upper:]):.2f} (1 is linear)."
                if len(sizes) - upper > 1
                else ""
            )

    found: list[tuple[float, int]] = []
    for size in megabytes:
        rows = size * 10**6 // (4 * 256 * TENSORS)
        shapes = {f"t{i:02d}": (rows, 256) for i in range(TENSORS)}
        prefix = checkpoints.bundle(folder / "size.ckpt", shapes)
        found.append(_measured(prefix, rounds))
        _remove(prefix)
    add("size", f"MB, in {TENSORS} tensors", megabytes, found)
    found = []
    for count in counts:
        prefix = str(folder / "count.ckpt")
        tf2flax.save_checkpoint(prefix, checkpoints.tiny_tensors(count))
        found.append(_measured(prefix, rounds))
        _remove(prefix)
    add("tensors", "tensors of 8 bytes", counts, found)
    found = []
    shapes = {f"t{i:02d}": (4096, 256) for i in range(TENSORS)}
    prefix = checkpoints.bundle(folder / "devices.ckpt", shapes)
    for count in devices:
        found.append(_measured(prefix, rounds, devices=count, layout="rows"))
    add("devices", "devices, 268 MB by rows", devices, found)
    return Section(
        "5. Growth",
        "One restore after the other in a process of its own, warm cache, the best of "
        f"{rounds}; peak memory over what was held before, the result included.",
        tables,
        plots=plots,
        notes=notes,
    )


def _measured(
    prefix: str, rounds: int, *, devices: int = 1, layout: str = ""
) -> tuple[float, int]:
    """Best time, and the peak of the first restore."""
    with Worker("tf2flax", devices=devices, prefix=prefix, layout=layout) as worker:
        answers = [worker.run() for _ in range(rounds)]
    return min(one["seconds"] for one in answers), answers[0]["peak_nbytes"]


def _remove(prefix: str) -> None:
    for path in checkpoints.data_files(prefix):
        pathlib.Path(path).unlink()
