"""Third-party checkpoints, against TensorFlow's digest of every tensor.

They are not kept with the project: the tests read them beside it, or where
`TF2FLAX_REAL_DIR` says, and are skipped where there are none.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pathlib
from typing import Any

import numpy as np
import pytest
from repository import ROOT

import tf2flax

SHARED = ROOT.parent / "shared" / "real"
REAL = pathlib.Path(os.environ.get("TF2FLAX_REAL_DIR", SHARED))
TRUTHS = {
    path.parent.name: json.loads(path.read_text())
    for path in sorted(REAL.glob("*/truth.json"))
}

pytestmark = pytest.mark.skipif(not TRUTHS, reason=f"no checkpoints at {REAL}")


def digest(array: np.ndarray) -> str:
    if array.dtype == object:
        encoded = [base64.b64encode(element).decode() for element in array.ravel()]
        return hashlib.sha256(json.dumps(encoded).encode()).hexdigest()
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def check_tensors(prefix: str, truth: dict[str, Any]) -> int:
    checkpoint = tf2flax.open_checkpoint(prefix)
    assert list(checkpoint) == sorted(tensor["name"] for tensor in truth["tensors"])
    digests = 0
    for tensor in truth["tensors"]:
        stored = checkpoint[tensor["name"]]
        assert list(stored.shape) == tensor["shape"]
        if "error" in tensor:
            with pytest.raises(tf2flax.DamagedError):
                stored.read()
            continue
        array = stored.read()
        assert array.dtype.name == tensor["dtype"].replace("string", "object")
        assert digest(array) == tensor["sha256"], tensor["name"]
        digests += 1
    return digests


@pytest.mark.parametrize("name", list(TRUTHS))
def test_checkpoint(name: str) -> None:
    truths = TRUTHS[name]["checkpoints"]
    assert truths
    for truth in truths:
        prefix = f"{REAL}/{name}/files/{truth['prefix']}"
        if "error" in truth:
            with pytest.raises(tf2flax.DamagedError, match="git-LFS pointer"):
                tf2flax.open_checkpoint(prefix)
        else:
            digests = check_tensors(prefix, truth)
            if prefix.endswith("/variables/variables"):
                folder = tf2flax.open_checkpoint(prefix[: -len("/variables/variables")])
                assert folder.prefix == prefix
            assert digests or all("error" in t for t in truth["tensors"])


def test_there_are_many() -> None:
    assert len(TRUTHS) > 30
