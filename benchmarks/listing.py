"""Listing and opening 400 and 100,000 variables; reading tiny tensors."""

from __future__ import annotations

import contextlib
import functools
import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence

import tf2flax

from . import checkpoints
from .measuring import interleaved, ratio
from .processes import ROOT, Worker, environment, is_there
from .report import Goal, Section, Table, shares

# What a new process does, library imports included.
COMMANDS = {
    "tf2flax ls": ["-m", "tf2flax", "ls"],
    "tf2flax.list_variables": [
        "-c",
        "import sys, tf2flax\n"
        "for name, shape in tf2flax.list_variables(sys.argv[1]): print(name, shape)",
    ],
    "TensorFlow list_variables": [
        "-c",
        "import sys, tensorflow as tf\n"
        "for name, shape in tf.train.list_variables(sys.argv[1]): print(name, shape)",
    ],
}
THEIRS = "TensorFlow list_variables"


def listing(
    folder: pathlib.Path, counts: Sequence[int], tiny: int, rounds: int
) -> Section:
    """Benchmark 4: new processes, opening in a running one, reading tiny tensors."""
    tables: list[Table] = []
    goals: list[Goal] = []
    notes: list[str] = []
    commands = {name: one for name, one in COMMANDS.items() if is_there(name)}
    rows: list[tuple[str, ...]] = []
    for count in counts:
        prefix = str(folder / f"{count}.ckpt")
        tf2flax.save_checkpoint(prefix, checkpoints.tiny_tensors(count))
        runs = {
            name: functools.partial(_seconds, (sys.executable, *command, prefix), count)
            for name, command in commands.items()
        }
        for run in runs.values():
            run()  # the first one warms up
        found = interleaved(runs, rounds)
        for name, timing in found.items():
            ours = found["tf2flax.list_variables"]
            rows.append(
                (
                    f"{count:,}: {name}",
                    f"{timing.median:.2f}",
                    f"{timing.best:.2f}",
                    f"{ratio(timing, ours):.1f}",
                )
            )
        if THEIRS in found:
            for name in commands:
                if name != THEIRS:
                    goals.append(
                        Goal(
                            f"{count:,} variables, new process: TensorFlow / {name}",
                            ratio(found[THEIRS], found[name]),
                            10.0 if count < 10_000 else 4.0,
                        )
                    )
    tables.append(Table(("new process", "median s", "best s", "× tf2flax"), rows))
    opened = str(folder / f"{counts[-1]}.ckpt")
    read = str(folder / "read.ckpt")
    tf2flax.save_checkpoint(read, checkpoints.tiny_tensors(tiny))
    options = {
        "tf2flax open": {"prefix": opened},
        "TensorFlow open": {"prefix": opened},
        "tf2flax read": {"prefix": read},
        "TensorFlow read, sorted": {"prefix": read, "is_sorted": True},
        "TensorFlow read, own order": {"prefix": read, "is_sorted": False},
    }
    options = {name: one for name, one in options.items() if is_there(name)}
    with contextlib.ExitStack() as stack:
        workers = {
            name: stack.enter_context(Worker(name.partition(",")[0], **one))
            for name, one in options.items()
        }
        for worker in workers.values():
            worker.run()
        found = interleaved({n: w.seconds for n, w in workers.items()}, 2 * rounds)
        profiles = {
            what: workers[what].run("profile")["profile"]
            for what in ("tf2flax open", "tf2flax read")
        }
    tables.append(
        Table(
            ("running process", "median s", "best s"),
            [(n, f"{one.median:.3f}", f"{one.best:.3f}") for n, one in found.items()],
        )
    )
    if "TensorFlow open" in found:
        for what, ours, theirs, most in (
            (f"open of {counts[-1]:,}", "tf2flax open", "TensorFlow open", 1.2),
            (
                f"read of {tiny:,}, own order",
                "tf2flax read",
                "TensorFlow read, own order",
                1,
            ),
            (
                f"read of {tiny:,}, sorted",
                "tf2flax read",
                "TensorFlow read, sorted",
                4.0,
            ),
        ):
            value = 1 / ratio(found[theirs], found[ours])
            goals.append(
                Goal(f"{what}: tf2flax / TensorFlow", value, most, is_most=True)
            )
    for what, profile in profiles.items():
        notes.append(shares(f"{what}, by file", profile))
    return Section(
        "4. Listing, opening, tiny tensors",
        "Tensors of 8 bytes. New processes print names and shapes; in a running "
        f"process they are listed ({counts[-1]:,}), or read into NumPy arrays "
        f"({tiny:,}) with their checksums, by one call here and by one `get_tensor` "
        "each there, sorted or in the order of TensorFlow's own map.",
        tables,
        goals,
        notes=notes,
    )


def _seconds(command: Sequence[str], count: int) -> float:
    """Wall-clock time of a process that prints a line for each variable."""
    begun = time.perf_counter()
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment(), cwd=ROOT
    )
    seconds = time.perf_counter() - begun
    assert len(done.stdout.splitlines()) == count
    return seconds
