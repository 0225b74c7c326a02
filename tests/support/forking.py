"""Runs code in new processes that are forked, not started: most of them in 10 ms.

For tests that need a process (it is killed, its imports or its reads are counted, its
output leads nowhere). What is imported here, NumPy and `import tf2flax`, stands in the
new process too; neither JAX nor tensorstore nor a thread does.

Run as a script, this is the process that forks: a line of JSON for each job.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
from typing import IO

# A process that forks must not have threads.
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
# A job that takes longer is killed, in seconds.
LIMIT_S = 600


def run_forked(
    code: str, *arguments: object, check: bool = False
) -> subprocess.CompletedProcess[str]:
    """Runs code as `python -c CODE ARGUMENTS` does, from the folder of the tests.

    Args:
        code: Text of a program; `sys.exit`, errors and signals end it as usual.
        arguments: What it finds in `sys.argv[1:]`, as text.
        check: Whether another exit code than 0 is an error.

    Returns:
        Exit code (negative: the signal that killed it) and what it printed.
    """
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        out, err = pathlib.Path(folder, "out"), pathlib.Path(folder, "err")
        argv = ["-c", *map(str, arguments)]
        job = [code, argv, str(pathlib.Path.cwd()), str(out), str(err)]
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        done = subprocess.CompletedProcess(
            job, status, out.read_text(), err.read_text()
        )
    if check:
        assert status == 0, done.stderr
    return done


@functools.cache
def _server() -> subprocess.Popen[str]:
    """The process that forks: one for each process of the tests, until that ends."""
    server = subprocess.Popen(
        [sys.executable, __file__],
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
    """Forks for each job and answers with its exit code; in the fork, gives the code.

    So the code is run where this file ends, and the process then ends as any other.
    """
    while line := jobs.readline():
        code, arguments, folder, out, err = json.loads(line)
        process = os.fork()
        if process:
            status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            answers.write(f"{status}\n")
            answers.flush()
            continue
        nowhere = os.open(os.devnull, os.O_RDONLY)
        # What is still in the buffer of `jobs` is read by nobody: the fork has no more.
        for descriptor, target in (
            (nowhere, 0),
            (os.open(out, os.O_CREAT | os.O_WRONLY, 0o600), 1),
            (os.open(err, os.O_CREAT | os.O_WRONLY, 0o600), 2),
        ):
            os.dup2(descriptor, target)
            os.close(descriptor)
        os.chdir(folder)
        sys.argv = arguments
        signal.alarm(LIMIT_S)
        return code
    return ""


if __name__ == "__main__":
    # For the forks, so that each imports the rest only.
    import numpy  # noqa: F401  # pyright: ignore[reportUnusedImport]

    import tf2flax  # noqa: F401  # pyright: ignore[reportUnusedImport]

    program = compile(_serve(sys.stdin, sys.stdout), "<string>", "exec")
    exec(program, {"__name__": "__main__"})
