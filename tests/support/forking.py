"""Runs code in new processes that are forked, not started: most of them in 10 ms.

For tests that need a process (it is killed, its imports or its reads are counted, it is
one of a job). What is imported before, by default NumPy and what reads and saves, is
in the new process too; neither a thread is, nor a device of JAX.

Run as a script, this is the process that forks. It takes lines of JSON: a list is a
job, answered with the number of its process; a number waits for that process, or -1 for
any, answered with its number and exit code.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import IO, Any

# A process that forks must not have threads.
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
# A job that takes longer is killed, in seconds.
LIMIT_S = 600
LISTING = (
    "numpy", "tf2flax", "tf2flax._checkpoint.reader", "tf2flax._checkpoint.watching",
    "tf2flax._writing.map_files", "tf2flax._writing.save",
    "tf2flax._writing.vocabularies",
)  # fmt: skip
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
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs code as `python -c CODE ARGUMENTS` does.

    Args:
        code: Text of a program; `sys.exit`, errors and signals end it as usual.
        arguments: What it finds in `sys.argv[1:]`, as text.
        check: Whether another exit code than 0 is an error.
        imports: Modules that are imported before.
        env: Variables that the process which forks was started with, besides its own.

    Returns:
        Exit code (negative: the signal that killed it) and what it printed.
    """
    done = run_together(code, [arguments], imports=imports, env=env)[0]
    if check:
        assert done.returncode == 0, done.stderr
    return done


def run_together(
    code: str,
    arguments: Sequence[Sequence[object]],
    *,
    imports: tuple[str, ...] = LISTING,
    env: Mapping[str, str] | None = None,
) -> list[subprocess.CompletedProcess[str]]:
    """Runs code in several processes at once; where one fails, the rest is killed.

    Args:
        code: Text of a program.
        arguments: Arguments of each process.
        imports: Modules that are imported before.
        env: As above.

    Returns:
        Exit code and output of each, in the same order.
    """
    server = _server(imports, tuple(sorted((env or {}).items())))
    with tempfile.TemporaryDirectory() as folder:
        numbers: list[int] = []
        for i, each in enumerate(arguments):
            argv = ["-c", *map(str, each)]
            streams = [os.devnull, f"{folder}/{i}.out", f"{folder}/{i}.err"]
            job = [code, argv, str(pathlib.Path.cwd()), streams, None]
            numbers.append(_ask(server, job))
        codes: dict[int, int] = {}
        while len(codes) < len(numbers):
            number, codes[number] = _ask(server, -1)
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


def forking_subprocess(*imports: str) -> SimpleNamespace:
    """What a module whose processes shall be forked finds instead of `subprocess`."""

    server = _server(imports)  # now: whoever asks may put this in place of Popen

    def popen(command: list[str], **options: Any) -> ForkedProcess:
        return ForkedProcess(server, command, **options)

    return SimpleNamespace(Popen=popen, PIPE=subprocess.PIPE)


class ForkedProcess:
    """What `subprocess.Popen` of a Python program would be, for what it is used for.

    Attributes:
        args: The command.
        stdin: Text for the process, where it was asked for.
        stdout: Text of the process, where it was asked for.
    """

    def __init__(
        self,
        server: subprocess.Popen[str],
        command: list[str],
        *,
        stdin: int | None = None,
        stdout: int | None = None,
        text: bool = True,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> None:
        """Forks."""
        python, *arguments = command
        assert python == sys.executable
        assert text
        if arguments[0] == "-m":
            del arguments[0]
            folder, run = "", f"run_module({arguments[0]!r}"
        else:
            folder = str(pathlib.Path(arguments[0]).parent)
            run = f"run_path({arguments[0]!r}"
        code = (
            f"import runpy, sys\nsys.path.insert(0, {folder!r})\n"
            f"runpy.{run}, run_name='__main__')"
        )
        self.args = command
        self.stdin: IO[str] | None = None
        self.stdout: IO[str] | None = None
        self._server = server
        self._folder = tempfile.TemporaryDirectory()
        pipes = [pathlib.Path(self._folder.name, name) for name in ("stdin", "stdout")]
        self._stderr = pathlib.Path(self._folder.name, "stderr")
        streams = [os.devnull, os.devnull, str(self._stderr)]
        for number, wanted in enumerate((stdin, stdout)):
            if wanted == subprocess.PIPE:
                os.mkfifo(pipes[number])
                streams[number] = str(pipes[number])
        job = [code, arguments, str(cwd or pathlib.Path.cwd()), streams]
        self._number = _ask(server, [*job, None if env is None else dict(env)])
        # The process opens them in the same order, each when this one does.
        if stdin == subprocess.PIPE:
            self.stdin = pipes[0].open("w")
        if stdout == subprocess.PIPE:
            self.stdout = pipes[1].open()

    def wait(self) -> int:
        """Waits until it ends, and says how; what went wrong is printed here."""
        code = _ask(self._server, self._number)[1]
        if self.stdout is not None:
            self.stdout.close()
        sys.stderr.write(self._stderr.read_text())
        self._folder.cleanup()
        return code


def _ask(server: subprocess.Popen[str], line: Any) -> Any:
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(line) + "\n")
    server.stdin.flush()
    answer = server.stdout.readline()
    assert answer, server.communicate()
    return json.loads(answer)


@functools.cache
def _server(
    imports: tuple[str, ...], env: tuple[tuple[str, str], ...] = ()
) -> subprocess.Popen[str]:
    """The process that forks: one for each process of the tests, until that ends."""
    server = subprocess.Popen(
        [sys.executable, __file__, *imports],
        # Python looks once at what its streams are: those of forks are not sought in.
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **ENVIRONMENT, **dict(env)},
        cwd=pathlib.Path(__file__).resolve().parents[2],
    )
    atexit.register(_end, server)
    return server


def _end(server: subprocess.Popen[str]) -> None:
    for pipe in (server.stdin, server.stdout, server.stderr):
        assert pipe is not None
        pipe.close()
    server.wait()


def _serve(jobs: IO[str], answers: IO[str]) -> str:
    """Forks for each job; in the fork, gives the code that it shall run.

    So the code is run where this file ends, and the process then ends as any other.
    """
    while line := jobs.readline():
        job = json.loads(line)
        if isinstance(job, int):
            number, status = os.waitpid(job, 0)
            answer: Any = [number, os.waitstatus_to_exitcode(status)]
        elif answer := os.fork():
            pass
        else:
            return _become(*job)
        answers.write(f"{json.dumps(answer)}\n")
        answers.flush()
    return ""


def _become(
    code: str,
    argv: list[str],
    folder: str,
    streams: list[str],
    env: dict[str, str] | None,
) -> str:
    """Makes a fork what `python -c` would be."""
    for number, path in enumerate(streams):
        flags = os.O_CREAT | os.O_WRONLY if number else os.O_RDONLY
        descriptor = os.open(path, flags, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)
    if env is not None:
        os.environ.clear()
        os.environ.update(env)
    os.chdir(folder)
    sys.argv = argv
    signal.alarm(LIMIT_S)
    return code


if __name__ == "__main__":
    for name in sys.argv[1:]:
        importlib.import_module(name)
    # Garbage collection in a fork would go through it all, and copy its memory.
    gc.freeze()
    program = compile(_serve(sys.stdin, sys.stdout), "<string>", "exec")
    exec(program, {"__name__": "__main__"})
