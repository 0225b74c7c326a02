"""Restores a checkpoint in a process of its own and prints how much memory it took.

Arguments: prefix, way, bound in bytes. Prints the peak over what was there before, and
the bytes of the result, as JSON.
"""

from __future__ import annotations

import json
import pathlib
import re
import sys

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import tf2flax


def status(field: str) -> int:
    """A field of this process's status, in bytes."""
    text = pathlib.Path("/proc/self/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
    assert found
    return int(found[1]) << 10


def main(prefix: str, way: str, bound: int) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))
    specs = {
        "rows": PartitionSpec(("a", "b")),
        "columns": PartitionSpec(None, ("a", "b")),
        "replicated": PartitionSpec(),
    }
    checkpoint = tf2flax.open_checkpoint(prefix)
    names = list(checkpoint)
    dtype = "bfloat16" if way == "cast" else "float32"
    sharding = NamedSharding(mesh, specs[way]) if way in specs else None
    target: dict[str, jax.ShapeDtypeStruct] = {}
    entries: list[tuple[tf2flax.Expression, str]] = []
    for name in names:
        source = tf2flax.src(name)
        shape = checkpoint[name].shape
        if way == "transposed":
            source, shape = source.transpose(), shape[::-1]
        entries.append((source, name))
        target[name] = jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
    small = {names[0]: jax.ShapeDtypeStruct((1, 1), "float32")}
    tf2flax.init_from_checkpoint(
        checkpoint, {tf2flax.src(names[0])[:1, :1]: names[0]}, small
    )
    before = status("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    got = tf2flax.init_from_checkpoint(
        checkpoint, entries, target, max_in_flight_bytes=bound
    )
    jax.block_until_ready(got)
    peak = status("VmHWM") - before
    print(json.dumps({"peak": peak, "result": sum(x.nbytes for x in got.values())}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
