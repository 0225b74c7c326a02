"""What `--names` leaves out, since it has no name of its own: every command says so."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
from bundle_writer import write_bundle
from object_graphs import SUFFIX, write_object_based
from repository import DATA

import tf2flax
from tf2flax._cli import main

NAMED = ["--names", "variables"]
# Two share a name, one has none, one is well.
VARIABLES = {
    "a/w": ("w", np.zeros(2, "<f4")),
    "b/w": ("w", np.ones(2, "<f4")),
    "c": ("", np.ones(3, "<f4")),
    "d": ("d", np.ones(4, "<f4")),
}
SAID = (
    "--names variables leaves out 3 tensors, without a name of their own: "
    f"`a/w{SUFFIX}`, `b/w{SUFFIX}`, `c{SUFFIX}` - in `"
)


@pytest.fixture(autouse=True)
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    write_object_based(tmp_path, VARIABLES)
    (tmp_path / "m.toml").write_text('[assignment_map]\n"d" = "d"\n')
    (tmp_path / "unlisted_target.py").write_text(
        "import numpy as np\ntree = {'d': np.zeros(4, 'f4')}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


MAPPED = ["--map", "m.toml", "--target", "unlisted_target:tree"]


@pytest.mark.parametrize(
    "call",
    [
        ["ls", "m"], ["ls", "m", "--json"], ["ls", "m", "d"], ["tree", "m"],
        ["stats", "m"], ["show", "m", "d"], ["diff", "m", "m"], ["plan", "m", *MAPPED],
        ["convert", "m", "o.npz", "--map", "m.toml"],
        ["convert", "m", "p.npz", *MAPPED],
    ],
)  # fmt: skip
def test_every_command_says_it(
    call: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*call, *NAMED]) == 0
    error = capsys.readouterr().err
    assert f"tf2flax: warning: {SAID}" in error
    assert "--names stored" in error
    # Stored names and paths of attributes leave out nothing; there `d` is no name.
    if call in (["ls", "m"], ["tree", "m"], ["stats", "m"], ["diff", "m", "m"]):
        for names in ("stored", "objects"):
            assert main([*call, "--names", names]) == 0
            assert capsys.readouterr().err == ""


def test_convert_refuses(
    folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", "m", "o.safetensors", *NAMED]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"tf2flax: {SAID}")
    assert "Nothing is written. Give --names stored or --names objects, " in error
    assert not list(folder.glob("o*"))
    assert main(["convert", "m", "o.npz", "--names", "objects"]) == 0
    with np.load("o.npz") as written:
        assert sorted(written) == ["a/w", "b/w", "c", "d"]


def test_convert_refuses_in_python_too(folder: pathlib.Path) -> None:
    stored = tf2flax.open_checkpoint("m")
    view = stored.by_variable_name()
    said = f"leaves out 3 tensors, .*: `a/w{SUFFIX}`, `b/w{SUFFIX}`, `c{SUFFIX}` - in `"
    with pytest.raises(tf2flax.UnsupportedError, match=said):
        tf2flax.convert(view, "o.npz")
    # Of several checkpoints under one roof, the name that is shared.
    merged = tf2flax.merge_checkpoints({"x/": view})
    with pytest.raises(tf2flax.UnsupportedError, match=r"1 tensor, .*: `x/w`"):
        tf2flax.convert(merged, "o.npz")
    assert not list(folder.glob("o*"))
    report = tf2flax.convert(view, "o.npz", assignment_map={"d": "d"})
    assert report.written == ("d",)


def test_slots_that_are_not_written_anyway_may_lack_names(
    folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slot = "w/.OPTIMIZER_SLOT/optimizer/m"
    variables = {"w": ("w", np.ones(2, "<f4")), slot: ("", np.ones(2, "<f4"))}
    (folder / "s").mkdir()
    write_object_based(folder / "s", variables)
    call = ["convert", "s/m", "s.npz", *NAMED]
    assert main(call) == 2
    assert f"leaves out 1 tensor, without a name of their own: `{slot}{SUFFIX}`" in (
        capsys.readouterr().err
    )
    assert main([*call, "--no-slots"]) == 0
    with np.load("s.npz") as written:
        assert sorted(written) == ["w"]
    capsys.readouterr()
    assert main(["diff", "s/m", "s.npz", *NAMED]) == 1
    assert capsys.readouterr().out == f"{slot}{SUFFIX}\tonly in A\t\t\n"
    assert main(["diff", "s/m", "s.npz", *NAMED, "--no-slots"]) == 0


def test_diff_compares_them_under_stored_names(
    folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "n").mkdir()
    changed = {"a/w": ("w", np.full(2, 3, "<f4")), "c": ("", np.zeros(3, "<f4"))}
    write_object_based(folder / "n", {**VARIABLES, **changed})
    assert main(["diff", "m", "n/m", *NAMED, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in document["differences"]] == [
        f"a/w{SUFFIX}",
        f"c{SUFFIX}",
    ]
    assert document["equal"] == 2
    assert main(["diff", "m", "m", *NAMED, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["equal"] == 4


def test_tables_are_left_out_by_paths_of_attributes(
    folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is no variable: its values count, notes of TensorFlow's do not."""
    table, note = "t/.ATTRIBUTES/table-values", "t/.ATTRIBUTES/OBJECT_CONFIG_JSON"
    stored = {
        name: tensor.read() for name, tensor in tf2flax.open_checkpoint("m").items()
    }
    stored |= {table: np.arange(2), note: np.array(b"{}", object)}
    write_bundle(folder / "t", stored)
    objects = ["--names", "objects"]
    assert main(["ls", "t", *objects]) == 0
    said = f"leaves out 1 tensor, without a name of their own: `{table}` - in `"
    assert said in capsys.readouterr().err
    assert main(["convert", "t", "t.npz", *objects]) == 2
    assert "Give --names stored, or say with --map" in capsys.readouterr().err


def test_views_that_leave_out_nothing_say_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Twins of an export of Keras 3 are one variable; its copy is not left out."""
    for path in (
        DATA / "keras3_export" / "functional-3.15.1",
        DATA / "tf2_object" / "keras_object.ckpt",
        DATA / "tf2_object" / "model.keras",
    ):
        assert main(["ls", str(path), *NAMED]) == 0
        assert capsys.readouterr().err == ""
