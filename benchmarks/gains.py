"""What a user gains, in sentences: their figures are those of the goals."""

from __future__ import annotations

import re
from typing import Final

TITLE: Final = "What you gain"

# What a goal compares, and what its figure means to who loads weights.
_SENTENCES: Final = {
    "first of a process: time of TensorFlow / time of tf2flax": (
        "The weights of a model of BERT-large's size (1.34 GB) are in JAX {:.1f} times "
        "as fast as by TensorFlow's own reader in a new process, every checksum "
        "compared."
    ),
    "time of TensorFlow / time of tf2flax": (
        "In a process that has restored before, {:.1f} times as fast."
    ),
    "time of safetensors / time of tf2flax": (
        "{:.1f} times as fast as safetensors loads the same tensors from its own file, "
        "unchecked."
    ),
    "time of Orbax / time of tf2flax": (
        "{:.1f} times as fast as Orbax restores the same tensors from its own "
        "checkpoint, unchecked."
    ),
    "columns: time of Orbax / time of tf2flax": (
        "Onto eight devices, cut by columns, {:.1f} times as fast as Orbax; every byte "
        "is read once."
    ),
    "read, first of a process: time of TensorFlow read / time of tf2flax": (
        "Into NumPy, `Checkpoint.read()` is {:.1f} times as fast as a `get_tensor` for "
        "each."
    ),
    "400 variables, new process: TensorFlow / tf2flax ls": (
        "`tf2flax ls` shows what a checkpoint holds {:.0f} times as fast as a script "
        "that asks TensorFlow."
    ),
    "restore, max_in_flight_bytes of 128 MB: MB over what is kept": (
        "A restore of 4 GB takes {:.0f} MB of memory besides the arrays that you get."
    ),
    "store: 1,000 small tensors / one latency": (
        "A thousand small tensors come from a store that answers after 30 ms in {:.1f} "
        "times that."
    ),
}


def gain_lines(goals: str) -> list[str]:
    """The section, from the table of goals.

    Args:
        goals: The table, in Markdown.

    Returns:
        Lines: a sentence for each of the goals above that is there.
    """
    rows = re.findall(r"^\| ([^|]+) \| ([\d.]+) \|", goals, re.MULTILINE)
    found = {what: float(figure) for what, figure in rows}
    sentences = [
        f"- {text.format(found[what])}"
        for what, text in _SENTENCES.items()
        if what in found
    ]
    return [f"## {TITLE}", "", *sentences, ""] if sentences else []
