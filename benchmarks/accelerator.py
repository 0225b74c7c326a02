"""Checks restores on whatever device JAX has; takes minutes on one GPU.

    python -m benchmarks.accelerator [--output FILE] [--small] [--scratch FOLDER]

Prints a table, and exits with 1 where a check fails. On an accelerator the table
becomes the section "Accelerators" of docs/benchmarks.md, or of the page that `--output`
names.
What needs an accelerator is skipped on CPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import gc
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .measuring import forget_peak, status_nbytes, versions
from .processes import ROOT
from .report import Section, Table, update_page

MB = 10**6
TITLE = "Accelerators"
NONE_YET = (
    "Not measured on an accelerator yet: none was at hand. `python -m "
    "benchmarks.accelerator` checks values, memory kinds, portions, overlap and peak "
    "host memory on the device that JAX has, in minutes, and writes its result here."
)
# What a restore may hold on the host besides what it has in flight, and a save at all.
SPARE = 64 * MB
SAVE_GOAL = 256 * MB
# The most of the time of reading and transferring one after the other.
OVERLAP_GOAL = 0.9
ROUNDS = 3
COLUMNS = 1024
OK, FAILED, SKIPPED = "ok", "**failed**", "skipped"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Bytes of what is restored."""

    many: int = 1024 * MB  # in `count` tensors
    count: int = 16
    leaf: int = 512 * MB  # in one
    in_flight: int = 64 * MB


