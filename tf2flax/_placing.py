"""Where restored arrays live: checks of shardings, and the way onto devices.

Reads no bytes; decides nothing about names.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# JAX and Flax leave many of their types unknown; what leaves this file is annotated.

from __future__ import annotations

from collections.abc import Iterable, Mapping

import jax
import numpy as np

from ._assignment.collapsing import screenful
from ._assignment.values import Assignment
from ._errors import AssignmentError
from ._specs import TensorSlice
from ._targets import Slot


def choose_shardings(
    assignments: Iterable[Assignment],
    slots: Iterable[Slot],
    option: jax.sharding.Sharding | None,
) -> dict[str, jax.sharding.Sharding]:
    """Chooses where each loaded leaf lives: what is asked for, else what it carries.

    Args:
        assignments: The leaves that are loaded.
        slots: All leaves of the target.
        option: One sharding for all of them; None for what the target carries.

    Returns:
        Shardings by leaf; leaves about which nobody has an opinion are left out.

    Raises:
        AssignmentError: A shape does not fit its sharding; every such leaf is named.
    """
    if not (option is None or isinstance(option, jax.sharding.Sharding)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise AssignmentError(
            f"Option sharding: expected a jax.sharding.Sharding, got {option!r}."
        )
    carried = {slot.leaf.name: slot.sharding for slot in slots}
    shardings: dict[str, jax.sharding.Sharding] = {}
    problems: list[str] = []
    for assignment in assignments:
        sharding = option or carried[assignment.leaf]
        if sharding is None:
            continue
        if problem := sharding_problem(sharding, assignment.shape):
            problems.append(f"Leaf `{assignment.leaf}`: {problem}")
        shardings[assignment.leaf] = sharding
    if problems:
        raise AssignmentError(screenful(problems))
    return shardings


def sharding_problem(
    sharding: jax.sharding.Sharding, shape: tuple[int, ...]
) -> str | None:
    """Says why an array of some shape cannot live on a sharding.

    Args:
        sharding: Where it should live.
        shape: Its shape.

    Returns:
        The reason, with a way out; None where it can.
    """
    mesh = getattr(sharding, "mesh", None)
    if isinstance(mesh, jax.sharding.AbstractMesh):
        return (
            "its sharding is over an AbstractMesh, which has no devices. "
            "Give option sharding one over a Mesh."
        )
    try:
        sharding.shard_shape(shape)
    except IndexError:
        reason = "it names more axes than there are."
    except ValueError as error:
        reason = str(error).splitlines()[0]
    else:
        return None
    return f"shape {list(shape)} does not fit {sharding}: {reason}"


def box_of(index: tuple[slice, ...] | None, shape: tuple[int, ...]) -> TensorSlice:
    """Finds a device's shard in a leaf.

    Args:
        index: The shard, as JAX indexes the leaf.
        shape: Shape of the leaf.

    Returns:
        The box.
    """
    bounds = [
        piece.indices(dim)
        for piece, dim in zip(index or (slice(None),) * len(shape), shape, strict=True)
    ]
    return TensorSlice(tuple(b[0] for b in bounds), tuple(b[1] for b in bounds))


def place(
    arrays: Mapping[str, np.ndarray],
    shardings: Mapping[str, jax.sharding.Sharding],
) -> dict[str, jax.Array]:
    """Puts arrays on devices, in one call for those that say where and one for others.

    Args:
        arrays: Host arrays by leaf.
        shardings: Fully addressable shardings by leaf; an array without one is
            uncommitted, so that JAX may move it.

    Returns:
        Arrays on devices, by leaf.
    """
    committed = [name for name in arrays if name in shardings]
    free = [name for name in arrays if name not in shardings]
    placed: dict[str, jax.Array] = {}
    if committed:
        where = [shardings[name] for name in committed]
        put = jax.device_put([arrays[name] for name in committed], where)
        placed.update(zip(committed, put, strict=True))
    if free:
        put = jax.device_put([arrays[name] for name in free])
        placed.update(zip(free, put, strict=True))
    return placed
