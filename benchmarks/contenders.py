"""Ways to get weights into JAX, each run in a process of its own.

    python -m benchmarks.contenders NAME

Reads requests from stdin, a line of JSON each: first the options, then
`{"action": ...}` for each run. Answers a line of JSON each.
"""

from __future__ import annotations

import concurrent.futures
import cProfile
import gc
import hashlib
import itertools
import json
import os
import pathlib
import pstats
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .holders import HOLDERS
from .measuring import (
    back_memory,
    faults_so_far,
    forget_peak,
    read_so_far,
    status_nbytes,
)

# Gives values by name; a run lasts until all of them are where they belong.
Run = Callable[[], Mapping[str, Any]]
CHUNK_NBYTES = 4 << 20


def tf2flax_restore(
    prefix: str, *, layout: str = "", verify: bool = True, **options: Any
) -> Run:
    """`init_from_checkpoint` from the path on, all that it does included."""
    import jax

    import tf2flax

    shapes = {n: t.shape for n, t in tf2flax.open_checkpoint(prefix).items()}
    target = _target(shapes, layout)
    restore = tf2flax.init_from_checkpoint  # imports all that restoring needs
    jax.devices()

    def run() -> Mapping[str, Any]:
        got = restore(prefix, {"/": "/"}, target, verify=verify, **options)
        return jax.block_until_ready(got)

    return run


def tf2flax_without_reading(prefix: str) -> Run:
    """The same, but that no byte is read and nothing is checked: all the rest."""
    from tf2flax._storage.local import LocalFile

    run = tf2flax_restore(prefix, verify=False)
    index = pathlib.Path(prefix).name + ".index"
    whole = LocalFile.read_into

    def read_into(self: LocalFile, start: int, buffer: memoryview, **more: Any) -> None:
        if self.path.endswith(index):
            whole(self, start, buffer, **more)

    LocalFile.read_into = read_into
    return run


def tensorflow_restore(prefix: str) -> Run:
    """TensorFlow's `get_tensor`, one by one, in the order of the file."""
    import jax
    import jax.numpy as jnp
    import tensorflow as tf

    jax.devices()

    def run() -> Mapping[str, Any]:
        reader = tf.train.load_checkpoint(prefix)
        names = sorted(reader.get_variable_to_shape_map())
        got = {name: jnp.asarray(reader.get_tensor(name)) for name in names}
        return jax.block_until_ready(got)

    return run


def safetensors_restore(path: str) -> Run:
    """`safetensors.flax.load_file`."""
    import jax
    from safetensors.flax import load_file

    return lambda: jax.block_until_ready(load_file(path))


def write_safetensors(prefix: str, path: str) -> Run:
    """Not measured: the same tensors as safetensors."""
    from safetensors.numpy import save_file

    import tf2flax

    def run() -> Mapping[str, Any]:
        save_file(tf2flax.open_checkpoint(prefix).read(), path)
        return {}

    return run


def orbax_restore(prefix: str, path: str, layout: str = "") -> Run:
    """Orbax's StandardCheckpointer, restoring what it wrote from the same arrays."""
    import jax
    import orbax.checkpoint as ocp
    from jax.sharding import SingleDeviceSharding

    import tf2flax

    shapes = {n: t.shape for n, t in tf2flax.open_checkpoint(prefix).items()}
    here = SingleDeviceSharding(jax.devices()[0])
    target = {
        _orbax_name(name): one if layout else one.update(sharding=here)
        for name, one in _target(shapes, layout).items()
    }
    checkpointer = ocp.StandardCheckpointer()

    def run() -> Mapping[str, Any]:
        got = jax.block_until_ready(checkpointer.restore(path, target))
        return {_name_of(name): array for name, array in got.items()}

    return run


def write_orbax(prefix: str, path: str, layout: str = "") -> Run:
    """Not measured: Orbax's own checkpoint of the same arrays, sharded as they are."""
    import orbax.checkpoint as ocp

    restore = tf2flax_restore(prefix, layout=layout)

    def run() -> Mapping[str, Any]:
        with ocp.StandardCheckpointer() as checkpointer:
            got = {_orbax_name(name): array for name, array in restore().items()}
            checkpointer.save(path, got)
        return {}

    return run


def raw_preadv(prefix: str, *, verify: bool = False, is_kept: bool = False) -> Run:
    """The bytes of each tensor into an aligned buffer, a thread for each processor.

    Opens nothing else and knows the places beforehand: the limit.
    """
    import tf2flax
    from tf2flax._base.memory import aligned_empty
    from tf2flax._formats.wire.coding import crc32c

    manifest = tf2flax.open_checkpoint(prefix).manifest
    pieces = [(n, piece) for n in manifest.names for piece in manifest.entry(n).pieces]
    pieces.sort(key=lambda one: one[1].span.start)
    path = pathlib.Path(f"{prefix}.data-00000-of-00001")
    dtype = np.dtype(np.uint8)

    def run() -> Mapping[str, Any]:
        buffers = {n: aligned_empty((p.span.nbytes,), dtype) for n, p in pieces}
        descriptor = os.open(path, os.O_RDONLY)

        def read(one: Any) -> None:
            name, piece = one
            buffer, crc = buffers[name].data, 0
            for start in range(0, piece.span.nbytes, CHUNK_NBYTES):
                chunk = buffer[start : start + CHUNK_NBYTES]
                os.preadv(descriptor, [chunk], piece.span.start + start)
                if verify:
                    crc = crc32c(chunk, crc)

        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(read, pieces))
        os.close(descriptor)
        return buffers

    return _keeping(run, is_kept)


