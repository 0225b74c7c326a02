"""The exceptions of tf2flax. Imports nothing, so that every layer may raise them.

A message says what was asked, what was found, where, and what to do about it.
"""

from __future__ import annotations


class CheckpointError(ValueError):
    """Base of everything tf2flax raises on purpose.

    A `ValueError`, because that is what TensorFlow's own functions raise.
    """

    __module__ = "tf2flax"

    def __str__(self) -> str:  # KeyError's own would print a repr
        return str(self.args[0]) if self.args else ""


class NotFoundError(CheckpointError):
    """A checkpoint, or a tensor in one, is not there."""

    __module__ = "tf2flax"


class CheckpointNotFoundError(NotFoundError, FileNotFoundError):
    """No checkpoint lies at this path."""

    __module__ = "tf2flax"


class TensorNotFoundError(NotFoundError, KeyError):  # KeyError keeps Mapping.get honest
    """No tensor in the checkpoint has this name.

    Attributes:
        name: The name that was asked for.
        place: The file that was searched.
        close: The nearest names that the checkpoint does hold, best first.
        hint: What to do, where more is known than near names.
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
        return f"Tensor `{self.name}` not found - in `{self.place}`. {fix}"


class DamagedError(CheckpointError):
    """The bytes of a checkpoint are not what its format or its checksums say.

    Also where it is no longer the one that was opened: the message says so then.
    """

    __module__ = "tf2flax"


class ReplacedError(DamagedError):
    """A file is no longer the one that was opened; nothing is damaged.

    No public name: a `DamagedError`, as a missing file or a checksum that differs is,
    which are what else a reader meets while a checkpoint is being replaced.
    """


class UnsupportedError(CheckpointError):
    """Something recognised that tf2flax refuses to do; the message names it."""

    __module__ = "tf2flax"


class SharedNameError(TensorNotFoundError, UnsupportedError):
    """Several tensors share a name, so none of them answers to it.

    A `KeyError` as well, so that `Mapping.get` agrees with `in`. Not public: what it
    inherits from is. `hint` is the whole message.
    """

    def __str__(self) -> str:
        return self.hint


class ReadError(CheckpointError, OSError):
    """The operating system or the store could not deliver the bytes."""

    __module__ = "tf2flax"


class ExistsError(CheckpointError, FileExistsError):
    """What should be written is there already."""

    __module__ = "tf2flax"


class AssignmentError(CheckpointError):
    """The assignment map, an option or the target does not fit."""

    __module__ = "tf2flax"


class MalformedError(Exception):
    """Bytes that do not parse: a short fact, for internal use.

    `_wire` raises it without knowing which file the bytes came from; whoever knows
    turns it into a `DamagedError` that names the place.
    """
