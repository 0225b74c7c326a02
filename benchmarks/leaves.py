"""Many leaves of 8 bytes: what planning and placing them takes."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Sequence

import tf2flax

from . import checkpoints
from .measuring import interleaved, ratio
from .processes import Worker
from .report import Goal, Section, Table, shares

# The most times of `jax.device_put`, and the most seconds to print a plan.
MOST = 2.5
PRINT_S = 0.3


def leaves(
    folder: pathlib.Path, counts: Sequence[int], modules: int, rounds: int
) -> Section:
    """Benchmark 10: plan and restore of many leaves, against `jax.device_put`."""
    rows: list[tuple[str, ...]] = []
    goals: list[Goal] = []
    notes: list[str] = []
    kinds = [*((count, "tree") for count in counts), (modules, "nnx")]
    kinds.append((modules, "scanned"))
    for count, target in kinds:
        prefix = str(folder / f"leaves{count}.ckpt")
        tf2flax.save_checkpoint(prefix, checkpoints.tiny_tensors(count), overwrite=True)
        options = {
            "jax.device_put": {"count": count, "target": target},
            "tf2flax leaves": {"prefix": prefix, "count": count, "target": target},
            "tf2flax print": {"prefix": prefix, "count": count, "target": target},
        }
        with contextlib.ExitStack() as stack:
            workers = {
                name: stack.enter_context(Worker(name, **one))
                for name, one in options.items()
            }
            for worker in workers.values():
                worker.run()
            found = interleaved({n: w.seconds for n, w in workers.items()}, rounds)
            profile = workers["tf2flax leaves"].run("profile")["profile"]
        base = found["jax.device_put"]
        what = f"{count:,} leaves, {target}"
        value = ratio(found["tf2flax leaves"], base)
        rows += [
            (
                f"{what}: {name}",
                f"{one.median:.3f}",
                f"{one.best:.3f}",
                f"{ratio(one, base):.2f}",
            )
            for name, one in found.items()
        ]
        if value > MOST:
            notes.append(shares(f"Where the time of {what} goes, by file", profile))
        goals.append(
            Goal(f"{what}: plan and restore / device_put", value, MOST, is_most=True)
        )
        if count == 20_000:
            goals.append(
                Goal(
                    f"{what}: seconds to print the plan",
                    found["tf2flax print"].median,
                    PRINT_S,
                    is_most=True,
                )
            )
    return Section(
        "10. Many leaves",
        "Tensors of 8 bytes onto one device, from the path on, against "
        "`jax.device_put` of a list of as many host arrays that are there: into a tree "
        f"of abstract leaves, into an `nnx` module of {modules:,} Variables, and into "
        "the stacked parameters of a scanned model. `print` is the first `str(plan)` "
        "of a plan.",
        [Table(("", "median s", "best s", "× device_put"), rows)],
        goals,
        notes=notes,
    )
