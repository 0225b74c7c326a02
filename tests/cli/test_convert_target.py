"""`convert --map M --target T` writes the Flax tree, in every format."""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy

import tf2flax
from tf2flax._cli import main
from tf2flax._export.trees import convert_tree

MODULE = "trees_of_a_user"
CODE = """
import jax, numpy as np
from flax import nnx

def abstract():
    return {"params": {"q": {"w": jax.ShapeDtypeStruct((3, 2), np.float32)}}}

def with_values():
    head = {"b": np.float16([1, 2]), "w": jax.numpy.ones((2, 2), "bfloat16")}
    return {"params": {**abstract()["params"], "head": head}, "count": 3}

def with_key():
    return {**abstract(), "key": jax.random.key(0)}

class Model(nnx.Module):
    def __init__(self):
        self.q = nnx.Linear(3, 2, use_bias=False, rngs=nnx.Rngs(0))
"""
KERNEL = np.arange(6, dtype=np.float64).reshape(2, 3)
TENSORS: dict[str, Any] = {
    "enc/q": KERNEL,
    "enc/q/Adam": KERNEL,
    "kept/x": np.ones(4, "f4"),
    "step": np.int64(7),
}


@pytest.fixture
def prefix(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A checkpoint, a map, and a module of targets in the current directory."""
    (tmp_path / f"{MODULE}.py").write_text(CODE)
    source = tf2flax.src("enc/q").transpose()
    tf2flax.save_map(tmp_path / "m.toml", {source: "params/q/w"})
    tf2flax.save_map(tmp_path / "nnx.toml", {source: "q/kernel"})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tf2flax.save_checkpoint(tmp_path / "tf.ckpt", TENSORS)
    sys.modules.pop(MODULE, None)


def convert(prefix: str, out: str, target: str, *options: str, map_: str = "m") -> int:
    given = ["--map", f"{map_}.toml", "--target", f"{MODULE}:{target}"]
    return main(["convert", prefix, out, *given, *options])


def check(arrays: dict[str, Any]) -> None:
    """Compares with what a restore gives."""
    module = sys.modules[MODULE]
    plan = tf2flax.plan("tf.ckpt", tf2flax.load_map("m.toml"), module.with_values())
    tree = plan.restore()
    params = tree["params"]
    expected = {
        "params/q/w": params["q"]["w"],
        "params/head/b": params["head"]["b"],
        "params/head/w": params["head"]["w"],
        "count": tree["count"],
    }
    assert sorted(arrays) == sorted(expected)
    for name, array in expected.items():
        assert np.array_equal(np.asarray(arrays[name]), np.asarray(array)), name
    assert arrays["params/q/w"].dtype == np.float32
    assert np.array_equal(arrays["params/q/w"], KERNEL.T)


def test_safetensors(prefix: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(prefix, "m.safetensors", "with_values", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["dropped"] == ["enc/q/Adam", "kept/x", "step"]
    assert report["written"] == ["count", "params/head/b", "params/head/w",
                                 "params/q/w"]  # fmt: skip
    check(safetensors.numpy.load_file("m.safetensors"))
    with safetensors.safe_open("m.safetensors", "np") as file:
        assert file.metadata()["source"] == prefix


def test_what_is_left_out_is_said(
    prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Leaves of the target, tensors that fill none, entries that reach none."""
    source = tf2flax.src("enc/q").transpose()
    entries = {source: "params/q/w", "enc/": "params/nothing/"}
    tf2flax.save_map("m.toml", entries, overwrite=True)
    assert convert(prefix, "m.safetensors", "with_values") == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[1:] == [
        "as in the target, not filled: `count`, `params/head/b`, `params/head/w`",
        "dropped: `enc/q/Adam`, `kept/x`, `step`",
    ]
    assert printed.err == (
        "tf2flax: warning: Entries of the assignment map reach no leaf of the target: "
        "`enc/` -> `params/nothing/` (did you mean `params/head/`?)\n"
    )
    assert convert(prefix, "m.npz", "abstract", "--json") == 0
    assert json.loads(capsys.readouterr().out)["kept"] == []


def test_half_loaded_normalisations(
    prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a restore warns of, a conversion to the same tree warns of."""
    names = ("gamma", "moving_mean", "moving_variance")
    tensors = {f"bn/{name}": np.full(2, 5, "f4") for name in names}
    tf2flax.save_checkpoint("bn.ckpt", tensors)
    pathlib.Path(f"{MODULE}.py").write_text(
        "import numpy as np\none = np.ones(2, 'f4')\n"
        "tree = {'params': {'bn': {'scale': one}}, "
        "'batch_stats': {'bn': {'mean': one, 'var': one}}}\n"
    )
    tf2flax.save_map("m.toml", {"bn/": "params/bn/"}, overwrite=True)
    assert convert("bn.ckpt", "m.npz", "tree") == 0
    printed = capsys.readouterr()
    assert printed.err.startswith("tf2flax: warning: ")
    assert "batch_stats/bn/mean" in printed.err
    assert "as in the target, not filled: `batch_stats/bn/mean`" in printed.out


def test_orbax(prefix: str, tmp_path: pathlib.Path) -> None:
    assert convert(prefix, "orbax", "with_values", "--format", "orbax") == 0
    tree = ocp.StandardCheckpointer().restore(tmp_path / "orbax")
    head = tree["params"]["head"]
    check(
        {
            "params/q/w": tree["params"]["q"]["w"],
            "params/head/b": head["b"],
            "params/head/w": head["w"],
            "count": tree["count"],
        }
    )


def test_tensorbundle(prefix: str) -> None:
    assert convert(prefix, "new.ckpt", "with_values", "--format", "tensorbundle") == 0
    check(dict(tf2flax.open_checkpoint("new.ckpt").read()))


def test_npz_in_the_order_of_names(prefix: str) -> None:
    """Leaves that are kept stand between those that are loaded."""
    pathlib.Path(f"{MODULE}.py").write_text(
        "import numpy as np\n"
        "tree = {name: np.full(4, i, 'f4') for i, name in enumerate('abcd')}\n"
    )
    tf2flax.save_map("m.toml", [("kept/x", "b"), ("kept/x", "d")], overwrite=True)
    assert convert(prefix, "m.npz", "tree") == 0
    with np.load("m.npz") as archive:
        assert archive.files == ["a", "b", "c", "d"]
        assert [archive[name][0] for name in "abcd"] == [0, 1, 2, 1]


def test_npz_of_a_module(prefix: str) -> None:
    assert convert(prefix, "m.npz", "Model", map_="nnx") == 0
    with np.load("m.npz") as archive:
        assert {**archive}.keys() == {"q/kernel"}
        assert np.array_equal(archive["q/kernel"], KERNEL.T)
        assert archive["q/kernel"].dtype == np.float32


def test_dtype(prefix: str) -> None:
    assert convert(prefix, "m.npz", "abstract", "--dtype", "float16") == 0
    with np.load("m.npz") as archive:
        assert archive["params/q/w"].dtype == np.float16


def test_what_is_refused(
    prefix: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = ["--target", f"{MODULE}:abstract"]
    assert main(["convert", prefix, "m.npz", *target]) == 2
    assert "Give --map FILE too." in capsys.readouterr().err
    assert convert(prefix, "m.npz", "with_key") == 2
    assert "Leaf `key` holds no numbers" in capsys.readouterr().err
    # The map does not fit this target.
    assert convert(prefix, "m.npz", "abstract", map_="nnx") == 2
    by_reference = ["--format", "orbax", "--by-reference"]
    assert convert(prefix, "o", "with_values", *by_reference) == 2
    assert "these leaves are not in the checkpoint: `count`" in capsys.readouterr().err
    pathlib.Path("m.npz").write_text("")
    assert convert(prefix, "m.npz", "abstract") == 2
    assert "exists already" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.glob("[mo]*")) == ["m.npz", "m.toml"]


def test_by_reference_where_all_is_loaded(prefix: str) -> None:
    report = convert_tree(
        tf2flax.open_checkpoint(prefix), "o", {"kept/x": "q"}, {"q": np.zeros(4, "f4")},
        format="orbax", options=(1, False, True),
    )  # fmt: skip
    assert report.written == ("q",)
    assert main(["verify", "o"]) == 0
