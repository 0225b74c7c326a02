"""The parser of the command line: it names what was probably meant.

Knows no command; `argparse` does the parsing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import tf2flax
from tf2flax._base.errors import escape_lines
from tf2flax._base.names import nearest

from .wording import shorten_words


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of examples, and wraps what is one paragraph."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" in text.strip():
            return super()._fill_text(text, width, indent)
        return argparse.HelpFormatter._fill_text(self, text, width, indent)  # pyright: ignore[reportPrivateUsage]


class Parser(argparse.ArgumentParser):
    """A parser that names the nearest command or option for one that there is not.

    It also writes help like other output; argparse would ignore failures.
    """

    _arguments: Sequence[str] = ()

    def __init__(self, **options: Any) -> None:
        """Takes the options of argparse."""
        options.setdefault("formatter_class", HelpFormatter)
        super().__init__(**options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Parses, and remembers what was given, for messages."""
        self._arguments = list(sys.argv[1:] if args is None else args)
        parsed, extra = super().parse_known_args(args, namespace)
        return parsed, self._take_last(parsed, extra)

    def _take_last(self, parsed: argparse.Namespace, extra: list[str]) -> list[str]:
        """Gives the last argument what follows the options: `ls CKPT --json 'x*'`.

        argparse matches arguments as soon as it can, and an optional one with nothing.

        Returns:
            What is not used.
        """
        values = extra[1:] if extra[:1] == ["--"] else extra
        is_value = len(values) == 1 and (values != extra or values[0][:1] != "-")
        for action in self._actions:
            is_last = not action.option_strings and action.nargs == "?"
            if is_value and is_last and getattr(parsed, action.dest) is None:
                setattr(parsed, action.dest, values[0])
                return []
        return extra

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Names the nearest of the values that an option takes."""
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            close = nearest(str(value), list(map(str, action.choices or ())), 1)
            if close and action.option_strings:
                error.message += f". Did you mean `{close[0]}`?"
            raise

    def error(self, message: str) -> NoReturn:
        """Writes usage and a message, and exits with 2."""
        commands = self.commands
        command = self._command()
        if commands and command in commands:
            # An option of the command: its own parser knows the others.
            commands[command].error(message)
        if commands and command is not None:
            close = nearest(command, list(commands), 1)
            fix = f"Did you mean `{close[0]}`?" if close else ""
            fix = fix or f"Commands: {', '.join(commands)}."
            message = f"there is no command `{command}`. {fix}"
        else:
            message = f"{message}{''.join(self._misspelt())}"
        super().error(shorten_words(escape_lines(message)))

    def options_of(self, command: str) -> dict[str, list[str]]:
        """Spellings of the options of a command, by the names of its parameters."""
        actions = self.commands[command]._actions
        return {
            action.dest: [*action.option_strings]
            for action in actions
            if action.option_strings
        }

    def print_help(self, file: Any = None) -> None:
        """Writes the help."""
        (sys.stdout if file is None else file).write(self.format_help())

    @property
    def commands(self) -> dict[str, argparse.ArgumentParser]:
        """Parsers of the commands, by name."""
        return {
            name: parser
            for action in self._subparsers_actions()
            for name, parser in action.choices.items()
        }

    @property
    def command_helps(self) -> dict[str, str | None]:
        """What the help says of each command, in a line."""
        return {
            choice.dest: choice.help
            for action in self._subparsers_actions()
            for choice in action._choices_actions  # pyright: ignore[reportPrivateUsage]
        }

    def _subparsers_actions(self) -> list[Any]:
        kind = argparse._SubParsersAction  # pyright: ignore[reportPrivateUsage, reportUnknownVariableType]
        return [action for action in self._actions if isinstance(action, kind)]

    def _command(self) -> str | None:
        """The first argument that is no option; those before a command take none."""
        names = (name for name in self._arguments if not name.startswith("-"))
        return next(names, None)

    def _misspelt(self) -> Iterator[str]:
        """Suggestions for options that there are not."""
        options = [o for o in self._option_string_actions if o.startswith("--")]
        for argument in self._arguments:
            name = argument.partition("=")[0]
            if name == "--":  # names follow
                return
            is_option = name.startswith("--")
            if is_option and not any(option.startswith(name) for option in options):
                for close in nearest(name, options, 1):
                    yield f". Did you mean `{close}` instead of `{name}`?"


class Version(argparse.Action):
    """Writes the version, and does not ignore failures either."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        sys.stdout.write(f"tf2flax {tf2flax.__version__}\n")
        parser.exit()
