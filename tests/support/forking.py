"""Runs code in new processes that are forked, not started: most of them in 10 ms.

For tests that need a process (it is killed, its imports or its reads are counted, it is
one of a job). What is imported before, by default NumPy and `import tf2flax`, stands in
the new process too; neither a thread does, nor a device of JAX.

Run as a script, this is the process that forks. It takes lines of JSON: a list is a
job, answered with the number of its process; null waits for any process, answered with
its number and exit code.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import IO, Any

# A process that forks must not have threads.
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
# A job that takes longer is killed, in seconds.
LIMIT_S = 600
LISTING = ("numpy", "tf2flax")
# What restoring imports, and the tests of it; 2 seconds for each new interpreter.
RESTORING = (
    *LISTING, "jax.numpy", "flax.linen", "flax.nnx", "jax.experimental.multihost_utils",
    "pytest", "tensorstore", "tf2flax._jax.init", "tf2flax._jax.restore",
)  # fmt: skip


def run_forked(
    code: str,
    *arguments: object,
    check: bool = False,
    imports: tuple[str, ...] = LISTING,
) -> subprocess.CompletedProcess[str]:
    """Runs code as `python -c CODE ARGUMENTS` does.

    Args:
        code: Text of a program; `sys.exit`, errors and signals end it as usual.
        arguments: What it finds in `sys.argv[1:]`, as text.
        check: Whether another exit code than 0 is an error.
        imports: Modules that are imported before.

    Returns:
        Exit code (negative: the signal that killed it) and what it printed.
    """
    done = run_together(code, [arguments], imports=imports)[0]
    if check:
        assert done.returncode == 0, done.stderr
    return done


def run_together(
    code: str,
    arguments: Sequence[Sequence[object]],
    *,
    imports: tuple[str, ...] = LISTING,
) -> list[subprocess.CompletedProcess[str]]:
    """Runs code in several processes at once; where one fails, the rest is killed.

    Args:
        code: Text of a program.
        arguments: Arguments of each process.
        imports: Modules that are imported before.

    Returns:
        Exit code and output of each, in the same order.
    """
    with tempfile.TemporaryDirectory() as folder:
        numbers: list[int] = []
        for i, each in enumerate(arguments):
            argv = ["-c", *map(str, each)]
            job = [code, argv, str(pathlib.Path.cwd()), f"{folder}/{i}"]
            numbers.append(_ask(imports, job))
        codes: dict[int, int] = {}
        while len(codes) < len(numbers):
            number, codes[number] = _ask(imports, None)
            if codes[number]:
                for running in set(numbers) - set(codes):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(running, signal.SIGKILL)
        return [
            subprocess.CompletedProcess(
                arguments[i],
                codes[number],
                pathlib.Path(f"{folder}/{i}.out").read_text(),
                pathlib.Path(f"{folder}/{i}.err").read_text(),
            )
            for i, number in enumerate(numbers)
        ]


def _ask(imports: tuple[str, ...], line: Any) -> Any:
    server = _server(imports)
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(line) + "\n")
    server.stdin.flush()
    return json.loads(server.stdout.readline())


@functools.cache
def _server(imports: tuple[str, ...]) -> subprocess.Popen[str]:
    """The process that forks: one for each process of the tests, until that ends."""
    server = subprocess.Popen(
        [sys.executable, __file__, *imports],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **ENVIRONMENT},
        cwd=pathlib.Path(__file__).resolve().parents[2],
    )
    atexit.register(_end, server)
    return server


def _end(server: subprocess.Popen[str]) -> None:
    for pipe in (server.stdin, server.stdout):
        assert pipe is not None
        pipe.close()
    server.wait()


def _serve(jobs: IO[str], answers: IO[str]) -> str:
    """Forks for each job; in the fork, gives the code that it shall run.

    So the code is run where this file ends, and the process then ends as any other.
    """
    while line := jobs.readline():
        job = json.loads(line)
        if job is None:
            number, status = os.wait()
            answer: Any = [number, os.waitstatus_to_exitcode(status)]
        elif answer := os.fork():
            pass
        else:
            return _become(*job)
        answers.write(f"{json.dumps(answer)}\n")
        answers.flush()
    return ""


def _become(code: str, argv: list[str], folder: str, output: str) -> str:
    """Makes a fork what `python -c` would be."""
    for path, flags, target in (
        (os.devnull, os.O_RDONLY, 0),
        (f"{output}.out", os.O_CREAT | os.O_WRONLY, 1),
        (f"{output}.err", os.O_CREAT | os.O_WRONLY, 2),
    ):
        descriptor = os.open(path, flags, 0o600)
        os.dup2(descriptor, target)
        os.close(descriptor)
    os.chdir(folder)
    sys.argv = argv
    signal.alarm(LIMIT_S)
    return code


if __name__ == "__main__":
    for name in sys.argv[1:]:
        importlib.import_module(name)
    program = compile(_serve(sys.stdin, sys.stdout), "<string>", "exec")
    exec(program, {"__name__": "__main__"})
