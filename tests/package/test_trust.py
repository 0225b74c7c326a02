"""The promises of docs/trust.md that no other file holds."""

from __future__ import annotations

import ast
import json
import pathlib
import re
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest
import v1_writer as v1
from bundle_writer import entry_bytes, header_bytes, table_bytes, write_bundle
from repository import ROOT
from sources import Source, package_sources, parse

import tf2flax

# What runs code that it is given, or what a file says should be loaded.
EXECUTES = {
    "eval", "exec", "compile", "__import__", "pickle", "marshal", "shelve", "dill",
    "cloudpickle", "joblib", "yaml", "runpy", "ctypes", "subprocess", "import_module",
}  # fmt: skip
# Public names, and commands, are imported by names that stand in the source.
ALLOWED = {
    ("__init__.py", "import_module"): 1,
    ("_formats/keras/hdf5_dataset.py", "import_module"): 1,
    ("_cli/commands.py", "import_module"): 1,
    # `--target module:attribute`, which stands on the command line.
    ("_cli/targets.py", "import_module"): 1,
}


def executed_in(source: Source) -> list[str]:
    found: list[str] = []
    for node in source.nodes:
        if isinstance(node, ast.Call):
            function = node.func
            name = getattr(function, "id", getattr(function, "attr", ""))
            is_method = isinstance(function, ast.Attribute)
            # `re.compile` is no `compile`.
            if name in EXECUTES and not (is_method and name == "compile"):
                found.append(name)
        elif isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in EXECUTES]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module] * (node.module.split(".")[0] in EXECUTES)
    return found


def test_nothing_executes_what_a_file_holds() -> None:
    for name, source in package_sources().items():
        found = executed_in(source)
        for one in set(found):
            assert found.count(one) <= ALLOWED.get((name, one), 0), (name, one)
        assert "allow_pickle" not in source.text


@pytest.mark.parametrize(
    "line", ["import pickle", "eval(x)", "from yaml import load", "__import__(x)"]
)
def test_that_would_be_seen(line: str) -> None:
    assert executed_in(parse(line))


OPENED = """
import json, os, sys
import numpy, tensorstore, tf2flax
try:
    import h5py
except ImportError:
    pass
opened, watching = [], True
def hook(event, arguments):
    if watching and event in ("open", "os.listdir", "os.scandir", "glob.glob"):
        if isinstance(arguments[0], (str, bytes)):
            opened.append(os.fsdecode(arguments[0]))
    assert event not in ("subprocess.Popen", "os.exec", "socket.connect"), event
def look_at_all():
    for path in sys.argv[1:]:
        checkpoint = tf2flax.open_checkpoint(path)
        checkpoint.read()
        checkpoint.verify()
        for tensor in checkpoint.values():
            if tensor.shape:
                tensor[:1]
                tensor.open().read().result()
look_at_all()  # modules are imported when they are used
sys.addaudithook(hook)
look_at_all()
watching = False
print(json.dumps(sorted({*opened})))
"""


