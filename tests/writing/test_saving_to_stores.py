"""Checkpoints are written to stores: data, index, state file; never half of them."""

from __future__ import annotations

import concurrent.futures
import importlib.util
import itertools
import os
import pathlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import jax
import numpy as np
import pytest
from gcs_server import Bucket, serving_bucket
from http_server import serving
from s3_server import serving_s3

import tf2flax
from tf2flax._storage import hosts, requests, store_destination, stores

TREE = {
    "kernel": np.arange(600, dtype="<f4").reshape(20, 30),
    "text": np.array([b"a", b"", b"\0long" * 9], object),
    "none": np.zeros((0, 2)),
    "step": np.int64(7),
}
SIX = np.arange(6, dtype="<f4")
RETRIES = {"max_retries": 3, "initial_delay": "10ms", "max_delay": "20ms"}
_numbers = itertools.count()


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Retries in a fraction of a second; every test has a `memory://` of its own."""
    kinds = ("http", "gcs", "s3")
    context = {f"{kind}_request_retries": RETRIES for kind in kinds}
    monkeypatch.setattr(requests, "_DEFAULT_CONTEXT", context)
    requests.default_context.cache_clear()
    yield
    requests.default_context.cache_clear()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    with serving_bucket() as served:
        monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", served.url)
        monkeypatch.setenv("GCE_METADATA_ROOT", "127.0.0.1:9")  # no credentials there
        yield served


@pytest.fixture
def prefix(bucket: Bucket) -> str:
    # tensorstore keeps the servers of buckets that it knows.
    return f"gs://bucket-{next(_numbers)}/run/m"


def check(prefix: str) -> None:
    checkpoint = tf2flax.open_checkpoint(prefix)
    assert checkpoint.verify().ok
    got = checkpoint.read()
    assert got.keys() == TREE.keys()
    for name, want in TREE.items():
        assert got[name].dtype == want.dtype
        assert got[name].tolist() == want.tolist()


def test_memory() -> None:
    assert tf2flax.save_checkpoint("memory://run/m", TREE) == "memory://run/m"
    check("memory://run/m")
    check("memory://run/")
    assert tf2flax.latest_checkpoint("memory://run") == "memory://run/m"


def test_a_file_url_is_a_local_path(tmp_path: pathlib.Path) -> None:
    assert tf2flax.save_checkpoint(f"file://{tmp_path}/m", TREE) == f"{tmp_path}/m"
    check(f"file://{tmp_path}/m")
    # Encoded, any character; also bytes that are no text.
    for name in ("a#b?c", "a%20b", "ä\n", "[x", os.fsdecode(b"\xff/m")):
        url = f"file://{tmp_path}/{quote(os.fsencode(name))}"
        assert tf2flax.save_checkpoint(url, TREE) == f"{tmp_path}/{name}"
        check(url)
        assert (tmp_path / f"{name}.index").exists()


@pytest.mark.parametrize("place", ["file:///tmp/", "file://[x/", "s3://b/", "gs://b/"])
@pytest.mark.parametrize(("name", "encoded"), [("a#b?", "a%23b%3F"), ("a?b", "a%3Fb")])
def test_what_follows_the_path_of_a_url_is_not_dropped(
    place: str, name: str, encoded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for use in (tf2flax.open_checkpoint, lambda url: tf2flax.save_checkpoint(url, {})):
        with pytest.raises(tf2flax.UnsupportedError, match="which names no") as caught:
            use(place + name)
        assert f"write `{place}{encoded}`" in str(caught.value)


def test_gcs(bucket: Bucket, prefix: str) -> None:
    assert tf2flax.save_checkpoint(prefix, TREE, data_files=2) == prefix
    # Data, several objects at once; the index, which makes it a checkpoint; then the
    # state file leads there.
    data, end = bucket.uploads()[:2], bucket.uploads()[2:]
    assert sorted(data) == [f"run/m.data-0000{i}-of-00002" for i in range(2)]
    assert end == ["run/m.index", "run/checkpoint"]
    assert bucket.names() == sorted([*data, *end])
    check(prefix)
    check(prefix.removesuffix("m"))


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("moto"), reason="needs moto[server]")
def test_s3() -> None:
    with serving_s3("bucket") as variables, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        prefix = "s3://bucket/run/m"
        assert tf2flax.save_checkpoint(prefix, TREE, data_files=2) == prefix
        check(prefix)
        check("s3://bucket/run/")
        with pytest.raises(tf2flax.ExistsError):
            tf2flax.save_checkpoint(prefix, TREE)
        saved = tf2flax.open_checkpoint(prefix)
        tf2flax.save_checkpoint(prefix, saved, overwrite=True)
        check(prefix)
        storage, folder = stores.storage_of("s3://bucket/run/")
        assert storage.names_in(folder) == [
            "checkpoint", "m.data-00000-of-00001", "m.index",
        ]  # fmt: skip


def test_objects_are_limited_in_size(
    bucket: Bucket, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_destination, "OBJECT_NBYTES", 100)
    tree: dict[str, Any] = {f"t{i}": SIX + i for i in range(20)}
    tree["large"] = np.arange(100.0).reshape(5, 20).T
    tree["text"] = np.array([b"x" * 99, b"y" * 99], object)
    # Of a tensor that is copied, nothing can be had but all of it.
    stored = tf2flax.open_checkpoint({"copied": tree["large"]})["copied"]
    tree["copied"] = stored.read()
    read: list[str] = []
    read_whole = tf2flax.StoredTensor.read

    def counted(self: tf2flax.StoredTensor, **options: Any) -> Any:
        read.append(self.name)
        return read_whole(self, **options)

    with monkeypatch.context() as patch:
        patch.setattr(tf2flax.StoredTensor, "read", counted)
        tf2flax.save_checkpoint(prefix, {**tree, "copied": stored})
    assert read == ["copied"]  # once, for all slices
    sizes = {
        key: len(bucket.objects[key][0]) for key in bucket.names() if "data" in key
    }
    # Four of 24 bytes each; slices of two rows of 40; strings, which have no slices.
    assert sorted(sizes.values()) == [80] * 20 + [96] * 5 + [204]
    assert len(tf2flax.open_checkpoint(prefix)["large"].slices) == 10
    got = tf2flax.open_checkpoint(prefix).read()
    assert all(got[name].tolist() == want.tolist() for name, want in tree.items())


def test_the_state_file(bucket: Bucket) -> None:
    folder = f"gs://bucket-{next(_numbers)}/run"
    for name in ("m-1", "m-2", "m-1"):
        tf2flax.save_checkpoint(f"{folder}/{name}", {"a": SIX}, overwrite=True)
    assert bucket.objects["run/checkpoint"][0] == (
        b'model_checkpoint_path: "m-1"\n'
        b'all_model_checkpoint_paths: "m-2"\n'
        b'all_model_checkpoint_paths: "m-1"\n'
    )
    assert tf2flax.latest_checkpoint(folder) == f"{folder}/m-1"
    # A SavedModel gets none.
    bucket.objects["saved/saved_model.pb"] = b"", 1
    parent = folder.removesuffix("run")
    tf2flax.save_checkpoint(f"{parent}saved/variables/variables", {"a": SIX})
    assert not [
        key for key in bucket.names() if key.startswith("saved/v") and "check" in key
    ]


def test_the_state_file_keeps_what_another_save_names_meanwhile(
    bucket: Bucket,
) -> None:
    folder, seen = f"gs://bucket-{next(_numbers)}/run", 0

    def meddle(method: str, key: str) -> str:
        nonlocal seen
        if (method, key) == ("POST", "run/checkpoint"):
            seen += 1
            if seen == 1:
                line = b'all_model_checkpoint_paths: "other"\n'
                bucket.objects[key] = line, bucket.generation - 1
        return ""

    bucket.fails = meddle
    tf2flax.save_checkpoint(f"{folder}/m", {"a": SIX})
    assert seen == 2
    assert tf2flax.latest_checkpoint(folder) == f"{folder}/m"
    assert b'"other"' in bucket.objects["run/checkpoint"][0]


def test_a_server_that_knows_no_conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of S3 answer 501, which tensorstore makes a NotImplementedError."""
    write = requests.StoreClient.start_write

    def start_write(client: Any, *arguments: Any, if_equal: Any = None) -> Any:
        if if_equal is None:
            return write(client, *arguments)
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        future.set_exception(NotImplementedError("NotImplemented: A header"))
        return future

    monkeypatch.setattr(requests.StoreClient, "start_write", start_write)
    for name in ("m", "n"):
        tf2flax.save_checkpoint(f"memory://unconditional/{name}", TREE)
    assert tf2flax.latest_checkpoint("memory://unconditional") == (
        "memory://unconditional/n"
    )


