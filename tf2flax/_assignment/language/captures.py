"""Captures: `layer_{i}` in names and scopes; `{{` and `}}` are literal braces."""

from __future__ import annotations

import bisect
import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Final

from tf2flax._base.errors import AssignmentError

_PIECE: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]|[^{}]+")
# Matching takes a power of a component's length, with as many captures as exponent.
_MAX_CAPTURES: Final = 4
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclasses.dataclass(frozen=True, slots=True)
class NamePattern:
    """A name or scope with captures.

    Attributes:
        text: As it was written.
        pieces: Literal text and captures in turn; literals stand at even places.
    """

    text: str
    pieces: tuple[str, ...]

    @property
    def captures(self) -> tuple[str, ...]:
        """Names of its captures, each once."""
        return tuple(dict.fromkeys(self.pieces[1::2]))

    @property
    def captured_components(self) -> int:
        """Number of its components, between two `/`, that have captures.

        Examples:
            >>> parse_name("layers_{i}/{a}_{b}/kernel").captured_components
            2
        """
        component = 0
        captured: set[int] = set()
        for i, piece in enumerate(self.pieces):
            if i % 2:
                captured.add(component)
            else:
                component += piece.count("/")
        return len(captured)

    @property
    def literal(self) -> str:
        """The name, of a pattern without captures."""
        assert len(self.pieces) == 1
        return self.pieces[0]

    def expand(self, binding: Mapping[str, str]) -> NamePattern:
        """Puts text in place of some captures.

        Args:
            binding: Capture -> text.

        Returns:
            The pattern with the captures that are left.
        """
        parts = [
            literal_pattern(binding[one])
            if i % 2 and one in binding
            else f"{{{one}}}"
            if i % 2
            else literal_pattern(one)
            for i, one in enumerate(self.pieces)
        ]
        return parse_name("".join(parts))

    def matches(
        self, name: str, *, is_scope: bool = False, digits: Set[str] = frozenset()
    ) -> dict[str, str] | None:
        """Matches a name.

        Args:
            name: The name.
            is_scope: Whether it may go on after the pattern.
            digits: Captures that are decimal digits only.

        Returns:
            What each capture stands for; None where it does not match.

        Examples:
            >>> parse_name("layer_{i}/{part}").matches("layer_10/w")
            {'i': '10', 'part': 'w'}
        """
        regex = _compiled(self.pieces, frozenset(digits))
        match = regex.match(name) if is_scope else regex.fullmatch(name)
        return match.groupdict() if match else None

    def among(
        self, names: Sequence[str], digits: Set[str] = frozenset()
    ) -> Iterator[dict[str, str]]:
        """Finds all names that match.

        Args:
            names: Names, sorted.
            digits: Captures that are decimal digits only.

        Yields:
            What each capture stands for.
        """
        prefix = self.pieces[0]
        for i in range(bisect.bisect_left(names, prefix), len(names)):
            if not names[i].startswith(prefix):
                return
            binding = self.matches(names[i], digits=digits)
            if binding is not None:
                yield binding


@functools.lru_cache(maxsize=4096)
def parse_name(text: str) -> NamePattern:
    """Parses a name or scope with captures.

    Args:
        text: As the user wrote it.

    Returns:
        The pattern.

    Raises:
        AssignmentError: A brace is not closed or opened, or a capture has no name.

    Examples:
        >>> parse_name("layer_{i}/w{{0}}").pieces
        ('layer_', 'i', '/w{0}')
    """
    pieces = [""]
    for match in _PIECE.finditer(text):
        found, name = match[0], match[1]
        if name is not None:
            if not _NAME.fullmatch(name):
                raise AssignmentError(
                    f"`{text}`: `{{{name}}}` is no capture: expected a name in the "
                    "braces. Write {{ and }} for braces in a name."
                )
            pieces += [name, ""]
        elif found in ("{", "}"):
            raise AssignmentError(
                f"`{text}`: a lone `{found}`. Write {{{{ and }}}} for braces in a name."
            )
        else:
            pieces[-1] += found.replace("{{", "{").replace("}}", "}")
    for component in "\0".join(pieces).split("/"):
        if component.count("\0") > 2 * _MAX_CAPTURES:
            raise AssignmentError(
                f"`{text}`: expected at most {_MAX_CAPTURES} captures between two `/`."
            )
    return NamePattern(text, tuple(pieces))


def literal_pattern(name: str) -> str:
    """Writes a name so that it is read as it is, braces and all.

    Args:
        name: The name.

    Returns:
        The pattern that means it.
    """
    return name.replace("{", "{{").replace("}", "}}")


@functools.lru_cache(maxsize=4096)
def _compiled(pieces: tuple[str, ...], digits: frozenset[str]) -> re.Pattern[str]:
    parts: list[str] = []
    seen: set[str] = set()
    for i, piece in enumerate(pieces):
        if i % 2 == 0:
            parts.append(re.escape(piece))
        elif piece in seen:
            parts.append(f"(?P={piece})")
        else:
            seen.add(piece)
            parts.append(f"(?P<{piece}>{'[0-9]+' if piece in digits else '[^/]+?'})")
    return re.compile("".join(parts), re.S)