SMALL = Sizes(many=4 * MB, count=4, leaf=4 * MB, in_flight=1 * MB)


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a check found."""

    what: str
    result: str
    detail: str = ""


def judged(what: str, is_right: bool, detail: str = "") -> Finding:
    """A finding that is right, or not."""
    return Finding(what, OK if is_right else FAILED, detail)


def findings(folder: pathlib.Path, sizes: Sizes) -> Iterator[Finding]:
    """Makes all checks, one after the other; one that raises has failed."""
    allow_wide_dtypes()
    checks: list[Callable[[pathlib.Path, Sizes], Iterator[Finding]]] = [
        check_dtypes, check_memory_kinds, check_portions, check_many, check_saving,
    ]  # fmt: skip
    for check in checks:
        try:
            yield from check(folder, sizes)
        except Exception as error:  # the other checks still say something
            text = str(error).partition("\n")[0]
            yield Finding(check.__name__, FAILED, f"{type(error).__name__}: {text}")


def allow_wide_dtypes() -> None:
    """Makes JAX hold dtypes of 64 bits, too."""
    import jax

    jax.config.update("jax_enable_x64", True)


def check_dtypes(folder: pathlib.Path, _: Sizes) -> Iterator[Finding]:
    """Every dtype that the device holds, bit for bit as NumPy reads it."""
    import jax

    from tf2flax._base.values import DTYPES_BY_NUMPY

    for dtype in DTYPES_BY_NUMPY:
        array = random_bits(dtype)
        what = f"values of {dtype}"
        try:
            is_held = same_bits(np.asarray(jax.device_put(array)), array)
        except Exception as error:
            yield Finding(what, SKIPPED, f"JAX: {type(error).__name__}")
            continue
        if not is_held:
            yield Finding(what, SKIPPED, "jax.device_put itself changes bits")
            continue
        prefix, got = restored(folder / f"{dtype}.ckpt", {"t": array})
        yield judged(what, same_bits(np.asarray(got["t"]), read(prefix)["t"]))


def check_memory_kinds(folder: pathlib.Path, _: Sizes) -> Iterator[Finding]:
    """Leaves in each kind of memory that the device offers."""
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    device = jax.devices()[0]
    kinds = [memory.kind for memory in device.addressable_memories()]
    mesh = Mesh(np.array([device]), ("d",))
    array = random_bits(np.dtype(np.float32), (512, COLUMNS))
    if "pinned_host" not in kinds:
        yield Finding("memory kind pinned_host", SKIPPED, "the device lacks it")
    for kind in kinds:
        sharding = NamedSharding(mesh, PartitionSpec(), memory_kind=kind)
        _, got = restored(folder / f"{kind}.ckpt", {"t": array}, sharding=sharding)
        is_right = got["t"].sharding.memory_kind == kind
        is_right = is_right and same_bits(np.asarray(got["t"]), array)
        yield judged(f"memory kind {kind}", is_right)


def check_portions(folder: pathlib.Path, sizes: Sizes) -> Iterator[Finding]:
    """A leaf that is larger than what may be in flight."""
    what = f"a leaf of {sizes.leaf // MB} MB, {sizes.in_flight // MB} MB in flight"
    array = random_bits(np.dtype(np.float32), (sizes.leaf // (4 * COLUMNS), COLUMNS))
    prefix = save(folder / "leaf.ckpt", {"t": array})
    if not on_accelerator():
        yield Finding(f"{what}, in portions", SKIPPED, "on CPU it comes whole")
    got = restore(prefix, max_in_flight_bytes=sizes.in_flight)
    yield judged(f"{what}: values", same_bits(np.asarray(got["t"]), array))
    del got  # what JAX has compiled and allocated for it stays
    peak = peak_of(lambda: restore(prefix, max_in_flight_bytes=sizes.in_flight))
    yield judged_peak(f"{what}: peak of the host", peak, sizes.in_flight + SPARE)


def check_many(folder: pathlib.Path, sizes: Sizes) -> Iterator[Finding]:
    """Reading and transferring overlap, and the host holds what is in flight."""
    import jax

    rows = sizes.many // sizes.count // (4 * COLUMNS)
    arrays = {
        f"t{i}": random_bits(np.dtype(np.float32), (rows, COLUMNS), seed=i)
        for i in range(sizes.count)
    }
    prefix = save(folder / "many.ckpt", arrays)
    what = f"{sizes.many // MB} MB in {sizes.count} tensors"
    restored_s = seconds(lambda: restore(prefix))
    read_s = seconds(lambda: read(prefix))
    put_s = seconds(lambda: jax.block_until_ready(jax.device_put(arrays)))
    got = restore(prefix)
    is_same = all(same_bits(np.asarray(got[name]), arrays[name]) for name in arrays)
    yield judged(f"{what}: values", is_same)
    del got
    share = restored_s / (read_s + put_s)
    detail = (
        f"restore {restored_s:.3f} s, reading {read_s:.3f} s + transferring "
        f"{put_s:.3f} s: {share:.2f} of the sum, wanted ≤ {OVERLAP_GOAL}"
    )
    if sizes != Sizes():
        yield Finding(f"{what}: overlap", SKIPPED, f"too small to tell: {detail}")
    elif on_accelerator():
        yield judged(f"{what}: overlap", share <= OVERLAP_GOAL, detail)
    else:
        yield Finding(f"{what}: overlap", SKIPPED, f"CPU: {detail}")
    in_flight = 2 * sizes.in_flight
    peak = peak_of(lambda: restore(prefix, max_in_flight_bytes=in_flight))
    what = f"{what}, {in_flight // MB} MB in flight: peak of the host"
    yield judged_peak(what, peak, in_flight + SPARE)


def check_saving(folder: pathlib.Path, sizes: Sizes) -> Iterator[Finding]:
    """A stacked leaf is written layer by layer, and a large one block by block."""
    import tf2flax

    prefix = str(folder / "many.ckpt")
    stacked = tf2flax.stack(tf2flax.src("t{i}"), over="i")
    shape = (sizes.count, *tf2flax.open_checkpoint(prefix)["t0"].shape)
    target = {"w": np.broadcast_to(np.float32(0), shape)}
    plan = tf2flax.plan(prefix, {stacked: "w"}, on_device(target))
    tree = plan.restore()
    out = str(folder / "out.ckpt")
    ways: dict[str, Callable[[], str]] = {
        "stacked layers by their plan": lambda: tf2flax.save_checkpoint(
            out, tree, plan=plan, overwrite=True
        ),
        "one leaf": lambda: tf2flax.save_checkpoint(out, tree, overwrite=True),
    }
    want = read(prefix)
    for name, way in ways.items():
        way()  # once before it is measured
        peak = peak_of(way)
        got = read(out)
        values = got if len(got) > 1 else {f"t{i}": t for i, t in enumerate(got["w"])}
        what = f"save of {sizes.many // MB} MB, {name}"
        is_same = all(same_bits(values[key], want[key]) for key in want)
        yield judged(f"{what}: values", is_same)
        yield judged_peak(f"{what}: peak of the host", peak, SAVE_GOAL)


def random_bits(
    dtype: np.dtype, shape: tuple[int, ...] = (33, 7), seed: int = 0
) -> np.ndarray:
    """An array of a dtype in which any bits stand: NaN and subnormal numbers, too."""
    rng = np.random.default_rng(seed)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    name = dtype.name.lstrip("u")
    if name in ("int2", "int4", "float4_e2m1fn"):  # narrower than a byte
        low, high = (0, 4) if "int2" in name else (0, 8)
        if not dtype.name.startswith(("u", "float")):
            low, high = -high // 2, high // 2
        return rng.integers(low, high, shape).astype(np.int8).astype(dtype)
    count = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(rng.bytes(count), dtype).reshape(shape)


def same_bits(first: np.ndarray, second: np.ndarray) -> bool:
    """Tells whether two arrays have one dtype, one shape, and the same bits."""
    alike = first.dtype == second.dtype and first.shape == second.shape
    return alike and first.tobytes() == second.tobytes()


def on_accelerator() -> bool:
    """Whether JAX's default device is no CPU."""
    import jax

    return jax.devices()[0].platform != "cpu"


