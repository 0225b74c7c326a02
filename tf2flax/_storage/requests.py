"""Requests to stores by tensorstore: bounded in size, number and time.

Also where tensorstore is imported, and where it is refused: in a process that was
forked after its first use, it would abort. Retries and credentials are its business.

Source: https://google.github.io/tensorstore/kvstore/index.html
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import quote

from tf2flax._base.errors import ReadError, RedirectedError, UnsupportedError
from tf2flax._base.threads import is_given_up
from tf2flax._base.values import decode_name, encode_name

from .faults import OutOfRangeError, http_status, store_error

if TYPE_CHECKING:
    from tensorstore import Context as Context
    from tensorstore import Future as Future
    from tensorstore import IndexDomain as IndexDomain
    from tensorstore import KvStore as KvStore
    from tensorstore import TensorStore as TensorStore
    from tensorstore import VirtualChunkedReadParameters as VirtualChunkedReadParameters

    from .archives import Archive
    from .hosts import HostCheck

# One request: small enough to end within the time below on a slow line, large enough
# that its overhead does not count (bytes) ...
REQUEST_NBYTES: Final = 2 << 20
# ... of which one reader has this much in flight (bytes), in at most so many requests,
# and more as long as all readers together have no more than that: one alone would wait
# where an answer takes 30 ms, in which 6 MB could come.
IN_FLIGHT_NBYTES: Final = 8 << 20
MAX_REQUESTS: Final = 32
ALL_IN_FLIGHT_NBYTES: Final = 64 << 20
# A request that is not answered whole after this is given up; tensorstore itself waits
# for ever on a server that stops in the middle of an answer (seconds).
REQUEST_TIMEOUT_S = 60.0
# How often a waiting thread looks whether anybody still wants the answer (seconds).
_LOOK_UP_S: Final = 0.25
# How long an answer is waited for before its host is looked at, by `hosts`, for less
# than 7 more (seconds): an unreachable one is named within 10.
PATIENCE_S = 1.0
# Answers that name another URL.
_REDIRECTS: Final = ("301", "302", "303", "307", "308")
# Retries of a failing request: 0.5 s, 1, 2, 4 and 8 between them, so that it ends
# within 30 s; tensorstore's own default goes on for many minutes.
_RETRIES: Final = {"max_retries": 5, "initial_delay": "500ms", "max_delay": "8s"}
_DEFAULT_CONTEXT: Final = {
    "http_request_retries": _RETRIES,
    "gcs_request_retries": _RETRIES,
    "s3_request_retries": _RETRIES,
}


class _AllInFlight:
    """Bytes that all readers of this process have in flight.

    Attributes:
        nbytes: How many.
    """

    def __init__(self) -> None:
        self.nbytes = 0
        self._lock = threading.Lock()

    def add(self, nbytes: int) -> None:
        """Counts bytes that are asked for, or, as a negative number, that are there."""
        with self._lock:
            self.nbytes += nbytes


ALL_IN_FLIGHT: Final = _AllInFlight()


class StoreClient:
    """Asks one store for keys, which are paths.

    Attributes:
        archive: What uncompresses members, where the store is a zip archive.
    """

    __slots__ = ("_root", "archive")

    def __init__(self, root: KvStore, archive: Archive | None = None) -> None:
        """Wraps a store, of which the path is empty."""
        self._root = root
        self.archive = archive

    def url_of(self, key: str) -> str:
        """The URL of a key, for users."""
        try:
            return (self._root + key).url
        except Exception:  # not every driver has URLs, nor S3 of another server
            spec = self._root.spec().to_json()
            driver = spec.get("driver", "kvstore")
            bucket = f"//{spec['bucket']}/" if driver == "s3" else ""
            return f"{driver}:{bucket}{quote(key) if bucket else key}"

    def start_read(self, key: str, span: slice | None = None) -> Future[Any]:
        """Starts to read a key, or some of its bytes.

        Args:
            key: The key.
            span: The bytes; a negative start counts from the end. None reads all.

        Returns:
            The answer, for `wait_for`.
        """
        load_tensorstore()
        if span is None:
            return self._root.read(encode_name(key))
        return self._root.read(encode_name(key), byte_range=span)

    def read(self, key: str, span: slice | None = None) -> Any:
        """Reads a key, or some of its bytes, in one request; see `start_read`.

        Returns:
            The answer, with `state` ("value" or "missing"), `value` and `stamp`.

        Raises:
            OutOfRangeError: The key has fewer bytes.
            ReadError: The store refuses.
        """
        try:
            return wait_for(self.start_read(key, span), self.url_of(key))
        except OutOfRangeError as error:
            if span is not None:
                raise
            # Not what was asked for: the archive that the store reads is damaged.
            raise store_error(self.url_of(key), error) from error
        except ReadError as error:
            fact = self.archive.why_unread(key) if self.archive else ""
            if fact:
                raise UnsupportedError(
                    f"Cannot read `{self.url_of(key)}`: {fact}"
                ) from (error)
            raise

    def read_unless(self, key: str, generation: bytes) -> Any:
        """Reads a byte of a key, unless the key still has a generation.

        Returns:
            The answer: `state` is "unspecified" where it has, else "value" or
            "missing".

        Raises:
            ReadError: The store refuses.
        """
        future = self._root.read(
            encode_name(key), byte_range=slice(0, 1), if_not_equal=generation
        )
        return wait_for(future, self.url_of(key))

    def start_write(
        self,
        key: str,
        contents: bytes | bytearray | None,
        *,
        if_equal: bytes | None = None,
    ) -> Future[Any]:
        """Starts to write a key whole, or to delete it.

        Args:
            key: The key.
            contents: All bytes, which are copied at once; None deletes the key.
            if_equal: The generation that the key must still have; None for any.

        Returns:
            The answer, for `wait_for`: its `generation` is empty where the key has
            another one.
        """
        load_tensorstore()
        # Its stub leaves out that a bytearray will do.
        value = cast("bytes | None", contents)
        return self._root.write(encode_name(key), value, if_equal=if_equal)

    def list_keys(self, folder: str) -> list[str]:
        """Lists what follows a path in the keys that begin with it, sorted.

        Raises:
            UnsupportedError: The store cannot list.
            ReadError: The store refuses.
        """
        try:
            keys = wait_for((self._root + folder).list(), self.url_of(folder))
        except NotImplementedError as error:
            raise UnsupportedError(
                f"`{self.url_of(folder)}` cannot be listed: its store has no listing. "
                "Give the prefix of one checkpoint."
            ) from error
        return sorted(map(decode_name, keys))

    def __eq__(self, other: object) -> bool:
        """True if both ask the same store."""
        return isinstance(other, StoreClient) and self._root == other._root

    def __hash__(self) -> int:
        """Hashes what equal stores share."""
        return hash(type(self))

    def __reduce__(self) -> tuple[type[StoreClient], tuple[KvStore, Archive | None]]:
        """Pickles the store with the specification of its context."""
        return StoreClient, (self._root, self.archive)


def wait_for(
    future: Any,
    path: str,
    where: str = "",
    *,
    verb: str = "read",
    timeout_s: float | None = None,
) -> Any:
    """Waits for an answer of tensorstore, but not for ever.

    Args:
        future: The answer.
        path: The path or URL that was asked for, for messages.
        where: Which bytes of it, likewise: see `describe_bytes`.
        verb: What is done with it, likewise.
        timeout_s: How long; None for `REQUEST_TIMEOUT_S`.

    Raises:
        OutOfRangeError: More bytes were asked for than there are.
        ReadError: No answer came in time, or the store refuses.
        NotImplementedError: The store cannot do that.
    """
    started = time.monotonic()
    timeout_s = REQUEST_TIMEOUT_S if timeout_s is None else timeout_s
    check: HostCheck | None = None
    try:
        while True:
            waited = time.monotonic() - started
            left = timeout_s - waited
            try:
                return future.result(timeout=max(0, min(left, _LOOK_UP_S)))
            except TimeoutError as error:
                if left > 0 and not is_given_up():
                    # tensorstore would try an unreachable host for much longer.
                    if waited > PATIENCE_S:
                        check = _check_host(check, path, future, verb)
                    continue
                future.cancel()
                raise ReadError(
                    f"Cannot {verb} `{path}`: no answer within {timeout_s:.3g} "
                    f"seconds{where}."
                ) from error
    except (ReadError, NotImplementedError):
        raise
    except Exception as error:
        if str(error).startswith("OUT_OF_RANGE"):
            raise OutOfRangeError(str(error)) from error
        if http_status(error) in _REDIRECTS:
            from . import hosts

            raise hosts.redirected(path) from error
        raise store_error(path, error, where, verb=verb) from error


def _check_host(
    check: HostCheck | None, url: str, future: Any, verb: str
) -> HostCheck | None:
    """Looks at the host of a request that is not answered for long.

    Args:
        check: A look that was begun before; None for none.
        url: What was asked for.
        future: The answer.
        verb: What is done with it, for messages.

    Returns:
        The look.

    Raises:
        ReadError: No answer is to be expected.
    """
    from . import hosts  # imports a client of HTTP, which all others do without

    if check is None:
        return hosts.HostCheck(url) if hosts.needs_check(url) else None
    trouble = check.trouble()
    if trouble and not future.done():
        future.cancel()
        fact = f"Cannot {verb} `{url}`: {trouble}."
        # Only of a redirect is there another path to go to.
        raise RedirectedError(fact, check.path) if check.path else ReadError(fact)
    return check


@functools.cache
def default_context() -> Context:
    """One context for all: `memory://` is shared within it, connections are kept."""
    return load_tensorstore().Context(_DEFAULT_CONTEXT)


def load_tensorstore() -> Any:
    """Imports tensorstore, unless using it here would abort the process.

    Returns:
        The module.

    Raises:
        UnsupportedError: The process was forked after its first use.
    """
    if _ForkGuard.was_forked_after_use:
        raise UnsupportedError(
            "tensorstore cannot be used in a process that was forked after its first "
            "use: its threads are gone. Start the process with "
            "`multiprocessing.get_context('spawn')`, or read local checkpoints whole."
        )
    import tensorstore as ts

    _ForkGuard.has_used = True
    return ts


class _ForkGuard:
    """Remembers whether this process, or one that it was forked from, used tensorstore.

    Attributes:
        has_used: True if this process has.
        was_forked_after_use: True if a process that it was forked from had.
        will_have_used: What the child of a fork that is under way inherits.
    """

    has_used = False
    was_forked_after_use = False
    will_have_used = False

    @classmethod
    def before_fork(cls) -> None:
        cls.will_have_used = (
            cls.has_used or cls.was_forked_after_use or _has_worker_threads()
        )

    @classmethod
    def after_in_child(cls) -> None:
        cls.was_forked_after_use = cls.will_have_used
        cls.has_used = False


os.register_at_fork(
    before=_ForkGuard.before_fork, after_in_child=_ForkGuard.after_in_child
)


def _has_worker_threads() -> bool:
    """True if other code in this process has made tensorstore start its threads."""
    if "tensorstore" not in sys.modules:
        return False
    try:
        tasks = os.listdir("/proc/self/task")
    except OSError:  # not Linux: what is imported may have been used
        return True
    for task in tasks:
        try:
            with open(f"/proc/self/task/{task}/comm") as file:
                if file.read().startswith("ts_"):
                    return True
        except OSError:  # the thread has ended
            continue
    return False
