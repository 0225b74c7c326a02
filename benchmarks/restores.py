"""Whole restores: onto one device, onto eight, and into a model that lacks a head."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from . import checkpoints
from .measuring import Timing, forget, interleaved, ratio
from .processes import Worker, is_there
from .report import Bars, Goal, Section, Table, shares

# The least times, of ours, that others should take.
WANTED = {
    "TensorFlow": 3.0,
    "safetensors": 2.5,
    "Orbax": 4.0,
    "raw preadv, CRC": 0.9,
    "raw preadv": 0.8,
}
# Those that are also run once in many new processes.
FIRSTS = ("tf2flax", "TensorFlow", "raw preadv", "raw preadv, CRC")
# Memory that is fetched before each run, in sizes of the checkpoint: for the result,
# for what some contenders hold besides, and for its files, if they are to be cached.
BACKED_TIMES = 3
LAYOUTS = ("rows", "columns", "2-D", "replicated")


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large and how often.

    Attributes:
        width: Of BERT's layers.
        layers: How many.
        rounds: With a warm cache.
        cold_rounds: With a cold cache.
        tower_width: Width of the warm-started model.
    """

    width: int = 1024
    layers: int = 24
    rounds: int = 9
    cold_rounds: int = 5
    tower_width: int = 4096

    @property
    def shapes(self) -> Mapping[str, checkpoints.Shape]:
        """BERT's variables at this scale."""
        return checkpoints.bert_shapes(
            width=self.width, layers=self.layers, vocabulary=self.width * 30528 // 1024
        )


SMALL = Scale(width=64, layers=2, rounds=2, cold_rounds=1, tower_width=64)


def one_device(folder: pathlib.Path, scale: Scale) -> Section:
    """Benchmark 1: a BERT-large-shaped bundle into JAX arrays on one device."""
    prefix = checkpoints.bundle(folder / "bert.ckpt", scale.shapes)
    nbytes = checkpoints.nbytes_of(scale.shapes)
    files = {"bundle": checkpoints.data_files(prefix)}
    options = {
        "tf2flax": {"prefix": prefix},
        "tf2flax, no CRC": {"prefix": prefix, "verify": False},
        "tf2flax without reading": {"prefix": prefix},
        "TensorFlow": {"prefix": prefix},
        "safetensors": {"path": str(folder / "bert.safetensors")},
        "Orbax": {"prefix": prefix, "path": str(folder / "bert.orbax")},
        "raw preadv": {"prefix": prefix},
        "raw preadv, CRC": {"prefix": prefix, "verify": True},
    }
    options = {name: one for name, one in options.items() if is_there(name)}
    for name in ("safetensors", "Orbax"):
        if name in options:
            with Worker(
                f"{name} write", prefix=prefix, path=options[name]["path"]
            ) as one:
                one.run()
            files[name] = [str(options[name]["path"])]
    with contextlib.ExitStack() as stack:
        workers = {
            name: stack.enter_context(
                Worker(
                    name.partition(",")[0], backed_nbytes=BACKED_TIMES * nbytes, **one
                )
            )
            for name, one in options.items()
        }
        reads = [n for n in workers if n.split()[0] != "raw" and "without" not in n]
        # The first run of a process: later ones find memory that was freed.
        peaks = {name: worker.run()["peak_nbytes"] for name, worker in workers.items()}
        faults = {name: worker.run()["faults"] for name, worker in workers.items()}
        digests = {name: workers[name].run("digest")["digest"] for name in reads}
        assert len(set(digests.values())) == 1, digests
        warm = interleaved({n: w.seconds for n, w in workers.items()}, scale.rounds)

        def cold(name: str) -> float:
            for paths in files.values():
                forget(paths)
            return workers[name].seconds()

        real = [name for name in workers if "without" not in name]
        chilled = interleaved(
            {name: lambda name=name: cold(name) for name in real}, scale.cold_rounds
        )
        profile = workers["tf2flax without reading"].run("profile")["profile"]
    # Jobs of users restore once: here each run is the first of a new process.
    begun = interleaved(
        {
            name: functools.partial(
                first_seconds, name, BACKED_TIMES * nbytes, options[name]
            )
            for name in options
            if name in FIRSTS
        },
        scale.cold_rounds,
    )
    for path in (*files.get("safetensors", []), *files.get("Orbax", [])):
        remove(path)
    ours = warm["tf2flax"]
    rows = [
        (
            name,
            f"{warm[name].median:.3f}",
            f"{warm[name].best:.3f}",
            f"{chilled[name].median:.3f}" if name in chilled else "",
            f"{nbytes / warm[name].median / 1e9:.2f}" if name in chilled else "",
            f"{ratio(warm[name], ours):.2f}",
            f"{ratio(chilled[name], chilled['tf2flax']):.2f}"
            if name in chilled
            else "",
            f"{begun[name].median:.3f}" if name in begun else "",
            f"{peaks[name] / 1e6:,.0f}",
            f"{faults[name]:,}",
        )
        for name in workers
    ]
    goals = [
        Goal(f"time of {name} / time of tf2flax", ratio(warm[name], ours), least)
        for name, least in WANTED.items()
        if name in warm
    ]
    goals += [
        Goal(
            f"first of a process: time of {name} / time of tf2flax",
            ratio(begun[name], begun["tf2flax"]),
            WANTED[name],
        )
        for name in FIRSTS
        if name in begun and name in WANTED
    ]
    goals.append(
        Goal("page faults of a restore", faults["tf2flax"], 5000, is_most=True)
    )
    return Section(
        "1. A BERT-large-shaped bundle onto one device",
        f"{nbytes / 1e9:.2f} GB of float32 in {len(scale.shapes)} tensors, from the "
        "path to JAX arrays that are there. tf2flax checks CRC-32C unless it says "
        "otherwise; TensorFlow does, safetensors and Orbax do not. safetensors and "
        "Orbax read the same tensors from their own files. All but the raw ones gave "
        "the same bits.",
        [
            Table(
                (
                    "",
                    "warm, median s",
                    "best s",
                    "cold, median s",
                    "GB/s warm",
                    "× tf2flax warm",
                    "× tf2flax cold",
                    "first of a process, median s",
                    "peak MB",
                    "page faults",
                ),
                rows,
            )
        ],
        goals,
        [
            Bars(
                "one-device",
                "BERT-large onto one device",
                "seconds (median)",
                {
                    "warm cache": {name: warm[name].median for name in real},
                    "cold cache": {name: chilled[name].median for name in real},
                },
            )
        ],
        [_where_time_goes(warm), shares("The time without reading, by file", profile)],
    )


