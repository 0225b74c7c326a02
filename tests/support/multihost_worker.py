"""One of several processes of a job, for test_multihost.py: restores onto meshes.

Each prints what it found as one line of JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from mesh_worker import (
    expect_several_meshes,
    expect_under_meshes,
    failures_under_meshes,
    few_cases,
)
from ml_dtypes import bfloat16, float8_e5m2

import tf2flax
from tf2flax._jax import transfer
from tf2flax._storage.local import LocalFile

PROCESSES = int(sys.argv[2])
P = PartitionSpec
# Of an array of 512 x 512 on a mesh of 2 x 4: where each shard lies.
SPECS = {
    "replicated": P(),
    "rows": P(("d", "m")),
    "half rows": P("d"),
    "columns": P(None, "m"),
    "both": P("d", "m"),
}


def main(process: int, port: str, prefix: str, *damaged: str) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8 // PROCESSES)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        f"127.0.0.1:{port}", PROCESSES, process, heartbeat_timeout_seconds=600
    )
    read = count_reads()
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("d", "m"))
    array = tf2flax.load_variable(prefix, "t")
    expect_expressions(prefix, mesh, array, read)
    found = {"process": process, "read": read_by_strategy(prefix, mesh, array, read)}
    expect_odd_shapes(prefix, mesh, array, read)
    expect_portions(prefix, mesh, array, read)
    expect_every_bit(prefix, mesh)
    expect_the_same_work(prefix, mesh)
    expect_warm_start(prefix, mesh)
    expect_growth(prefix, mesh, array, read)
    expect_nothing_filled(prefix, mesh)
    if PROCESSES == 2:
        expect_under_meshes(prefix, few_cases())
    expect_several_meshes(prefix)
    found["mesh failures"] = failures_under_meshes(
        damaged[1] if process == PROCESSES - 1 else prefix
    )
    found["failures"] = [
        failure(path, mesh) if process == PROCESSES - 1 else failure(prefix, mesh)
        for path in damaged
    ]
    # All are still there, and in step.
    multihost_utils.sync_global_devices("the end")
    print(json.dumps(found))


def count_reads() -> Callable[[], int]:
    """Bytes that this process read of data files since the last call."""
    read: list[int] = []
    read_runs_into = LocalFile.read_runs_into

    def counted(
        file: LocalFile, starts: Sequence[int], buffer: memoryview, *, subject: str
    ) -> None:
        read.append(len(buffer))
        read_runs_into(file, starts, buffer, subject=subject)

    LocalFile.read_runs_into = counted

    def total() -> int:
        count = sum(read)
        read.clear()
        return count

    return total


def read_by_strategy(
    prefix: str, mesh: Mesh, array: np.ndarray, read: Callable[[], int]
) -> dict[str, dict[str, int]]:
    """Restores under every strategy; every shard must be right."""
    found: dict[str, dict[str, int]] = {}
    for strategy in ("local", "read-once", "auto"):
        found[strategy] = {}
        for name, spec in SPECS.items():
            sharding = NamedSharding(mesh, spec)
            leaf = jax.ShapeDtypeStruct(array.shape, "float32")
            plan = tf2flax.plan(
                prefix, {"t": "x"}, {"x": leaf}, sharding=sharding, strategy=strategy
            )
            read()
            got = plan.restore()["x"]
            own = found[strategy][name] = read()
            cost = plan.cost().processes[jax.process_index()]
            assert cost.read_nbytes == own, (strategy, name, cost, own)
            assert got.sharding == sharding
            assert got.committed
            expect_equal(got, array)
    return found


def expect_odd_shapes(
    prefix: str, mesh: Mesh, array: np.ndarray, read: Callable[[], int]
) -> None:
    """What no mesh divides is read once too, also onto meshes with Explicit axes."""
    explicit = Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Explicit,) * 2)
    key = {
        tf2flax.src("t")[:7, :3]: "x",
        tf2flax.src("t")[5, 6]: "y",
        tf2flax.src("t")[:8, :5].transpose(): "z",
        "t": "w",
    }
    value = {"x": array[:7, :3], "y": array[5, 6], "z": array[:8, :5].T, "w": array}
    for own in (mesh, explicit):
        specs = {"x": P(), "y": P(), "z": P(None, "d"), "w": P("d")}
        target = {
            name: jax.ShapeDtypeStruct(
                value[name].shape, "float32", sharding=NamedSharding(own, spec)
            )
            for name, spec in specs.items()
        }
        got = tf2flax.init_from_checkpoint(prefix, key, target, strategy="read-once")
        for name in value:
            assert got[name].sharding == target[name].sharding
            expect_equal(got[name], value[name])
        total = multihost_utils.process_allgather(np.array(read())).sum()
        # The whole once, and the corners of it that fill other leaves, with gaps.
        assert array.nbytes < total < array.nbytes + (16 << 10)


def expect_every_bit(prefix: str, mesh: Mesh) -> None:
    """NaNs are redistributed as they are."""
    bits = {
        "bfloat16": np.arange(1 << 16, dtype=np.uint16).view(bfloat16),
        "float16": np.arange(1 << 16, dtype=np.uint16).view(np.float16),
        "float8_e5m2": np.arange(256, dtype=np.uint8).view(float8_e5m2),
    }
    path = f"{prefix}-bits-{jax.process_index()}"
    tf2flax.save_checkpoint(path, bits)
    replicated = NamedSharding(mesh, P())
    target = {
        name: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=replicated)
        for name, a in bits.items()
    }
    got = tf2flax.init_from_checkpoint(path, {"/": "/"}, target, strategy="read-once")
    for name, array in bits.items():
        shard = np.asarray(got[name].addressable_shards[0].data)
        assert shard.tobytes() == array.tobytes(), name


def expect_the_same_work(prefix: str, mesh: Mesh) -> None:
    """What is read once is not put together from different things."""
    number = jax.process_index()
    path = f"{prefix}-own-{number}"
    tf2flax.save_checkpoint(path, {"t": np.full((512, 512), number, np.float32)})
    devices = mesh.devices if number else mesh.devices[::-1]
    turned = Mesh(devices, mesh.axis_names)
    backwards = tf2flax.src("t")[::-1] if number else tf2flax.src("t")
    for own_path, key, own_mesh in (
        (path, tf2flax.src("t"), mesh),
        (prefix, backwards, mesh),
        (prefix, tf2flax.src("t"), turned),
    ):
        leaf = jax.ShapeDtypeStruct(
            (512, 512), "float32", sharding=NamedSharding(own_mesh, P())
        )
        with pytest.raises(tf2flax.ReadError, match="the same checkpoint, map"):
            tf2flax.init_from_checkpoint(
                own_path, {key: "x"}, {"x": leaf}, strategy="read-once"
            )


def expect_portions(
    prefix: str, mesh: Mesh, array: np.ndarray, read: Callable[[], int]
) -> None:
    """As onto accelerators, of a leaf that the host must not hold."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transfer, "is_on_host", lambda _: False)
        for strategy, spec in (("read-once", P(None, "m")), ("local", P("d"))):
            sharding = NamedSharding(mesh, spec)
            leaf = jax.ShapeDtypeStruct(array.shape, "float32", sharding=sharding)
            read()
            got = tf2flax.init_from_checkpoint(
                prefix, {"t": "x"}, {"x": leaf},
                strategy=strategy, max_in_flight_bytes=array.nbytes // 8,
            )["x"]  # fmt: skip
            assert read() == array.nbytes // (PROCESSES if strategy != "local" else 2)
            assert got.sharding == sharding
            expect_equal(got, array)


