"""One of several processes that save large arrays; prints how much memory it took.

    saving_memory_worker.py NUMBER COUNT PORT PREFIX NBYTES URL

Prints the peak over what was there before as JSON. The arrays are of NBYTES together.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from memory_worker import status
from saving_job_worker import start

import tf2flax


def main(
    process: int, count: int, port: str, prefix: str, nbytes: int, url: str
) -> None:
    start(process, port)
    os.environ["TENSORSTORE_GCS_HTTP_URL"] = url
    os.environ["GCE_METADATA_ROOT"] = "127.0.0.1:9"  # no credentials there
    mesh = Mesh(np.array(jax.devices()).reshape(count, -1), ("hosts", "chips"))
    # Of one large array each device has rows, of the other one columns.
    specs = {
        "rows": PartitionSpec(("hosts", "chips")),
        "columns": PartitionSpec(None, "hosts"),
    }
    shape = (nbytes // 2 // 4096 // 4, 4096)
    tree: dict[str, jax.Array] = {}
    for name, spec in specs.items():
        tree[name] = jax.make_array_from_callback(
            shape,
            NamedSharding(mesh, spec),
            lambda index: np.ones(np.empty(shape, "V0")[index].shape, np.float32),
        )
    jax.block_until_ready(tree)
    small = {"small": next(iter(tree.values()))[:8, :8]}
    tf2flax.save_checkpoint(f"{prefix}-small", small)
    multihost_utils.sync_global_devices("warm")
    before = status("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    tf2flax.save_checkpoint(prefix, tree)
    print(json.dumps({"peak": status("VmHWM") - before}))


if __name__ == "__main__":
    number, count, port, prefix, nbytes, url = sys.argv[1:]
    main(int(number), int(count), port, prefix, int(nbytes), url)
