"""Eight CPU devices, strict dtype promotion, and hypothesis without surprises."""

from __future__ import annotations

import gc
import os
import pathlib

import environment  # first: what JAX finds when it is imported
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
    """Removes the files of the run."""
    environment.remove_folders()


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