def tf2flax_open(prefix: str) -> Run:
    """Names and shapes of all variables."""
    import tf2flax

    return lambda: dict(tf2flax.list_variables(prefix))


def tensorflow_open(prefix: str) -> Run:
    """The same from TensorFlow."""
    import tensorflow as tf

    return lambda: dict(tf.train.list_variables(prefix))


def tf2flax_read(prefix: str, *, is_kept: bool = False) -> Run:
    """All tensors as NumPy arrays."""
    import tf2flax

    open_checkpoint = tf2flax.open_checkpoint  # imports all that reading needs

    return _keeping(lambda: open_checkpoint(prefix).read(), is_kept)


def tensorflow_read(prefix: str, *, is_sorted: bool, is_kept: bool = False) -> Run:
    """All tensors by `get_tensor`, sorted or in the order of TensorFlow's own map."""
    import tensorflow as tf

    def run() -> Mapping[str, Any]:
        reader = tf.train.load_checkpoint(prefix)
        names = reader.get_variable_to_shape_map()
        order = sorted(names) if is_sorted else names
        return {name: reader.get_tensor(name) for name in order}

    return _keeping(run, is_kept)


def _keeping(run: Run, is_kept: bool) -> Run:
    """Holds the values of a run until the next one has ended, if that is wanted."""
    kept: list[Mapping[str, Any]] = []

    def run_and_keep() -> Mapping[str, Any]:
        result = run()
        kept[:] = [result] if is_kept else []
        return result

    return run_and_keep


def put_leaves(count: int, target: str) -> Run:
    """`jax.device_put` of host arrays of 8 bytes, as many as there are leaves."""
    import jax

    hosts = [np.full(2, i, np.float32) for i in range(count)]
    return lambda: dict(enumerate(jax.block_until_ready(jax.device_put(hosts))))


def tf2flax_leaves(prefix: str, count: int, target: str) -> Run:
    """Plan and restore of as many leaves, from the path on."""
    import jax

    import tf2flax

    assignment_map, leaves = _leaves(target, count)

    def run() -> Mapping[str, Any]:
        got = tf2flax.init_from_checkpoint(prefix, assignment_map, leaves())
        return dict(enumerate(jax.block_until_ready(jax.tree.leaves(got))))

    return run


def tf2flax_print(prefix: str, count: int, target: str) -> Run:
    """`str(plan)`, the first after the plan was made; `seconds` counts that alone."""
    import tf2flax

    assignment_map, leaves = _leaves(target, count)

    def run() -> Mapping[str, Any]:
        plan = tf2flax.plan(prefix, assignment_map, leaves())
        begun = time.perf_counter()
        text = str(plan)
        return {"seconds": time.perf_counter() - begun, "text": text}

    return run


