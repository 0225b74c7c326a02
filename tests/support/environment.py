"""Variables and folders of a run of the tests; imported before anything imports JAX."""

from __future__ import annotations

import gc
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
    # Eight CPU devices. Most programs of the tests run once, on small arrays: to
    # optimise them takes XLA longer than to run them.
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
        " --xla_backend_optimization_level=0"
    )
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


def remove_folders() -> None:
    """Removes what this process made: files of tests, and what JAX compiled."""
    for folder in _made:
        shutil.rmtree(folder, ignore_errors=True)


def _make_folder(prefix: str, parent: pathlib.Path | None) -> str:
    _made.append(tempfile.mkdtemp(prefix=prefix, dir=parent))
    return _made[-1]


prepare()
