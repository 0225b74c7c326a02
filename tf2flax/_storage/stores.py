"""Stores of keys, wherever they are: the only file that imports tensorstore.

Any key-value store that tensorstore knows (`gs://`, `s3://`, `http://`, `memory://` …)
is a place of checkpoints. Requests are ranged, of bounded size and number, and end
after a time. Retries and credentials are tensorstore's business.

Source: https://google.github.io/tensorstore/kvstore/index.html
"""

from __future__ import annotations

import collections
import fnmatch
import functools
import glob
import hashlib
import itertools
import os
import posixpath
import re
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from tf2flax._base.errors import DamagedError, ReadError, UnsupportedError
from tf2flax._base.threads import is_given_up
from tf2flax._base.values import ByteRange

from .identity import replaced
from .local import HEAD_NBYTES, LOCAL, Storage, missing, part_of, too_short
from .patterns import part_names

if TYPE_CHECKING:
    import tensorstore
    from tensorstore import Context as Context
    from tensorstore import Future as Future
    from tensorstore import IndexDomain as IndexDomain
    from tensorstore import KvStore as KvStore
    from tensorstore import TensorStore as TensorStore
    from tensorstore import VirtualChunkedReadParameters as VirtualChunkedReadParameters

# One request: small enough to end within the time below on a slow line, large enough
# that its overhead does not count (bytes) ...
REQUEST_NBYTES: Final = 2 << 20
# ... of which one reader has this much under way (bytes), in at most so many requests.
# With all readers, 64 MiB at most are in flight.
UNDER_WAY_NBYTES: Final = 8 << 20
MAX_REQUESTS: Final = 32
# A request that is not answered whole after this is given up; tensorstore itself waits
# for ever on a server that stops in mid-answer (seconds).
REQUEST_TIMEOUT_S = 60.0
# How often who waits looks whether anybody still wants the answer (seconds).
_LOOK_UP_S: Final = 0.25
# Retries of a failing request: 0.5 s, 1, 2, 4 and 8 between them, so that it ends
# within 30 s; tensorstore's own default goes on for many minutes.
_RETRIES: Final = {"max_retries": 5, "initial_delay": "500ms", "max_delay": "8s"}
_DEFAULT_CONTEXT: Final = {
    "http_request_retries": _RETRIES,
    "gcs_request_retries": _RETRIES,
    "s3_request_retries": _RETRIES,
}
_URL: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://")


def storage_of(
    path: str | bytes | os.PathLike[str] | os.PathLike[bytes] | KvStore,
    context: Context | None = None,
) -> tuple[Storage, str]:
    """Finds the place that a path means, and the path within it.

    Args:
        path: A local path, a URL that tensorstore knows, or a KvStore.
        context: tensorstore's; None bounds the retries of failing requests.

    Returns:
        The storage, and the path as text.

    Raises:
        UnsupportedError: It is none of these, or tensorstore does not know such URLs.
        ReadError: The store cannot be opened.
    """
    if not isinstance(path, (str, bytes, os.PathLike)):
        if not _is_kvstore(path):
            raise UnsupportedError(
                "Expected the path of a checkpoint (str, bytes, os.PathLike or "
                f"tensorstore.KvStore), got {type(path).__name__}."
            )
        return _of_kvstore(path)
    text = os.fsdecode(path)  # pyright: ignore[reportUnknownArgumentType]
    url = _URL.match(text)
    if url is None:
        return LOCAL, text
    if url["scheme"].lower() == "file" and "|" not in text:  # else a pipeline
        return LOCAL, _file_url_path(text)
    ts = load_tensorstore()
    try:
        store = ts.KvStore.open(text, context=context or _default_context()).result()
    except Exception as error:
        if "unsupported URL scheme" in str(error):
            raise UnsupportedError(
                f"tensorstore knows no {url[0]} URLs - in `{text}`. "
                "Copy the checkpoint's files to a local directory."
            ) from error
        raise ReadError(f"Cannot open `{text}`: {_reason(error)}.") from error
    return _of_kvstore(store)


def _is_kvstore(path: object) -> bool:
    module = sys.modules.get("tensorstore")  # who has a KvStore has imported it
    return module is not None and isinstance(path, module.KvStore)


def _of_kvstore(store: KvStore) -> tuple[Storage, str]:
    spec = store.spec().to_json()
    if spec.get("driver") == "file":
        return LOCAL, store.path
    root = store.copy()
    root.path = ""
    return KvStorage(root), store.path