def _leaves(target: str, count: int) -> tuple[Mapping[Any, str], Callable[[], Any]]:
    """A map for tiny tensors, and what makes the target that it fills."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    import tf2flax

    from .checkpoints import CELLS, tiny_names

    if target == "nnx":

        class Cell(nnx.Module):
            def __init__(self) -> None:
                self.w = nnx.Param(jnp.zeros(2))

        class Model(nnx.Module):
            def __init__(self) -> None:
                self.layers = nnx.List(
                    [nnx.List([Cell() for _ in range(CELLS)]) for _ in range(layers)]
                )

        layers = count // CELLS
        model = Model()
        return {"layer_{i}/cell_{j}/w": "layers/{i}/{j}/w"}, lambda: model
    if target == "scanned":  # the parameters as `nn.scan` over the layers has them
        stacked = tf2flax.stack(tf2flax.src("layer_{i}/cell_{j}/w"), over="i")
        leaf = jax.ShapeDtypeStruct((count // CELLS, 2), "float32")
        cells = {f"cell_{j}": {"w": leaf} for j in range(CELLS)}
        return {stacked: "params/cell_{j}/w"}, lambda: {"params": cells}
    leaf = jax.ShapeDtypeStruct((2,), "float32")
    return {"/": "/"}, lambda: dict.fromkeys(tiny_names(count), leaf)


def warm_start(prefix: str, *, width: int, layers: int, way: str) -> Run:
    """A model of dense layers, of which the checkpoint lacks the head."""
    import jax
    import jax.numpy as jnp

    import tf2flax

    model, inputs = _tower(width, layers), jnp.ones((1, width))
    assignment_map = {"tower/": "params/"}

    def run() -> Mapping[str, Any]:
        key = jax.random.key(0)
        if way == "warm_start":
            init = tf2flax.warm_start(
                model.init, prefix, assignment_map, on_missing="keep"
            )
            variables = init(key, inputs)
        else:
            initialise = jax.jit(model.init) if way == "jit" else model.init
            variables = initialise(key, inputs)
            variables = tf2flax.init_from_checkpoint(
                prefix, assignment_map, variables, on_missing="keep"
            )
        flat, _ = jax.tree.flatten_with_path(jax.block_until_ready(variables))
        return {jax.tree_util.keystr(path): leaf for path, leaf in flat}

    return run


def _tower(width: int, layers: int) -> Any:
    from flax import linen as nn

    class Tower(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            for i in range(layers):
                x = nn.relu(nn.Dense(width, name=f"layer_{i}")(x))
            return nn.Dense(1000, name="head")(x)

    return Tower()


def _target(shapes: Mapping[str, tuple[int, ...]], layout: str) -> dict[str, Any]:
    """Abstract leaves; a dimension that devices do not divide is not cut."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    if not layout:
        return {
            n: jax.ShapeDtypeStruct(shape, "float32") for n, shape in shapes.items()
        }
    count = len(jax.devices())
    sizes = (count // 2, 2) if layout == "2-D" else (count,)
    axes = ("a", "b")[: len(sizes)]
    kinds = (jax.sharding.AxisType.Auto,) * len(sizes)
    mesh = jax.make_mesh(sizes, axes, axis_types=kinds)
    wanted = {"rows": ("a",), "columns": (None, "a"), "2-D": ("a", "b")}.get(layout, ())

    def spec(shape: tuple[int, ...]) -> PartitionSpec:
        pairs = zip(shape, wanted, strict=False)
        cut = [a if a and not n % mesh.shape[a] else None for n, a in pairs]
        return PartitionSpec(*cut)

    return {
        name: jax.ShapeDtypeStruct(
            shape, "float32", sharding=NamedSharding(mesh, spec(shape))
        )
        for name, shape in shapes.items()
    }


def _orbax_name(name: str) -> str:
    """Orbax makes a path of a name."""
    return name.replace("/", "|")


def _name_of(orbax_name: str) -> str:
    return orbax_name.replace("|", "/")


CONTENDERS: Mapping[str, Callable[..., Run]] = {
    "tf2flax": tf2flax_restore,
    "tf2flax without reading": tf2flax_without_reading,
    "TensorFlow": tensorflow_restore,
    "safetensors": safetensors_restore,
    "safetensors write": write_safetensors,
    "Orbax": orbax_restore,
    "Orbax write": write_orbax,
    "raw preadv": raw_preadv,
    "tf2flax open": tf2flax_open,
    "TensorFlow open": tensorflow_open,
    "tf2flax read": tf2flax_read,
    "TensorFlow read": tensorflow_read,
    "jax.device_put": put_leaves,
    "tf2flax leaves": tf2flax_leaves,
    "tf2flax print": tf2flax_print,
    "warm_start": warm_start,
    **HOLDERS,
}


def measured(run: Run, action: str, backed_nbytes: int = 0) -> dict[str, Any]:
    """Runs once; see `Worker.run`."""
    gc.collect()
    back_memory(backed_nbytes)
    held, read, faults = status_nbytes("VmRSS"), read_so_far(), faults_so_far()
    forget_peak()
    profiler = cProfile.Profile() if action == "profile" else None
    if profiler is not None:
        profiler.enable()
    begun = time.perf_counter()
    result = run()
    seconds = result.get("seconds", time.perf_counter() - begun)
    if profiler is not None:
        profiler.disable()
    answer: dict[str, Any] = {
        "seconds": seconds,
        "peak_nbytes": status_nbytes("VmHWM") - held,
        "read_nbytes": read_so_far() - read,
        "faults": faults_so_far() - faults,
        "count": len(result),
        "result_nbytes": sum(getattr(value, "nbytes", 0) for value in result.values()),
    }
    if action == "digest":
        answer["digest"] = digest(result)
    if profiler is not None:
        answer["profile"] = by_file(profiler)
    return answer


def digest(values: Mapping[str, Any]) -> str:
    """One for the names and bytes of all values."""
    found = hashlib.sha256()
    for name in sorted(values):
        found.update(name.encode())
        found.update(np.ascontiguousarray(values[name]).tobytes())
    return found.hexdigest()


def by_file(profiler: cProfile.Profile) -> list[tuple[str, float]]:
    """Share of the time in the functions of each source file, the largest first."""
    seconds: dict[str, float] = {}
    for (file, _, name), entry in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        path = pathlib.PurePath(file)
        parts = path.parts
        where = name if file == "~" else path.name
        for package in ("tf2flax", "jax", "flax", "numpy"):
            if package in parts:
                first = len(parts) - 1 - parts[::-1].index(package)
                whole = package == "tf2flax"
                where = "/".join(parts[first:]) if whole else package
                break
        seconds[where] = seconds.get(where, 0) + entry[2]
    total = sum(seconds.values())
    ranked = sorted(seconds.items(), key=lambda one: -one[1])
    return [(where, spent / total) for where, spent in itertools.islice(ranked, 12)]


def main() -> None:
    """Answers requests until there are none."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    run = CONTENDERS[sys.argv[1]](**json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        answer = measured(run, **json.loads(line))
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
