"""moto's S3 server on loopback, in a process of its own."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

# A server that does not answer by then will not (seconds).
LIMIT_S = 60


@contextlib.contextmanager
def serving_s3(bucket: str) -> Iterator[dict[str, str]]:
    """Serves an empty bucket until the block ends.

    Yields:
        The variables by which tensorstore finds it.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        request = urllib.request.Request(f"{url}/{bucket}", method="PUT")
        deadline = time.monotonic() + LIMIT_S
        while True:
            assert server.poll() is None, "moto has ended"
            try:
                urllib.request.urlopen(request, timeout=LIMIT_S).close()
                break
            except OSError:  # not yet
                assert time.monotonic() < deadline, "moto does not answer"
                time.sleep(0.1)
        yield {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }
    finally:
        server.kill()
        server.wait()
