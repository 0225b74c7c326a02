"""One of several processes of a job, for test_multihost.py: restores onto a mesh."""

from __future__ import annotations

import os
import sys

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
    read_into = LocalFile.read_into

    def counted(
        file: LocalFile, start: int, buffer: memoryview, *, subject: str
    ) -> None:
        read.append(len(buffer))
        read_into(file, start, buffer, subject=subject)

    LocalFile.read_into = counted
    got = tf2flax.init_from_checkpoint(prefix, [("t", name) for name in specs], target)
    for name, leaf in got.items():
        assert leaf.sharding == target[name].sharding
        for shard in leaf.addressable_shards:
            assert np.array_equal(shard.data, array[shard.index]), name
    # Half for rows and both, all for the rest.
    assert sum(read) == 3 * array.nbytes, sum(read) / array.nbytes
    with pytest.raises(tf2flax.UnsupportedError, match="process_allgather"):
        tf2flax.save_checkpoint(f"{prefix}-again", {"x": {"rows": got["rows"]}})
    print("equal")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
