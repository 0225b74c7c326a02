"""What reaches a terminal: no name of a tensor or file steers it, or fakes a line."""

from __future__ import annotations

import json
import pathlib
import warnings
from typing import Any

import jax
import numpy as np
import pytest
from bundle_writer import write_bundle
from repository import DATA

import tf2flax
from tf2flax._base.text import align_columns, list_names
from tf2flax._cli import main

TITLE = "a\x1b]0;pwned\x07\x1b[2Jb"  # sets the title of a window, and clears it
LINE = "a\nTensor `x` is fine"
NAMES = ("a", TITLE, LINE)


@pytest.fixture
def prefix(tmp_path: pathlib.Path) -> str:
    arrays = {name: np.ones(2, np.float32) for name in NAMES}
    return tf2flax.save_checkpoint(tmp_path / "m", arrays)


@pytest.fixture
def damaged(prefix: str) -> str:
    data = pathlib.Path(f"{prefix}.data-00000-of-00001")
    data.write_bytes(b"\xff" * data.stat().st_size)
    return prefix


def check(text: str) -> None:
    """Refuses control characters, and lines that a name makes up."""
    assert all(c.isprintable() or c == "\n" for c in text), repr(text)
    assert not any(line.startswith("Tensor `x`") for line in text.splitlines())


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["verify"], 1),
        (["show", TITLE], 1),
        (["show", LINE], 1),
        (["show", TITLE[:-1]], 2),
        (["show", f"{LINE}!"], 2),
        (["ls"], 0),
        (["ls", "\x1b[2J"], 2),
        (["tree"], 0),
        (["stats"], 1),  # it finds NaN
        (["tree", "\x1b[2J"], 2),
    ],
)
def test_commands(
    damaged: str, command: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    verb, *arguments = command
    assert main([verb, damaged, *arguments]) == code
    output = capsys.readouterr()
    check(output.out.replace("\t", " "))
    check(output.err)


def test_paths(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "\x1b[2J"
    folder.mkdir()
    write_bundle(folder / "m", {"a": np.ones(1)})
    for command in ("verify", "show"):
        name = ["a"] if command == "show" else []
        assert main([command, str(folder / "m"), *name]) == 0
        check(capsys.readouterr().out)
    assert main(["ls", str(folder / "no")]) == 2
    check(capsys.readouterr().err)


def test_diff_and_convert(
    prefix: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = {name: np.zeros(3, np.float32) for name in (*NAMES, "z\x1b[2J")}
    other = tf2flax.save_checkpoint(tmp_path / "\x1b[2J", changed)
    assert main(["diff", prefix, other]) == 1
    out = str(tmp_path / "out\x1b[2J.npz")
    assert main(["convert", other, out, "--format", "npz"]) == 0
    output = capsys.readouterr()
    check(output.out.replace("\t", " "))  # which separates columns
    check(output.err)


def test_printed_plans_and_their_inverse(prefix: str) -> None:
    target = {"w": np.zeros(2, np.float32), LINE: np.zeros(2, np.float32)}
    entries = {TITLE: "w", "no": LINE, "none/\x1b[2J/": "nothing/"}
    plan = tf2flax.plan(prefix, entries, target, on_missing="keep")
    texts = [str(plan), f"{plan}", repr(plan), plan._repr_html_(), str(plan.inverse())]  # pyright: ignore[reportPrivateUsage]
    for text in texts:
        check(text)
    assert r"a\x1b]0;pwned\x07\x1b[2Jb" in texts[0]


def mistakes(prefix: str) -> dict[str, Any]:
    zeros = np.zeros(2, np.float32)
    leaf = {TITLE: zeros, LINE: zeros}
    checkpoint = tf2flax.open_checkpoint(prefix)
    return {
        "lookup": lambda: checkpoint[LINE + "!"],
        "no tensor": lambda: tf2flax.plan(checkpoint, {TITLE + "!": "w"}, {"w": zeros}),
        "two problems": lambda: tf2flax.plan(
            checkpoint, {TITLE + "!": "w", LINE + "!": "v"}, {"w": zeros, "v": zeros}
        ),
        "no leaf": lambda: tf2flax.plan(checkpoint, {"a": TITLE + "!"}, leaf),
        "no entry": lambda: tf2flax.plan(
            checkpoint, {}, {LINE: jax.ShapeDtypeStruct((2,), "float32")}
        ),
        "a key": lambda: tf2flax.plan(checkpoint, {LINE: None}, leaf),
        "damage": lambda: checkpoint.read(),
    }


@pytest.mark.parametrize("name", mistakes(str(DATA / "bert" / "model.ckpt")))
def test_messages(damaged: str, name: str) -> None:
    with pytest.raises(tf2flax.CheckpointError) as caught:
        mistakes(damaged)[name]()
    check(str(caught.value))


def test_warnings(prefix: str) -> None:
    zeros = {"w": np.zeros(2, np.float32)}
    plan = tf2flax.plan(prefix, {"a": "w", f"{TITLE}/": "none/"}, zeros)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        plan.restore()
    assert len(caught) == 1
    check(str(caught[0].message))


def test_tables_and_lists_escape() -> None:
    check("\n".join(align_columns([["name"], [TITLE], [LINE]])))
    check(list_names(NAMES))
    assert len(align_columns([["name"], [LINE]])) == 2


def test_a_bar_escapes(prefix: str, capsys: pytest.CaptureFixture[str]) -> None:
    tf2flax.open_checkpoint(prefix).read(progress=True)
    assert "pwned\x07" not in capsys.readouterr().err


def test_ls_takes_a_name_that_looks_like_a_pattern(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bundle(tmp_path / "m", {"[x]": np.ones(1), "x": np.ones(1)})
    assert main(["ls", str(tmp_path / "m"), "[x]"]) == 0
    names = [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["[x]", "x"]


def test_averages_are_hidden_with_slots(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(DATA / "resnet_slim" / "model.ckpt")
    assert main(["ls", "--json", "--no-slots", path]) == 0
    document = json.loads(capsys.readouterr().out)
    names = [tensor["name"] for tensor in document["tensors"]]
    assert not [name for name in names if "ExponentialMovingAverage" in name]
    left_out = document["slots_left_out"]
    assert sum(name.endswith("/ExponentialMovingAverage") for name in left_out) == 77
