"""A checkpoint that is replaced after it was opened or planned is noticed."""

from __future__ import annotations

import collections
import os
import pathlib
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest
from bundle_writer import Tensor, rows_in, write_bundle
from flax import linen
from http_server import Served, serving
from repository import ROOT
from v1_writer import write_v1

import tf2flax
from tf2flax._cli import main
from tf2flax._reading import checks
from tf2flax._storage import snapshots

ARRAY = np.arange(64, dtype="<f4").reshape(16, 4)
MATCH = r"has been replaced.* Open the checkpoint again"
DATA = "m.data-00000-of-00001"


def tensors(value: float = 0) -> dict[str, np.ndarray]:
    return {"v": ARRAY + value + 1000, "w": ARRAY + value, "z": np.float32(value)}


def bundle(folder: pathlib.Path, value: float = 0) -> pathlib.Path:
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / "m"
    tf2flax.save_checkpoint(path, tensors(value), data_files=1, overwrite=True)
    return path


def sharded(folder: pathlib.Path, value: float = 0) -> pathlib.Path:
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / "m"
    tf2flax.save_checkpoint(path, tensors(value), data_files=3, overwrite=True)
    return path


def v1(folder: pathlib.Path, value: float = 0) -> pathlib.Path:
    folder.mkdir(exist_ok=True, parents=True)
    written = {name: Tensor(np.asarray(a)) for name, a in tensors(value).items()}
    write_v1(folder / "m", written)
    return folder / "m"


def keras(folder: pathlib.Path, value: float = 0) -> pathlib.Path:
    h5py = pytest.importorskip("h5py")
    folder.mkdir(exist_ok=True, parents=True)
    with h5py.File(folder / "m.h5", "w") as file:
        for name, array in tensors(value).items():
            file[name] = array
    return folder / "m.h5"


def archive(folder: pathlib.Path, value: float = 0) -> pathlib.Path:
    path = keras(folder, value)
    with zipfile.ZipFile(folder / "m.keras", "w") as file:
        file.write(path, "model.weights.h5")
    path.unlink()
    return folder / "m.keras"


KINDS = [bundle, sharded, v1, keras, archive]
READS: dict[str, Callable[[tf2flax.Checkpoint], Any]] = {
    "whole": lambda c: c["w"].read(),
    "unverified": lambda c: c["w"].read(verify=False),
    "rows": lambda c: c["w"][3:9],
    "columns": lambda c: c["w"][:, 1:2],
    "element": lambda c: c["w"][3, 2],
    "scalar": lambda c: c["z"][()],
    "view": lambda c: c["w"].open()[3:5].read().result(),
    "all": lambda c: c.read(),
    "array": lambda c: np.asarray(c["w"]),
    "verify": lambda c: c.verify(),
    "copy": lambda c: pickle.loads(pickle.dumps(c))["w"][3:4],
    "tensor": lambda c: pickle.loads(pickle.dumps(c["w"]))[3:4],
    "merged": lambda c: tf2flax.merge_checkpoints({"a/": c})["a/w"][3:4],
    "saved": lambda c: tf2flax.save_checkpoint(f"{c.prefix}-again", c),
}


@pytest.mark.parametrize("write", KINDS, ids=lambda kind: kind.__name__)
def test_every_way_to_read_notices(
    tmp_path: pathlib.Path, write: Callable[..., pathlib.Path]
) -> None:
    checkpoint = tf2flax.open_checkpoint(write(tmp_path / "a"))
    view = checkpoint["w"].open()
    copy = pickle.dumps(checkpoint)
    write(tmp_path / "a", 5)
    for read in READS.values():
        with pytest.raises(tf2flax.CheckpointError, match=MATCH):
            read(checkpoint)
    with pytest.raises(tf2flax.DamagedError, match=MATCH):
        view[3:4].read().result()
    with pytest.raises(tf2flax.DamagedError, match=MATCH):
        pickle.loads(copy)["w"].read()
    again = tf2flax.open_checkpoint(checkpoint.prefix)
    assert again["w"][3:4].tolist() == (ARRAY + 5)[3:4].tolist()


