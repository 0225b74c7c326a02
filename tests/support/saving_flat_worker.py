"""One of several processes that save an array under every sharding.

saving_flat_worker.py NUMBER COUNT PORT PREFIX [VARIABLES_JSON]
"""

from __future__ import annotations

import json
import os
import sys

import jax
import numpy as np
from jax.sharding import Mesh
from saving_job_worker import ARRAY, SPECS, spread, start

import tf2flax


def main(process: int, port: str, prefix: str, variables: str = "{}") -> None:
    os.environ.update(json.loads(variables))
    start(process, port)
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("d", "m"))
    tree = {name: spread(ARRAY, mesh, spec) for name, spec in SPECS.items()}
    print(json.dumps(tf2flax.save_checkpoint(prefix, tree)))


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[3:])
