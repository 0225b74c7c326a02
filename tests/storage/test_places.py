"""Checkpoints on servers and in stores: the same values, few bytes, errors in time."""

from __future__ import annotations

import json
import pathlib
import pickle
import signal
import threading
import time
from collections.abc import Iterator

import jax
import numpy as np
import pytest
import tensorstore as ts
from bundle_writer import Tensor, rows_in, write_bundle
from forking import run_forked
from http_server import Served, serving
from repository import ROOT

import tf2flax
from tf2flax._reading.scheduling import Readers
from tf2flax._storage import requests, stores

BIG = np.arange(3 << 20, dtype="<f4").reshape(3 << 8, 1 << 12)  # 12 MiB
SMALL = {f"layer_{i}/bias": np.full(7, i, "<f4") for i in range(300)}
TABLE = np.arange(40, dtype="<f4").reshape(10, 4)
STRINGS = np.array([b"a", b"", b"\0long" * 9], object)
TENSORS = {**SMALL, "big": BIG, "names": STRINGS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("places")
    table = Tensor(TABLE, slices=rows_in(TABLE, 3))
    write_bundle(folder / "model.ckpt", {**TENSORS, "table": table})
    (folder / "checkpoint").write_text('model_checkpoint_path: "model.ckpt"')
    return folder


def files_of(folder: pathlib.Path, at: str = "/run/") -> dict[str, bytes]:
    return {f"{at}{path.name}": path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def server(folder: pathlib.Path) -> Iterator[Served]:
    with serving(files_of(folder)) as served:
        yield served


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, also where a shell runs this in background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Retries in a fraction of a second."""
    retries = {"max_retries": 3, "initial_delay": "10ms", "max_delay": "20ms"}
    monkeypatch.setattr(requests, "_DEFAULT_CONTEXT", {"http_request_retries": retries})
    requests.default_context.cache_clear()
    yield
    requests.default_context.cache_clear()


def check(checkpoint: tf2flax.Checkpoint) -> None:
    arrays = checkpoint.read()
    assert list(arrays) == sorted([*TENSORS, "table"])
    for name, want in {**TENSORS, "table": TABLE}.items():
        assert arrays[name].tolist() == want.tolist(), name
        assert arrays[name].dtype == want.dtype


@pytest.mark.parametrize("path", ["/run/model.ckpt", "/run/", "/run"])
def test_http(server: Served, path: str) -> None:
    check(tf2flax.open_checkpoint(server.url + path))


def test_few_requests_and_few_bytes(server: Served, folder: pathlib.Path) -> None:
    url = f"{server.url}/run/model.ckpt"
    checkpoint = tf2flax.open_checkpoint(url)
    index_nbytes = (folder / "model.ckpt.index").stat().st_size
    assert len(server.requests) == 1
    assert server.nbytes == index_nbytes
    assert len(checkpoint) == len(TENSORS) + 1
    assert len(server.requests) == 1
    checkpoint.read([*SMALL])
    assert len(server.requests) == 2
    assert server.nbytes - index_nbytes == 7 * 4 * len(SMALL)
    before = server.nbytes
    rows = checkpoint["big"][100:102]
    assert rows.tolist() == BIG[100:102].tolist()
    # The rows, and the byte that tells that the file is long enough.
    assert server.nbytes - before == rows.nbytes + 1
    before = server.nbytes
    assert checkpoint["table"][9].tolist() == TABLE[9].tolist()
    assert server.nbytes - before == TABLE[9].nbytes


def test_lazy_views(server: Served) -> None:
    view = tf2flax.open_checkpoint(f"{server.url}/run/model.ckpt")["big"].open()
    before = server.nbytes
    assert view[3:5, 7].read().result().tolist() == BIG[3:5, 7].tolist()
    assert server.nbytes - before <= 4 << 20
    parts = [view[i : i + 100].read() for i in range(0, 700, 100)]
    whole = np.concatenate([part.result() for part in parts])
    assert whole.tobytes() == BIG[:700].tobytes()


def test_in_flight_bytes_are_bounded(server: Served) -> None:
    checkpoint = tf2flax.open_checkpoint(f"{server.url}/run/model.ckpt")
    server.is_busy.clear()
    server.waits_for = 2
    assert checkpoint["big"].read().tobytes() == BIG.tobytes()
    assert 1 < server.most_at_once <= requests.MAX_REQUESTS


def test_v1(tmp_path: pathlib.Path) -> None:
    fixtures = ROOT / "tests" / "data" / "semantics" / "fixtures"
    files = files_of(fixtures / "v1", "/") | files_of(fixtures / "v1sharded", "/s/")
    local = tf2flax.open_checkpoint(fixtures / "v1" / "model.ckpt").read()
    with serving(files) as served:
        remote = tf2flax.open_checkpoint(f"{served.url}/model.ckpt")
        for name, array in remote.read().items():
            assert array.tolist() == local[name].tolist(), name
        assert len(remote) == len(local)
        with pytest.raises(tf2flax.UnsupportedError, match="cannot be listed"):
            tf2flax.open_checkpoint(f"{served.url}/s/model.ckpt-*")
        with pytest.raises(tf2flax.CheckpointNotFoundError):
            tf2flax.open_checkpoint(f"{served.url}/nothing")


@pytest.mark.parametrize("name", ["keras.weights.h5", "model.keras"])
def test_keras_weights(name: str) -> None:
    pytest.importorskip("h5py")
    path = ROOT / "tests" / "data" / "tf2_object" / name
    local = tf2flax.open_checkpoint(path).read()
    assert len(local) == 46
    with serving({"/weights": path.read_bytes()}) as served:
        remote = tf2flax.open_checkpoint(f"{served.url}/weights")
        for key, array in remote.read().items():
            assert array.tolist() == local[key].tolist()
        assert len(remote) == len(local)


def test_saved_models(folder: pathlib.Path) -> None:
    prefix = folder / "model.ckpt"
    files = {
        f"/saved/variables/variables{path.name.removeprefix(prefix.name)}": (
            path.read_bytes()
        )
        for path in folder.glob("model.ckpt.*")
    }
    with serving({**files, "/saved/saved_model.pb": b""}) as served:
        check(tf2flax.open_checkpoint(f"{served.url}/saved/"))
        check(tf2flax.open_checkpoint(f"{served.url}/saved"))


def test_listing_and_loading_by_url(server: Served) -> None:
    url = f"{server.url}/run"
    assert ("table", [10, 4]) in tf2flax.list_variables(f"{url}/model.ckpt")
    assert tf2flax.load_variable(url, "table").tolist() == TABLE.tolist()
    assert tf2flax.latest_checkpoint(f"{url}/") == f"{url}/model.ckpt"
    assert tf2flax.checkpoint_exists(f"{url}/model.ckpt")
    assert not tf2flax.checkpoint_exists(f"{url}/model.ckpt-1")
    with pytest.raises(tf2flax.UnsupportedError, match="cannot be listed"):
        tf2flax.checkpoint_exists(f"{url}/model.*")
    with pytest.raises(tf2flax.UnsupportedError, match="cannot be listed"):
        tf2flax.checkpoints_iterator(url)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("failing", ["unavailable", "resets"])
def test_failures_that_pass_are_retried(server: Served, failing: str) -> None:
    checkpoint = tf2flax.open_checkpoint(f"{server.url}/run/model.ckpt")
    setattr(server, failing, 2)
    assert checkpoint["table"].read().tolist() == TABLE.tolist()
    assert getattr(server, failing) == 0


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("failing", "value", "match"),
    [
        ("unavailable", -1, "503"),
        ("resets", -1, "attempts failed"),
        ("stalls", True, "no answer within 1 seconds"),
        ("truncates", True, "bytes missing"),
        ("ignores_range", True, "ignores Range requests"),
        ("shifts", True, "got another range"),
    ],
)
def test_failures_that_stay_are_errors(
    server: Served,
    failing: str,
    value: object,
    match: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint = tf2flax.open_checkpoint(f"{server.url}/run/model.ckpt")
    setattr(server, failing, value)
    if failing == "stalls":  # what does answer may take its time on a busy machine
        monkeypatch.setattr(requests, "REQUEST_TIMEOUT_S", 1.0)
    started = time.monotonic()
    for read in (checkpoint["big"].read, checkpoint["names"].read, checkpoint.read):
        with pytest.raises(tf2flax.ReadError, match=match) as caught:
            read()
        assert "127.0.0.1" in str(caught.value)
    if failing not in ("ignores_range", "shifts"):  # an index is read whole
        with pytest.raises(tf2flax.ReadError, match=match):
            tf2flax.open_checkpoint(f"{server.url}/run/model.ckpt")
    # Some seconds; 240 where each waits as long as a request may.
    assert time.monotonic() - started < 200


def test_the_default_gives_up_within_30_seconds() -> None:
    delays = [0.5, 1, 2, 4, 8]
    assert requests._RETRIES["max_retries"] == len(delays)
    assert (
        sum(delays) < 25
    )  # tensorstore adds up to as much again of the last, at random


@pytest.mark.slow
def test_an_error_within_30_seconds(server: Served) -> None:
    server.unavailable = -1
    started = time.monotonic()
    with pytest.raises(tf2flax.ReadError, match="503"):
        tf2flax.open_checkpoint(f"{server.url}/run/model.ckpt")
    assert time.monotonic() - started < 30


@pytest.mark.slow
def test_a_request_that_stalls_ends_after_60_seconds(server: Served) -> None:
    checkpoint = tf2flax.open_checkpoint(
        f"{server.url}/run/model.ckpt", context=ts.Context()
    )
    server.stalls = True
    started = time.monotonic()
    with pytest.raises(tf2flax.ReadError, match="no answer within 60 seconds"):
        checkpoint["big"].read()
    assert 59 < time.monotonic() - started < 75


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("receiver", ["main thread", "another thread"])
@pytest.mark.parametrize("way", ["read", "restore"])
def test_an_interrupt_does_not_wait_for_a_stalled_server(
    server: Served, way: str, receiver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the system delivers it to a thread that just starts: on busy machines."""
    # Longer than the busiest machine takes.
    monkeypatch.setattr(requests, "REQUEST_TIMEOUT_S", 3600.0)
    checkpoint = tf2flax.open_checkpoint(f"{server.url}/run/model.ckpt")
    names = {name: name for name in ("big", "layer_0/bias")}
    target = {n: jax.ShapeDtypeStruct(checkpoint[n].shape, "float32") for n in names}
    plan = tf2flax.plan(checkpoint, names, target)
    threads = set(threading.enumerate())
    server.stalls = True

    def interrupt() -> None:
        while not server.nbytes:  # something is under way
            time.sleep(0.01)
        thread = (
            threading.main_thread()
            if receiver == "main thread"
            else threading.current_thread()
        )
        assert thread.ident is not None
        signal.pthread_kill(thread.ident, signal.SIGINT)

    server.nbytes = 0
    started = time.monotonic()
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        plan.restore() if way == "restore" else checkpoint.read()
    thread.join()
    assert time.monotonic() - started < requests.REQUEST_TIMEOUT_S / 2
    left = {t for t in set(threading.enumerate()) - threads if "Pool" in t.name}
    assert not left


def test_a_thread_that_an_interrupt_finds_starting_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, ended = threading.Event(), threading.Event()
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        begun.wait(600)
        raise KeyboardInterrupt

    def job() -> None:
        begun.set()
        time.sleep(0.3)
        ended.set()

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt), Readers(2) as readers:
        readers.submit(job)
    assert ended.is_set()


@pytest.mark.usefixtures("hasty")
def test_damage_is_named(server: Served) -> None:
    data = "/run/model.ckpt.data-00000-of-00001"
    checkpoint = tf2flax.open_checkpoint(f"{server.url}/run/model.ckpt")
    whole = server.files[data]
    server.files[data] = whole[:-1]
    with pytest.raises(tf2flax.DamagedError, match="1 are missing"):
        checkpoint.read()
    server.files[data] = whole[: 1 << 20]
    for read in (checkpoint["big"].read, lambda: checkpoint["big"][700:]):
        with pytest.raises(tf2flax.DamagedError, match="Copy the file again"):
            read()
    server.files[data] = b"version https://git-lfs.github.com/spec/v1\noid 1\n"
    with pytest.raises(tf2flax.DamagedError, match="git-LFS pointer"):
        checkpoint["table"].read()
    del server.files[data]
    with pytest.raises(tf2flax.DamagedError, match="data file is missing"):
        checkpoint["table"].read()
    server.files["/run/model.ckpt.index"] = b"<!DOCTYPE html><title>Sign in</title>"
    with pytest.raises(tf2flax.DamagedError, match="an HTML page"):
        tf2flax.open_checkpoint(f"{server.url}/run/model.ckpt")
    flipped = bytearray(whole)
    flipped[5] ^= 1
    server.files[data] = bytes(flipped)
    report = checkpoint.verify()
    assert [damage.name for damage in report.damaged] == [checkpoint_first(checkpoint)]


def checkpoint_first(checkpoint: tf2flax.Checkpoint) -> str:
    """The tensor that lies at the beginning of the data."""
    return min(checkpoint, key=lambda name: checkpoint[name].entry.pieces[0].span)


def in_memory(folder: pathlib.Path, context: ts.Context) -> ts.KvStore:
    store = ts.KvStore.open("memory://", context=context).result()
    for name, contents in files_of(folder, "run/").items():
        store.write(name, contents).result()
    return store


def test_memory_within_one_context(folder: pathlib.Path) -> None:
    context = ts.Context()
    store = in_memory(folder, context)
    check(tf2flax.open_checkpoint("memory://run/model.ckpt", context=context))
    check(tf2flax.open_checkpoint("memory://run/", context=context))
    with pytest.raises(tf2flax.CheckpointNotFoundError):
        tf2flax.open_checkpoint("memory://run/model.ckpt", context=ts.Context())
    kept = store.copy()
    kept.path = "run/model.ckpt"
    check(tf2flax.open_checkpoint(kept))
    assert tf2flax.checkpoint_exists(kept)
    kept.path = "run/"
    check(tf2flax.open_checkpoint(kept))
    for prefix in tf2flax.checkpoints_iterator(kept, timeout=0):
        assert prefix == "memory://run/model.ckpt"
        break
    else:
        pytest.fail("a store that lists can be watched")


def test_near_names_of_stores_that_list(folder: pathlib.Path) -> None:
    context = ts.Context()
    in_memory(folder, context)
    with pytest.raises(tf2flax.CheckpointNotFoundError, match=r"run/model.ckpt`\?"):
        tf2flax.open_checkpoint("memory://run/model.ckp", context=context)


def test_patterns_of_v1_where_a_store_lists() -> None:
    fixtures = ROOT / "tests" / "data" / "semantics" / "fixtures" / "v1sharded"
    context = ts.Context()
    in_memory(fixtures, context)
    path = "memory://run/model.ckpt-%3F%3F%3F%3F%3F-of-00002"
    remote = tf2flax.open_checkpoint(path, context=context)
    local = tf2flax.open_checkpoint(fixtures / "model.ckpt-?????-of-00002")
    assert list(remote) == list(local)
    assert remote["p"].read().tolist() == local["p"].read().tolist()


def test_file_urls(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    check(tf2flax.open_checkpoint(f"file://{folder}/model.ckpt"))
    check(tf2flax.open_checkpoint(ts.KvStore.open(f"file://{folder}/").result()))
    (tmp_path / "a b").symlink_to(folder)
    check(tf2flax.open_checkpoint(f"file://{tmp_path}/a%20b/model.ckpt"))
    with pytest.raises(tf2flax.UnsupportedError, match="three slashes"):
        tf2flax.open_checkpoint("file://server/model.ckpt")


def test_a_state_file_does_not_lead_out_of_its_store(folder: pathlib.Path) -> None:
    state = f'model_checkpoint_path: "{folder}/model.ckpt"'
    with serving({"/run/checkpoint": state.encode()}) as served:
        with pytest.raises(
            tf2flax.CheckpointNotFoundError, match="its state file names"
        ):
            tf2flax.open_checkpoint(f"{served.url}/run/")


@pytest.mark.parametrize(
    ("url", "driver", "kind"),
    [
        ("gs://bucket/run/model.ckpt", "gcs", "gs"),
        ("s3://bucket/run/model.ckpt", "s3", "s3"),
    ],
)
def test_cloud_stores_are_the_same_code(url: str, driver: str, kind: str) -> None:
    storage, path = stores.storage_of(url)
    assert path == "run/model.ckpt"
    assert storage.show(f"{path}.index") == f"{url}.index"
    spec = storage._client._root.spec().to_json()  # pyright: ignore
    assert (spec["driver"], spec["bucket"]) == (driver, "bucket")
    retries = requests.default_context().spec.to_json()[f"{driver}_request_retries"]
    assert retries["max_retries"] == 5
    with pytest.raises(tf2flax.ReadError, match=f"{kind}://x"):
        tf2flax.open_checkpoint(f"{kind}://x")


def test_pickles(server: Served) -> None:
    checkpoint = tf2flax.open_checkpoint(f"{server.url}/run/model.ckpt")
    check(pickle.loads(pickle.dumps(checkpoint)))


FORKS = """
import json, os, sys
import tf2flax
{before}
def child():
    try:
        {body}
    except tf2flax.UnsupportedError as error:
        return str(error)
pid = os.fork()
if pid == 0:
    print(json.dumps(child()), flush=True)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.parametrize(
    ("before", "body", "expected"),
    [
        ("", "return c['table'].read().tolist()", TABLE.tolist()),
        ("", "return c['table'].open().read().result().tolist()", TABLE.tolist()),
        (
            "c['table'].open().read().result()",
            "return c['table'].read().tolist()",
            TABLE.tolist(),
        ),
        ("c['table'].open().read().result()", "return c['table'].open()", "spawn"),
        (
            "import tensorstore\ntensorstore.virtual_chunked(lambda *a: None, "
            "dtype='float32', shape=[1]).read().result()",
            "return c['table'].open()",
            "spawn",
        ),
    ],
)
def test_forked_processes(
    folder: pathlib.Path, before: str, body: str, expected: object
) -> None:
    opened = f"c = tf2flax.open_checkpoint({str(folder / 'model.ckpt')!r})\n{before}"
    done = run_forked(FORKS.format(before=opened, body=body), check=True)
    result = json.loads(done.stdout)
    assert result == expected if isinstance(expected, list) else expected in result