@pytest.mark.parametrize("write", KINDS, ids=lambda kind: kind.__name__)
def test_what_is_not_replaced_is_read(
    tmp_path: pathlib.Path, write: Callable[..., pathlib.Path]
) -> None:
    checkpoint = tf2flax.open_checkpoint(write(tmp_path / "a"))
    write(tmp_path / "b", 7)
    for copy in (checkpoint, pickle.loads(pickle.dumps(checkpoint))):
        assert copy["w"][3:4].tolist() == ARRAY[3:4].tolist()
        assert copy.verify().ok
    # Other inodes under the same names, as network file systems give them.
    for path in sorted((tmp_path / "a").iterdir()):
        shutil.copy2(path, tmp_path / "copy")
        (tmp_path / "copy").replace(path)
    for copy in (checkpoint, pickle.loads(pickle.dumps(checkpoint))):
        assert copy["w"][3:4].tolist() == ARRAY[3:4].tolist()
        assert copy.read()["v"].tolist() == (ARRAY + 1000).tolist()


def overwritten(folder: pathlib.Path) -> None:
    bundle(folder, 5)


def copied_over(folder: pathlib.Path) -> None:
    for path in bundle(folder.with_name("other"), 5).parent.iterdir():
        shutil.copyfile(path, folder / path.name)


def copied_data(folder: pathlib.Path) -> None:
    shutil.copyfile(bundle(folder.with_name("other"), 5).parent / DATA, folder / DATA)


def moved_data(folder: pathlib.Path) -> None:
    (bundle(folder.with_name("other"), 5).parent / DATA).replace(folder / DATA)


def written_in_place(folder: pathlib.Path) -> None:
    with (folder / DATA).open("r+b") as file:
        file.write(b"\x07")


def cut(folder: pathlib.Path) -> None:
    with (folder / DATA).open("r+b") as file:
        file.truncate(100)


def grown(folder: pathlib.Path) -> None:
    with (folder / DATA).open("ab") as file:
        file.write(b"more")


