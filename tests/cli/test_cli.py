"""The command line: what it prints, its exit codes, and what it does not import."""

from __future__ import annotations

import json
import os
import pathlib
import pty
import signal
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from bundle_writer import Tensor, rows_in, write_bundle
from forking import LISTING, run_forked
from repository import ROOT

import tf2flax
from tf2flax._cli import main

BERT = str(ROOT / "tests" / "data" / "bert" / "model.ckpt")
WIDE = str(ROOT / "tests" / "data" / "wide_deep_partitioned" / "model.ckpt")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs `python -m tf2flax`."""
    code = "import runpy; runpy.run_module('tf2flax', run_name='__main__')"
    return run_forked(code, *arguments)


def on_terminal(*arguments: str) -> str:
    """What the command prints on a terminal of 100 columns."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "tf2flax", *arguments],
        stdout=child, stderr=child, cwd=ROOT, env={**os.environ, "COLUMNS": "100"},
    )  # fmt: skip
    os.close(child)
    printed = bytearray()
    try:
        while chunk := os.read(parent, 4096):
            printed += chunk
    except OSError:  # the terminal is closed
        pass
    process.wait()
    os.close(parent)
    return printed.decode().replace("\r\n", "\n")


def test_ls_for_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", BERT]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    checkpoint = tf2flax.open_checkpoint(BERT)
    assert [line[0] for line in lines] == list(checkpoint)
    assert ["global_step", "int64", "[]", "8", "0"] in lines
    assert main(["ls", WIDE, "dnn/*kernel"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "dnn/hiddenlayer_0/kernel\tfloat32\t[25, 16]\t1600\t5",
        "dnn/hiddenlayer_1/kernel\tfloat32\t[16, 8]\t512\t3",
        "dnn/logits/kernel\tfloat32\t[13, 1]\t52\t0",
    ]


def test_ls_on_a_terminal() -> None:
    printed = on_terminal("ls", WIDE, "--no-slots").splitlines()
    assert printed[0].split() == ["name", "dtype", "shape", "size", "slices"]
    assert len({line.index("float32") for line in printed if "float32" in line}) == 1
    assert printed[-2] == "15 tensors, 3,707 elements, 14.8 kB"
    assert (
        printed[-1]
        == "slots and averages left out: 18 tensors, 4,020 elements, 16.1 kB"
    )


def test_ls_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", "--json", "--no-slots", WIDE, "dnn/logits/*"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["checkpoint"] == WIDE
    assert document["num_tensors"] == 2
    assert document["tensors"][1] == {
        "name": "dnn/logits/kernel",
        "dtype": "float32",
        "shape": [13, 1],
        "nbytes": 52,
        "slices": [],
    }
    assert "dnn/logits/kernel/Adagrad" in document["slots_left_out"]


def test_names_that_would_break_a_line(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["a\tb", "a\nb", "\x1b[31m", "日本", "\udcff"]
    write_bundle(tmp_path / "m", {name: np.ones(1) for name in names})
    assert main(["ls", str(tmp_path / "m")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert all(line.count("\t") == 4 for line in lines)
    assert "\x1b" not in "".join(lines)
    assert main(["ls", "--json", str(tmp_path / "m")]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [tensor["name"] for tensor in document["tensors"]] == sorted(names)
    assert run("ls", str(tmp_path / "m")).returncode == 0
    ascii_only = subprocess.run(
        [sys.executable, "-m", "tf2flax", "ls", str(tmp_path / "m")],
        capture_output=True, cwd=ROOT, env={"PYTHONIOENCODING": "ascii"}, check=True,
    )  # fmt: skip
    assert b"\\u65e5" in ascii_only.stdout


def test_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", WIDE, "dnn/hiddenlayer_1/kernel"]) == 0
    printed = capsys.readouterr().out
    assert "shape     [16, 8]  (128 elements)" in printed
    assert "checksum  ok" in printed
    assert printed.count("model.ckpt.data-00000-of-00001[") == 3
    array = tf2flax.load_variable(WIDE, "dnn/hiddenlayer_1/kernel")
    assert main(["show", "--json", WIDE, "dnn/hiddenlayer_1/kernel"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["corner"] == array[:4, :6].tolist()
    statistics = facts["statistics"]
    assert statistics["mean"] == pytest.approx(array.mean(), abs=1e-7)
    assert statistics["std"] == pytest.approx(array.std(), abs=1e-7)
    assert (statistics["min"], statistics["max"]) == (array.min(), array.max())
    assert [piece["crc32c"] is not None for piece in facts["pieces"]] == [True] * 3


@pytest.mark.parametrize(
    ("path", "name", "state"),
    [
        ("v1_format/model.ckpt", "dt/bool", "ok"),
        ("tf1_keras/keras.weights.h5", "conv/bias", "not stored"),
    ],
)
def test_show_other_kinds(
    path: str, name: str, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("h5py")
    assert main(["show", str(ROOT / "tests" / "data" / path), name]) == 0
    assert f"checksum  {state}\n" in capsys.readouterr().out


def test_show_what_is_odd(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = {
        "nan": np.array([1, np.nan, np.inf, 3], "<f4"),
        "far": np.full(1000, 1e9) + np.arange(1000),
        "strings": np.array([b"a\xff\x1b", b"x" * 100], object),
        "flags": np.array([[True, False]]),
        "empty": np.zeros((0, 3)),
        "all_nan": np.full(2, np.nan),
        "scalar": np.array(7, "<i8"),
        "deep": np.arange(48.0).reshape(2, 3, 2, 4),
        "complex": np.array([3 + 4j], "<c8"),
        "small": np.array([1.5, 2], ml_dtypes.bfloat16),
        "sliced": Tensor(np.arange(40.0), slices=rows_in(np.arange(40.0), 12)),
        "big": np.array([1e308, -1e308]),
    }
    write_bundle(tmp_path / "m", tensors)
    found: dict[str, dict[str, object]] = {}
    for name in tensors:
        assert main(["show", str(tmp_path / "m"), name]) == 0
        assert "\x1b" not in capsys.readouterr().out
        assert main(["show", "--json", str(tmp_path / "m"), name]) == 0
        found[name] = json.loads(capsys.readouterr().out)["statistics"]
    assert found["nan"] == {
        "nan": 1, "inf": 1, "zeros": 0, "mean": 2.0, "std": 1.0, "min": 1.0, "max": 3.0,
    }  # fmt: skip
    assert found["far"]["std"] == pytest.approx(np.arange(1000).std())
    assert found["strings"] == {"shortest": 3, "longest": 100}
    assert found["flags"]["mean"] == 0.5
    assert found["empty"] == found["all_nan"] | {"nan": 0}
    assert found["complex"]["mean"] == 5
    assert (found["big"]["std"], found["big"]["max"]) == (None, 1e308)


def test_damage(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    prefix = tmp_path / "m"
    write_bundle(prefix, {"a": np.arange(3.0), "b": np.arange(3.0)})
    data = tmp_path / "m.data-00000-of-00001"
    contents = bytearray(data.read_bytes())
    contents[0] ^= 1
    data.write_bytes(contents)
    assert main(["verify", str(prefix)]) == 1
    assert "1 damaged" in capsys.readouterr().out
    assert main(["verify", "--json", str(prefix)]) == 1
    document = json.loads(capsys.readouterr().out)
    assert [damage["name"] for damage in document["damaged"]] == ["a"]
    assert main(["show", str(prefix), "a"]) == 1
    assert "checksum  differs" in capsys.readouterr().out
    assert main(["show", str(prefix), "b"]) == 0
    data.write_bytes(contents[:30])
    assert main(["verify", str(prefix)]) == 1
    assert "18 are missing" in capsys.readouterr().out
    assert main(["show", str(prefix), "b"]) == 2
    data.unlink()
    assert main(["verify", str(prefix)]) == 1
    assert main(["ls", str(prefix)]) == 0


def test_verify_shows_progress_on_a_terminal() -> None:
    printed = on_terminal("verify", BERT)
    assert "Verifying model.ckpt" in printed
    assert printed.endswith("139 tensors, 282320 bytes checked: all well\n")
    assert run("verify", BERT).stderr == ""


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["ls", "nothing/here"], "no directory `nothing`"),
        (["ls", BERT, "*poolre*"], "matches none of 139 tensors"),
        (["show", BERT, "bert/poler/dense/kernel"], "Did you mean `bert/pooler"),
        (["ls", "ftp://host/x"], "does not know ftp:// URLs"),
        (["verify", str(ROOT / "README.md")], "not a TensorFlow checkpoint"),
    ],
)
def test_errors_are_one_paragraph(arguments: list[str], text: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert text in done.stderr
    assert done.stderr.startswith("tf2flax: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["plan"], ["ls"], ["show", BERT]])
def test_usage(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "usage: tf2flax" in done.stderr


def test_help_and_version() -> None:
    assert "Exit codes" in run("--help").stdout
    assert run("--version").stdout == f"tf2flax {tf2flax.__version__}\n"


def test_a_closed_pipe_is_silent() -> None:
    many = str(ROOT / "tests" / "data" / "many_vars" / "model.ckpt")
    done = subprocess.run(
        f"set -o pipefail; {sys.executable} -m tf2flax ls {many} | head -n 1",
        shell=True, capture_output=True, text=True, cwd=ROOT, check=False,
        executable="/bin/bash",
    )  # fmt: skip
    assert done.stderr == ""
    # As of a process that SIGPIPE ended: no error of usage.
    assert done.returncode in (0, 141)
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["ls", BERT], ["show", BERT, "global_step"], ["verify", BERT]]
)
def test_no_jax(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom tf2flax._cli import main\n"
        f"code = main({arguments!r})\n"
        "slow = {'jax', 'flax', 'tensorflow', 'tensorstore', 'rich'}\n"
        "found = slow & {*sys.modules}\n"
        "sys.exit(code or bool(found))"
    )
    done = run_forked(code)
    assert done.returncode == 0, done


# Runs each command in a process forked from one, whose output leads nowhere.
CLOSING = """
import json, os, sys
from tf2flax._cli import main
kind, commands = sys.argv[1], json.loads(sys.argv[2])
report = os.open(sys.argv[3], os.O_WRONLY)
for command in commands:
    process = os.fork()
    if process:
        status = os.waitpid(process, 0)[1]
        os.write(report, b"%d " % os.waitstatus_to_exitcode(status))
        continue
    for number in (1, 2) if "both" in kind else (1,):
        name = "stdout" if number == 1 else "stderr"
        if "closed" in kind:
            os.close(number)
            setattr(sys, name, None)
            setattr(sys, f"__{name}__", None)
            continue
        read, write = os.pipe()
        os.close(read)
        target = write if "pipe" in kind else os.open("/dev/full", os.O_WRONLY)
        os.dup2(target, number)
    sys.exit(main(command))
"""
COMMANDS = [
    ["ls", BERT], ["ls", "--json", BERT], ["show", BERT, "global_step"],
    ["show", "--json", BERT, "global_step"], ["verify", BERT], ["--help"],
    ["--version"], ["ls", "--help"], ["show", "--help"], ["verify", "--help"],
    ["tree", BERT], ["tree", "--json", BERT], ["stats", BERT, "bert/pooler/"],
    ["stats", "--json", BERT, "cls/"], ["diff", "--json", BERT, BERT, "bert/pooler/"],
    ["completion", "bash"], ["plan", "--help"], ["convert", "--help"],
]  # fmt: skip


RUNNING = (*LISTING, "tf2flax._cli.commands")


def in_forks(
    code: str,
    kind: str,
    commands: list[list[str]],
    unbuffered: str,
    report: pathlib.Path,
) -> tuple[list[int], subprocess.CompletedProcess[str]]:
    """Exit codes of all, and what they have written."""
    report.write_text("")
    done = run_forked(
        code, kind, json.dumps(commands), report,
        imports=RUNNING,
        env={
            "PYTHONUNBUFFERED": unbuffered,
            # From 3.12 on, forking warns where libraries have begun threads.
            "PYTHONWARNINGS": "ignore::DeprecationWarning",
        },
    )  # fmt: skip
    return [*map(int, report.read_text().split())], done


@pytest.mark.parametrize(
    ("kind", "unbuffered"),
    [
        ("full", ""), ("full", "1"), ("closed", ""), ("pipe", ""), ("pipe", "1"),
        ("both full", ""), ("both closed", ""), ("both pipe", ""),
    ],
)  # fmt: skip
def test_output_that_cannot_be_written(
    kind: str, unbuffered: str, tmp_path: pathlib.Path
) -> None:
    """Exit code 2, also of help, and no traceback; 1 is said of damage alone.

    141, as of a process that SIGPIPE ended, where nobody reads a pipe.
    """
    commands = COMMANDS if kind in ("full", "closed") else COMMANDS[::3]
    codes, done = in_forks(CLOSING, kind, commands, unbuffered, tmp_path / "codes")
    assert codes == [141 if "pipe" in kind else 2] * len(commands)
    texts = {
        "full": "tf2flax: Cannot write to standard output: No space left on device.\n",
        "closed": "tf2flax: Standard output is closed.\n",
    }
    assert done.stderr == texts.get(kind, "") * len(commands)
    assert done.stdout == ""


@pytest.mark.parametrize("closing", ["> /dev/full", ">&-", "| true", ">&- 2>&-"])
def test_a_process_of_which_output_cannot_be_written(closing: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f'set -o pipefail; "$@" {closing}', "-", sys.executable, "-m",
         "tf2flax", "--help"],
        capture_output=True, text=True, cwd=ROOT, check=False, timeout=600,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
    )  # fmt: skip
    assert done.returncode == (141 if closing == "| true" else 2)
    assert len(done.stderr.splitlines()) == (closing in ("> /dev/full", ">&-"))


def test_messages_that_cannot_be_written(tmp_path: pathlib.Path) -> None:
    prefix = tf2flax.save_checkpoint(tmp_path / "m", {"a": np.ones(2)})
    (tmp_path / "m.data-00000-of-00001").write_bytes(bytes(16))
    commands = [["ls", "no"], ["verify", prefix], ["show", prefix, "a"], ["no"], []]
    code = CLOSING.replace('(1, 2) if "both" in kind else (1,)', "(2,)")
    for kind in ("full", "closed", "pipe"):
        codes, done = in_forks(code, kind, commands, "", tmp_path / "codes")
        assert codes == [2, 1, 1, 2, 2]
        # What is an error does not go to the output instead.
        assert "No checkpoint" not in done.stdout
        assert "usage" not in done.stdout
        assert done.stderr == ""


def test_another_error_of_the_system_is_not_of_the_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone() -> str:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(os, "getcwd", gone)
    assert main(["ls", "relative"]) == 2
    assert capsys.readouterr().err == "tf2flax: No such file or directory.\n"


ENDED = """
import os, signal, sys
from tf2flax._cli import main
number, *command = sys.argv[1:]
if int(number) != signal.SIGKILL:
    signal.signal(int(number), signal.SIG_DFL)  # ignored where `nohup` runs the tests
fsync = os.fsync
def end(descriptor):
    signal.raise_signal(int(number))
    fsync(descriptor)
os.fsync = end
sys.exit(main(command))
"""


@pytest.mark.parametrize(
    "options", [["npz"], ["safetensors"], ["orbax", "--flat"], ["tensorbundle"]]
)
def test_signals_leave_nothing_half_written(
    options: list[str], tmp_path: pathlib.Path
) -> None:
    command = ["convert", BERT, f"{tmp_path}/out", "--format", *options]
    for number in (signal.SIGTERM, signal.SIGHUP):
        done = run_forked(ENDED, int(number), *command, imports=RUNNING)
        assert (done.returncode, done.stderr) == (128 + number, "")
        assert not [*tmp_path.iterdir()]
    # What is killed leaves something, which is in nobody's way.
    done = run_forked(ENDED, int(signal.SIGKILL), *command, imports=RUNNING)
    assert done.returncode == -signal.SIGKILL
    assert [*tmp_path.glob("out.tempstate*")]
    assert main(command) == 0


def test_signals_that_are_handled_are_left_alone() -> None:
    code = (
        "import signal, sys\nfrom tf2flax._cli import main\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"  # as `nohup` does
        "main(['completion', 'bash'])\n"
        "assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN\n"
        "assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL\n"
    )
    run_forked(code, check=True, imports=RUNNING)


@pytest.mark.parametrize("module", ["numpy", "tf2flax._cli.commands"])
def test_an_interrupt_while_modules_are_loaded(module: str) -> None:
    code = (
        "import sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {module!r}: raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "from tf2flax._cli import main\n"
        "sys.exit(main(['ls', 'file:///no/such/checkpoint']))"
    )
    done = run_forked(code, imports=("json",))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
