"""TensorFlow gets no flags of the tests' own JAX: old XLA aborts on unknown ones."""

from __future__ import annotations

import os
from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(scope="package", autouse=True)
def flags_of_this_jax_alone() -> Iterator[None]:
    jax.devices()  # reads the flags
    flags = os.environ.pop("XLA_FLAGS", None)
    yield
    if flags is not None:
        os.environ["XLA_FLAGS"] = flags
