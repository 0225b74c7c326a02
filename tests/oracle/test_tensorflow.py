"""TensorFlow 2 in the same process, before or after, and as a second opinion.

Runs where TensorFlow is installed beside tf2flax.
"""

from __future__ import annotations

import importlib.util
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import tf2flax

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorflow") is None,
        reason="TensorFlow is not installed here",
    ),
]
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PATH = ROOT / "tests" / "data" / "bert" / "model.ckpt"
OURS = f"import tf2flax; a = tf2flax.load_variable({str(PATH)!r}, 'global_step')"
THEIRS = (
    f"import tensorflow as tf; b = tf.train.load_variable({str(PATH)!r}, 'global_step')"
)


@pytest.mark.parametrize("lines", [(OURS, THEIRS), (THEIRS, OURS)])
def test_both_in_one_process(lines: tuple[str, str]) -> None:
    code = "\n".join([*lines, "assert a == b == 123456", OURS, THEIRS])
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_what_tensorflow_2_writes(tmp_path: pathlib.Path) -> None:
    code = """
import sys, numpy as np, ml_dtypes, tensorflow as tf
names = ["float8_e5m2", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e4m3b11fnuz",
         "float8_e5m2fnuz", "int4", "uint4", "int2", "uint2", "float4_e2m1fn",
         "bfloat16"]
saved = []
for name in names:
    values = np.array([0, 1, 1, 0]).astype(getattr(ml_dtypes, name))
    try:
        tf.raw_ops.SaveV2(prefix=f"{sys.argv[1]}/{name}", tensor_names=[name],
                          shape_and_slices=[""], tensors=[tf.constant(values)])
    except Exception:
        continue
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=[f"{sys.argv[1]}/{name}"],
                                  destination_prefix=f"{sys.argv[1]}/{name}.ckpt")
    saved.append(name)
print(*saved)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        check=True,
        capture_output=True,
        text=True,
    )
    saved = done.stdout.split()
    assert {"bfloat16", "float8_e5m2", "float8_e4m3fn", "int4", "uint4"} <= set(saved)
    for name in saved:
        array = tf2flax.load_variable(tmp_path / f"{name}.ckpt", name)
        assert array.dtype.name == name
        assert array.astype(np.float32).tolist() == [0, 1, 1, 0], name
