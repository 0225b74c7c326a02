"""TensorFlow 1.15 trains on from what `examples/finetune.py` wrote: equal losses."""

from __future__ import annotations

import json
import os
import pathlib
import runpy
import subprocess
import sys

import numpy as np
import pytest
from repository import DATA, ROOT

import tf2flax

TF1 = os.environ.get("TF2FLAX_TF1_PYTHON", "")
PROGRAM = """
import json, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import finetune
losses, step = finetune.continue_losses(sys.argv[2], np.load(sys.argv[3]), 2)
print(json.dumps([losses.tolist(), step]))
"""


@pytest.mark.oracle
@pytest.mark.slow
@pytest.mark.skipif(not TF1, reason="set TF2FLAX_TF1_PYTHON")
def test_tensorflow_goes_on_with_equal_losses(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = str(tmp_path / "model.ckpt")
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    monkeypatch.setattr(sys, "argv", ["finetune.py", prefix])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "examples" / "finetune.py"), run_name="__main__")
    assert not ended.value.code
    assert int(tf2flax.load_variable(prefix, "global_step")) == 123456 + 3
    generators = str(DATA / "generators")
    inputs = str(DATA / "bert" / "oracle.npz")
    printed = subprocess.run(
        [TF1, "-W", "ignore", "-c", PROGRAM, generators, prefix, inputs],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    losses, step = json.loads(printed.splitlines()[-1])
    assert step == 123456 + 5
    recorded = np.load(DATA / "finetune" / "oracle.npz")["losses"]
    # Two float32 programs: the losses of TensorFlow itself, from its own checkpoint.
    np.testing.assert_allclose(losses, recorded[3:], atol=1e-6)
