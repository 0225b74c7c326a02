"""One of several processes that save together, for test_saving_together.py.

Each prints what it found as one line of JSON.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
import warnings
from collections.abc import Callable
from typing import Any

import jax
import ml_dtypes
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import tf2flax
from tf2flax._base.values import Box
from tf2flax._jax import agreement
from tf2flax._storage import requests
from tf2flax._writing import sharded, together

P = PartitionSpec
PROCESSES = int(sys.argv[2])
SPECS = {
    "rows": P(("d", "m")),
    "half_rows": P("d"),
    "columns": P(None, "m"),
    "both": P("d", "m"),
    "replicated": P(),
}
ARRAY = np.arange(16 * 8, dtype=np.float32).reshape(16, 8)


def main(process: int, port: str, folder: str, url: str) -> None:
    start(process, port)
    os.environ["TENSORSTORE_GCS_HTTP_URL"] = url
    os.environ["GCE_METADATA_ROOT"] = "127.0.0.1:9"  # no credentials there
    retries = {"max_retries": 3, "initial_delay": "10ms", "max_delay": "20ms"}
    requests._DEFAULT_CONTEXT = {"gcs_request_retries": retries}
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("d", "m"))
    found: dict[str, Any] = {"process": process}
    found["fetched"] = save_everything(f"{folder}/all/m", mesh)
    found["few"] = save_everything(f"{folder}/few/m", mesh, ["replicated"])
    # Who has no elements writes an empty file.
    sizes = [
        path.stat().st_size
        for path in sorted(pathlib.Path(folder, "few").glob("*data*"))
    ]
    assert sizes == [ARRAY.nbytes] + [0] * (PROCESSES - 1), sizes
    found["errors"] = failures(process, folder, mesh)
    found["refusals"] = save_by_plan(folder, mesh)
    found["store"] = save_everything("gs://bucket/run/m", mesh)
    restore("gs://bucket/run/m", mesh)
    # Its objects have names that no old one has: one more of them, which is empty.
    tf2flax.save_checkpoint("gs://bucket/run/m", tree_on(mesh), overwrite=True)
    again = tf2flax.open_checkpoint("gs://bucket/run/m")
    assert np.array_equal(again["params/rows"].read(), ARRAY)
    multihost_utils.sync_global_devices("the end")
    print(json.dumps(found))


def start(process: int, port: str) -> None:
    """Makes this process one of the job."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8 // PROCESSES)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        f"127.0.0.1:{port}", PROCESSES, process, heartbeat_timeout_seconds=600
    )


def spread(array: np.ndarray, mesh: Mesh, spec: PartitionSpec) -> jax.Array:
    """Puts an array on a mesh, each process its own shards."""
    return jax.make_array_from_callback(
        array.shape, NamedSharding(mesh, spec), lambda index: array[index]
    )


def values(names: list[str] | None = None) -> dict[str, np.ndarray]:
    """What is saved of each sharding, by name."""
    return {name: ARRAY + i for i, name in enumerate(SPECS) if name in (names or SPECS)}


def tree_on(mesh: Mesh, names: list[str] | None = None) -> dict[str, Any]:
    tree: dict[str, Any] = {
        name: spread(array, mesh, SPECS[name]) for name, array in values(names).items()
    }
    if names is None:
        narrow = ARRAY.astype(ml_dtypes.bfloat16)
        # Its parts are sharded themselves, along the other axis.
        tree["family"] = {
            f"part_{i}": spread(ARRAY[:, part], mesh, P("d"))
            for i, part in enumerate((slice(0, 3), slice(3, 8)))
        }
        tree |= {
            "narrow": spread(narrow, mesh, P("d")),
            "none": spread(ARRAY[:0], mesh, P(None, "m")),
            "scalar": spread(np.float32(7), mesh, P()),
            "host": np.arange(3),
            "local": jax.numpy.ones(2),
            "text": "both have it",
            "step": 3,
        }
    return {"params": tree}


