"""Completion of shells, and what is named where a command or an option is misspelt."""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess

import pytest

from tf2flax._cli import main
from tf2flax._cli.commands import COMMANDS, make_parser

NAMES = list(COMMANDS)


def script_of(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


# Words of a command line -> what bash offers for the last of them.
OFFERED = {
    "": [*NAMES, "--help", "--version"],
    "co": ["compare", "convert", "completion"],
    "plan --h": ["--help", "--html"],
    "plan CKPT --map m.toml --j": ["--json"],
    "convert a b --format s": ["safetensors"],
    "convert a b --by-reference ": ["hardlink", "symlink", "beside"],
    "tree x --so": ["--sort"],
    "tree x --names v": ["variables"],
    "completion ": ["bash", "zsh"],
    "completion b": ["bash"],
    "completion --": ["--help"],
    # Names of files, which bash completes itself.
    "ls ": [],
    "plan x --map ": [],
    "plan x --map --": [],
    "no-such-command --": [],
}


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [script_of("bash", capsys)]
    for words in OFFERED:
        given = " ".join(f"'{word}'" for word in words.split(" "))
        lines.append(f"COMP_WORDS=(tf2flax {given})")
        lines.append("COMP_CWORD=$((${#COMP_WORDS[@]} - 1))")
        lines.append('_tf2flax; echo "${COMPREPLY[*]}"')
    lines.append("complete -p tf2flax")
    done = subprocess.run(
        ["bash", "--norc", "-eu"], input="\n".join(lines),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    *offered, registered = done.stdout.splitlines()
    assert dict(zip(OFFERED, map(str.split, offered), strict=True)) == OFFERED
    assert registered == "complete -o default -F _tf2flax tf2flax"
    assert done.stderr == ""


def test_zsh(capsys: pytest.CaptureFixture[str]) -> None:
    script = script_of("zsh", capsys)
    for name in NAMES:
        assert f"\n    {name}) _arguments -s " in script
    assert "'--json[one JSON document]'" in script
    assert "'--map[map file\\: .toml or .json]:value:_files'" in script
    assert "TensorFlow'\\''s files" in script
    # zsh refuses a second argument that takes all that follow.
    assert all(line.count("'*") <= 1 for line in script.splitlines())
    if zsh := shutil.which("zsh"):
        subprocess.run([zsh, "-n"], input=script, text=True, check=True)


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command."""
    return make_parser(COMMANDS).commands


def options_of(parser: argparse.ArgumentParser) -> list[str]:
    """The options that argparse takes, in its order."""
    return [o for action in parser._actions for o in action.option_strings]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_offers_the_options_and_values_of_argparse(
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected: dict[str, list[str]] = {}
    for name, parser in parsers().items():
        expected[f"{name} -"] = options_of(parser)
        for action in parser._actions:
            for option in action.option_strings if action.nargs != 0 else ():
                expected[f"{name} {option} "] = [*map(str, action.choices or ())]
    assert len(expected) > 30
    lines = [script_of("bash", capsys)]
    for words in expected:
        given = " ".join(f"'{word}'" for word in words.split(" "))
        lines.append(f"COMP_WORDS=(tf2flax {given})")
        lines.append("COMP_CWORD=$((${#COMP_WORDS[@]} - 1))")
        lines.append('_tf2flax; echo "${COMPREPLY[*]}"')
    done = subprocess.run(
        ["bash", "--norc", "-eu"], input="\n".join(lines),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    offered = dict(zip(expected, map(str.split, done.stdout.splitlines()), strict=True))
    assert offered == expected


def test_zsh_offers_the_options_and_values_of_argparse(
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = script_of("zsh", capsys)
    for name, parser in parsers().items():
        line = next(x for x in script.splitlines() if x.startswith(f"    {name}) "))
        specs = shlex.split(line.removesuffix(";;").partition("_arguments -s ")[2])
        offered = [spec.partition("[")[0] for spec in specs if spec.startswith("-")]
        assert offered == options_of(parser)
        for action in parser._actions:
            for option in action.option_strings:
                spec = next(s for s in specs if s.startswith(f"{option}["))
                values = f":value:({' '.join(map(str, action.choices or ()))})"
                assert spec.endswith(values) == bool(action.choices)
                assert (":value:" in spec) == (action.nargs != 0)


MISSPELT = {
    "lss x": "tf2flax: error: there is no command `lss`. Did you mean `ls`?",
    "stat x --json": "tf2flax: error: there is no command `stat`. "
    "Did you mean `stats`?",
    "qqqq": f"there is no command `qqqq`. Commands: {', '.join(NAMES)}.",
    "ls x --jsno": "tf2flax ls: error: unrecognized arguments: --jsno. Did you mean "
    "`--json` instead of `--jsno`?",
    "tree x --dpeth=2": "Did you mean `--depth` instead of `--dpeth`?",
    "plan x --mpa y": "arguments are required: --map, --target. Did you mean `--map` "
    "instead of `--mpa`?",
    "ls x --qqqq": "unrecognized arguments: --qqqq",
    "--versoin": "Did you mean `--version` instead of `--versoin`?",
    "tree x --names all": "argument --names: invalid choice: 'all'",
}


@pytest.mark.parametrize("words", list(MISSPELT))
def test_misspelt(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words.split())
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("usage: tf2flax")
    assert MISSPELT[words] in printed.err
    assert ("Did you mean" in printed.err) == ("Did you mean" in MISSPELT[words])


def test_names_that_look_like_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["tree", "a", "b", "c", "--", "--jsno"])
    assert "Did you mean" not in capsys.readouterr().err
