"""Captures: `layer_{i}` in names and scopes; `{{` and `}}` are literal braces.

`{path...}` stands for several components; `{i+1}` for the number after that of `{i}`.
The one place that writes and reads such patterns: `parse_name` and `literal_pattern`.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from types import MappingProxyType
from typing import Final, NamedTuple

from tf2flax._base.errors import AssignmentError
from tf2flax._base.names import numbered_names

from .capture_hints import suggest_capture

_TOKEN: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]|[^{}]+")
# Between two `/`. With n captures there, matching a name may take as many steps as its
# length to the power of n.
_MAX_CAPTURES: Final = 4
# A name; perhaps `...` behind it, or a sign and a number of at most as many digits as
# those that Python turns into integers without a limit.
_CAPTURE: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(\.\.\.|[+-][0-9]{1,18})?")
_MAX_DIGITS: Final = 1000
_DIGITS: Final = re.compile("[0-9]+")
_NO_NUMBERS: Final[Mapping[str, int]] = MappingProxyType({})


class Capture(NamedTuple):
    """A capture as it is written in a name.

    Attributes:
        name: Its name.
        offset: N of `{i+N}`, what its text is more than `{i}`; None for `{i}` itself.
        is_path: True for `{path...}`: one or more components.
    """

    name: str
    offset: int | None = None
    is_path: bool = False

    def __str__(self) -> str:
        """The capture with its braces."""
        offset = "" if self.offset is None else f"{self.offset:+d}"
        return f"{{{self.name}{'...' if self.is_path else offset}}}"

    def fill(self, text: str) -> str:
        """What stands in its place, where the text of the capture is known.

        Raises:
            AssignmentError: The text is not a number and there is an offset, or the sum
                is below 0.
        """
        if self.offset is None:
            return text
        is_number = text.isdecimal() and len(text) <= _MAX_DIGITS
        if not is_number or int(text) + self.offset < 0:
            raise AssignmentError(
                f"{self} is no number from 0 on, where {{{self.name}}} is `{text}`."
            )
        return str(int(text) + self.offset)


class _Rules(NamedTuple):
    """What captures may stand for, where some are numbers.

    Attributes:
        is_scope: True if the name may go on after the pattern.
        digits: Captures that match decimal digits only.
        lowest: Captures that are numbers -> the lowest that each can be.
    """

    is_scope: bool
    digits: Set[str]
    lowest: Mapping[str, int]

    def texts(
        self, capture: Capture, name: str, start: int, binding: Mapping[str, str]
    ) -> Iterator[tuple[int, str]]:
        """Yields where a capture may end, and the text that it then has.

        Args:
            capture: The capture.
            name: The name.
            start: Where the capture begins.
            binding: Texts of captures so far.
        """
        if capture.name in binding:
            text = capture.fill(binding[capture.name])
            if name.startswith(text, start):
                yield start + len(text), binding[capture.name]
        elif capture.name in self.lowest:
            yield from self._numbers(capture, name, start)
        elif capture.name in self.digits:
            if run := _DIGITS.match(name, start):
                yield run.end(), run[0]
        else:
            slash = name.find("/", start)
            end = len(name) if slash < 0 or capture.is_path else slash
            for stop in range(start + 1, end + 1):
                # Components are not empty.
                if name[start] == "/" or name.startswith("//", stop - 2):
                    return
                if name[stop - 1] != "/":
                    yield stop, name[start:stop]

    def _numbers(
        self, capture: Capture, name: str, start: int
    ) -> Iterator[tuple[int, str]]:
        """Numbers without leading zeros, shortest first."""
        run = _DIGITS.match(name, start)
        last = min(run.end(), start + _MAX_DIGITS) if run else start
        last = min(last, start + 1) if name.startswith("0", start) else last
        for stop in range(start + 1, last + 1):
            value = int(name[start:stop]) - (capture.offset or 0)
            if value >= self.lowest[capture.name]:
                yield stop, str(value)


@dataclasses.dataclass(frozen=True, slots=True)
class NamePattern:
    """A name or scope with captures.

    Attributes:
        text: The pattern as it was written.
        literals: Texts around the captures, which may be empty: one more than captures.
        written: The captures between them; the same name may occur again.
    """

    text: str
    literals: tuple[str, ...]
    written: tuple[Capture, ...] = ()

    @property
    def captures(self) -> tuple[str, ...]:
        """Names of the captures, each once."""
        return tuple(dict.fromkeys(capture.name for capture in self.written))

    def count_captured(self, binding: Mapping[str, str]) -> int:
        """Counts the components, between two `/`, that have captures.

        Args:
            binding: Text by name of the capture. A `{path...}` counts as many
                components as it took.

        Examples:
            >>> parse_name("layers_{i}/{a}_{b}/kernel").count_captured({})
            2
            >>> parse_name("{path...}/kernel").count_captured({"path": "a/b/c"})
            3
        """
        component = extra = 0
        captured: set[int] = set()
        for literal, capture in zip(self.literals, self.written, strict=False):
            component += literal.count("/")
            captured.add(component)
            if capture.is_path:
                extra += binding.get(capture.name, "").count("/")
        return len(captured) + extra

    @property
    def literal(self) -> str:
        """Name that a pattern without captures stands for."""
        assert not self.written
        return self.literals[0]

    def expand(self, binding: Mapping[str, str]) -> NamePattern:
        """Puts text in place of some captures.

        Args:
            binding: Text by name of the capture.

        Returns:
            The pattern with the captures that are left.

        Raises:
            AssignmentError: A capture with an offset gives no number from 0 on.

        Examples:
            >>> parse_name("l_{i}/{part}").expand({"i": "{0}"}).text
            'l_{{0}}/{part}'
            >>> parse_name("l_{i+1}/w").expand({"i": "9"}).text
            'l_10/w'
        """
        texts = [literal_pattern(self.literals[0])]
        for capture, literal in zip(self.written, self.literals[1:], strict=True):
            text = binding.get(capture.name)
            filled = str(capture) if text is None else capture.fill(text)
            texts.append(filled if text is None else literal_pattern(filled))
            texts.append(literal_pattern(literal))
        return parse_name("".join(texts))

    def matches(
        self,
        name: str,
        *,
        is_scope: bool = False,
        digits: Set[str] = frozenset(),
        lowest: Mapping[str, int] = _NO_NUMBERS,
    ) -> dict[str, str] | None:
        """Matches a name.

        Args:
            name: The name.
            is_scope: True if the name may go on after the pattern.
            digits: Captures that match decimal digits only.
            lowest: Captures that match numbers without leading zeros -> the lowest of
                these; for those that have an offset here, 0 at least.

        Returns:
            Text by name of the capture; None if the name does not match.

        Examples:
            >>> parse_name("layer_{i}/{part}").matches("layer_10/w")
            {'i': '10', 'part': 'w'}
            >>> parse_name("layer_{i-1}/w").matches("layer_9/w")
            {'i': '10'}
        """
        if lowest or any(capture.offset is not None for capture in self.written):
            if not name.startswith(self.literals[0]):
                return None
            if not self.written:
                return {} if is_scope or name == self.literals[0] else None
            rules = _Rules(is_scope, digits, lowest_numbers((self,), lowest))
            return self._match_from(name, 0, len(self.literals[0]), {}, rules)
        regex = _compile(self.literals, self.written, frozenset(digits))
        match = regex.match(name) if is_scope else regex.fullmatch(name)
        return match.groupdict() if match else None

    def _match_from(
        self, name: str, number: int, start: int, binding: dict[str, str], rules: _Rules
    ) -> dict[str, str] | None:
        """`matches` where some captures are numbers: no regular expression can count.

        Args:
            name: The name.
            number: Number of the capture that stands at `start`; those before it, and
                all text up to there, match.
            start: Place in the name.
            binding: Texts of captures so far.
            rules: What captures may stand for.
        """
        if number == len(self.written):
            return binding if rules.is_scope or start == len(name) else None
        capture, literal = self.written[number], self.literals[number + 1]
        is_last = number == len(self.written) - 1 and not rules.is_scope
        for stop, text in rules.texts(capture, name, start, binding):
            if not name.startswith(literal, stop):
                continue
            behind = stop + len(literal)
            if is_last and behind != len(name):
                continue
            longer = {**binding, capture.name: text}
            if result := self._match_from(name, number + 1, behind, longer, rules):
                return result
        return None

    def among(
        self,
        names: Sequence[str],
        digits: Set[str] = frozenset(),
        lowest: Mapping[str, int] = _NO_NUMBERS,
    ) -> Iterator[dict[str, str]]:
        """Finds all names that match.

        Args:
            names: Names, sorted.
            digits: Captures that match decimal digits only.
            lowest: As for `matches`.

        Yields:
            Text by name of the capture.
        """
        for name in self._candidates(names, digits):
            binding = self.matches(name, digits=digits, lowest=lowest)
            if binding is not None:
                yield binding

    def _candidates(self, names: Sequence[str], digits: Set[str]) -> Iterator[str]:
        """The names that may match: all that begin as they must."""
        prefix = self.literals[0]
        if self.written and self.written[0].name in digits:
            behind = self.literals[1]
            if behind.startswith("/"):
                yield from numbered_names(names, prefix, behind)
                return
        # Sorted names with the same beginning follow each other.
        for i in range(bisect.bisect_left(names, prefix), len(names)):
            if not names[i].startswith(prefix):
                return
            yield names[i]


def lowest_numbers(
    patterns: Iterable[NamePattern], lowest: Mapping[str, int] = _NO_NUMBERS
) -> dict[str, int]:
    """Finds the captures that are numbers, since they have an offset somewhere.

    Args:
        patterns: All names of an entry, or of an expression.
        lowest: Captures that are known to be numbers.

    Returns:
        Name of the capture -> the lowest number for which no sum is below 0.

    Examples:
        >>> lowest_numbers([parse_name("a_{i-2}/{j}"), parse_name("b_{i}")])
        {'i': 2}
    """
    numbers = dict(lowest)
    for pattern in patterns:
        for capture in pattern.written:
            if capture.offset is not None:
                least = max(0, -capture.offset)
                numbers[capture.name] = max(numbers.get(capture.name, 0), least)
    return numbers


@functools.lru_cache(maxsize=4096)
def parse_name(text: str) -> NamePattern:
    """Parses a name or scope with captures.

    Args:
        text: The pattern as the user wrote it.

    Raises:
        AssignmentError: A brace is not closed or opened, a capture has no name, or
            `{path...}` stands where it cannot.

    Examples:
        >>> parse_name("layer_{i}/w{{0}}").literals
        ('layer_', '/w{0}')
    """
    if "{" not in text and "}" not in text:  # as most names
        return NamePattern(text, (text,))
    literals = [""]
    written: list[Capture] = []
    for match in _TOKEN.finditer(text):
        token, inner = match[0], match[1]
        if inner is not None:
            written.append(_read_capture(text, inner))
            literals.append("")
        elif token in ("{", "}"):
            raise AssignmentError(
                f"`{text}`: a single `{token}`. Write {{{{ and }}}} for braces in a "
                "name."
            )
        else:
            literals[-1] += token.replace("{{", "{").replace("}}", "}")
    # Every capture stands between two literals, which may be empty: each adds a \0.
    for component in "\0".join(literals).split("/"):
        if component.count("\0") > _MAX_CAPTURES:
            raise AssignmentError(
                f"`{text}`: expected at most {_MAX_CAPTURES} captures between two `/`."
            )
    _check_paths(text, literals, written)
    return NamePattern(text, tuple(literals), tuple(written))


def _read_capture(text: str, inner: str) -> Capture:
    """Reads what stands in braces."""
    match = _CAPTURE.fullmatch(inner)
    if match is None:
        raise AssignmentError(
            f"`{text}`: `{{{inner}}}` is not a valid capture: expected a name in the "
            f"braces{_suggest_capture(inner)}.{suggest_capture(text, inner)} Braces in "
            "a name are doubled: {{ and }}."
        )
    name, more = match[1], match[2]
    if more is None or more == "...":
        return Capture(name, is_path=more is not None)
    return Capture(name, int(more))


def _suggest_capture(inner: str) -> str:
    """What may have been meant by the text in braces."""
    without = inner.replace(" ", "")
    if without != inner and _CAPTURE.fullmatch(without):
        return f", without spaces: {{{without}}}"
    if without.strip(".") != without and _CAPTURE.fullmatch(without.strip(".")):
        return f", {{{without.strip('.')}...}} for several components"
    return ", as {i}, {i+1} or {path...}"


def _check_paths(text: str, literals: list[str], written: list[Capture]) -> None:
    """Checks that there is one `{path...}` at most, alone between two `/`."""
    paths = [number for number, capture in enumerate(written) if capture.is_path]
    if len(paths) > 1:
        raise AssignmentError(
            f"`{text}`: expected at most one capture of several components, got "
            f"{written[paths[0]]} and {written[paths[1]]}."
        )
    for number in paths:
        before, behind = literals[number], literals[number + 1]
        is_first, is_last = number == 0, number == len(written) - 1
        starts = before.endswith("/") or (is_first and not before)
        if not starts or not (behind.startswith("/") or (is_last and not behind)):
            raise AssignmentError(
                f"`{text}`: {written[number]} stands for whole components: expected "
                "nothing but `/` beside it."
            )


def literal_pattern(name: str) -> str:
    """Writes a name as a pattern that stands for it, with its braces doubled."""
    return name.replace("{", "{{").replace("}", "}}")


@functools.lru_cache(maxsize=4096)
def _compile(
    literals: tuple[str, ...],
    written: tuple[Capture, ...],
    digits: frozenset[str],
) -> re.Pattern[str]:
    regex = [re.escape(literals[0])]
    seen: set[str] = set()
    for (name, _, is_path), literal in zip(written, literals[1:], strict=True):
        if name in seen:
            # The same capture again stands for the same text.
            regex.append(f"(?P={name})")
        else:
            seen.add(name)
            text = "[^/]+?(?:/[^/]+?)*?" if is_path else "[^/]+?"
            regex.append(f"(?P<{name}>{'[0-9]+' if name in digits else text})")
        regex.append(re.escape(literal))
    return re.compile("".join(regex), re.S)