def _file_url_path(url: str) -> str:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise UnsupportedError(
            f"`{url}` names the host `{parts.netloc}`. A file:// URL has three slashes "
            "before its absolute path."
        )
    return unquote(parts.path)


class KvStorage:
    """A key-value store of tensorstore's as a place where checkpoints lie."""

    __slots__ = ("_root",)

    def __init__(self, root: KvStore) -> None:
        """Wraps a store.

        Args:
            root: The store with an empty path; keys are paths.
        """
        self._root = root

    @property
    def is_local(self) -> bool:
        """False: a store knows keys, not directories."""
        return False

    def show(self, path: str) -> str:
        """The URL of a path."""
        try:
            return (self._root + path).url
        except Exception:  # not every driver has URLs
            return f"{self._root.spec().to_json().get('driver', 'kvstore')}:{path}"

    def join_state(self, directory: str, named: str) -> str | None:
        """Joins a relative path; an absolute one was another machine's."""
        return None if named.startswith("/") else posixpath.join(directory, named)

    def is_file(self, path: str) -> bool:
        """Whether a key is there; asks for one byte, which every server understands."""
        if not path or path.endswith("/"):
            return False
        try:
            result = _wait(self._start(path, slice(0, 1)), self.show(path))
        except _OutOfRangeError:  # an empty file
            return True
        return result.state == "value"

    def is_directory(self, path: str) -> bool:
        """Whether a path ends like a directory."""
        return not path or path.endswith("/")

    def names_in(self, directory: str) -> list[str]:
        """Names of the keys right below a path, sorted."""
        return [name for name in self._below(directory) if "/" not in name]

    def folders_in(self, directory: str) -> list[str]:
        """First parts of the keys further below a path, sorted."""
        names = self._below(directory)
        return sorted({name.partition("/")[0] for name in names if "/" in name})

    def _below(self, directory: str) -> list[str]:
        """What follows a path in the keys below it, sorted."""
        folder = (
            directory if not directory or directory.endswith("/") else f"{directory}/"
        )
        try:
            keys = _wait((self._root + folder).list(), self.show(folder))
        except NotImplementedError as error:
            raise UnsupportedError(
                f"`{self.show(folder)}` cannot be listed: its store has no listing. "
                "Give the prefix of one checkpoint."
            ) from error
        return sorted(key.decode("utf-8", "surrogateescape") for key in keys)

    def matches(self, pattern: str) -> list[str]:
        """Paths that a pattern of the last component matches, sorted."""
        if self.is_file(pattern):
            return [pattern]
        if not glob.has_magic(pattern):
            return []
        folder, _, last = pattern.rpartition("/")
        base = f"{folder}/" if folder or pattern.startswith("/") else ""
        try:
            names = self.names_in(base)
        except UnsupportedError:
            # State files name this pattern, which says which files there are.
            paths = [base + name for name in part_names(last)]
            if not paths:
                raise
            return list(itertools.takewhile(self.is_file, paths))
        return [base + name for name in names if fnmatch.fnmatchcase(name, last)]

    def read(self, path: str) -> bytes | None:
        """All bytes of a key, in one request; None where there is none."""
        if not path or path.endswith("/"):
            return None
        result = _wait(self._start(path, None), self.show(path))
        return result.value if result.state == "value" else None

    def read_index(self, path: str) -> StoreIndex | None:
        """All bytes of an index, and its generation, in one request."""
        if not path or path.endswith("/"):
            return None
        result = _wait(self._start(path, None), self.show(path))
        if result.state != "value":
            return None
        return StoreIndex(self, path, result.value, result.stamp.generation)

    def file(self, path: str) -> StoreFile:
        """The file at a path."""
        return StoreFile(self, path)

    def whole_file(self, path: str) -> StoreFile:
        """The file at a path: each remembers the generation that it is read in."""
        return StoreFile(self, path)

    def read_range(self, key: str, span: slice) -> tensorstore.Future[Any]:
        """Starts to read a part of a key."""
        return self._start(key, span)

    def read_unless(self, key: str, generation: bytes) -> Any:
        """Reads a byte of a key, unless it still is of some generation.

        Returns:
            The answer: "unspecified" where it is, else "value" or "missing".

        Raises:
            ReadError: The store refuses.
        """
        encoded = key.encode("utf-8", "surrogateescape")
        future = self._root.read(
            encoded, byte_range=slice(0, 1), if_not_equal=generation
        )
        return _wait(future, self.show(key))

    def __eq__(self, other: object) -> bool:
        """Whether both are the same store."""
        return isinstance(other, KvStorage) and self._root == other._root

    def __hash__(self) -> int:
        """Hashes what equal stores share."""
        return hash(type(self))

    def __reduce__(self) -> tuple[type[KvStorage], tuple[KvStore]]:
        """Pickles the store with the specification of its context."""
        return KvStorage, (self._root,)

    def _start(self, key: str, span: slice | None) -> tensorstore.Future[Any]:
        load_tensorstore()
        encoded = key.encode("utf-8", "surrogateescape")
        if span is None:
            return self._root.read(encoded)
        return self._root.read(encoded, byte_range=span)


