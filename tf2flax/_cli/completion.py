"""`tf2flax completion`: a script with which a shell completes commands and options.

Made from the parsers, so that it has all of them.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Final

from . import commands as command_line

_EXAMPLES: Final = """\
examples:
  tf2flax completion bash > ~/.tf2flax.bash   # and in ~/.bashrc: . ~/.tf2flax.bash
  eval "$(tf2flax completion bash)"           # or this in ~/.bashrc
  eval "$(tf2flax completion zsh)"            # in ~/.zshrc, after compinit
"""

_BASH: Final = """\
_tf2flax() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" command="${{COMP_WORDS[1]}}" words=""
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="{commands} --help --version"
  else
    case "$command ${{COMP_WORDS[COMP_CWORD-1]}}" in
{choices}
      *)
        case "$current" in
          -*)
            case "$command" in
{options}
            esac ;;
          *)
            case "$command $COMP_CWORD" in
{arguments}
            esac ;;
        esac ;;
    esac
  fi
  # Without words the shell completes names of files.
  [ -n "$words" ] && COMPREPLY=($(compgen -W "$words" -- "$current"))
  return 0
}}
complete -o default -F _tf2flax tf2flax
"""

_ZSH: Final = """\
#compdef tf2flax
_tf2flax() {{
  if (( CURRENT == 2 )); then
    local -a commands=(
{commands}
    )
    _describe command commands
    return
  fi
  local command=$words[2]
  shift words
  (( CURRENT-- ))
  case $command in
{options}
  esac
}}
compdef _tf2flax tf2flax
"""


def add_to(commands: Any) -> None:
    """Adds the command to a parser."""
    parser = commands.add_parser(
        "completion",
        help="write a script that completes commands in bash or zsh",
        description="Writes a script with which a shell completes commands, options "
        "and their values.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("shell", choices=("bash", "zsh"), help="the shell")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Writes the script; returns the exit code."""
    # The parser of this command alone has no others.
    parser = command_line.make_parser(command_line.COMMANDS)
    if arguments.shell == "bash":
        print(_bash_script(parser.commands), end="")
    else:
        print(_zsh_script(parser.commands, parser.command_helps), end="")
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    yield from parser._actions  # pyright: ignore[reportPrivateUsage]


def _bash_script(parsers: Mapping[str, argparse.ArgumentParser]) -> str:
    choices: list[str] = []
    options: list[str] = []
    arguments: list[str] = []
    for name, parser in parsers.items():
        # The first argument of a command is the third word.
        position = itertools.count(2)
        names = " ".join(
            o for action in _actions(parser) for o in action.option_strings
        )
        options.append(f'              {name}) words="{names}" ;;')
        for action in _actions(parser):
            # Any value: a file, perhaps.
            words = " ".join(map(str, action.choices or ()))
            if not action.option_strings:
                place = f'"{name} {next(position)}"'
                arguments.append(f'              {place}) words="{words}" ;;')
            for option in action.option_strings if action.nargs != 0 else ():
                choices.append(f'      "{name} {option}") words="{words}" ;;')
    return _BASH.format(
        commands=" ".join(parsers),
        choices="\n".join(choices),
        options="\n".join(options),
        arguments="\n".join(arguments),
    )


def _zsh_script(
    parsers: Mapping[str, argparse.ArgumentParser], helps: Mapping[str, str | None]
) -> str:
    commands = [
        f"      {_quoted(f'{name}:{helps.get(name) or name}')}" for name in parsers
    ]
    options: list[str] = []
    for name, parser in parsers.items():
        # Each once: there may be several paths, and zsh takes `*` a single time.
        specs = " ".join(dict.fromkeys(itertools.chain(*map(_specs, _actions(parser)))))
        options.append(f"    {name}) _arguments -s {specs} ;;")
    return _ZSH.format(commands="\n".join(commands), options="\n".join(options))


def _specs(action: argparse.Action) -> Iterator[str]:
    """An argument, as `_arguments` of zsh takes it."""
    values = ":value:_files"
    if action.choices is not None:
        values = f":value:({' '.join(map(str, action.choices))})"
    if not action.option_strings:
        yield _quoted(f"{'*' if action.choices is None else ''}{values}")
        return
    text = (action.help or "").replace("%%", "%").replace(":", r"\:")
    for escaped in "[]":
        text = text.replace(escaped, f"\\{escaped}")
    takes_value = action.nargs != 0
    if action.nargs == "?":  # a value may follow, or none
        values = f":{values}"
    for option in action.option_strings:
        yield _quoted(f"{option}[{text}]{values if takes_value else ''}")


def _quoted(text: str) -> str:
    """A text in single quotes, for a shell."""
    return "'" + text.replace("'", "'\\''") + "'"
