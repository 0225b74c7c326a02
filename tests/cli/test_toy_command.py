"""A new command needs a file and its place in the registry, and nothing else."""

from __future__ import annotations

import argparse
import sys
from types import ModuleType
from typing import Any, cast

import pytest
from repository import ROOT

import tf2flax
from tf2flax import _cli
from tf2flax._cli import commands as command_line

BERT = str(ROOT / "tests" / "data" / "bert" / "model.ckpt")


class Count:
    """`tf2flax count`: how many tensors there are, and an exit code."""

    def add_to(self, commands: Any) -> None:
        """Adds the command to a parser."""
        parser = commands.add_parser("count", help="count tensors")
        parser.add_argument("checkpoint")
        parser.add_argument("--at-least", type=int, default=0)
        parser.set_defaults(run=self.run)

    def run(self, arguments: argparse.Namespace) -> int:
        """Counts."""
        count = len(tf2flax.open_checkpoint(arguments.checkpoint))
        print(count)
        return 0 if count >= arguments.at_least else 1


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    monkeypatch.setattr(command_line, "COMMANDS", (*command_line.COMMANDS, "count"))
    monkeypatch.setitem(sys.modules, "tf2flax._cli.count", cast("ModuleType", Count()))


def test_a_toy_command_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert _cli.main(["count", BERT]) == 0
    assert capsys.readouterr().out == "139\n"
    assert _cli.main(["count", BERT, "--at-least", "140"]) == 1


def test_errors_and_help_are_those_of_every_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _cli.main(["count", "no/such/checkpoint"]) == 2
    assert capsys.readouterr().err.startswith("tf2flax: ")
    with pytest.raises(SystemExit) as exit_:
        _cli.main(["--help"])
    assert exit_.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    names = ["ls", "show", "verify", "count"]
    assert [line.split()[0] for line in lines if line[4:].split(" ")[0] in names] == (
        names
    )
