"""Hosts that cannot be reached, and servers that send on to another URL.

tensorstore tries an unreachable host for many seconds (for minutes, where nothing
refuses), and names no goal of a redirect. So whoever has waited for a while looks here,
by one connection of its own. Reads no more of a file than a byte.
"""

from __future__ import annotations

import http.client
import os
import re
import socket
import threading
import time
import urllib.request
from typing import Final
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from tf2flax._base.errors import RedirectedError

# How long a host may take to answer (seconds).
HOST_TIMEOUT_S = 5.0
# A host that answered is not looked at again for so long (seconds).
_GOOD_FOR_S: Final = 30.0
_PORTS: Final = {"http": 80, "https": 443, "gs": 443, "s3": 443}
# Where stores of a scheme are; a bucket of S3 has a host of its own.
_HOSTS: Final = {"gs": "storage.googleapis.com", "s3": "s3.amazonaws.com"}
# Variables that hold the URL of another server.
_ENDPOINTS: Final = {"gs": "TENSORSTORE_GCS_HTTP_URL", "s3": "AWS_ENDPOINT_URL"}
_HUGGING_FACE: Final = re.compile(
    r"https?://huggingface\.co/(?P<repo>[^/]+/[^/]+)/(?:resolve|raw|blob)/"
    r"(?P<revision>[^/]+)/(?P<path>[^?|]*)"
)
_URL_LETTERS: Final = ":/?#[]@!$&'()*+,;=%~"
# What is asked for beside a path that a user gives: an index, a state file.
_ADDED: Final = (".index", "checkpoint")


class HostCheck:
    """A look at the host of a URL, by a thread, since names may resolve for ever."""

    def __init__(self, url: str) -> None:
        """Begins to look."""
        self._reason: str = ""
        self._path: str = ""
        self._deadline: float = time.monotonic() + HOST_TIMEOUT_S
        self._host: str = _address_of(urlsplit(url))[0]
        self._thread = threading.Thread(target=self._look, args=(url,), daemon=True)
        self._thread.start()

    def trouble(self) -> str:
        """Why no answer is to be expected; "" where that is not known, or not yet."""
        if self._thread.is_alive():
            if time.monotonic() < self._deadline + 1:
                return ""
            return f"`{self._host}` cannot be reached: its name is not resolved"
        return self._reason

    @property
    def path(self) -> str:
        """The path that a server sends on to, once there is trouble; "" for none."""
        return self._path

    def _look(self, url: str) -> None:
        self._reason, self._path = look_at(url)


_GOOD: Final[dict[str, float]] = {}


def needs_check(url: str) -> bool:
    """Tells whether the host of a URL can be looked at, and has not been just now."""
    host = _address_of(urlsplit(url))[0]
    is_good = time.monotonic() - _GOOD.get(host, -_GOOD_FOR_S) < _GOOD_FOR_S
    return bool(host) and not is_good


def look_at(url: str) -> tuple[str, str]:
    """Looks at the host of a URL.

    Args:
        url: The URL of a file, of HTTP or of a cloud's store.

    Returns:
        Why it gives no answer, or that it sends on elsewhere, and what to do; "" where
        nothing is wrong, or nothing can be said. And the path of the checkpoint there.
    """
    parts = urlsplit(url.partition("|")[0])
    host, port = _address_of(parts)
    if not host:
        return "", ""
    try:
        connection = socket.create_connection((host, port), timeout=HOST_TIMEOUT_S)
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        return (
            f"`{host}` cannot be reached ({reason}). Check the URL and the network, or "
            "copy the checkpoint's files to a local directory"
        ), ""
    connection.close()
    if parts.scheme in ("http", "https"):
        target = _target_of(parts, host, port)
        if target:
            return describe_redirect(url, target), path_after(url, target)
    _GOOD[host] = time.monotonic()
    return "", ""


def redirected(url: str) -> RedirectedError:
    """The error for a URL from which a server sends on."""
    parts = urlsplit(url.partition("|")[0])
    host, port = _address_of(parts)
    target = _target_of(parts, host, port) if host else ""
    fact = f"Cannot read `{url}`: {describe_redirect(url, target)}."
    return RedirectedError(fact, path_after(url, target))


def path_after(url: str, target: str) -> str:
    """The path of a checkpoint whose files are all sent on alike; "" for none.

    Args:
        url: What was asked for beside the path: an index, a state file.
        target: Where the server sends.

    Examples:
        >>> path_after("http://a/m.ckpt.index", "https://b/dir/m.ckpt.index")
        'https://b/dir/m.ckpt'
        >>> path_after("https://a/m.ckpt.index", "http://a/m.ckpt.index")
        ''
    """
    # A signed URL is that of one file, and one that leads to itself leads nowhere.
    is_prefix = "?" not in target and target != url
    is_as_safe = target.startswith(("https://", f"{urlsplit(url).scheme}://"))
    for added in _ADDED:
        if is_prefix and is_as_safe and url.endswith(added) and target.endswith(added):
            return target.removesuffix(added)
    return ""


def describe_redirect(url: str, target: str) -> str:
    """Says that a server sends on elsewhere, and what to do.

    Args:
        url: What was asked for.
        target: Where the server sends; "" where that is not known.

    Returns:
        Sentences, without the last full stop.
    """
    fact = "its server redirects"
    if target:
        fact = f"its server redirects to `{target.partition('?')[0]}`"
    fact = f"{fact}, which is not followed"
    if path := path_after(url, target):
        return f"{fact}. Give `{path}`"
    repository = _HUGGING_FACE.match(url)
    if repository:
        path = repository["path"].removesuffix(".index")
        revision = repository["revision"]
        return (
            f"{fact}. Download the files, `huggingface_hub.snapshot_download("
            f"{repository['repo']!r}, revision={revision!r}, "
            f"allow_patterns={path + '*'!r})`, and open them in the folder that it "
            "returns"
        )
    return (
        f"{fact}. Download each of its files, `curl -LO {url}`, to a local directory, "
        "and open them there"
    )


def _address_of(parts: SplitResult) -> tuple[str, int]:
    """Host and port of a URL; no host where it has none, or is behind a proxy."""
    scheme = parts.scheme.lower()
    if endpoint := os.environ.get(_ENDPOINTS.get(scheme, ""), ""):
        return _address_of(urlsplit(endpoint))
    if scheme not in _PORTS:
        return "", 0
    host = _HOSTS.get(scheme) or parts.hostname or ""
    web = scheme if scheme == "http" else "https"
    if web in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
        return "", 0
    try:
        port = None if scheme in _HOSTS else parts.port
    except ValueError:  # not a number
        return "", 0
    return host, port or _PORTS[scheme]


def _target_of(parts: SplitResult, host: str, port: int) -> str:
    """The URL that a server sends on to; "" where it does not."""
    is_http = parts.scheme == "http"
    kind = http.client.HTTPConnection if is_http else http.client.HTTPSConnection
    connection = kind(host, port, timeout=HOST_TIMEOUT_S)
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request("GET", path or "/", headers={"Range": "bytes=0-0"})
        answer = connection.getresponse()
        location = answer.getheader("Location", "")
        if answer.status // 100 != 3 or not location:
            return ""
        # A header may hold anything, escapes of terminals too.
        return quote(urljoin(parts.geturl(), location), safe=_URL_LETTERS)
    except (OSError, http.client.HTTPException, ValueError):
        return ""
    finally:
        connection.close()