def test_a_state_file_that_is_refused_is_told_of_a_checkpoint_that_is_there(
    bucket: Bucket, prefix: str
) -> None:
    bucket.fails = lambda _, key: "503" if key == "run/checkpoint" else ""
    with pytest.raises(tf2flax.ReadError, match=r"complete. The state .*Unavailable"):
        tf2flax.save_checkpoint(prefix, TREE)
    check(prefix)


def test_what_is_there_is_not_replaced_unasked(bucket: Bucket, prefix: str) -> None:
    tf2flax.save_checkpoint(prefix, {"a": SIX}, data_files=3)
    before = dict(bucket.objects)
    with pytest.raises(tf2flax.ExistsError, match=f"at `{prefix}.data-00000-of-00003"):
        tf2flax.save_checkpoint(prefix, TREE)
    assert bucket.objects == before
    tf2flax.save_checkpoint(prefix, TREE, overwrite=True)
    check(prefix)
    assert len(bucket.names()) == 3
    # What is left of a save that was killed is no checkpoint, and goes.
    bucket.objects["run/n.data-00000-of-00001"] = b"half", 1
    tf2flax.save_checkpoint(prefix.removesuffix("m") + "n", TREE)
    check(prefix.removesuffix("m") + "n")
    assert "run/n.data-00000-of-00001" not in bucket.objects


