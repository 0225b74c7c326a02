"""How much memory a conversion holds, whatever the size of the checkpoint."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pytest
from bundle_writer import Tensor, write_bundle
from forking import LISTING, run_forked

import tf2flax

# Converts in a process of its own, with less memory for reads than is usual, and
# prints the peak over what was there before.
WORKER = """
import json, pathlib, re, sys
import tf2flax
from tf2flax._export import source
from tf2flax._restoring import in_order
from tf2flax._writing import slicing

def status(field):
    text = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(rf"^{field}:\\s+(\\d+) kB", text, re.MULTILINE)[1]) << 10

prefix, out, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
assert in_order.IN_FLIGHT_NBYTES == 128 << 20
in_order.IN_FLIGHT_NBYTES, source.BATCH_NBYTES = 8 << 20, 2 << 20
slicing.BLOCK_NBYTES = 2 << 20
if options.pop("transposed", False):
    options["assignment_map"] = [(tf2flax.src("{name}").transpose(), "{name}")]
# What a first conversion imports and allocates is no tensor.
tf2flax.convert(prefix, out, **options | {"assignment_map": {"small": "small"}})
before = status("VmRSS")
pathlib.Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
tf2flax.convert(prefix, out, **options, overwrite=True)
print(status("VmHWM") - before)
"""
MIB = 1 << 20
BOUND = 8 * MIB
LARGE = 32 * MIB
# Threads, buffers of reads, what Python allocates.
SLACK = 12 * MIB
pytestmark = pytest.mark.skipif(
    not pathlib.Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc"
)


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """100 MiB: one tensor of four times the bound, and many of a quarter of it."""
    block = np.random.default_rng(0).standard_normal((512, 1024), dtype=np.float32)
    tensors = {f"t{i:02d}": block + np.float32(i) for i in range(32)}
    tensors["large"] = np.tile(block, (16, 1))
    tensors["small"] = block[:1]
    path = tmp_path_factory.mktemp("memory") / "m"
    tf2flax.save_checkpoint(path, tensors)
    return path


def peak(prefix: pathlib.Path, folder: pathlib.Path, **options: Any) -> int:
    done = run_forked(
        WORKER, prefix, folder / "out", json.dumps(options), check=True, imports=LISTING
    )
    return int(done.stdout)


@pytest.mark.parametrize("name", ["safetensors", "orbax", "npz", "tensorbundle"])
def test_peak_memory(name: str, prefix: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Reads in flight, and no tensor as a whole."""
    assert peak(prefix, tmp_path, format=name) <= BOUND + SLACK


def test_a_tensor_that_is_changed_is_held_whole(
    prefix: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    options: Any = {"format": "safetensors"}
    assert peak(prefix, tmp_path, **options, transposed=True) <= BOUND + LARGE + SLACK


@pytest.mark.parametrize("name", ["safetensors", "tensorbundle"])
def test_a_tensor_that_is_cast_is_not(
    name: str, prefix: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    assert peak(prefix, tmp_path, format=name, dtype="float16") < LARGE


def test_slices_are_written_before_others(tmp_path: pathlib.Path) -> None:
    """Their keys come first in a file; nothing else is read for them and kept."""
    block = np.ones((512, 1024), np.float32)
    tensors: dict[str, Any] = {f"t{i:02d}": block for i in range(32)}
    rows = [(slice(0, 200), slice(None)), (slice(200, 512), slice(None))]
    tensors |= {"z": Tensor(block, rows), "small": block[:1]}
    write_bundle(tmp_path / "m", tensors)
    assert peak(tmp_path / "m", tmp_path, format="tensorbundle") <= BOUND + SLACK