class StoreIndex:
    """The index of a checkpoint in a store."""

    __slots__ = ("_digest", "_generation", "_key", "_storage", "contents")

    def __init__(
        self,
        storage: KvStorage,
        key: str,
        contents: bytes,
        generation: bytes,
        digest: bytes = b"",
    ) -> None:
        """Holds what was read.

        Args:
            storage: The store.
            key: The key of the index.
            contents: All its bytes; none in a copy.
            generation: What the store calls these bytes.
            digest: SHA-256 of the contents, where they are not given.
        """
        self._storage = storage
        self._key = key
        self.contents = contents
        self._generation = generation
        self._digest = digest

    def file(self, path: str) -> StoreFile:
        """A data file, whose generation is remembered when it is first read."""
        return StoreFile(self._storage, path, self)

    def settle(self, paths: Iterable[str]) -> bool:
        """Nothing: each look is a request; `check` comes after the first reads."""
        return True

    def check(self, subject: str) -> None:
        """Checks that the index is still what it was, by one small request.

        A data file that was read before belongs to it then. Where the server names no
        generations (an HTTP server without ETag), nothing can be told.

        Args:
            subject: What is read, for messages.

        Raises:
            ReplacedError: It is not.
            ReadError: The store refuses.
        """
        if not _tells(self._generation):
            return
        result = self._storage.read_unless(self._key, self._generation)
        if result.state == "unspecified":
            return
        generation = result.stamp.generation
        if result.state == "value" and generation == self._generation:
            return  # the server does not know the condition
        contents = self._storage.read(self._key)
        if contents is None or self._digest_of(contents) != self._own_digest():
            raise replaced(subject, self._storage.show(self._key))
        self._generation = generation

    def _own_digest(self) -> bytes:
        return self._digest or self._digest_of(self.contents)

    @staticmethod
    def _digest_of(contents: bytes) -> bytes:
        return hashlib.sha256(contents).digest()

    def __eq__(self, other: object) -> bool:
        """Whether both are the same index of the same store."""
        return (
            isinstance(other, StoreIndex)
            and self._key == other._key
            and self._generation == other._generation
            and self._storage == other._storage
        )

    def __hash__(self) -> int:
        """Hashes the key."""
        return hash(self._key)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the generation; the contents are a manifest's."""
        arguments = (self._storage, self._key, b"", self._generation)
        return StoreIndex, (*arguments, self._own_digest())