def made_again(folder: pathlib.Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    bundle(folder, 5)


def moved_folder(folder: pathlib.Path) -> None:
    folder.rename(folder.with_name("away"))
    bundle(folder.with_name("other"), 5).parent.rename(folder)


def index_alone(folder: pathlib.Path) -> None:
    shutil.copyfile(
        bundle(folder.with_name("other"), 5).with_suffix(".index"), folder / "m.index"
    )


def with_its_times(folder: pathlib.Path) -> None:
    """As `cp -p` of files that are as long and as old, under other inodes."""
    times = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    for path in bundle(folder.with_name("other"), 5).parent.iterdir():
        os.utime(path, ns=(times[path.name], times[path.name]))
        path.replace(folder / path.name)


def copied_in_place_with_its_times(folder: pathlib.Path) -> None:
    """As `cp -p` onto them, halfway: inodes, lengths and times are as they were."""
    times = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    (folder / "m.index").unlink()
    copied_data(folder)
    os.utime(folder / DATA, ns=(times[DATA], times[DATA]))


def touched_data(folder: pathlib.Path) -> None:
    os.utime(folder / DATA, ns=(0, 0))


@pytest.mark.parametrize(
    "replace",
    [
        overwritten, copied_over, copied_data, moved_data, written_in_place, cut, grown,
        made_again, moved_folder, index_alone, with_its_times,
        copied_in_place_with_its_times, touched_data,
    ],
    ids=lambda replace: replace.__name__,
)  # fmt: skip
def test_every_way_to_replace_is_noticed(
    tmp_path: pathlib.Path, replace: Callable[[pathlib.Path], None]
) -> None:
    for value in (0, 1):
        folder = tmp_path / str(value)
        checkpoint = tf2flax.open_checkpoint(bundle(folder / "a"))
        if value:  # read before
            assert checkpoint["w"][3:4].tolist() == ARRAY[3:4].tolist()
        replace(folder / "a")
        with pytest.raises(tf2flax.DamagedError, match=MATCH):
            checkpoint["v"][3:4]


@pytest.mark.parametrize(
    ("before", "after"), [(bundle, sharded), (sharded, bundle)], ids=["more", "fewer"]
)
def test_another_number_of_data_files(
    tmp_path: pathlib.Path,
    before: Callable[..., pathlib.Path],
    after: Callable[..., pathlib.Path],
) -> None:
    """Then the files that were opened are gone, which is no damage either."""
    checkpoint = tf2flax.open_checkpoint(before(tmp_path / "a"))
    with serving(files(tmp_path / "a" / "m")) as server:
        server.etags = True
        remote = tf2flax.open_checkpoint(f"{server.url}/m")
        after(tmp_path / "a", 5)
        server.files.clear()
        server.files.update(files(tmp_path / "a" / "m"))
        for read in READS.values():
            with pytest.raises(tf2flax.DamagedError, match=MATCH):
                read(checkpoint)
        for read in ("rows", "verify"):
            with pytest.raises(tf2flax.DamagedError, match=MATCH):
                READS[read](remote)


@pytest.mark.parametrize(
    "write", [bundle, sharded, keras, archive], ids=lambda kind: kind.__name__
)  # of a small V1 file everything is in memory
def test_written_in_place_while_it_is_read(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, write: Any
) -> None:
    """As Keras overwrites its files, and `cp`: what was opened has other bytes then."""
    path = write(tmp_path / "a")
    before = {p: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    write(tmp_path / "b", 5)
    after = {p: (tmp_path / "b" / p.name).read_bytes() for p in before}
    original = os.preadv

    def preadv(descriptor: int, *arguments: Any) -> int:
        monkeypatch.setattr(os, "preadv", original)
        for file, contents in after.items():
            if file.suffix != ".index":  # of which there is no more to read
                file.write_bytes(contents)
        return original(descriptor, *arguments)

    leaf = {"w": jax.ShapeDtypeStruct((6, 4), "float32")}
    rows = {tf2flax.src("w")[3:9]: "w"}
    for read in (
        *(READS[name] for name in ("unverified", "rows", "view", "verify")),
        lambda checkpoint: tf2flax.init_from_checkpoint(checkpoint, rows, leaf),
    ):
        for file, contents in before.items():
            file.write_bytes(contents)
        checkpoint = tf2flax.open_checkpoint(path)
        monkeypatch.setattr(os, "preadv", preadv)
        with pytest.raises(tf2flax.DamagedError, match=MATCH):
            read(checkpoint)


@pytest.mark.parametrize("write", [bundle, sharded], ids=lambda kind: kind.__name__)
def test_replaced_between_reading_and_checking(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, write: Any
) -> None:
    """What does not fit its checksum and is another checkpoint by now is no damage."""
    checkpoint = tf2flax.open_checkpoint(write(tmp_path / "a"))
    original = checks.crc32c

    def crc32c(*arguments: Any) -> int:
        monkeypatch.setattr(checks, "crc32c", original)
        write(tmp_path / "a", 5)
        return original(*arguments) ^ 1

    monkeypatch.setattr(checks, "crc32c", crc32c)
    with pytest.raises(tf2flax.DamagedError, match=MATCH):
        checkpoint.verify()


SAME_HASH = """
import pickle, sys, tf2flax
copy = pickle.load(sys.stdin.buffer)
again = tf2flax.open_checkpoint(copy.prefix)
first, second = (c.manifest.entry("w").pieces[0].data_file for c in (copy, again))
assert first == second and hash(first) == hash(second)
"""


def test_files_that_are_equal_have_equal_hashes_in_every_process(
    tmp_path: pathlib.Path,
) -> None:
    checkpoint = tf2flax.open_checkpoint(bundle(tmp_path / "a"))
    command, pickled = [sys.executable, "-c", SAME_HASH], pickle.dumps(checkpoint)
    subprocess.run(command, input=pickled, check=True, cwd=ROOT)


def test_a_touched_index_is_read_again_and_is_the_same(tmp_path: pathlib.Path) -> None:
    checkpoint = tf2flax.open_checkpoint(bundle(tmp_path / "a"))
    os.utime(tmp_path / "a" / "m.index", ns=(0, 0))
    assert checkpoint["w"][3:4].tolist() == ARRAY[3:4].tolist()
    (tmp_path / "a" / "m.index").unlink()  # data that are as they were need none
    assert checkpoint["w"][3:4].tolist() == ARRAY[3:4].tolist()


def test_status_alone(tmp_path: pathlib.Path) -> None:
    """Links and owners are no contents."""
    for write in (bundle, v1, keras):
        checkpoint = tf2flax.open_checkpoint(write(tmp_path / write.__name__))
        for path in sorted((tmp_path / write.__name__).iterdir()):
            path.chmod(0o600)
            os.link(path, f"{path}.link")
        for copy in (checkpoint, pickle.loads(pickle.dumps(checkpoint))):
            assert copy["w"][3:4].tolist() == ARRAY[3:4].tolist()


def test_data_that_come_after_the_index(tmp_path: pathlib.Path) -> None:
    data = bundle(tmp_path / "a").with_name(DATA)
    data.rename(tmp_path / "later")
    checkpoint = tf2flax.open_checkpoint(tmp_path / "a" / "m")
    with pytest.raises(tf2flax.DamagedError, match="data file is missing"):
        checkpoint["w"].read()
    (tmp_path / "later").rename(data)
    assert checkpoint["w"][3:4].tolist() == ARRAY[3:4].tolist()
    bundle(tmp_path / "a", 5)
    with pytest.raises(tf2flax.DamagedError, match=MATCH):
        checkpoint["w"][3:4]


def test_data_files_beyond_the_time_for_them(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that nobody looked at when it was opened are known by the index."""
    monkeypatch.setattr(snapshots, "_MAX_LOOKING_S", -1.0)
    first = tf2flax.open_checkpoint(sharded(tmp_path / "a", 5))
    second = tf2flax.open_checkpoint(sharded(tmp_path / "a"))
    with pytest.raises(tf2flax.DamagedError, match=MATCH):
        first["w"][3:4]
    assert second["w"][3:4].tolist() == ARRAY[3:4].tolist()


def test_the_message_says_what_is_different(tmp_path: pathlib.Path) -> None:
    checkpoint = tf2flax.open_checkpoint(bundle(tmp_path / "a"))
    cut(tmp_path / "a")
    with pytest.raises(tf2flax.DamagedError) as caught:
        checkpoint["w"][3:4]
    assert str(caught.value) == (
        "Tensor `w` cannot be read: the checkpoint has been replaced, its file is not "
        "the one that was opened (it had 516 bytes, and has 100) - at "
        f"`{tmp_path / 'a' / DATA}`. Open the checkpoint again, and "
        "make its plans again."
    )


@pytest.mark.parametrize("write", [bundle, v1, keras], ids=lambda kind: kind.__name__)
def test_plans_made_before(
    tmp_path: pathlib.Path, write: Callable[..., pathlib.Path]
) -> None:
    path = write(tmp_path / "a")
    leaf = {"w": jax.ShapeDtypeStruct((6, 4), "float32")}
    plan = tf2flax.plan(path, {tf2flax.src("w")[3:9]: "w"}, leaf)
    init = tf2flax.warm_start(
        linen.Dense(4, use_bias=False).init, path, {"w": "params/kernel"}
    )
    assert plan.restore()["w"].tolist() == ARRAY[3:9].tolist()
    write(tmp_path / "a", 5)
    with pytest.raises(tf2flax.DamagedError, match=MATCH):
        plan.restore()
    with pytest.raises(tf2flax.DamagedError, match=MATCH):
        init(jax.random.key(0), np.ones((1, 16), "f4"))
    again = tf2flax.plan(path, {tf2flax.src("w")[3:9]: "w"}, leaf)
    assert again.restore()["w"].tolist() == (ARRAY + 5)[3:9].tolist()


def test_one_opened_before_and_one_after_are_two(tmp_path: pathlib.Path) -> None:
    before = tf2flax.open_checkpoint(bundle(tmp_path / "a"))
    after = tf2flax.open_checkpoint(bundle(tmp_path / "a", 5))
    both = tf2flax.merge_checkpoints({"after/": after, "before/": before})
    assert both.read(["after/w"])["after/w"].tolist() == (ARRAY + 5).tolist()
    with pytest.raises(tf2flax.DamagedError, match=MATCH):
        both.read()
    target = {n: jax.ShapeDtypeStruct((2, 4), "float32") for n in ("a", "b")}
    rows = [(tf2flax.src(f"{n}/w")[3:5], n[0]) for n in ("after", "before")]
    with pytest.raises(tf2flax.DamagedError, match=MATCH):
        tf2flax.init_from_checkpoint(both, rows, target)


def test_saving_over_what_is_read(tmp_path: pathlib.Path) -> None:
    path = bundle(tmp_path / "a")
    leaf = {"w": jax.ShapeDtypeStruct((16, 4), "float32")}
    plan = tf2flax.plan(path, {"w": "w"}, leaf)
    tf2flax.save_checkpoint(path, plan.restore(), plan=plan, overwrite=True)
    with pytest.raises(tf2flax.DamagedError, match=MATCH):
        plan.restore()
    assert tf2flax.load_variable(path, "v").tolist() == (ARRAY + 1000).tolist()


def test_replaced_is_no_damage_to_the_command_line(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = str(bundle(tmp_path / "a"))
    opened = tf2flax.open_checkpoint(path)
    bundle(tmp_path / "a", 5)
    for command, arguments in (("verify", [path]), ("show", [path, "w"])):
        monkeypatch.setattr(tf2flax, "open_checkpoint", lambda _: opened)
        assert main([command, *arguments]) == 2
        assert "has been replaced" in capsys.readouterr().err


def test_slices_in_several_files(tmp_path: pathlib.Path) -> None:
    table = np.arange(24.0, dtype="<f4").reshape(12, 2)
    parts = Tensor(table, slices=rows_in(table, 3), data_file=(0, 1, 2))
    write_bundle(tmp_path / "m", {"t": parts}, num_data_files=3)
    checkpoint = tf2flax.open_checkpoint(tmp_path / "m")
    last = tmp_path / "m.data-00002-of-00003"
    os.utime(last, ns=(1, 1))
    assert checkpoint["t"][:8].tolist() == table[:8].tolist()
    for read in (lambda: checkpoint["t"][7:9], checkpoint["t"].read, checkpoint.read):
        with pytest.raises(tf2flax.DamagedError, match=MATCH):
            read()


# Saves 30 times at least, and goes on until a file says that it is enough.
RACE = """
import os, sys, numpy as np, tf2flax
for i in range(3000):
    if i >= 30 and os.path.exists(sys.argv[2]):
        break
    array = np.full((50 + 7 * (i % 3), 10), i, "f4")
    tensors = {"a": array, "b": np.full(5, i, "f4"), "c": array[:9] + 0.5}
    tf2flax.save_checkpoint(sys.argv[1], tensors, overwrite=True)
"""


def test_no_read_mixes_two(tmp_path: pathlib.Path) -> None:
    tf2flax.save_checkpoint(tmp_path / "m", {"a": np.zeros((50, 10), "f4")})
    enough = tmp_path / "enough"
    command = [sys.executable, "-c", RACE, str(tmp_path / "m"), str(enough)]
    writer = subprocess.Popen(command, cwd=ROOT)
    seen: collections.Counter[str] = collections.Counter()
    while writer.poll() is None:
        if seen["same"] >= 10:
            enough.touch()
        try:
            checkpoint = tf2flax.open_checkpoint(tmp_path / "m")
            if "b" not in checkpoint:
                continue
            part, whole = checkpoint["b"][1:3], checkpoint["a"].read()
            assert part[0] == whole[0, 0] == checkpoint["c"][2:3, 1][0] - 0.5
            seen["same"] += 1
        except tf2flax.CheckpointError as error:
            seen[type(error).__name__] += 1
    assert writer.returncode == 0
    assert seen["same"] >= 10, seen


@pytest.fixture
def served(tmp_path: pathlib.Path) -> Iterator[Served]:
    with serving(files(bundle(tmp_path / "a"))) as server:
        server.etags = True
        yield server


def files(prefix: pathlib.Path) -> dict[str, bytes]:
    return {
        f"/{path.name}": path.read_bytes()
        for path in sorted(prefix.parent.iterdir())
        if path.name.startswith("m")
    }


@pytest.mark.parametrize("is_read_before", [False, True])
def test_a_store_by_its_generations(
    served: Served, tmp_path: pathlib.Path, *, is_read_before: bool
) -> None:
    checkpoint = tf2flax.open_checkpoint(f"{served.url}/m")
    if is_read_before:
        assert checkpoint["w"][3:4].tolist() == ARRAY[3:4].tolist()
    copy = pickle.dumps(checkpoint)
    served.files.update(files(bundle(tmp_path / "b", 5)))
    for read in ("rows", "whole", "all", "view", "copy", "verify"):
        with pytest.raises(tf2flax.CheckpointError, match=MATCH):
            READS[read](checkpoint)
    with pytest.raises(tf2flax.DamagedError, match=MATCH):
        pickle.loads(copy)["w"][3:4]
    again = tf2flax.open_checkpoint(f"{served.url}/m")
    assert again["w"][3:4].tolist() == (ARRAY + 5)[3:4].tolist()


def test_requests_to_a_store(served: Served) -> None:
    """One more for each data file, for the index, when it is first read."""
    checkpoint = tf2flax.open_checkpoint(f"{served.url}/m")
    for _ in range(3):
        checkpoint["w"][3:4]
        checkpoint["v"].read()
    assert [path for _, path, _ in served.requests] == [
        "/m.index", f"/{DATA}", "/m.index", *[f"/{DATA}"] * 5,
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["/m.index", f"/{DATA}"])
def test_a_file_of_a_store(served: Served, tmp_path: pathlib.Path, name: str) -> None:
    checkpoint = tf2flax.open_checkpoint(f"{served.url}/m")
    if name.endswith(DATA):
        checkpoint["z"].read()
    served.files[name] = files(bundle(tmp_path / "b", 5))[name][:-4]
    for read in ("whole", "rows", "element"):
        with pytest.raises(tf2flax.DamagedError, match=MATCH):
            READS[read](checkpoint)


def test_a_server_without_generations(tmp_path: pathlib.Path) -> None:
    """Nothing can be told; checksums tell of what is read whole."""
    with serving(files(bundle(tmp_path / "a"))) as server:
        checkpoint = tf2flax.open_checkpoint(f"{server.url}/m")
        server.files.update(files(bundle(tmp_path / "b", 5)))
        with pytest.raises(tf2flax.DamagedError, match="crc32c"):
            checkpoint["w"].read()


def test_a_store_in_memory(tmp_path: pathlib.Path) -> None:
    ts = pytest.importorskip("tensorstore")
    store = ts.KvStore.open("memory://").result()

    def put(value: float, write: Callable[..., pathlib.Path] = bundle) -> None:
        for name, contents in files(write(tmp_path / f"{value}", value)).items():
            store.write(f"run{name}", contents).result()

    for write in (bundle, v1):
        put(0, write)
        checkpoint = tf2flax.open_checkpoint(store / "run" / "m")
        assert checkpoint["w"][3:4].tolist() == ARRAY[3:4].tolist()
        put(5, write)
        with pytest.raises(tf2flax.DamagedError, match=MATCH):
            checkpoint["w"][3:4]
        store.delete_range(ts.KvStore.KeyRange("", "")).result()


def test_file_urls(tmp_path: pathlib.Path) -> None:
    checkpoint = tf2flax.open_checkpoint(f"file://{bundle(tmp_path / 'a')}")
    bundle(tmp_path / "a", 5)
    with pytest.raises(tf2flax.DamagedError, match=MATCH):
        checkpoint["w"][3:4]