def save_everything(prefix: str, mesh: Mesh, names: list[str] | None = None) -> int:
    """Saves arrays of every kind; returns how many bytes of shards this one fetched."""
    fetched: list[int] = []
    exchanged: list[int] = []
    fetch_part, exchange_rows = sharded.fetch_part, agreement.exchange_rows

    def counted(shard: Any, box: Box) -> np.ndarray:
        array = fetch_part(shard, box)
        fetched.append(array.nbytes)
        return array

    def weighed(participants: Any, row: np.ndarray) -> dict[int, np.ndarray]:
        exchanged.append(row.nbytes)
        return exchange_rows(participants, row)

    sharded.fetch_part = counted
    agreement.exchange_rows = together.exchange_rows = weighed
    try:
        assert tf2flax.save_checkpoint(prefix, tree_on(mesh, names)) == prefix
    finally:
        sharded.fetch_part = fetch_part
        agreement.exchange_rows = together.exchange_rows = exchange_rows
    # Nothing is gathered: only messages go to and fro, and checksums of slices.
    assert max(exchanged) == 2048
    assert min(exchanged) <= 4 * 50
    got = tf2flax.open_checkpoint(prefix)
    assert got.verify().ok
    for name, array in values(names).items():
        assert np.array_equal(got[f"params/{name}"].read(), array), name
    return sum(fetched)


def restore(prefix: str, mesh: Mesh) -> None:
    """Restores what was saved onto other shardings."""
    for name, array in values(["rows", "columns"]).items():
        for spec in (P(), P("m", "d")):
            sharding = NamedSharding(mesh, spec)
            leaf = jax.ShapeDtypeStruct(array.shape, "float32", sharding=sharding)
            got = tf2flax.init_from_checkpoint(
                prefix, {f"params/{name}": "x"}, {"x": leaf}
            )["x"]
            for shard in got.addressable_shards:
                assert np.array_equal(shard.data, array[shard.index]), (name, spec)


