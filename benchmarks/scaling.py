"""Writes docs/scaling.md: what restores cost on meshes that do not exist here.

Imagined checkpoints are planned on 1 to 256 hosts of 8 devices each, for both
strategies. Nothing is read: an index is all that a plan needs.

    python benchmarks/scaling.py
"""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

import tf2flax
from tf2flax._assignment.plans.report import format_nbytes
from tf2flax._base.manifest import Manifest, Piece, TensorEntry
from tf2flax._base.values import STORED_DTYPES, Box, ByteRange, TensorSpec
from tf2flax._jax.box_classes import LeafPlace, read_bounds
from tf2flax._jax.meshes import boxes_of, split_devices
from tf2flax._jax.options import Strategy
from tf2flax._jax.read_once import choose_read_shardings
from tf2flax._restoring.plan_reads import plan_reads
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


def many_tensors() -> Model:
    """As many tensors as a checkpoint of many small layers has."""
    shapes = {f"layer_{i:05d}/w": (64, 64) for i in range(50_000)}
    shapes |= {f"layer_{i:05d}/b": (64,) for i in range(50_000)}
    return Model(
        "100,000 tensors",
        "50,000 kernels of 64 x 64 and their biases, sharded by rows over the eight "
        "chips of a host, and replicated over hosts.",
        shapes,
        {},
        tf2flax.partition_rules([("", P("chips"))]),
    )


def plan_of(model: Model, hosts: int) -> tuple[tf2flax.Plan, ImaginedManifest]:
    """Plans a model on a mesh that does not exist."""
    manifest = ImaginedManifest(model.shapes, model.slices)
    target = {n: jax.ShapeDtypeStruct(s, "float32") for n, s in model.shapes.items()}
    plan = tf2flax.plan(
        tf2flax.Checkpoint(manifest),
        {"/": "/"},
        target,
        sharding=model.sharding,
        mesh=AbstractMesh((hosts, DEVICES_PER_HOST), ("hosts", "chips")),
    )
    return plan, manifest


def plan_own_reads(
    plan: tf2flax.Plan, manifest: Manifest, hosts: int, strategy: Strategy
) -> None:
    """Plans what one of the processes reads, as each does before it restores."""
    shardings = plan.shardings
    split = split_devices(shardings.values(), hosts)
    chosen = choose_read_shardings(
        plan.assignments, shardings, manifest, strategy, split
    )
    boxes_of_place: dict[LeafPlace, tuple[Box, ...]] = {}
    boxes: dict[str, tuple[Box, ...]] = {}
    for assignment in plan.assignments:
        leaf = assignment.leaf
        place = LeafPlace(assignment.shape, shardings[leaf], chosen.get(leaf))
        if place not in boxes_of_place:
            boxes_of_place[place] = boxes_of(read_bounds(place, split)[hosts - 1])
        boxes[leaf] = boxes_of_place[place]
    plan_reads(plan.assignments, boxes, manifest)


def planning_row(model: Model, hosts: int, rounds: int = 3) -> Sequence[str]:
    """Seconds of processor time that planning takes; the least of some rounds."""
    seconds: dict[str, list[float]] = {}

    def timed(name: str, function: Callable[[], Any]) -> Any:
        begun = time.process_time()
        result = function()
        seconds.setdefault(name, []).append(time.process_time() - begun)
        return result

    strategies: tuple[Strategy, ...] = ("local", "read-once", "auto")
    for _ in range(rounds):
        plan, manifest = timed("plan", lambda: plan_of(model, hosts))
        for strategy in strategies:
            cost = functools.partial(plan.cost, hosts, strategy=strategy)
            timed(f"cost: {strategy}", cost)
    for _ in range(rounds):
        for strategy in strategies:
            own = functools.partial(plan_own_reads, plan, manifest, hosts, strategy)
            timed(f"own reads: {strategy}", own)
    row = [model.title, str(hosts), *(f"{min(s):.2f}" for s in seconds.values())]
    print(" | ".join(row), flush=True)
    return row


def table(model: Model) -> list[str]:
    """What the model costs on each number of hosts."""
    rows: list[Sequence[str]] = []
    for hosts in HOSTS:
        plan, _ = plan_of(model, hosts)
        for strategy in ("local", "read-once"):
            cost = plan.cost(processes=hosts, strategy=strategy)
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


def planning() -> list[str]:
    """How long planning takes."""
    rows = [
        planning_row(embeddings(), 256),
        planning_row(transformer(), 256),
        planning_row(many_tensors(), 64, rounds=1),
    ]
    head = (
        "", "hosts", "plan", "cost: local", "read-once", "auto",
        "own reads: local", "read-once", "auto",
    )  # fmt: skip
    return [
        "## Planning itself",
        "",
        "Seconds of processor time, one thread of Python, the least of three (of "
        "100,000 tensors, once): "
        "`tf2flax.plan`, `plan.cost(processes=hosts)`, and what each process plans "
        "for itself before it reads. Leaves that are alike but for their names, and "
        "processes whose boxes differ in their place alone, are counted once "
        "(`_restoring/clusters.py`, `_jax/box_classes.py`); `tests/jax/test_costs.py` "
        "compares with planning each leaf of each process. The times are of "
        "`planning_row` in `benchmarks/scaling.py`.",
        "",
        f"| {' | '.join(head)} |",
        f"|---|{'---:|' * (len(head) - 1)}",
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
    lines += planning()
    (ROOT / "docs" / "scaling.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
