"""Captures: `layer_{i}` in names and scopes; `{{` and `}}` are literal braces.

The one place that writes and reads such patterns: `parse_name` and `literal_pattern`.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Final

from tf2flax._base.errors import AssignmentError

from .capture_hints import suggest_capture

_TOKEN: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]|[^{}]+")
# Between two `/`. With n captures there, matching a name may take as many steps as its
# length to the power of n.
_MAX_CAPTURES: Final = 4
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclasses.dataclass(frozen=True, slots=True)
class NamePattern:
    """A name or scope with captures.

    Attributes:
        text: The pattern as it was written.
        segments: Literal text and names of captures in turn; literals stand at even
            places.
    """

    text: str
    segments: tuple[str, ...]

    @property
    def captures(self) -> tuple[str, ...]:
        """Names of the captures, each once."""
        return tuple(dict.fromkeys(self.segments[1::2]))

    @property
    def captured_components(self) -> int:
        """Number of components, between two `/`, that have captures.

        Examples:
            >>> parse_name("layers_{i}/{a}_{b}/kernel").captured_components
            2
        """
        component = 0
        captured: set[int] = set()
        for i, segment in enumerate(self.segments):
            if i % 2:
                captured.add(component)
            else:
                component += segment.count("/")
        return len(captured)

    @property
    def literal(self) -> str:
        """Name that a pattern without captures stands for."""
        assert len(self.segments) == 1
        return self.segments[0]

    def expand(self, binding: Mapping[str, str]) -> NamePattern:
        """Puts text in place of some captures.

        Args:
            binding: Text by name of the capture.

        Returns:
            The pattern with the captures that are left.

        Examples:
            >>> parse_name("l_{i}/{part}").expand({"i": "{0}"}).text
            'l_{{0}}/{part}'
        """
        written: list[str] = []
        for i, segment in enumerate(self.segments):
            if i % 2 == 0:
                written.append(literal_pattern(segment))
            elif segment in binding:
                written.append(literal_pattern(binding[segment]))
            else:
                written.append(f"{{{segment}}}")
        return parse_name("".join(written))

    def matches(
        self, name: str, *, is_scope: bool = False, digits: Set[str] = frozenset()
    ) -> dict[str, str] | None:
        """Matches a name.

        Args:
            name: The name.
            is_scope: True if the name may go on after the pattern.
            digits: Captures that match decimal digits only.

        Returns:
            Text by name of the capture; None if the name does not match.

        Examples:
            >>> parse_name("layer_{i}/{part}").matches("layer_10/w")
            {'i': '10', 'part': 'w'}
        """
        regex = _compile(self.segments, frozenset(digits))
        match = regex.match(name) if is_scope else regex.fullmatch(name)
        return match.groupdict() if match else None

    def among(
        self, names: Sequence[str], digits: Set[str] = frozenset()
    ) -> Iterator[dict[str, str]]:
        """Finds all names that match.

        Args:
            names: Names, sorted.
            digits: Captures that match decimal digits only.

        Yields:
            Text by name of the capture.
        """
        # Sorted names with the same beginning follow each other.
        prefix = self.segments[0]
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
        text: The pattern as the user wrote it.

    Raises:
        AssignmentError: A brace is not closed or opened, or a capture has no name.

    Examples:
        >>> parse_name("layer_{i}/w{{0}}").segments
        ('layer_', 'i', '/w{0}')
    """
    segments = [""]
    for match in _TOKEN.finditer(text):
        token, name = match[0], match[1]
        if name is not None:
            if not _NAME.fullmatch(name):
                raise AssignmentError(
                    f"`{text}`: `{{{name}}}` is not a valid capture: expected a name "
                    f"in the braces.{suggest_capture(text, name)} Braces in a name "
                    "are doubled: {{ and }}."
                )
            segments += [name, ""]
        elif token in ("{", "}"):
            raise AssignmentError(
                f"`{text}`: a single `{token}`. Write {{{{ and }}}} for braces in a "
                "name."
            )
        else:
            segments[-1] += token.replace("{{", "{").replace("}}", "}")
    # Every capture stands between two literals, which may be empty: each adds two \0.
    for component in "\0".join(segments).split("/"):
        if component.count("\0") > 2 * _MAX_CAPTURES:
            raise AssignmentError(
                f"`{text}`: expected at most {_MAX_CAPTURES} captures between two `/`."
            )
    return NamePattern(text, tuple(segments))


def literal_pattern(name: str) -> str:
    """Writes a name as a pattern that stands for it, with its braces doubled."""
    return name.replace("{", "{{").replace("}", "}}")


@functools.lru_cache(maxsize=4096)
def _compile(segments: tuple[str, ...], digits: frozenset[str]) -> re.Pattern[str]:
    regex: list[str] = []
    seen: set[str] = set()
    for i, segment in enumerate(segments):
        if i % 2 == 0:
            regex.append(re.escape(segment))
        elif segment in seen:
            # The same capture again stands for the same text.
            regex.append(f"(?P={segment})")
        else:
            seen.add(segment)
            text = "[0-9]+" if segment in digits else "[^/]+?"
            regex.append(f"(?P<{segment}>{text})")
    return re.compile("".join(regex), re.S)
