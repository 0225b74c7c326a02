"""Writes docs/scaling.md: what restores cost on meshes that do not exist here.

Two imagined checkpoints are planned on 1 to 256 hosts of 8 devices each, for both
strategies. Nothing is read: an index is all that a plan needs.

    python benchmarks/scaling.py
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

import tf2flax
from tf2flax._assignment.plans.report import format_nbytes
from tf2flax._base.manifest import Manifest, Piece, TensorEntry
from tf2flax._base.values import STORED_DTYPES, Box, ByteRange, TensorSpec
from tf2flax._storage.local import LocalFile

ROOT = pathlib.Path(__file__).resolve().parent.parent
HOSTS = (1, 8, 64, 256)
DEVICES_PER_HOST = 8
FLOAT32 = STORED_DTYPES[1]
Shape = tuple[int, ...]


class ImaginedManifest(Manifest):
    """A checkpoint of float32 tensors, some of them in slices, without files."""

    def __init__(self, shapes: Mapping[str, Shape], slices: Mapping[str, int]) -> None:
        """Lays tensors out, one behind the other."""
        self._shapes = dict(sorted(shapes.items()))
        self._entries: dict[str, TensorEntry] = {}
        data_file = LocalFile("/imagined/model.ckpt.data-00000-of-00001")
        start = 0
        for name, shape in self._shapes.items():
            count = slices.get(name, 1)
            pieces: list[Piece] = []
            row = 0
            for i in range(count):
                # As TensorFlow's fixed_size_partitioner: the first ones have one more.
                rows = shape[0] // count + (i < shape[0] % count) if shape else 1
                region = Box((), ())
                if shape:
                    rest = shape[1:]
                    region = Box((row, *(0 for _ in rest)), (row + rows, *rest))
                stop = start + math.prod(region.shape) * 4
                pieces.append(Piece(region, data_file, ByteRange(start, stop), 0))
                row, start = row + rows, stop
            self._entries[name] = TensorEntry(
                name, TensorSpec(shape, FLOAT32), tuple(pieces), count > 1, False
            )

    @property
    def prefix(self) -> str:
        """Where it would lie."""
        return "/imagined/model.ckpt"

    @property
    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def spec(self, name: str) -> TensorSpec:
        """What a tensor would be."""
        return self._entries[name].spec

    def entry(self, name: str) -> TensorEntry:
        """Where a tensor would lie."""
        return self._entries[name]

    def index_damage(self) -> tuple[tuple[str, str], ...]:
        """Nothing is damaged."""
        return ()


@dataclasses.dataclass(frozen=True)
class Model:
    """A model to plan.

    Attributes:
        title: What it is.
        text: What is said about it and its sharding.
        shapes: Its tensors.
        slices: Into how many slices some of them were saved.
        sharding: Value of the option; the mesh has the axes hosts and chips.
    """

    title: str
    text: str
    shapes: Mapping[str, Shape]
    slices: Mapping[str, int]
    sharding: Any


def embeddings() -> Model:
    """Ten large tables and some dense layers."""
    tables = {f"tables/{i}/embedding": (39_321_600, 64) for i in range(10)}
    dense = {f"dense/{i}/kernel": (1024, 1024) for i in range(8)}
    dense |= {f"dense/{i}/bias": (1024,) for i in range(8)}
    return Model(
        "A 100 GB partitioned embedding model",
        "Ten tables of 39,321,600 rows of 64 float32, each saved as 50 slices; eight "
        "dense layers of 1024 x 1024. Tables are sharded by rows over all devices, "
        'dense layers are replicated: `from_partitions(("hosts", "chips"))` for the '
        "tables, `P()` for the rest.",
        tables | dense,
        dict.fromkeys(tables, 50),
        tf2flax.partition_rules([("tables", P(("hosts", "chips"))), ("", P())]),
    )


def transformer() -> Model:
    """GPT-2 XL, its vocabulary padded to a multiple of 128."""
    width, vocabulary, layers = 1600, 50_304, 48
    shapes: dict[str, Shape] = {
        "wte": (vocabulary, width), "wpe": (1024, width),
        "ln_f/g": (width,), "ln_f/b": (width,),
    }  # fmt: skip
    for i in range(layers):
        for name, (rows, columns) in {
            "attn/c_attn": (width, 3 * width), "attn/c_proj": (width, width),
            "mlp/c_fc": (width, 4 * width), "mlp/c_proj": (4 * width, width),
        }.items():  # fmt: skip
            shapes[f"h{i}/{name}/w"] = (rows, columns)
            shapes[f"h{i}/{name}/b"] = (columns,)
        for name in ("ln_1", "ln_2"):
            shapes[f"h{i}/{name}/g"] = shapes[f"h{i}/{name}/b"] = (width,)
    rules = [
        ("wte", P("chips")),
        ("(c_attn|c_fc)/w$", P(None, "chips")),
        ("c_proj/w$", P("chips")),
        ("", P()),
    ]
    return Model(
        "A transformer of 1.5 B parameters",
        "GPT-2 XL's tensors (48 layers of width 1600), sharded as tensor-parallel "
        "layers over the eight chips of a host, and replicated over hosts.",
        shapes,
        {},
        tf2flax.partition_rules(rules),
    )


def table(model: Model) -> list[str]:
    """What the model costs on each number of hosts."""
    manifest = ImaginedManifest(model.shapes, model.slices)
    target = {n: jax.ShapeDtypeStruct(s, "float32") for n, s in model.shapes.items()}
    rows: list[Sequence[str]] = []
    for hosts in HOSTS:
        mesh = AbstractMesh((hosts, DEVICES_PER_HOST), ("hosts", "chips"))
        plan = tf2flax.plan(
            tf2flax.Checkpoint(manifest),
            {"/": "/"},
            target,
            sharding=model.sharding,
            mesh=mesh,
        )
        for strategy in ("local", "read-once"):
            begun = time.perf_counter()
            cost = plan.cost(processes=hosts, strategy=strategy)
            seconds = time.perf_counter() - begun
            print(f"{model.title}: {hosts} hosts, {strategy}: {seconds:.1f} s")
            most = max(cost.processes, key=lambda one: one.read_nbytes)
            rows.append(
                (
                    str(hosts),
                    strategy,
                    format_nbytes(most.read_nbytes),
                    format_nbytes(cost.read_nbytes),
                    f"{cost.over_read:.3f}",
                    format_nbytes(max(one.host_nbytes for one in cost.processes)),
                    format_nbytes(most.device_nbytes // DEVICES_PER_HOST),
                )
            )
    total = sum(math.prod(shape) for shape in model.shapes.values()) * 4
    head = (
        "hosts", "strategy", "read by one host", "read by all",
        "read / needed", "host memory", "on a device",
    )  # fmt: skip
    return [
        f"## {model.title}",
        "",
        f"{model.text} {format_nbytes(total)} in {len(model.shapes)} tensors.",
        "",
        f"| {' | '.join(head)} |",
        f"|{'---:|' * len(head)}",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]


def main() -> None:
    """Plans both models and writes the page."""
    lines = [
        "# Scaling",
        "",
        "What a restore costs on meshes of many hosts, of 8 devices each, as",
        "`plan.cost(processes=hosts, strategy=...)` counts it from the index alone",
        "(`python benchmarks/scaling.py` writes this page). No such mesh was there,",
        "and nothing was read: these are counts of bytes, not times.",
        "",
        '- "local": each host reads what its own devices need.',
        '- "read-once": each byte is read by one host; XLA passes on what others need.',
        '- "auto", the default, reads a leaf once where it has 1 MiB or more and hosts',
        "  would otherwise read each of its bytes twice or more.",
        "- read / needed: bytes read for each byte that the hosts' own parts are made",
        "  of; above 1 are gaps between short runs.",
        "- host memory: what reading holds at most, besides arrays that live on the",
        "  host, with the default `max_in_flight_bytes` of 1 GiB: larger leaves come",
        "  onto devices in portions.",
        "",
    ]
    for model in (embeddings(), transformer()):
        lines += table(model)
    (ROOT / "docs" / "scaling.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
