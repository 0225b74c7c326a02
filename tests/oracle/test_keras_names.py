"""Names of Keras's layers and variables, as Keras itself says them, now.

`TF2FLAX_KERAS_PYTHON` names Pythons with Keras 3, separated by colons; without it,
Keras runs where it is installed beside tf2flax.
"""

from __future__ import annotations

import collections
import importlib.util
import os
import pathlib
import subprocess
import sys
import warnings

import numpy as np
import pytest

import tf2flax

pytest.importorskip("h5py")
pytestmark = pytest.mark.oracle
_HERE = [sys.executable] if importlib.util.find_spec("keras") else []
_GIVEN = os.environ.get("TF2FLAX_KERAS_PYTHON", "")
PYTHONS = _GIVEN.split(":") if _GIVEN else _HERE
MODELS = ["convolutions", "nested", "recurrent", "attention", "subclassed", "frozen"]
Bits = tuple[str, tuple[int, ...], bytes]


def bits(array: np.ndarray) -> Bits:
    return array.dtype.name, array.shape, array.tobytes()


@pytest.fixture(scope="module", params=PYTHONS or [""])
def folder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    if not request.param:
        pytest.skip("set TF2FLAX_KERAS_PYTHON")
    path = tmp_path_factory.mktemp("keras")
    worker = pathlib.Path(__file__).with_name("keras_worker.py")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [request.param, str(worker), str(path)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return path


def agrees(name: str, path: str, top: str) -> bool:
    """Whether a name is Keras's path, but for models around the layer.

    Keras has the outermost model in paths where that built its layers when it was first
    called, and no model within where layers were built before.
    """
    own = f"/{name}".replace(f"/{top}/", "/", 1)
    its = f"/{path}".replace(f"/{top}/", "/", 1).replace(f"/{top}_", "/", 1)
    if own == its or own.endswith(its):
        return True
    # Slots are named after variables, of which the same holds.
    optimizer, _, slot = its[1:].partition("/")
    return name.startswith(f"{optimizer}/") and (
        name.endswith(slot.removeprefix(f"{top}_")) or slot.startswith("variable")
    )


@pytest.mark.parametrize("model", MODELS)
def test_names_and_values(model: str, folder: pathlib.Path) -> None:
    truth = np.load(folder / f"{model}.npz")
    paths = {key: key.partition("|")[2].replace("|", "/") for key in truth}
    counts = collections.Counter(paths.values())
    top = {"convolutions": "net", "subclassed": "sub", "frozen": "sequential"}.get(
        model, "top"
    )
    for ending in (".keras", ".weights.h5", ".weights.json"):
        file = folder / f"{model}{ending}"
        if not file.exists():
            continue
        checkpoint = tf2flax.open_checkpoint(file)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            view = checkpoint.by_variable_name()
        if caught:  # Keras before 3.6
            assert ending == ".weights.h5" or model == "subclassed"
            assert list(view) == list(checkpoint)
            continue
        arrays = {name: view[name].read() for name in view}
        found: dict[Bits, list[str]] = collections.defaultdict(list)
        for name, array in arrays.items():
            found[bits(array)].append(name)
        numbered = 0
        for key, path in paths.items():
            names = found[bits(truth[key])]
            if "seed_generator" in path:
                assert not names  # Keras does not save them
                continue
            assert names, path
            last = [name.rpartition("/")[2] for name in names]
            if all(part.isdecimal() for part in last):
                numbered += 1
            elif counts[path] == 1:
                assert any(agrees(name, path, top) for name in names), (path, names)
        # What `.keras` does not tell is of layers in attributes.
        if ending == ".keras" and model != "subclassed":
            assert numbered == 0
