"""Servers that send on elsewhere, and hosts that cannot be reached."""

from __future__ import annotations

import pathlib
import re
import socket
import time
from collections.abc import Iterator

import numpy as np
import pytest
from bundle_writer import write_bundle
from http_server import Served, serving

import tf2flax
from tf2flax._storage import hosts, requests


@pytest.fixture
def server(tmp_path: pathlib.Path) -> Iterator[Served]:
    write_bundle(tmp_path / "model.ckpt", {"w": np.float32(7)})
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt"')
    files = {f"/run/{path.name}": path.read_bytes() for path in tmp_path.iterdir()}
    with serving(files) as served:
        yield served


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "PATIENCE_S", 0.1)
    monkeypatch.setattr(hosts, "HOST_TIMEOUT_S", 1.0)
    monkeypatch.setattr(hosts, "_GOOD", {})


def message_of(url: str) -> str:
    with pytest.raises(tf2flax.ReadError) as caught:
        tf2flax.open_checkpoint(url)
    return str(caught.value)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("path", ["model.ckpt", ""])
@pytest.mark.parametrize("is_relative", [True, False])
def test_where_a_redirect_leads(
    server: Served, status: int, path: str, is_relative: bool
) -> None:
    """As GitHub sends on from `/raw/`: it is followed."""
    server.redirects = {"/old/*": (status, f"{'' if is_relative else server.url}/run/")}
    checkpoint = tf2flax.open_checkpoint(f"{server.url}/old/{path}")
    assert checkpoint.prefix == f"{server.url}/run/model.ckpt"
    assert checkpoint["w"].read() == 7
    # Where a folder is watched, what to give is said, and it is right.
    with pytest.raises(tf2flax.ReadError) as caught:
        tf2flax.latest_checkpoint(f"{server.url}/old/")
    given = re.search("Give `(.*)`", str(caught.value))
    assert given
    assert tf2flax.latest_checkpoint(given[1]) == checkpoint.prefix


def test_redirects_end(server: Served) -> None:
    server.redirects = {f"/{n}/*": (302, f"/{n + 1}/") for n in range(5)}
    server.redirects["/5/*"] = (302, "/run/")
    assert tf2flax.open_checkpoint(f"{server.url}/1/model.ckpt")["w"].read() == 7
    text = message_of(f"{server.url}/0/model.ckpt")  # the sixth
    assert f"Give `{server.url}/run/model.ckpt`" in text
    server.redirects = {"/a/*": (302, "/b/"), "/b/*": (302, "/a/")}
    assert "its server redirects to" in message_of(f"{server.url}/a/model.ckpt")


def test_only_to_a_scheme_that_is_as_safe() -> None:
    for url, target, path in (
        ("http://a/m.index", "https://a/m.index", "https://a/m"),
        ("https://a/m.index", "http://a/m.index", ""),
        ("http://a/m.index", "ftp://a/m.index", ""),
        ("http://a/m.index", "file:///etc/m.index", ""),
        ("http://a/m.index", "http://a/m.index?signed", ""),
        ("http://a/m.index", "http://a/m", ""),
    ):
        assert hosts.path_after(url, target) == path


def test_a_redirect_to_a_signed_url(server: Served) -> None:
    """One file alone lies there, for an hour: the way out is to download it."""
    server.redirects = {"/old/*": (302, f"{server.url}/blob?Signature=abc&name=")}
    url = f"{server.url}/old/model.ckpt"
    text = message_of(url)
    assert "Signature" not in text
    assert f"`curl -LO {url}.index`" in text


def test_a_redirect_to_nowhere(server: Served) -> None:
    server.redirects = {"/old/*": (302, "")}
    text = message_of(f"{server.url}/old/model.ckpt")
    assert ", which is not followed. Download each of its files" in text


def test_hugging_face() -> None:
    url = "https://huggingface.co/google/bert/resolve/main/a/model.ckpt.index"
    text = hosts.describe_redirect(url, "https://cdn.example/0a1b?Signature=x")
    assert (
        "`huggingface_hub.snapshot_download('google/bert', revision='main', "
        "allow_patterns='a/model.ckpt*')`"
    ) in text
    assert "Signature" not in text


def closed_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_a_host_that_refuses() -> None:
    text = message_of(f"http://127.0.0.1:{closed_port()}/model.ckpt")
    assert "`127.0.0.1` cannot be reached (Connection refused)" in text


def test_a_host_that_refuses_sends_on_nowhere() -> None:
    with pytest.raises(tf2flax.ReadError) as raised:
        tf2flax.open_checkpoint(f"http://127.0.0.1:{closed_port()}/model.ckpt")
    assert type(raised.value) is tf2flax.ReadError


def test_a_host_without_an_address() -> None:
    text = message_of("http://no-such-host.invalid/model.ckpt")
    assert "`no-such-host.invalid` cannot be reached" in text


def test_a_host_that_does_not_answer() -> None:
    """A full queue of connections: more of them are neither taken nor refused."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(listening.getsockname())
        port = listening.getsockname()[1]
        text = message_of(f"http://127.0.0.1:{port}/model.ckpt")
        for one in waiting:
            one.close()
    assert "`127.0.0.1` cannot be reached (timed out)" in text


def test_a_name_that_resolves_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "HOST_TIMEOUT_S", -1.0)

    def look_for_long(_: str) -> tuple[str, str]:
        time.sleep(2)
        return "", ""

    monkeypatch.setattr(hosts, "look_at", look_for_long)
    text = message_of(f"http://127.0.0.1:{closed_port()}/model.ckpt")
    assert "its name is not resolved" in text


def test_a_slow_server_is_no_trouble(server: Served) -> None:
    """It answers late, and is looked at once in a while."""
    checkpoint = tf2flax.open_checkpoint(f"{server.url}/run/model.ckpt")
    server.unavailable = 2  # tensorstore asks again after half a second
    assert checkpoint["w"].read() == 7
    assert server.url.removeprefix("http://").partition(":")[0] in hosts._GOOD


def test_a_host_behind_a_proxy_is_not_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    assert hosts.look_at("http://no-such-host.invalid/m") == ("", "")
    assert not hosts.needs_check("http://no-such-host.invalid/m")
    assert not hosts.needs_check("memory://run/m")


def test_the_limits_end_within_10_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    # One more second for a name, a quarter for each look.
    assert requests.PATIENCE_S + hosts.HOST_TIMEOUT_S + 1 + 2 * requests._LOOK_UP_S < 10