def test_only_the_files_of_the_checkpoint_are_opened(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("h5py")
    data = ROOT / "tests" / "data"
    paths = [
        data / "bert" / "model.ckpt",
        data / "sharded" / "model.ckpt",
        data / "wide_deep_partitioned" / "model.ckpt",
        data / "v1_format" / "model.ckpt",
        data / "tf2_object" / "object.ckpt",
        data / "tf2_object" / "model.keras",
        data / "keras" / "keras2_model.h5",
    ]
    done = subprocess.run(
        [sys.executable, "-c", OPENED, *map(str, paths)],
        capture_output=True, text=True, check=True, cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    opened = json.loads(done.stdout)
    assert len(opened) >= 12
    for one in opened:
        own = re.sub(r"(\.index|\.data-\d{5}-of-\d{5})$", "", one)
        code = one.endswith((".py", ".pyc", ".so")) or "__pycache__" in one
        system = one.startswith(
            ("/proc/", "/sys/", "/dev/", sys.prefix, sys.base_prefix)
        )
        assert pathlib.Path(own) in paths or code or system, one


def test_a_state_file_is_followed_as_in_tensorflow(tmp_path: pathlib.Path) -> None:
    write_bundle(tmp_path / "elsewhere" / "m", {"a": np.ones(2)})
    (tmp_path / "run").mkdir()
    state = tmp_path / "run" / "checkpoint"
    state.write_text(f'model_checkpoint_path: "{tmp_path}/elsewhere/m"')
    assert list(tf2flax.open_checkpoint(tmp_path / "run")) == ["a"]
    state.write_text('model_checkpoint_path: "http://127.0.0.1:9/m"')
    with pytest.raises(tf2flax.CheckpointNotFoundError):  # and no request is made
        tf2flax.open_checkpoint(tmp_path / "run")


def many_keys(count: int, *, snappy: bool) -> bytes:
    """As many keys as fit into few bytes: each shares all but a byte or two."""
    items = [(b"", header_bytes())]
    items += [(b"k" + i.to_bytes(3, "big"), b"") for i in range(count)]
    return table_bytes(
        items, block_size=1 << 30, restart_interval=1 << 30, snappy=snappy
    )


def many_dims(count: int, *, snappy: bool) -> bytes:
    """Entries of many empty dimensions."""
    entry = entry_bytes(1, [0] * 100)
    items = [(b"", header_bytes())] + [(b"%06d" % i, entry) for i in range(count)]
    return table_bytes(items, block_size=1 << 30, snappy=snappy)


@pytest.mark.parametrize("snappy", [False, True])
@pytest.mark.parametrize("make", [many_keys, many_dims])
def test_memory_and_time_are_bounded_by_the_size(
    tmp_path: pathlib.Path, make: object, snappy: bool
) -> None:
    each: list[float] = []
    for count in (250, 4_000):
        index = make(count, snappy=snappy)  # pyright: ignore
        (tmp_path / "m.index").write_bytes(index)
        tracemalloc.start()
        listed(tmp_path / "m", count)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 2_000 * len(index) + (16 << 20)
        times: list[float] = []
        for _ in range(3):
            start = time.process_time()
            listed(tmp_path / "m", count)
            times.append(time.process_time() - start)
        each.append(min(times) / count)  # snappy makes the file no measure
    # Were it quadratic, this would be 16.
    assert each[1] < 8 * each[0]


def listed(prefix: pathlib.Path, count: int) -> None:
    try:
        assert len(list(tf2flax.open_checkpoint(prefix))) == count
        tf2flax.list_variables(prefix)
    except tf2flax.DamagedError:
        pass


def test_one_v1_value_is_held_a_few_times(tmp_path: pathlib.Path) -> None:
    big = np.arange(4 << 20, dtype="<f4")
    v1.write_v1(tmp_path / "m", {"big": big, "small": big[:3]})
    checkpoint = tf2flax.open_checkpoint(tmp_path / "m")
    tracemalloc.start()
    assert checkpoint["small"].read().tolist() == [0, 1, 2]
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    assert checkpoint["big"].read()[-1] == big[-1]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4.5 * big.nbytes


def test_many_threads(tmp_path: pathlib.Path) -> None:
    import concurrent.futures
    import pickle

    arrays = {f"t{i}": np.full((100, 100), i, "<f4") for i in range(20)}
    write_bundle(tmp_path / "m", arrays)
    checkpoint = tf2flax.open_checkpoint(tmp_path / "m")
    copies = [checkpoint, pickle.loads(pickle.dumps(checkpoint))]

    def read(number: int) -> bool:
        name = f"t{number % 20}"
        tensor = copies[number % 2][name]
        got = [tensor.read(), tensor[:], tensor.open().read().result()][number % 3]
        return got.tobytes() == arrays[name].tobytes()

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert all(pool.map(read, range(300)))


SPAWNED = """
import multiprocessing, sys
import tf2flax

def read(checkpoint):
    whole = checkpoint["a"].read().tolist()
    return whole == checkpoint["a"].open().read().result().tolist() and whole

if __name__ == "__main__":
    checkpoint = tf2flax.open_checkpoint(sys.argv[1])
    checkpoint["a"].open().read().result()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply(read, (checkpoint,)))
"""


def test_a_spawned_process(tmp_path: pathlib.Path) -> None:
    write_bundle(tmp_path / "m", {"a": np.arange(3)})
    (tmp_path / "main.py").write_text(SPAWNED)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "main.py"), str(tmp_path / "m")],
        capture_output=True, text=True, check=True,
        env={"PYTHONPATH": str(ROOT)}, timeout=600,
    )  # fmt: skip
    assert done.stdout == "[0, 1, 2]\n"


def test_every_promise_names_its_tests() -> None:
    text = (ROOT / "docs" / "trust.md").read_text()
    named = re.findall(r"`(tests/[a-z_/0-9]+\.py)`", text)
    assert len(named) >= 8
    for one in named:
        assert (ROOT / one).exists(), one
