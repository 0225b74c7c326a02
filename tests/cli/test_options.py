"""Options of the command line: checked, named in messages as they are given there."""

from __future__ import annotations

import json
import pathlib
import sys

import numpy as np
import pytest
from bundle_writer import write_bundle

import tf2flax
from tf2flax._cli import main
from tf2flax._cli.commands import COMMANDS
from tf2flax._cli.wording import in_options, shorten_words

BIG = 2**63 - 1


@pytest.fixture
def prefix(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> str:
    tensors = {
        "w": np.float32([1, np.inf, -np.inf, np.nan]),
        "big": np.float64([1e308, -1e308]),
        "step": np.int64([BIG, -BIG - 1, BIG - 1]),
        "ids": np.uint64([2**64 - 1, 3]),
        "mask": np.array([True, False]),
        "none": np.zeros((0, 2), np.int64),
        "words": np.array([b"a", b"\xff"], object),
    }
    write_bundle(tmp_path / "m", tensors)
    changed = {name: np.zeros_like(array) for name, array in tensors.items()}
    write_bundle(tmp_path / "n", changed | {"words": tensors["words"]})
    (tmp_path / "map.toml").write_text('[assignment_map]\n"w" = "w"\n')
    (tmp_path / "options_target.py").write_text(
        "import numpy as np\ntree = {'w': np.zeros(4, 'float32')}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return "m"


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    try:
        code = main([*arguments])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err


@pytest.mark.parametrize(
    ("option", "values", "words"),
    [
        ("tree --depth", ["-1", "x", "1.5", "", "9" * 5000, "٣"], "0 or more, got '"),
        ("diff --rtol", ["-1", "nan", "inf", "1e999", "x", ""], "finite number, 0 or"),
        ("diff --atol", ["-0.1", "nan", "x"], "finite number, 0 or more, got '"),
        ("compare --rtol", ["-1", "nan", "x"], "finite number, 0 or more, got '"),
        ("compare --atol", ["-0.1", "inf", ""], "finite number, 0 or more, got '"),
        ("convert --data-files", ["-2", "0", "2.5", "x"], "number, 1 or more, got"),
    ],
)
def test_numbers_are_checked(
    option: str,
    values: list[str],
    words: str,
    prefix: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command, name = option.split()
    paths = [prefix] if command == "tree" else [prefix, "n"]
    for value in values:
        text = error_of(capsys, command, *paths, f"{name}={value}")
        assert f"argument {name}: expected a" in text
        assert words in text
        assert len(text) < 700


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["m.bin"], "Give --format, one of"),
        (["there.npz"], "or give --overwrite."),
        (["a.npz", "--flat"], "--flat: format 'npz' has no such option"),
        (["a.npz", "--by-reference"], "--by-reference: format"),
        (["a.npz", "--data-files", "2"], "--data-files: format"),
        (["a", "--format", "tensorbundle", "--data-files", "0"], "--data-files: expe"),
        (["a.npz", "--dtype", "flot32"], "--dtype: expected"),
        (["a.npz", "--dtype", "bfloat16"], "(in Python dtype=[(regex"),
        (["a.npz", "--dtype", "complex64"], 'in Python dtype=[("", "complex64")]'),
        (["o", "--format", "orbax"], "Give --no-slots to drop optimizer slots, --flat"),
        (["o", "--format", "orbax"], "or move these tensors with --map."),
    ],
)
def test_messages_name_the_options_of_the_command_line(
    arguments: list[str],
    words: str,
    prefix: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pathlib.Path("there.npz").touch()
    tensors = {"a": np.zeros(2, "f4"), "a/Adam": np.zeros(2, "f4")}
    if arguments[0] == "o":
        prefix = tf2flax.save_checkpoint("slots", tensors)
    text = error_of(capsys, "convert", prefix, *arguments)
    assert words in text
    assert "=True" not in text
    assert "=False" not in text
    assert "assignment_map" not in text


def test_only_what_is_meant_as_an_option_is_translated() -> None:
    options = {
        "slots": ["--slots", "--no-slots"],
        "map": ["--map"],
        "dtype": ["--dtype"],
    }
    for text in (
        "Option aliases: expected a mapping.",
        "Tensor `dtype=True` is of another dtype, and slots=x.",
        "expected a table `assignment_map`. Begin it with [assignment_map].",
        'on_mismatch="keep" keeps a dtype.',
    ):
        assert in_options(text, options) == text
    assert in_options("Give slots=False, dtype='f4'.", options) == (
        "Give --no-slots, --dtype f4."
    )


def test_long_words_are_cut() -> None:
    path = "/" + "x" * 4000  # as long as any path
    assert shorten_words(f"At `{path}`.") == f"At `{path}`."
    assert len(shorten_words(f"At `{'x' * 10**6}`, say.")) < 500


# Every command that has `--json`, with arguments that need numbers JSON lacks.
JSON = {
    "ls": [["m"]],
    "tree": [["m"], ["m", "--depth", "0"]],
    "show": [["m", name] for name in ("w", "big", "step", "ids", "none", "words")],
    "stats": [["m"]],
    "diff": [["m", "n"], ["n", "m"]],
    "compare": [["m", "n"], ["n", "m"]],
    "verify": [["m"]],
    "plan": [["m", "--map", "map.toml", "--target", "options_target:tree"]],
    "suggest": [["m", "--target", "options_target:tree"]],
    "convert": [["m", "out.npz"]],
}


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def test_json_is_strict(prefix: str, capsys: pytest.CaptureFixture[str]) -> None:
    documents: dict[str, object] = {}
    for command, calls in JSON.items():
        for arguments in calls:
            assert main([command, *arguments, "--json"]) in (0, 1)
            text = capsys.readouterr().out
            documents[" ".join([command, *arguments])] = json.loads(
                text, parse_constant=refuse
            )
    differences = {row["name"]: row for row in documents["diff m n"]["differences"]}  # type: ignore[index]
    assert differences["w"]["max_abs"] == "inf"
    assert differences["w"]["max_rel"] == "inf"
    assert differences["step"]["max_abs"] > 0


def test_every_command_with_json_is_tried(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        with pytest.raises(SystemExit):
            main([name, "--help"])
        assert ("--json" in capsys.readouterr().out) == (name in JSON), name


def test_extremes_of_integers_are_exact(
    prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["stats", prefix, "--json"])
    tensors = {
        tensor["name"]: (tensor.get("min"), tensor.get("max"))
        for tensor in json.loads(capsys.readouterr().out)["tensors"]
    }
    assert tensors["step"] == (-BIG - 1, BIG)
    assert tensors["ids"] == (3, 2**64 - 1)
    assert tensors["mask"] == (0, 1)
    assert tensors["none"] == (None, None)
    main(["stats", prefix, "step"])
    assert f"\t{-BIG - 1}\t{BIG}\t" in capsys.readouterr().out
    main(["show", prefix, "step"])
    assert f"max       {BIG}\n" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["plan", "convert"])
def test_a_missing_map_is_noticed_first(
    command: str, prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the checkpoint, and before the module of the target is imported."""
    pathlib.Path("never_imported.py").write_text("raise SystemError")
    out = [] if command == "plan" else ["out.npz"]
    given = ["--map", "mp.toml", "--target", "never_imported:x"]
    text = error_of(capsys, command, "no/such", *out, *given)
    assert "Cannot read `mp.toml`" in text
    assert "Did you mean `map.toml`?" in text
    assert "never_imported" not in sys.modules
    pathlib.Path("mp.toml").write_text('"a" = ')
    assert main([command, prefix, *out, *given]) in (1, 2)
    assert "never_imported" not in sys.modules


def test_a_pattern_may_follow_options(
    prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (
        ["ls", prefix, "--no-slots", "w*"],
        ["ls", prefix, "w*", "--no-slots"],
        ["ls", "--no-slots", prefix, "w*"],
        ["ls", prefix, "--no-slots", "--", "w*"],
    ):
        assert main(arguments) == 0, arguments
        names = [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]
        assert names == ["w", "words"]
    assert main(["diff", prefix, "n", "--rtol", "0", "st*"]) == 1
    assert capsys.readouterr().out.startswith("step\tvalues")
    error = error_of(capsys, "ls", prefix, "w*", "--no-slots", "x*")
    assert "unrecognized arguments: x*" in error
    error = error_of(capsys, "ls", prefix, "--no-slots", "w*", "x*")
    assert "unrecognized arguments: w* x*" in error
    error = error_of(capsys, "ls", prefix, "--no-slots", "-x")
    assert "unrecognized arguments: -x" in error


def test_near_values_of_options_are_named(
    prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = error_of(capsys, "convert", prefix, "x", "--format", "safetensor")
    assert error.endswith("). Did you mean `safetensors`?\n")
    error = error_of(capsys, "ls", prefix, "--names", "variable")
    assert error.endswith("). Did you mean `variables`?\n")
    assert error_of(capsys, "ls", prefix, "--sort", "qqqq").endswith(")\n")


def test_a_scope_is_named_for_a_scope(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_bundle(tmp_path / "s", {"bert/pooler/w": np.ones(1)})
    for pattern, close in (
        ("bert/poler/", "`bert/pooler/`"),
        ("bert/poler/w", "`bert/pooler/w`"),
    ):
        assert f"Did you mean {close}?" in error_of(capsys, "tree", "s", pattern)


def test_a_single_element_is_one(
    prefix: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bundle(tmp_path / "s", {"x": np.float32(1)})
    assert main(["show", "s", "x"]) == 0
    assert "[]  (1 element)\n" in capsys.readouterr().out