def expect_warm_start(prefix: str, mesh: Mesh) -> None:
    """Kept leaves are initialised where they belong."""
    dense = nn.Dense(
        512, kernel_init=nn.with_partitioning(nn.initializers.ones, ("d", "m"))
    )
    init = tf2flax.warm_start(
        dense.init, prefix, {}, mesh=mesh, sharding=tf2flax.from_partitions("m")
    )
    variables = init(jax.random.key(0), np.ones((1, 16), np.float32))
    kernel = variables["params"]["kernel"].value
    assert kernel.sharding == NamedSharding(mesh, P("d", "m"))
    expect_equal(kernel, np.ones((16, 512), np.float32))


def expect_growth(
    prefix: str, mesh: Mesh, array: np.ndarray, read: Callable[[], int]
) -> None:
    """Leaves keep their own elements, wherever they lie, and read nothing for them."""
    padded = tf2flax.src("t").pad(((0, 512), (4, 0)), fill="keep")
    rows = [*range(0, 512, 2), *[-1] * 256]
    taken = tf2flax.src("t").take(rows, fill="keep")
    before = np.random.default_rng(0).normal(size=(1024, 516)).astype("f4")
    wanted = before.copy()
    wanted[:512, 4:] = array
    for spec, other in ((P("d"), P("d")), (P(None, "m"), P("m")), (P(), P("d", "m"))):
        sharding = NamedSharding(mesh, spec)
        for place in (sharding, NamedSharding(mesh, other), None):
            leaf: Any = before
            if place is not None:
                leaf = jax.make_array_from_callback(
                    before.shape, place, lambda index: before[index]
                )
            for strategy in ("local", "read-once"):
                read()
                got = tf2flax.init_from_checkpoint(
                    prefix, {padded: "x"}, {"x": leaf},
                    sharding={"x": sharding}, strategy=strategy,
                )["x"]  # fmt: skip
                assert read() <= array.nbytes
                assert got.sharding == sharding
                expect_equal(got, wanted)

    def init(key: jax.Array) -> dict[str, jax.Array]:
        return {"x": jax.random.normal(key, (512, 512)), "y": jnp.ones(8)}

    places = {"x": NamedSharding(mesh, P(None, "m")), "y": NamedSharding(mesh, P("d"))}
    warm = tf2flax.warm_start(init, prefix, {taken: "x"}, sharding=places)
    fresh = np.asarray(jax.jit(init)(jax.random.key(1))["x"])
    got = warm(jax.random.key(1))["x"]
    assert got.sharding == places["x"]
    expect_equal(got, np.concatenate([array[::2], fresh[256:]]))


