"""One of several processes of a job, for test_multihost.py: restores onto a mesh."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import tf2flax
from tf2flax._files import LocalFile


def main(process: int, port: str, prefix: str) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("d", "m"))
    array = tf2flax.load_variable(prefix, "t")
    specs = {"rows": ("d",), "columns": (None, "m"), "both": ("d", "m"), "none": ()}
    target = {
        name: jax.ShapeDtypeStruct(
            array.shape, "float32", sharding=NamedSharding(mesh, PartitionSpec(*spec))
        )
        for name, spec in specs.items()
    }
    read: list[int] = []
    read_runs_into = LocalFile.read_runs_into

    def counted(
        file: LocalFile, starts: Sequence[int], buffer: memoryview, *, subject: str
    ) -> None:
        read.append(len(buffer))
        read_runs_into(file, starts, buffer, subject=subject)

    LocalFile.read_runs_into = counted
    expect_expressions(prefix, mesh, array, read)
    got = tf2flax.init_from_checkpoint(prefix, [("t", name) for name in specs], target)
    for name, leaf in got.items():
        assert leaf.sharding == target[name].sharding
        for shard in leaf.addressable_shards:
            assert np.array_equal(shard.data, array[shard.index]), name
    # All of it is needed for columns and none: read once, for all four.
    assert sum(read) == array.nbytes, sum(read) / array.nbytes
    with pytest.raises(tf2flax.UnsupportedError, match="process_allgather"):
        tf2flax.save_checkpoint(f"{prefix}-again", {"x": {"rows": got["rows"]}})
    print("equal")


def expect_expressions(
    prefix: str, mesh: Mesh, array: np.ndarray, read: list[int]
) -> None:
    """Heads of two joined tensors, half of them in each process: half of the bytes."""
    joined = tf2flax.concat("t", tf2flax.src("t")[::-1], axis=0)
    key = joined.rearrange("d (h k) -> h d k", h=4).transpose(1, 0, 2)
    value = np.concatenate([array, array[::-1]]).reshape(2 * len(array), 4, -1)
    for spec in (PartitionSpec("d", None, "m"), PartitionSpec(None, "d")):
        leaf = jax.ShapeDtypeStruct(
            value.shape, "float32", sharding=NamedSharding(mesh, spec)
        )
        got = tf2flax.init_from_checkpoint(prefix, {key: "x"}, {"x": leaf})["x"]
        for shard in got.addressable_shards:
            assert np.array_equal(shard.data, value[shard.index])
        # Half of the rows; but runs of 1 KiB in rows of 2 are not worth a read each.
        if spec[0] is None:
            assert sum(read) <= value.nbytes
        else:
            assert sum(read) == value.nbytes // 2, sum(read) / value.nbytes
        read.clear()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
