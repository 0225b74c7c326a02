"""`tf2flax suggest`: a map for a checkpoint and a target, as the text of a map file.

Imports JAX only when it runs: a target is made of it.
"""

from __future__ import annotations

import argparse
from typing import Any, Final

import tf2flax
from tf2flax._base.text import counted
from tf2flax._storage.faults import write_error
from tf2flax._storage.writing import write_document

from .documents import print_json
from .outputs import check_output
from .selecting import add_checkpoint
from .targets import add_target, load_target

_EXAMPLES: Final = """\
examples:
  tf2flax suggest model.ckpt-1000 --target model:make_params
  tf2flax suggest model.ckpt-1000 --target model:Bert -o bert.toml
"""


def add_to(commands: Any) -> None:
    """Adds the command to a parser."""
    parser = commands.add_parser(
        "suggest",
        help="suggest a map for a Flax target",
        description="Suggests a map from names and shapes; reads no tensor. Every line "
        "says what speaks for it; what is open stands in comments. Exit code 1 where "
        "something is open.",
        epilog=_EXAMPLES,
    )
    add_checkpoint(parser)
    add_target(parser, required=True)
    parser.add_argument(
        "-o", "--out", metavar="FILE", help="write the map to a file: .toml"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a file that exists"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Suggests the map; returns the exit code."""
    out = check_output(
        arguments.out, "-o", "FILE", overwrite=arguments.overwrite, ending=".toml"
    )
    checkpoint = tf2flax.open_checkpoint(arguments.checkpoint)
    result = tf2flax.suggest(checkpoint, load_target(arguments.target))
    if out:
        try:
            write_document(out, str(result).encode("utf-8"))
        except OSError as error:
            raise write_error(out, error) from error
    if arguments.json:
        print_json(_document(result, checkpoint.prefix))
    elif not out:
        print(str(result), end="")
    else:
        print(_summary(result, arguments.out))
    return int(bool(result.unmatched or result.ambiguous))


def _misfits(result: tf2flax.Suggestion) -> list[str]:
    from tf2flax._porting.suggest import misfits_of  # which needs JAX

    return list(misfits_of(result))


def _document(result: tf2flax.Suggestion, prefix: str) -> dict[str, Any]:
    entries = result.assignment_map
    pairs = entries.items() if isinstance(entries, dict) else entries
    return {
        "checkpoint": prefix,
        "complete": not (result.unmatched or result.ambiguous),
        "assignment_map": [[str(key), value] for key, value in pairs],
        "unmatched": list(result.unmatched),
        "ambiguous": {
            leaf: [[str(key), reason] for key, reason in candidates]
            for leaf, candidates in result.ambiguous
        },
        "evidence": dict(result.evidence),
        "misfits": _misfits(result),
    }


def _summary(result: tf2flax.Suggestion, path: str) -> str:
    counts = [f"{counted(len(result.assignment_map), 'entry', 'entries')} written to "]
    counts[0] += path
    if result.ambiguous:
        number = len(result.ambiguous)
        verb = "is" if number == 1 else "are"
        counts.append(f"{counted(number, 'leaf', 'leaves')} {verb} open")
    if result.unmatched:
        number = len(result.unmatched)
        verb = "has" if number == 1 else "have"
        counts.append(f"{counted(number, 'leaf', 'leaves')} {verb} no source")
    return "\n".join([", ".join(counts), *_misfits(result)])