def expect_nothing_filled(prefix: str, mesh: Mesh) -> None:
    """A map that fills nothing is an error in all processes, whichever has it."""
    sharding = NamedSharding(mesh, P("d"))

    def init() -> dict[str, jax.Array]:
        return {"x": jnp.zeros((512, 512))}

    tree = jax.jit(init, out_shardings=sharding)()
    is_last = jax.process_index() == PROCESSES - 1
    idle = {"nothing/": "none/"}
    for entries in (idle, idle if is_last else {"t": "x"}):
        error = tf2flax.AssignmentError if entries is idle else tf2flax.ReadError
        with pytest.raises(error):
            tf2flax.init_from_checkpoint(prefix, entries, tree)
        with pytest.raises(error):
            tf2flax.warm_start(init, prefix, entries, sharding=sharding)()


def failure(prefix: str, mesh: Mesh) -> str:
    """Restores what one of the processes cannot read."""
    sharding = NamedSharding(mesh, P("d"))
    leaf = jax.ShapeDtypeStruct((512, 512), "float32", sharding=sharding)
    with pytest.raises(tf2flax.CheckpointError) as caught:
        tf2flax.init_from_checkpoint(prefix, {"t": "x"}, {"x": leaf})
    return f"{type(caught.value).__name__}: {caught.value}"


def expect_expressions(
    prefix: str, mesh: Mesh, array: np.ndarray, read: Callable[[], int]
) -> None:
    """Heads of two joined tensors, each process its part of the bytes."""
    joined = tf2flax.concat("t", tf2flax.src("t")[::-1], axis=0)
    key = joined.rearrange("d (h k) -> h d k", h=4).transpose(1, 0, 2)
    value = np.concatenate([array, array[::-1]]).reshape(2 * len(array), 4, -1)
    for spec in (P("d", None, "m"), P(None, "d")):
        leaf = jax.ShapeDtypeStruct(
            value.shape, "float32", sharding=NamedSharding(mesh, spec)
        )
        read()
        got = tf2flax.init_from_checkpoint(
            prefix, {key: "x"}, {"x": leaf}, strategy="local"
        )["x"]
        expect_equal(got, value)
        # Half of the rows; but runs of 1 KiB in rows of 2 are not worth a read each.
        assert read() <= value.nbytes // 2 if spec[0] else value.nbytes


def expect_equal(got: jax.Array, value: np.ndarray) -> None:
    for shard in got.addressable_shards:
        assert np.array_equal(shard.data, value[shard.index])


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[3:])
