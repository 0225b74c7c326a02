"""Every recorded way in which TensorFlow cuts N rows restores from one tensor."""

from __future__ import annotations

import json
import pathlib

import jax
import numpy as np
from bundle_writer import write_bundle
from repository import DATA

import tf2flax

HERE = DATA / "semantics"
SPLITS = json.loads((HERE / "partitioning.json").read_text())["even_split"]


def test_recorded_splits(tmp_path: pathlib.Path) -> None:
    rows = {split["rows"] for split in SPLITS}
    assert len(SPLITS) > 20
    arrays = {f"t{n}": np.arange(3 * n, dtype=np.float32).reshape(n, 3) for n in rows}
    write_bundle(tmp_path / "m", arrays)
    checkpoint = tf2flax.open_checkpoint(tmp_path / "m")
    for split in SPLITS:
        source = arrays[f"t{split['rows']}"]
        parts = {
            f"v/part_{i}": jax.ShapeDtypeStruct((size, 3), "float32")
            for i, size in enumerate(split["sizes"])
        }
        loaded = tf2flax.init_from_checkpoint(
            checkpoint, {f"t{split['rows']}": "v"}, parts
        )
        for i, (start, size) in enumerate(
            zip(split["offsets"], split["sizes"], strict=True)
        ):
            part = np.asarray(loaded[f"v/part_{i}"])
            assert part.tolist() == source[start : start + size].tolist()
