"""`tf2flax suggest`: the map as text, in a file and as JSON; exit codes."""

from __future__ import annotations

import json
import pathlib
import sys

import numpy as np
import pytest

import tf2flax
from tf2flax._cli import main

MODULE = """
import numpy as np
def leaf(*shape): return np.zeros(shape, "float32")
fits = {"params": {"fc": {"kernel": leaf(4, 3), "bias": leaf(3)}}}
more = {**fits, "head": {"kernel": leaf(3, 9)}}
"""


@pytest.fixture
def prefix(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "suggest_target.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    kernel = np.ones((4, 3), "f4")
    tensors = {"net/fc/weights": kernel, "net/fc/biases": kernel[0]}
    return tf2flax.save_checkpoint(tmp_path / "m.ckpt", tensors)


def test_the_map_is_printed(prefix: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["suggest", prefix, "--target", "suggest_target:fits"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"# Suggested for {prefix} by tf2flax.suggest.",
        "[assignment_map]",
        "# both names say dense; nothing else has these shapes",
        '"net/" = "params/"',
    ]


def test_what_is_open_gives_exit_code_1(
    prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target = ["--target", "suggest_target:more"]
    assert main(["suggest", prefix, *target]) == 1
    out = capsys.readouterr().out
    assert "# the checkpoint has nothing for `head`\n" in out
    assert '\n# "" = "head/kernel"  # ' in out
    assert main(["suggest", prefix, *target, "-o", "map.toml"]) == 1
    assert capsys.readouterr().out == (
        "1 entry written to map.toml, 1 leaf has no source\n"
        "the checkpoint has nothing for `head`\n"
    )


def test_json(prefix: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["suggest", prefix, "--target", "suggest_target:more", "--json"]
    assert main(arguments) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["complete"] is False
    assert document["assignment_map"] == [["net/", "params/"]]
    assert document["unmatched"] == ["head/kernel"]
    assert document["ambiguous"] == {}
    assert document["misfits"] == ["the checkpoint has nothing for `head`"]
    assert set(document["evidence"]) == {
        "params/fc/kernel", "params/fc/bias", "head/kernel"
    }  # fmt: skip


def test_a_file_is_written_once(
    prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["suggest", prefix, "--target", "suggest_target:fits", "-o"]
    assert main([*given, "map.toml"]) == 0
    assert dict(tf2flax.load_map("map.toml")) == {"net/": "params/"}
    before = pathlib.Path("map.toml").read_text()
    assert main([*given, "map.toml"]) == 2
    assert "give --overwrite" in capsys.readouterr().err
    assert pathlib.Path("map.toml").read_text() == before
    assert main([*given, "map.toml", "--overwrite"]) == 0
    assert main([*given, "map.txt"]) == 2
    assert (
        "expected a file that ends in .toml, got `map.txt`" in capsys.readouterr().err
    )
    assert main(["suggest", prefix, "--target", "x:y", "--overwrite"]) == 2
    assert "Give -o FILE too." in capsys.readouterr().err


def test_the_map_that_is_written_is_what_plan_takes(
    prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target = ["--target", "suggest_target:fits"]
    assert main(["suggest", prefix, *target, "-o", "map.toml"]) == 0
    assert main(["plan", prefix, *target, "--map", "map.toml"]) == 0
