"""Measures and writes docs/benchmarks.md.

    python -m benchmarks [--small] [--only NAME] [--output FOLDER] [--scratch FOLDER]

Contenders that are not installed are left out; `make bench` installs all of them. With
`--only`, the other sections of a page that is there stay as they are.
"""

from __future__ import annotations

import argparse
import datetime
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable

from . import (
    accelerator,
    converting,
    growth,
    leaves,
    listing,
    memory,
    reading,
    remote,
    restores,
    suggesting,
)
from .gains import gain_lines
from .measuring import machine
from .processes import NEEDS, ROOT, is_there
from .report import Goal, Section, Table, draw, goal_rows, update_page

PICTURES = "benchmarks"


def benchmarks(small: bool) -> dict[str, Callable[[pathlib.Path], Section]]:
    """Each benchmark, by the name that `--only` takes."""
    scale = restores.SMALL if small else restores.Scale()
    counts = (20, 200) if small else (400, 100_000)
    megabytes = (1, 2, 4) if small else (10, 40, 160, 640, 2560, 4000)
    tensors = (10, 100, 1000) if small else (100, 1000, 10_000, 100_000)
    devices = (1, 2, 8) if small else (1, 2, 4, 8, 16, 32, 64)
    rounds = 2 if small else 5
    matrix = (256, 1024) if small else (4096, 16384)
    return {
        "one-device": lambda folder: restores.one_device(folder, scale),
        "eight-devices": lambda folder: restores.eight_devices(folder, scale),
        "http": lambda folder: remote.column_shard(folder, *matrix),
        "store": lambda folder: remote.simulated_store(
            folder, *matrix, 10 if small else 1000, rounds
        ),
        "listing": lambda folder: listing.listing(
            folder, counts, 200 if small else 20_000, rounds
        ),
        "growth": lambda folder: growth.growth(
            folder, megabytes, tensors, devices, rounds
        ),
        "warm-start": lambda folder: restores.missing_head(folder, scale),
        "converting": lambda folder: converting.converting(folder, scale),
        "suggesting": lambda _: suggesting.suggesting(
            (25,) if small else (400, 20_000), rounds
        ),
        "reading": lambda folder: reading.reading(folder, scale),
        "leaves": lambda folder: leaves.leaves(
            folder,
            (200,) if small else (20_000, 100_000),
            200 if small else 2000,
            rounds,
        ),
        "memory": lambda folder: memory.memory(folder, 10**6 if small else 4 * 10**9),
    }


def main() -> int:
    """Runs what is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measures; writes benchmarks.md."
    )
    everything = list(benchmarks(small=True))
    parser.add_argument("--small", action="store_true", help="does it run?")
    parser.add_argument("--only", action="append", choices=everything, default=[])
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "docs")
    parser.add_argument("--scratch", help="where checkpoints of 4 GB can lie")
    arguments = parser.parse_args()
    if not sys.platform.startswith("linux"):
        parser.error("memory, bytes and the page cache are measured by Linux's means")
    sections: list[Section] = []
    begun = time.perf_counter()
    for name, run in benchmarks(arguments.small).items():
        if arguments.only and name not in arguments.only:
            continue
        print(f"{name} ...", flush=True)
        start = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
            section = run(pathlib.Path(folder))
        sections.append(section)
        print("\n".join(section.lines(PICTURES)), flush=True)
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    pictures = arguments.output / PICTURES
    pictures.mkdir(parents=True, exist_ok=True)
    for section in sections:
        for plot in section.plots:
            draw(plot, pictures)
    path = arguments.output / "benchmarks.md"
    if arguments.only and path.is_file():
        processor, _, versions = machine()
        note = (
            f"Measured by itself on {datetime.date.today()}: {processor}; {versions}."
        )
        text = update_page(path.read_text(), sections, PICTURES, note)
    else:
        text = page(sections, arguments.small, time.perf_counter() - begun)
        # Measured elsewhere, by a script of its own.
        text += "\n" + "\n".join(accelerator.kept_section(path))
    path.write_text(text)
    print(f"wrote {path}")
    return 0


def page(sections: list[Section], small: bool, seconds: float) -> str:
    """The page: machine, method, goals, and each benchmark."""
    absent = [name for name in NEEDS if not is_there(name)]
    goals: list[Goal] = [goal for section in sections for goal in section.goals]
    table = Table(("goal", "measured", "wanted", ""), goal_rows(goals)).lines()
    lines = [
        "# Benchmarks",
        "",
        *gain_lines("\n".join(table)),
        "## How it was measured",
        "",
        f"`make bench` wrote this page on {datetime.date.today()}, in {seconds:.0f} s:",
        "",
        *(f"- {line}" for line in machine()),
        "",
        "Method: each contender runs in a process of its own, which imports what it",
        "needs, restores once unmeasured (the values of all are compared bit for bit)",
        "and waits. Then they run in turn, each round beginning with another one.",
        "Times are medians over the rounds unless a column says otherwise; a ratio is",
        "the median of the ratios within each round. Cold: the files are dropped from",
        "the page cache before each run. Peak memory is the kernel's, of the first run",
        "of a process, over what the process held before, the result included.",
        "Where large memory is measured (sections 1, 2 and 9), each process fetches it",
        "and frees it before each run: a virtual machine gives what is free for a",
        "second back to its host, and whoever touches it next waits up to seconds.",
        "",
    ]
    if small:
        lines += ["**`--small`: sizes at which the figures mean nothing.**", ""]
    if absent:
        lines += [f"Not installed, and left out: {', '.join(absent)}.", ""]
    if goals:
        lines += ["## Goals", "", *table]
    for section in sections:
        lines += section.lines(PICTURES)
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