def first_seconds(name: str, backed_nbytes: int, options: Mapping[str, Any]) -> float:
    """How long a contender takes the first time, in a new process."""
    contender = name.partition(",")[0]
    with Worker(contender, backed_nbytes=backed_nbytes, **options) as worker:
        return worker.seconds()


def remove(path: str) -> None:
    """Removes a file or a folder, to have the space."""
    if pathlib.Path(path).is_dir():
        shutil.rmtree(path)
    else:
        pathlib.Path(path).unlink()


def _where_time_goes(warm: Mapping[str, Timing]) -> str:
    ours, raw = warm["tf2flax"].median, warm["raw preadv"].median
    crc, python = warm["raw preadv, CRC"].median, warm["tf2flax without reading"].median
    return (
        f"Where the time goes: copying from the page cache takes {raw:.3f} s with all "
        f"processors; with a CRC-32C of each chunk, {crc:.3f} s: so no reader that "
        f"checks comes nearer to raw `preadv` than {raw / crc:.2f} here. All that is "
        "not reading (index, plan, jobs, allocation, handing over to JAX) takes "
        f"{python:.3f} s, single-threaded; it overlaps with reading, but takes its "
        f"processor time from it. The sum is {crc + python:.3f} s, measured "
        f"{ours:.3f} s."
    )


