"""`tf2flax plan`: what a restore would do, as text, JSON or one page of HTML.

Imports JAX only when it runs: a target is made of it.
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any, Final

import tf2flax
from tf2flax._storage.faults import write_error
from tf2flax._storage.writing import write_document

from .documents import print_json
from .outputs import check_output
from .page import render_page
from .selecting import add_checkpoint, add_names, open_named
from .targets import add_target, load_target

_EXAMPLES: Final = """\
examples:
  tf2flax plan model.ckpt-1000 --map bert.toml --target model:make_params
  tf2flax plan model.ckpt-1000 --map bert.toml --target model:Bert --html plan.html

model.py:
  def make_params():  # linen: its variables, abstract or not
      return jax.eval_shape(model.init, jax.random.key(0), inputs)
"""


def add_to(commands: Any) -> None:
    """Adds the command to a parser."""
    parser = commands.add_parser(
        "plan",
        help="show what a map fills in a Flax target",
        description="Checks a map against a checkpoint and a target; reads no tensor. "
        "Exit code 1 where the restore would fail.",
        epilog=_EXAMPLES,
    )
    add_checkpoint(parser)
    parser.add_argument(
        "--map", metavar="FILE", required=True, help="map file: .toml or .json"
    )
    add_target(parser, required=True)
    add_names(parser)
    parser.add_argument(
        "--html",
        metavar="FILE",
        help="also write a page that shows the plan in a browser",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a page that exists"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Makes the plan; returns the exit code."""
    page = check_output(arguments.html, "--html", "FILE", overwrite=arguments.overwrite)
    entries: Any = None
    error = ""
    # The map first: a mistake in it needs neither the checkpoint nor the target.
    try:
        entries = tf2flax.load_map(arguments.map)
    except tf2flax.AssignmentError as problem:
        error = str(problem)
    checkpoint = open_named(arguments.checkpoint, arguments.names)
    document: dict[str, Any] = {"checkpoint": checkpoint.prefix}
    text = ""
    if not error:
        target = load_target(arguments.target)
        try:
            plan = tf2flax.plan(checkpoint, entries, target)
            document, text = plan.to_dict(), str(plan)
        except tf2flax.AssignmentError as problem:
            error = str(problem)
            document = _plan_the_rest(checkpoint, entries, target)
    text = text or f"The restore would fail: {error}"
    if page:
        _write_page(page, document, error, checkpoint)
    if arguments.json:
        print_json({"ok": not error, "error": error or None, **document})
    else:
        print(text)
    return 1 if error else 0


def _plan_the_rest(
    checkpoint: tf2flax.Checkpoint, entries: Any, target: Any
) -> dict[str, Any]:
    """The plan of what fits, where something does not: leaves that lack it are kept."""
    from tf2flax._jax.options import check_options
    from tf2flax._jax.restore import make_job, take_target

    options = check_options("plan", {"on_missing": "keep", "on_mismatch": "keep"})
    try:
        # Not `tf2flax.plan`, which refuses to keep abstract leaves.
        job = make_job(checkpoint, entries, take_target(target), options)
    except tf2flax.AssignmentError:  # an entry is not valid, say
        return {"checkpoint": checkpoint.prefix}
    return job.plan.to_dict()


def _write_page(
    path: str,
    document: dict[str, Any],
    error: str,
    checkpoint: tf2flax.Checkpoint,
) -> None:
    unused = document.get("unused", {})
    sizes = {
        name: checkpoint[name].nbytes
        for names in unused.values()
        for name in names
        if name in checkpoint
    }
    page = render_page(document, error=error, sizes=sizes)
    # Names of files need not be text.
    contents = page.encode("utf-8", errors="xmlcharrefreplace")
    file = pathlib.Path(path)
    try:
        if file.exists() and not file.is_file():  # a device, or a pipe
            file.write_bytes(contents)
        else:
            write_document(path, contents)
    except OSError as problem:
        raise write_error(path, problem) from problem
