"""Checks what `make dist` built: the wheel is the package, the sdist the repository.

python -m checks.dist dist
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Sequence

# What the build adds to the files of the repository.
ADDED = {"PKG-INFO"}
# What a wheel must have. Besides these it has Python's files, and no others.
NEEDED = {
    "tf2flax/__init__.py",
    "tf2flax/_cli/page.css",
    "tf2flax/_cli/page.js",
    "tf2flax/py.typed",
}


def wheel_problems(names: Iterable[str]) -> list[str]:
    """What is wrong with the files of a wheel.

    Args:
        names: Its files.

    Returns:
        A sentence for each problem.
    """
    files = set(names)
    problems = [
        f"the wheel holds {name}"
        for name in sorted(files)
        if not (
            name.startswith("tf2flax/") and (name.endswith(".py") or name in NEEDED)
        )
        and ".dist-info/" not in name
    ]
    return problems + [f"the wheel lacks {name}" for name in sorted(NEEDED - files)]


def sdist_problems(names: Iterable[str], tracked: Iterable[str]) -> list[str]:
    """What is wrong with the files of an sdist.

    Args:
        names: Its files, without the folder that holds them all.
        tracked: The files of the repository.

    Returns:
        A sentence for each problem.
    """
    files, wanted = set(names) - ADDED, set(tracked)
    return [f"the sdist lacks {name}" for name in sorted(wanted - files)] + [
        f"the sdist holds {name}, which git does not track"
        for name in sorted(files - wanted)
    ]


def main(arguments: Sequence[str]) -> int:
    """Checks a folder and gives the exit status."""
    folder = pathlib.Path(arguments[0] if arguments else "dist")
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        problems = wheel_problems(archive.namelist())
    with tarfile.open(sdist) as archive:
        members = [member.name for member in archive if member.isfile()]
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], check=True, capture_output=True, text=True
    ).stdout.split("\0")[:-1]
    problems += sdist_problems((n.partition("/")[2] for n in members), tracked)
    print(*problems, f"{wheel.name}, {sdist.name}: {len(problems)} problems", sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
