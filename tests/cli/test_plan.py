"""`tf2flax plan`: targets, the report, exit codes, JSON, and what a terminal shows."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Iterator

import jax
import numpy as np
import pytest
from flax import nnx
from forking import RESTORING, run_forked
from repository import ROOT

import tf2flax
from tf2flax._cli import main
from tf2flax._cli.targets import load_target

MODULE = "targets_of_a_user"
TREE_MAP = {"enc/q/kernel": "params/q/kernel"}


@pytest.fixture
def prefix(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A checkpoint, maps, and a module of targets in the current directory."""
    source = ROOT / "tests" / "support" / "plan_targets.py"
    shutil.copyfile(source, tmp_path / f"{MODULE}.py")
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensors = {"enc/q/kernel": kernel, "enc/q/kernel/Adam": kernel, "step": np.int64(7)}
    tf2flax.save_map(tmp_path / "tree.toml", TREE_MAP)
    tf2flax.save_map(tmp_path / "nnx.toml", {"enc/q/": "q/"})
    tf2flax.save_map(
        tmp_path / "bad.toml", {**TREE_MAP, "enc/k": "params/k", "step": "params/v"}
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tf2flax.save_checkpoint(tmp_path / "m.ckpt", tensors)
    sys.modules.pop(MODULE, None)


@pytest.mark.parametrize(
    ("attribute", "map_"),
    [
        ("tree", "tree"),
        ("holder.tree", "tree"),
        ("module", "nnx"),
        ("Model", "nnx"),
    ],
)
def test_targets(
    attribute: str, map_: str, prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target = f"{MODULE}:{attribute}"
    assert main(["plan", prefix, "--map", f"{map_}.toml", "--target", target]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"Restore plan for {prefix}\n1 leaf loaded (24 B), 0 kept")
    assert "Unused optimizer slots (1):" in out


def test_a_function_is_called_so_that_it_takes_no_memory(prefix: str) -> None:
    module = load_target(f"{MODULE}:Model")
    kernel = module.q.kernel.get_value()
    assert isinstance(kernel, jax.ShapeDtypeStruct)
    variables = load_target(f"{MODULE}:initialised")  # linen: as it is
    assert isinstance(variables["params"]["head"]["bias"], np.ndarray)
    abstract = load_target(f"{MODULE}:abstract")
    assert isinstance(abstract["params"]["q"]["kernel"], jax.ShapeDtypeStruct)
    assert isinstance(load_target(f"{MODULE}:module"), nnx.Module)


def test_json(prefix: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", prefix, "--map", "tree.toml", "--json", "--target"]
    assert main([*arguments, f"{MODULE}:initialised"]) == 0
    document = json.loads(capsys.readouterr().out)
    plan = tf2flax.plan(prefix, TREE_MAP, load_target(f"{MODULE}:initialised"))
    expected = json.loads(json.dumps({"ok": True, "error": None, **plan.to_dict()}))
    # The map comes from a file here.
    for assignment in (*document["assignments"], *expected["assignments"]):
        del assignment["entry"], assignment["rule"]
    assert document == expected
    assert document["kept"] == ["params/head/bias"]


def test_a_restore_that_would_fail(
    prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["plan", prefix, "--map", "bad.toml", "--target", f"{MODULE}:wrong"]
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert printed.out.startswith("The restore would fail: 3 problems")
    assert "bad.toml:3" in printed.out
    assert printed.err == ""
    assert main([*arguments, "--json", "--html", "plan.html"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    assert document["error"].startswith("3 problems")
    assert [gap["leaf"] for gap in document["missing"]] == ["params/k"]
    assert len(document["mismatched"]) == 2
    page = pathlib.Path("plan.html").read_text()
    assert page.index("The restore would fail") < page.index(
        "Missing in the checkpoint"
    )


def test_a_map_that_is_malformed(
    prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pathlib.Path("none.toml").write_text('"a" = \n')
    arguments = ["plan", prefix, "--map", "none.toml", "--target", f"{MODULE}:tree"]
    assert main([*arguments, "--html", "plan.html", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["checkpoint"] == prefix
    assert "none.toml" in document["error"]
    assert "none.toml" in pathlib.Path("plan.html").read_text()


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("tree", "expected module:attribute, got `tree`. Write `model:make_params`"),
        ("sub/model.py:tree", "Write the name of the module: `sub.model:tree`."),
        (f"{MODULE}:", "expected module:attribute"),
        ("no_such_module:tree", "there is no module `no_such_module` - in `"),
        (f"{MODULE}:tre", "Did you mean `tree`?"),
        (f"{MODULE}:linen_module", "jax.eval_shape(model.init, jax.random.key(0), inp"),
        (f"{MODULE}:with_argument", "takes arguments (missing a required argument: 'r"),
        (f"{MODULE}:broken", "raised RuntimeError: no data - at `"),
        ("imports_nothing:tree", "importing `imports_nothing` raised ModuleNotFoundE"),
        ("has_a_fault:tree", "importing `has_a_fault` raised ZeroDivisionError: div"),
    ],
)
def test_targets_that_are_refused(
    target: str, text: str, prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pathlib.Path("imports_nothing.py").write_text("import nothing_like_it")
    pathlib.Path("has_a_fault.py").write_text("tree = 1 / 0")
    assert main(["plan", prefix, "--map", "tree.toml", "--target", target]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("tf2flax: --target: ")
    assert text in printed.err


def test_other_errors(prefix: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--map", "tree.toml", "--target", f"{MODULE}:tree"]
    assert main(["plan", "no/such", *given]) == 2
    for page, words in (
        ("tree.toml/plan.html", "Cannot write `tree.toml/plan.html`: Not a directory"),
        ("gs://bucket/plan.html", "`gs://bucket/plan.html` is not a local path."),
    ):
        assert main(["plan", prefix, *given, "--html", page]) == 2
        assert words in capsys.readouterr().err
    assert main(["plan", prefix, "--map", "no.toml", "--target", given[-1]]) == 2


ON_TERMINAL = """
import os, pty, sys
from tf2flax._cli import main
parent, child = pty.openpty()
saved = os.dup(1)
os.dup2(child, 1)
sys.stdout = os.fdopen(1, "w")
for text in sys.argv[1].split():
    os.environ.pop("NO_COLOR", None)
    name, _, value = text.partition("=")
    os.environ[name] = value
    code = main(["plan", *sys.argv[2:]])
    printed = os.read(parent, 65536)
    os.write(saved, b"%d %d %r\\n" % (code, b"\\x1b[32mLoaded" in printed, printed))
"""
WITHOUT_READER = """
import os, sys
from tf2flax._cli import main
reader, writer = os.pipe()
os.close(reader)
os.dup2(writer, 1)
sys.stdout = os.fdopen(1, "w")
main(["plan", *sys.argv[1:]])
sys.stdout = None
"""


def test_a_terminal_and_a_broken_pipe(prefix: str) -> None:
    given = (prefix, "--map", "tree.toml", "--target", f"{MODULE}:tree")
    settings = "TERM=xterm TERM=dumb TERM=xterm-256color NO_COLOR=1"
    done = run_forked(ON_TERMINAL, settings, *given, check=True, imports=RESTORING)
    lines = done.stdout.splitlines()
    assert [line[:4] for line in lines] == ["0 1 ", "0 0 ", "0 1 ", "0 0 "]
    assert "1 leaf loaded" in lines[1]
    assert not re.search(r"\\x1b", lines[1] + lines[3])
    done = run_forked(WITHOUT_READER, *given, imports=RESTORING)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_page_replaces_no_file(
    prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    map_text = pathlib.Path("bad.toml").read_text()
    arguments = ["plan", prefix, "--map", "bad.toml", "--target", f"{MODULE}:wrong"]
    assert main([*arguments, "--html", "bad.toml"]) == 2
    assert capsys.readouterr() == (
        "",
        "tf2flax: The output exists already - at `bad.toml`. Choose another path, or "
        "give --overwrite.\n",
    )
    assert pathlib.Path("bad.toml").read_text() == map_text
    page = pathlib.Path("page.html")
    assert main([*arguments, "--html", str(page)]) == 1
    page.write_text("an earlier page")
    assert main([*arguments, "--html", str(page)]) == 2
    assert main([*arguments, "--html", str(page), "--overwrite"]) == 1
    assert "The restore would fail" in page.read_text()
    capsys.readouterr()
    assert main([*arguments, "--overwrite"]) == 2
    assert "Give --html FILE too." in capsys.readouterr().err


def test_a_page_is_whole_or_not_there(
    prefix: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["plan", prefix, "--map", "tree.toml", "--target", f"{MODULE}:tree"]

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        assert main([*given, "--html", "new.html"]) == 2
    assert "new.html`: No space left" in capsys.readouterr().err
    assert not list(pathlib.Path().glob("new*"))
    assert main([*given, "--html", "new.html"]) == 0
    assert [path.name for path in pathlib.Path().glob("new*")] == ["new.html"]


@pytest.mark.parametrize(
    "call",
    [
        ["plan", "--map", "tree.toml", "--target", f"{MODULE}:tree", "--html"],
        ["suggest", "--target", f"{MODULE}:tree", "-o"],
        ["show", "w", "-o"],
        ["convert"],
    ],
)
def test_commands_make_no_folders(
    call: list[str], prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    endings = {"plan": "html", "suggest": "toml", "show": "npy", "convert": "npz"}
    out = f"new/deep/x.{endings[call[0]]}"
    assert main([call[0], prefix, *call[1:], out]) == 2
    assert capsys.readouterr().err == (
        f"tf2flax: Cannot write `{out}`: the folder `new/deep` does not exist. Make "
        "it, or choose another path.\n"
    )
    assert not pathlib.Path("new").exists()
    assert main([call[0], prefix, *call[1:], ""]) == 2
    assert "'' is not a valid file name: it is empty." in capsys.readouterr().err
    out = f"tree.toml/{pathlib.Path(out).name}"
    assert main([call[0], prefix, *call[1:], out]) == 2
    assert f"Cannot write `{out}`: Not a directory" in capsys.readouterr().err