class StoreFile:
    """A key of a store as a file of a checkpoint."""

    __slots__ = (
        "_generation",
        "_index",
        "_key",
        "_known_nbytes",
        "_lock",
        "_path",
        "_storage",
    )

    def __init__(
        self,
        storage: KvStorage,
        key: str,
        index: StoreIndex | None = None,
        generation: bytes = b"",
    ) -> None:
        """Names a key.

        Args:
            storage: The store.
            key: The key; it need not be there.
            index: The index that it belongs to, if any.
            generation: What the store calls its bytes; empty until it is first read.
        """
        self._storage = storage
        self._key = key
        self._path = storage.show(key)
        self._known_nbytes = 0  # it has at least so many
        self._index = index
        self._generation = generation
        self._lock = threading.Lock()

    @property
    def path(self) -> str:
        """Its URL, for messages."""
        return self._path

    @property
    def chunk_nbytes(self) -> int:
        """How much is best read at once, in bytes."""
        return UNDER_WAY_NBYTES

    @property
    def is_local(self) -> bool:
        """False: every read is a request."""
        return False

    def size(self) -> int | None:
        """None: stores do not tell."""
        return None

    def head(self) -> bytes:
        """Its first bytes; none where it cannot be read."""
        try:
            first = self._storage.read_range(self._key, slice(0, HEAD_NBYTES))
            return _wait(first, self._path).value
        except _OutOfRangeError:  # it is shorter than that
            return self._storage.read(self._key) or b""
        except ReadError:
            return b""

    def tail(self, nbytes: int) -> bytes:
        """Its last bytes; see `DataFile`."""
        try:
            result = _wait(
                self._storage.read_range(self._key, slice(-nbytes, None)), self._path
            )
        except _OutOfRangeError:
            return self._storage.read(self._key) or b""  # it is shorter than that
        if result.state != "value":
            raise self._missing("The checkpoint")
        self._check_generation(result, "The checkpoint")
        return result.value

    def read_into(self, start: int, buffer: memoryview, *, subject: str) -> None:
        """Fills a buffer, by a few requests at a time; see `DataFile`."""
        self.read_runs_into((start,), buffer, subject=subject)

    def read_runs_into(
        self, starts: Sequence[int], buffer: memoryview, *, subject: str
    ) -> None:
        """Fills a buffer with runs, by a few requests at a time; see `DataFile`."""
        nbytes = len(buffer) // len(starts)
        under_way: collections.deque[tuple[slice, ByteRange, Any]] = collections.deque()

        longest = min(REQUEST_NBYTES, max(nbytes, 1))
        at_once = min(MAX_REQUESTS, UNDER_WAY_NBYTES // longest)

        def collect() -> None:
            part, span, future = under_way.popleft()
            buffer[part] = self._answer(future, span, subject)

        try:
            for number, start in enumerate(starts):
                for at in range(0, nbytes, REQUEST_NBYTES):
                    count = min(REQUEST_NBYTES, nbytes - at)
                    while len(under_way) >= at_once:
                        collect()
                    first = number * nbytes + at
                    part = slice(first, first + count)
                    span = ByteRange(start + at, start + at + count)
                    request = slice(span.start, span.stop)
                    future = self._storage.read_range(self._key, request)
                    under_way.append((part, span, future))
            while under_way:
                collect()
        finally:
            for _, _, future in under_way:
                future.cancel()
        self._known_nbytes = max(self._known_nbytes, max(starts) + nbytes)

    def check_span(self, span: ByteRange, *, subject: str) -> None:
        """Checks that the file is long enough, where much depends on it.

        Asks for the last byte, since stores do not tell how long a value is; what one
        request would read is not worth asking.
        """
        if span.nbytes <= REQUEST_NBYTES or span.stop <= self._known_nbytes:
            return
        last = slice(span.stop - 1, span.stop)
        self._answer(self._storage.read_range(self._key, last), span, subject, nbytes=1)
        self._known_nbytes = max(self._known_nbytes, span.stop)

    def __eq__(self, other: object) -> bool:
        """Whether both are the same key of the same store."""
        return (
            isinstance(other, StoreFile)
            and self._key == other._key
            and self._index == other._index
            and self._storage == other._storage
        )

    def __hash__(self) -> int:
        """Hashes the key."""
        return hash(self._key)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles store, key and generation."""
        return StoreFile, (self._storage, self._key, self._index, self._generation)

    def _missing(self, subject: str) -> DamagedError:
        if self._index is not None:  # another one names other data files
            self._index.check(subject)
        return missing(self._path, subject)

    def _check_now(self, subject: str) -> None:
        """Checks that what is too short is the file that was opened."""
        if self._generation:
            result = self._storage.read_unless(self._key, self._generation)
            if result.state == "value":
                self._check_generation(result, subject)
        elif self._index is not None:
            self._index.check(subject)

    def _check_generation(self, result: Any, subject: str) -> None:
        """Compares what was read with what was read first; remembers the first."""
        generation: bytes = result.stamp.generation
        if not _tells(generation):
            return
        if not self._generation:
            with self._lock:
                if not self._generation:
                    if self._index is not None:
                        self._index.check(subject)
                    self._generation = generation
        if generation != self._generation:
            raise replaced(subject, self._path)

    def _answer(
        self, future: Any, span: ByteRange, subject: str, *, nbytes: int | None = None
    ) -> bytes:
        """Waits for a request and checks what came."""
        try:
            result = _wait(future, self._path, part_of(subject, span))
        except _OutOfRangeError as error:
            if error.size is not None and error.size >= span.stop:
                raise ReadError(
                    f"Cannot read `{self._path}`: asked for bytes "
                    f"[{span.start}:{span.stop}], got another range - for {subject}."
                ) from error
            self._check_now(subject)
            raise too_short(
                self._path, span, subject, size=error.size, head=self.head()
            ) from error
        if result.state != "value":
            raise self._missing(subject)
        self._check_generation(result, subject)
        if len(result.value) != (span.nbytes if nbytes is None else nbytes):
            raise ReadError(
                f"Cannot read `{self._path}`: asked for {span.nbytes} bytes, got "
                f"{len(result.value)}{part_of(subject, span)}."
            )
        return result.value


def _tells(generation: bytes) -> bool:
    """Whether a generation tells of which bytes it is.

    tensorstore's marks alone say that a store has none, or that nothing is there.
    """
    return len(generation) > 1


class _OutOfRangeError(Exception):
    """More was asked for than the file has; `size` is what it has, where known."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        size = re.search(r"(?:total size|value of size) (\d{1,19})", text)
        self.size = int(size[1]) if size else None


def _wait(future: Any, path: str, where: str = "") -> Any:
    """Waits for an answer of tensorstore's, but not for ever.

    Args:
        future: The answer.
        path: What was asked for, for messages.
        where: Which part of it, likewise.

    Raises:
        ReadError: None came in time, or the store refuses.
        NotImplementedError: The store cannot do that.
    """
    deadline = time.monotonic() + REQUEST_TIMEOUT_S
    try:
        while True:
            left = deadline - time.monotonic()
            try:
                return future.result(timeout=max(0, min(left, _LOOK_UP_S)))
            except TimeoutError as error:
                if left > 0 and not is_given_up():
                    continue
                future.cancel()
                raise ReadError(
                    f"Cannot read `{path}`: no answer within {REQUEST_TIMEOUT_S:g} "
                    f"seconds{where}."
                ) from error
    except ReadError:
        raise
    except NotImplementedError:
        raise
    except Exception as error:
        if str(error).startswith("OUT_OF_RANGE"):
            raise _OutOfRangeError(str(error)) from error
        raise ReadError(f"Cannot read `{path}`: {_reason(error)}{where}.") from error


def _reason(error: Exception) -> str:
    """What tensorstore says, in one sentence, with the way out where it is known."""
    code = re.search(r"http_response_code='(\d+)'", str(error))
    text = re.sub(r"\s*\[[a-z_ ]+='[^']*'\]", "", str(error)).rstrip(". \n")
    if code and code[1] not in text:
        text = f"{text} (HTTP {code[1]})"
    if "ignored by server" in text:
        return (
            f"{text}. Its server ignores Range requests: copy the checkpoint's files "
            "to a local directory"
        )
    return text


@functools.cache
def _default_context() -> Context:
    """One context for all: `memory://` is shared within it, connections are kept."""
    return load_tensorstore().Context(_DEFAULT_CONTEXT)


class _Use:
    """Whether this process, or the one it was forked from, has used tensorstore."""

    has_begun = False
    was_forked_after = False
    is_forking_after = False

    @classmethod
    def before_fork(cls) -> None:
        cls.is_forking_after = (
            cls.has_begun or cls.was_forked_after or _has_worker_threads()
        )

    @classmethod
    def after_in_child(cls) -> None:
        cls.was_forked_after = cls.is_forking_after
        cls.has_begun = False


os.register_at_fork(before=_Use.before_fork, after_in_child=_Use.after_in_child)


def _has_worker_threads() -> bool:
    """Whether somebody else in this process has made tensorstore start its threads."""
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
        except OSError:  # it has ended
            continue
    return False


def load_tensorstore() -> Any:
    """Imports tensorstore, unless using it here would abort the process.

    Returns:
        The module.

    Raises:
        UnsupportedError: The process was forked after its first use.
    """
    if _Use.was_forked_after:
        raise UnsupportedError(
            "tensorstore cannot be used in a process that was forked after its first "
            "use: its threads are gone. Start the process with "
            "`multiprocessing.get_context('spawn')`, or read local checkpoints whole."
        )
    import tensorstore as ts

    _Use.has_begun = True
    return ts