def failures(process: int, folder: str, mesh: Mesh) -> dict[str, str]:
    """Saves that fail in the last process, or in the first; what each is told."""
    is_last = process == PROCESSES - 1
    names = ["rows", "columns"]
    tree = tree_on(mesh, names)
    errors: dict[str, str] = {}

    def expect(case: str, save: Callable[[], object]) -> None:
        try:
            save()
        except tf2flax.CheckpointError as error:
            errors[case] = f"{type(error).__name__}: {error}"

    def save(name: str, saved: Any = tree, **options: Any) -> Callable[[], object]:
        return lambda: tf2flax.save_checkpoint(f"{folder}/{name}", saved, **options)

    gone = jax.numpy.ones(2)
    gone.delete()
    expect("a leaf is gone", save("bad/m", tree | ({"gone": gone} if is_last else {})))
    expect("other trees", save("bad/m", tree | ({"more": 1} if is_last else {})))
    expect("other options", save("bad/m", data_files=2 if is_last else 1))
    expect("another prefix", save("bad/n" if is_last else "bad/m"))
    # Each process has a memory of its own.
    expect("another place", lambda: tf2flax.save_checkpoint("memory://m", tree))
    store = "gs://bucket/refused/m"
    expect("the store refuses", lambda: tf2flax.save_checkpoint(store, tree))
    expect("it exists", save("all/m"))
    write = os.write

    def full(descriptor: int, buffer: Any) -> int:
        if is_last and len(buffer) > 16:  # not of a pipe
            raise OSError(28, "No space left on device")
        return write(descriptor, buffer)

    os.write = full
    expect("no space", save("bad/deep/m"))
    expect("no space, and one is there", save("few/m", overwrite=True))
    os.write = write
    replace = os.replace

    def refuse(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    os.replace = refuse
    expect("no renaming", save("bad/m"))
    os.replace = replace
    if process == 0:
        left = sorted(str(path) for path in pathlib.Path(folder, "bad").rglob("*"))
        assert not left, left
    # What was there is still there, and is replaced, also by another number of files.
    few = tf2flax.open_checkpoint(f"{folder}/few/m")
    assert list(few) == ["params/replicated"]
    multihost_utils.sync_global_devices("looked at it")
    save("few/m", data_files=2, overwrite=True)()
    assert len(tf2flax.open_checkpoint(f"{folder}/few/m")) == len(names)
    multihost_utils.sync_global_devices("looked at it again")
    # A tree without such arrays is that of one process alone.
    if process == 0:
        save("alone/m", {"a": np.ones(2)})()
    return errors


def save_by_plan(folder: str, mesh: Mesh) -> list[str]:
    """Restores onto the mesh, and saves back by the plan; returns what it refuses."""
    key = tf2flax.src("kernel")
    heads = key.rearrange("d (h k) -> h d k", h=4)
    entries = [
        (tf2flax.stack("layer_{i}/w", over="i", axis=0), "layers"),
        (key.transpose(), "kernel"),
        ("narrow", "narrow"),
        ("table", "table"),
        ("bias", "bias"),
    ]
    specs = {
        "layers": P("m", "d"), "kernel": P("m", "d"), "narrow": P("d"),
        "table": P(None, ("d", "m")), "bias": P(),
    }  # fmt: skip
    source = tf2flax.open_checkpoint(f"{folder}/source/m")
    before = source.read()

    def leaf(name: str, shape: tuple[int, ...], dtype: str = "float32") -> Any:
        sharding = NamedSharding(mesh, specs[name])
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    target = {
        "layers": leaf("layers", (4, 4, 6)), "kernel": leaf("kernel", (16, 8)),
        "narrow": leaf("narrow", (4, 3), "bfloat16"), "table": leaf("table", (4, 8)),
        "bias": leaf("bias", (5,)),
    }  # fmt: skip
    plan = tf2flax.plan(source, entries, target)
    tree = plan.restore()
    saved = tf2flax.save_checkpoint(f"{folder}/back/m", tree, plan=plan)
    got = tf2flax.open_checkpoint(saved)
    assert got.verify().ok
    # Bit by bit, also what lost digits on the way; and what was only copied.
    for name, array in before.items():
        assert got[name].read().tobytes() == array.tobytes(), name
    assert len(got["kernel"].slices) == 8
    assert len(got["layer_0/w"].slices) == 2
    # Over the source, after a change.
    multihost_utils.sync_global_devices("compared")
    double = jax.jit(lambda array: 2 * array, out_shardings=tree["kernel"].sharding)
    tree["kernel"] = double(tree["kernel"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        saved = tf2flax.save_checkpoint(
            f"{folder}/source/m", tree, plan=plan, overwrite=True
        )
    assert "kernel/Adam" in str(caught[0].message)
    got = tf2flax.open_checkpoint(saved)
    assert np.array_equal(got["kernel"].read(), 2 * before["kernel"])
    assert np.array_equal(got["kernel/Adam"].read(), before["kernel/Adam"])
    assert got["narrow"].read().tobytes() == before["narrow"].tobytes()
    multihost_utils.sync_global_devices("compared again")
    grow(folder, mesh)
    refusals: list[str] = []
    odd, rows = P(None, None, "d"), P("d")
    cases: list[tuple[Any, tuple[int, ...], PartitionSpec]] = [
        ({heads: "odd"}, (4, 8, 4), odd),  # heads cut in the middle
        ({key[:, ::2].reshape(1, 8, 8): "odd"}, (1, 8, 8), odd),  # every second column
        ({key[:4]: "odd"}, (4, 16), rows),  # half of the tensor
        ([(key, "odd"), (key, "even")], (8, 16), rows),  # twice
    ]
    for entries, shape, spec in cases:
        sharding = NamedSharding(mesh, spec)
        leaf = jax.ShapeDtypeStruct(shape, "float32", sharding=sharding)
        names = ("odd", "even") if isinstance(entries, list) else ("odd",)
        target = dict.fromkeys(names, leaf)
        plan = tf2flax.plan(f"{folder}/source/m", entries, target)
        try:
            tf2flax.save_checkpoint(f"{folder}/bad/m", plan.restore(), plan=plan)
        except tf2flax.CheckpointError as error:
            refusals.append(f"{type(error).__name__}: {error}")
    return refusals


def grow(folder: str, mesh: Mesh) -> None:
    """Saves leaves that have grown: in the tensor's dtype, with its own bits."""
    narrow = tf2flax.src("narrow")
    own = spread(np.full((8, 3), 2, ml_dtypes.bfloat16), mesh, P("d"))
    before = tf2flax.load_variable(f"{folder}/source/m", "narrow")
    for operand, new in ((narrow, 2.0), (narrow * 4.0, 0.5)):
        key = operand.pad(((0, 4), (0, 0)), fill="keep")
        plan = tf2flax.plan(f"{folder}/source/m", {key: "x"}, {"x": own})
        saved = tf2flax.save_checkpoint(
            f"{folder}/grown/m", plan.restore(), plan=plan, overwrite=True
        )
        got = tf2flax.open_checkpoint(saved)["narrow"]
        assert got.read()[:4].tobytes() == before.tobytes()
        assert np.array_equal(got.read()[4:], np.full((4, 3), new, "f4"))
        assert len(got.slices) == 2
        multihost_utils.sync_global_devices("looked at what has grown")


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[3:])
