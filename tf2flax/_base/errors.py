"""The exceptions of tf2flax. Imports nothing, so that every folder may raise them.

A message says what was asked for, what is wrong, where, and what to do about it.
"""

from __future__ import annotations


def escape_lines(text: str) -> str:
    r"""Escapes what would steer a terminal, in a text of several lines.

    Names of tensors and files hold any characters. `text.printable` escapes the ends of
    lines as well, so that a name cannot look like a line.

    Examples:
        >>> escape_lines("a\x1b[2J\nb")
        'a\\x1b[2J\nb'
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode()
        for c in text
    )


class CheckpointError(ValueError):
    """Base of everything tf2flax raises on purpose.

    A `ValueError`, because that is what TensorFlow's own functions raise.
    """

    __module__ = "tf2flax"

    def __str__(self) -> str:  # KeyError's own would print a repr
        return escape_lines(str(self.args[0])) if self.args else ""


class NotFoundError(CheckpointError):
    """A checkpoint, or a tensor in one, does not exist."""

    __module__ = "tf2flax"


class CheckpointNotFoundError(NotFoundError, FileNotFoundError):
    """No checkpoint lies at this path."""

    __module__ = "tf2flax"


class TensorNotFoundError(NotFoundError, KeyError):  # KeyError keeps Mapping.get honest
    """No tensor in the checkpoint has this name.

    Attributes:
        name: The name that was asked for.
        place: The file that was searched.
        close: The nearest names in the checkpoint, best first.
        hint: What to do, where more is known than near names; else "".
    """

    __module__ = "tf2flax"

    def __init__(
        self, name: str, place: str, close: tuple[str, ...] = (), hint: str = ""
    ) -> None:
        super().__init__(name, place, close, hint)  # pickle rebuilds from `args` alone
        self.name: str = name
        self.place: str = place
        self.close: tuple[str, ...] = close
        self.hint: str = hint

    def __str__(self) -> str:
        fix = self.hint or "See `list(checkpoint)`."
        if self.close and not self.hint:
            fix = f"Did you mean {' or '.join(f'`{name}`' for name in self.close)}?"
        text = f"Tensor `{self.name}` not found - in `{self.place}`. {fix}"
        return escape_lines(text.replace("\n", "\\n"))


class DamagedError(CheckpointError):
    """The bytes of a checkpoint are not what its format or its checksums say.

    Also if it is no longer the checkpoint that was opened: the message says so then.
    """

    __module__ = "tf2flax"


class ReplacedError(DamagedError):
    """A file is no longer the one that was opened; nothing is damaged.

    Not public. A `DamagedError`, as missing files and differing checksums are: these
    are what a reader can also meet while a checkpoint is being replaced.
    """


class UnsupportedError(CheckpointError):
    """Something that tf2flax recognises and does not support; the message names it."""

    __module__ = "tf2flax"


class TruthError(UnsupportedError, ValueError):
    """A tensor of several elements is neither true nor false; NumPy's is a ValueError.

    Not public; its base classes are.
    """


class SharedNameError(TensorNotFoundError, UnsupportedError):
    """Several tensors of a view share a name, so it stands for none of them.

    A `KeyError` as well, so that `Mapping.get` agrees with `in`. Not public; its
    base classes are. `hint` is the whole message.
    """

    def __str__(self) -> str:
        return escape_lines(self.hint)


class ReadError(CheckpointError, OSError):
    """The operating system or the store could not deliver the bytes."""

    __module__ = "tf2flax"


class RedirectedError(ReadError):
    """A server sends on to another URL; whoever opens a checkpoint may go there.

    Not public; a `ReadError` for all others.

    Attributes:
        target: The path of the checkpoint there; "" where it cannot be followed.
    """

    def __init__(self, text: str, target: str = "") -> None:
        super().__init__(text)  # of two arguments, OSError would make a number
        self.target: str = target


class ExistsError(CheckpointError, FileExistsError):
    """A file that should be written exists already."""

    __module__ = "tf2flax"


class AssignmentError(CheckpointError):
    """The assignment map, an option or the target does not fit."""

    __module__ = "tf2flax"


class MalformedError(Exception):
    """Bytes that do not parse: a short fact, for internal use.

    `_formats.wire` raises it without knowing which file the bytes came from; the caller
    turns it into a `DamagedError` that names the place.
    """
