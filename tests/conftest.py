"""Eight CPU devices, strict dtype promotion, and hypothesis without surprises."""

from __future__ import annotations

import gc
import os
import pathlib
import shutil
import sys
import tempfile

# No collection of garbage finds any among modules and tests while those are made.
gc.disable()

# Rewritten asserts and compiled modules are kept, for the other processes of this run
# and for the next one: to make them takes longer than to import JAX.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Files of tests lie in memory where Linux has a folder there with room: the suite
# writes tens of thousands, and a disk takes 2 ms to write one again. TMPDIR decides
# otherwise, and then pytest keeps the files of the last runs.
MEMORY = pathlib.Path("/dev/shm")
MIN_FREE_NBYTES = 4 << 30
_made: list[str] = []
if (
    "TMPDIR" not in os.environ
    and os.access(MEMORY, os.W_OK)
    and shutil.disk_usage(MEMORY).free >= MIN_FREE_NBYTES
):
    # Processes of pytest-xdist, and those that tests start, inherit it.
    os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="tf2flax-tests-", dir=MEMORY)
    tempfile.tempdir = None
    _made.append(os.environ["TMPDIR"])

# Before anything imports JAX. Most programs of the tests run once, on small arrays: to
# optimise them takes XLA longer than to run them.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)
# The same programs (an `init`, a sum, a copy) are compiled by many tests: each once in
# a run. JAX does not write these files atomically, so each process of pytest-xdist has
# a folder.
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="tf2flax-compiled-")
_made.append(os.environ["JAX_COMPILATION_CACHE_DIR"])
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"
# Fresh memory holds NaN and -1, so that what nobody wrote shows.
os.environ["TF2FLAX_POISON"] = "1"

import hypothesis
import pytest
from repository import DATA, ROOT

# Runs in a Python of its own.
collect_ignore = [
    "oracle/tf1_worker.py",
    "oracle/saver_worker.py",
    "oracle/port_worker.py",
    "oracle/keras_worker.py",
    "support",
]

hypothesis.settings.register_profile(
    "tf2flax",
    deadline=None,  # this suite runs on busy machines
    derandomize=True,
    database=None,
    suppress_health_check=[
        hypothesis.HealthCheck.too_slow,
        hypothesis.HealthCheck.function_scoped_fixture,
    ],
)
hypothesis.settings.load_profile("tf2flax")


def pytest_collection_finish() -> None:
    """Leaves what stays until the end out of every later collection of garbage."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Removes what this process made: files of tests, and what JAX compiled."""
    for folder in _made:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def _repository_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Doctests and the README name checkpoints relative to the repository."""
    monkeypatch.chdir(ROOT)
    # TensorFlow 2 sets it when it is imported, and 1.15 in a process of ours obeys it.
    monkeypatch.delenv("TF2_BEHAVIOR", raising=False)
    # Waits for the disk, so that files survive a loss of power; no test can cut that.
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)


@pytest.fixture
def data() -> pathlib.Path:
    """The checkpoints kept with the tests."""
    return DATA
