"""Object graphs, and checkpoints that hold one, written for tests."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from bundle_writer import field, write_bundle

import tf2flax
from tf2flax._formats.object_graph import GRAPH_KEY

# Children (name, node) and variables (own name, key) of one object.
Node = tuple[Sequence[tuple[str, int]], Sequence[tuple[str, str]]]
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


def graph_bytes(nodes: Sequence[Node]) -> bytes:
    """Children (name, node) and variables (own name, key) of each object."""
    out = b""
    for children, variables in nodes:
        node = b""
        for name, number in children:
            node += field(1, field(1, number) + field(2, name.encode()))
        for name, key in variables:
            value = field(1, b"VARIABLE_VALUE") + field(2, name.encode())
            node += field(2, value + field(3, key.encode()))
        out += field(1, node)
    return out


def write_object_based(
    folder: pathlib.Path, variables: Mapping[str, tuple[str, Any]]
) -> tf2flax.Checkpoint:
    """An object-based checkpoint: path -> (own name, array or Tensor)."""
    stored = [(name, path + SUFFIX) for path, (name, _) in variables.items()]
    arrays: dict[str, Any] = {
        path + SUFFIX: array for path, (_, array) in variables.items()
    }
    graph = np.array(graph_bytes([([], stored)]), object)
    write_bundle(folder / "m", {**arrays, GRAPH_KEY: graph})
    return tf2flax.open_checkpoint(folder / "m")
