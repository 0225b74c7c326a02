"""`Checkpoint.read()` of a large checkpoint into NumPy arrays."""

from __future__ import annotations

import contextlib
import functools
import pathlib

from . import checkpoints
from .measuring import interleaved, ratio
from .processes import Worker, is_there
from .report import Goal, Section, Table
from .restores import BACKED_TIMES, Scale, first_seconds

# The least times, of ours, that others should take.
WANTED = {"TensorFlow read": 2.0, "raw preadv": 0.8}


def reading(folder: pathlib.Path, scale: Scale) -> Section:
    """Benchmark 9: all tensors of a BERT-large-shaped bundle as NumPy arrays."""
    prefix = checkpoints.bundle(folder / "bert.ckpt", scale.shapes)
    nbytes = checkpoints.nbytes_of(scale.shapes)
    options = {
        "tf2flax read": {"prefix": prefix},
        "TensorFlow read": {"prefix": prefix, "is_sorted": True},
        "raw preadv": {"prefix": prefix},
        "raw preadv, CRC": {"prefix": prefix, "verify": True},
    }
    options = {name: one for name, one in options.items() if is_there(name)}

    backed_nbytes = BACKED_TIMES * nbytes
    kinds = {
        "repeated": {},
        "with the result of the call before alive": {"is_kept": True},
    }
    found = {
        "first of a process": interleaved(
            {
                name: functools.partial(first_seconds, name, backed_nbytes, one)
                for name, one in options.items()
            },
            scale.cold_rounds,
        )
    }
    for kind, more in kinds.items():
        with contextlib.ExitStack() as stack:
            workers = {
                name: stack.enter_context(
                    Worker(
                        name.partition(",")[0],
                        backed_nbytes=backed_nbytes,
                        **one,
                        **more,
                    )
                )
                for name, one in options.items()
            }
            for worker in workers.values():
                worker.run()
            found[kind] = interleaved(
                {name: worker.seconds for name, worker in workers.items()}, scale.rounds
            )
    rows: list[tuple[str, ...]] = []
    goals: list[Goal] = []
    for kind, timings in found.items():
        ours = timings["tf2flax read"]
        rows += [
            (
                f"{kind}: {name}",
                f"{one.median:.3f}",
                f"{one.best:.3f}",
                f"{max(one.seconds):.3f}",
                f"{ratio(one, ours):.2f}",
            )
            for name, one in timings.items()
        ]
        goals += [
            Goal(
                f"read, {kind}: time of {name} / time of tf2flax",
                ratio(timings[name], ours),
                least,
            )
            for name, least in WANTED.items()
            if name in timings
        ]
    return Section(
        "9. A BERT-large-shaped bundle into NumPy",
        f"{nbytes / 1e9:.2f} GB into NumPy arrays by `Checkpoint.read()`, checked, and "
        "by a `get_tensor` for each; the raw ones as in section 1.",
        [Table(("", "median s", "best s", "worst s", "× tf2flax"), rows)],
        goals,
    )
