"""Variables and folders of a run of the tests; imported before anything imports JAX."""

from __future__ import annotations

import gc
import importlib.metadata
import importlib.util
import mmap
import os
import pathlib
import shutil
import sys
import tempfile

# Files of tests lie in memory where Linux has a folder there with room: the suite
# writes tens of thousands, and a disk takes 2 ms to write one again. TMPDIR decides
# otherwise, and then pytest keeps the files of the last runs.
MEMORY = pathlib.Path("/dev/shm")
MIN_FREE_NBYTES = 4 << 30

DEVICES = "--xla_force_host_platform_device_count=8"
# Most programs of the tests run once, on small arrays: to optimise them takes XLA
# longer than to run them. The second, and the one of old versions, take 57 ms of each
# program to 20.
FLAGS = {
    "xla_backend_optimization_level": "0",
    "xla_cpu_parallel_codegen_split_count": "1",
    # XLA ends a process of which some devices are not there in time (seconds).
    "xla_cpu_collective_call_warn_stuck_timeout_seconds": "300",
    "xla_cpu_collective_call_terminate_timeout_seconds": "600",
}

# jaxlib 0.12 has the name of this flag in its library, and refuses it.
OLD_FLAGS = {"xla_cpu_use_fusion_emitters": "false"}
OLD_VERSIONS = ("0.10.",)

_made: list[str] = []


def prepare() -> None:
    """Sets what this process, those of pytest-xdist and those of tests shall find."""
    # Garbage is not among modules and tests while those are made; conftest.py begins.
    gc.disable()
    # Rewritten asserts are kept, for the other processes of this run and for the next
    # one: to make them takes longer than to import JAX.
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if (
        "TMPDIR" not in os.environ
        and os.access(MEMORY, os.W_OK)
        and shutil.disk_usage(MEMORY).free >= MIN_FREE_NBYTES
    ):
        os.environ["TMPDIR"] = _make_folder("tf2flax-tests-", MEMORY)
        tempfile.tempdir = None
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_xla_flags()])
    # The same programs (an `init`, a sum, a copy) are compiled by many tests: each once
    # in a run. JAX does not write these files atomically, so each process of
    # pytest-xdist has a folder.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _make_folder("tf2flax-compiled-", None)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"
    # Fresh memory holds NaN and -1, so that what nobody wrote shows.
    os.environ["TF2FLAX_POISON"] = "1"


def _xla_flags() -> list[str]:
    """Flags that XLA does not have yet, unless it knows them: it would end Python."""
    if DEVICES in os.environ.get("XLA_FLAGS", ""):  # inherited, with all the others
        return []
    package = importlib.util.find_spec("jaxlib")
    assert package is not None
    assert package.origin is not None
    flags = [DEVICES]
    if importlib.metadata.version("jaxlib").startswith(OLD_VERSIONS):
        flags += [f"--{name}={value}" for name, value in OLD_FLAGS.items()]
    libraries = sorted(pathlib.Path(package.origin).parent.glob("*.so"))
    with max(libraries, key=lambda path: path.stat().st_size).open("rb") as file:
        contents = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with contents:
            for name, value in FLAGS.items():
                if contents.find(name.encode()) >= 0:
                    flags.append(f"--{name}={value}")
    return flags


def remove_folders() -> None:
    """Removes what this process made: files of tests, and what JAX compiled."""
    for folder in _made:
        shutil.rmtree(folder, ignore_errors=True)


def _make_folder(prefix: str, parent: pathlib.Path | None) -> str:
    _made.append(tempfile.mkdtemp(prefix=prefix, dir=parent))
    return _made[-1]


prepare()
