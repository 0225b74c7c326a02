"""A hostile newcomer: each answer is short, soon, and no traceback."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import sys
import time
import zipfile
from collections.abc import Iterator

import numpy as np
import pytest
from bundle_writer import write_bundle

from tf2flax._cli import main

# Steers a terminal.
CLEAR = "\x1b[2J"
# No answer takes longer (seconds): of processor time, which does not depend on how busy
# the machine is; and of time, for what waits.
LIMIT_S = 20
WAITING_LIMIT_S = 300

PATHS = [
    "", "-", "--", "/", "..", "~", "~/x", "/dev/null", "/dev/zero", "/dev/full",
    "/proc/self/mem", "zero", "zero2", "dirindex", "adir", "pipe", "pipe2", "loop",
    "loop2", "ctl", "empty", "new\nline", CLEAR, "a\0b", "\udcff", "x" * 300,
    "x/" * 3000, "x" * 100_000, "file://", "file:///", "file://host/x", "http://",
    "http://[", "gs://", "s3:///", "gcs://a/b", "zip://x", "://x", "|", "x|zip:y",
    "good.index/x", "good/", "*", "[", "?" * 50, "good:0", "good ", "Good", "h.h5",
    "k.keras", "x.npz", "x.safetensors", "o", "m.toml", "memory://x",
]  # fmt: skip
GLOBS = ["", CLEAR, "[", "[!", "*", "x" * 5000, "**/**" * 20, "\0", "\udcff", "--"]
TARGETS = [
    "none", "text", "exits", "lines", "escapes", "cls", "generator", "deep",
    "empty", "weird", "mod", "", "tree.x", f"_{CLEAR}", " tree", "x" * 5000,
]  # fmt: skip
MODULE = f"""
import sys
import numpy as np
tree = {{"w": np.zeros(2, "f4")}}
none, text, cls, empty, mod = None, "x", dict, {{}}, sys
weird = {{{CLEAR!r}: np.zeros(2)}}
def exits(): raise SystemExit(7)
def lines(): raise ValueError("x\\n" * 100)
def escapes(): raise ValueError({CLEAR!r})
def generator(): yield 1
def deep(): return deep()
"""
DTYPES = ["", "object", "str", CLEAR, "float32" * 500, "bool", "V8", "(2,3)f4", "f4,f4"]
OTHER = [
    [], [""], ["-"], [CLEAR], ["x" * 10_000], ["--json", "ls", "good"], ["help"],
    ["ls", "good", "--depth", "1"], ["ls", "good", f"--{CLEAR}"], ["ls", "good", "\0"],
    ["ls", "good", "--sort", CLEAR], ["ls", "good", "--json=1"], ["completion", CLEAR],
    ["tree", "good", "--names", "objects"], ["show", "good", "step", "more"],
    ["diff", "obj.npz", "obj.npz"], ["diff", "cut.npz", "cut.npz"],
    ["diff", "empty", "empty"], ["diff", "good", "ctl", "--json"],
    ["convert", "good", "out.npz", "--by-reference", "x"],
    ["plan", "good", "--map", "pipe.toml", "--target", "hostile_target:tree"],
    ["plan", "good", "--map", "big.toml", "--target", "hostile_target:tree"],
    ["plan", "good", "--map", "esc.toml", "--target", "hostile_target:tree"],
    ["plan", "good", "--map", "m.toml", "--target", "hostile_exits:x"],
    ["plan", "good", "--map", "m.toml", "--target", "hostile_syntax:x"],
    ["plan", "good", "--map", "m.toml", "--target", "hostile_target:tree", "--html="],
]  # fmt: skip


def write_files(where: pathlib.Path) -> None:
    inf = np.full((2, 3), np.inf, "f4")
    good = {"enc/w": np.ones(2, "f4"), "enc/v": inf, "step": np.int64(7)}
    write_bundle(where / "good", good)
    names = (f"a{CLEAR}b", "a\nTensor", "x" * 20_000, "\u202eevil")
    write_bundle(where / "ctl", {name: np.ones(2) for name in names})
    write_bundle(where / "empty", {})
    for name in ("zero", "zero2.index"):
        (where / name).touch()
    for name in ("dirindex.index", "adir", "new\nline", "o"):
        (where / name).mkdir()
    for name in ("pipe", "pipe2.index", "pipe.toml"):
        os.mkfifo(where / name)
    for name in ("loop", "loop2.index"):
        (where / name).symlink_to(name)
    (where / "o" / "_METADATA").write_text("[]")
    (where / "x.npz").write_bytes(b"PK\x03\x04junk")
    (where / "x.safetensors").write_bytes(b'\x08\0\0\0\0\0\0\0{"a":{}}')
    (where / "h.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    (where / "k.keras").write_bytes(b"PK\x05\x06" + bytes(18))
    np.savez(where / "obj.npz", a=np.array([{}], object))
    with zipfile.ZipFile(where / "cut.npz", "w") as archive:
        header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (9,)}"
        size = len(header).to_bytes(2, "little")
        archive.writestr("a.npy", b"\x93NUMPY\x01\0" + size + header + b"123")
    (where / "m.toml").write_text('[assignment_map]\n"enc/" = "/"\n')
    (where / "esc.toml").write_text('[assignment_map]\n"a\\u001b[2J{" = "b"\n')
    lines = "".join(f'"a{i}/{{" = "b"\n' for i in range(3000))
    (where / "big.toml").write_text(f"[assignment_map]\n{lines}")
    (where / "hostile_target.py").write_text(MODULE)
    (where / "hostile_exits.py").write_text("raise SystemExit('bye')")
    (where / "hostile_syntax.py").write_text("def (:")


def calls() -> Iterator[list[str]]:
    for path in PATHS:
        yield ["ls", path]
        yield ["diff", "good", path]
        yield ["compare", path, "good"]
        yield ["convert", "good", path, "--format", "npz"]
        yield ["plan", "good", "--map", path, "--target", "hostile_target:tree"]
    for path in PATHS[::3]:
        yield ["verify", path]
        yield ["show", path, "a"]
        yield ["convert", "good", path, "--format", "tensorbundle"]
    for glob in GLOBS:
        yield ["ls", "good", glob]
        yield ["stats", "ctl", glob]
        yield ["show", "good", glob]
    for target in TARGETS:
        given = ["--target", f"hostile_target:{target}"]
        yield ["plan", "good", "--map", "m.toml", *given]
        yield ["suggest", "good", *given]
    for dtype in DTYPES:
        yield ["convert", "good", "it.npz", "--dtype", dtype, "--overwrite"]
    yield from OTHER


def late(*_: object) -> None:
    raise AssertionError(f"no answer within {LIMIT_S} seconds of work")


def problem_with(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What is wrong with the answer to a call; "" for nothing."""
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
    signal.alarm(WAITING_LIMIT_S)
    try:
        code: object = main(argv)
    except SystemExit as stop:
        code = stop.code
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:100]}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
    out, err = capsys.readouterr()
    if code not in (0, 1, 2) or "Traceback" in err or (code == 2 and not err):
        return f"code {code}, {err[:100]!r}"
    if err.count("\n") > 25 or len(err) > 15_000:
        return f"{err.count(chr(10))} lines, {len(err)} letters"
    if not all(c.isprintable() or c in "\n\t" for c in out + err):
        return "escapes of a terminal"
    if "--json" in argv and code != 2:
        json.loads(out, parse_constant=late)
    return ""


def test_every_answer_is_short_and_no_traceback(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name, value in (("COLUMNS", "20"), ("TERM", "dumb"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    signals = (signal.SIGALRM, signal.SIGPROF)
    handlers = [signal.signal(number, late) for number in signals]
    try:
        problems = [
            ([word[:60] for word in argv], problem)
            for argv in calls()
            if (problem := problem_with([*argv], capsys))
        ]
    finally:
        for number, handler in zip(signals, handlers, strict=True):
            signal.signal(number, handler)
        for name in ("hostile_target", "hostile_exits", "hostile_syntax"):
            sys.modules.pop(name, None)
    assert problems == []
    assert len([*calls()]) >= 100


def test_most_answers_take_no_time(tmp_path: pathlib.Path) -> None:
    """The slowest were names of thousands of letters, and URLs without a host."""
    started = time.process_time()
    for path in ("x" * 100_000, "x/" * 3000, "http://", "gs://", f"{tmp_path}/?" * 99):
        assert main(["ls", path]) == 2
    assert time.process_time() - started < 5
