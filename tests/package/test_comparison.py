"""What docs/comparison.md says of other libraries without a link is so."""

from __future__ import annotations

import pathlib
import re

import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors
import safetensors.numpy
from repository import DATA, ROOT

import tf2flax

PAGE = (ROOT / "docs" / "comparison.md").read_text()
TENSORS = {"a": np.arange(4096, dtype=np.float32), "b": np.ones(8, np.float32)}


def flip(path: pathlib.Path, offset: int) -> None:
    contents = bytearray(path.read_bytes())
    contents[offset] ^= 1
    path.write_bytes(contents)


def differs(arrays: dict[str, np.ndarray]) -> bool:
    return any(not np.array_equal(arrays[name], TENSORS[name]) for name in TENSORS)


def test_neither_reads_a_checkpoint_of_tensorflow() -> None:
    with pytest.raises(Exception, match=r"[Cc]heckpoint|[Mm]etadata"):
        ocp.StandardCheckpointer().restore(DATA / "bert")
    with pytest.raises(safetensors.SafetensorError):
        safetensors.numpy.load_file(DATA / "bert/model.ckpt.data-00000-of-00001")


def test_a_flipped_bit(tmp_path: pathlib.Path) -> None:
    """tf2flax notices it; safetensors gives another value, and so does Orbax."""
    prefix = tf2flax.save_checkpoint(tmp_path / "m", TENSORS)
    flip(tmp_path / "m.data-00000-of-00001", 100)
    with pytest.raises(tf2flax.DamagedError):
        tf2flax.open_checkpoint(prefix).read()
    path = tmp_path / "m.safetensors"
    safetensors.numpy.save_file(TENSORS, path)
    flip(path, path.stat().st_size - 100)
    assert differs(safetensors.numpy.load_file(path))


def test_a_flipped_bit_in_what_orbax_saved(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "o"
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder, TENSORS)
    (data,) = sorted(
        (path for path in folder.rglob("*") if path.is_file()),
        key=lambda path: path.stat().st_size,
    )[-1:]
    flip(data, data.stat().st_size // 2)
    with ocp.StandardCheckpointer() as checkpointer:
        assert differs(
            {k: np.asarray(v) for k, v in checkpointer.restore(folder).items()}
        )


def test_every_row_is_about_a_library_and_every_cell_is_there() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {7}
    assert len(rows) == 9
    # What is not tested has a link, to the file or page that says it.
    links = re.findall(r"\((https://[^)]+)\)", PAGE)
    assert len(links) >= 8
