"""Restores of several processes under `jax.set_mesh`, for multihost_worker.py.

Run by itself, as test_multihost.py does: every mesh, kind of axes, strategy and call.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import tf2flax

P = PartitionSpec
STRATEGIES = ("local", "read-once", "auto")
KINDS = (AxisType.Auto, AxisType.Explicit)
CALLS = ("init_from_checkpoint", "restore", "warm_start")
# Of the matrix, with "d" and "m" axes of the leaves' mesh; None is no opinion at all.
SPECS = (P(), P("d"), P(None, "m"), None)
Case = tuple[np.ndarray, AxisType, np.ndarray, AxisType, PartitionSpec | None, str, str]


def main(process: int, count: int, port: str, prefix: str, short: str) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8 // count)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        f"127.0.0.1:{port}", count, process, heartbeat_timeout_seconds=600
    )
    meshes = device_sets()
    cases = itertools.product(
        meshes.values(), KINDS, meshes.values(), KINDS, SPECS, STRATEGIES, CALLS
    )
    # Every value of each meets every value of the others; not all in all ways.
    chosen = [case for i, case in enumerate(cases) if i % 13 == 0]
    expect_under_meshes(prefix, chosen)
    expect_several_meshes(prefix)
    failures = failures_under_meshes(short if process == count - 1 else prefix)
    print(json.dumps({"process": process, "count": len(chosen), "failures": failures}))


def device_sets() -> dict[str, np.ndarray]:
    """All devices, some of each process, those of the first half of processes."""
    devices = np.array(jax.devices())
    sets = {"all": devices.reshape(4, 2), "turned": devices[::-1].reshape(4, 2)}
    if jax.process_count() == 2:
        return sets | {"some": devices[::2].reshape(2, 2)}
    return sets | {"half": devices[:4].reshape(2, 2)}


def few_cases() -> list[Case]:
    """What takes a second: each call, each kind, each relation of meshes once."""
    sets = device_sets()
    some = sets.get("some", sets.get("half"))
    assert some is not None
    auto, explicit = KINDS
    return [
        (sets["all"], explicit, sets["all"], explicit, P("d"), "read-once", CALLS[0]),
        (sets["all"], auto, sets["all"], auto, P(), "local", CALLS[1]),
        (sets["all"], explicit, some, explicit, P("d"), "auto", CALLS[2]),
        (some, auto, sets["all"], explicit, P(), "auto", CALLS[0]),
    ]


def expect_under_meshes(prefix: str, cases: Iterable[Case]) -> None:
    """Restores all of a checkpoint under one mesh, onto another."""
    array = tf2flax.load_variable(prefix, "t")
    key = jax.random.key(0)
    kept = np.asarray(jax.jit(_draw)(key))
    for ambient, ambient_kind, devices, kind, spec, strategy, call in cases:
        mesh = Mesh(devices, ("d", "m"), axis_types=(kind,) * 2)
        options: dict[str, Any] = {"strategy": strategy}
        if spec is not None:
            options |= {"sharding": spec, "mesh": mesh}
        elsewhere = Mesh(ambient, ("d", "m"), axis_types=(ambient_kind,) * 2)
        with jax.set_mesh(elsewhere):
            is_explicit = ambient_kind == AxisType.Explicit and call == "warm_start"
            if is_explicit and spec is not None and _lacks_processes(ambient, devices):
                # What was traced over Explicit axes cannot be computed elsewhere.
                with pytest.raises(tf2flax.UnsupportedError, match="devices of all"):
                    _restored(prefix, array.shape, call, key, options)
                continue
            got = _restored(prefix, array.shape, call, key, options)
        for name, value in got.items():
            if spec is not None:
                assert value.sharding == NamedSharding(mesh, spec)
            wanted = array if name == "t" else kept
            for shard in value.addressable_shards:
                assert np.array_equal(shard.data, wanted[shard.index]), name


def expect_several_meshes(prefix: str) -> None:
    """Leaves on meshes of other devices are not redistributed by one computation."""
    array = tf2flax.load_variable(prefix, "t")
    meshes = {
        name: Mesh(devices, ("d", "m")) for name, devices in device_sets().items()
    }
    target = {
        name: jax.ShapeDtypeStruct(
            array.shape, "float32", sharding=NamedSharding(mesh, P())
        )
        for name, mesh in meshes.items()
    }
    with jax.set_mesh(meshes["turned"]):
        got = tf2flax.init_from_checkpoint(
            prefix, [("t", name) for name in meshes], target, strategy="read-once"
        )
    for name, value in got.items():
        assert value.sharding == target[name].sharding
        for shard in value.addressable_shards:
            assert np.array_equal(shard.data, array), name


def _lacks_processes(ambient: np.ndarray, devices: np.ndarray) -> bool:
    """Whether some process has devices of a leaf and none of the mesh in force."""
    there = {device.process_index for device in ambient.flat}
    return not {device.process_index for device in devices.flat} <= there


def _draw(key: jax.Array) -> jax.Array:
    return jax.random.normal(key, (8, 8))


def _restored(
    prefix: str, shape: tuple[int, ...], call: str, key: Any, options: dict[str, Any]
) -> dict[str, jax.Array]:
    target = {"t": jax.ShapeDtypeStruct(shape, "float32")}
    if call == "init_from_checkpoint":
        return tf2flax.init_from_checkpoint(prefix, {"t": "t"}, target, **options)
    if call == "restore":
        return tf2flax.plan(prefix, {"t": "t"}, target, **options).restore()
    init = tf2flax.warm_start(
        lambda key: {"t": jnp.zeros(shape), "kept": _draw(key)},
        prefix, {"t": "t"}, **options,
    )  # fmt: skip
    return init(key)


def failures_under_meshes(prefix: str) -> list[str]:
    """Restores what one of the processes finds to be damaged."""
    shape = tf2flax.open_checkpoint(prefix)["t"].shape
    texts: list[str] = []
    for call, kind in (("init_from_checkpoint", KINDS[0]), ("warm_start", KINDS[1])):
        mesh = Mesh(device_sets()["all"], ("d", "m"), axis_types=(kind,) * 2)
        options = {"sharding": P("d"), "mesh": mesh}
        with jax.set_mesh(mesh), pytest.raises(tf2flax.CheckpointError) as caught:
            _restored(prefix, shape, call, jax.random.key(0), options)
        texts.append(f"{type(caught.value).__name__}: {caught.value}")
    return texts


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
