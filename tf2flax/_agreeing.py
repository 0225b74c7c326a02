"""Several processes agree whether all of them can go on.

A process that fails alone would leave the others waiting for it, in the next
computation on their common mesh, for ever.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX leaves many of its types unknown; what leaves this file is annotated.

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping
from typing import Final

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ._errors import ReadError
from ._meshes import Device

# What each process tells the others about its failure (bytes of UTF-8).
_MESSAGE_NBYTES: Final = 2048


@contextlib.contextmanager
def agreement(
    participants: Mapping[int, Device],
) -> Generator[Callable[[Mapping[int, Device]], None]]:
    """Runs a block on several processes: all get through it, or none.

    Args:
        participants: One device of each process, this one included; none where they are
            not yet known.

    Yields:
        A function that names the participants, for when they are known later; it does
        nothing where they are known already.

    Raises:
        ReadError: Another process failed; it says which, and why.
    """
    known = dict(participants)

    def name(others: Mapping[int, Device]) -> None:
        if not known:
            known.update(others)

    try:
        yield name
    except Exception as error:
        if len(known) > 1:
            _exchange(known, f"{type(error).__name__}: {error}")
        raise
    if len(known) > 1:
        failures = _exchange(known, "")
        if failures:
            raise ReadError(_said(failures, len(known)))


def _said(failures: Mapping[int, str], count: int) -> str:
    lines = [f"  process {number}: {text}" for number, text in failures.items()]
    return "\n".join(
        [
            f"{len(failures)} of {count} processes could not restore, so that all of "
            "them stop:",
            *lines,
            "Mend that, and restore on all of them again.",
        ]
    )


def _exchange(participants: Mapping[int, Device], message: str) -> dict[int, str]:
    """Tells all processes what went wrong in this one, if anything.

    Returns:
        What went wrong, by process.
    """
    mesh = Mesh(np.array(list(participants.values())), ("processes",))
    own = np.zeros((1, _MESSAGE_NBYTES), np.uint8)
    encoded = message.encode("utf-8", "replace")[:_MESSAGE_NBYTES]
    own[0, : len(encoded)] = np.frombuffer(encoded, np.uint8)
    shape = (len(participants), _MESSAGE_NBYTES)
    sharding = NamedSharding(mesh, PartitionSpec("processes"))
    told = jax.make_array_from_callback(
        shape, sharding, lambda _: own, dtype=np.dtype(np.uint8)
    )
    everywhere = NamedSharding(mesh, PartitionSpec())
    heard = np.asarray(jax.jit(_same, out_shardings=everywhere)(told))
    texts = (bytes(row).rstrip(b"\0").decode("utf-8", "replace") for row in heard)
    return {n: text for n, text in zip(participants, texts, strict=True) if text}


def _same(array: jax.Array) -> jax.Array:
    return array
