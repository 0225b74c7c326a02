"""Eight CPU devices, strict dtype promotion, and hypothesis without surprises."""

from __future__ import annotations

import os
import pathlib
import shutil
import tempfile

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


def pytest_unconfigure() -> None:
    """Removes what JAX compiled."""
    shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


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