@pytest.mark.parametrize("count", [1, 2])
def test_killed_at_any_moment(
    bucket: Bucket, prefix: str, tmp_path: pathlib.Path, count: int
) -> None:
    tf2flax.save_checkpoint(prefix, {"a": SIX, "b": SIX + 1}, data_files=count)
    moments: list[dict[str, tuple[bytes, int]]] = []

    def remember(_method: str, _key: str) -> str:
        moments.append(dict(bucket.objects))
        return ""

    bucket.fails = remember
    # Over the source of what is written.
    source = tf2flax.open_checkpoint(prefix)
    plan = tf2flax.plan(source, {"a": "a"}, {"a": jax.ShapeDtypeStruct((6,), "f4")})
    tf2flax.save_checkpoint(prefix, {"a": SIX * 2}, plan=plan, overwrite=True)
    sums: set[float] = set()
    for number, objects in enumerate(moments):
        folder = tmp_path / f"{number}"
        (folder / "run").mkdir(parents=True)
        for key, (contents, _) in objects.items():
            (folder / key).write_bytes(contents)
        got = tf2flax.open_checkpoint(folder / "run").read()
        assert got["b"].tolist() == (SIX + 1).tolist()
        sums.add(float(got["a"].sum()))
    # There always is one, the old one or the new one.
    assert sums == {15.0, 30.0}
    assert len(moments) > 8


@pytest.mark.parametrize("fault", ["503", "cut", "lost"])
def test_faults_are_retried(bucket: Bucket, prefix: str, fault: str) -> None:
    seen: dict[str, int] = {}

    def fail(method: str, key: str) -> str:
        seen[method + key] = seen.get(method + key, 0) + 1
        return fault if seen[method + key] <= 2 else ""

    bucket.fails = fail
    tf2flax.save_checkpoint(prefix, TREE)
    assert seen["POSTrun/m.index"] == 3
    check(prefix)


@pytest.mark.parametrize("fault", ["503", "cut"])
@pytest.mark.parametrize("file", ["m.data-00000-of-00001", "m.index"])
def test_faults_that_stay_are_told(
    bucket: Bucket, prefix: str, fault: str, file: str
) -> None:
    bucket.fails = lambda method, key: (
        fault if method == "POST" and key.endswith(file) else ""
    )
    with pytest.raises(tf2flax.ReadError, match=f"Cannot write `gs://.*{file}`"):
        tf2flax.save_checkpoint(prefix, TREE)
    assert not bucket.objects


