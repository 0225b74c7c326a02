"""V1 checkpoints as TensorFlow 1.15 writes them now, and what it reads from ours."""

from __future__ import annotations

import os
import pathlib
import subprocess

import numpy as np
import pytest
import v1_writer as v1
from bundle_writer import Tensor, rows_in

import tf2flax

PYTHON = os.environ.get("TF2FLAX_TF1_PYTHON", "")
pytestmark = [
    pytest.mark.oracle,
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="set TF2FLAX_TF1_PYTHON"),
]
DTYPES = ["float32", "float64", "int32", "int64", "int16", "int8", "uint8"]

WRITES = """
import os, sys, warnings
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
warnings.filterwarnings("ignore")
import numpy as np, tensorflow as tf
v1 = tf.compat.v1
v1.logging.set_verbosity(v1.logging.FATAL)
rng = np.random.RandomState(0)
wanted, variables = {}, []
for number in range(120):
    dtype = rng.choice(sys.argv[2].split(","))
    shape = [int(n) for n in rng.randint(0, 6, rng.randint(0, 5))]
    value = rng.randint(-100 if dtype[0] != "u" else 0, 100, shape).astype(dtype)
    name = "s%d/v%d" % (number % 7, number)
    wanted[name] = value
    variables.append(v1.get_variable(name, initializer=value, use_resource=False))
for number, (parts, axis) in enumerate([(2, 0), (3, 1), (5, 0), (1, 0)]):
    value = rng.randn(10, 7).astype("float32")
    name = "p%d" % number
    wanted[name] = value
    split = v1.variable_axis_size_partitioner
    counts = [1, 1]
    counts[axis] = parts
    variables.append(v1.get_variable(
        name, [10, 7], "float32", lambda *a, **k: None or value[
            tuple(slice(o, o + s) for o, s in zip(k["partition_info"].var_offset, a[0]))
        ], partitioner=lambda **k: counts, use_resource=False))
saver = v1.train.Saver(write_version=v1.train.SaverDef.V1)
with v1.Session() as session:
    session.run(v1.global_variables_initializer())
    saver.save(session, sys.argv[1])
np.savez(sys.argv[1] + ".npz", **{k.replace("/", "|"): v for k, v in wanted.items()})
"""

READS = """
import os, sys, warnings
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
warnings.filterwarnings("ignore")
import numpy as np, tensorflow as tf
v1 = tf.compat.v1
v1.logging.set_verbosity(v1.logging.FATAL)
reader = v1.train.NewCheckpointReader(sys.argv[1])
found = {}
for name, shape in reader.get_variable_to_shape_map().items():
    dtype = reader.get_variable_to_dtype_map()[name]
    variable = v1.get_variable(name, shape, dtype, v1.zeros_initializer,
                               use_resource=False)
    with v1.Session() as session:
        v1.train.Saver({name: variable}).restore(session, sys.argv[1])
        found[name] = session.run(variable)
np.savez(sys.argv[1] + ".npz", **found)
"""


def run(code: str, *arguments: str) -> None:
    done = subprocess.run(
        [PYTHON, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_what_tensorflow_writes(tmp_path: pathlib.Path) -> None:
    run(WRITES, str(tmp_path / "m"), ",".join(DTYPES))
    want = np.load(tmp_path / "m.npz")
    checkpoint = tf2flax.open_checkpoint(tmp_path / "m")
    assert sorted(name.replace("/", "|") for name in checkpoint) == sorted(want)
    assert len(checkpoint["p2"].slices) == 5
    for name, array in checkpoint.read().items():
        expected = want[name.replace("/", "|")]
        assert (array.dtype, array.shape) == (expected.dtype, expected.shape), name
        assert array.tobytes() == expected.tobytes(), name
    assert checkpoint.verify().ok


def test_tensorflow_reads_what_the_tests_write(tmp_path: pathlib.Path) -> None:
    """The encoder of the tests writes the format, not what suits the reader."""
    table = np.arange(40, dtype="<f4").reshape(10, 4)
    tensors: dict[str, np.ndarray | Tensor] = {
        name: np.arange(6).reshape(2, 3).astype(name) for name in DTYPES
    }
    tensors["table"] = Tensor(table, slices=rows_in(table, 3))
    for encoding in ("packed", "unpacked", "mixed"):
        prefix = tmp_path / encoding
        v1.write_v1(prefix, tensors, encoding=encoding)
        run(READS, str(prefix))
        got = np.load(f"{prefix}.npz")
        for name, array in tf2flax.open_checkpoint(prefix).read().items():
            assert got[name].tobytes() == array.tobytes(), (encoding, name)
