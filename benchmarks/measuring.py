"""Times, bytes and memory: how they are measured, and on what machine.

Knows no contender and no checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import math
import mmap
import os
import pathlib
import platform
import re
import resource
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

PACKAGES = (
    "tf2flax", "jax", "flax", "numpy", "tensorstore", "crc32c", "fastcrc",
    "tensorflow_cpu", "tensorflow", "safetensors", "orbax-checkpoint",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of the runs of one contender, in the order of the rounds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        """The shortest."""
        return min(self.seconds)


def interleaved(
    runs: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, Timing]:
    """Runs contenders in turn, each round beginning with another one.

    Args:
        runs: A function for each contender, that says how many seconds it took.
        rounds: How many times each one runs.

    Returns:
        The seconds of each.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            seconds[name].append(runs[name]())
    return {name: Timing(tuple(found)) for name, found in seconds.items()}


def ratio(theirs: Timing, ours: Timing) -> float:
    """How many times faster ours is: the median of the ratios of the rounds."""
    pairs = zip(theirs.seconds, ours.seconds, strict=True)
    return statistics.median(their / our for their, our in pairs)


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The power of the size that values grow with: 1 is linear, 0 constant."""
    xs, ys = [math.log(x) for x in sizes], [math.log(max(y, 1e-9)) for y in values]
    return statistics.linear_regression(xs, ys).slope


def forget(paths: Iterable[str | os.PathLike[str]]) -> None:
    """Drops files, or all files in folders, from the page cache."""
    for path in map(pathlib.Path, paths):
        for file in filter(pathlib.Path.is_file, (path, *path.rglob("*"))):
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def status_nbytes(field: str) -> int:
    """A field of this process's status: `VmRSS` now, or `VmHWM` at its peak."""
    text = pathlib.Path("/proc/self/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) << 10 if found else 0


def back_memory(nbytes: int) -> None:
    """Touches so much memory, in huge pages, and frees it.

    A virtual machine gives memory that is free for a second or two back to its host
    ("free page reporting"). Who touches it next waits for the host: 1.34 GB took 0.06 s
    at once, 1 to 6 s later. Whatever runs after this finds memory that is there.
    """
    if not nbytes:
        return
    with mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        for start in range(0, nbytes, 2 << 20):
            memory[start] = 1


def forget_peak() -> None:
    """Lets `VmHWM` begin anew, where the system allows it."""
    with contextlib.suppress(OSError):
        pathlib.Path("/proc/self/clear_refs").write_text("5")


def read_so_far() -> int:
    """Bytes that system calls of this process have read."""
    text = pathlib.Path("/proc/self/io").read_text()
    found = re.search(r"^rchar: (\d+)", text, re.MULTILINE)
    return int(found[1]) if found else 0


def faults_so_far() -> int:
    """Page faults of this process that read no disk."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def machine() -> list[str]:
    """What this runs on, line by line."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        text = pathlib.Path("/proc/cpuinfo").read_text()
        if found := re.search(r"^model name\s*: (.+)$", text, re.MULTILINE):
            processor = found[1]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return [
        f"{processor}, {os.cpu_count()} cores, {memory / 1e9:.0f} GB memory",
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        ", ".join(versions()),
    ]


def versions() -> list[str]:
    """Installed versions of what is compared."""
    found: list[str] = []
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return found