def test_an_index_that_is_there_although_no_answer_comes(
    bucket: Bucket, prefix: str
) -> None:
    bucket.fails = lambda method, key: (
        "lost" if key == "run/m.index" == key and method == "POST" else ""
    )
    tf2flax.save_checkpoint(prefix, TREE)
    check(prefix)


def test_a_stalled_upload_is_told(
    bucket: Bucket, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "REQUEST_TIMEOUT_S", 0.3)
    bucket.fails = lambda method, key: "stall" if method == "POST" else ""
    with pytest.raises(
        tf2flax.ReadError, match=r"Cannot write .* no answer within 0.3"
    ):
        tf2flax.save_checkpoint(prefix, TREE)
    assert not bucket.objects


@pytest.mark.parametrize("ending", ["no answer in time", "an interrupt"])
def test_an_index_that_comes_late_has_its_data(
    bucket: Bucket, prefix: str, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    tf2flax.save_checkpoint(prefix, {"a": SIX})
    old = bucket.objects["run/m.index"][1]
    is_interrupt = ending == "an interrupt"

    def fail(method: str, key: str) -> str:
        if (method, key) != ("POST", "run/m.index"):
            return ""
        if is_interrupt:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            threading.Timer(0.1, bucket.release.set).start()
        return "late"

    bucket.fails = fail
    if not is_interrupt:
        monkeypatch.setattr(requests, "REQUEST_TIMEOUT_S", 0.3)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises((KeyboardInterrupt, tf2flax.ReadError)) as caught:
            tf2flax.save_checkpoint(prefix, TREE, overwrite=True)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (caught.type is KeyboardInterrupt) == is_interrupt
    if not is_interrupt:
        assert "The store may still take it, so that the data" in str(caught.value)
        assert tf2flax.open_checkpoint(prefix)["a"].read().sum() == 15
    bucket.release.set()
    while bucket.objects["run/m.index"][1] == old:
        time.sleep(0.01)
    check(prefix)
    # What was left goes with the next save.
    bucket.fails = lambda _method, _key: ""
    tf2flax.save_checkpoint(prefix, TREE, overwrite=True)
    assert len({key[-5:] for key in bucket.names() if ".data" in key}) == 1


def test_a_stalled_read_is_told(
    bucket: Bucket, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tf2flax.open_checkpoint(tf2flax.save_checkpoint(prefix, TREE))
    monkeypatch.setattr(requests, "REQUEST_TIMEOUT_S", 0.3)
    bucket.fails = lambda _method, key: "stall" if ".data" in key else ""
    with pytest.raises(tf2flax.ReadError, match=r"Cannot read .* within 0.3 seconds"):
        checkpoint.read()


def test_an_interrupt_leaves_nothing(
    bucket: Bucket, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for = requests.wait_for

    def interrupted(*arguments: Any, **options: Any) -> Any:
        answer = wait_for(*arguments, **options)
        if options.get("verb") == "write":
            raise KeyboardInterrupt
        return answer

    monkeypatch.setattr(requests, "wait_for", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tf2flax.save_checkpoint(prefix, TREE)
    assert bucket.uploads()
    assert not bucket.objects


def test_stores_that_can_only_be_read() -> None:
    with serving({}) as served:
        with pytest.raises(tf2flax.UnsupportedError, match="can only be read"):
            tf2flax.save_checkpoint(f"{served.url}/m", TREE)
    for url in ("memory://run/", "gs://bucket/", "gs://bucket"):
        with pytest.raises(tf2flax.AssignmentError, match="is a directory"):
            tf2flax.save_checkpoint(url, TREE)
    with pytest.raises(tf2flax.UnsupportedError, match="Did you mean"):
        tf2flax.save_checkpoint("gcs://bucket/m", TREE)


def test_the_host_of_another_server_is_looked_at(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hosts.look_at("gs://bucket/m") == ("", "")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "`127.0.0.1` cannot be reached" in hosts.look_at("s3://bucket/m")[0]
    assert os.environ["TENSORSTORE_GCS_HTTP_URL"] == bucket.url