def on_device(target: Any) -> Any:
    """Shapes and dtypes of a tree, for JAX's default device."""
    import jax

    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), target)


def save(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> str:
    """Writes a checkpoint."""
    import tf2flax

    return tf2flax.save_checkpoint(path, arrays)


def read(prefix: str) -> dict[str, np.ndarray]:
    """Reads a checkpoint into NumPy arrays."""
    import tf2flax

    return tf2flax.open_checkpoint(prefix).read()


def restore(prefix: str, **options: Any) -> dict[str, Any]:
    """Restores all tensors, and waits for them."""
    import jax

    import tf2flax

    checkpoint = tf2flax.open_checkpoint(prefix)
    target = {
        name: jax.ShapeDtypeStruct(tensor.shape, tensor.dtype)
        for name, tensor in checkpoint.items()
    }
    got = tf2flax.init_from_checkpoint(checkpoint, {"/": "/"}, target, **options)
    return jax.block_until_ready(got)


def restored(
    path: pathlib.Path, arrays: dict[str, np.ndarray], **options: Any
) -> tuple[str, dict[str, Any]]:
    """Writes arrays, and restores them."""
    prefix = save(path, arrays)
    return prefix, restore(prefix, **options)


def seconds(run: Callable[[], object]) -> float:
    """The median time of a few runs, after one that is not measured."""
    run()
    found: list[float] = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        run()
        found.append(time.perf_counter() - begun)
    return statistics.median(found)


def peak_of(run: Callable[[], Any]) -> int:
    """Runs once; the peak of the host over what it held before, and over the result.

    Only on CPU the result is on the host.
    """
    gc.collect()
    held = status_nbytes("VmRSS")
    forget_peak()
    result = run()
    peak = status_nbytes("VmHWM") - held
    if isinstance(result, dict) and not on_accelerator():
        peak -= sum(value.nbytes for value in result.values())
    return max(peak, 0)  # memory that was freed before, and not given back, is in use


def judged_peak(what: str, peak: int, most: int) -> Finding:
    """A finding about memory."""
    return judged(what, peak <= most, f"{peak / MB:.0f} MB, wanted ≤ {most // MB}")


def section_of(found: list[Finding], took: float) -> Section:
    """The section of the page."""
    import jax

    device = jax.devices()[0]
    text = (
        f"Checked on {datetime.date.today()} in {took:.0f} s: {device.device_kind} "
        f"({device.platform}); {', '.join(versions())}."
    )
    if not on_accelerator():
        text += " " + NONE_YET + " This is a CPU: what needs an accelerator is skipped."
    rows = [(one.what, one.result, one.detail) for one in found]
    return Section(TITLE, text, [Table(("check", "result", "measured"), rows)])


def kept_section(page: pathlib.Path) -> list[str]:
    """The section of a page that is there, line by line; or that there is none yet."""
    text = page.read_text() if page.is_file() else ""
    _, found, after = text.partition(f"\n## {TITLE}\n")
    body = after.partition("\n## ")[0].strip() if found else NONE_YET
    return [f"## {TITLE}", "", body, ""]


def main(arguments: list[str] | None = None) -> int:
    """Makes the checks; returns 1 where one fails."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accelerator", description=__doc__
    )
    parser.add_argument("--output", type=pathlib.Path, help="a page to write to")
    parser.add_argument("--small", action="store_true", help="does it run?")
    parser.add_argument("--scratch", help="where checkpoints of 2 GB can lie")
    options = parser.parse_args(arguments)
    begun = time.perf_counter()
    found: list[Finding] = []
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        sizes = SMALL if options.small else Sizes()
        for finding in findings(pathlib.Path(folder), sizes):
            print(f"{finding.result:10} {finding.what}  {finding.detail}", flush=True)
            found.append(finding)
    section = section_of(found, time.perf_counter() - begun)
    print("\n".join(section.lines("")))
    page = options.output
    if page is None and on_accelerator() and not options.small:
        page = ROOT / "docs" / "benchmarks.md"
    if page is not None:
        text = page.read_text() if page.is_file() else "# Benchmarks\n"
        page.write_text(update_page(text, [section], "", ""))
        print(f"wrote {page}")
    return int(any(finding.result == FAILED for finding in found))


if __name__ == "__main__":
    sys.exit(main())
