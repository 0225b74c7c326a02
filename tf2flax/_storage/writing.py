"""Files that are written whole, or not at all, and that last through a crash.

Everything is written under a temporary name, synced, and renamed. For several files
that belong together, see `exchanging`.

A symbolic link to a file of a checkpoint is replaced: what it leads to may belong to
another checkpoint, as links that `convert(by_reference=True)` makes do. A link to a
document, such as a map, stays, and the document is replaced.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Generator


@contextlib.contextmanager
def new_folders(path: str) -> Generator[None]:
    """Makes the folder of a file; a block that fails leaves none that was made for it.

    Args:
        path: The file, absolute.

    Raises:
        OSError: The system refuses.
    """
    # A path that is too long is refused before folders are made for it.
    with contextlib.suppress(FileNotFoundError):
        os.lstat(path)
    folder = os.path.dirname(path)
    made: list[str] = []
    while not os.path.lexists(folder) and folder != os.path.dirname(folder):
        made.append(folder)
        folder = os.path.dirname(folder)
    try:
        # Not `os.makedirs`, which calls itself for each folder above.
        for folder in reversed(made):
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder)
        yield
    except BaseException:
        # The deepest first; what others have put into one stays, with its folders.
        for folder in made:
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        raise


def write_document(path: str, contents: bytes) -> None:
    """As `write_atomically`; a symbolic link stays, and what it leads to is replaced.

    Raises:
        OSError: The system refuses, or links lead in a circle.
    """
    if os.path.islink(path):
        path = os.path.realpath(path)
        if os.path.islink(path):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
    write_atomically(path, contents)


def write_atomically(path: str, contents: bytes) -> None:
    """Writes a small file, in place of one, or of a link, that is there already.

    Raises:
        OSError: The system refuses; what was there is still there.
    """
    write_whole(path, contents)
    sync_directory(path)


def write_whole(path: str, contents: bytes) -> None:
    """Does the same, but a crash of the machine may bring back what was there."""
    temporary = temporary_name(path)
    try:
        write_new_file(temporary, contents)
        os.replace(temporary, path)
    finally:
        remove(temporary)


def temporary_name(path: str, token: str = "") -> str:
    """A name beside a path that no other process uses; TensorFlow's word is in it.

    Args:
        path: The path.
        token: 16 hexadecimal digits that nobody else has; "" for new ones.
    """
    return f"{path}.tempstate{token or secrets.token_hex(8)}"


def write_new_file(path: str, contents: bytes) -> None:
    """Writes a file that does not exist yet, and waits until it is on the disk."""
    with open(path, "xb", buffering=0) as file:
        write_all(file.fileno(), memoryview(contents))
        os.fsync(file.fileno())


def write_all(descriptor: int, buffer: memoryview) -> None:
    """Writes a buffer; one system call may write only some of it."""
    while len(buffer):
        buffer = buffer[os.write(descriptor, buffer) :]


def write_at(descriptor: int, buffer: memoryview, offset: int) -> None:
    """Writes a buffer at a place of a file; one system call may write only some."""
    while len(buffer):
        count = os.pwrite(descriptor, buffer, offset)
        buffer, offset = buffer[count:], offset + count


def sync_directory(path: str) -> None:
    """Makes renames in the directory of a path last through a crash of the machine."""
    descriptor = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: str) -> None:
    """Removes a file, if it exists."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
