"""Errors of systems and stores as errors of ours: what failed, where, and a way out."""

from __future__ import annotations

import re

from tf2flax._base.errors import DamagedError, ReadError
from tf2flax._base.values import ByteRange

from .foreign import recognise_wrong_file


class OutOfRangeError(Exception):
    """A store was asked for more than a file has.

    Attributes:
        size: Bytes that the file has; None where the store does not say.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        size = re.search(r"(?:total size|value of size) (\d{1,19})", text)
        self.size = int(size[1]) if size else None


def system_error(path: str, error: OSError, where: str = "") -> ReadError:
    """The error for a file that the system does not let us read.

    Args:
        path: The file.
        error: The system's error.
        where: What was read, to be appended: see `describe_bytes`.
    """
    return ReadError(f"Cannot read `{path}`: {error.strerror or error}{where}.")


def write_error(path: str, error: OSError) -> ReadError:
    """The error for a file that the system does not let us write."""
    return ReadError(f"Cannot write `{path}`: {error.strerror or error}.")


def complete_error(path: str, problem: str) -> ReadError:
    """The error for what went wrong once a checkpoint was there.

    Args:
        path: The prefix, for users.
        problem: What went wrong, and what to do, in sentences.
    """
    return ReadError(f"The checkpoint `{path}` is written and complete. {problem}")


def store_error(
    path: str, error: Exception, where: str = "", *, verb: str = "read"
) -> ReadError:
    """The error for a request that a store refuses; `where` as in `system_error`."""
    return ReadError(f"Cannot {verb} `{path}`: {store_reason(error)}{where}.")


def http_status(error: Exception) -> str:
    """The number with which a server answered; "" where tensorstore names none."""
    text = str(error)
    code = re.search(r"http_response_code='(\d+)'|\[HTTP code (\d+)\]", text)
    return (code[1] or code[2]) if code else ""


def store_reason(error: Exception) -> str:
    """What tensorstore says, in one sentence, with the way out if there is one."""
    code = http_status(error)
    # Its messages end in details for its developers: ` [source locations='…']`.
    text = re.sub(r"\s*\[[a-z_ ]+='[^']*'\]", "", str(error)).rstrip(". \n")
    if code and code not in text:
        text = f"{text} (HTTP {code})"
    if "ignored by server" in text:
        return (
            f"{text}. Its server ignores Range requests: copy the checkpoint's files "
            "to a local directory"
        )
    return text


def missing_file(path: str, subject: str) -> DamagedError:
    """The error for a data file that does not exist."""
    return DamagedError(
        f"{subject} cannot be read: its data file is missing - at `{path}`. "
        "Copy it next to its index."
    )


def not_a_file(path: str, subject: str) -> DamagedError:
    """The error for a directory in the place of a data file."""
    return DamagedError(
        f"{subject} cannot be read: its data file is a directory - at `{path}`. "
        "Copy the file there in its place."
    )


def short_file(
    path: str, span: ByteRange, subject: str, *, size: int | None, head: bytes
) -> DamagedError:
    """The error for a data file that ends before the bytes that are wanted.

    Args:
        path: The file, for messages.
        span: The bytes that were wanted.
        subject: What was read, for messages.
        size: Bytes that the file has; None where that is not known.
        head: Its first bytes.
    """
    way_out = "Copy the file again."
    if wrong_file := recognise_wrong_file(head):
        kind, way_out = wrong_file
        fact = f"`{path}` is {kind}"
    elif size is None:
        fact = f"`{path}` ends before"
    else:
        fact = f"`{path}` has only {size} bytes, {span.stop - size} are missing"
    return DamagedError(
        f"{subject} is damaged: expected bytes [{span.start}:{span.stop}], but "
        f"{fact}. {way_out}"
    )


def describe_bytes(subject: str, span: ByteRange) -> str:
    """Says which bytes could not be read, at the end of a message."""
    return f" - for {subject}, bytes [{span.start}:{span.stop}]"