def eight_devices(folder: pathlib.Path, scale: Scale) -> Section:
    """Benchmark 2: the same onto eight CPU devices, in four layouts."""
    prefix = checkpoints.bundle(folder / "bert.ckpt", scale.shapes)
    nbytes = checkpoints.nbytes_of(scale.shapes)
    rows: list[tuple[str, ...]] = []
    goals: list[Goal] = []
    bars: dict[str, dict[str, float]] = {}
    for layout in LAYOUTS:
        path = folder / f"{layout}.orbax"
        options = {
            "tf2flax": {"prefix": prefix, "layout": layout},
            "tf2flax, no CRC": {"prefix": prefix, "layout": layout, "verify": False},
            "Orbax": {"prefix": prefix, "path": str(path), "layout": layout},
        }
        options = {name: one for name, one in options.items() if is_there(name)}
        if "Orbax" in options:
            with Worker("Orbax write", devices=8, **options["Orbax"]) as writer:
                writer.run()
        with contextlib.ExitStack() as stack:
            workers = {
                name: stack.enter_context(
                    Worker(
                        name.partition(",")[0],
                        devices=8,
                        backed_nbytes=BACKED_TIMES * nbytes,
                        **one,
                    )
                )
                for name, one in options.items()
            }
            first = {name: worker.run("digest") for name, worker in workers.items()}
            assert len({one["digest"] for one in first.values()}) == 1, first
            found = interleaved(
                {name: worker.seconds for name, worker in workers.items()}, scale.rounds
            )
        if path.exists():
            shutil.rmtree(path)
        bars[layout] = {name: timing.median for name, timing in found.items()}
        for name, timing in found.items():
            rows.append(
                (
                    f"{layout}: {name}",
                    f"{timing.median:.3f}",
                    f"{timing.best:.3f}",
                    f"{ratio(timing, found['tf2flax']):.2f}",
                    f"{first[name]['read_nbytes'] / nbytes:.4f}",
                    f"{first[name]['peak_nbytes'] / 1e6:,.0f}",
                )
            )
        if "Orbax" in found:
            what = f"{layout}: time of Orbax / time of tf2flax"
            goals.append(Goal(what, ratio(found["Orbax"], found["tf2flax"]), 4.0))
        over = first["tf2flax"]["read_nbytes"] / nbytes
        goals.append(
            Goal(f"{layout}: bytes read / bytes needed", over, 1.05, is_most=True)
        )
    return Section(
        "2. The same onto eight CPU devices",
        "The tensors of benchmark 1, warm cache. `rows` and `columns` cut the first "
        "or second dimension into eight, `2-D` into 4 × 2; dimensions that the mesh "
        "does not divide (one tensor of two rows, vectors' columns) are not cut. "
        "Orbax restores its own checkpoint, saved with the same shardings. Bytes "
        "read are what the kernel counted for the process, the index included.",
        [
            Table(
                (
                    "",
                    "median s",
                    "best s",
                    "× tf2flax",
                    "bytes read / needed",
                    "peak MB",
                ),
                rows,
            )
        ],
        goals,
        [Bars("eight-devices", "Onto eight CPU devices", "seconds (median)", bars)],
    )


def missing_head(folder: pathlib.Path, scale: Scale) -> Section:
    """Benchmark 6: `warm_start`, against initialising and overwriting."""
    layers = 20 if scale.tower_width > 1000 else 3
    width = scale.tower_width
    shapes: dict[str, checkpoints.Shape] = {}
    for i in range(layers):
        shapes[f"tower/layer_{i}/kernel"] = (width, width)
        shapes[f"tower/layer_{i}/bias"] = (width,)
    prefix = checkpoints.bundle(folder / "tower.ckpt", shapes)
    ways = {
        "warm_start": "warm_start",
        "model.init, then overwritten": "init",
        "jit(model.init), then overwritten": "jit",
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    peaks: dict[str, list[int]] = {name: [] for name in ways}
    again: dict[str, list[float]] = {name: [] for name in ways}
    options = {"prefix": prefix, "width": width, "layers": layers}
    for _ in range(max(1, scale.cold_rounds - 2)):
        for name, way in ways.items():  # a new process each time: compiled anew
            with Worker("warm_start", **options, way=way) as worker:
                first = worker.run()
                seconds[name].append(first["seconds"])
                peaks[name].append(first["peak_nbytes"])
                again[name].append(worker.seconds())
    timings = {name: Timing(tuple(found)) for name, found in seconds.items()}
    repeated = {name: Timing(tuple(found)) for name, found in again.items()}
    ours = timings["warm_start"]
    rows = [
        (
            name,
            f"{timings[name].median:.2f}",
            f"{ratio(timings[name], ours):.2f}",
            f"{repeated[name].median:.2f}",
            f"{sorted(peaks[name])[len(peaks[name]) // 2] / 1e6:,.0f}",
        )
        for name in ways
    ]
    return Section(
        "6. A model of which the checkpoint supplies all but a head",
        f"{layers} linen `Dense` layers of {width} × {width} from the checkpoint "
        f"({checkpoints.nbytes_of(shapes) / 1e9:.2f} GB), and a head of 1,000 outputs "
        "that is initialised. A new process each time, so that the first call "
        "compiles; peak memory over what was held before.",
        [
            Table(
                (
                    "",
                    "first call, median s",
                    "× warm_start",
                    "second call s",
                    "peak MB",
                ),
                rows,
            )
        ],
    )
